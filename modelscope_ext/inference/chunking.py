"""Networks that hear a whole utterance at once, on audio of any length: in long chunks, cross-faded.

Axes: audio (B, N), one stream a row, float32 at the network's rate.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from modelscope_ext.inference.backend import Backend
from modelscope_ext.inference.recording import RecordingMeans

__all__ = ["REFERENCE_RMS", "ChunkedInference", "ChunkedState", "reference_gain"]

#: -25 dBFS, the level that FRCRN was trained at.
REFERENCE_RMS = 10 ** (-25 / 20)
#: Chunks begin at multiples of so many seconds, which are multiples of all hops (10, 16 and 20 ms): a network gives
#: something else where its frames lie elsewhere.
GRID_S = 0.08


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


class ChunkedState(NamedTuple):
    """What is between two calls."""

    audio: np.ndarray  # (B, n) from the beginning of the next chunk on
    fade: np.ndarray | None  # (B, fade) end of the last chunk's output; None before the first chunk
    means: RecordingMeans | None  # what is known of the recording


class ChunkedInference:
    """An engine for whole utterances that is fed piece by piece.

    Args:
        engine: the network.
        gain: (B, 1), what brings the input to the level that the engine wants; undone after it.
        means: what `digest.recording_means` gives.
        chunk_s: seconds of a chunk, at most; None takes what the engine wants. It ends up to a fifth of that earlier,
            where the input is at its lowest: in a pause, nobody hears that two chunks differ. The last one has half as
            many to one and a half times as many, so that audio of up to one and a half chunks is denoised in one piece.
        margin_s: so much at the inner ends of a chunk is thrown away, for want of context; at least what the engine
            wants to hear before it begins.
        fade_s: then so much is faded linearly into the next chunk.
        batch: chunks that are denoised at once, where so many are there; each takes its own memory. They have the
            same length.

    `feed(audio, state)` returns what is finished, and the new state; `finish(state)` the rest. Nothing is delayed, lost
    or added.
    """

    delay = 0

    def __init__(
        self,
        engine: Backend,
        gain: np.ndarray | float = 1.0,
        means: RecordingMeans | None = None,
        chunk_s: float | None = None,
        margin_s: float = 0.16,
        fade_s: float = 0.2,
        batch: int = 1,
    ) -> None:
        self.engine, self.gain, self.means, self.batch = engine, np.float32(gain), means, batch
        self.scratch: list = []
        self.sample_rate = rate = engine.sample_rate
        chunk_s = engine.chunk_s if chunk_s is None else chunk_s
        self.grid = round(GRID_S * rate)
        self.margin = math.ceil(max(margin_s, engine.lead_in_s) * rate / self.grid) * self.grid
        self.chunk, self.fade = round(chunk_s * rate), round(fade_s * rate)
        #: From one chunk's beginning to the next one's, at most and at least.
        self.step = (self.chunk - 2 * self.margin - self.fade) // self.grid * self.grid
        self.shortest = self.step - self.chunk // 5
        if self.shortest < self.fade:
            raise ValueError(
                f"chunks of {chunk_s} s are too short for margins of {self.margin / rate} s and fades of {fade_s} s"
            )

    @property
    def latency(self) -> int:
        """Samples of later input that an output sample may depend on, besides what `gain` and `means` were taken of."""
        return 3 * self.chunk // 2

    def feed(self, audio: np.ndarray, state: ChunkedState | None = None) -> tuple[np.ndarray, ChunkedState]:
        """Takes (B, n) samples, any n; returns the (B, m) that are finished."""
        state = state or ChunkedState(audio[:, :0], None, self.means)
        return self._whole_chunks(state._replace(audio=np.concatenate((state.audio, audio), 1)), self.batch)

    def finish(self, state: ChunkedState) -> np.ndarray:
        """The (B, m) samples that are left when the input has ended."""
        done, (waiting, fade, means) = self._whole_chunks(state, 1)
        self.scratch.clear()  # the last one may need more
        last = self._faded(self._denoise(waiting[None], means)[0][0], fade) if waiting.shape[1] else waiting
        return np.concatenate((done, last), 1)

    def _whole_chunks(self, state: ChunkedState, fewest: int) -> tuple[np.ndarray, ChunkedState]:
        """Denoises chunks, up to `batch` at once, as long as `fewest` are there, and a last one is left."""
        waiting, fade, means = state
        done = [waiting[:, :0]]
        while (ready := (waiting.shape[1] - 3 * self.chunk // 2 + self.step - 1) // self.step) >= fewest:
            count = min(ready, self.batch)
            step = self._quiet_step(waiting, count)
            size = step + 2 * self.margin + self.fade
            chunks = np.stack([waiting[:, i * step : i * step + size] for i in range(count)])
            outputs, own = self._denoise(chunks, means)
            for i, out in enumerate(outputs):
                out = self._faded(out, fade)
                end = out.shape[1] - self.margin
                done.append(out[:, : end - self.fade])
                fade = out[:, end - self.fade : end]
                if means and own is not None:
                    means = means.after(own[i], step)
            waiting = waiting[:, count * step :]
        return np.concatenate(done, 1), ChunkedState(waiting, fade, means)

    def _quiet_step(self, waiting: np.ndarray, count: int) -> int:
        """The step from chunk to chunk with which the loudest of the next `count` fades is at its lowest."""
        level = waiting[:, : count * self.step + self.margin + self.fade] * self.gain
        until = np.concatenate(([0.0], np.square(level, dtype=np.float64).sum(0).cumsum()))
        steps = np.arange(self.step, self.shortest - 1, -self.grid)
        fades = steps * np.arange(1, count + 1)[:, None] + self.margin  # where they begin
        return int(steps[(until[fades + self.fade] - until[fades]).max(0).argmin()])

    def _denoise(self, chunks: np.ndarray, means: RecordingMeans | None) -> tuple[np.ndarray, np.ndarray | None]:
        """(chunks, B, n) → the same shape, and (chunks, B, ...) own means, if any."""
        level = chunks * self.gain
        known = means and np.concatenate([means.now()] * len(chunks))
        out, own = self.engine.enhance_part(level.reshape(-1, level.shape[2]), known, self.scratch)
        own = None if own is None else own.reshape(*level.shape[:2], *own.shape[1:])
        return out.reshape(level.shape) / self.gain, own

    def _faded(self, out: np.ndarray, before: np.ndarray | None) -> np.ndarray:
        """A chunk's output from where the one before it begins to fade."""
        if before is None:
            return out
        out = out[:, self.margin :]
        share = np.linspace(0, 1, self.fade, dtype=np.float32)
        faded = before + share * (out[:, : self.fade] - before)
        return np.concatenate((faded, out[:, self.fade :]), 1)
