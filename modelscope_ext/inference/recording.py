"""One scan of a recording: its level, and the statistics of a network that averages over all of it.

Axes: audio (B, N), one stream a row, float32 at the network's rate.
"""

import copy
import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from modelscope_ext.inference.backend import Backend

#: -25 dBFS, the level of FRCRN's training.
REFERENCE_RMS = 10 ** (-25 / 20)
#: Seconds of the pieces of an excerpt and of their fades into each other. Shorter pieces represent more of the
#: recording, but the network gets less context.
PIECE_S, FADE_S = 1.0, 0.06
#: Seconds of the frames of spectra and of cells. Pieces begin at cells.
FRAME_S, CELL_S = 0.02, 0.1
#: Seconds of a slot: a piece with its fade. A longer recording than `SLOTS` is represented by every second slot, every
#: fourth … (about an hour, 230 MB a stream).
SLOT_S, SLOTS = 1.1, 3300
#: Bands of the spectra on a logarithmic scale of frequency.
BANDS = 16
#: Power of silent bands in audio at -25 dBFS.
FLOOR = 1e-6
#: Number of cosines that describe a distribution of spectra; their scale in standard deviations of the spectra.
COSINES, SCALE = 256, 0.4
#: Limit of moves of each piece.
SWEEPS = 10
#: Seconds that are processed at once.
BLOCK_S = 10


def reference_gain(audio: np.ndarray, mean_power: np.ndarray | None = None) -> np.ndarray:
    """Return the gain (B, 1) that brings audio (B, N) to -25 dBFS as measured in ModelScope's pipeline.

    The level is the root mean square of the samples above the root mean square. Silence has a gain of 1.

    Args:
        audio: (B, N).
        mean_power: (B, 1) of the recording if `audio` is only a part of it.
    """
    blocks = [audio[:, start : start + 2**18] for start in range(0, audio.shape[1], 2**18)]
    if mean_power is None:
        total = sum(np.square(block, dtype=np.float64).sum(1, keepdims=True) for block in blocks)
        mean_power = total / max(audio.shape[1], 1)
    loud, count = np.zeros((len(audio), 1)), np.zeros((len(audio), 1))
    for block in blocks:
        power = np.square(block, dtype=np.float64)
        above = power >= mean_power
        loud, count = loud + (power * above).sum(1, keepdims=True), count + above.sum(1, keepdims=True)
    level = np.sqrt(np.maximum(loud / np.maximum(count, 1), mean_power))
    return np.divide(REFERENCE_RMS, level, out=np.ones_like(level), where=level > 0).clip(max=1e30)  # fits a float32


class RecordingStats(NamedTuple):
    """Level and statistics of a recording.

    The statistics are known for the parts that the network has processed and estimated from pieces of the others.
    """

    gain: np.ndarray | float = 1.0  # (B, 1), brings the recording to the back end's level
    pieces: np.ndarray | None = None  # (K, B, ...) of a piece of each of K equal parts; None if the network needs none
    length: int = 0  # samples of the recording
    processed: int = 0  # samples from the beginning on
    total: np.ndarray | float = 0.0  # their statistics times their number

    def current(self) -> np.ndarray | None:
        """Return the statistics (B, ...) of the whole recording as known now, float32."""
        if self.pieces is None:
            return None
        edges = np.linspace(0, self.length, len(self.pieces) + 1)
        left = np.diff(edges.clip(self.processed))  # samples of each part that were not processed
        return np.float32((self.total + np.tensordot(left, self.pieces, 1)) / (self.processed + left.sum()))

    def update(self, stats: np.ndarray, samples: int) -> "RecordingStats":
        """Return the statistics after `samples` more samples with statistics `stats` (B, ...)."""
        return self._replace(processed=self.processed + samples, total=self.total + stats * np.float64(samples))


def scan(backend: Backend, pieces: Iterable[np.ndarray]) -> RecordingStats:
    """Return level and statistics of a recording, which is read once.

    A recording of one chunk needs no statistics. Those of a longer one come from excerpts: a tenth of it, but at least
    `limits.excerpt_s`, at most 120 s and at most `limits.excerpt_share` of it. They are pieces of 1 s, one from each of
    as many equal parts, chosen so that their spectra are distributed like those of the recording. Evenly spaced pieces
    have an error 8 dB higher, pieces with the same mean spectrum 2 dB.

    Args:
        backend: the network.
        pieces: the recording as (B, n) pieces.
    """
    return _statistics(backend, _sampled(backend, pieces))


def scan_each(backend: Backend, pieces: Iterable[np.ndarray]) -> list[RecordingStats]:
    """Return what `scan` does for each stream as if it were alone."""
    sample = _sampled(backend, pieces)
    return [_statistics(backend, sample.row(stream)) for stream in range(len(sample.kept))]


def _sampled(backend: Backend, pieces: Iterable[np.ndarray]) -> "_Sample":
    sample = _Sample(backend.sample_rate)
    for piece in pieces:
        sample.add(piece)
    return sample


