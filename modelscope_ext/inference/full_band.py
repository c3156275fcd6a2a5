"""The band above 8 kHz: gains of 8 bands that a small network predicts, and the crossover to the band below.

Axes: audio (C, n), a channel a row; frames (C, T, ...); bands (C, T, B). Lengths are in samples.

The rule, exactly. `rate` is that of the recording, the network below runs at 16 kHz.

1. Frames. hop = round(rate / 125), 8 ms. Frame j is centred at sample j * hop and has 2 * hop samples, j = 0, 1, …;
   samples before the first are zeros. The window, before and after, is the square root of a periodic Hann window. The
   spectrum X is that of the frame, zero-padded at its end to the next power of two. |X|² / hop is averaged over the
   bins of each band from a limit in `EDGES_HZ` to the next: E[b], 0 for a band beyond half the rate.
2. Below. n = floor(j * hop * 16000 / rate) is the centre at 16 kHz. Of the 128 samples before n of the network's input
   and output, under a periodic Hann window, the squared spectrum / 128 is averaged over the bins of each band from a
   limit in `LOW_BINS` to the next: P[k] and Q[k].
3. Gains of the bands from E, P and Q of this frame and those before: `band_gains.py`. They are linear between the means
   of the bands' bin frequencies and constant beyond the first and the last.
4. Crossover. X * G * (1 - D²) is transformed back, windowed and added at a hop. D² is what the two resamplings leave of
   a frequency f (`audio.response`): D = sum(c_k * cos(2 pi k f / 48000)) / sum(c_k), k = -72 … 72, where c_k is
   sinc(0.92 k / 3) times a Kaiser window of beta 7; D = 0 from 8320 Hz on. The network's output at the recording's rate
   is added: with gains of 1 and a network that changes nothing, the sum is the recording.
"""

import numpy as np

from modelscope_ext.audio import SAMPLE_RATE, response
from modelscope_ext.inference.band_gains import HIGH, LOW, BandGains

#: Limits of the bands; those below half the rate are used.
EDGES_HZ = (8000, 9500, 11000, 13000, 15500, 18000, 20000, 22000, 24000)
#: Frames a second.
FRAMES = 125
#: Length in samples of the frames of the network's input and output at 16 kHz, and limits of their bands in bins.
SPAN, LOW_BINS = 128, (1, 4, 8, 16, 32, 46, 61)


def _low_spectrum() -> np.ndarray:
    """Return the matrix (128, 120) from samples to scaled real and imaginary parts in turn, window included."""
    bins, counts = np.arange(LOW_BINS[0], LOW_BINS[-1]), np.diff(LOW_BINS)
    angles = 2 * np.pi / SPAN * np.outer(np.arange(SPAN), bins)
    window, scale = np.hanning(SPAN + 1)[:-1, None, None], np.sqrt(SPAN * counts.repeat(counts))
    return np.float32(window * np.stack((np.cos(angles), np.sin(angles)), 2) / scale[:, None]).reshape(SPAN, -1)


#: The spectra of the network's input and output, and where the bands of both begin among their squares.
LOW_SPECTRUM = _low_spectrum()
LOW_STARTS = 2 * np.add.outer([0, LOW_BINS[-1] - LOW_BINS[0]], np.array(LOW_BINS[:-1]) - LOW_BINS[0]).ravel()


