"""Loudness by ITU-R BS.1770 (EBU R 128) and its change, by FFmpeg's filters.

Axes: (n, channels), float32; rates in Hz; loudness in LUFS, true peaks in dBFS.
"""

import itertools
import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from modelscope_ext.audio.encoders import LAYOUTS
from modelscope_ext.audio.pcm import AudioError, block_length
from modelscope_ext.audio.reading import AudioFile, open_audio
from modelscope_ext.audio.writing import Form, write_trial

logger = logging.getLogger(__name__)

#: Loudness that may be asked for.
LOWEST, HIGHEST = -50.0, -5.0
#: A recording that is quieter holds no speech, and is not made louder.
NEAR_SILENCE = -60.0
#: Peak in dB above which samples are scaled before they are measured: FFmpeg counts no more than +10 LUFS.
LOUD_PEAK = 6.0
#: Highest true peak of a result in dB, and how far below it the limiter aims at first.
HIGHEST_PEAK, HEADROOM = -1.0, 0.5
#: LU by which samples, and what a codec with loss makes of them, may miss their loudness.
TOLERANCE, CODEC_TOLERANCE = 0.15, 0.2
#: Times that a result is encoded to see what its codec changes, and dB below the peak that the next is to have.
TRIALS, MARGIN = 4, 0.1
#: Times that gain and ceiling are corrected by what the limiter gave.
CORRECTIONS = 6
#: Lowest rate at which the standard's filters work, and most channels that FFmpeg converts.
LOWEST_RATE, MOST_CHANNELS = 8000, 64
#: Seconds below which the standard gives no loudness, and seconds that are read at a time.
SHORTEST_S, BLOCK_S = 0.4, 10.0
#: Rate of true peaks.
PEAK_RATE = 192_000


def check_loudness(loudness: float | None) -> None:
    """Raise ValueError for a loudness that nobody wants; None is no change."""
    if loudness is not None and not LOWEST <= loudness <= HIGHEST:
        raise ValueError(f"loudness must be {LOWEST:.0f} … {HIGHEST:.0f} LUFS, got {loudness:g}; podcasts have -16")


def at_loudness(
    blocks: Iterable[np.ndarray], source: AudioFile, loudness: float, target: Path, form: Form
) -> Iterator[np.ndarray]:
    """Return an iterator over as many samples whose file has another loudness and a true peak of at most -1 dB.

    A gain changes the loudness. Peaks that would be too high are lowered by a limiter for some milliseconds. What a
    codec with loss changes is measured and made up for.

    Args:
        blocks: (n, channels), of the rate and the channels of `source`.
        source: where they come from.
        loudness: in LUFS.
        target: file that will have them; meanwhile they are in files without a name in its folder.
        form: of the target.

    Raises:
        AudioError: the loudness of such a track cannot be measured.
    """
    rate, channels = source.sample_rate, source.channels
    if rate < LOWEST_RATE or channels > MOST_CHANNELS:
        raise AudioError(
            f"{source.name}: {rate} Hz and {channels} channels; loudness is measured from {LOWEST_RATE} Hz on and of "
            f"up to {MOST_CHANNELS} channels"
        )
    return _at_loudness(blocks, source, loudness, target, form)


def _at_loudness(
    blocks: Iterable[np.ndarray], source: AudioFile, loudness: float, target: Path, form: Form
) -> Iterator[np.ndarray]:
    folder = target.resolve().parent
    with tempfile.TemporaryFile(dir=folder) as store, tempfile.TemporaryFile(dir=folder) as limited:
        track = _Track(blocks, source, store, limited)
        if track.before.loudness < NEAR_SILENCE:
            is_short = track.before.seconds < SHORTEST_S
            kind = "shorter than 0.4 s" if is_short else f"quieter than {NEAR_SILENCE:.0f} LUFS"
            logger.warning("%s: %s; its loudness is not changed", source.name, kind)
        else:
            _level(track, loudness, partial(_encoded, track, source, target, form) if form.is_lossy else None)
        yield from track.samples()


