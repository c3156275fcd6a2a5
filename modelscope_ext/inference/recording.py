"""What a network that averages over a whole recording would average, from a few seconds of it.

Axes: audio (B, N), one stream a row, float32 at the network's rate.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from modelscope_ext.inference.backend import Backend

__all__ = ["RecordingMeans", "recording_means"]

#: Seconds of the pieces, and of their fades into each other: shorter ones stand for more of the recording, but are
#: heard with less of what is around them.
PIECE_S, FADE_S = 1.0, 0.06
#: Spectra are taken of frames, in bands on a logarithmic scale of frequency; pieces begin at multiples of a cell's
#: seconds, or of a piece's in recordings of more than an hour.
FRAME_S, CELL_S, LONG_S = 0.02, 0.1, 3600
BANDS = 16
#: Power below which bands of audio at -25 dBFS count as silent.
FLOOR = 1e-6
#: How many cosines describe how spectra are distributed, and their scale: 1 is the spread of the spectra.
COSINES, SCALE = 256, 0.4
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
    engine: Backend, gain: np.ndarray, pieces: Callable[[], Iterable[np.ndarray]]
) -> RecordingMeans | None:
    """The means of a recording that is too long to be heard in one piece, from seconds all over it.

    They are a tenth of it, but `engine.digest_s` at least, 120 s at most, and not more than `engine.digest_share` of
    it: a piece of 1 s from each of as many equal parts, such that their spectra are distributed as those of the whole
    recording are. Evenly spaced ones, or ones with the same mean spectrum, are 8 and 2 dB further from the true means.

    Args:
        engine: the network.
        gain: (B, 1), what brings the input to the level that the engine wants.
        pieces: gives the recording as (B, n) pieces, as often as it is asked.

    Returns:
        None where `ChunkedInference` needs none: the engine averages nothing, or there will be one chunk only.
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
    cell_s = CELL_S if seconds < LONG_S else PIECE_S
    cells = _distribution(spectra, round(cell_s / FRAME_S))
    starts = _representative(cells, round(PIECE_S / cell_s), each * parts) * round(cell_s * rate)
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
    """(frames, B * bands) logarithms of power, and how many samples there are."""
    frame = round(FRAME_S * rate)
    window = np.hanning(frame).astype(np.float32)
    edges = np.unique(np.geomspace(1, frame // 2, BANDS + 1).round().astype(int))
    waiting, found, samples = np.zeros((len(gain), 0), np.float32), [], 0
    for piece in pieces:
        samples += piece.shape[1]
        waiting = np.concatenate((waiting, piece * gain), 1)
        whole = waiting.shape[1] // frame * frame
        power = np.square(np.abs(np.fft.rfft(waiting[:, :whole].reshape(len(gain), -1, frame) * window)))
        power = np.add.reduceat(power[..., edges[0] : edges[-1]], edges[:-1] - edges[0], -1) / np.diff(edges)
        found.append(np.log(power + FLOOR).astype(np.float16))
        waiting = waiting[:, whole:]
    spectra = np.concatenate(found, 1) if found else np.zeros((len(gain), 0, 1), np.float16)
    return np.concatenate(list(spectra), 1), samples


def _distribution(spectra: np.ndarray, size: int) -> np.ndarray:
    """(cells, cosines): what cells of so many frames add to how spectra, and those around them, are distributed.

    Where two averages of random cosines (Rahimi and Recht, "Random features for large-scale kernel machines", 2007) are
    alike, so are the distributions, and with them averages of nearly any function of the spectra: also of what a
    network makes of them.
    """
    few = round(CELL_S / FRAME_S)
    spectra = spectra[: len(spectra) // size * size]
    width = spectra.shape[1]
    cells = np.pad(spectra.reshape(-1, few, width).mean(1, dtype=np.float32), ((1, 1), (0, 0)), mode="edge")
    around = (cells[:-2] + cells[1:-1] + cells[2:]) / 3
    some = [each[:: len(each) // 50_000 + 1].astype(np.float32) for each in (spectra, around)]
    mean, spread = (np.concatenate([measure(each, 0) for each in some]) for measure in (np.mean, np.std))
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((2 * width, COSINES), np.float32) / (SCALE * math.sqrt(4 * width))
    phases = rng.uniform(0, 2 * np.pi, COSINES).astype(np.float32)
    found = []
    block = size * math.ceil(10_000 / size)
    for start in range(0, len(spectra), block):
        frames = spectra[start : start + block]
        both = np.concatenate((frames, np.repeat(around[start // few : (start + block) // few], few, axis=0)), 1)
        both = ((both - mean) / (spread + 1e-6)).reshape(-1, size, 2 * width)
        found.append(np.cos(both @ directions + phases).mean(1))
    return np.concatenate(found)


def _representative(cells: np.ndarray, size: int, count: int) -> np.ndarray:
    """Where `count` pieces of `size` cells begin, whose mean is close to that of all cells.

    One lies in each of as many equal parts; one after the other is moved to where it comes closest, until none moves.
    """
    cells = cells - cells.mean(0)
    sums = sum(cells[i : len(cells) - size + 1 + i] for i in range(size))
    last = len(cells) - size - 1  # a piece fades out in the cell after it
    edges = np.linspace(0, last + 1, count + 1).astype(int)
    choices = [np.arange(low, max(low + 1, high - size)).clip(0, last) for low, high in itertools.pairwise(edges)]
    starts = np.array([each[len(each) // 2] for each in choices])
    total = sums[starts].sum(0, dtype=np.float64)
    for _ in range(SWEEPS):
        before = starts.copy()
        for i, each in enumerate(choices):
            total -= sums[starts[i]]
            starts[i] = each[np.square(total + sums[each]).sum(1).argmin()]
            total += sums[starts[i]]
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
