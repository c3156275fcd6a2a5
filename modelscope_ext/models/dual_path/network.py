"""Dual-path networks for speech enhancement: recurrent over time, mixing over frequency.

Convolutions over frequency (kernel 8, stride 4, then 3 taps) turn a frame of 256 bins into 64 bands, a learned matrix
reduces these to fewer bands, and dual-path blocks follow: a GRU over time that all bands share, and a mixer over
bands. The way back mirrors the way in, with a skip connection at each layer. The output is a bounded complex mask.

Sources: dual-path recurrent networks, Luo et al., ICASSP 2020; for enhancement DPCRN, Le et al., Interspeech 2021; the
sizes and the layout of the convolutions follow FastEnhancer, Ahn et al. 2025. The matrix in place of attention, the
band positions, and the computation are our own.

Axes inside: (N, C, 1, K) in channels-last memory: N = T * B frames with time first, channels, bands. Time comes first
so that the recurrent layers need no transposition.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from modelscope_ext.models.dual_path.config import DualPathConfig
from modelscope_ext.models.grouped_rnn import grouped_gru
from modelscope_ext.models.streaming import StreamingModel, bounded_mask
from modelscope_ext.stft import sqrt_hann

WINDOW = 512  # samples
BANDS = 64  # after the first convolution
FEATURES = 3  # log power, compressed real and imaginary part


class DualPathState(NamedTuple):
    """State of B streams between two calls."""

    audio: Tensor  # (B, < window) input samples that do not fill a frame yet
    tail: Tensor  # (B, hop) second half of the last output frame
    rnn: tuple[Tensor, ...]  # (directions, B * inner_bands, inner_channels) for each block


class _Recurrent(nn.Module):
    """A GRU over time that all bands share, in one or both directions, and a projection of its output."""

    def __init__(self, width: int, directions: int) -> None:
        super().__init__()
        bound = width**-0.5  # as in PyTorch
        shapes = {"weight_ih": (3 * width, width), "weight_hh": (3 * width, width), "bias_ih": (3 * width,)}
        for name, shape in (shapes | {"bias_hh": (3 * width,)}).items():
            parameter = nn.Parameter(torch.empty(directions, *shape).uniform_(-bound, bound))
            self.register_parameter(name, parameter)
        self.project = nn.Linear(directions * width, width)

    @property
    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the weights of input and hidden state and then their biases. The first axis is the direction."""
        return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the output for (T, R, C), same shape, and the state (directions, R, C) after the last step."""
        directions = len(self.weight_ih)
        x = torch.stack((x, x.flip(0))) if directions == 2 else x.unsqueeze(0)
        if state is None:
            state = x.new_zeros(directions, *x.shape[2:])
        if x.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):
                dtype = self.weight_ih.dtype
                y = grouped_gru(x.to(dtype), state.to(dtype), *self.weights)
        else:
            y = torch.stack([self._gru(i, x[i], state[i]) for i in range(directions)])
        end = y[:, -1]
        y = torch.cat((y[0], y[1].flip(0)), -1) if directions == 2 else y[0]
        return self.project(y), end

    def _gru(self, i: int, x: Tensor, state: Tensor) -> Tensor:
        """Run one direction by PyTorch's own kernel (cuDNN on a GPU)."""
        weights = [weight[i] for weight in self.weights]
        return torch.gru(x, state.unsqueeze(0), weights, True, 1, 0.0, self.training, False, False)[0]


class _Mixer(nn.Module):
    """A map over bands and a projection over channels."""

    def __init__(self, config: DualPathConfig) -> None:
        super().__init__()
        width, bands, self.heads = config.inner_channels, config.inner_bands, config.heads
        self.attention = config.mixer == "attention"
        if self.attention:
            self.qkv = nn.Linear(width, 3 * width)
        else:
            bound = bands**-0.5
            self.weight = nn.Parameter(torch.empty(self.heads, bands, bands).uniform_(-bound, bound))
            self.bias = nn.Parameter(torch.zeros(bands, 1))
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output for (N, K, C), same shape."""
        if self.attention:
            parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, N, heads, K, C')
            y = functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
            return self.project(y)
        if self.heads == 1:
            y = torch.matmul(self.weight[0], x)
        else:
            y = torch.matmul(self.weight, x.unflatten(-1, (self.heads, -1)).transpose(1, 2)).transpose(1, 2).flatten(2)
        return self.project(functional.silu(y + self.bias))


class _Block(nn.Module):
    """One dual-path block: recurrent over time, then mixing over bands, each with a residual connection."""

    def __init__(self, config: DualPathConfig) -> None:
        super().__init__()
        width = config.inner_channels
        self.recurrent = _Recurrent(width, 2 if config.bidirectional else 1)
        self.mixer = _Mixer(config)
        self.norms = nn.ModuleList(nn.LayerNorm(width) if config.norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, frames: int, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the output for (N, K, C) with N = frames * B and the new state."""
        shape = x.shape
        y, state = self.recurrent(self.norms[0](x).reshape(frames, -1, shape[-1]), state)
        x = x + y.view(shape)
        return x + self.mixer(self.norms[1](x)), state


