"""The layers of FRCRN's U-net for inference on a CPU; the module `cpu` explains why they are fast.

Axes: activations are (2, T, F, C): real and imaginary parts, frames, frequencies, channels. Each layer is prepared for
the data type of its input and reads that from a `workspace` that it makes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from modelscope_ext.models.frcrn.complex_conv import ComplexBatchNorm2d
from modelscope_ext.models.frcrn.config import FSMN_ORDER, SLOPE, WIDTH
from modelscope_ext.models.frcrn.fsmn import ComplexFsmn

#: Output frames of a tile of the convolution over time.
TILE = 4
#: (products, taps): a kernel's values at the points, divided by the differences of the points.
TO_PRODUCTS = torch.tensor([[1 / 2, 0], [-1 / 2, -1 / 2], [-1 / 6, 1 / 6], [1 / 6, 1 / 3], [0, 1]], dtype=torch.float64)


class _Layer:
    """A (transposed) convolution with two taps in time and a stride of 2 over frequency."""

    planes = 2  # of the input: real part, imaginary part, and perhaps their sum
    taps = 5  # over frequency
    transposed = False

    def width_out(self, steps: int) -> int:
        """Return the number of output frequencies for `steps` input frequencies."""
        return 2 * (steps - 1) + self.taps if self.transposed else (steps - self.taps) // 2 + 1

    def workspace(self, like: Tensor, frames: int, steps: int, width: int) -> Tensor:
        """Return (planes, T, F, C) zeros for the input."""
        return like.new_zeros(self.planes, frames, steps, width)


class FastFsmn:
    """A complex FSMN along the third axis of (2, T, F, C)."""

    def __init__(self, fsmn: ComplexFsmn, dtype: torch.dtype) -> None:
        re, im = fsmn.fsmn_re_L1, fsmn.fsmn_im_L1
        self.expand = torch.cat((re.linear.weight, im.linear.weight)).T.contiguous().to(dtype)  # (C, 2C)
        self.bias = torch.cat((re.linear.bias, im.linear.bias)).to(dtype)
        self.project = [each.project.weight.T.contiguous().to(dtype) for each in (re, im)]
        # y_r filters re(r) and im(s), y_i filters re(s) and im(r): (2C, 1, 1, order).
        self.taps = [torch.cat((re.taps, sign * im.taps)).transpose(2, 3).to(dtype) for sign in (-1, 1)]

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """Write y = f_re(x) + i f_im(x) with f(x) = x + memory(x) to `out`, which may be `x`."""
        _, frames, steps, width = x.shape
        p = x.new_empty(2, frames * steps, 2, width)
        for part in range(2):
            hidden = torch.addmm(self.bias, x[part].reshape(-1, width), self.expand).relu_()
            torch.mm(hidden[:, :width], self.project[0], out=p[part, :, 0])
            torch.mm(hidden[:, width:], self.project[1], out=p[1 - part, :, 1])
        order = min(FSMN_ORDER, steps)  # taps further back would meet zeros only
        filtered = []
        for part, taps in enumerate(self.taps):
            channels = p[part].view(1, frames, steps, 2 * width).permute(0, 3, 1, 2)
            y = functional.conv2d(channels, taps[..., FSMN_ORDER - order :], padding=(0, order - 1), groups=2 * width)
            y = y.permute(0, 2, 3, 1)[0, :, :steps]
            filtered.append(y[..., :width] + y[..., width:])
        re, im = x[0] - x[1], x[0] + x[1]
        torch.add(re, filtered[0], out=out[0])
        torch.add(im, filtered[1], out=out[1])


class WinogradConv(_Layer):
    """A complex (transposed) convolution, batch norm and leaky ReLU."""

    planes = 3

    def __init__(self, conv: nn.Module, norm: ComplexBatchNorm2d) -> None:
        a, b = conv.weights
        self.transposed, self.convolve = conv.outputs == 1, conv.convolve
        taps = torch.stack((b - a, a + b, a))  # (3, ., ., F, 2): for r, for s, for r + s
        taps = taps.flip(-1) if self.transposed else taps  # as correlation: the earlier frame first
        products = torch.einsum("pt,g...t->pg...", TO_PRODUCTS.to(taps), taps).unsqueeze(-2)  # (5, 3, ., ., 1, F)
        # In the layout of the data: otherwise every call would convert them.
        self.weights = [[each.contiguous(memory_format=torch.channels_last) for each in point] for point in products]
        scale, shift = norm.scale_and_shift()
        shift = torch.addcmul(shift, conv.bias, scale)
        self.channels, self.taps = norm.bn_re.num_features, taps.shape[-2]
        self.scale, self.shift = (each.view(2, 1, 1, -1) for each in (scale, shift))

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """Convolve n + 1 frames of r, s and r + s into `out` (2, n, F', C'); multiples of 4 are fastest."""
        if out.shape[1] % TILE:
            self._direct(x, out)
        else:
            self._in_tiles(x, out.unflatten(1, (-1, TILE)))
        functional.leaky_relu_(torch.addcmul(self.shift, out, self.scale, out=out), SLOPE)

    def _direct(self, x: Tensor, out: Tensor) -> None:
        # The early tap is twice the product's weight at 0, the late one that at infinity.
        early, late = self.weights[0], self.weights[4]
        of_r, of_s, of_both = (
            torch.add(self._product(x[g, 1:], late[g]), self._product(x[g, :-1], early[g]), alpha=2) for g in range(3)
        )
        torch.sub(of_both, of_s, out=out[0])
        torch.add(of_both, of_r, out=out[1])

    def _in_tiles(self, x: Tensor, out: Tensor) -> None:
        """Convolve into `out` (2, tiles, 4, F', C')."""
        d0, d1, d2, d3, d4 = (x[:, k : k + x.shape[1] - 1 : TILE] for k in range(5))
        v = x.new_empty(5, 3, out.shape[1], *x.shape[2:])
        difference = torch.sub(d3, d1, out=v[3])
        torch.add(difference, torch.sub(d0, d2, out=v[0]), alpha=2, out=v[0])
        torch.sub(difference, torch.add(d1, d2, out=v[1]), out=v[1])
        torch.add(difference, torch.sub(d1, d2, out=v[2]), alpha=3, out=v[2])
        torch.sub(torch.sub(d4, d2, out=v[4]), difference, alpha=2, out=v[4])
        m = x.new_empty(5, 2, out.shape[1], *out.shape[3:])
        for point in range(5):
            of_r, of_s, of_both = (self._product(v[point, g], self.weights[point][g]) for g in range(3))
            torch.sub(of_both, of_s, out=m[point, 0])
            torch.add(of_both, of_r, out=m[point, 1])
        total, difference = m[1] + m[2], m[1] - m[2]
        torch.add(total, m[0], out=out[:, :, 0]).add_(m[3])
        torch.add(difference, m[3], alpha=2, out=out[:, :, 1])
        torch.add(total, m[3], alpha=4, out=out[:, :, 2])
        torch.add(difference, m[3], alpha=8, out=out[:, :, 3]).add_(m[4])

    def _product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the product (n, F', C') for (n, F, C)."""
        x = x.permute(2, 0, 1).unsqueeze(0)  # channels_last memory
        return self.convolve(x, weight, stride=(1, 2)).permute(0, 2, 3, 1)[0]


