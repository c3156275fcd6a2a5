"""FRCRN's U-net for inference on a CPU: the same numbers as `models.frcrn`, several times as fast.

Axes: activations are (2, T, F, C): real and imaginary parts, frames, frequencies, channels. What makes it fast:

- Blocks of frames: a layer goes through its input some frames at a time, so that what lies between its steps stays in
  the processor's cache. Squeeze and excitation, which averages over all frames, has its gains applied where they are
  read next.
- Complex convolutions as three real ones instead of four (Gauss).
- Four frames of a convolution with two taps in time by five products instead of eight (Winograd, "Arithmetic Complexity
  of Computations", 1980; here with the points 0, 1, -1, 2 and infinity).
- The two networks of an FSMN as one matrix product over (re/im, frame, frequency) rows.
- The utterances of a batch side by side, each with its share of the threads: two cores that work on two of them wait
  less for each other than two that share the operations of one.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from torch.nn import functional

from modelscope_ext.layers.complex_conv import ComplexBatchNorm2d
from modelscope_ext.layers.complex_se import ComplexSqueezeExcitation, running_means
from modelscope_ext.layers.fsmn import ORDER, ComplexFsmn

__all__ = ["Buffers", "FastUNet"]

#: What nobody uses at the moment: by place, flat tensors that layers write to. Fresh memory for each layer would take
#: the system a tenth of the time.
Buffers = list[dict[int, Tensor]]
#: Writes frames `start` to `stop` of a layer's input to a (2, stop - start, F, C) tensor.
Reader = Callable[[int, int, Tensor], object]

SLOPE = 0.01
#: Rows (frames times frequencies) of a block: about as many as the cache holds.
BLOCK_ROWS = 5000
#: Utterances at the same time: more would take more memory, and two cores are what most users have to spare.
SIDE_BY_SIDE = 2
#: Frames that a tile of the convolution over time gives.
TILE = 4
#: (products, taps): a kernel's values at the points, divided by the differences of the points.
TO_PRODUCTS = torch.tensor([[1 / 2, 0], [-1 / 2, -1 / 2], [-1 / 6, 1 / 6], [1 / 6, 1 / 3], [0, 1]], dtype=torch.float64)


class _Memory:
    """A complex FSMN along the third axis of (2, T, F, C)."""

    def __init__(self, fsmn: ComplexFsmn, layer: int = 1) -> None:
        re, im = (getattr(fsmn, f"fsmn_{part}_L{layer}") for part in ("re", "im"))
        self.expand = torch.cat((re.linear.weight, im.linear.weight)).T.contiguous()  # (C, 2C)
        self.bias = torch.cat((re.linear.bias, im.linear.bias))
        self.project = re.project.weight.T.contiguous(), im.project.weight.T.contiguous()
        # p itself is one more tap. What is filtered for y_r: re(r) and im(s), for y_i: re(s) and im(r).
        taps = [memory.conv1.weight + functional.pad(torch.ones(1, 1), (0, 0, ORDER - 1, 0)) for memory in (re, im)]
        self.taps = [torch.cat((taps[0], sign * taps[1])).transpose(2, 3) for sign in (-1, 1)]  # (2C, 1, 1, order)

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """Writes y = f_re(x) + i f_im(x), f(x) = x + memory(x), to `out`, of the shape of `x`, which it may be."""
        _, frames, steps, width = x.shape
        p = x.new_empty(2, frames * steps, 2, width)
        for part in range(2):
            hidden = torch.addmm(self.bias, x[part].reshape(-1, width), self.expand).relu_()
            torch.mm(hidden[:, :width], self.project[0], out=p[part, :, 0])
            torch.mm(hidden[:, width:], self.project[1], out=p[1 - part, :, 1])
        order = min(ORDER, steps)  # taps further back would meet zeros only
        filtered = []
        for part, taps in enumerate(self.taps):
            channels = p[part].view(1, frames, steps, 2 * width).permute(0, 3, 1, 2)
            y = functional.conv2d(channels, taps[..., ORDER - order :], padding=(0, order - 1), groups=2 * width)
            y = y.permute(0, 2, 3, 1)[0, :, :steps]
            filtered.append(y[..., :width] + y[..., width:])
        re, im = x[0] - x[1], x[0] + x[1]
        torch.add(re, filtered[0], out=out[0])
        torch.add(im, filtered[1], out=out[1])


class _Conv:
    """A complex (transposed) convolution with two taps in time, batch norm and leaky ReLU."""

    def __init__(self, conv: nn.Module, norm: ComplexBatchNorm2d) -> None:
        (a, b), (re, im) = conv.weights, conv.pair
        self.transposed = isinstance(re, nn.ConvTranspose2d)
        self.convolve = functional.conv_transpose2d if self.transposed else functional.conv2d
        taps = torch.stack((b - a, a + b, a))  # (3, ., ., F, 2): for r, for s, for r + s
        taps = taps.flip(-1) if self.transposed else taps  # as correlation: the earlier frame first
        products = torch.einsum("pt,g...t->pg...", TO_PRODUCTS.to(taps), taps).unsqueeze(-2)  # (5, 3, ., ., 1, F)
        # The layout of the data, or every call would bring them into it.
        self.weights = [[each.contiguous(memory_format=torch.channels_last) for each in point] for point in products]
        scale, shift = norm.scale_and_shift()
        shift = torch.addcmul(shift, torch.cat((re.bias - im.bias, re.bias + im.bias)), scale)
        self.channels = norm.bn_re.num_features
        self.scale, self.shift = (each.view(2, 1, 1, -1) for each in (scale, shift))

    def width_out(self, steps: int) -> int:
        """Frequencies that come out where `steps` go in."""
        taps = self.weights[0][0].shape[-1]
        return 2 * (steps - 1) + taps if self.transposed else (steps - taps) // 2 + 1

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """(3, n + 1, F, C) frames of r, s and r + s → (2, n, F', C') to `out`; n may be any, best a multiple of 4."""
        if out.shape[1] % TILE:
            self._direct(x, out)
        else:
            self._in_tiles(x, out.unflatten(1, (-1, TILE)))
        functional.leaky_relu_(torch.addcmul(self.shift, out, self.scale, out=out), SLOPE)

    def _direct(self, x: Tensor, out: Tensor) -> None:
        # The taps are what is at 0, twice, and at infinity.
        early, late = self.weights[0], self.weights[4]
        of_r, of_s, of_both = (
            torch.add(self._product(x[g, 1:], late[g]), self._product(x[g, :-1], early[g]), alpha=2) for g in range(3)
        )
        torch.sub(of_both, of_s, out=out[0])
        torch.add(of_both, of_r, out=out[1])

    def _in_tiles(self, x: Tensor, out: Tensor) -> None:
        """`out` is (2, tiles, 4, F', C')."""
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
        """(n, F, C) → (n, F', C')."""
        x = x.permute(2, 0, 1).unsqueeze(0)  # channels_last memory
        return self.convolve(x, weight, stride=(1, 2)).permute(0, 2, 3, 1)[0]


class _First:
    """The first encoder: one channel, so one matrix product over the taps."""

    channels = 128

    def __init__(self, encoder: nn.Module) -> None:
        weight, bias = encoder.conv.folded(encoder.bn)  # (2C, 2, F, 2)
        self.weight, self.bias = weight.permute(1, 3, 2, 0).flatten(0, 2).contiguous(), bias

    def width_out(self, steps: int) -> int:
        return (steps - 5) // 2 + 1

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """(3, n + 1, F, 1), of which r + s is not looked at → (2, n, F', C) to `out`."""
        taps = x[:2, :, :, 0].unfold(2, 5, 2).unfold(1, 2, 1)  # (2, n, F', 5, 2)
        taps = taps.permute(1, 2, 0, 4, 3).reshape(-1, len(self.weight))
        y = torch.addmm(self.bias, taps, self.weight).view(*out.shape[1:3], 2, -1)
        out.copy_(functional.leaky_relu_(y, SLOPE).movedim(2, 0))


class _Last:
    """The last decoder: one channel comes out, so one matrix product gives what every tap adds."""

    channels = 1

    def __init__(self, decoder: nn.Module) -> None:
        weight, self.bias = decoder.transconv.folded(decoder.bn)  # (4C, 2, F, 2), (2,)
        parts = weight.unflatten(0, (2, 2, -1))  # (skip or not, re/im, C, …)
        self.weights = [parts[:, part].flatten(0, 1).flatten(1).contiguous() for part in range(2)]

    def width_out(self, steps: int) -> int:
        return 2 * steps + 3

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """(3, n + 1, F, 2C), of which r + s is not looked at → (2, n, 2F + 3, 1) to `out`."""
        rows = x[:2].flatten(1, 2)
        y = torch.addmm(rows[0] @ self.weights[0], rows[1], self.weights[1]).view(*x.shape[1:3], 2, 5, 2)
        y = (y[:-1, ..., 1] + y[1:, ..., 0]).movedim(2, 0)  # (2, n, F, 5)
        out[:] = self.bias.view(2, 1, 1, 1)
        for tap in range(5):
            out[:, :, tap : tap + 2 * x.shape[2] - 1 : 2, 0] += y[..., tap]
        functional.leaky_relu_(out, SLOPE)


class FastUNet:
    """A U-net of FRCRN, prepared; parameters that change later are not seen.

    Args:
        unet: the `models.frcrn.UNet` whose parameters are read, causal or not. Batch norm uses its running statistics.
    """

    def __init__(self, unet: nn.Module) -> None:
        self.unet = unet
        self.encoders = [_First(unet.encoders[0]), *(_Conv(layer.conv, layer.bn) for layer in unet.encoders[1:])]
        self.encoder_memories = [_Memory(fsmn) for fsmn in unet.fsmn_enc[1:]]
        self.decoders = [*(_Conv(layer.transconv, layer.bn) for layer in unet.decoders[:-1]), _Last(unet.decoders[-1])]
        self.decoder_memories = [_Memory(fsmn) for fsmn in unet.fsmn_dec[:-1]]

    def __call__(
        self,
        x: Tensor,
        state: tuple | None = None,
        count: Tensor | None = None,
        means: Tensor | None = None,
        buffers: Buffers | None = None,
    ):
        """What `UNet.forward` gives for the same arguments; the next U-net may write to the same buffers."""
        buffers = [] if buffers is None else buffers

        def one(b: int):
            try:
                mine = buffers.pop()
            except IndexError:
                mine = {}
            y, new = self._one(_planes(x[b : b + 1]), _item(state, b), count, _item(means, b), mine)
            y = y.clone()
            buffers.append(mine)
            return y, new

        # A stream's short pieces are done before threads have begun.
        done = _side_by_side(one, len(x)) if state is None else [one(b) for b in range(len(x))]
        out = self.unet.linear(torch.cat([_tensor(y) for y, _ in done]))
        return out, _joined([new for _, new in done])

    def _one(
        self, x: Tensor, state: tuple | None, count: Tensor | None, known: Tensor | None, buffers: dict[int, Tensor]
    ):
        """(2, T, F, 1) of one utterance → the same shape, before the last 1 x 1 convolution, and state or means."""
        new: dict[str, list[Tensor]] = {"encoders": [], "decoders": [], "means": []}

        def gains(se: ComplexSqueezeExcitation, means: Tensor) -> Tensor:
            """(2, T, C) means over the frequencies of each frame → (2, T, 1, C) gains."""
            frames, layer = means.movedim(0, 1).flatten(1), len(new["means"])  # (T, 2C)
            if state is None:
                new["means"].append(frames.mean(0, keepdim=True))
                mean = new["means"][-1] if known is None else known[:, layer]
                found = se.gains(mean).expand(len(frames), -1)
            else:
                so_far = running_means(frames[None], state.means[layer], count)
                new["means"].append(so_far[:, -1])
                found = se.gains(so_far[0])
            return found.unflatten(1, (2, -1)).movedim(1, 0).unsqueeze(2)

        def through(layer, name: str, width: int, read: Reader) -> tuple[Tensor, Tensor]:
            before = None if state is None else _planes(getattr(state, name)[len(new[name])])
            if state is None and name == "encoders":
                before = x.new_zeros(2, 1, x.shape[2], width)
            after = state is None and name == "encoders"
            place = len(new[name]) if name == "encoders" else -1 - len(new[name]) % 2  # a decoder reads the one before
            out, means, last = _in_blocks(layer, read, x, width, before, after, buffers, place)
            new[name].append(_tensor(last))
            return out, means

        skips = []
        for i, encoder in enumerate(self.encoders):
            remember = self.encoder_memories[i - 1] if i else _copy

            def read(start: int, stop: int, target: Tensor, x: Tensor = x, remember=remember) -> None:
                remember(x[:, start:stop], target)

            x, means = through(encoder, "encoders", x.shape[3], read)
            if i < len(self.encoders) - 1:
                skips.append((x, gains(self.unet.se_layers_enc[i], means)))
        # One frequency is left; this memory runs along time.
        x = _tensor(x).movedim(2, 3)  # (1, 2C, T, 1)
        x, memory = (self.unet.fsmn(x), ()) if state is None else self.unet.fsmn.stream(x, state.memory)
        x = _planes(x.movedim(3, 2))
        x, _ = through(self.decoders[0], "decoders", x.shape[3], lambda start, stop, to: to.copy_(x[:, start:stop]))
        for i, decoder in enumerate(self.decoders[1:]):
            remember, gain = self.decoder_memories[i], None
            if i < len(self.decoders) - 2:
                means = x.new_empty(x.shape[0], x.shape[1], x.shape[3])
                for start, stop in _blocks(x.shape[1], x.shape[2]):
                    y = x[:, start:stop]
                    remember(y, y)
                    torch.mean(y, 2, out=means[:, start:stop])
                gain = gains(self.unet.se_layers_dec[i], means)
            skip, skip_gain = skips.pop()
            width = x.shape[3]

            def read(start, stop, to, y=x, remember=remember, gain=gain, skip=skip, skip_gain=skip_gain) -> None:
                if gain is None:
                    remember(y[:, start:stop], to[..., : y.shape[3]])
                else:
                    torch.mul(y[:, start:stop], gain[:, start:stop], out=to[..., : y.shape[3]])
                torch.mul(skip[:, start:stop], skip_gain[:, start:stop], out=to[..., y.shape[3] :])

            x, _ = through(decoder, "decoders", 2 * width, read)
        if state is None:
            return x, torch.stack(new["means"], 1)
        parts = {name: tuple(tensors) for name, tensors in new.items()}
        return x, type(state)(**parts, memory=memory)


def _side_by_side(work: Callable[[int], tuple], count: int) -> list[tuple]:
    """`work(0)` … `work(count - 1)`, at the same time where torch may use several threads, which they share."""
    threads = torch.get_num_threads()
    workers = min(threads, count, SIDE_BY_SIDE)
    if workers < 2:
        return [work(b) for b in range(count)]
    mode = torch.is_inference_mode_enabled()

    def alone(b: int):
        torch.set_num_threads(threads // workers)  # of this thread, and of those that begin later
        with torch.inference_mode(mode), torch.no_grad():
            return work(b)

    try:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(alone, range(count)))
    finally:
        torch.set_num_threads(threads)


def _in_blocks(
    layer,
    read: Reader,
    like: Tensor,
    width: int,
    before: Tensor | None,
    after: bool,
    buffers: dict[int, Tensor],
    place: int,
):
    """Runs a layer with two taps in time over its input, block by block.

    Args:
        layer: writes what (3, n + 1, F, C) frames give.
        read: gives the layer's input.
        like: has the frames and the frequencies of the input.
        width: channels of the input.
        before: (2, 1, F, C) before the first frame; None: the first output is that of the first two frames.
        after: there is a frame of zeros after the last one.
        buffers: where outputs are written to.
        place: of this one.

    Returns:
        The (2, T', F', C') output; its (2, T', C') means over frequency; the last frame read.
    """
    frames, steps = like.shape[1:3]
    total = frames - (before is None) + after
    padded = -(-total // TILE) * TILE if total >= TILE else total
    block = min(padded, max(1, BLOCK_ROWS // (TILE * steps)) * TILE)
    x = like.new_zeros(3, block + 1, steps, width)
    shape = 2, padded, layer.width_out(steps), layer.channels
    if len(buffers.get(place, ())) < math.prod(shape):
        buffers.pop(place, None)
        buffers[place] = like.new_empty(math.prod(shape))
    out = buffers[place][: math.prod(shape)].view(shape)
    means = like.new_empty(2, padded, layer.channels)
    got = -1  # frames of `x` that were read, after its first
    seen = 0
    for start in range(0, padded, block):
        size = min(block, padded - start)
        if start:
            x[:2, 0] = x[:2, block]
        elif before is None:
            read(0, 1, x[:2, :1])
            seen = 1
        else:
            x[:2, :1] = before
        got = min(size, frames - seen)
        if got:
            read(seen, seen + got, x[:2, 1 : 1 + got])
        x[:2, 1 + got :] = 0
        seen += got
        torch.add(x[0], x[1], out=x[2])
        layer(x[:, : size + 1], out[:, start : start + size])
        torch.mean(out[:, start : start + size], 2, out=means[:, start : start + size])
    return out[:, :total], means[:, :total], x[:2, got : got + 1].clone()


def _blocks(frames: int, steps: int) -> Iterator[tuple[int, int]]:
    """Start and stop of blocks of so many frames of so many frequencies."""
    block = max(1, BLOCK_ROWS // steps)
    return ((start, min(start + block, frames)) for start in range(0, frames, block))


def _copy(x: Tensor, out: Tensor) -> None:
    out.copy_(x)


def _planes(x: Tensor) -> Tensor:
    """(1, 2C, F, T) → (2, T, F, C)."""
    return x[0].unflatten(0, (2, -1)).permute(0, 3, 2, 1)


def _tensor(x: Tensor) -> Tensor:
    """(2, T, F, C) → (1, 2C, F, T) in channels_last memory."""
    return x.permute(0, 3, 2, 1).flatten(0, 1)[None].contiguous(memory_format=torch.channels_last)


def _item(state, b: int):
    """Stream `b` of a state: a tensor or tuples of them, perhaps named."""
    if isinstance(state, Tensor):
        return state[b : b + 1]
    return state and _like(state, [_item(part, b) for part in state])


def _joined(states: list):
    """The way back."""
    if isinstance(states[0], Tensor):
        return torch.cat(states)
    return _like(states[0], [_joined(parts) for parts in zip(*states, strict=True)])


def _like(known: tuple, parts: list) -> tuple:
    return type(known)(*parts) if hasattr(known, "_fields") else tuple(parts)