def _level(track: "_Track", loudness: float, encoded: "Callable[[], _Meter] | None") -> None:
    """Bring a track to a loudness and a true peak; `encoded` measures what a codec with loss makes of it."""
    wanted, highest = loudness, HIGHEST_PEAK
    for _ in range(TRIALS):
        track.level(wanted, highest)
        found = encoded() if encoded else track
        missing, over = loudness - found.loudness, found.peak - HIGHEST_PEAK
        is_near = abs(missing) <= CODEC_TOLERANCE or not math.isfinite(missing)
        if over <= 0 and (is_near or not track.reached):
            break
        wanted += 0.0 if is_near else missing
        highest = min(highest, track.peak) - max(0.0, over + MARGIN)
    if over > 0 or not is_near:
        limit = "its codec and a true peak of -1 dB permit" if encoded else "a true peak of -1 dB permits"
        peak = f" at a true peak of {found.peak:.1f} dB" if over > 0 else ""
        logger.warning("%s: %s %.1f LUFS only%s", track.name, limit, found.loudness, peak)


def _encoded(track: "_Track", source: AudioFile, target: Path, form: Form) -> "_Meter":
    """Return the meter of what the encoder of a result makes of a track."""
    with tempfile.TemporaryFile(dir=target.resolve().parent) as out:
        with write_trial(source, out, target, form) as writer:
            for block in track.samples():
                writer.write(block, source.track)
        with open_audio(out, warn=False) as file:
            return _measured(file.blocks(BLOCK_S), file.sample_rate, file.channels)


class _Track:
    """Samples of a track, kept in files, with a gain and a limiter.

    Attributes:
        name: of the source.
        before: meter of the samples as they came.
        loudness, peak: with gain and limiter.
        reached: the loudness is the one that was wanted.
    """

    def __init__(self, blocks: Iterable[np.ndarray], source: AudioFile, store: BinaryIO, limited: BinaryIO) -> None:
        self.name, self._form = source.name, (source.sample_rate, source.channels)
        self._store, self._limited = store, limited
        self.before = _kept(blocks, store, *self._form)
        if (peak := self.before.peak) > LOUD_PEAK:
            scale = np.float32(10 ** (-peak / 20))
            scaled = _measured((block * scale for block in _stored(store, *self._form)), *self._form)
            self.before.loudness = scaled.loudness + peak
        self.loudness, self.peak, self.reached = self.before.loudness, self.before.peak, True
        self._file, self._gain = store, 0.0
        self._push = self._room = 0.0  # dB that the limiter needed beyond a gain and below a peak

    def level(self, loudness: float, highest: float) -> None:
        """Choose gain and limiter for a loudness and a true peak of at most `highest` dB."""
        gain = loudness - self.before.loudness
        self._file, self._gain, self.reached = self._store, gain, True
        self.loudness, self.peak = loudness, self.before.peak + gain
        if self.peak <= highest - HEADROOM:
            return
        for _ in range(CORRECTIONS):
            louder = _limited(
                _stored(self._store, *self._form), *self._form, gain + self._push, highest - HEADROOM - self._room
            )
            meter = _kept(louder, self._limited, *self._form)
            missing, over = loudness - meter.loudness, max(0.0, meter.peak - highest)
            self.reached = abs(missing) <= TOLERANCE and not over
            if self.reached:
                break
            self._push += missing
            self._room += over
        self._file, self._gain = self._limited, -over
        self.loudness, self.peak = meter.loudness - over, meter.peak - over

    def samples(self) -> Iterator[np.ndarray]:
        """Yield (n, channels) blocks."""
        gain = np.float32(10 ** (self._gain / 20))
        return (block * gain for block in _stored(self._file, *self._form))


