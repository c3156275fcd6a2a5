"""Networks of ModelScope's own package with the members of ours, for `TorchBackend`.

Axes: audio (B, N) float32 at the network's rate.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from modelscope_ext.checkpoint import CheckpointError, load_weights, read_configuration
from modelscope_ext.hub import CONFIGURATION, RELEASED_WEIGHTS

ZIPENHANCER_TYPE = "speech_zipenhancer_ans_multiloss_16k_base"
#: Keys of the "model" section that the network needs.
OPTIONS = ("num_tsconformers", "dense_channel", "former_conf", "batch_first", "model_num_spks")


class ZipEnhancer(nn.Module):
    """ModelScope's ZipEnhancer (Wang and Tian, "ZipEnhancer: Dual-Path Down-Up Sampling-Based Zipformer", 2025).

    ModelScope's pipeline cuts a recording of more than 6 s into windows of 2 s, each at a level of its own. Here chunks
    are longer, fade into each other and have one level.

    Args:
        net: ModelScope's `ZipEnhancer`.
        spectrum: ModelScope's `mag_pha_stft`.
        synthesis: ModelScope's `mag_pha_istft`.
    """

    sample_rate, causal = 16000, False
    attenuation_limit_db, warmup_s, reference_level = float("inf"), 0.0, False
    unit_level = True
    #: Attention takes memory with the square of the length; up to 6 s ModelScope's pipeline takes in one piece.
    chunk_s = 4.0
    hop = 100
    FFT, COMPRESSION = 400, 0.3

    def __init__(self, net: nn.Module, spectrum, synthesis) -> None:
        super().__init__()
        self.net, self.spectrum, self.synthesis = net, spectrum, synthesis

    def enhance(self, audio: Tensor) -> Tensor:
        """Denoise utterances (B, N) of a root mean square of about 1; same shape."""
        length = audio.shape[1]
        padded = functional.pad(audio, (0, max(self.FFT - length, -length % self.hop)))
        options = (self.FFT, self.hop, self.FFT, self.COMPRESSION)
        magnitude, phase, _ = self.spectrum(padded, *options)
        magnitude, phase, *_ = self.net(magnitude, phase)
        out = self.synthesis(magnitude, phase, *options)[:, :length]
        return out * audio.any(1, keepdim=True)  # silence has no level


def is_stock(folder: Path) -> bool:
    """Return True if a model folder is for a network of ModelScope's own package."""
    return read_configuration(folder)["model"].get("type") == ZIPENHANCER_TYPE


def load_stock(folder: Path) -> nn.Module:
    """Load the network of such a folder in eval mode.

    Raises:
        CheckpointError: the configuration or the weights are missing, damaged or of another architecture.
        ModuleNotFoundError: ModelScope is missing.
    """
    from modelscope.models.audio.ans import zipenhancer

    options = read_configuration(folder)["model"]
    if missing := [name for name in OPTIONS if name not in options]:
        raise CheckpointError(f"{folder / CONFIGURATION}: the model lacks {', '.join(missing)}")
    try:
        # Random weights that are replaced at once must not move the caller's generator.
        with torch.random.fork_rng([]):
            net = zipenhancer.ZipEnhancer(zipenhancer.AttrDict({name: options[name] for name in OPTIONS})).float()
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIGURATION}: {error!r}") from error
    load_weights(net, folder / RELEASED_WEIGHTS)
    return ZipEnhancer(net, zipenhancer.mag_pha_stft, zipenhancer.mag_pha_istft).eval()
