"""Squeeze and excitation (Hu et al., CVPR 2018) of complex tensors, as FRCRN has it.

Axes: (B, 2C, F, T), C real parts and C imaginary ones. Parameter names are those of the released FRCRN.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ComplexSqueezeExcitation", "part_means", "running_means"]


class ComplexSqueezeExcitation(nn.Module):
    """Gains from the mean over F and T: g = fc_r(m) + i fc_i(m); real and imaginary parts take a gain each."""

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        self.fc_r, self.fc_i = (
            nn.Sequential(
                nn.Linear(channels, channels // reduction),
                nn.ReLU(),
                nn.Linear(channels // reduction, channels),
                nn.Sigmoid(),
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor, mean: Tensor | None = None, parts: int = 1) -> tuple[Tensor, Tensor]:
        """(B, 2C, F, T) → the same shape, and the (parts, B, 2C) means of so many parts of its time.

        `mean` (B, 2C) is another to take than the input's own, of a longer input.
        """
        own = part_means(x.mean(2).transpose(1, 2), parts)
        return x * self.gains(own.mean(0) if mean is None else mean)[:, :, None, None], own

    def stream(self, x: Tensor, mean: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """The same with means over all frames so far instead of all frames.

        Args:
            x: (B, 2C, F, T), the next frames.
            mean: (B, 2C), over all frames before.
            count: (T,), how many frames there are with each of `x`, 1 in the first of a stream.

        Returns:
            What `forward` does, and the new mean.
        """
        means = running_means(x.mean(2).transpose(1, 2), mean, count)  # (B, T, 2C)
        return x * self.gains(means).transpose(1, 2).unsqueeze(2), means[:, -1]

    def gains(self, mean: Tensor) -> Tensor:
        """(..., 2C) means → (..., 2C) gains."""
        mean = mean.unflatten(-1, (2, -1))  # (..., 2, C)
        r, i = self.fc_r(mean), self.fc_i(mean)
        return torch.cat((r[..., 0, :] - i[..., 1, :], r[..., 1, :] + i[..., 0, :]), -1)


def part_means(frames: Tensor, parts: int) -> Tensor:
    """Means of (B, T, C) over as many equal parts of the time: (parts, B, C)."""
    if parts == 1:
        return frames.mean(1)[None]
    return functional.adaptive_avg_pool1d(frames.transpose(1, 2), parts).movedim(2, 0)


def running_means(frames: Tensor, mean: Tensor, count: Tensor) -> Tensor:
    """Means over all so far of (B, T, C), where `mean` (B, C) is that before and `count` (T,) how many they are."""
    return (frames.cumsum(1) + (mean * (count[0] - 1)).unsqueeze(1)) / count[:, None]
