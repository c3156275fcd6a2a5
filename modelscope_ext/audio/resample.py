"""Conversion of sample rates, for whole signals and for streams."""

import math

import numpy as np
import soxr

from modelscope_ext.audio.pcm import AudioError

#: The filters of `StreamResampler` have about 50 times as many taps. It converts all whole rates up to this one.
MAX_FACTOR = 100_000
#: Outputs of each phase from which on they are filtered phase by phase, without copies of the input.
FEWEST_A_PHASE = 16
#: Outputs whose inputs are copied at a time.
LARGEST_COPY = 4096
#: The filter of `StreamResampler`: its cut-off as a share of the lower Nyquist frequency, beta of its Kaiser
#: window and half its length in samples of the lower rate.
CUT_OFF, BETA, HALF_LENGTH = 0.92, 7.0, 24


def resample(audio: np.ndarray, source_rate: float, target_rate: float) -> np.ndarray:
    """Return (N,) or (N, channels) audio at another rate."""
    if source_rate == target_rate:
        return audio
    return soxr.resample(audio, source_rate, target_rate)


def response(freqs: np.ndarray, lower_rate: float) -> np.ndarray:
    """Return the share of each frequency in Hz that a `StreamResampler` keeps between a rate and a higher one.

    The filter is sampled at three times the lower rate, which is close enough: nothing is left beyond.
    """
    steps = np.arange(-3 * HALF_LENGTH, 3 * HALF_LENGTH + 1)
    taps = np.sinc(steps / 3 * CUT_OFF) * np.kaiser(len(steps), BETA)
    kept = np.cos(2 * np.pi / (3 * lower_rate) * np.outer(freqs, steps)) @ (taps / taps.sum())
    return np.where(np.asarray(freqs) < 0.52 * lower_rate, kept, 0.0)


class StreamResampler:
    """A converter for audio that comes in chunks, with a short linear-phase filter for low latency.

    Output sample m is at time m / target_rate. There is no delay to remove: samples only become ready later.

    Args:
        source_rate: rate of the input in Hz, a whole number.
        target_rate: rate of the output in Hz, a whole number.
        channels: channels of the (N, channels) float32 chunks.
        half_length: half the filter in samples of the lower rate; an output sample waits for so many.

    Raises:
        AudioError: the rates are above 100 kHz without a large common divisor, so that the filter would be huge.
    """

    def __init__(self, source_rate: int, target_rate: int, channels: int, half_length: int = HALF_LENGTH) -> None:
        common = math.gcd(source_rate, target_rate)
        self.up, self.down = target_rate // common, source_rate // common
        factor = max(self.up, self.down)
        if factor > MAX_FACTOR:
            raise AudioError(f"{source_rate} Hz and {target_rate} Hz have too small a common divisor for a conversion")
        #: Half the filter at the rate source * up; a multiple of `down`, so that outputs fall on whole steps.
        self.half = -(-half_length * factor // self.down) * self.down
        window = np.kaiser(2 * self.half + 1, BETA)
        taps = np.sinc(np.arange(-self.half, self.half + 1) / factor * CUT_OFF) * window
        self.taps = self._phases(np.float32(taps * self.up / taps.sum()))
        self.waits = self.half / (source_rate * self.up)  # seconds
        size = self.taps.shape[1]
        self.buffer, self.start = np.zeros((channels, size), np.float32), -size  # input index of its first sample
        self.fed = self.done = 0  # input samples taken, output samples returned

    def _phases(self, filter: np.ndarray) -> np.ndarray:
        """Return (up, taps): the weights of the last input samples of an output sample, for each of its phases."""
        size = -(-len(filter) // self.up)
        ends = (np.arange(self.up) * self.down + self.half) % self.up
        padded = np.zeros(size * self.up, np.float32)
        padded[: len(filter)] = filter
        return np.ascontiguousarray(padded.reshape(size, self.up).T[ends, ::-1])

    def ready(self, fed: np.ndarray | int) -> np.ndarray:
        """Return the number of output samples that are ready after `fed` input samples."""
        return np.maximum(0, (fed * self.up - self.half - 1) // self.down + 1)

    def feed(self, chunk: np.ndarray) -> np.ndarray:
        """Take (n, channels) samples and return those that are ready."""
        self.buffer = np.concatenate((self.buffer, chunk.T), 1)
        self.fed += len(chunk)
        ready = int(self.ready(self.fed))
        if ready == self.done:
            return chunk[:0]
        out = self._filtered(ready)
        self.done = ready
        unused = self._windows(ready)
        self.buffer, self.start = self.buffer[:, unused:], self.start + unused
        return out.T

    def _windows(self, output: np.ndarray | int) -> np.ndarray | int:
        """Return the index in the buffer of the first input sample of an output sample."""
        return (output * self.down + self.half) // self.up + 1 - self.taps.shape[1] - self.start

    def _filtered(self, ready: int) -> np.ndarray:
        """Return the output samples (channels, n) from `done` to `ready`."""
        out = np.empty((len(self.buffer), ready - self.done), np.float32)
        if out.shape[1] >= FEWEST_A_PHASE * self.up:
            for i in range(self.up):  # `down` input samples lie between two outputs of a phase
                part = out[:, i :: self.up]
                inputs = self._spans(self._windows(self.done + i), part.shape[1], self.down)
                part[:] = np.einsum("cnt,t->cn", inputs, self.taps[(self.done + i) % self.up])
            return out
        windows = self._spans(0, self.buffer.shape[1] - self.taps.shape[1] + 1, 1)
        for start in range(self.done, ready, LARGEST_COPY):
            outputs = np.arange(start, min(start + LARGEST_COPY, ready))
            inputs, taps = windows[:, self._windows(outputs)], self.taps[outputs % self.up]
            out[:, outputs - self.done] = np.einsum("cnt,nt->cn", inputs, taps)
        return out

    def _spans(self, first: int, count: int, step: int) -> np.ndarray:
        """Return views (channels, count, taps) of the buffer; `sliding_window_view` takes 20 times as long."""
        row, size = self.buffer.strides
        shape, strides = (len(self.buffer), count, self.taps.shape[1]), (row, step * size, size)
        return np.ndarray(shape, np.float32, self.buffer, int(first) * size, strides)

    def flush(self) -> np.ndarray:
        """Return the rest; the whole output has ceil(n * target_rate / source_rate) samples."""
        missing = -(-self.fed * self.up // self.down) - self.done
        silence = np.zeros((self.half // self.up + self.down + 1, len(self.buffer)), np.float32)
        return self.feed(silence)[:missing]
