"""Feedforward sequential memory (Zhang et al., "Deep-FSMN", ICASSP 2018) on complex tensors.

Axes: (B, 2C, S, R), C real parts and C imaginary ones; the memory runs along S, R are independent rows. Parameter
names are those of the released FRCRN.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from modelscope_ext.models.frcrn.config import FSMN_ORDER


class _Memory(nn.Module):
    """p = P relu(L x + b), then a depthwise, causal FIR of p along S, plus p; the input itself is not added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)
        self.project = nn.Linear(channels, channels, bias=False)
        self.conv1 = nn.Conv2d(channels, channels, (FSMN_ORDER, 1), groups=channels, bias=False)

    @property
    def taps(self) -> Tensor:
        """Return the filter of p (C, 1, 20, 1) with p itself as one more tap."""
        weight = self.conv1.weight
        return weight + functional.pad(weight.new_ones(1, 1), (0, 0, FSMN_ORDER - 1, 0))

    def forward(self, rows: Tensor, signs: tuple[int, int], past: Tensor | None) -> tuple[Tensor, Tensor]:
        """Filter (B, S, R, 2, C) into (B, 2C, S, R): each of the two by itself and with its own sign.

        `past` is p (B, 19, R, 2C) before the first step and None for silence. Also return p before the next step.
        """
        p = self.project(functional.relu_(self.linear(rows))).flatten(3)  # (B, S, R, 2C)
        batch, steps, independent, width = p.shape
        order = FSMN_ORDER if past is not None else min(FSMN_ORDER, steps)  # taps further back would meet zeros only
        past = p.new_zeros(batch, order - 1, independent, width) if past is None else past
        p = torch.cat((past, p), 1)
        taps = torch.cat([sign * self.taps[:, :, FSMN_ORDER - order :] for sign in signs])
        return functional.conv2d(p.permute(0, 3, 1, 2), taps, groups=width), p[:, steps:]


class ComplexFsmn(nn.Module):
    """`layers` layers y = f_re(x) + i f_im(x), where f(x) = x + memory(x)."""

    def __init__(self, channels: int, layers: int = 1) -> None:
        super().__init__()
        self.layers = layers
        for layer in range(1, layers + 1):
            self.add_module(f"fsmn_re_L{layer}", _Memory(channels))
            self.add_module(f"fsmn_im_L{layer}", _Memory(channels))

    def initial_state(self, batch: int, rows: int) -> tuple[Tensor, ...]:
        """Return the state before the first step: two (B, 19, R, 2C) a layer."""
        weight = self.fsmn_re_L1.linear.weight
        return tuple(weight.new_zeros(batch, FSMN_ORDER - 1, rows, 2 * len(weight)) for _ in range(2 * self.layers))

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for (B, 2C, S, R) in the same shape."""
        return self.stream(x, (None,) * 2 * self.layers)[0]

    def stream(self, x: Tensor, state: tuple[Tensor | None, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the output for the steps after `state` and the new state."""
        remembered: list[Tensor] = []
        for layer in range(1, self.layers + 1):
            re, im = (getattr(self, f"fsmn_{part}_L{layer}") for part in ("re", "im"))
            rows = x.permute(0, 2, 3, 1).unflatten(3, (2, -1))  # (B, S, R, 2, C)
            swapped = rows.flip(3)
            # i (a + ib) = -b + ia: parts swapped, the first one negated. In place: memory traffic is what costs here.
            signs = rows.new_tensor([-1.0, 1.0]).repeat_interleave(rows.shape[4])
            of_re, past_re = re(rows, (1, 1), state[2 * layer - 2])
            of_im, past_im = im(swapped, (-1, 1), state[2 * layer - 1])
            x = of_re.add_(of_im).add_(x)
            x.addcmul_(swapped.flatten(3).permute(0, 3, 1, 2), signs[:, None, None])
            remembered += (past_re, past_im)
        return x, tuple(remembered)
