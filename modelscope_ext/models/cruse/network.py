"""CRUSE: convolutional recurrent U-nets for real-time speech enhancement.

Braun, Gamper, Reddy, Tashev, "Towards efficient models for real-time deep noise suppression", ICASSP 2021.
16 kHz audio (B, N); features and gains (B, C, T, F): channels, frames of half a window, frequencies.

Where the sources leave a choice open:

- The frequency axis is padded by 1 in networks of up to four encoder layers and not at all in deeper ones. This
  reproduces the published operation counts of both.
- Skips are scaled and shifted per channel before they are added, according to the paper's text and counts. Others read
  "1x1" as a full convolution, which is `skip="add_conv1x1"`.
- The groups of recurrent units are not interleaved between layers.
"""

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from modelscope_ext.models.cruse.causal_conv import CausalConv2d, CausalConvTranspose2d
from modelscope_ext.models.grouped_rnn import GroupedRNN
from modelscope_ext.models.options import check_values
from modelscope_ext.models.streaming import StreamingModel, bounded_mask
from modelscope_ext.stft import sqrt_hann

#: Limit of recurrent weights: six times the number of the largest published network.
MOST_WEIGHTS = 100_000_000
SKIPS = ("none", "add", "add_scale", "add_conv1x1", "concat")
#: Input and output channels. "gain": log power and a gain; "complex": also the compressed spectrum, a complex mask.
MASKS = {"gain": (1, 1), "complex": (3, 2)}
#: Share of the backward direction in a recurrent unit's output before training. A copy of a trained network's forward
#: direction gains 0.05 WB-PESQ and 0.1 dB SI-SDR by it at once.
BACKWARD_SHARE = 0.15
_ALLOWED = {
    "layers": range(1, 8),
    "channels": range(1, 4097),
    "rnn_layers": range(1, 9),
    "rnn": ("GRU", "LSTM"),
    "groups": range(1, 4097 * 1025),
    "skip": SKIPS,
    "time_kernel": range(1, 3),
    "freq_padding": range(2),
    "mask": tuple(MASKS),
    "window": range(64, 2049, 2),  # samples
    "bidirectional": (False, True),
}


