"""The gains of the bands above 8 kHz, by a recurrent network of 12,433 weights that all bands share, by onnxruntime.

Axes: (C, T, ...), a channel a row. `full_band.py` defines the energies. L is the natural logarithm of an energy plus
1e-10 in a frame, for each of the 8 bands above 8 kHz and the 6 bands of the network's input below.

1. Floor. N follows L: it rises by max(0.005, 1 / (1 + j)) and falls by max(0.1, 1 / (1 + j)) of the distance in frame
   j = 0, 1, …; at first N = L.
2. Level. M is the logarithm of the mean of the 6 bands, or M of the frame before, less 6 dB a second, if that is more.
3. Features of a band, 17: L - N of it, of the next lower and the next higher one above 8 kHz (of itself at the ends);
   L - N of the 6 bands below; what the network keeps of these, the logarithm of output over input, at least -7; the
   logarithm in step 2 less M; the number of the band, -3 … 3. Each is clipped to -12 … 12; 0.3 times that is x.
4. Network. y = max(0, A x + a). A GRU as in PyTorch takes y and gives h. The exponent is exp(min(b h + c, 5)). Steps 4
   and 5 are an ONNX file.
5. Gain. g is the share of the amplitude that the network keeps in the upper two of its bands, with 1e-10 added to both
   energies, at most 1. The gain is (exp(-0.02) g) to the power of the exponent.
"""

import functools
from typing import Any

import numpy as np

from modelscope_ext.inference.onnx_backend import open_session
from modelscope_ext.pretrained import HIGH_BAND

#: Bands above 8 kHz; bands below; numbers of the GRU's state for a band.
HIGH, LOW, HIDDEN = 8, 6, 48
TINY, LEAST_SHARE = np.float32(1e-10), np.float32(-7)
#: Least shares of the distance by which the floor follows in a frame, and how far the level falls.
RISE, FALL, DECAY = 0.005, 0.1, np.float32(0.6 * np.log(10) / 125)
#: What is taken from the logarithm of the kept share, so that the gain may be low where all is kept.
OFFSET = np.float32(0.02)
PLACES = np.linspace(-3, 3, HIGH, dtype=np.float32)
#: The columns of each band's features; see `BandGains.features`.
OF_BANDS = [
    [b, max(0, b - 1), min(HIGH - 1, b + 1), *range(HIGH, HIGH + 2 * LOW + 1), HIGH + 2 * LOW + 1 + b]
    for b in range(HIGH)
]
OF_BANDS = np.array(OF_BANDS)


@functools.cache
def _session() -> Any:
    return open_session(HIGH_BAND)


def kept(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the logarithm (C, T, 1) of what the gain is a power of; see step 5."""
    put, got = (energy[..., -2:-1] + energy[..., -1:] + TINY for energy in (before, after))
    return np.float32(0.5) * np.log(np.minimum(got / put, 1)) - OFFSET


class BandGains:
    """The gains of running signals, of `channels` rows."""

    def __init__(self, channels: int) -> None:
        self.frame = 0
        self.floor = self.level = np.zeros((channels, 1), np.float32)
        self.hidden = np.zeros((1, channels * HIGH, HIDDEN), np.float32)

    def update(self, high: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Return the gains (C, T, 8) of the next frames.

        Args:
            high: energies (C, T, 8) of the recording above 8 kHz; 0 where it has no such band.
            before: energies (C, T, 6) of the network's input.
            after: energies (C, T, 6) of its output.
        """
        inputs = {"features": self.features(high, before, after), "kept": kept(before, after), "hidden": self.hidden}
        gains, self.hidden = _session().run(("gains", "new_hidden"), inputs)
        return gains

    def features(self, high: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Return the features (C, T, 8, 17) of the next frames; see `update`."""
        mean = before.sum(2, keepdims=True) / np.float32(LOW)
        logs = np.log(np.concatenate((high, before, after, mean), 2) + TINY)
        tracked, loud = logs[..., : HIGH + LOW], logs[..., -1:]
        found = np.empty((*logs.shape[:2], HIGH + 2 * LOW + 1 + HIGH), np.float32)
        shares = logs[..., HIGH + LOW : -1] - logs[..., HIGH : HIGH + LOW]
        np.maximum(shares, LEAST_SHARE, out=found[..., HIGH + LOW : -1 - HIGH])
        found[..., -HIGH:] = PLACES
        for t in range(logs.shape[1]):
            if self.frame == 0:
                self.floor, self.level = tracked[:, 0], loud[:, 0]
            share, step = 1 / (1 + self.frame), tracked[:, t] - self.floor
            self.floor = self.floor + np.minimum(max(RISE, share) * step, max(FALL, share) * step)
            self.level = np.maximum(loud[:, t], self.level - DECAY)
            np.subtract(tracked[:, t], self.floor, out=found[:, t, : HIGH + LOW])
            np.subtract(loud[:, t], self.level, out=found[:, t, -1 - HIGH : -HIGH])
            self.frame += 1
        found = np.float32(0.3) * np.minimum(np.maximum(found, -12), 12)
        return found.take(OF_BANDS, -1)
