"""Denoising of audio in chunks of any size, at any rate.

Axes: chunks are (n,) or (n, channels); back ends take (channels, n), one stream a channel.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from modelscope_ext.audio import SAMPLE_RATE, AudioError, StreamResampler, as_float, from_float
from modelscope_ext.inference.backend import Backend
from modelscope_ext.inference.full_band import FRAMES, SPAN, HighBand

#: Seconds of the longest block.
LONGEST_BLOCK_S = 10
#: Blocks that are tried for the shortest delay; unusual rates repeat later.
MOST_BLOCKS = 1_000_000


class DenoiseStream:
    """One running stream; `Denoiser.stream` makes it.

    Args:
        backend: a causal `Backend` or `ChunkedInference`.
        sample_rate: of the chunks, Hz.
        channels: of the chunks; each is denoised on its own.
        dry_gain: share of the input in the output, 0 … 1.
        band: "full" denoises what is above the network's band too, "speech" removes it.
        block: samples of every chunk; None takes chunks of any size.

    Without `block` the outputs of `feed` and `flush`, one after the other, have the length of the input and are aligned
    with it. An output sample depends on at most `latency_ms` of later input.

    With `block` every `feed` takes and returns exactly so many samples, as the callback of an audio program needs them.
    The output begins with `delay` samples of silence, which are `latency_ms`. `flush` returns as many.

    A stream may move from thread to thread, but two may not use it at once. It cannot be copied or pickled: it is in
    the middle of one signal.
    """

    def __init__(
        self,
        backend: Backend,
        sample_rate: int,
        channels: int = 1,
        dry_gain: float = 0.0,
        band: str = "full",
        block: int | None = None,
    ) -> None:
        self._backend, self._channels, self._dry_gain = backend, channels, np.float32(dry_gain)
        self._down = self._up = self._high = None
        if sample_rate != backend.sample_rate:
            self._down = StreamResampler(sample_rate, backend.sample_rate, channels)
            self._up = StreamResampler(backend.sample_rate, sample_rate, channels)
        waits = sum(resampler.waits for resampler in (self._down, self._up) if resampler)
        if band == "full" and backend.sample_rate == SAMPLE_RATE and HighBand.covers(sample_rate):
            self._high = HighBand(sample_rate, channels)
            if sample_rate % FRAMES or backend.limits.algorithmic_delay % SPAN:  # its hops are not the network's
                waits = self._down.waits + max(self._up.waits, 1 / FRAMES)
        self.latency_ms = 1000 * (backend.limits.latency / backend.sample_rate + waits)
        self.delay = 0
        self._block = block
        if block is not None:
            self.delay = self._least_delay(block, sample_rate)
            self.latency_ms = 1000 * self.delay / sample_rate
        self._ready = np.zeros((self.delay, channels), np.float32)  # output that waits for its block
        self._state: Any = None
        self._lag = backend.limits.algorithmic_delay  # samples of output before the first of the input
        self._noisy = np.zeros((0, channels), np.float32)  # input whose output is not out yet
        self._low = self._above = self._noisy  # output of the network and above it, while one is behind the other
        self._dtype: np.dtype | None = None
        self._mono = True
        self._closed = False
        self._busy = threading.Lock()

    def __reduce__(self) -> Any:
        raise TypeError("a stream is in the middle of a signal and cannot be copied or pickled; make another one")

    def feed(self, chunk: np.ndarray) -> np.ndarray:
        """Return the finished samples after a chunk (n,) or (n, channels) in the type of the chunk; n may be 0.

        Raises:
            AudioError: the stream has another shape or type or a sample is NaN or infinite.
            RuntimeError: the stream was flushed or another thread is using it.
        """
        with self._open():
            chunk = np.asarray(chunk)
            if chunk.ndim not in (1, 2) or (chunk.shape[1] if chunk.ndim == 2 else 1) != self._channels:
                wanted = f"(n, {self._channels})" if self._channels > 1 else "(n,)"
                raise AudioError(f"this stream takes chunks of shape {wanted}, got {chunk.shape}")
            if self._block not in (None, len(chunk)):
                raise AudioError(f"this stream takes blocks of {self._block} samples, got {len(chunk)}")
            samples = as_float(chunk).reshape(len(chunk), self._channels)
            self._dtype, self._mono = chunk.dtype, chunk.ndim == 1
            self._noisy = np.concatenate((self._noisy, samples))
            resampled = self._down.feed(samples) if self._down else samples
            out = self._enhance(resampled)
            low = self._up.feed(out) if self._up else out
            if self._high:
                low = self._add(low, self._high.feed(samples.T, resampled.T, out.T))
            return self._emit(low, self._block)

    def flush(self) -> np.ndarray:
        """Return the samples that wait for later input and end the stream.

        Raises:
            RuntimeError: the stream was flushed before or another thread is using it.
        """
        with self._open():
            self._closed = True
            rest = self._down.flush() if self._down else np.zeros((0, self._channels), np.float32)
            out = np.concatenate((self._enhance(rest), self._aligned(self._backend.flush(self._state))))
            low = np.concatenate((self._up.feed(out), self._up.flush())) if self._up else out
            if self._high:
                above = self._high.feed(rest[:0].T, rest.T, out.T), self._high.flush()
                low = self._add(low, np.concatenate(above, 1))
            return self._emit(low)

    @contextmanager
    def _open(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("another thread is using this stream; make one for each signal")
        try:
            if self._closed:
                raise RuntimeError("this stream was flushed; make a new one")
            yield
        finally:
            self._busy.release()

    def _enhance(self, samples: np.ndarray) -> np.ndarray:
        out, self._state = self._backend.feed(samples.T, self._state)
        return self._aligned(out)

    def _aligned(self, out: np.ndarray) -> np.ndarray:
        if self._lag:
            drop = min(self._lag, out.shape[1])
            self._lag -= drop
            out = out[:, drop:]
        return out.T

    def _add(self, low: np.ndarray, above: np.ndarray) -> np.ndarray:
        """Return the sum of the network's output (n, channels) and what is above it (channels, m), as far as known."""
        low, above = np.concatenate((self._low, low)), np.concatenate((self._above, above.T))
        ready = min(len(low), len(above))
        self._low, self._above = low[ready:], above[ready:]
        return low[:ready] + above[:ready]

    def _least_delay(self, block: int, sample_rate: int) -> int:
        """Return the samples by which the output must lag behind the input so that no block lacks any."""
        if not (isinstance(block, (int, np.integer)) and 1 <= block <= sample_rate * LONGEST_BLOCK_S):
            raise ValueError(f"block must be 1 … {sample_rate * LONGEST_BLOCK_S} samples, got {block!r}")
        limits, rate = self._backend.limits, self._backend.sample_rate
        whole_hops = math.lcm(limits.hop * sample_rate, rate) // rate  # the pattern of finished samples repeats
        if self._high:
            whole_hops = math.lcm(whole_hops, self._high.hop)
        count = math.lcm(whole_hops, int(block)) // block
        if count > MOST_BLOCKS:
            return math.ceil(self.latency_ms * sample_rate / 1000)
        later = -(-sample_rate // whole_hops) * whole_hops  # at first nothing is finished
        fed = block * np.arange(1, count + 1) + later
        resampled = self._down.ready(fed) if self._down else fed
        done = np.maximum(0, resampled // limits.hop * limits.hop - limits.algorithmic_delay)
        out = self._up.ready(done) if self._up else done
        if self._high:
            out = np.minimum(out, self._high.ready(fed, done))
        return int((fed - out).max())

    def _emit(self, out: np.ndarray, count: int | None = None) -> np.ndarray:
        out, noisy = out[: len(self._noisy)], self._noisy[: len(out)]
        self._noisy = self._noisy[len(out) :]
        if self._dry_gain:
            out = out + self._dry_gain * (noisy - out)
        if self._block:
            out = np.concatenate((self._ready, out))
            out, self._ready = out[:count], out[count:] if count else out[:0]
        out = from_float(out, self._dtype or np.dtype(np.float32))
        return out[:, 0] if self._mono and self._channels == 1 else out