def _conv(inputs: int, outputs: int, taps: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, (1, taps), padding=(0, taps // 2))


class DualPath(StreamingModel):
    """A dual-path network from audio to audio. With `bidirectional` it has only `enhance`."""

    def __init__(self, config: DualPathConfig) -> None:
        super().__init__()
        self.config = config
        self.causal = not config.bidirectional
        self.outer_layers = ("encoder.0.", f"decoder.{config.layers}.")
        width, inner, bands = config.channels, config.inner_channels, config.inner_bands
        self.encoder = nn.ModuleList([nn.Conv2d(FEATURES, width, (1, 8), (1, 4), (0, 2))])
        self.encoder.extend(_conv(width, width) for _ in range(config.layers))
        self.down = nn.Linear(BANDS, bands, bias=False)
        self.narrow = nn.Linear(width, inner)
        self.position = nn.Parameter(torch.zeros(bands, inner))
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.blocks))
        self.widen = nn.Linear(inner, width)
        self.up = nn.Linear(bands, BANDS, bias=False)
        self.merges = nn.ModuleList(_conv(2 * width, width, 1) for _ in range(config.layers + 1))
        self.decoder = nn.ModuleList(_conv(width, width) for _ in range(config.layers))
        self.decoder.append(nn.ConvTranspose2d(width, 2, (1, 8), (1, 4), (0, 2)))
        nn.init.normal_(self.decoder[-1].weight, std=0.02)
        self.decoder[-1].bias.data = torch.tensor([1.0, 0.0])  # lets about three quarters of the input through at first
        self.register_buffer("window", sqrt_hann(WINDOW), persistent=False)
        self.to(memory_format=torch.channels_last)  # many times faster than the default on a CPU

    def initial_state(self, batch: int = 1) -> DualPathState:
        """Return the state before the first sample: silence."""
        zeros = self.window.new_zeros
        rows = batch * self.config.inner_bands
        directions = 2 if self.config.bidirectional else 1
        hidden = tuple(zeros(directions, rows, self.config.inner_channels) for _ in self.blocks)
        return DualPathState(zeros(batch, self.hop), zeros(batch, self.hop), hidden)

    def mask(self, spec: Tensor, state: DualPathState) -> tuple[Tensor, DualPathState]:
        """Return complex factors of magnitude below 1 in the shape of the spectra (B, T, F) and the new state."""
        mask, rnn = self._masks(spec, state.rnn)
        return mask, state._replace(rnn=rnn)

    def _masks(self, spec: Tensor, states: tuple[Tensor | None, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        batch, frames = spec.shape[:2]
        x = self._features(spec)
        skips = []
        for layer in self.encoder:
            x = functional.silu(layer(x))
            skips.append(x)
        x = x.squeeze(2).transpose(1, 2)  # (N, 64, C)
        x = self.narrow(torch.matmul(self.down.weight, x)) + self.position  # (N, K, C')
        new = []
        for block, state in zip(self.blocks, states, strict=True):
            x, state = block(x, frames, state)
            new.append(state)
        x = torch.matmul(self.up.weight, self.widen(x)).transpose(1, 2).unsqueeze(2)
        for merge, layer in zip(self.merges, self.decoder, strict=True):
            x = functional.silu(merge(torch.cat((x, skips.pop()), 1)))
            x = layer(x) if layer is self.decoder[-1] else functional.silu(layer(x))
        x = x.to(self.window.dtype).squeeze(2).unflatten(0, (frames, batch)).permute(1, 0, 3, 2)  # (B, T, 256, 2)
        return functional.pad(bounded_mask(x), (0, 1)), tuple(new)

    def _features(self, spec: Tensor) -> Tensor:
        """Return features (T * B, 3, 1, 256) of complex spectra (B, T, 257) without the highest bin."""
        parts = torch.view_as_real(spec[..., :-1].transpose(0, 1).contiguous()).flatten(0, 1)  # (N, 256, 2)
        power = parts.square().sum(-1, keepdim=True) + 1e-8
        x = torch.cat((torch.log10(power) / 4 + 1, parts * power.pow(-0.35)), -1)  # magnitudes to the power of 0.3
        return x.transpose(1, 2).unsqueeze(2)

    def load_resized(self, other: "DualPath") -> None:
        """Load the weights of a trained network; one in both directions may begin from a causal one.

        The direction that is new keeps its random weights. At first no output depends on it.

        Raises:
            ValueError: the networks differ in more than the directions, or this one has fewer.
        """
        alike = isinstance(other, DualPath) and replace(other.config, bidirectional=False)
        if alike != replace(self.config, bidirectional=False) or (self.causal and not other.causal):
            config = getattr(other, "config", "no dual-path network")
            raise ValueError(f"{self.config} cannot begin from the weights of another network: {config}")
        weights, own = other.state_dict(), self.state_dict()
        for name, value in weights.items():
            if value.shape != own[name].shape:
                rest = own[name][1:] if ".project." not in name else torch.zeros_like(value)
                weights[name] = torch.cat((value, rest), -1 if ".project." in name else 0)
        self.load_state_dict(weights)

    def macs_per_frame(self) -> int:
        """Return the multiply-accumulates of one frame (a hop of audio)."""
        config = self.config
        width, inner, bands = config.channels, config.inner_channels, config.inner_bands
        outer = BANDS * width * (8 * (FEATURES + 2) + 6 * config.layers * width + 2 * (config.layers + 1) * width)
        between = 2 * BANDS * bands * width + 2 * bands * width * inner
        directions = 2 if config.bidirectional else 1
        mixing = 4 * inner * inner + 2 * bands * inner if config.mixer == "attention" else bands * inner + inner**2
        return outer + between + config.blocks * bands * (7 * directions * inner**2 + mixing)
