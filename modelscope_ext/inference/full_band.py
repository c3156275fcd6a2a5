"""The band above 8 kHz: gains from what the network keeps of 4 … 7.5 kHz and from a noise floor that is tracked.

Axes: audio (C, n), a channel a row; frames (C, T, ...); bands (C, T, B). Lengths are in samples.

The rule, exactly. `rate` is that of the recording, the network runs at 16 kHz.

1. Frames. hop = round(rate / 125), 8 ms. Frame j is centred at sample j * hop and has 2 * hop samples, j = 0, 1, …;
   samples before the first are zeros. The window, before and after, is the square root of a periodic Hann window. The
   spectrum X is that of the frame, zero-padded at its end to the next power of two. |X|² / hop is averaged over the
   bins of each band (`EDGES_HZ`): E[b].
2. What the network keeps. n = floor(j * hop * 16000 / rate) is the centre at 16 kHz. P and Q are the energies in bins
   32 … 60 (4 … 7.5 kHz) of the 128 samples before n of the network's input and output, under a periodic Hann window.
   g = min(1, sqrt((Q + 1e-10) / (P + 1e-10))).
3. Presence of speech. p = clip((g - 0.25) / 0.25, 0, 1); h = max(p, 0.6 * h), at first 0.
4. Noise floor of each band, at first 1e-9. r = (1 - h) * max(0.1, 1 / (1 + j)), then N += r * (E' - N), where E' is E,
   from frame 16 on at most 1.5 * N. N is at least 1e-9.
5. Wiener gain of each band by the decision-directed method (Ephraim and Malah, 1984). s = E / (0.7 * N),
   x = max(0.88 * W² * s' + 0.12 * max(s - 1, 0), 0.001) with W and s' = s of the frame before (at first 1), then
   W = x / (1 + x).
6. Gain of each band: G = W^0.35 * sqrt(clip((g - 0.05) / 0.55, 0, 1)), linear between the means of the bands' bin
   frequencies and constant beyond the first and the last.
7. Crossover. X * G * (1 - D²) is transformed back, windowed and added at a hop. D² is what the two resamplings leave of
   a frequency f (`audio.response`): D = sum(c_k * cos(2 pi k f / 48000)) / sum(c_k), k = -72 … 72, where c_k is
   sinc(0.92 k / 3) times a Kaiser window of beta 7; D = 0 from 8320 Hz on. The network's output at the recording's rate
   is added: with gains of 1 and a network that changes nothing, the sum is the recording.
"""

import math

import numpy as np

from modelscope_ext.audio import SAMPLE_RATE, response

#: Limits of the bands; those below half the rate are used.
EDGES_HZ = (8000, 9500, 11000, 13000, 15500, 18000, 20000, 22000)
#: Frames a second.
FRAMES = 125
#: Length in samples and bins (4 … 7.5 kHz) of the frames of the network's input and output at 16 kHz.
SPAN, KEPT = 128, slice(32, 61)
TINY, LEAST_NOISE = 1e-10, 1e-9


