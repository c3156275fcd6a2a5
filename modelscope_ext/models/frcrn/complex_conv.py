"""Complex convolutions and batch norm, each computed as one real operation.

A complex tensor is a real one of twice the channels, (B, 2C, F, T): C real parts and then C imaginary ones, best in
`channels_last` memory. Parameters are kept in pairs, `*_re` and `*_im`, under the names of the released FRCRN
(ModelScope's `speech_frcrn_ans_cirm_16k`). A pair is used as one real weight, [[re, -im], [im, re]].
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

#: From this number of channels on, in and out, three convolutions and sums are faster than one of twice the size.
MIN_GAUSS_CHANNELS = 16


def _fold(re: Tensor, im: Tensor, parts: int) -> Tensor:
    """Return the real weight (2O, 2I, …) of a pair (O, I, …); the input is `parts` complex tensors side by side."""
    columns = zip(re.chunk(parts, 1), im.chunk(parts, 1), strict=True)
    to_re, to_im = zip(*(((re, -im), (im, re)) for re, im in columns), strict=True)
    return torch.cat([torch.cat(sum(row, ()), 1) for row in (to_re, to_im)])


class ComplexBatchNorm2d(nn.Module):
    """Batch norm of real and imaginary parts, each by itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn_re = nn.BatchNorm2d(channels)
        self.bn_im = nn.BatchNorm2d(channels)

    def _both(self, name: str) -> Tensor:
        return torch.cat((getattr(self.bn_re, name), getattr(self.bn_im, name)))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (B, 2C, F, T) with the batch's statistics; eval mode takes the running ones."""
        if self.training and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            return self._over_all_processes(x)
        mean, var = self._both("running_mean"), self._both("running_var")
        affine = self._both("weight"), self._both("bias")
        x = functional.batch_norm(x, mean, var, *affine, self.training, self.bn_re.momentum, self.bn_re.eps)
        if self.training:  # `mean` and `var` are copies, moved on by the call above
            for bn, new_mean, new_var in zip((self.bn_re, self.bn_im), mean.chunk(2), var.chunk(2), strict=True):
                bn.running_mean.copy_(new_mean)
                bn.running_var.copy_(new_var)
                bn.num_batches_tracked.add_(1)
        return x

    def _over_all_processes(self, x: Tensor) -> Tensor:
        """Normalize with the statistics of the whole batch; each process has an equal share of it."""
        from torch.distributed.nn.functional import all_reduce

        count = x.numel() // x.shape[1] * torch.distributed.get_world_size()
        sums = torch.stack((x.sum((0, 2, 3)), x.square().sum((0, 2, 3))))
        mean, square = all_reduce(sums.double()) / count
        var = square - mean.square()
        with torch.no_grad():
            for part, bn in enumerate((self.bn_re, self.bn_im)):
                own = slice(part * bn.num_features, (part + 1) * bn.num_features)
                bn.running_mean.lerp_(mean[own].to(x), bn.momentum)
                bn.running_var.lerp_((var[own] * (count / max(1, count - 1))).to(x), bn.momentum)
                bn.num_batches_tracked.add_(1)
        scale = self._both("weight") / (var + self.bn_re.eps).sqrt()
        shift = self._both("bias") - mean * scale
        return x * scale.to(x)[:, None, None] + shift.to(x)[:, None, None]

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift (2C,) of eval mode: `x * scale + shift`."""
        scale = self._both("weight") / (self._both("running_var") + self.bn_re.eps).sqrt()
        return scale, self._both("bias") - self._both("running_mean") * scale


def _columns(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], frames: tuple[int, int]) -> Tensor:
    """Return the inputs of a kernel's taps (B F' T', taps * C) at `frames` positions of contiguous (B, F, T, C)."""
    b, f, t, c = x.stride()
    shape = (len(x), *frames, kernel[0], kernel[1] * x.shape[3])
    return x.as_strided(shape, (b, f * stride[0], t * stride[1], f, c)).reshape(-1, kernel[0] * shape[-1])


