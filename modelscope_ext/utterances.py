"""Networks that hear a whole utterance at once, on audio of any length: in long chunks, cross-faded.

Axes: audio (B, N), one stream a row, at the network's rate.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["REFERENCE_RMS", "Utterances", "UtterancesState", "reference_gain"]

#: -25 dBFS, the level that FRCRN was trained at.
REFERENCE_RMS = 10 ** (-25 / 20)


def reference_gain(audio: Tensor) -> Tensor:
    """What takes (B, N) audio to the level that FRCRN was trained at, (B, 1), as modelscope's pipeline measures it.

    Samples above the root mean square, and only they, are brought to -25 dBFS RMS. Silence has a gain of 1.
    """
    power = audio.double().square()
    loud = power >= power.mean(1, keepdim=True)
    level = ((power * loud).sum(1, keepdim=True) / loud.sum(1, keepdim=True).clamp_min(1)).sqrt()
    return torch.where(level > 0, REFERENCE_RMS / level, 1.0).nan_to_num(1.0)


class UtterancesState(NamedTuple):
    """What is between two calls."""

    audio: Tensor  # (B, n) from the beginning of the next chunk on
    fade: Tensor | None  # (B, fade) end of the last chunk's output; None before the first chunk


class Utterances(nn.Module):
    """A network for whole utterances that is fed piece by piece.

    Args:
        net: has `enhance((B, N)) -> (B, N)` and `sample_rate`.
        chunk_s: seconds of a chunk. The last one has half as many to one and a half times as many, so that audio of
            up to one and a half chunks is denoised in one piece.
        margin_s: so much at the inner ends of a chunk is thrown away, for want of context.
        fade_s: then so much is faded linearly into the next chunk.

    Each chunk is brought to the network's reference level and back. `forward(audio, state)` returns what is finished,
    and the new state; `finish(state)` the rest. Nothing is delayed, lost or added.
    """

    delay = 0

    def __init__(self, net: nn.Module, chunk_s: float = 20.0, margin_s: float = 0.5, fade_s: float = 1.0) -> None:
        super().__init__()
        self.net = net
        self.sample_rate = net.sample_rate
        self.chunk, self.margin, self.fade = (round(s * net.sample_rate) for s in (chunk_s, margin_s, fade_s))
        if self.chunk < 2 * (2 * self.margin + self.fade):
            raise ValueError(f"chunks of {chunk_s} s are too short for margins of {margin_s} s and fades of {fade_s} s")

    @property
    def latency(self) -> int:
        """Samples of later input that an output sample may depend on."""
        return 3 * self.chunk // 2

    def forward(self, audio: Tensor, state: UtterancesState | None = None) -> tuple[Tensor, UtterancesState]:
        """Takes (B, n) samples, any n; returns the (B, m) that are finished."""
        waiting, fade = state or UtterancesState(audio[:, :0], None)
        waiting, done = torch.cat((waiting, audio), 1), []
        while waiting.shape[1] > 3 * self.chunk // 2:
            out = self._faded(self._denoise(waiting[:, : self.chunk]), fade)
            end = out.shape[1] - self.margin
            done.append(out[:, : end - self.fade])
            fade = out[:, end - self.fade : end]
            waiting = waiting[:, self.chunk - 2 * self.margin - self.fade :]
        return torch.cat((audio[:, :0], *done), 1), UtterancesState(waiting, fade)

    def finish(self, state: UtterancesState) -> Tensor:
        """The (B, m) samples that are left when the input has ended."""
        return self._faded(self._denoise(state.audio), state.fade) if state.audio.shape[1] else state.audio

    def _denoise(self, chunk: Tensor) -> Tensor:
        gain = reference_gain(chunk).float()
        return self.net.enhance(chunk * gain) / gain

    def _faded(self, out: Tensor, before: Tensor | None) -> Tensor:
        """A chunk's output from where the one before it begins to fade."""
        if before is None:
            return out
        out = out[:, self.margin :]
        share = torch.linspace(0, 1, self.fade, device=out.device)
        return torch.cat((torch.lerp(before, out[:, : self.fade], share), out[:, self.fade :]), 1)