def _statistics(backend: Backend, sample: "_Sample") -> RecordingStats:
    audio, length, limits = sample.audio, sample.length, backend.limits
    gain = np.ones((len(audio), 1))
    if limits.reference_level:
        gain = reference_gain(audio, sample.mean_power)
    elif limits.unit_level and length:
        level = np.sqrt(sample.mean_power)
        gain = np.divide(1.0, level, out=gain, where=level > 0).clip(max=1e30)  # fits a float32
    seconds = length / backend.sample_rate
    if not limits.needs_statistics or seconds <= 1.5 * limits.chunk_s:
        return RecordingStats(gain)
    count = min(max(limits.excerpt_s, seconds / 10), 120.0, seconds * limits.excerpt_share) / PIECE_S
    excerpts = math.ceil(count * PIECE_S / limits.chunk_s / limits.batch) * limits.batch  # each is as long as a chunk
    each = math.ceil(count / excerpts)
    audio = _excerpts(audio, np.float32(gain), backend.sample_rate, (excerpts, each), sample.stride > 1)
    batches = audio.reshape(excerpts // limits.batch, -1, audio.shape[2])
    stats = np.concatenate([backend.statistics(batch, each, quick=True) for batch in batches], 1)
    return RecordingStats(gain, stats.reshape(-1, len(gain), *stats.shape[2:]), length)


class _Sample:
    """A recording in bounded memory: all of it or slots evenly spread over it."""

    def __init__(self, rate: int) -> None:
        self.slot, self.stride, self.length = round(SLOT_S * rate), 1, 0
        self.kept = np.zeros((1, 0, self.slot), np.float32)
        self.power: np.ndarray | float = 0.0

    def add(self, piece: np.ndarray) -> None:
        """Take (B, n) more samples."""
        if not self.length:
            self.kept = np.empty((len(piece), SLOTS, self.slot), np.float32)  # memory that is not written costs nothing
        self.power = self.power + np.square(piece, dtype=np.float64).sum(1, keepdims=True)
        while piece.shape[1]:
            index, offset = divmod(self.length, self.slot)
            if index == SLOTS * self.stride:
                for i in range(SLOTS // 2):
                    self.kept[:, i] = self.kept[:, 2 * i]
                self.stride *= 2
            part, piece = piece[:, : self.slot - offset], piece[:, self.slot - offset :]
            if index % self.stride == 0:
                self.kept[:, index // self.stride, offset : offset + part.shape[1]] = part
            self.length += part.shape[1]

    def row(self, stream: int) -> "_Sample":
        """Return that of one stream."""
        alone = copy.copy(self)
        alone.kept, alone.power = self.kept[stream : stream + 1], self.power[stream : stream + 1]
        return alone

    @property
    def audio(self) -> np.ndarray:
        """Return the recording (B, N) or its slots one after the other."""
        full = self.length // self.slot // self.stride * self.slot
        return self.kept.reshape(len(self.kept), -1)[:, : self.length if self.stride == 1 else full]

    @property
    def mean_power(self) -> np.ndarray | float:
        """That of the whole recording, (B, 1)."""
        return self.power / max(self.length, 1)


def _excerpts(audio: np.ndarray, gain: np.ndarray, rate: int, shape: tuple[int, int], whole_slots: bool) -> np.ndarray:
    """Return excerpts (excerpts, B, n) of representative pieces that fade into each other; `shape`: excerpts, pieces.

    With `whole_slots` pieces begin at slots only: others would cross a gap.
    """
    excerpts, each = shape
    cell_s, cells_of_piece = (SLOT_S, 1) if whole_slots else (CELL_S, round(PIECE_S / CELL_S))
    cells = _distribution(_spectra(audio, gain, rate), round(cell_s / FRAME_S))
    starts = _representative(cells, cells_of_piece, each * excerpts) * round(cell_s * rate)
    size, fade = round(PIECE_S * rate), round(FADE_S * rate)
    out = np.zeros((excerpts, len(audio), each * size + fade), np.float32)
    ramp = np.sin(np.linspace(0, np.pi / 2, fade, dtype=np.float32))
    for i, start in enumerate(starts):
        piece = audio[:, start : start + size + fade] * gain
        piece[:, :fade] *= ramp
        piece[:, size:] *= ramp[::-1]
        at = i // excerpts * size
        out[i % excerpts, :, at : at + size + fade] += piece  # each excerpt is from all over the recording
    return out


def _spectra(audio: np.ndarray, gain: np.ndarray, rate: int) -> np.ndarray:
    """Return log powers (frames, B * bands) of consecutive frames, all streams side by side."""
    frame = round(FRAME_S * rate)
    window = np.hanning(frame).astype(np.float32)
    edges = np.unique(np.geomspace(1, frame // 2, BANDS + 1).round().astype(int))
    found = []
    for start in range(0, audio.shape[1] // frame * frame, BLOCK_S * rate):
        block = audio[:, start : start + BLOCK_S * rate] * gain
        block = block[:, : block.shape[1] // frame * frame].reshape(len(gain), -1, frame)
        power = np.square(np.abs(np.fft.rfft(block * window)))
        power = np.add.reduceat(power[..., edges[0] : edges[-1]], edges[:-1] - edges[0], -1) / np.diff(edges)
        found.append(np.log(power + FLOOR).astype(np.float16))
    return np.concatenate(list(np.concatenate(found, 1)), 1)


def _distribution(spectra: np.ndarray, size: int) -> np.ndarray:
    """Return (cells, cosines): the share of cells of `size` frames in the distribution of spectra and their neighbours.

    Where two averages of random cosines (Rahimi and Recht, "Random features for large-scale kernel machines", 2007) are
    alike, so are the distributions, and averages of nearly any function of the spectra: a network's too.
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
    """Return the starts of `count` pieces of `size` cells whose mean is close to that of all cells.

    One is in each of as many equal parts. Each in turn moves to its best place until none moves.
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
