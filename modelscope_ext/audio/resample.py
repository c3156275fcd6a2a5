"""Conversion of sample rates, for whole signals and for streams."""

import math

import numpy as np
import soxr

from modelscope_ext.audio.pcm import AudioError

#: The filters of `StreamResampler` have about 50 times as many taps. It converts all whole rates up to this one.
MAX_FACTOR = 100_000


def resample(audio: np.ndarray, source_rate: float, target_rate: float) -> np.ndarray:
    """Return (N,) or (N, channels) audio at another rate."""
    if source_rate == target_rate:
        return audio
    return soxr.resample(audio, source_rate, target_rate)


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

    def __init__(self, source_rate: int, target_rate: int, channels: int, half_length: int = 24) -> None:
        common = math.gcd(source_rate, target_rate)
        self.up, self.down = target_rate // common, source_rate // common
        factor = max(self.up, self.down)
        if factor > MAX_FACTOR:
            raise AudioError(f"{source_rate} Hz and {target_rate} Hz have too small a common divisor for a conversion")
        from scipy.signal import upfirdn  # late: the import takes a good part of a second

        self._upfirdn = upfirdn
        #: Half the filter at the rate source * up; a multiple of `down`, so that outputs fall on whole steps.
        self.half = -(-half_length * factor // self.down) * self.down
        window = np.kaiser(2 * self.half + 1, 7.0)
        taps = np.arange(-self.half, self.half + 1) / factor * 0.92  # the cut-off is just below the lower Nyquist
        self.filter = (np.sinc(taps) * window).astype(np.float64)
        self.filter = (self.filter * self.up / self.filter.sum()).astype(np.float32)
        self.waits = self.half / (source_rate * self.up)  # seconds
        self.buffer = np.zeros((0, channels), np.float32)
        self.start = 0  # input index of the buffer's first sample, a multiple of `down`
        self.fed = self.done = 0  # input samples taken, output samples returned

    def feed(self, chunk: np.ndarray) -> np.ndarray:
        """Take (n, channels) samples and return those that are ready."""
        self.buffer = np.concatenate((self.buffer, chunk))
        self.fed += len(chunk)
        ready = max(self.done, (self.fed * self.up - self.half - 1) // self.down + 1)
        if ready == self.done:
            return chunk[:0]
        offset = self.half // self.down - self.start * self.up // self.down
        filtered = self._upfirdn(self.filter, self.buffer, self.up, self.down, axis=0)
        out = filtered[self.done + offset : ready + offset]
        self.done = ready
        needed = max(0, (ready * self.down - self.half) // self.up // self.down * self.down)
        self.buffer, self.start = self.buffer[needed - self.start :], needed
        return out

    def flush(self) -> np.ndarray:
        """Return the rest; the whole output has ceil(n * target_rate / source_rate) samples."""
        missing = -(-self.fed * self.up // self.down) - self.done
        silence = np.zeros((self.half // self.up + self.down + 1, self.buffer.shape[1]), np.float32)
        return self.feed(silence)[:missing]
