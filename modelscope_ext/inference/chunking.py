"""Whole-utterance networks on recordings of any length: long chunks that are cross-faded in pauses.

Axes: audio (B, N), one stream a row, float32 at the network's rate.
"""

import math
from typing import NamedTuple

import numpy as np

from modelscope_ext.inference.backend import Backend, Limits
from modelscope_ext.inference.recording import RecordingStats

#: Seconds. Chunks begin at multiples of it, which are multiples of all hops (10, 16 and 20 ms): the output depends on
#: where the frames are.
GRID_S = 0.08


class EachAlone:
    """A back end that chunks each of several streams by itself: none depends on the others.

    Args:
        backend: the network.
        stats: of each stream, as for `ChunkedInference`.
    """

    causal = True

    def __init__(self, backend: Backend, stats: list[RecordingStats]) -> None:
        self.streams = [ChunkedInference(backend, each) for each in stats]
        self.name, self.sample_rate, self.limits = backend.name, backend.sample_rate, self.streams[0].limits

    def feed(self, audio: np.ndarray, state: list | None = None) -> tuple[np.ndarray, list]:
        """Return the samples (B, m) that are finished in all streams, and the new state after (B, n) more."""
        state = state or [(audio[:1, :0], None)] * len(audio)
        fed = [
            (waiting, *stream.feed(audio[row : row + 1], inner))
            for row, (stream, (waiting, inner)) in enumerate(zip(self.streams, state, strict=True))
        ]
        done = [np.concatenate((waiting, out), 1) for waiting, out, _ in fed]
        ready = min(each.shape[1] for each in done)
        out = np.concatenate([each[:, :ready] for each in done])
        return out, [(each[:, ready:], inner) for each, (_, _, inner) in zip(done, fed, strict=True)]

    def flush(self, state: list) -> np.ndarray:
        """Return the last samples (B, m)."""
        ends = [stream.flush(inner) for stream, (_, inner) in zip(self.streams, state, strict=True)]
        return np.concatenate([np.concatenate((each[0], end), 1) for each, end in zip(state, ends, strict=True)])


class ChunkedState(NamedTuple):
    """State between two calls."""

    audio: np.ndarray  # (B, n) from the beginning of the next chunk on
    fade: np.ndarray | None  # (B, fade) end of the last chunk's output; None before the first chunk
    stats: RecordingStats


