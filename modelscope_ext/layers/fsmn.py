"""Feedforward sequential memory (Zhang et al., "Deep-FSMN", ICASSP 2018) on complex tensors.

Axes: (B, 2C, S, R), C real parts and C imaginary ones; the memory runs along S, R are independent rows. Parameter
names are those of the released FRCRN.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ComplexFsmn"]

ORDER = 20


class _Memory(nn.Module):
    """p = P relu(L x + b), then a depthwise, causal FIR of p along S, plus p; the input itself is not added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)
        self.project = nn.Linear(channels, channels, bias=False)
        self.conv1 = nn.Conv2d(channels, channels, (ORDER, 1), groups=channels, bias=False)

    def forward(self, rows: Tensor, signs: tuple[int, int]) -> Tensor:
        """(B, S, R, 2, C), each of the two by itself and with a sign of its own → (B, 2C, S, R)."""
        p = self.project(functional.relu_(self.linear(rows))).flatten(3)  # (B, S, R, 2C)
        batch, steps, independent, width = p.shape
        order = min(ORDER, steps)  # taps further back would meet zeros only
        p = torch.cat((p.new_zeros(batch, order - 1, independent, width), p), 1).permute(0, 3, 1, 2)
        taps = self.conv1.weight[:, :, ORDER - order :]
        taps = taps + functional.pad(taps.new_ones(1, 1), (0, 0, order - 1, 0))  # p itself is one more tap
        return functional.conv2d(p, torch.cat([sign * taps for sign in signs]), groups=width)


class ComplexFsmn(nn.Module):
    """`layers` layers y = f_re(x) + i f_im(x), where f(x) = x + memory(x)."""

    def __init__(self, channels: int, layers: int = 1) -> None:
        super().__init__()
        self.layers = layers
        for layer in range(1, layers + 1):
            self.add_module(f"fsmn_re_L{layer}", _Memory(channels))
            self.add_module(f"fsmn_im_L{layer}", _Memory(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2C, S, R) → the same shape."""
        for layer in range(1, self.layers + 1):
            re, im = (getattr(self, f"fsmn_{part}_L{layer}") for part in ("re", "im"))
            rows = x.permute(0, 2, 3, 1).unflatten(3, (2, -1))  # (B, S, R, 2, C)
            swapped = rows.flip(3)
            # i (a + ib) = -b + ia: parts swapped, the first one negated. In place: memory traffic is what costs here.
            signs = rows.new_tensor([-1.0, 1.0]).repeat_interleave(rows.shape[4])
            x = re(rows, (1, 1)).add_(im(swapped, (-1, 1))).add_(x)
            x.addcmul_(swapped.flatten(3).permute(0, 3, 1, 2), signs[:, None, None])
        return x