class HighBand:
    """What a stream has above the network's band, denoised.

    Args:
        rate: of the stream in Hz; see `covers`.
        channels: of the stream.
    """

    def __init__(self, rate: int, channels: int) -> None:
        self.rate, self.hop = rate, round(rate / FRAMES)
        self.window = np.sqrt(np.hanning(2 * self.hop + 1)[:-1]).astype(np.float32)
        self.size = 1 << (2 * self.hop - 1).bit_length()
        self._plan_bands()
        self.audio = np.zeros((channels, self.hop), np.float32)  # from the beginning of the next frame on
        self.before = self.after = np.zeros((channels, SPAN), np.float32)  # the network's input and output …
        self.start = -SPAN  # … from this sample on
        self.frame = 0
        self.tail = np.zeros((channels, self.hop), np.float32)
        self.gains = BandGains(channels)

    @staticmethod
    def covers(rate: int) -> bool:
        """Return True if audio of this rate has a band above the network's, of two bins at least."""
        return rate >= SAMPLE_RATE + 2 * FRAMES

    def _plan_bands(self) -> None:
        """Set the first bin of each band, counted from 8 kHz, and the matrix from gains of bands to gains of bins."""
        freqs = np.fft.rfftfreq(self.size, 1 / self.rate)
        share = 1 - np.square(response(freqs, SAMPLE_RATE))
        edges = np.searchsorted(freqs, EDGES_HZ)
        self.first, self.last = int(edges[0]), int(edges[-1])
        self.starts = edges[:-1][edges[:-1] < len(freqs)] - self.first
        counts = np.diff(self.starts, append=self.last - self.first)
        self.share = np.ones(HIGH + 2 * LOW, np.float32)
        self.share[: len(counts)] = 1 / (counts * self.hop)
        centres = np.add.reduceat(freqs[self.first : self.last], self.starts) / counts
        to_bins = np.zeros((HIGH, len(freqs)), np.float32)
        to_bins[: len(centres)] = [np.interp(freqs, centres, unit) * share for unit in np.eye(len(centres))]
        self.to_parts = to_bins.repeat(2, 1)  # of real and imaginary parts in turn, as numbers lie in memory

    def feed(self, audio: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Take more of the stream and of the network's input and output (C, any n); return the finished (C, m)."""
        self.audio = np.concatenate((self.audio, audio), 1)
        self.before, self.after = np.concatenate((self.before, before), 1), np.concatenate((self.after, after), 1)
        known = self.start + min(self.before.shape[1], self.after.shape[1])
        whole = self.audio.shape[1] // self.hop - 1
        count = min(whole, self._known_frames(known) - self.frame)
        if count <= 0:
            return audio[:, :0]
        high = self._process(count)
        if self.frame == 0:
            high = high[:, self.hop :]  # without the half frame before the first sample
        self.frame += count
        self.audio = self.audio[:, count * self.hop :]
        done = max(0, self._centre(self.frame) - SPAN - self.start)
        self.before, self.after, self.start = self.before[:, done:], self.after[:, done:], self.start + done
        return high

    def ready(self, fed: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Return the number of samples that are ready after `fed` ones and the network's first `known` ones."""
        return np.maximum(0, np.minimum(fed // self.hop, self._known_frames(known)) - 1) * self.hop

    def _known_frames(self, known: np.ndarray | int) -> np.ndarray | int:
        """Return the number of frames whose centres are in the network's first `known` samples."""
        return ((known + 1) * self.rate - 1) // (self.hop * SAMPLE_RATE) + 1

    def flush(self) -> np.ndarray:
        """Return the rest (C, m) and a little more, as if silence followed."""
        length = self.before.shape[1]
        self.after = np.pad(self.after[:, :length], ((0, 0), (0, max(0, length - self.after.shape[1]))))
        quiet = np.zeros((len(self.audio), 4 * SPAN), np.float32)
        return self.feed(np.zeros((len(self.audio), 3 * self.hop), np.float32), quiet, quiet)

    def _centre(self, frame: int) -> int:
        """Return the centre of a frame at the network's rate."""
        return frame * self.hop * SAMPLE_RATE // self.rate

    def _process(self, count: int) -> np.ndarray:
        """Return the finished samples (C, count * hop) after the next `count` frames."""
        hop, rise, fall = self.hop, self.window[: self.hop], self.window[self.hop :]
        hops = self.audio[:, : (count + 1) * hop].reshape(len(self.audio), -1, hop)
        frames = np.concatenate((hops[:, :-1] * rise, hops[:, 1:] * fall), 2)
        spec = np.fft.rfft(frames, self.size).astype(np.complex64, copy=False)  # NumPy 1 has double precision
        parts = spec.view(np.float32)
        energies = np.zeros((*spec.shape[:2], HIGH + 2 * LOW), np.float32)
        power = np.square(parts[..., 2 * self.first : 2 * self.last])
        np.add.reduceat(power, 2 * self.starts, 2, out=energies[..., : len(self.starts)])
        np.add.reduceat(self._powers_below(count), LOW_STARTS, 2, out=energies[..., HIGH:])
        energies *= self.share
        parts *= self.gains.update(energies) @ self.to_parts
        made = np.fft.irfft(spec, self.size).astype(np.float32, copy=False)
        done, rest = made[..., :hop] * rise, made[..., hop : 2 * hop] * fall
        done[:, 0] += self.tail
        done[:, 1:] += rest[:, :-1]
        self.tail = rest[:, -1]
        return done.reshape(len(done), -1)

    def _powers_below(self, count: int) -> np.ndarray:
        """Return what adds up to the energies of the network's input and output in the next frames, (C, count, 240)."""
        spans = np.empty((len(self.audio), count, 2, SPAN), np.float32)
        for j in range(count):
            n = self._centre(self.frame + j) - self.start
            spans[:, j, 0], spans[:, j, 1] = self.before[:, n - SPAN : n], self.after[:, n - SPAN : n]
        return np.square(spans.reshape(-1, SPAN) @ LOW_SPECTRUM).reshape(len(spans), count, -1)