class ChunkedInference:
    """A back end for whole utterances that is fed piece by piece. Nothing is delayed, lost or added.

    Args:
        backend: the network.
        stats: what `recording.scan` returns; None is a gain of 1 and no statistics.
        chunk_s: longest chunk in seconds; None takes `limits.chunk_s`. A chunk ends up to a fifth earlier where the
            input is quietest: two chunks differ least audibly in a pause. The last one has half to one and a half times
            the length. Audio of up to one and a half chunks is one chunk.
        margin_s: seconds at the inner ends of a chunk that are discarded for lack of context; at least the warm-up.
        fade_s: seconds of the linear fade into the next chunk.
        batch: number of chunks at once, if so many are ready; None takes `limits.batch`. They have the same length.
    """

    causal = True

    def __init__(
        self,
        backend: Backend,
        stats: RecordingStats | None = None,
        chunk_s: float | None = None,
        margin_s: float = 0.16,
        fade_s: float = 0.2,
        batch: int | None = None,
    ) -> None:
        self.backend, self.stats = backend, stats or RecordingStats()
        self.name, self.sample_rate = backend.name, backend.sample_rate
        rate, limits = backend.sample_rate, backend.limits
        self.batch = limits.batch if batch is None else batch
        chunk_s = limits.chunk_s if chunk_s is None else chunk_s
        self.grid = math.lcm(round(GRID_S * rate), limits.hop)
        self.margin = math.ceil(max(margin_s, limits.warmup_s) * rate / self.grid) * self.grid
        self.chunk, self.fade = round(chunk_s * rate), round(fade_s * rate)
        #: From the beginning of a chunk to that of the next one, at most and at least.
        self.step = (self.chunk - 2 * self.margin - self.fade) // self.grid * self.grid
        self.shortest = self.step - self.chunk // 5
        if self.shortest < self.fade:
            raise ValueError(
                f"chunks of {chunk_s} s are too short for margins of {self.margin / rate} s and fades of {fade_s} s"
            )
        self.limits = Limits(latency=3 * self.chunk // 2)

    def feed(self, audio: np.ndarray, state: ChunkedState | None = None) -> tuple[np.ndarray, ChunkedState]:
        """Return the finished samples (B, m) and the new state after (B, n) more samples, any n."""
        state = state or ChunkedState(audio[:, :0], None, self.stats)
        return self._process(state._replace(audio=np.concatenate((state.audio, audio), 1)), self.batch)

    def flush(self, state: ChunkedState) -> np.ndarray:
        """Return the last samples (B, m)."""
        done, (waiting, fade, stats) = self._process(state, 1)
        if waiting.shape[1]:
            waiting = self._faded(self._enhance(waiting[None], stats, more=False)[0][0], fade)
        return np.concatenate((done, waiting), 1)

    def _process(self, state: ChunkedState, fewest: int) -> tuple[np.ndarray, ChunkedState]:
        """Denoise chunks while at least `fewest` are ready besides a last one; up to `batch` at once."""
        waiting, fade, stats = state
        done = [waiting[:, :0]]
        while (ready := (waiting.shape[1] - 3 * self.chunk // 2 + self.step - 1) // self.step) >= fewest:
            count = min(ready, self.batch)
            step = self._quiet_step(waiting, count)
            size = step + 2 * self.margin + self.fade
            chunks = np.stack([waiting[:, i * step : i * step + size] for i in range(count)])
            outputs, own = self._enhance(chunks, stats, more=True)
            for i, out in enumerate(outputs):
                out = self._faded(out, fade)
                end = out.shape[1] - self.margin
                done.append(out[:, : end - self.fade])
                fade = out[:, end - self.fade : end]
                if own is not None:
                    stats = stats.update(own[i], step)
            waiting = waiting[:, count * step :]
        return np.concatenate(done, 1), ChunkedState(waiting, fade, stats)

    def _quiet_step(self, waiting: np.ndarray, count: int) -> int:
        """Return the step from chunk to chunk that makes the loudest of the next `count` fades quietest."""
        level = waiting[:, : count * self.step + self.margin + self.fade] * np.float32(self.stats.gain)
        until = np.concatenate(([0.0], np.square(level, dtype=np.float64).sum(0).cumsum()))
        steps = np.arange(self.step, self.shortest - 1, -self.grid)
        fades = steps * np.arange(1, count + 1)[:, None] + self.margin  # their first samples
        return int(steps[(until[fades + self.fade] - until[fades]).max(0).argmin()])

    def _enhance(self, chunks: np.ndarray, stats: RecordingStats, more: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the output of (chunks, B, n), same shape, and (chunks, B, ...) statistics of the chunks, if any."""
        level = chunks * np.float32(stats.gain)
        known = stats.current()
        known = None if known is None else np.concatenate([known] * len(chunks))
        out, own = self.backend.enhance(level.reshape(-1, level.shape[2]), known, more)
        own = None if own is None or known is None else own.reshape(*level.shape[:2], *own.shape[1:])
        return out.reshape(level.shape) / np.float32(stats.gain), own

    def _faded(self, out: np.ndarray, before: np.ndarray | None) -> np.ndarray:
        """Return a chunk's output from the beginning of its fade on, faded from the output of the chunk before."""
        if before is None:
            return out
        out = out[:, self.margin :]
        share = np.linspace(0, 1, self.fade, dtype=np.float32)
        faded = before + share * (out[:, : self.fade] - before)
        return np.concatenate((faded, out[:, self.fade :]), 1)
