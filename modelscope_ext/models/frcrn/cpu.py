"""FRCRN's U-net for inference on a CPU: the same numbers as `unet.UNet`, several times as fast.

Axes: activations are (2, T, F, C): real and imaginary parts, frames, frequencies, channels. What makes it fast:

- Blocks of frames: a layer processes some frames at a time, so that its intermediate results stay in the processor's
  cache. Gains of squeeze and excitation need the average over all frames: they are applied by the next reader.
- Complex convolutions as three real ones instead of four (Gauss).
- Four frames of a convolution with two taps in time by five products instead of eight (Winograd, "Arithmetic Complexity
  of Computations", 1980; here with the points 0, 1, -1, 2 and infinity).
- The two networks of an FSMN as one matrix product over (re/im, frame, frequency) rows.
- The utterances of a batch side by side, each with its share of the threads: two cores that work on one utterance each
  wait less for each other than two that share every operation.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from modelscope_ext.models.frcrn.config import SQUEEZES
from modelscope_ext.models.frcrn.cpu_layers import TILE, Bf16Conv, FastFsmn, FastHead, FastStem, WinogradConv
from modelscope_ext.models.frcrn.squeeze import ComplexSqueezeExcitation, part_means, running_means
from modelscope_ext.models.frcrn.unet import Run, Stage, UNet, UNetState
from modelscope_ext.threads import thread_pool

#: Memory that layers of one utterance write to: flat tensors by place. Fresh memory takes a tenth of the time.
Workspace = dict[int, Tensor]
#: Workspaces that are free. U-nets that run one after the other share a pool.
Pool = list[Workspace]
#: Writes frames `start` to `stop` of a layer's input to a (2, stop - start, F, C) tensor.
Reader = Callable[[int, int, Tensor], object]

#: Rows (frames times frequencies) of a block: about as many as the cache holds.
BLOCK_ROWS = 5000
#: Utterances at the same time. More need more memory, and most users have two cores to spare.
SIDE_BY_SIDE = 2


class FastUNet:
    """A U-net of FRCRN prepared for inference; later changes of its parameters have no effect.

    Args:
        unet: causal or not. Batch norm uses its running statistics.
        dtype: None is that of the parameters. bfloat16 takes a third of the time if `has_amx`, with an error of -43 dB.
    """

    def __init__(self, unet: UNet, dtype: torch.dtype | None = None) -> None:
        self.unet, self.exact = unet, unet.linear.conv_re.weight.dtype
        self.dtype = dtype = dtype or self.exact
        conv = Bf16Conv if dtype == torch.bfloat16 else WinogradConv

        def fast(stage: Stage, layer: object) -> Stage:
            return Stage(layer, stage.fsmn and FastFsmn(stage.fsmn, dtype), stage.squeeze)

        first, *encoders = unet.encoder_stages
        *decoders, last = unet.decoder_stages
        self.encoders = [fast(first, FastStem(first.conv, dtype))]
        self.encoders += [fast(stage, conv(stage.conv.conv, stage.conv.bn)) for stage in encoders]
        self.decoders = [fast(stage, conv(stage.conv.transconv, stage.conv.bn)) for stage in decoders]
        self.decoders += [fast(last, FastHead(last.conv, dtype))]

    def __call__(
        self,
        x: Tensor,
        state: UNetState | None = None,
        count: Tensor | None = None,
        means: Tensor | None = None,
        parts: int = 1,
        pool: Pool | None = None,
        only_means: bool = False,
    ) -> tuple[Tensor | None, UNetState | Tensor]:
        """Return what `UNet.forward` returns for the same arguments.

        `only_means` returns None as the output and takes five sixths of the time.
        """
        pool = [] if pool is None else pool

        def one(b: int) -> tuple[Tensor | None, UNetState | Tensor]:
            try:
                workspace = pool.pop()
            except IndexError:
                workspace = {}
            before, given = state and state.stream(b), None if means is None else means[b : b + 1]
            run = _Run(self, workspace, before, count, given, parts)
            y = run(_planes(x[b : b + 1].to(self.dtype)), only_means)
            y = y if y is None else y.to(x.dtype, copy=True)  # the next utterance overwrites the workspace
            pool.append(workspace)
            return y, run.result()

        # The short pieces of a stream are done before threads have begun.
        done = _side_by_side(one, len(x)) if state is None else [one(b) for b in range(len(x))]
        out = None if only_means else self.unet.linear(torch.cat([_tensor(y) for y, _ in done]))
        results = [result for _, result in done]
        return out, torch.cat(results, 1) if state is None else UNetState.joined(results)


class _Run(Run):
    """One utterance on its way through a `FastUNet`; further arguments as for `Run`."""

    def __init__(self, net: FastUNet, workspace: Workspace, *given) -> None:
        super().__init__(*given)
        self.net, self.workspace = net, workspace

    def __call__(self, x: Tensor, only_means: bool) -> Tensor | None:
        """Return the output (2, T, F, 1) for one of that shape, up to the last 1 x 1 convolution."""
        skips = []
        for stage in self.net.encoders:
            x, means = self.convolve(stage.conv, "encoders", x, x.shape[3], _encoder_input(x, stage))
            if stage.squeeze is not None:
                skips.append((x, self.gains(stage.squeeze, means)))
        memorised = self.along_time(self.net.unet.fsmn, _tensor(x).movedim(2, 3).to(self.net.exact))  # (1, 2C, T, 1)
        x = _planes(memorised.movedim(3, 2).to(self.net.dtype))
        for stage in self.net.decoders:
            gain = None if stage.squeeze is None else self.gains(stage.squeeze, _run_fsmn(stage.fsmn, x))
            if only_means and len(self.means) == SQUEEZES:
                return None
            width, read = x.shape[3], _copy_of(x)
            if stage.fsmn is not None:
                width, read = 2 * width, _decoder_input(x, stage, gain, *skips.pop())
            x, _ = self.convolve(stage.conv, "decoders", x, width, read)
        return x

    def gains(self, squeeze: ComplexSqueezeExcitation, means: Tensor) -> Tensor:
        """Return the gains (2, T, 1, C) for the means (2, T, C) of the frames over frequency."""
        frames, layer = means.movedim(0, 1).flatten(1).to(self.net.exact), len(self.means)  # (T, 2C)
        if self.before is None:
            self.means.append(part_means(frames[None], self.parts))
            mean = self.means[-1].mean(0) if self.given is None else self.given[:, layer]
            gains = squeeze.gains(mean).expand(len(frames), -1)
        else:
            so_far = running_means(frames[None], self.before.means[layer], self.count)
            self.means.append(so_far[:, -1])
            gains = squeeze.gains(so_far[0])
        return gains.to(self.net.dtype).unflatten(1, (2, -1)).movedim(1, 0).unsqueeze(2)

    def convolve(self, layer, name: str, like: Tensor, width: int, read: Reader) -> tuple[Tensor, Tensor]:
        """Run one of `cpu_layers` with two taps in time on the input (2, T, F, `width`) that `read` gives.

        T and F are those of `like`. The name is "encoders" or "decoders". Return the output (2, T', F', C') in the
        workspace and its means (2, T', C') over frequency.
        """
        index, (frames, steps) = len(self.frames[name]), like.shape[1:3]
        padded = self.before is None and name == "encoders"  # by a frame of zeros at both ends
        before = like.new_zeros(2, 1, steps, width) if padded else None
        if self.before is not None:
            before = _planes(getattr(self.before, name)[index])
        total = frames - (before is None) + padded
        tiled = -(-total // TILE) * TILE if total >= TILE else total
        place = index if name == "encoders" else -1 - index % 2  # a decoder reads the output of the one before
        out = self.space(place, (2, tiled, layer.width_out(steps), layer.channels), like)
        means, last = _in_blocks(layer, read, before, like, width, out)
        self.frames[name].append(_tensor(last))
        return out[:, :total], means[:, :total]

    def space(self, place: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return uninitialised memory of the workspace."""
        size = math.prod(shape)
        if len(self.workspace.get(place, ())) < size:
            self.workspace.pop(place, None)
            self.workspace[place] = like.new_empty(size)
        return self.workspace[place][:size].view(shape)


def has_amx() -> bool:
    """Return True if the processor multiplies matrices of bfloat16 many times faster than those of float32."""
    return getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()  # torch has no public name for it


def _side_by_side(work: Callable[[int], tuple], count: int) -> list[tuple]:
    """Return `work(0)` … `work(count - 1)`. They run at the same time if torch may use several threads."""
    threads = torch.get_num_threads()
    workers = min(threads, count, SIDE_BY_SIDE)
    if workers < 2:
        return [work(b) for b in range(count)]
    mode = torch.is_inference_mode_enabled()

    def alone(b: int):
        torch.set_num_threads(threads // workers)  # of this thread and of those that begin later
        with torch.inference_mode(mode), torch.no_grad():
            return work(b)

    try:
        with thread_pool(workers) as pool:
            return list(pool.map(alone, range(count)))
    finally:
        torch.set_num_threads(threads)


def _in_blocks(
    layer, read: Reader, before: Tensor | None, like: Tensor, width: int, out: Tensor
) -> tuple[Tensor, Tensor]:
    """Run a layer as `_Run.convolve` does into `out` (2, T', F', C') block by block. Missing frames are zeros.

    `before` (2, 1, F, C) is the frame before the first. Without it the first output is that of the first two frames.
    Return the means (2, T', C') of the output over frequency and the last frame read.
    """
    frames, steps = like.shape[1:3]
    total = out.shape[1]
    block = min(total, max(1, BLOCK_ROWS // (TILE * steps)) * TILE)
    x = layer.workspace(like, block + 1, steps, width)
    means = like.new_empty(2, total, layer.channels)
    got = -1  # frames of `x` that were read, after its first
    done = 0
    for start in range(0, total, block):
        size = min(block, total - start)
        if start:
            x[:2, 0] = x[:2, block]
        elif before is None:
            read(0, 1, x[:2, :1])
            done = 1
        else:
            x[:2, :1] = before
        got = min(size, frames - done)
        if got:
            read(done, done + got, x[:2, 1 : 1 + got])
        x[:2, 1 + got :] = 0
        done += got
        if len(x) == 3:
            torch.add(x[0], x[1], out=x[2])
        layer(x[:, : size + 1], out[:, start : start + size])
        _mean(out[:, start : start + size], means[:, start : start + size])
    return means, x[:2, got : got + 1].clone()


def _copy_of(x: Tensor) -> Reader:
    return lambda start, stop, out: out.copy_(x[:, start:stop])


def _encoder_input(x: Tensor, stage: Stage) -> Reader:
    if stage.fsmn is None:
        return _copy_of(x)
    return lambda start, stop, out: stage.fsmn(x[:, start:stop], out)


def _decoder_input(x: Tensor, stage: Stage, gain: Tensor | None, skip: Tensor, skip_gain: Tensor) -> Reader:
    """Return a reader of `x` beside the skip connection. `x` still needs its FSMN or, after that, its gain."""

    def read(start: int, stop: int, out: Tensor) -> None:
        if gain is None:
            stage.fsmn(x[:, start:stop], out[..., : x.shape[3]])
        else:
            torch.mul(x[:, start:stop], gain[:, start:stop], out=out[..., : x.shape[3]])
        torch.mul(skip[:, start:stop], skip_gain[:, start:stop], out=out[..., x.shape[3] :])

    return read


def _run_fsmn(fsmn: FastFsmn, x: Tensor) -> Tensor:
    """Replace `x` by the output of its FSMN; return its (2, T, C) means over frequency."""
    means = x.new_empty(x.shape[0], x.shape[1], x.shape[3])
    block = max(1, BLOCK_ROWS // x.shape[2])
    for y, mean in zip(x.split(block, 1), means.split(block, 1), strict=True):
        fsmn(y, y)
        _mean(y, mean)
    return means


def _mean(x: Tensor, out: Tensor) -> None:
    torch.sum(x, 2, out=out).div_(x.shape[2])  # torch.mean is five times slower in bfloat16


def _planes(x: Tensor) -> Tensor:
    """Return (1, 2C, F, T) as (2, T, F, C)."""
    return x[0].unflatten(0, (2, -1)).permute(0, 3, 2, 1)


def _tensor(x: Tensor) -> Tensor:
    """Return (2, T, F, C) as (1, 2C, F, T) in channels_last memory."""
    return x.permute(0, 3, 2, 1).flatten(0, 1)[None].contiguous(memory_format=torch.channels_last)
