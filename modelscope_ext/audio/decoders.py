"""Decoders: libsndfile where it is right, FFmpeg elsewhere.

Axes: (N, channels), float32; rates in Hz; positions and sizes of files in bytes.
"""

import os
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import soundfile

from modelscope_ext.audio import containers, headers, mp3
from modelscope_ext.audio.media import SLACK_S, Fit, Media
from modelscope_ext.audio.pcm import AudioError, from_ogg

#: A file whose header claims more samples gives no length.
MOST_SAMPLES = 2**60


class Decoder(Protocol):
    """A source of samples; see `Media` for the attributes."""

    sample_rate: int
    channels: int
    format: str | None
    subtype: str | None
    seconds: float | None
    tracks: int
    tags: dict[str, str]
    times: deque[tuple[int, float]]
    problems: list[str]

    def read(self, length: int) -> np.ndarray:
        """Return the next (n, channels) samples; none at the end."""

    def close(self) -> None:
        """Close the decoder."""


def open_decoder(file: BinaryIO, name: str = "", track: int = 0) -> Decoder:
    """Return the decoder for a file; `name` is its path if it has one.

    Raises:
        AudioError: neither library reads it, or it has no such track.
    """
    try:
        decoder = _choose(file, name, track)
    except AudioError as error:
        raise AudioError(f"not readable as audio ({_promise(file) or error})") from error
    if not 0 <= track < decoder.tracks:
        decoder.close()
        raise AudioError(f"no audio track {track}; there are {decoder.tracks}, from 0 on")
    return decoder


def _choose(file: BinaryIO, name: str = "", track: int = 0) -> Decoder:
    """Return libsndfile's decoder or FFmpeg's where it alone is right.

    FFmpeg reads an mp3 without a trustworthy Xing header, a further track, an ogg file with further streams, a voc
    file, whose blocks libsndfile takes for one, and all that libsndfile refuses.
    """
    parts = containers.parts(file)
    several = len(parts) == 1 and containers.ogg_streams(file) > 1
    is_voc = headers.read_at(file, 0, 19) == b"Creative Voice File"
    if track or several or is_voc or (mp3.is_mp3(file) and not _xing_is_right(file)):
        with suppress(AudioError):
            return _Watched(file, track)
    try:
        return _Joined(file, parts) if len(parts) > 1 else _Sound(file, name)
    except AudioError as error:
        try:
            return _Watched(file, track)
        except AudioError as other:
            unknown = str(other).startswith("Invalid data found")
            reason = str(error if unknown else other)  # libsndfile misses a file that begins like an mp3 and is none
            raise AudioError("Format not recognised" if reason.startswith("File does not exist") else reason) from other


def _xing_is_right(file: BinaryIO) -> bool:
    """Return True if an mp3 file's Xing header has its size, with or without a tag of 128 bytes, and all its frames."""
    promised = mp3.xing_size(file)
    is_size = promised is not None and headers.file_size(file) - promised in (0, 128)
    return is_size and not mp3.has_more_frames(file)


def _promise(file: BinaryIO) -> str | None:
    """Return the problem of a file that is shorter than its header says, or of damaged pages, or None."""
    if headers.read_at(file, 0, 4) == b"OggS":
        return containers.ogg_problem(file)
    if mp3.has_sound_in_tag(file):
        return "sound lies within its ID3 tag, whose size is wrong"
    size, promised = headers.file_size(file), containers.promised_size(file)
    if promised is None or promised <= size:
        return None
    return f"cut off, it has {size} of {promised} bytes"


class _Watched(Media):
    """FFmpeg's decoder; a container that is shorter than its header says is a problem too."""

    def __init__(self, file: BinaryIO, track: int = 0) -> None:
        super().__init__(headers.Window(file), track)
        if problem := _promise(file):
            self.problems.append(problem)
        self._file, self._done = file, 0
        promised = mp3.xing_size(file) if self.format == "MP3" else None
        if promised is not None and promised > headers.file_size(file):
            self.problems.append(f"cut off, it has {headers.file_size(file)} of {promised} bytes")

    def read(self, length: int) -> np.ndarray:
        """Return the next (n, channels) samples; none at the end."""
        block = super().read(length)
        self._done += len(block)
        if not len(block):
            self.problems += _left_out(self._file, self, self._done)
        return block


def _left_out(file: BinaryIO, decoder: Decoder, done: int) -> list[str]:
    """Return what a decoder left out without a word at the end of a file: at most one problem."""
    if decoder.format == "MP3":
        promised = mp3.xing_samples(file)
        return [f"it ends after {done} of {promised} samples"] if promised and done < promised else []
    is_short = decoder.seconds is None or done / decoder.sample_rate < decoder.seconds - SLACK_S
    damage = containers.ebml_damage(file) if is_short and headers.read_at(file, 0, 4) == containers.EBML else None
    return [f"damaged at byte {damage} of {headers.file_size(file)}"] if damage is not None else []


class _Forwards(soundfile.SoundFile):
    """A file that is read from its beginning on: soundfile would seek after each block, which damages mp3 files."""

    def seekable(self) -> bool:
        """Return False."""
        return False


