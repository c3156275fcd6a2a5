"""FRCRN: a complex U-net with recurrence along frequency, twice, that estimates a complex ratio mask.

Zhao et al., "FRCRN: Boosting feature representation using frequency recurrence for monaural speech enhancement",
ICASSP 2022; layers, sizes and parameter names are those of modelscope's `speech_frcrn_ans_cirm_16k`.
16 kHz audio (B, N); inside, (B, 2C, F, T): C real and C imaginary parts, frequencies, 20-ms frames.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional

from modelscope_ext.layers.complex_conv import ComplexBatchNorm2d, ComplexConv2d, ComplexConvTranspose2d
from modelscope_ext.layers.complex_se import ComplexSqueezeExcitation
from modelscope_ext.layers.fsmn import ComplexFsmn
from modelscope_ext.stft import analysis, overlap_add, sqrt_hann, stft, synthesis

__all__ = ["Frcrn", "FrcrnConfig", "dft_matrices"]

WIDTH = 128
STRIDE, PADDING = (2, 1), (0, 1)
#: Kernels over (F, T). F: 321 → 159 → 78 → 37 → 17 → 7 → 2 → 1 and back; T grows by one a layer, then shrinks.
ENCODER_KERNELS = [(5, 2)] * 6 + [(2, 2)]
DECODER_KERNELS = [(2, 2), (5, 2), (5, 2), (5, 2), (6, 2), (5, 2), (5, 2)]
DEPTH = len(ENCODER_KERNELS)


@dataclass(frozen=True)
class FrcrnConfig:
    """The keys of the released configuration's "model" section; the released values are the only ones supported."""

    complex: bool = True
    model_complexity: int = 45
    model_depth: int = 14
    log_amp: bool = False
    padding_mode: str = "zeros"
    win_len: int = 640
    win_inc: int = 320
    fft_len: int = 640
    win_type: str = "hann"

    @classmethod
    def from_options(cls, **options) -> "FrcrnConfig":
        """The configuration with these values; a key that is not a field is a ValueError."""
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(options) - set(known)):
            raise ValueError(f"unknown FRCRN options {', '.join(unknown)}; known are {', '.join(known)}")
        return cls(**options)

    def __post_init__(self) -> None:
        values = [(field.name, getattr(self, field.name), field.default) for field in fields(self)]
        if wrong := [f"{name} must be {only!r}, got {value!r}" for name, value, only in values if value != only]:
            raise ValueError(f"FRCRN: {'; '.join(wrong)}")


