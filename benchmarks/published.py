"""Operation counts of Braun et al., "Towards efficient models for real-time deep noise suppression", ICASSP 2021."""

from modelscope_ext.models.cruse.network import CruseConfig

#: Million MACs a frame as printed in figure 5.
PUBLISHED = {
    "CRUSE5-256-2xLSTM1": 19.2,
    "CRUSE5-256-2xGRU1": 15.0,
    "CRUSE5-256-1xGRU1": 8.7,
    "CRUSE5-256-1xGRU1-1D": 7.5,
    "CRUSE4-120-1xGRU1": 11.7,
    "CRUSE4-120-1xGRU1-1D": 11.1,
    "CRUSE4-64-1xGRU1": 3.9,
    "CRUSE4-64-1xGRU4": 1.7,
    "CRUSE4-128-1xGRU4": 4.3,
}


def published_macs(name: str) -> float:
    """Return MACs a frame as the paper counts them: recurrent layers and one and a half times the encoder."""
    config = CruseConfig.from_name(name)
    w, f = config.widths, config.freqs
    encoder = sum(w[i] * w[i + 1] * f[i + 1] * 3 * config.time_kernel for i in range(config.layers))
    gates = 3 if config.rnn == "GRU" else 4
    return 2 * gates * config.rnn_layers * config.rnn_width**2 // config.groups + 1.5 * encoder
