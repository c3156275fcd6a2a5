"""Levels of a recording and of its noise, measured in bounded memory.

Axes: (n, channels) or (n,).
"""

from collections.abc import Callable, Iterable

import numpy as np

from modelscope_ext.audio import AudioFile, as_float, open_audio

#: Seconds of a frame, and the share of frames that are pauses between words.
FRAME_S, PAUSES = 0.02, 0.1
#: Lowest level in dBFS and number of classes of 0.5 dB above it.
FLOOR_DB, CLASSES = -100, 300
#: Root mean squares between which networks are as good as anywhere (-60 and +6 dBFS), what others are scaled to, and
#: the least one.
QUIET, LOUD = 1e-3, 2.0
#: Subtypes that hold more than full scale.
FLOATS = ("FLOAT", "DOUBLE")
#: Seconds of audio in memory at a time.
BLOCK_S = 10.0
#: Peak above which floating-point samples have the range of 16-bit integers.
OF_INTEGERS = 256.0
USUAL, LEAST = 0.05, 1e-7


class NoiseMeter:
    """Distribution of the levels of short frames; its lower end is the noise.

    Args:
        sample_rate: of the blocks, Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        self._frame = max(1, round(FRAME_S * sample_rate))
        self._counts = np.zeros(CLASSES, np.int64)

    def add(self, block: np.ndarray) -> None:
        """Take the next (n, channels) samples."""
        whole = len(block) // self._frame * self._frame
        power = np.square(block[:whole]).reshape(-1, self._frame * block.shape[1]).mean(1, dtype=np.float64)
        level = 10 * np.log10(power + 1e-30)
        np.add.at(self._counts, np.clip(2 * (level - FLOOR_DB), 0, CLASSES - 1).astype(int), 1)

    @property
    def level_db(self) -> float | None:
        """Level in dBFS below which a tenth of the frames are; None without a frame."""
        total = self._counts.sum()
        if not total:
            return None
        return float(np.searchsorted(self._counts.cumsum(), PAUSES * total) / 2 + FLOOR_DB)


def level_gain(first: np.ndarray, blocks: Callable[[], Iterable[np.ndarray]]) -> np.ndarray | None:
    """Return the gain (channels,) that brings a recording to a usual level; None if it has one.

    Args:
        first: its first block; the others are read only if a channel is unusual in this one. No channel depends on
            the others.
        blocks: gives all of them.
    """
    unusual = _is_unusual(_power(first), len(first))
    if not unusual.any():
        return None
    power, length = 0.0, 0
    for block in blocks():
        power, length = power + _power(block), length + len(block)
    level = np.sqrt(power / max(length, 1))
    unusual &= _is_unusual(power, length) & (level > LEAST)
    gain = np.where(unusual, USUAL / np.maximum(level, LEAST), 1.0).astype(np.float32)
    return gain if unusual.any() else None


def full_scale_gain(peak: float) -> float:
    """Return the gain for results that hold no more than full scale: of samples in ±32768, or else of loud ones."""
    if peak <= LOUD:
        return 1.0
    return 1 / 32768 if peak > OF_INTEGERS else 1 / peak


def float_gain(file: AudioFile) -> tuple[float, float]:
    """Return the peak of a file of floating-point samples and its `full_scale_gain`; 0 and 1 for other files."""
    if file.subtype not in FLOATS:
        return 0.0, 1.0
    with open_audio(file.name, file.track, warn=False) as other:
        peak = max((float(np.abs(block).max()) for block in other.blocks(BLOCK_S)), default=0.0)
    return peak, full_scale_gain(peak)


def _power(block: np.ndarray) -> np.ndarray:
    """Return the energy of each channel."""
    samples = as_float(block if block.ndim == 2 else block[:, None])
    return np.einsum("nc,nc->c", samples, samples, dtype=np.float64)


def _is_unusual(power: np.ndarray, length: int) -> np.ndarray:
    """Return True for each channel whose level is unusual; a silent one has any level."""
    level = np.sqrt(power / max(length, 1))
    return (level < QUIET) | (level > LOUD)
