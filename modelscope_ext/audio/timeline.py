"""Time of each sample that is encoded, by the time stamps of its source.

Axes: (n, channels), float32; rates in Hz; times in s.
"""

import itertools
import math
from collections import defaultdict, deque
from typing import BinaryIO

import numpy as np

from modelscope_ext.audio.media import open_container
from modelscope_ext.audio.reading import AudioFile

#: Shortest and longest gap in seconds in which silence is encoded. Shorter ones are the jitter of a recorder's clock.
SHORTEST_S, LONGEST_S = 0.1, 60.0


class Timeline:
    """Times of the samples of one track.

    A packet has one time stamp for all its samples. Silence in a gap keeps those that follow it in sync. Where time
    stamps go back, as in joined recordings, they are shifted.

    Args:
        file: the track of the source, as it is read.
        sample_rate: rate at which its samples are encoded.
    """

    def __init__(self, file: AudioFile, sample_rate: int) -> None:
        self._file, self._rate, self._shifts = file, sample_rate, Shifts(file.bytes())
        self._read = self._silence = 0
        self._marks: deque[tuple[int, float]] = deque()

    def fill(self, block: np.ndarray) -> np.ndarray:
        """Return the next (n, channels) samples of the source with silence in its gaps."""
        parts, start, ratio = [], 0, self._rate / self._file.sample_rate
        for sample, time in self._file.jumps((self._read + len(block)) / ratio):
            place = round(sample * ratio) + self._silence  # below 0 where a decoder's padding was removed
            at = max(start, place - self._silence - self._read)
            now = self._at(self._marks[-1], place) if self._marks else -math.inf
            time += self._shifts.of(0, time, now)
            length = round((time - now) * self._rate) if SHORTEST_S <= time - now <= LONGEST_S else 0
            parts += [block[start:at], np.zeros((length, block.shape[1]), np.float32)]
            self._marks.append((place + length, time))
            self._silence += length
            start = at
        self._read += len(block)
        return np.concatenate((*parts, block[start:])) if parts else block

    def time_of(self, sample: int) -> float:
        """Return the time of a sample that `fill` returned; calls go forwards."""
        while len(self._marks) > 1 and self._marks[1][0] <= sample:
            self._marks.popleft()
        return self._at(self._marks[0] if self._marks else (0, 0.0), sample)

    def _at(self, mark: tuple[int, float], sample: int) -> float:
        return mark[1] + (sample - mark[0]) / self._rate


class Shifts:
    """What is added to the time stamps of each recording in a joined file, so that it begins when all before it end.

    Args:
        file: the file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._shifts = [0.0]
        self._numbers: dict[int, int] = defaultdict(int)

    def of(self, stream: int, time: float, last: float) -> float:
        """Return the shift for a time stamp of a stream.

        Args:
            stream: any number of it.
            time: its next time stamp.
            last: the end of what came before, shifted.
        """
        if _goes_back(time + self._shifts[self._numbers[stream]], last):
            if len(self._shifts) == 1:
                self._shifts += _joints(self._file)
            self._numbers[stream] = min(self._numbers[stream] + 1, len(self._shifts) - 1)
        return self._shifts[self._numbers[stream]]


def _goes_back(time: float, last: float) -> bool:
    return time < last - SHORTEST_S


def _joints(file: BinaryIO) -> list[float]:
    """Return the shifts of all recordings in a joined file but the first."""
    numbers: dict[int, int] = defaultdict(int)
    spans: dict[int, dict[int, tuple[float, float]]] = defaultdict(dict)  # recording → stream → start and end
    with open_container(file) as source:
        for packet in source.demux():
            if packet.dts is None:
                continue
            time, index = float(packet.dts * packet.time_base), packet.stream_index
            start, end = spans[numbers[index]].get(index, (time, -math.inf))
            if _goes_back(time, end):
                numbers[index] += 1
                start, end = time, -math.inf
            length = float((packet.duration or 0) * packet.time_base)
            spans[numbers[index]][index] = (start, max(end, time + length))
    shifts = [0.0]
    for before, after in itertools.pairwise(spans[number] for number in sorted(spans)):
        end = shifts[-1] + max(end for _, end in before.values())
        shifts.append(end - min(start for start, _ in after.values()))
    return shifts[1:]