class _Filters:
    """A chain of FFmpeg's audio filters, each with its name and its options."""

    def __init__(self, sample_rate: int, channels: int, *chain: tuple[str, str]) -> None:
        import av

        self._av, self._rate, self._done = av, sample_rate, 0
        self._layout = LAYOUTS[channels - 1] if channels <= len(LAYOUTS) else f"{channels}C"
        graph = self._graph = av.filter.Graph()
        form = f"sample_rate={sample_rate}:sample_fmt=flt:channel_layout={self._layout}:time_base=1/{sample_rate}"
        nodes = [graph.add("abuffer", form), *(graph.add(*each) for each in chain), graph.add("abuffersink")]
        graph.link_nodes(*nodes).configure()
        self._source, self._sink = nodes[0], nodes[-1]

    def feed(self, block: np.ndarray | None) -> Iterator[Any]:
        """Yield the frames that are ready after a block; None is the end."""
        frame = None
        if block is not None:
            data = np.ascontiguousarray(block, np.float32).reshape(1, -1)
            frame = self._av.AudioFrame.from_ndarray(data, "flt", self._layout)
            frame.sample_rate, frame.time_base, frame.pts = self._rate, Fraction(1, self._rate), self._done
            self._done += len(block)
        self._source.push(frame)
        while True:
            try:
                yield self._sink.pull()
            except (self._av.BlockingIOError, self._av.EOFError):
                return


class _Meter:
    """Loudness and true peak of the blocks so far.

    Attributes:
        loudness: in LUFS; minus infinity of silence, and of less than 0.4 s.
        peak: the true peak.
        seconds: length.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        self._filters = _Filters(sample_rate, channels, ("ebur128", "metadata=1:peak=true"))
        self._rate = sample_rate
        self.loudness = self.peak = -math.inf
        self.seconds = 0.0

    def add(self, block: np.ndarray | None) -> None:
        """Take the next block; None is the end."""
        for frame in self._filters.feed(block):
            found = {name.removeprefix("lavfi.r128."): value for name, value in frame.metadata.items()}
            if (level := float(found.get("I", -math.inf))) > -70:
                self.loudness = level
            self._raise_peak(float(found.get("true_peak", 0)))
        if block is not None:
            self.seconds += len(block) / self._rate
            self._raise_peak(float(np.abs(block).max(initial=0)))

    def _raise_peak(self, peak: float) -> None:
        self.peak = max(self.peak, 20 * math.log10(peak) if peak else -math.inf)


def _measured(blocks: Iterable[np.ndarray], sample_rate: int, channels: int) -> _Meter:
    """Return the meter of all blocks."""
    meter = _Meter(sample_rate, channels)
    for block in itertools.chain(blocks, (None,)):
        meter.add(block)
    return meter


def _limited(
    blocks: Iterable[np.ndarray], sample_rate: int, channels: int, gain: float, ceiling: float
) -> Iterator[np.ndarray]:
    """Yield blocks with a gain in dB whose peaks, between samples too, are lowered to a ceiling."""
    high = max(sample_rate, min(4 * sample_rate, PEAK_RATE))
    filters = _Filters(
        sample_rate,
        channels,
        ("volume", f"{gain}dB:precision=float"),
        ("aresample", str(high)),
        ("alimiter", f"limit={10 ** (ceiling / 20)}:level=0:latency=1"),
        ("aresample", str(sample_rate)),
        ("aformat", "sample_fmts=flt"),
    )
    for block in itertools.chain(blocks, (None,)):
        for frame in filters.feed(block):
            yield frame.to_ndarray().reshape(-1, channels)


def _kept(blocks: Iterable[np.ndarray], store: BinaryIO, sample_rate: int, channels: int) -> _Meter:
    """Store blocks from the beginning of a file on; return their meter."""
    meter = _Meter(sample_rate, channels)
    store.seek(0)
    for block in filter(len, blocks):
        meter.add(block)
        store.write(np.ascontiguousarray(block, np.float32).tobytes())
    meter.add(None)
    return meter


def _stored(store: BinaryIO, sample_rate: int, channels: int) -> Iterator[np.ndarray]:
    store.seek(0)
    size = 4 * channels * block_length(sample_rate, channels, BLOCK_S)
    while data := store.read(size):
        yield np.frombuffer(data, np.float32).reshape(-1, channels)
