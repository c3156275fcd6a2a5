"""ModelScope's ZipEnhancer with the members of our networks.

Axes: audio (B, N) float32 at the network's rate.
"""

from torch import Tensor, nn
from torch.nn import functional

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