class HighBand:
    """What a stream has above the network's band, denoised.

    Args:
        rate: of the stream in Hz; see `covers`.
        channels: of the stream.
    """

    def __init__(self, rate: int, channels: int) -> None:
        self.rate, self.hop = rate, round(rate / FRAMES)
        self.window = np.sqrt(np.hanning(2 * self.hop + 1)[:-1]).astype(np.float32)
        bins = np.outer(np.arange(SPAN), np.arange(KEPT.start, KEPT.stop)) * (2 * np.pi / SPAN)
        parts = np.concatenate((np.cos(bins), np.sin(bins)), 1)  # a DFT of few bins: a product takes less time
        self.to_kept = np.float32(np.hanning(SPAN + 1)[:-1, None] * parts)
        self.size = 1 << (2 * self.hop - 1).bit_length()
        self._plan_bands()
        self.audio = np.zeros((channels, self.hop), np.float32)  # from the beginning of the next frame on
        self.before = self.after = np.zeros((channels, SPAN), np.float32)  # the network's input and output …
        self.start = -SPAN  # … from this sample on
        self.frame = 0
        self.tail = np.zeros((channels, self.hop), np.float32)
        self.gains = [_Gains(len(self.starts)) for _ in range(channels)]

    @staticmethod
    def covers(rate: int) -> bool:
        """Return True if audio of this rate has a band above the network's, of two bins at least."""
        return rate >= SAMPLE_RATE + 2 * FRAMES

    def _plan_bands(self) -> None:
        """Set the first bin of each band, counted from 8 kHz, and the matrix from gains of bands to gains of bins."""
        freqs = np.fft.rfftfreq(self.size, 1 / self.rate)
        share = 1 - np.square(response(freqs, SAMPLE_RATE))
        self.first = int(np.searchsorted(freqs, EDGES_HZ[0]))
        starts = np.searchsorted(freqs[self.first :], EDGES_HZ)
        self.starts = starts[starts < len(freqs) - self.first]
        counts = np.diff(self.starts, append=len(freqs) - self.first)
        self.scale = np.float32(counts * self.hop)
        centres = np.add.reduceat(freqs[self.first :], self.starts) / counts
        self.to_bins = np.float32([np.interp(freqs, centres, unit) * share for unit in np.eye(len(centres))])

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
        done = max(0, int(self._centres(1)[0]) - SPAN - self.start)
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

    def _centres(self, count: int) -> np.ndarray:
        """Return the centres of the next frames at the network's rate."""
        return np.arange(self.frame, self.frame + count) * (self.hop * SAMPLE_RATE) // self.rate

    def _process(self, count: int) -> np.ndarray:
        """Return the finished samples (C, count * hop) after the next `count` frames."""
        hops = self.audio[:, : (count + 1) * self.hop].reshape(len(self.audio), -1, self.hop)
        frames = np.concatenate((hops[:, :-1], hops[:, 1:]), 2)
        spec = np.fft.rfft(frames * self.window, self.size)
        energy = np.add.reduceat(_power(spec[..., self.first :]), self.starts, 2) / self.scale
        rows = zip(self.gains, energy, self._kept(count), strict=True)
        spec *= np.float32([gains.update(*row) for gains, *row in rows]) @ self.to_bins
        made = np.fft.irfft(spec, self.size)[..., : 2 * self.hop] * self.window
        done = made[..., : self.hop]
        done[:, 0] += self.tail
        done[:, 1:] += made[:, :-1, self.hop :]
        self.tail = made[:, -1, self.hop :]
        return done.reshape(len(done), -1)

    def _kept(self, count: int) -> np.ndarray:
        """Return which share of the amplitude the network keeps, (C, count), for the next frames."""
        centres = (self._centres(count) - self.start).tolist()
        spans = [audio[:, centre - SPAN : centre] for audio in (self.before, self.after) for centre in centres]
        energy = np.square(np.concatenate(spans) @ self.to_kept).sum(1).reshape(2, count, -1) + TINY
        return np.minimum(np.sqrt(energy[1] / energy[0]), 1).T


class _Gains:
    """The gains of a channel's bands; steps 3 to 6. Python floats: numpy takes twice as long for so few."""

    def __init__(self, bands: int) -> None:
        self.frame, self.held = 0, 0.0
        self.noise = [LEAST_NOISE] * bands
        self.memory = [0.88] * bands  # what the last frame leaves for the next x

    def update(self, energy: np.ndarray, kept: np.ndarray) -> list[list[float]]:
        """Return the gains (T, B) for energies (T, B) and the network's shares (T,)."""
        return [self._step(*frame) for frame in zip(energy.tolist(), kept.tolist(), strict=True)]

    def _step(self, energy: list[float], kept: float) -> list[float]:
        self.held = max(min((kept - 0.25) / 0.25, 1.0), 0.6 * self.held)  # which is not negative
        rate = (1 - self.held) * max(0.1, 1 / (1 + self.frame))
        most = 1.5 if self.frame >= 16 else math.inf
        opened = math.sqrt(min(max((kept - 0.05) / 0.55, 0.0), 1.0))
        self.frame += 1
        gains = []
        for band, power in enumerate(energy):
            noise = self.noise[band]
            noise = max(noise + rate * (min(power, most * noise) - noise), LEAST_NOISE)
            snr = power / (0.7 * noise)
            prior = max(self.memory[band] + 0.12 * max(snr - 1, 0.0), 1e-3)
            wiener = prior / (1 + prior)
            self.noise[band], self.memory[band] = noise, 0.88 * wiener * wiener * snr
            gains.append(opened * wiener**0.35)
        return gains


def _power(spec: np.ndarray) -> np.ndarray:
    return np.square(spec.real) + np.square(spec.imag)