class _Encoder(nn.Module):
    def __init__(self, in_channels: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.conv = ComplexConv2d(in_channels, WIDTH, kernel, STRIDE, PADDING)
        self.bn = ComplexBatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu_(self.conv(x, self.bn), 0.01)


class _Decoder(nn.Module):
    def __init__(self, parts: int, out_channels: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.transconv = ComplexConvTranspose2d(parts * WIDTH, out_channels, kernel, STRIDE, PADDING, parts)
        self.bn = ComplexBatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu_(self.transconv(x, self.bn), 0.01)


class _UNet(nn.Module):
    """(B, 2, F, T) → (B, 2, F, T).

    The released net also holds `fsmn_enc.0`, `fsmn_dec.6`, `se_layers_enc.6` and `se_layers_dec.5`, whose results go
    nowhere: here they are loaded, saved, and never computed.
    """

    def __init__(self) -> None:
        super().__init__()
        last = DEPTH - 1
        self.encoders = nn.ModuleList(_Encoder(WIDTH if i else 1, kernel) for i, kernel in enumerate(ENCODER_KERNELS))
        self.fsmn_enc = nn.ModuleList(ComplexFsmn(WIDTH) for _ in range(DEPTH))
        self.se_layers_enc = nn.ModuleList(ComplexSqueezeExcitation(WIDTH) for _ in range(DEPTH))
        self.fsmn = ComplexFsmn(WIDTH, layers=2)
        self.decoders = nn.ModuleList(
            _Decoder(2 if i else 1, WIDTH if i < last else 1, kernel) for i, kernel in enumerate(DECODER_KERNELS)
        )
        self.fsmn_dec = nn.ModuleList(ComplexFsmn(WIDTH) for _ in range(DEPTH))
        self.se_layers_dec = nn.ModuleList(ComplexSqueezeExcitation(WIDTH) for _ in range(last))
        self.linear = ComplexConv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i, encoder in enumerate(self.encoders):
            x = encoder(self.fsmn_enc[i](x) if i else x)
            if i < DEPTH - 1:
                skips.append(self.se_layers_enc[i](x))
        # One frequency is left; this memory runs along time. A transpose would leave strides that hide channels_last.
        x = self.fsmn(x.squeeze(2).unsqueeze(3)).squeeze(3).unsqueeze(2)
        x = self.decoders[0](x)
        for i, decoder in enumerate(self.decoders[1:]):
            x = self.fsmn_dec[i](x)
            if i < DEPTH - 2:
                x = self.se_layers_dec[i](x)
            x = decoder(torch.cat((x, skips.pop()), 1))
        return self.linear(x)


def _parts(spec: Tensor) -> Tensor:
    """(B, T, F) complex → (B, 2, F, T) real, in channels_last memory."""
    return torch.view_as_real(spec).permute(0, 3, 2, 1).contiguous(memory_format=torch.channels_last)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Complex product of two (B, 2, F, T), in real numbers."""
    (ar, ai), (br, bi) = a.unbind(1), b.unbind(1)
    return torch.stack((ar * br - ai * bi, ar * bi + ai * br), 1)


class Frcrn(nn.Module):
    """FRCRN from audio to audio.

    Args:
        config: the released architecture; None is the same.

    `forward(audio)` gives all that training looks at, `enhance(audio)` an aligned, denoised utterance. Every output
    sample depends on the whole input, since squeeze and excitation averages over time.
    """

    sample_rate = 16000
    causal = False
    #: What the model folder recommends to limit the attenuation to.
    attenuation_limit_db = math.inf

    def __init__(self, config: FrcrnConfig | None = None) -> None:
        super().__init__()
        self.config = config or FrcrnConfig()
        self.unet = _UNet()
        self.unet2 = _UNet()
        self.register_buffer("window", sqrt_hann(self.config.win_len), persistent=False)
        self.to(memory_format=torch.channels_last)

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        """All outputs for (B, N) audio, N >= 640: those of the first U-net, `*_l1`, and of both, `*_l2`.

        Returns:
            wav_l1, wav_l2: (B, N'), the N' = 640 + 320 (T - 1) samples of the T whole frames.
            spec_l1, spec_l2: (B, 2F, T), F = 321 real parts, then the imaginary ones.
            mask_l1, mask_l2: (B, 2F, T), what `spec` is the input's spectrum times of; the final mask is a sum of two.
        """
        if audio.ndim != 2 or audio.shape[1] < self.config.win_len:
            raise ValueError(f"need (B, N) audio, N >= {self.config.win_len}, got shape {tuple(audio.shape)}")
        noisy = _parts(analysis(audio, self.window))
        out = {}
        for layer, mask in enumerate(self.masks(noisy), 1):
            spec = _product(noisy, mask)
            out |= {
                f"wav_l{layer}": self._wav(spec),
                f"spec_l{layer}": spec.flatten(1, 2),
                f"mask_l{layer}": mask.flatten(1, 2),
            }
        return out

    def enhance(self, audio: Tensor) -> Tensor:
        """Whole (B, N) utterances of any N, denoised; same length, aligned.

        A hop of zeros goes before the signal, so that its first samples lie under two windows as all others do.
        """
        if audio.ndim != 2:
            raise ValueError(f"need (B, N) audio, got shape {tuple(audio.shape)}")
        noisy = _parts(stft(audio, self.window))
        hop = self.config.win_inc
        return self._wav(_product(noisy, self.masks(noisy)[1]))[:, hop : hop + audio.shape[1]]

    def masks(self, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """First and final mask of (B, 2, F, T) spectra, same shape."""
        first = self.unet(noisy)
        mask = torch.tanh(first)
        return mask, torch.tanh(self.unet2(first)) + mask

    def _wav(self, spec: Tensor) -> Tensor:
        """(B, 2, F, T) → (B, 320 (T + 1)): the least-squares inverse of the analysis."""
        frames = synthesis(torch.complex(spec[:, 0], spec[:, 1]).transpose(1, 2), self.window)
        hop, power = self.config.win_inc, self.window.square()
        audio, tail = overlap_add(frames, frames.new_zeros(frames.shape[0], hop))
        # Squared windows add up to one but for the first and the last hop, where there is one window only.
        gain = torch.cat((power[:hop], power.new_ones(audio.shape[1] - hop), power[hop:]))
        return torch.cat((audio, tail), 1) / (gain + 1e-8)


def dft_matrices(window: Tensor) -> dict[str, Tensor]:
    """What a released checkpoint holds besides the network: analysis and synthesis as matrices, float64.

    A window of W samples gives `stft.weight` and `istft.weight`, (2F, 1, W), F rows for the real parts and F for the
    imaginary ones; `istft.window`, (1, W, 1); `istft.enframe`, a unit matrix (W, 1, W).
    """
    size = len(window)
    window = window.double()
    spec = analysis(torch.eye(size, dtype=window.dtype), window)[:, 0]  # (W, F): the answer to one impulse a row
    bins = torch.eye(size // 2 + 1, dtype=spec.dtype)
    return {
        "stft.weight": torch.cat((spec.real, spec.imag), 1).T.unsqueeze(1),
        "istft.weight": torch.cat((synthesis(bins, window), synthesis(1j * bins, window))).unsqueeze(1),
        "istft.window": window[None, :, None],
        "istft.enframe": torch.eye(size, dtype=window.dtype).unsqueeze(1),
    }