class _Sound:
    """libsndfile's decoder, which gets a header with true sizes and passes on to FFmpeg where it fails."""

    def __init__(self, file: BinaryIO, name: str = "") -> None:
        self.problems: list[str] = []
        self.tracks, self.times = 1, deque()
        self._file, self._done, self._resumed = file, 0, -1
        self._other: Media | None = None
        self._sound = self._open(file, name)
        self.sample_rate, self.channels = self._sound.samplerate, self._sound.channels
        self.format, self.subtype = self._sound.format, self._sound.subtype
        if self._sound.frames > MOST_SAMPLES:
            self._sound.close()
            raise AudioError("gives no length")
        promised = mp3.xing_samples(file) if self.format == "MP3" else None
        if promised and self._sound.frames < promised:
            self._sound.close()
            raise AudioError(f"it gives {self._sound.frames} of {promised} samples")  # FFmpeg may read them
        self.seconds, self.tags = self._sound.frames / self.sample_rate, self._sound.copy_metadata()
        if problem := _promise(file):
            self.problems.append(problem)

    def _open(self, file: BinaryIO, name: str) -> soundfile.SoundFile:
        place = headers.find_sound(file)
        opened: str | bytes | BinaryIO = system_name(Path(name)) if name else headers.Window(file)
        if place and (place.missing or place.more or place.unknown or headers.has_misread_chunks(file, place)):
            there = place.end - place.start
            if place.missing:
                self.problems.append(f"cut off, it has {there} of {place.claimed} bytes of samples")
            elif place.more and place.claimed and not place.unknown and place.end < 2**32:
                self.problems.append(f"its header gives {place.claimed} bytes of samples, but it has {there}")
            opened = headers.repaired(file, place) or opened
        try:
            return _Forwards(opened)
        except soundfile.LibsndfileError as error:
            raise AudioError(_reason(error)) from error

    def read(self, length: int) -> np.ndarray:
        """Return the next (n, channels) samples; none at the end."""
        if self._other:
            return self._other.read(length)
        try:
            block = self._sound.read(length, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            return self._go_on(length, _reason(error))
        if not len(block) and self.format == "MP3" and self._goes_on():
            return self.read(length)
        self._done += len(block)
        if self.format == "OGG":
            block = from_ogg(block)
        if not len(block) and self._done < self._sound.frames:
            self.problems.append(f"cut off, it ends after {self._done} of {self._sound.frames} samples")
        elif not len(block):
            self.problems += _left_out(self._file, self, self._done)
        return block

    def _goes_on(self) -> bool:
        """Seek behind damage in an mp3 file; return False at its end."""
        if not self._resumed < self._done < self._sound.frames:
            return False
        self._resumed = self._done
        self.problems.append(f"damaged after {self._done / self.sample_rate:.2f} s")
        with suppress(soundfile.LibsndfileError):
            self._sound.seek(self._done)
            return True
        return False

    def _go_on(self, length: int, reason: str) -> np.ndarray:
        """Return what FFmpeg reads after the samples that are done."""
        self.problems.append(f"damaged after {self._done / self.sample_rate:.2f} s ({reason})")
        nothing = np.zeros((0, self.channels), np.float32)
        try:
            other = Media(headers.Window(self._file))
        except AudioError:
            return nothing
        if (other.sample_rate, other.channels) != (self.sample_rate, self.channels):
            other.close()
            return nothing
        self._other, other.problems = other, self.problems
        left = self._done
        while left and len(skipped := other.read(min(left, self.sample_rate))):
            left -= len(skipped)
        return other.read(length)

    def close(self) -> None:
        """Close the decoder."""
        self._sound.close()
        if self._other:
            self._other.close()


class _Joined:
    """Several recordings in one file, one after the other; later ones are converted to the form of the first."""

    def __init__(self, file: BinaryIO, parts: list[tuple[int, int]]) -> None:
        self._windows = [headers.Window(file, *part) for part in parts]
        self._now = self._next()
        self.sample_rate, self.channels = self._now.sample_rate, self._now.channels
        self.format, self.subtype, self.seconds = self._now.format, self._now.subtype, None
        self.tracks, self.tags, self.times = 1, self._now.tags, deque()
        self.problems: list[str] = []
        self._fit = Fit(self.sample_rate, self.channels)

    def _next(self) -> Decoder:
        return _choose(self._windows.pop(0))

    def read(self, length: int) -> np.ndarray:
        """Return the next (n, channels) samples; none at the end."""
        while True:
            block = self._now.read(length)
            if len(block):
                fitting = self._fit.feed(block, self._now.sample_rate)
                if len(fitting):
                    return fitting
                continue
            self.problems += self._now.problems
            self._now.problems = []
            if not self._windows:
                return self._fit.flush()
            try:
                following = self._next()
            except AudioError as error:
                self.problems.append(f"a part is left out: {error}")
            else:
                self._now.close()
                self._now = following

    def close(self) -> None:
        """Close the decoder."""
        self._now.close()


def system_name(path: Path) -> str | bytes:
    """Return the name for libsndfile; it stops at a NUL and soundfile alone refuses names outside UTF-8."""
    text = os.fspath(path)
    with suppress(UnicodeEncodeError):
        name = os.fsencode(text)
        if b"\0" not in name:
            return text if os.name == "nt" or name.decode(errors="replace") == text else name
    raise AudioError(f"{path}: no file can have this name")


def _reason(error: soundfile.LibsndfileError) -> str:
    return error.error_string.strip().rstrip(".")
