"""What a network that averages over a whole recording would average, from a few seconds of it.

Axes: audio (B, N), one stream a row, float32 at the network's rate.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from modelscope_ext.engines import Engine

__all__ = ["RecordingMeans", "recording_means"]

#: Seconds of the pieces, and of their fades into each other: shorter ones stand for more of the recording, but are
#: heard with less of what is around them.
PIECE_S, FADE_S = 1.0, 0.06
#: Pieces begin at multiples of so many seconds; spectra are averaged over as many.
CELL_S = 0.1
FRAME_S = 0.02
BANDS = 16
#: Power below which bands of audio at -25 dBFS count as silent, and how little of the variance is not looked at.
FLOOR, RIDGE = 1e-4, 1.0
#: How often each piece may be moved.
SWEEPS = 10


class RecordingMeans(NamedTuple):
    """What an engine averages over a recording: means of the parts that were heard, and of pieces of the others."""

    pieces: np.ndarray  # (K, B, ...), of a piece of each of K equal parts
    length: int  # samples of the recording
    heard: int = 0  # from the beginning on
    total: np.ndarray | float = 0.0  # means of that, times its samples

    def now(self) -> np.ndarray:
        """(B, ...), float32."""
        edges = np.linspace(0, self.length, len(self.pieces) + 1)
        left = np.diff(edges.clip(self.heard))  # samples of each part that were not heard
        return np.float32((self.total + np.tensordot(left, self.pieces, 1)) / (self.heard + left.sum()))

    def after(self, means: np.ndarray, samples: int) -> "RecordingMeans":
        """When so many more samples were heard, whose means are (B, ...)."""
        return self._replace(heard=self.heard + samples, total=self.total + means * np.float64(samples))


def recording_means(
    engine: Engine, gain: np.ndarray, pieces: Callable[[], Iterable[np.ndarray]]
) -> RecordingMeans | None:
    """The means of a recording that is too long to be heard in one piece, from seconds all over it.

    They are a tenth of it, but `engine.digest_s` at least, 120 s at most, and not more than `engine.digest_share` of
    it: a piece of 1 s from each of as many equal parts, such that spectra average to those of the whole recording.

    Args:
        engine: the network.
        gain: (B, 1), what brings the input to the level that the engine wants.
        pieces: gives the recording as (B, n) pieces, as often as it is asked.

    Returns:
        None where `Utterances` needs none: the engine averages nothing, or there will be one chunk only.
    """
    if not engine.averages:
        return None
    rate, gain = engine.sample_rate, np.float32(gain)
    spectra, length = _spectra(pieces(), gain, rate)
    seconds = length / rate
    if seconds <= 1.5 * engine.chunk_s:
        return None
    count = min(max(engine.digest_s, seconds / 10), 120.0, seconds * engine.digest_share) / PIECE_S
    parts = math.ceil(count * PIECE_S / engine.chunk_s / engine.batch) * engine.batch  # to be heard at once
    each = math.ceil(count / parts)
    starts = _representative(spectra, round(PIECE_S / CELL_S), each * parts) * round(CELL_S * rate)
    size, fade = round(PIECE_S * rate), round(FADE_S * rate)
    digests = np.zeros((parts, len(gain), each * size + fade), np.float32)
    ramp = np.sin(np.linspace(0, np.pi / 2, fade, dtype=np.float32))
    for i, excerpt in enumerate(_excerpts(pieces(), starts, size + fade)):
        faded = excerpt * gain
        faded[:, :fade] *= ramp
        faded[:, size:] *= ramp[::-1]
        at = i // parts * size
        digests[i % parts, :, at : at + size + fade] += faded  # each part is from all over the recording
    batches = digests.reshape(parts // engine.batch, -1, digests.shape[2])
    means = np.concatenate([engine.means(batch, each, quick=True) for batch in batches], 1)  # (each, parts * B, ...)
    return RecordingMeans(means.reshape(-1, len(gain), *means.shape[2:]), length)


def _spectra(pieces: Iterable[np.ndarray], gain: np.ndarray, rate: int) -> tuple[np.ndarray, int]:
    """(cells, B * 2 * bands), what cells have in bands on average, as amplitudes and logarithms; how many samples."""
    frame, cell = round(FRAME_S * rate), round(CELL_S * rate)
    window = np.hanning(frame).astype(np.float32)
    edges = np.unique(np.geomspace(1, frame // 2, BANDS + 1).round().astype(int))
    waiting, found, samples = np.zeros((len(gain), 0), np.float32), [], 0
    for piece in pieces:
        samples += piece.shape[1]
        waiting = np.concatenate((waiting, piece * gain), 1)
        whole = waiting.shape[1] // cell * cell
        frames = waiting[:, :whole].reshape(len(gain), -1, cell // frame, frame) * window
        waiting = waiting[:, whole:]
        power = np.square(np.abs(np.fft.rfft(frames)))[..., edges[0] : edges[-1]]
        power = np.add.reduceat(power, edges[:-1] - edges[0], -1) / np.diff(edges)
        both = np.concatenate((np.sqrt(power), np.log(power + FLOOR)), -1).mean(2)  # (B, cells, 2 * bands)
        found.append(both.astype(np.float32))
    spectra = np.concatenate(found, 1) if found else np.zeros((len(gain), 0, 1), np.float32)
    return np.concatenate(list(spectra), 1), samples


def _representative(spectra: np.ndarray, size: int, count: int) -> np.ndarray:
    """Where `count` pieces of `size` cells begin, one in each of as many equal parts, that average to all `spectra`.

    One after the other is moved to where the average comes closest, with variances made equal, until none moves.
    """
    centred = spectra - spectra.mean(0)
    centred /= centred.std(0) + 1e-6
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    white = centred @ (axes / np.sqrt(variances.clip(0) + RIDGE))
    until = np.concatenate((np.zeros((1, white.shape[1])), white.cumsum(0, dtype=np.float64)))
    last = len(spectra) - size - 1  # a piece fades out in the cell after it
    edges = np.linspace(0, last + 1, count + 1).astype(int)
    choices = [np.arange(low, max(low + 1, high - size)).clip(0, last) for low, high in itertools.pairwise(edges)]
    starts = np.array([each[len(each) // 2] for each in choices])
    total = (until[starts + size] - until[starts]).sum(0)
    for _ in range(SWEEPS):
        before = starts.copy()
        for i, each in enumerate(choices):
            total -= until[starts[i] + size] - until[starts[i]]
            starts[i] = each[np.square(total + until[each + size] - until[each]).sum(1).argmin()]
            total += until[starts[i] + size] - until[starts[i]]
        if np.array_equal(starts, before):
            break
    return starts


def _excerpts(pieces: Iterable[np.ndarray], starts: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The (B, size) samples from each of `starts` on, which ascend, of a recording in (B, n) pieces."""
    waiting, at = None, 0
    starts = list(starts)
    for piece in pieces:
        waiting = piece if waiting is None else np.concatenate((waiting, piece), 1)
        while starts and starts[0] + size <= at + waiting.shape[1]:
            start = starts.pop(0) - at
            yield waiting[:, start : start + size].copy()
        unneeded = min((starts[0] if starts else at + waiting.shape[1]) - at, waiting.shape[1])
        waiting, at = waiting[:, unneeded:], at + unneeded
