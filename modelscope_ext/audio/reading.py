"""The one door to audio and video files.

Axes: (N, channels), float32 in -1 … 1; rates in Hz.
"""

import logging
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from modelscope_ext.audio.decoders import Decoder, open_decoder, system_name
from modelscope_ext.audio.headers import Window, file_size
from modelscope_ext.audio.pcm import AudioError, block_length, find_problem, mix, validate_format
from modelscope_ext.audio.resample import resample

logger = logging.getLogger(__name__)

#: Seconds that are decoded at a time.
BLOCK_S = 60.0


class AudioFile:
    """An open audio file.

    Attributes:
        name: file name; empty for a file object.
        warn: log warnings; False for further readings of the same file.
        track, tracks: number of the audio track, from 0 on, and how many there are.
        sample_rate, channels: of all its samples.
        format, subtype: libsndfile's names for a file of the same kind; None where it writes no such files.
        seconds: length in the header, None without one; an estimate for progress.
        tags: title, artist … as libsndfile or FFmpeg calls them.
    """

    def __init__(self, file: BinaryIO, decoder: Decoder, name: str, track: int, warn: bool) -> None:
        self.name, self._file, self._decoder, self.warn = name, file, decoder, warn
        self.track, self.tracks, self.tags = track, decoder.tracks, decoder.tags
        self.sample_rate, self.channels = decoder.sample_rate, decoder.channels
        self.format, self.subtype, self.seconds = decoder.format, decoder.subtype, decoder.seconds

    def bytes(self) -> BinaryIO:
        """Return the file itself, with a position of its own."""
        return Window(self._file)

    def jumps(self, stop: float) -> Iterator[tuple[int, float]]:
        """Yield once each jump of the time stamps before the sample `stop`: the sample after it and its time in s.

        The first one is the beginning.
        """
        times = self._decoder.times
        while times and times[0][0] < stop:
            yield times.popleft()

    def blocks(self, seconds: float) -> Iterator[np.ndarray]:
        """Yield the rest of the file in (n, channels) float32 blocks; log a warning where samples may be missing.

        Raises:
            AudioError: nothing can be read, samples are unusable, or the file shrinks while it is read.
        """
        done, length = 0, block_length(self.sample_rate, self.channels, seconds)
        size = file_size(self._file)
        name = f"{self.name}: " if self.name else ""
        try:
            while len(block := self._decoder.read(length)):
                if problem := find_problem(block):
                    raise AudioError(f"{problem} after {done / self.sample_rate:.2f} s")
                done += len(block)
                yield block
            if file_size(self._file) < size:
                raise AudioError(f"cut off while it was read, after {done / self.sample_rate:.2f} s")
            problems = list(dict.fromkeys(self._decoder.problems))
            if problems and not done:
                raise AudioError(f"nothing can be read: {'; '.join(problems)}")
        except (AudioError, OSError) as error:
            raise AudioError(f"{name}{error}") from error
        if not done:
            problems = ["it has no samples"]
        if problems and self.warn:
            logger.warning("%s%s; %.2f s were read", name, "; ".join(problems), done / self.sample_rate)


@contextmanager
def open_audio(source: str | Path | BinaryIO, track: int = 0, warn: bool = True) -> Iterator[AudioFile]:
    """Open an audio or video file or a binary file object for reading.

    Args:
        source: path or seekable file object.
        track: number of the audio track from 0 on.
        warn: log a warning where samples may be missing; False for further readings of the same file.

    Raises:
        AudioError: the file cannot be opened. The message has the name of a path and the reason.
    """
    name = os.fsdecode(source) if isinstance(source, (str, Path)) else ""
    with ExitStack() as stack:
        file = stack.enter_context(_regular_file(Path(source))) if name else source
        try:
            decoder = stack.enter_context(closing(open_decoder(file, name, track)))
            validate_format(decoder.sample_rate, decoder.channels)
        except (AudioError, OSError) as error:  # a failing disk names no file
            raise AudioError(f"{name}: {error}" if name else str(error)) from error
        yield AudioFile(file, decoder, name, track, warn)


def read_native(path: str | Path | BinaryIO) -> tuple[np.ndarray, int]:
    """Return a whole file as (N,) float32 with the channels of `mix`, and its rate.

    Raises:
        AudioError: see `open_audio` and `AudioFile.blocks`.
    """
    with open_audio(path) as file:
        blocks = [np.zeros((0, file.channels), np.float32), *file.blocks(BLOCK_S)]
        return mix(np.concatenate(blocks)), file.sample_rate


def read_mono(path: str | Path | BinaryIO, sample_rate: int) -> np.ndarray:
    """Return a whole file as (N,) float32 at `sample_rate` with the channels of `mix`.

    Raises:
        AudioError: see `open_audio` and `AudioFile.blocks`.
    """
    return resample(*read_native(path), sample_rate)


def _regular_file(path: Path) -> BinaryIO:
    """Open a file; libsndfile would wait for the end of a pipe and gives no reason for a failure.

    Raises:
        AudioError: there is no regular file to open.
    """
    system_name(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            if path.suffix.lower() == ".raw":  # soundfile asks for rate and channels
                raise AudioError(f"{path}: raw samples have no header with a rate; use modelscope-ext stream")
            return path.open("rb")
    except FileNotFoundError as error:
        raise AudioError(f"{path}: no such file") from error
    except OSError as error:
        raise AudioError(f"{path}: {error.strerror}") from error
    raise AudioError(f"{path}: is a {'folder' if stat.S_ISDIR(mode) else 'pipe, a socket or a device'}")
