"""FRCRN's U-net: complex convolutions with recurrence along frequency and squeeze and excitation.

Axes: (B, 2C, F, T), C real parts and C imaginary ones, frequencies, frames of 20 ms. Parameter names are those of the
released FRCRN.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from modelscope_ext.models.frcrn.complex_conv import ComplexBatchNorm2d, ComplexConv2d, ComplexConvTranspose2d
from modelscope_ext.models.frcrn.config import DECODER, ENCODER, PADDING, SLOPE, SQUEEZES, STRIDE, WIDTH, Layer
from modelscope_ext.models.frcrn.fsmn import ComplexFsmn
from modelscope_ext.models.frcrn.squeeze import ComplexSqueezeExcitation


class UNetState(NamedTuple):
    """State of a causal U-net between two calls; all tensors."""

    encoders: tuple[Tensor, ...]  # last input frame of each, (B, 2C, F, 1)
    decoders: tuple[Tensor, ...]
    memory: tuple[Tensor, ...]  # of the FSMN along time, (B, 19, 1, 2C) each
    means: tuple[Tensor, ...]  # running mean of each squeeze and excitation, (B, 2C)

    def stream(self, b: int) -> "UNetState":
        """Return the state of stream `b` as (1, ...) tensors."""
        return UNetState(*(tuple(tensor[b : b + 1] for tensor in part) for part in self))

    @classmethod
    def joined(cls, states: "list[UNetState]") -> "UNetState":
        """Return one state for streams side by side."""
        return cls(*(tuple(map(torch.cat, zip(*parts, strict=True))) for parts in zip(*states, strict=True)))


class Stage(NamedTuple):
    """The modules of a `config.Layer`."""

    conv: nn.Module
    fsmn: ComplexFsmn | None
    squeeze: ComplexSqueezeExcitation | None


class _Encoder(nn.Module):
    def __init__(self, layer: Layer, in_channels: int, causal: bool) -> None:
        super().__init__()
        self.conv = ComplexConv2d(in_channels, WIDTH, layer.kernel, STRIDE, (0, 0) if causal else PADDING)
        self.bn = ComplexBatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu_(self.conv(x, self.bn), SLOPE)


class _Decoder(nn.Module):
    def __init__(self, layer: Layer, parts: int, out_channels: int) -> None:
        super().__init__()
        self.transconv = ComplexConvTranspose2d(parts * WIDTH, out_channels, layer.kernel, STRIDE, PADDING, parts)
        self.bn = ComplexBatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu_(self.transconv(x, self.bn), SLOPE)


class UNet(nn.Module):
    """(B, 2, F, T) → (B, 2, F, T).

    Args:
        causal: no frame depends on later ones. Squeeze and excitation then averages over the frames so far and
            transposed convolutions lose their last frame instead of their first and their last.

    The released network also holds `fsmn_enc.0`, `fsmn_dec.6`, `se_layers_enc.6` and `se_layers_dec.5`. Their results
    are never used: they are loaded and saved but not computed.
    """

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        depth = len(ENCODER)
        self.causal = causal
        self.encoders = nn.ModuleList(_Encoder(layer, WIDTH if i else 1, causal) for i, layer in enumerate(ENCODER))
        self.fsmn_enc = nn.ModuleList(ComplexFsmn(WIDTH) for _ in range(depth))
        self.se_layers_enc = nn.ModuleList(ComplexSqueezeExcitation(WIDTH) for _ in range(depth))
        self.fsmn = ComplexFsmn(WIDTH, layers=2)
        self.decoders = nn.ModuleList(
            _Decoder(layer, 2 if i else 1, WIDTH if i < depth - 1 else 1) for i, layer in enumerate(DECODER)
        )
        self.fsmn_dec = nn.ModuleList(ComplexFsmn(WIDTH) for _ in range(depth))
        self.se_layers_dec = nn.ModuleList(ComplexSqueezeExcitation(WIDTH) for _ in range(depth - 1))
        self.linear = ComplexConv2d(1, 1, 1)

    @property
    def encoder_stages(self) -> list[Stage]:
        """Return the encoders in the order of computation."""
        return _stages(ENCODER, self.encoders, self.fsmn_enc, self.se_layers_enc)

    @property
    def decoder_stages(self) -> list[Stage]:
        """Return the decoders in the order of computation."""
        return _stages(DECODER, self.decoders, self.fsmn_dec, self.se_layers_dec)

    def initial_state(self, batch: int) -> UNetState:
        """Return the state of a causal U-net before the first frame."""
        zeros = self.linear.conv_re.weight.new_zeros
        encoders = [zeros(batch, 2 * (WIDTH if i else 1), layer.freqs, 1) for i, layer in enumerate(ENCODER)]
        decoders = [zeros(batch, 2 * WIDTH * (2 if i else 1), layer.freqs, 1) for i, layer in enumerate(DECODER)]
        means = tuple(zeros(batch, 2 * WIDTH) for _ in range(SQUEEZES))
        return UNetState(tuple(encoders), tuple(decoders), self.fsmn.initial_state(batch, 1), means)

    def forward(
        self,
        x: Tensor,
        state: UNetState | None = None,
        count: Tensor | None = None,
        means: Tensor | None = None,
        parts: int = 1,
    ) -> tuple[Tensor, UNetState | Tensor]:
        """Return the output and the new state of a causal network or the squeeze means of another one.

        Args:
            x: (B, 2, F, T).
            state: of a causal network before `x`; None for another one.
            count: (T,) frames that a causal network has processed with each of `x`.
            means: (B, 11, 2C) squeeze means to use instead of those of `x`.
            parts: number of equal parts of `x` whose means are returned.

        Returns:
            (B, 2, F, T) and a `UNetState` or the means (parts, B, 11, 2C) of `x`.
        """
        run = _Run(state, count, means, parts)
        skips = []
        for stage in self.encoder_stages:
            x = x if stage.fsmn is None else stage.fsmn(x)
            x = stage.conv(run.with_past(x, "encoders"))
            if stage.squeeze is not None:
                skips.append(run.excite(stage.squeeze, x))
        # One frequency is left; this memory runs along time. A transpose would leave strides that hide channels_last.
        x = run.along_time(self.fsmn, x.squeeze(2).unsqueeze(3)).squeeze(3).unsqueeze(2)
        for stage in self.decoder_stages:
            if stage.fsmn is not None:
                x = stage.fsmn(x)
                x = x if stage.squeeze is None else run.excite(stage.squeeze, x)
                x = torch.cat((x, skips.pop()), 1)
            x = stage.conv(run.with_past(x, "decoders"))
        return self.linear(x), run.result()


class Run:
    """State and squeeze means that one call of a U-net collects."""

    def __init__(self, state: UNetState | None, count: Tensor | None, given: Tensor | None, parts: int) -> None:
        self.before, self.count, self.given, self.parts = state, count, given, parts
        self.frames: dict[str, list[Tensor]] = {"encoders": [], "decoders": []}
        self.means: list[Tensor] = []
        self.memory: tuple[Tensor, ...] = ()

    def along_time(self, fsmn: ComplexFsmn, x: Tensor) -> Tensor:
        """Return the output of the FSMN along time for (B, 2C, T, 1) in the same shape."""
        if self.before is None:
            return fsmn(x)
        x, self.memory = fsmn.stream(x, self.before.memory)
        return x

    def result(self) -> UNetState | Tensor:
        """Return the new state of a causal U-net or the squeeze means of another one."""
        if self.before is None:
            return torch.stack(self.means, 2)
        return UNetState(*map(tuple, self.frames.values()), self.memory, tuple(self.means))


class _Run(Run):
    def with_past(self, x: Tensor, name: str) -> Tensor:
        """Return `x` with the last frame of the call before in front; keep its own last frame."""
        if self.before is None:
            return x
        x = torch.cat((getattr(self.before, name)[len(self.frames[name])], x), 3)
        self.frames[name].append(x[..., -1:])
        return x

    def excite(self, squeeze: ComplexSqueezeExcitation, x: Tensor) -> Tensor:
        layer = len(self.means)
        if self.before is None:
            x, mean = squeeze(x, None if self.given is None else self.given[:, layer], self.parts)
        else:
            x, mean = squeeze.stream(x, self.before.means[layer], self.count)
        self.means.append(mean)
        return x


def _stages(
    layers: Sequence[Layer], convs: Sequence[nn.Module], fsmns: Sequence[nn.Module], squeezes: Sequence[nn.Module]
) -> list[Stage]:
    return [
        Stage(
            conv,
            None if layer.fsmn is None else fsmns[layer.fsmn],
            None if layer.squeeze is None else squeezes[layer.squeeze],
        )
        for layer, conv in zip(layers, convs, strict=True)
    ]
