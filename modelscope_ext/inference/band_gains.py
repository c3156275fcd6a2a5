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
#: From the 20 energies to these, the mean of the network's input and the sums of the upper two bands of both.
_SUMS = np.zeros((HIGH + 2 * LOW, HIGH + 2 * LOW + 3), np.float32)
np.fill_diagonal(_SUMS, 1)
_SUMS[HIGH : HIGH + LOW, -3] = 1 / LOW
_SUMS[HIGH + LOW - 2 : HIGH + LOW, -2] = _SUMS[-2:, -1] = 1


@functools.cache
def _session() -> Any:
    return open_session(HIGH_BAND)


def log_energies(energies: np.ndarray) -> np.ndarray:
    """Return the logarithms (C, T, 23) of energies (C, T, 20), with the three means and sums of steps 2 and 5 last."""
    return np.log(energies @ _SUMS + TINY)


def kept(logs: np.ndarray) -> np.ndarray:
    """Return the logarithm (C, T, 1) of what the gain is a power of; see step 5."""
    return np.float32(0.5) * np.minimum(logs[..., -1:] - logs[..., -2:-1], 0) - OFFSET


class BandGains:
    """The gains of running signals, of `channels` rows."""

    def __init__(self, channels: int) -> None:
        self.frame = 0
        self.floor = self.level = np.zeros((channels, 1), np.float32)
        self.hidden = np.zeros((1, channels * HIGH, HIDDEN), np.float32)

    def update(self, energies: np.ndarray) -> np.ndarray:
        """Return the gains (C, T, 8) of the next frames.

        Args:
            energies: (C, T, 20): of the recording in the 8 bands above 8 kHz, 0 in those that it lacks; of the
                network's input in the 6 bands below; of its output there.
        """
        logs = log_energies(energies)
        inputs = {"features": self.features(logs), "kept": kept(logs), "hidden": self.hidden}
        gains, self.hidden = _session().run(("gains", "new_hidden"), inputs)
        return gains

    def features(self, logs: np.ndarray) -> np.ndarray:
        """Return the features (C, T, 8, 17) of the next frames from `log_energies`."""
        tracked, loud = logs[..., : HIGH + LOW], logs[..., -3:-2]
        floors, levels = np.empty_like(tracked), np.empty_like(loud)
        if self.frame == 0:
            self.floor, self.level = tracked[:, 0], loud[:, 0]
        for t in range(logs.shape[1]):
            share, step = 1 / (1 + self.frame), tracked[:, t] - self.floor
            least = np.minimum(step * max(RISE, share), step * max(FALL, share))
            self.floor = np.add(self.floor, least, out=floors[:, t])
            self.level = np.maximum(loud[:, t], self.level - DECAY, out=levels[:, t])
            self.frame += 1
        shares = np.maximum(logs[..., HIGH + LOW : -3] - logs[..., HIGH : HIGH + LOW], LEAST_SHARE)
        places = np.broadcast_to(PLACES, (*logs.shape[:2], HIGH))
        found = np.concatenate((tracked - floors, shares, loud - levels, places), 2)
        return (np.float32(0.3) * np.minimum(np.maximum(found, -12), 12)).take(OF_BANDS, -1)