def _padded(x: Tensor, padding: tuple[int, int]) -> Tensor:
    """Return (B, C, F, T) in channels_last memory as contiguous (B, F, T, C) with zeros around F and T."""
    x = x.permute(0, 2, 3, 1)
    return functional.pad(x, (0, 0, padding[1], padding[1], padding[0], padding[0])).contiguous()


def _conv_backward(grad, x, weight, stride, padding):
    """Return the gradients of `conv2d` by two matrix products: many times faster on a CPU than torch's own."""
    outputs, inputs, *kernel = weight.shape
    frames = grad.shape[2:]
    rows = grad.permute(0, 2, 3, 1).reshape(-1, outputs)
    grad_weight = rows.T @ _columns(_padded(x, padding), kernel, stride, frames)
    seen = (rows @ weight.permute(0, 2, 3, 1).reshape(outputs, -1)).view(len(x), *frames, *kernel, inputs)
    height, width = (n + 2 * p for n, p in zip(x.shape[2:], padding, strict=True))
    grad_x = grad.new_zeros(len(x), height, width, inputs)
    for f in range(kernel[0]):
        for t in range(kernel[1]):
            ends = f + (frames[0] - 1) * stride[0] + 1, t + (frames[1] - 1) * stride[1] + 1
            grad_x[:, f : ends[0] : stride[0], t : ends[1] : stride[1]] += seen[:, :, :, f, t]
    grad_x = grad_x[:, padding[0] : height - padding[0], padding[1] : width - padding[1]].permute(0, 3, 1, 2)
    return grad_x, grad_weight.view(outputs, *kernel, inputs).permute(0, 3, 1, 2)


def _conv_transpose_backward(grad, x, weight, stride, padding):
    """Return the gradients of `conv_transpose2d` in the same way."""
    inputs, outputs, *kernel = weight.shape
    seen = _columns(_padded(grad, padding), kernel, stride, x.shape[2:])
    grad_x = (seen @ weight.permute(2, 3, 1, 0).reshape(-1, inputs)).view(len(x), *x.shape[2:], inputs)
    grad_weight = (x.permute(0, 2, 3, 1).reshape(-1, inputs).T @ seen).view(inputs, *kernel, outputs)
    return grad_x.permute(0, 3, 1, 2), grad_weight.permute(0, 3, 1, 2)


class _GaussComplexConv(torch.autograd.Function):
    """A complex convolution as three real ones (Gauss): (A + iB)(r + is) needs A(r + s), (A + B)s and (B - A)r.

    (B, parts * 2C, F, T) → (B, 2C', F', T'), both in channels_last memory.
    """

    @staticmethod
    def forward(ctx, x, a, b, transposed, parts, stride, padding):
        convolve = functional.conv_transpose2d if transposed else functional.conv2d
        r, s = _halves(x, parts)
        of_both = convolve(r + s, a, None, stride, padding)
        of_s, of_r = convolve(s, a + b, None, stride, padding), convolve(r, b - a, None, stride, padding)
        batch, width, *rest = of_both.shape
        out = x.new_empty(batch, 2 * width, *rest).contiguous(memory_format=torch.channels_last)
        torch.sub(of_both, of_s, out=out[:, :width])
        torch.add(of_both, of_r, out=out[:, width:])
        ctx.save_for_backward(r, s, a, b)
        ctx.how = transposed, parts, stride, padding
        return out

    @staticmethod
    def backward(ctx, grad):
        r, s, a, b = ctx.saved_tensors
        transposed, parts, stride, padding = ctx.how
        backward = _conv_transpose_backward if transposed else _conv_backward
        grad_r, grad_s = _halves(grad, 1)
        grad_both, grad_a = backward(grad_r + grad_s, r + s, a, stride, padding)
        from_s, of_sum = backward(grad_r, s, a + b, stride, padding)  # its sign is changed below
        from_r, of_difference = backward(grad_s, r, b - a, stride, padding)
        halves = (from_r.add_(grad_both), grad_both.sub_(from_s))
        # Concatenated and not stacked, which would leave channels_last memory.
        pairs = zip(*(half.chunk(parts, 1) for half in halves), strict=True)
        grad_x = torch.cat([part for pair in pairs for part in pair], 1)
        return grad_x, grad_a - of_sum - of_difference, of_difference - of_sum, None, None, None, None