class Bf16Conv(_Layer):
    """The same as one real convolution in bfloat16, for processors with AMX: products cost less than sums there."""

    def __init__(self, conv: nn.Module, norm: ComplexBatchNorm2d) -> None:
        weight, bias = conv.folded(norm)
        self.transposed = conv.outputs == 1
        if self.transposed:  # every other frequency by a convolution of its own; the earlier frame first
            weight = weight.unflatten(0, (conv.parts, 2, -1)).transpose(0, 1).flatten(0, 2)
            weight = weight.transpose(0, 1).flip(2, 3)
        weight = weight.transpose(2, 3)  # (2C', 2C, 2, F)
        self.taps, self.channels = weight.shape[3], len(weight) // 2
        parts = (
            (weight[..., (self.taps - 1) % 2 :: 2], weight[..., self.taps % 2 :: 2]) if self.transposed else (weight,)
        )
        self.weights = [part.bfloat16().contiguous(memory_format=torch.channels_last) for part in parts]
        self.bias = bias.bfloat16()

    def workspace(self, like: Tensor, frames: int, steps: int, width: int) -> Tensor:
        """Return (2, T, F, C) zeros; real and imaginary parts lie side by side."""
        return like.new_zeros(frames, steps, 2, width).movedim(2, 0)

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """Convolve n + 1 frames into `out` (2, n, F', C')."""
        x = x.movedim(0, 2).flatten(2).permute(2, 0, 1).unsqueeze(0)  # (1, 2C, n + 1, F) in channels_last memory
        for i, weight in enumerate(self.weights):
            padding = (0, weight.shape[3] - 1) if self.transposed else 0
            y = functional.conv2d(x, weight, self.bias, 1 if self.transposed else (1, 2), padding)
            y = functional.leaky_relu_(y, SLOPE)[0].unflatten(0, (2, -1)).permute(0, 2, 3, 1)
            out[:, :, i :: len(self.weights)] = y


class FastStem(_Layer):
    """The first encoder. It has one input channel: one matrix product over the taps."""

    channels = WIDTH

    def __init__(self, encoder: nn.Module, dtype: torch.dtype) -> None:
        weight, bias = encoder.conv.folded(encoder.bn)  # (2C, 2, F, 2)
        self.weight, self.bias = weight.permute(1, 3, 2, 0).flatten(0, 2).contiguous().to(dtype), bias.to(dtype)

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """Convolve (2, n + 1, F, 1) into `out` (2, n, F', C)."""
        taps = x[..., 0].unfold(2, 5, 2).unfold(1, 2, 1)  # (2, n, F', 5, 2)
        taps = taps.permute(1, 2, 0, 4, 3).reshape(-1, len(self.weight))
        y = torch.addmm(self.bias, taps, self.weight).view(*out.shape[1:3], 2, -1)
        out.copy_(functional.leaky_relu_(y, SLOPE).movedim(2, 0))


class FastHead(_Layer):
    """The last decoder. It has one output channel: one matrix product gives the contribution of every tap."""

    channels = 1
    transposed = True

    def __init__(self, decoder: nn.Module, dtype: torch.dtype) -> None:
        weight, bias = decoder.transconv.folded(decoder.bn)  # (4C, 2, F, 2), (2,)
        parts = weight.unflatten(0, (2, 2, -1)).to(dtype)  # (skip or not, re/im, C, …)
        self.weights = [parts[:, part].flatten(0, 1).flatten(1).contiguous() for part in range(2)]
        self.bias = bias.to(dtype)

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """Convolve (2, n + 1, F, 2C) into `out` (2, n, 2F + 3, 1)."""
        rows = x.flatten(1, 2)
        y = torch.addmm(rows[0] @ self.weights[0], rows[1], self.weights[1]).view(*x.shape[1:3], 2, 5, 2)
        y = (y[:-1, ..., 1] + y[1:, ..., 0]).movedim(2, 0)  # (2, n, F, 5)
        out[:] = self.bias.view(2, 1, 1, 1)
        for tap in range(5):
            out[:, :, tap : tap + 2 * x.shape[2] - 1 : 2, 0] += y[..., tap]
        functional.leaky_relu_(out, SLOPE)
