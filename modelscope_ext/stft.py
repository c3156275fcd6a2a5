"""Short-time Fourier analysis and synthesis with 50 % overlap, for utterances and streams.

Axes: audio (B, N); frames (B, T, W); spectra (B, T, F) complex, F = W // 2 + 1. All lengths are in samples.
Both sides use the square root of a periodic Hann window: synthesis inverts analysis exactly.
"""

import torch
from torch import Tensor

__all__ = [
    "analysis",
    "analysis_matrix",
    "istft",
    "overlap_add",
    "sqrt_hann",
    "stft",
    "synthesis",
    "synthesis_matrix",
]


def sqrt_hann(length: int) -> Tensor:
    """Return the square root of the periodic Hann window as (length,) float32."""
    return torch.hann_window(length, periodic=True, dtype=torch.float64).sqrt().float()


def analysis(audio: Tensor, window: Tensor) -> Tensor:
    """Return the spectra (B, T, F) of all whole frames of audio (B, N): T = (N - W) // (W / 2) + 1."""
    length = window.shape[0]
    return torch.fft.rfft(audio.unfold(1, length, length // 2) * window)


def synthesis(spec: Tensor, window: Tensor) -> Tensor:
    """Return windowed frames (B, T, W) of spectra (B, T, F) for `overlap_add`."""
    return torch.fft.irfft(spec, window.shape[0]) * window


def overlap_add(frames: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
    """Add frames (B, T, W) at a hop of W / 2 to `tail` (B, W / 2): the second half of the previous frame.

    Return the finished samples (B, T * W / 2) and the new tail.
    """
    first, second = frames.unflatten(2, (2, -1)).unbind(2)  # (B, T, W / 2) each
    before = torch.cat((tail.unsqueeze(1), second[:, :-1]), 1)
    return (first + before).flatten(1), second[:, -1]


def stft(audio: Tensor, window: Tensor) -> Tensor:
    """Return spectra (B, ceil(N / hop) + 1, F) of whole utterances (B, N) that are zero-padded at both ends."""
    hop = window.shape[0] // 2
    return analysis(torch.nn.functional.pad(audio, (hop, hop + -audio.shape[1] % hop)), window)


def istft(spec: Tensor, window: Tensor, length: int) -> Tensor:
    """Return the utterance (B, length) with the `stft` `spec` (B, T, F)."""
    hop = window.shape[0] // 2
    audio, _ = overlap_add(synthesis(spec, window), spec.real.new_zeros(spec.shape[0], hop))
    return audio[:, hop : hop + length]


def analysis_matrix(window: Tensor) -> Tensor:
    """Return window and DFT of a frame as a matrix (W, 2F) in float64: real parts first."""
    window = window.double().cpu()
    spec = analysis(torch.eye(len(window), dtype=window.dtype), window)[:, 0]
    return torch.cat((spec.real, spec.imag), 1)


def synthesis_matrix(window: Tensor) -> Tensor:
    """Return inverse DFT and window as a matrix (2F, W) in float64."""
    window = window.double().cpu()
    bins = torch.eye(len(window) // 2 + 1, dtype=torch.complex128)
    return torch.cat((synthesis(bins, window), synthesis(1j * bins, window)))