def _halves(x: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """Return real and imaginary parts (B, parts * C, F, T) of `parts` complex tensors side by side."""
    halves = x.unflatten(1, (parts, 2, -1)).movedim(2, 0)
    return tuple(half.flatten(1, 2).contiguous(memory_format=torch.channels_last) for half in halves)


class _ComplexConv(nn.Module):
    """A pair of real convolutions that only hold parameters."""

    convolve = staticmethod(functional.conv2d)
    outputs = 0  # the axis of the output channels in a weight

    def __init__(self, kind: type[nn.Module], prefix: str, parts: int, *options) -> None:
        super().__init__()
        self._names = (f"{prefix}_re", f"{prefix}_im")
        for name in self._names:
            self.add_module(name, kind(*options))
        self.parts = parts

    def folded(self, norm: ComplexBatchNorm2d | None) -> tuple[Tensor, Tensor]:
        """Return real weight and bias of the convolution with any batch norm in eval mode after it."""
        parts = (each.transpose(0, self.outputs) for each in self.weights)
        weight = _fold(*parts, self.parts).transpose(0, self.outputs)
        if norm is None or norm.training:
            return weight, self.bias
        scale, shift = norm.scale_and_shift()
        return weight * scale.view(-1, *(1,) * (3 - self.outputs)), torch.addcmul(shift, self.bias, scale)

    def forward(self, x: Tensor, norm: ComplexBatchNorm2d | None = None) -> Tensor:
        """Convolve (B, 2C, F, T) into (B, 2C', F', T'); apply `norm` if there is one."""
        if x.device.type == "cpu" and min(self.weights[0].shape[:2]) >= MIN_GAUSS_CHANNELS:
            return self._gauss(x, norm)
        re = self.pair[0]
        x = self.convolve(x, *self.folded(norm), re.stride, re.padding)
        return norm(x) if norm is not None and norm.training else x

    @property
    def pair(self) -> tuple[nn.Module, nn.Module]:
        """Return the modules that hold the real and the imaginary parameters."""
        return tuple(getattr(self, name) for name in self._names)

    @property
    def weights(self) -> tuple[Tensor, Tensor]:
        """Return the weights of the real and the imaginary convolution."""
        return tuple(part.weight for part in self.pair)

    @property
    def bias(self) -> Tensor:
        """Return the bias (2C',) of the real and the imaginary outputs."""
        re, im = self.pair
        return torch.cat((re.bias - im.bias, re.bias + im.bias))

    def _gauss(self, x: Tensor, norm: ComplexBatchNorm2d | None) -> Tensor:
        """Use three real convolutions instead of four."""
        (a, b), re, bias = self.weights, self.pair[0], self.bias[:, None, None]
        x = _GaussComplexConv.apply(x, a, b, self.outputs == 1, self.parts, re.stride, re.padding)
        if norm is None or norm.training:
            x.add_(bias)  # in place: memory traffic is a good part of a training step
            return x if norm is None else norm(x)
        scale, shift = (each[:, None, None] for each in norm.scale_and_shift())
        return torch.addcmul(torch.addcmul(shift, bias, scale), x, scale)


class ComplexConv2d(_ComplexConv):
    """Convolution over (F, T); strides and paddings as in `nn.Conv2d`."""

    def __init__(self, in_channels: int, out_channels: int, kernel, stride=1, padding=0) -> None:
        super().__init__(nn.Conv2d, "conv", 1, in_channels, out_channels, kernel, stride, padding)


class ComplexConvTranspose2d(_ComplexConv):
    """Transposed convolution over (F, T) of `parts` complex tensors of equal width, concatenated along the channels."""

    convolve = staticmethod(functional.conv_transpose2d)
    outputs = 1

    def __init__(self, in_channels: int, out_channels: int, kernel, stride=1, padding=0, parts: int = 1) -> None:
        super().__init__(nn.ConvTranspose2d, "tconv", parts, in_channels, out_channels, kernel, stride, padding)
