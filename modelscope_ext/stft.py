"""Short-time Fourier analysis and synthesis with 50 % overlap, for utterances and streams.

Axes: audio (B, N); frames (B, T, W); spectra (B, T, F) complex, F = W // 2 + 1. All lengths are samples.
The square root of a periodic Hann window is used on both sides, so that analysis followed by synthesis is exact.
"""

import torch
from torch import Tensor

__all__ = ["analysis", "istft", "overlap_add", "sqrt_hann", "stft", "synthesis"]


def sqrt_hann(length: int) -> Tensor:
    """Square root of the periodic Hann window, shape (length,), float32."""
    return torch.hann_window(length, periodic=True, dtype=torch.float64).sqrt().float()


def analysis(audio: Tensor, window: Tensor) -> Tensor:
    """Windowed DFT of all whole frames of (B, N) audio, hop = half a window: (B, T, F), T = (N - W) // hop + 1."""
    length = window.shape[0]
    return torch.fft.rfft(audio.unfold(1, length, length // 2) * window)


def synthesis(spec: Tensor, window: Tensor) -> Tensor:
    """Inverse DFT of (B, T, F) and the synthesis window: frames (B, T, W), ready for `overlap_add`."""
    return torch.fft.irfft(spec, window.shape[0]) * window


def overlap_add(frames: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
    """Adds (B, T, W) frames at a hop of W / 2 to the second half of the frame before, `tail` (B, W / 2).

    Returns the (B, T * W / 2) finished samples and the new tail.
    """
    first, second = frames.unflatten(2, (2, -1)).unbind(2)  # (B, T, W / 2) each
    before = torch.cat((tail.unsqueeze(1), second[:, :-1]), 1)
    return (first + before).flatten(1), second[:, -1]


def stft(audio: Tensor, window: Tensor) -> Tensor:
    """Spectra (B, T, F) of whole (B, N) utterances, T = ceil(N / hop) + 1: zeros stand before and after."""
    hop = window.shape[0] // 2
    return analysis(torch.nn.functional.pad(audio, (hop, hop + -audio.shape[1] % hop)), window)


def istft(spec: Tensor, window: Tensor, length: int) -> Tensor:
    """The (B, length) utterance whose `stft` is `spec` (B, T, F)."""
    hop = window.shape[0] // 2
    audio, _ = overlap_add(synthesis(spec, window), spec.real.new_zeros(spec.shape[0], hop))
    return audio[:, hop : hop + length]
