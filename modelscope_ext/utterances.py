"""Networks that hear a whole utterance at once, on audio of any length: in long chunks, cross-faded.

Axes: audio (B, N), one stream a row, float32 at the network's rate.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from modelscope_ext.engines import Engine

__all__ = ["REFERENCE_RMS", "Utterances", "UtterancesState", "reference_gain"]

#: -25 dBFS, the level that FRCRN was trained at.
REFERENCE_RMS = 10 ** (-25 / 20)


def reference_gain(audio: np.ndarray | Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
    """What takes (B, N) audio to the level that FRCRN was trained at, (B, 1), as modelscope's pipeline measures it.

    Samples above the root mean square, and only they, are brought to -25 dBFS RMS. Silence has a gain of 1. Of audio
    that is too long for memory, `audio` gives the (B, n) pieces, twice.
    """
    pieces = audio if callable(audio) else lambda: [audio]
    total, count = 0.0, 0
    for piece in pieces():
        total, count = total + np.square(piece, dtype=np.float64).sum(1, keepdims=True), count + piece.shape[1]
    threshold = total / max(count, 1)
    loud, count = 0.0, 0
    for piece in pieces():
        power = np.square(piece, dtype=np.float64)
        above = power >= threshold
        loud, count = loud + (power * above).sum(1, keepdims=True), count + above.sum(1, keepdims=True)
    level = np.sqrt(loud / np.maximum(count, 1))
    return np.divide(REFERENCE_RMS, level, out=np.ones_like(level), where=level > 0).clip(max=1e30)  # fits a float32


class UtterancesState(NamedTuple):
    """What is between two calls."""

    audio: np.ndarray  # (B, n) from the beginning of the next chunk on
    fade: np.ndarray | None  # (B, fade) end of the last chunk's output; None before the first chunk


class Utterances:
    """An engine for whole utterances that is fed piece by piece.

    Args:
        engine: has `enhance((B, N)) -> (B, N)` and `sample_rate`.
        gain: (B, 1), what brings the input to the level that the engine wants; undone after it.
        chunk_s: seconds of a chunk. The last one has half as many to one and a half times as many, so that audio of
            up to one and a half chunks is denoised in one piece.
        margin_s: so much at the inner ends of a chunk is thrown away, for want of context; at least what the engine
            wants to hear before it begins.
        fade_s: then so much is faded linearly into the next chunk.
        batch: chunks that are denoised at once, where so many are there; each takes its own memory.

    `feed(audio, state)` returns what is finished, and the new state; `finish(state)` the rest. Nothing is delayed, lost
    or added.
    """

    delay = 0

    def __init__(
        self,
        engine: Engine,
        gain: np.ndarray | float = 1.0,
        chunk_s: float = 15.0,
        margin_s: float = 0.15,
        fade_s: float = 0.2,
        batch: int = 1,
    ) -> None:
        self.engine, self.gain, self.batch = engine, np.float32(gain), batch
        self.sample_rate = engine.sample_rate
        margin_s = max(margin_s, engine.lead_in_s)
        self.chunk, self.margin, self.fade = (round(s * engine.sample_rate) for s in (chunk_s, margin_s, fade_s))
        if self.chunk < 2 * (2 * self.margin + self.fade):
            raise ValueError(f"chunks of {chunk_s} s are too short for margins of {margin_s} s and fades of {fade_s} s")

    @property
    def latency(self) -> int:
        """Samples of later input that an output sample may depend on."""
        return 3 * self.chunk // 2

    def feed(self, audio: np.ndarray, state: UtterancesState | None = None) -> tuple[np.ndarray, UtterancesState]:
        """Takes (B, n) samples, any n; returns the (B, m) that are finished."""
        waiting, fade = state or UtterancesState(audio[:, :0], None)
        return self._whole_chunks(UtterancesState(np.concatenate((waiting, audio), 1), fade), self.batch)

    def finish(self, state: UtterancesState) -> np.ndarray:
        """The (B, m) samples that are left when the input has ended."""
        done, (waiting, fade) = self._whole_chunks(state, 1)
        last = self._faded(self._denoise(waiting[None])[0], fade) if waiting.shape[1] else waiting
        return np.concatenate((done, last), 1)

    def _whole_chunks(self, state: UtterancesState, fewest: int) -> tuple[np.ndarray, UtterancesState]:
        """Denoises chunks, up to `batch` at once, as long as `fewest` are there, and a last one is left."""
        waiting, fade = state
        step, done = self.chunk - 2 * self.margin - self.fade, [waiting[:, :0]]
        while (ready := (waiting.shape[1] - 3 * self.chunk // 2 + step - 1) // step) >= fewest:
            count = min(ready, self.batch)
            chunks = np.stack([waiting[:, i * step : i * step + self.chunk] for i in range(count)])
            for out in self._denoise(chunks):
                out = self._faded(out, fade)
                end = out.shape[1] - self.margin
                done.append(out[:, : end - self.fade])
                fade = out[:, end - self.fade : end]
            waiting = waiting[:, count * step :]
        return np.concatenate(done, 1), UtterancesState(waiting, fade)

    def _denoise(self, chunks: np.ndarray) -> np.ndarray:
        """(chunks, B, n) → the same shape."""
        level = chunks * self.gain
        return self.engine.enhance(level.reshape(-1, level.shape[2])).reshape(level.shape) / self.gain

    def _faded(self, out: np.ndarray, before: np.ndarray | None) -> np.ndarray:
        """A chunk's output from where the one before it begins to fade."""
        if before is None:
            return out
        out = out[:, self.margin :]
        share = np.linspace(0, 1, self.fade, dtype=np.float32)
        faded = before + share * (out[:, : self.fade] - before)
        return np.concatenate((faded, out[:, self.fade :]), 1)
