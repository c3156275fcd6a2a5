"""Time of each sample that is encoded, by the time stamps of its source.

Axes: (n, channels), float32; rates in Hz.
"""

from collections import deque

import numpy as np

from modelscope_ext.audio.reading import AudioFile

#: Shortest and longest gap in seconds in which silence is encoded. Shorter ones are the jitter of a recorder's clock.
SHORTEST_S, LONGEST_S = 0.1, 60.0


class Timeline:
    """Times of the samples of one track.

    A packet has one time stamp for all its samples. Silence in a gap keeps those that follow it in sync.

    Args:
        file: the track of the source, as it is read.
        sample_rate: rate at which its samples are encoded.
    """

    def __init__(self, file: AudioFile, sample_rate: int) -> None:
        self._file, self._rate = file, sample_rate
        self._read = self._silence = 0
        self._marks: deque[tuple[int, float]] = deque()

    def fill(self, block: np.ndarray) -> np.ndarray:
        """Return the next (n, channels) samples of the source with silence in its gaps."""
        parts, start, ratio = [], 0, self._rate / self._file.sample_rate
        for sample, seconds in self._file.jumps((self._read + len(block)) / ratio):
            at = max(start, round(sample * ratio) - self._read)
            place = self._read + at + self._silence
            gap = seconds - self._at(self._marks[-1], place) if self._marks else 0.0
            length = round(gap * self._rate) if SHORTEST_S <= gap <= LONGEST_S else 0
            parts += [block[start:at], np.zeros((length, block.shape[1]), np.float32)]
            self._marks.append((place + length, seconds))
            self._silence += length
            start = at
        self._read += len(block)
        return np.concatenate((*parts, block[start:])) if parts else block

    def time_of(self, sample: int) -> float:
        """Return the time in s of a sample that `fill` returned; calls go forwards."""
        while len(self._marks) > 1 and self._marks[1][0] <= sample:
            self._marks.popleft()
        return self._at(self._marks[0] if self._marks else (0, 0.0), sample)

    def _at(self, mark: tuple[int, float], sample: int) -> float:
        return mark[1] + (sample - mark[0]) / self._rate
