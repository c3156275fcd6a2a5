"""Denoising of audio that comes in chunks of any size, at any rate, with explicit state.

Axes: chunks are (n,) or (n, channels); engines take (channels, n), one stream a channel.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from modelscope_ext.audio import AudioError, StreamResampler, as_float, from_float
from modelscope_ext.inference.backend import Backend
from modelscope_ext.inference.chunking import ChunkedInference

__all__ = ["DenoiseStream"]


class DenoiseStream:
    """One running stream; made by `Denoiser.stream`.

    Args:
        engine: a causal `Backend`, or `ChunkedInference`.
        sample_rate: of the chunks, Hz.
        channels: of the chunks; each is denoised on its own.
        noisy_share: how much of the input stays in the output, 0 … 1.
        lead_in_s: so many seconds of the first chunk, or all of it if it is shorter, are heard backwards before it, and
            what comes of them is thrown away: the network knows the noise when the signal begins.

    What `feed` and `flush` return, one after the other, is as long as what was fed and lines up with it.
    `latency_ms` is how much later input an output sample may depend on.

    A stream may go from thread to thread, but two may not use it at once, and it cannot be copied or pickled: it is in
    the middle of one signal.
    """

    def __init__(
        self,
        engine: Backend | ChunkedInference,
        sample_rate: int,
        channels: int = 1,
        noisy_share: float = 0.0,
        lead_in_s: float = 0.0,
    ) -> None:
        self.engine, self.channels, self.noisy_share = engine, channels, np.float32(noisy_share)
        self.down = self.up = None
        if sample_rate != engine.sample_rate:
            self.down = StreamResampler(sample_rate, engine.sample_rate, channels)
            self.up = StreamResampler(engine.sample_rate, sample_rate, channels)
        waits = sum(resampler.waits for resampler in (self.down, self.up) if resampler)
        self.latency_ms = 1000 * (engine.latency / engine.sample_rate + waits)
        self.state: Any = None
        self.lag = engine.delay  # samples of the network's output that come before the first of the input
        self.noisy = np.zeros((0, channels), np.float32)  # input whose output is not out yet
        self.lead_in = round(lead_in_s * sample_rate)  # samples; 0 as soon as they were heard
        self.unwanted = 0  # samples that come out before the signal's first
        self.dtype: np.dtype | None = None
        self.mono = True
        self.closed = False
        self.busy = threading.Lock()

    def __reduce__(self) -> Any:
        raise TypeError("a stream is in the middle of a signal and cannot be copied or pickled; make another one")

    def feed(self, chunk: np.ndarray) -> np.ndarray:
        """Takes (n,) or (n, channels) samples, n from 0 up; returns those that are finished, of the same type.

        Raises:
            AudioError: the shape or the type is not that of this stream, or a sample is NaN or infinite.
            RuntimeError: the stream was flushed, or another thread is using it.
        """
        with self._open():
            chunk = np.asarray(chunk)
            if chunk.ndim not in (1, 2) or (chunk.shape[1] if chunk.ndim == 2 else 1) != self.channels:
                wanted = f"(n, {self.channels})" if self.channels > 1 else "(n,)"
                raise AudioError(f"this stream takes chunks of shape {wanted}, got {chunk.shape}")
            samples = as_float(chunk).reshape(len(chunk), self.channels)
            self.dtype, self.mono = chunk.dtype, chunk.ndim == 1
            if self.lead_in and len(samples):
                lead_in, self.lead_in = samples[self.lead_in : 0 : -1], 0
                self.unwanted = len(lead_in)
                samples = np.concatenate((lead_in, samples))
            self.noisy = np.concatenate((self.noisy, samples))
            resampled = self.down.feed(samples) if self.down else samples
            out = self._enhance(resampled)
            return self._emit(self.up.feed(out) if self.up else out)

    def flush(self) -> np.ndarray:
        """The samples that were waiting for later input; the stream ends here.

        Raises:
            RuntimeError: the stream was flushed before, or another thread is using it.
        """
        with self._open():
            self.closed = True
            rest = self.down.flush() if self.down else np.zeros((0, self.channels), np.float32)
            out = np.concatenate((self._enhance(rest), self._aligned(self.engine.finish(self.state))))
            if self.up:
                out = np.concatenate((self.up.feed(out), self.up.flush()))
            return self._emit(out)

    @contextmanager
    def _open(self) -> Iterator[None]:
        if not self.busy.acquire(blocking=False):
            raise RuntimeError("another thread is using this stream; make one for each signal")
        try:
            if self.closed:
                raise RuntimeError("this stream was flushed; make a new one")
            yield
        finally:
            self.busy.release()

    def _enhance(self, samples: np.ndarray) -> np.ndarray:
        out, self.state = self.engine.feed(samples.T, self.state)
        return self._aligned(out)

    def _aligned(self, out: np.ndarray) -> np.ndarray:
        if self.lag:
            drop = min(self.lag, out.shape[1])
            self.lag -= drop
            out = out[:, drop:]
        return out.T

    def _emit(self, out: np.ndarray) -> np.ndarray:
        out, noisy = out[: len(self.noisy)], self.noisy[: len(out)]
        self.noisy = self.noisy[len(out) :]
        if self.noisy_share:
            out = out + self.noisy_share * (noisy - out)
        if self.unwanted:
            drop = min(self.unwanted, len(out))
            self.unwanted -= drop
            out = out[drop:]
        out = from_float(out, self.dtype or np.dtype(np.float32))
        return out[:, 0] if self.mono and self.channels == 1 else out
