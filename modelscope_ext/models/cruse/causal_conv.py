"""Convolutions over (time, frequency) that use the present and the past frame only; the caller keeps the past.

Axes: (B, C, T, F). The cache is the last input frame, (B, C, 1, F); None is a frame of zeros.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Causal(nn.Module):
    conv: nn.Conv2d | nn.ConvTranspose2d

    @property
    def time_kernel(self) -> int:
        return self.conv.kernel_size[0]

    def _with_past(self, x: Tensor, cache: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.time_kernel == 1:
            return x, None
        x = functional.pad(x, (0, 0, 1, 0)) if cache is None else torch.cat((cache, x), 2)  # (B, C, 1 + T, F)
        return x, x[:, :, -1:]


class CausalConv2d(_Causal):
    """Convolution, kernel (1 or 2, 3), stride (1, 2), with `freq_padding` zeros at both ends of the frequency axis."""

    def __init__(self, in_channels: int, out_channels: int, time_kernel: int, freq_padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, (time_kernel, 3), (1, 2), (0, freq_padding))

    def forward(self, x: Tensor, cache: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the output (B, C', T, about F / 2) for (B, C, T, F) and the new cache."""
        x, cache = self._with_past(x, cache)
        return self.conv(x), cache


class CausalConvTranspose2d(_Causal):
    """The mirror of `CausalConv2d`: doubles the frequency axis to exactly `out_freq` bins."""

    def __init__(
        self, in_channels: int, out_channels: int, time_kernel: int, freq_padding: int, in_freq: int, out_freq: int
    ) -> None:
        super().__init__()
        extra = out_freq - ((in_freq - 1) * 2 + 3 - 2 * freq_padding)
        # The time padding crops the frames before the first new one and after the last: other calls give them.
        self.conv = nn.ConvTranspose2d(
            in_channels, out_channels, (time_kernel, 3), (1, 2), (time_kernel - 1, freq_padding), (0, extra)
        )

    def forward(self, x: Tensor, cache: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the output (B, C', T, out_freq) for (B, C, T, in_freq) and the new cache."""
        x, cache = self._with_past(x, cache)
        return self.conv(x), cache