@dataclass(frozen=True)
class CruseConfig:
    """The architecture of a CRUSE; `CruseConfig.from_name` reads the paper's names.

    bidirectional: recurrent layers in both directions; the network then needs the whole recording. This is our own.
    """

    layers: int = 4
    channels: int = 64
    rnn_layers: int = 1
    rnn: str = "GRU"
    groups: int = 4
    skip: str = "add_scale"
    time_kernel: int = 2
    freq_padding: int = 1
    batch_norm: bool = True
    mask: str = "gain"
    window: int = 320
    bidirectional: bool = False

    @classmethod
    def from_name(cls, name: str, /, **options) -> "CruseConfig":
        """Parse `CRUSE{L}-{C_L}-{N}x{GRU|LSTM}{P}[-1D]`; `options` override the name.

        `-1D` stands for kernels of one frame.
        """
        number = r"(\d{1,12})"
        match = re.fullmatch(rf"CRUSE{number}-{number}-{number}x(GRU|LSTM){number}(-1D)?", str(name))
        if not match:
            raise ValueError(
                f"no CRUSE is called {name!r:.100}; names look like CRUSE4-64-1xGRU4 or CRUSE5-256-2xLSTM1-1D"
            )
        depth, channels, rnn_layers, rnn, groups, one_frame = match.groups()
        config = cls(
            layers=int(depth),
            channels=int(channels),
            rnn_layers=int(rnn_layers),
            rnn=rnn,
            groups=int(groups),
            time_kernel=1 if one_frame else 2,
            freq_padding=1 if int(depth) <= 4 else 0,
        )
        return replace(config, **options)

    @property
    def name(self) -> str:
        """Return the paper's name. It leaves out skips, padding, batch norm, mask, window and directions."""
        kernels = "-1D" if self.time_kernel == 1 else ""
        return f"CRUSE{self.layers}-{self.channels}-{self.rnn_layers}x{self.rnn}{self.groups}{kernels}"

    def __post_init__(self) -> None:
        check_values("CRUSE", self, _ALLOWED)
        if min(self.freqs) < 1 or self.rnn_width % self.groups:
            raise ValueError(
                f"CRUSE: {self.rnn_width} features (channels x frequencies {self.freqs[-1]}) "
                f"cannot be cut into {self.groups} equal groups"
            )
        if _rnn_macs(self) > MOST_WEIGHTS:
            raise ValueError(f"CRUSE: {_rnn_macs(self):,} recurrent weights are too many, of {self}")

    @property
    def widths(self) -> list[int]:
        """Return the channels from the input to the last encoder layer: 1 (3 for a complex mask), 16, 32 … C_L."""
        return [MASKS[self.mask][0], *(16 * 2**i for i in range(self.layers - 1)), self.channels]

    @property
    def freqs(self) -> list[int]:
        """Return the frequency bins from the input to the last encoder layer: 161, 81 … for 320 samples."""
        freqs = [self.window // 2 + 1]
        for _ in range(self.layers):
            freqs.append((freqs[-1] + 2 * self.freq_padding - 3) // 2 + 1)
        return freqs

    @property
    def rnn_width(self) -> int:
        """Return R: the features of a frame between encoder and decoder."""
        return self.channels * self.freqs[-1]


def _rnn_macs(config: CruseConfig) -> int:
    gates = 3 if config.rnn == "GRU" else 4
    directions = 2 if config.bidirectional else 1
    return 2 * directions * gates * config.rnn_layers * config.rnn_width**2 // config.groups


class CruseState(NamedTuple):
    """State of streams between two calls; B streams run side by side."""

    audio: Tensor  # (B, < window) input samples that wait for a whole frame
    tail: Tensor  # (B, hop) second half of the last output frame
    encoder: tuple[Tensor | None, ...]  # last input frame of each layer, (B, C, 1, F)
    decoder: tuple[Tensor | None, ...]
    rnn: tuple[Tensor, ...] | None  # (P, layers, B, R / P) each


class _Layer(nn.Module):
    """(Transposed) convolution, optional batch norm, leaky ReLU; the last layer of the network has the first only."""

    def __init__(self, conv: nn.Module, channels: int, batch_norm: bool, last: bool = False) -> None:
        super().__init__()
        self.causal = conv
        # A low momentum: a batch holds few utterances whose levels differ by tens of dB.
        self.norm = nn.BatchNorm2d(channels, momentum=0.02) if batch_norm and not last else nn.Identity()
        self.activation = nn.Identity() if last else nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x: Tensor, cache: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x, cache = self.causal(x, cache)
        return self.activation(self.norm(x)), cache


class _ChannelScale(nn.Module):
    """A trainable factor and offset a channel: a depthwise 1 x 1 convolution that is faster on a CPU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, x, self.weight)


def _make_skip(kind: str, channels: int) -> nn.Module | None:
    if kind == "none":
        return None
    if kind in ("add", "concat"):
        return nn.Identity()
    if kind == "add_scale":
        return _ChannelScale(channels)
    conv = nn.Conv2d(channels, channels, 1)
    nn.init.dirac_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


class Cruse(StreamingModel):
    """A CRUSE network from audio to audio. With `bidirectional` it has only `enhance`."""

    #: The network adapts to a noise within a second. The warm-up gains 0.45 dB in the first second of the validation
    #: mixtures (benchmarks/README.md).
    warmup_s = 2.0

    def __init__(self, config: CruseConfig) -> None:
        super().__init__()
        self.config = config
        self.causal = not config.bidirectional
        w, f, depth = config.widths, config.freqs, config.layers
        kernel, padding, norm = config.time_kernel, config.freq_padding, config.batch_norm
        self.encoder = nn.ModuleList(
            _Layer(CausalConv2d(w[i], w[i + 1], kernel, padding), w[i + 1], norm) for i in range(depth)
        )
        self.rnn = GroupedRNN(config.rnn, config.rnn_width, config.rnn_layers, config.groups)
        if config.bidirectional:
            self.backward_rnn = GroupedRNN(config.rnn, config.rnn_width, config.rnn_layers, config.groups)
            self.backward_share = nn.Parameter(torch.full((config.rnn_width,), BACKWARD_SHARE))
        self.skips = nn.ModuleList(_make_skip(config.skip, w[i + 1]) for i in range(depth))
        double = 2 if config.skip == "concat" else 1
        out = [MASKS[config.mask][1], *w[1:]]
        self.decoder = nn.ModuleList(
            _Layer(
                CausalConvTranspose2d(double * w[i + 1], out[i], kernel, padding, f[i + 1], f[i]),
                out[i],
                norm,
                last=i == 0,
            )
            for i in range(depth)
        )
        if config.mask == "complex":  # at first about three quarters of the input pass
            nn.init.constant_(self.decoder[0].causal.conv.bias[:1], 1.0)
        self.register_buffer("window", sqrt_hann(config.window), persistent=False)
        self.to(memory_format=torch.channels_last)  # many times faster than the default with few channels, on a CPU

    def initial_state(self, batch: int = 1) -> CruseState:
        """Return the state before the first sample: silence."""
        zeros = self.window.new_zeros
        nothing = (None,) * self.config.layers
        return CruseState(zeros(batch, self.hop), zeros(batch, self.hop), nothing, nothing, None)

    def mask(self, spec: Tensor, state: CruseState) -> tuple[Tensor, CruseState]:
        """Return gains in (0, 1) or complex factors of magnitude below 1 in the shape of the spectra (B, T, F)."""
        power = spec.real.square() + spec.imag.square() + 1e-8
        log_power = torch.log10(power) / 4 + 1  # about -1 … 1.5
        if self.config.mask == "complex":
            compressed = torch.view_as_real(spec) * power.pow(-0.35).unsqueeze(-1)  # magnitudes to the power of 0.3
            x = torch.cat((log_power.unsqueeze(-1), compressed), -1).movedim(-1, 1)  # (B, 3, T, F), channels last
        else:
            x = log_power.unsqueeze(1).contiguous(memory_format=torch.channels_last)  # (B, 1, T, F)
        encoder, skips = [], []
        for layer, skip, cache in zip(self.encoder, self.skips, state.encoder, strict=True):
            x, cache = layer(x, cache)
            encoder.append(cache)
            skips.append(skip(x) if skip is not None else None)
        channels = x.shape[1]
        features = x.transpose(1, 2).flatten(2)  # (B, T, R)
        x, rnn = self.rnn(features, state.rnn)
        if self.config.bidirectional:
            x = torch.lerp(x, self.backward_rnn(features.flip(1))[0].flip(1), self.backward_share)
        x = x.unflatten(2, (channels, -1)).transpose(1, 2).contiguous(memory_format=torch.channels_last)
        decoder: list[Tensor | None] = []
        for layer, skip, cache in zip(reversed(self.decoder), reversed(skips), state.decoder, strict=True):
            if skip is not None:
                x = torch.cat((x, skip), 1) if self.config.skip == "concat" else x + skip
            x, cache = layer(x, cache)
            decoder.append(cache)
        mask = torch.sigmoid(x.squeeze(1)) if self.config.mask == "gain" else bounded_mask(x.movedim(1, -1))
        return mask, state._replace(encoder=tuple(encoder), decoder=tuple(decoder), rnn=rnn)

    @torch.no_grad()
    def load_resized(self, other: "Cruse") -> None:
        """Load the weights of a trained network whose window may be shorter or that may be causal.

        Convolutions are copied. Each recurrent unit is a copy of the unit of the nearest frequency of its channel.
        Copies of one unit share its input weights. A new backward direction begins as a copy of the forward one.

        Raises:
            ValueError: the networks differ in more than the window, the other window is longer, or groups cut channels.
        """
        window = self.config.window
        both = self.config.bidirectional
        alike = isinstance(other, Cruse) and replace(other.config, window=window, bidirectional=both) == self.config
        alike = alike and (both or other.causal)
        if not alike or other.config.window > window:
            config = getattr(other, "config", "no CRUSE")
            raise ValueError(f"{self.config} cannot begin from the weights of another network: {config}")
        if self.config.channels % self.config.groups:
            raise ValueError(f"{self.config} cannot begin from other weights: its groups cut channels into parts")
        before, now = other.config.freqs[-1], self.config.freqs[-1]
        nearest = (torch.arange(now) * (other.config.window / window)).round().long().clamp(max=before - 1)
        channels = torch.arange(self.rnn.width // now).unsqueeze(1)  # of a group
        units = (channels * before + nearest).flatten()  # new unit → old unit
        shares = 1 / units.bincount(minlength=other.rnn.width)[units]
        weights = other.state_dict()
        for name in list(weights):
            if name.startswith(("rnn.", "backward_rnn.")):
                value = weights[name].unflatten(1, (-1, other.rnn.width))[:, :, units]  # (P, gates, H, or one less)
                value = value[..., units] * shares if "rnn.weight" in name else value
                weights[name] = value.flatten(1, 2)
            elif name == "backward_share":
                weights[name] = weights[name].unflatten(0, (-1, other.rnn.width))[:, units].flatten()
        if both and other.causal:
            backward = {f"backward_{name}": value for name, value in weights.items() if name.startswith("rnn.")}
            weights |= backward | {"backward_share": self.backward_share}
        self.load_state_dict(weights)

    def macs_per_frame(self) -> int:
        """Return the multiply-accumulates of a frame (a hop of audio): convolutions, skips and recurrent layers."""
        config = self.config
        w, f = config.widths, config.freqs
        skip = {"add_scale": lambda c: c, "add_conv1x1": lambda c: c * c}.get(config.skip, lambda c: 0)
        skips = sum(skip(w[i + 1]) * f[i + 1] for i in range(config.layers))
        # Taps of a transposed convolution count at its input positions, those of the mirrored encoder at its output.
        taps = 3 * config.time_kernel
        double = 2 if config.skip == "concat" else 1
        out = [MASKS[config.mask][1], *w[1:]]
        convs = sum(w[i + 1] * f[i + 1] * taps * (w[i] + double * out[i]) for i in range(config.layers))
        return convs + skips + _rnn_macs(config)
