"""Squeeze and excitation (Hu et al., CVPR 2018) of complex tensors as in FRCRN.

Axes: (B, 2C, F, T), C real parts and C imaginary ones. Parameter names are those of the released FRCRN.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class ComplexSqueezeExcitation(nn.Module):
    """Gains from the mean over F and T: g = fc_r(m) + i fc_i(m). Real and imaginary parts have a gain each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        few = channels // 8
        self.fc_r, self.fc_i = (
            nn.Sequential(nn.Linear(channels, few), nn.ReLU(), nn.Linear(few, channels), nn.Sigmoid()) for _ in range(2)
        )

    def forward(self, x: Tensor, mean: Tensor | None = None, parts: int = 1) -> tuple[Tensor, Tensor]:
        """Return `x` (B, 2C, F, T) times its gains and its means (parts, B, 2C) over equal parts of the time.

        A given `mean` (B, 2C) replaces the mean of `x`.
        """
        own = part_means(x.mean(2).transpose(1, 2), parts)
        return x * self.gains(own.mean(0) if mean is None else mean)[:, :, None, None], own

    def stream(self, x: Tensor, mean: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Return `x` times gains of the mean over all frames so far and the new mean.

        `x` (B, 2C, F, T) has the next frames and `mean` (B, 2C) is that of all frames before. `count` (T,) is the
        number of frames up to each of `x`: 1 at the first frame of a stream.
        """
        means = running_means(x.mean(2).transpose(1, 2), mean, count)  # (B, T, 2C)
        return x * self.gains(means).transpose(1, 2).unsqueeze(2), means[:, -1]

    def gains(self, mean: Tensor) -> Tensor:
        """Return the gains (..., 2C) for means (..., 2C)."""
        mean = mean.unflatten(-1, (2, -1))  # (..., 2, C)
        r, i = self.fc_r(mean), self.fc_i(mean)
        return torch.cat((r[..., 0, :] - i[..., 1, :], r[..., 1, :] + i[..., 0, :]), -1)


def part_means(frames: Tensor, parts: int) -> Tensor:
    """Return the means (parts, B, C) of (B, T, C) over equal parts of the time."""
    if parts == 1:
        return frames.mean(1)[None]
    return functional.adaptive_avg_pool1d(frames.transpose(1, 2), parts).movedim(2, 0)


def running_means(frames: Tensor, mean: Tensor, count: Tensor) -> Tensor:
    """Return running means (B, T, C) after the `mean` (B, C). `count` (T,) has the numbers of frames."""
    return (frames.cumsum(1) + (mean * (count[0] - 1)).unsqueeze(1)) / count[:, None]
