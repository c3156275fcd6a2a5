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

from modelscope_ext.models.frcrn.cpu_layers import TILE, Conv, First, Last, Memory, PlainConv
from modelscope_ext.models.frcrn.squeeze import ComplexSqueezeExcitation, part_means, running_means

__all__ = ["Buffers", "FastUNet", "has_amx"]

#: What nobody uses at the moment: by place, flat tensors that layers write to. Fresh memory for each layer would take
#: the system a tenth of the time.
Buffers = list[dict[int, Tensor]]
#: Writes frames `start` to `stop` of a layer's input to a (2, stop - start, F, C) tensor.
Reader = Callable[[int, int, Tensor], object]

#: Rows (frames times frequencies) of a block: about as many as the cache holds.
BLOCK_ROWS = 5000
#: ChunkedInference at the same time: more would take more memory, and two cores are what most users have to spare.
SIDE_BY_SIDE = 2


class FastUNet:
    """A U-net of FRCRN, prepared; parameters that change later are not seen.

    Args:
        unet: the `models.frcrn.UNet` whose parameters are read, causal or not. Batch norm uses its running statistics.
        dtype: None is that of the parameters. By bfloat16, where `has_amx`, it takes a third of the time, and what
            comes out is -43 dB from what is exact.
    """

    def __init__(self, unet: nn.Module, dtype: torch.dtype | None = None) -> None:
        self.unet, self.exact = unet, unet.linear.conv_re.weight.dtype
        self.dtype = dtype = dtype or self.exact
        conv = PlainConv if dtype == torch.bfloat16 else Conv
        self.encoders = [First(unet.encoders[0], dtype), *(conv(each.conv, each.bn) for each in unet.encoders[1:])]
        self.encoder_memories = [Memory(fsmn, dtype) for fsmn in unet.fsmn_enc[1:]]
        self.decoders = [
            *(conv(each.transconv, each.bn) for each in unet.decoders[:-1]),
            Last(unet.decoders[-1], dtype),
        ]
        self.decoder_memories = [Memory(fsmn, dtype) for fsmn in unet.fsmn_dec[:-1]]

    def __call__(
        self,
        x: Tensor,
        state: tuple | None = None,
        count: Tensor | None = None,
        means: Tensor | None = None,
        buffers: Buffers | None = None,
        parts: int = 1,
        only_means: bool = False,
    ):
        """What `UNet.forward` gives for the same arguments; the next U-net may write to the same buffers.

        `only_means` does without the output, and with five sixths of the time.
        """
        buffers = [] if buffers is None else buffers

        def one(b: int):
            try:
                mine = buffers.pop()
            except IndexError:
                mine = {}
            planes = _planes(x[b : b + 1].to(self.dtype))
            y, new = self._one(planes, _item(state, b), count, _item(means, b), mine, parts, only_means)
            y = y if only_means else y.to(x.dtype, copy=True)
            buffers.append(mine)
            return y, new

        # A stream's short pieces are done before threads have begun.
        done = _side_by_side(one, len(x)) if state is None else [one(b) for b in range(len(x))]
        out = None if only_means else self.unet.linear(torch.cat([_tensor(y) for y, _ in done]))
        return out, _joined([new for _, new in done]) if state is not None else torch.cat([own for _, own in done], 1)

    def _one(
        self,
        x: Tensor,
        state: tuple | None,
        count: Tensor | None,
        known: Tensor | None,
        buffers: dict[int, Tensor],
        parts: int,
        only_means: bool,
    ):
        """(2, T, F, 1) of one utterance → the same shape, before the last 1 x 1 convolution, and state or means."""
        new: dict[str, list[Tensor]] = {"encoders": [], "decoders": [], "means": []}

        def gains(se: ComplexSqueezeExcitation, means: Tensor) -> Tensor:
            """(2, T, C) means over the frequencies of each frame → (2, T, 1, C) gains."""
            frames, layer = means.movedim(0, 1).flatten(1).to(self.exact), len(new["means"])  # (T, 2C)
            if state is None:
                new["means"].append(part_means(frames[None], parts))
                mean = new["means"][-1].mean(0) if known is None else known[:, layer]
                found = se.gains(mean).expand(len(frames), -1)
            else:
                so_far = running_means(frames[None], state.means[layer], count)
                new["means"].append(so_far[:, -1])
                found = se.gains(so_far[0])
            return found.to(self.dtype).unflatten(1, (2, -1)).movedim(1, 0).unsqueeze(2)

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
        x = _tensor(x).movedim(2, 3).to(self.exact)  # (1, 2C, T, 1)
        x, memory = (self.unet.fsmn(x), ()) if state is None else self.unet.fsmn.stream(x, state.memory)
        x = _planes(x.movedim(3, 2).to(self.dtype))
        x, _ = through(self.decoders[0], "decoders", x.shape[3], lambda start, stop, to: to.copy_(x[:, start:stop]))
        for i, decoder in enumerate(self.decoders[1:]):
            remember, gain = self.decoder_memories[i], None
            if i < len(self.decoders) - 2:
                means = x.new_empty(x.shape[0], x.shape[1], x.shape[3])
                for start, stop in _blocks(x.shape[1], x.shape[2]):
                    y = x[:, start:stop]
                    remember(y, y)
                    _mean(y, means[:, start:stop])
                gain = gains(self.unet.se_layers_dec[i], means)
            if only_means and len(new["means"]) == len(self.encoders) + len(self.decoders) - 3:
                return None, torch.stack(new["means"], 2)
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
            return x, torch.stack(new["means"], 2)
        remembered = {name: tuple(tensors) for name, tensors in new.items()}
        return x, type(state)(**remembered, memory=memory)


def has_amx() -> bool:
    """Whether the processor multiplies matrices of bfloat16, many times faster than those of float32."""
    return getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()  # torch has no public name for it


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
        layer: one of `frcrn_fast_layers`, which writes what frames of its `room` give.
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
    x = layer.room(like, block + 1, steps, width)
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
        if len(x) == 3:
            torch.add(x[0], x[1], out=x[2])
        layer(x[:, : size + 1], out[:, start : start + size])
        _mean(out[:, start : start + size], means[:, start : start + size])
    return out[:, :total], means[:, :total], x[:2, got : got + 1].clone()


def _blocks(frames: int, steps: int) -> Iterator[tuple[int, int]]:
    """Start and stop of blocks of so many frames of so many frequencies."""
    block = max(1, BLOCK_ROWS // steps)
    return ((start, min(start + block, frames)) for start in range(0, frames, block))


def _mean(x: Tensor, out: Tensor) -> None:
    torch.sum(x, 2, out=out).div_(x.shape[2])  # torch.mean is five times slower in bfloat16


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
