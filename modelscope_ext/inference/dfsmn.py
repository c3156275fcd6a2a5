"""ModelScope's DFSMN for 48 kHz with the members of our networks, for utterances and streams.

Axes: audio (B, N) float32 at 48 kHz; frames of 40 ms every 20 ms (B, T, W); features (B, T, C).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from modelscope_ext.models.streaming import StreamingModel
from modelscope_ext.stft import overlap_add

#: Keys of the "model" section → their largest values. Keys that are missing have ModelScope's defaults.
OPTIONS = {"fsmn_depth": 100, "lorder": 1000}
WINDOW, HOP = 1920, 960  # samples
#: Range of 16-bit samples, at which the features are taken.
RANGE = 32768.0
#: Of Kaldi's filter banks: Fourier length of a frame, number of filters and the lowest frequency in Hz.
FFT, FILTERS, LOWEST_HZ = 2048, 120, 20.0
PREEMPHASIS = 0.97


class DfsmnState(NamedTuple):
    """State of streams between two calls; B streams run side by side."""

    audio: Tensor  # (B, < W) input samples that wait for a whole frame
    tail: Tensor  # (B, HOP) second half of the last output frame
    frames: int  # number of those before
    memory: tuple[Tensor, ...]  # (B, channels, order - 1) of each layer


class Dfsmn(StreamingModel):
    """ModelScope's `DfsmnAns` (Zhang et al., "Deep-FSMN for large vocabulary continuous speech recognition", 2018).

    Filter bank energies go through a network of causal layers to a real mask. ModelScope's pipeline adds random noise
    (dither) of the size of one 16-bit step to a recording before it takes the energies. Here the mean energy of that
    noise is added instead, so results repeat. Its pipeline for streams forgets what a layer's order does not reach;
    this one remembers all.

    Args:
        net: ModelScope's `DfsmnAns`.
    """

    sample_rate = 48000

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        double = {"dtype": torch.float64, "device": "cpu"}
        analysis = torch.hamming_window(WINDOW, periodic=False, **double)
        synthesis = torch.hamming_window(WINDOW, **double)
        power = synthesis.square()
        omega = torch.arange(FFT // 2, **double) * (2 * math.pi / FFT)
        neighbours = analysis[1:] @ analysis[:-1]
        dither = (1 + PREEMPHASIS**2) * analysis.square().sum() - 2 * PREEMPHASIS * omega.cos() * neighbours
        filters = mel_filters()
        buffers = {
            "window": analysis,
            "synthesis": synthesis / (power + power.roll(HOP)),
            "first": 1 + power[HOP:] / power[:HOP],  # the first half frame overlaps no other
            "filters": filters,
            "dither": dither @ filters,
        }
        for name, value in buffers.items():
            self.register_buffer(name, value.float(), persistent=False)

    def initial_state(self, batch: int = 1) -> DfsmnState:
        """Return the state before the first sample."""
        half = self.window.new_zeros(batch, HOP)
        memory = [
            self.window.new_zeros(batch, len(layer.conv1.weight), layer.lorder - 1) for layer in self.net.deepfsmn
        ]
        return DfsmnState(half, half, 0, tuple(memory))

    def forward(self, audio: Tensor, state: DfsmnState | None = None) -> tuple[Tensor, DfsmnState]:
        """Return the finished samples (B, whole hops) and the new state; the first hop is silence."""
        if audio.ndim != 2:
            raise ValueError(f"need (B, N) audio, got shape {tuple(audio.shape)}")
        state = state or self.initial_state(len(audio))
        audio = torch.cat((state.audio, audio), 1)
        count = max(0, audio.shape[1] // HOP - 1)
        waiting = audio[:, count * HOP :]
        if not count:
            return audio[:, :0], state._replace(audio=waiting)
        frames = audio[:, : (count + 1) * HOP].unfold(1, WINDOW, HOP)
        # The frame before the first sample is none of ModelScope's.
        real = (torch.arange(state.frames, state.frames + count, device=audio.device) > 0).float()[:, None]
        mask, memory = self.mask(self.features(frames * RANGE), real, state.memory)
        made = torch.fft.irfft(torch.fft.rfft(frames * self.window) * mask, WINDOW) * self.synthesis
        if state.frames < 2 <= state.frames + count:
            made[:, 1 - state.frames, :HOP] *= self.first
        done, tail = overlap_add(made, state.tail)
        return done, DfsmnState(waiting, tail, state.frames + count, memory)

    def features(self, frames: Tensor) -> Tensor:
        """Return log filter bank energies (B, T, FILTERS) of frames in the range of 16 bits, as Kaldi does."""
        frames = frames - frames.mean(2, keepdim=True)
        before = torch.cat((frames[..., :1], frames[..., :-1]), 2)
        spec = torch.fft.rfft((frames - PREEMPHASIS * before) * self.window, FFT)[..., : FFT // 2]
        power = spec.real.square() + spec.imag.square()
        return (power @ self.filters + self.dither).clamp(min=torch.finfo(torch.float32).eps).log()

    def mask(self, features: Tensor, real: Tensor, memory: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the mask (B, T, F) in 0 … 1 and the new memory; `real` (T, 1) is 0 for frames that do not count."""
        x, remembered = self.net.relu(self.net.linear1(features)), []
        for layer, before in zip(self.net.deepfsmn, memory, strict=True):
            own = (layer.project(functional.relu(layer.linear(x))) * real).transpose(1, 2)
            known = torch.cat((before, own), 2)
            x = x + (own + functional.conv1d(known, layer.conv1.weight[..., 0], groups=known.shape[1])).transpose(1, 2)
            remembered.append(known[..., known.shape[2] - before.shape[2] :])
        return self.net.sig(self.net.linear2(x)) * real, tuple(remembered)


def mel_filters() -> Tensor:
    """Return Kaldi's triangular filters (FFT / 2, FILTERS) in float64: energies of filters from powers of bins."""

    def mel(hz: Tensor) -> Tensor:
        return 1127 * torch.log1p(hz / 700)

    hz = torch.arange(FFT // 2, dtype=torch.float64, device="cpu") * (Dfsmn.sample_rate / FFT)
    low, high = mel(torch.tensor([LOWEST_HZ, Dfsmn.sample_rate / 2], dtype=torch.float64, device="cpu")).tolist()
    step = (high - low) / (FILTERS + 1)
    centres = low + step * torch.arange(1, FILTERS + 1, dtype=torch.float64, device="cpu")
    return (1 - (mel(hz)[:, None] - centres).abs() / step).clamp(min=0)
