"""Squeeze and excitation (Hu et al., CVPR 2018) of complex tensors, as FRCRN has it.

Axes: (B, 2C, F, T), C real parts and C imaginary ones. Parameter names are those of the released FRCRN.
"""

import torch
from torch import Tensor, nn

__all__ = ["ComplexSqueezeExcitation"]


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

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2C, F, T) → the same shape."""
        mean = x.mean((2, 3)).unflatten(1, (2, -1))  # (B, 2, C)
        r, i = self.fc_r(mean), self.fc_i(mean)
        gain = torch.cat((r[:, 0] - i[:, 1], r[:, 1] + i[:, 0]), 1)  # (B, 2C)
        return x * gain[:, :, None, None]
