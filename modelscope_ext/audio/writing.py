"""Writing files of the kind of their source: by libsndfile, or by FFmpeg what that cannot write.

Axes: (n, channels), float32; rates in Hz.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
import soundfile

from modelscope_ext.atomic import atomic_write
from modelscope_ext.audio import containers, mp3, tags, vorbis
from modelscope_ext.audio.decoders import system_name
from modelscope_ext.audio.encoders import MUXERS, Muxer, muxer_of
from modelscope_ext.audio.files import SUFFIXES, WRITTEN
from modelscope_ext.audio.headers import Window, file_size, read_at
from modelscope_ext.audio.muxing import MediaWriter
from modelscope_ext.audio.pcm import AudioError, to_ogg
from modelscope_ext.audio.reading import AudioFile, open_audio

logger = logging.getLogger(__name__)

#: Suffix → format of libsndfile, where it is not the suffix in capitals.
NAMES = {"oga": "OGG", "opus": "OGG", "aif": "AIFF", "aifc": "AIFF", "wave": "WAV", "sph": "NIST"}
#: Subtypes that belong to their format; in another format its default is written.
LOSSY = ("VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III")
#: Formats of more than one file, or without a header, and what libsndfile cannot encode or ends with a wrong sample.
UNWRITTEN = {"RAW", "SD2", "MPEG_LAYER_I", "MPEG_LAYER_II", ("WAV", "MPEG_LAYER_III"), ("WAVEX", "MPEG_LAYER_III")}
UNWRITTEN |= {("VOC", "ULAW"), ("VOC", "ALAW")}
#: Beginnings of subtypes that store whole blocks of samples: a result may be longer by less than one.
BLOCKS = ("IMA_ADPCM", "MS_ADPCM", "NMS_ADPCM", "GSM610", "G72")
#: libsndfile's code for an error of the system, which it does not describe.
SYSTEM_ERROR = 2
#: Bytes of a sample.
SAMPLE_BYTES = {"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8, "ULAW": 1, "ALAW": 1}
#: Bytes from which on a wav is begun in its 64-bit form: lengths in headers may be estimates.
LARGE = 2**31


class Writer(Protocol):
    """A file in the making."""

    def write(self, block: np.ndarray, track: int = 0) -> None:
        """Write the next (n, channels) samples of a track."""


class Form(NamedTuple):
    """The kind of a result.

    Attributes:
        format, subtype: libsndfile's names; None without a subtype takes the format's default.
        muxer: FFmpeg's container, None where libsndfile writes.
        same: the suffix is that of the source.
    """

    format: str
    subtype: str | None
    muxer: Muxer | None
    same: bool

    @property
    def tracks(self) -> bool:
        """True if it holds several audio tracks."""
        return self.muxer is not None and self.muxer.tracks

    @property
    def is_lossy(self) -> bool:
        """True if its codec may change the sound."""
        return self.muxer is not None or (self.subtype or soundfile.default_subtype(self.format)) in LOSSY


def output_form(source: AudioFile, path: str | Path) -> Form:
    """Return the form of `path`: that of the source for the same suffix, else that of the suffix.

    Raises:
        AudioError: no file with this suffix, or of this length, can be written.
    """
    suffix = Path(path).suffix.lower()
    same = suffix == Path(source.name).suffix.lower()
    if same and source.format == "FLAC" and _is_32_bits(source.bytes()):
        logger.warning("%s: 24 bits are written", source.name)
    if same and source.format and _is_written(source.format, source.subtype):
        return _checked(source, path, Form(source.format, source.subtype, None, same))
    require_writable(path)
    muxer = muxer_of(path)
    if same and suffix in (".ogg", ".oga") and not source.format:  # with a picture, or several tracks
        muxer = MUXERS["ogx"]
    if muxer:
        return Form("", None, muxer, same)
    name = suffix.lstrip(".")
    format = NAMES.get(name, name.upper())
    if name == "opus":
        return Form(format, "OPUS", None, same)
    lossy = source.subtype in LOSSY or source.subtype is None
    subtype = None if lossy or not _is_written(format, source.subtype) else source.subtype
    if same and subtype is None:
        written = soundfile.default_subtype(format)
        logger.warning("%s: %s is written, as no encoder for its codec fits this name", source.name, written)
    return _checked(source, path, Form(format, subtype, None, same))


def _is_32_bits(file: BinaryIO) -> bool:
    head = read_at(file, 0, 22)
    return len(head) == 22 and head[:4] == b"fLaC" and (head[20] & 1, head[21] >> 4) == (1, 15)


def _is_written(format: str, subtype: str | None) -> bool:
    known = subtype is None or soundfile.check_format(format, subtype)
    return known and UNWRITTEN.isdisjoint((format, subtype, (format, subtype)))


def _checked(source: AudioFile, path: str | Path, form: Form) -> Form:
    """Return the form, in 64 bits where a wav may need them; raise AudioError for other files that are too long."""
    width = SAMPLE_BYTES.get(form.subtype or soundfile.default_subtype(form.format) or "")
    if width is None:
        return form
    size = None if source.seconds is None else source.seconds * source.sample_rate * source.channels * width
    if form.format in ("WAV", "WAVEX") and (size is None or size > LARGE):
        return form._replace(format="RF64")
    if form.format in ("AIFF", "AU", "SVX", "VOC") and size is not None and size > 2**32 - 2**16:
        raise AudioError(f"{path}: {form.format} holds no more than 4 GiB; choose .wav, .w64, .caf or .flac")
    return form


def require_writable(path: str | Path) -> None:
    """Raise AudioError if no audio format that can be written has the suffix of a file name."""
    name = Path(path).suffix.lower().lstrip(".")
    format = NAMES.get(name, name.upper())
    if muxer_of(path) is None and (format not in soundfile.available_formats() or not _is_written(format, None)):
        known = "cannot be written" if f".{name}" in SUFFIXES else "no audio format has this suffix"
        raise AudioError(f"{path}: {known}; one of {', '.join(sorted(WRITTEN))} is expected")


@contextmanager
def write_like(files: list[AudioFile], path: str | Path, form: Form) -> Iterator[Writer]:
    """Yield a writer of a file with the form, tags and permissions of its source; it appears whole.

    Args:
        files: audio tracks of the source; `Writer.write` takes their samples.
        path: of the result.
        form: of `output_form`.

    Raises:
        AudioError: see `write_audio`; or the container does not take this audio or a picture.
    """
    source = files[0]
    if form.muxer is None:
        wanted = _options(source, form)
        strings = {} if form.same else source.tags
        rate, channels = source.sample_rate, source.channels
        with write_audio(path, rate, channels, form.format, form.subtype, source=source, **wanted) as sound:
            for name in tags.STRINGS & strings.keys():
                setattr(sound, name, strings[name])
            yield _SoundWriter(sound)
        return
    system_name(Path(path))
    try:
        with atomic_write(path, source.name) as temp:
            with temp.open("wb+") as out, closing(MediaWriter(out, Path(path), form.muxer, files)) as writer:
                yield writer
                writer.finish()
            if form.same:
                tags.copy_tags(source, temp, has_texts=True)
    except OSError as error:
        raise AudioError(str(error)) from error


@contextmanager
def write_trial(source: AudioFile, out: BinaryIO, path: Path, form: Form) -> Iterator[Writer]:
    """Yield a writer of one track alone, encoded as in a result, into an open file.

    Args:
        source: gives the number of the track and the bit rate.
        out: to write to.
        path: of the result, for messages.
        form: of the result.
    """
    with open_audio(source.name, source.track, warn=False) as file:  # with time stamps of its own
        if form.muxer is None:
            wanted = _options(file, form)
            with soundfile.SoundFile(
                out, "w", file.sample_rate, file.channels, form.subtype, format=form.format, **wanted
            ) as sound:
                yield _SoundWriter(sound)
            return
        alone = form.muxer._replace(video=False, tracks=False)
        with closing(MediaWriter(out, path, alone, [file])) as writer:
            yield writer
            writer.finish()


class _SoundWriter:
    def __init__(self, sound: soundfile.SoundFile) -> None:
        self._sound, self._is_ogg = sound, sound.format == "OGG"

    def write(self, block: np.ndarray, track: int = 0) -> None:
        self._sound.write(to_ogg(block) if self._is_ogg else block)


@contextmanager
def write_audio(
    path: str | Path,
    sample_rate: int,
    channels: int,
    format: str,
    subtype: str | None,
    *,
    source: AudioFile | None = None,
    **options: Any,
) -> Iterator[soundfile.SoundFile]:
    """Yield a `SoundFile` to write to; a whole `path` appears when the block succeeds.

    Args:
        path: of the file.
        sample_rate: Hz.
        channels: number of channels.
        format: libsndfile's name.
        subtype: libsndfile's name, None for the format's default.
        source: file whose permissions, and tags if it has the same format, are copied.
        options: `endian`, `compression_level` and `bitrate_mode` of `SoundFile`.

    Raises:
        AudioError: the folder cannot be written to, the disk is full or the format does not take this audio.
    """
    path = Path(path)
    system_name(path)
    try:
        with atomic_write(path, source and source.name) as temp:
            temp.touch()  # the system reports why it refuses; libsndfile does not
            name = os.open(temp, os.O_RDWR | getattr(os, "O_BINARY", 0))  # libsndfile takes no path over 1 KB
            try:
                with soundfile.SoundFile(name, "w", sample_rate, channels, subtype, format=format, **options) as file:
                    yield file
                    file.flush()
                # libsndfile reports no error when the disk fills up while it writes a header or the last block.
                with soundfile.SoundFile(os.open(temp, os.O_RDONLY | getattr(os, "O_BINARY", 0))) as written:
                    if written.frames < file.frames:
                        raise AudioError(f"{path}: not written completely; is the disk full?")
                    if written.frames > file.frames and not file.subtype.startswith(BLOCKS):
                        raise AudioError(f"{path}: {format} with {file.subtype} cannot store {file.frames} samples")
            except soundfile.LibsndfileError as error:
                raise AudioError(f"{path}: cannot be written ({_write_reason(error, path.parent)})") from error
            if source is not None and path.suffix.lower() == Path(source.name).suffix.lower():
                tags.copy_tags(source, temp)
            if format == "RF64" and path.suffix.lower() != ".rf64":
                tags.shorten_header(temp)
    except OSError as error:
        raise AudioError(str(error)) from error


def _write_reason(error: soundfile.LibsndfileError, folder: Path) -> str:
    if folder.is_dir() and shutil.disk_usage(folder).free < 2**16:
        return "no space left on the disk"
    if error.code == SYSTEM_ERROR:
        return "the system refuses; is there a quota, or a limit on the size of files?"
    return error.error_string.strip().rstrip(".")


def _options(source: AudioFile, form: Form) -> dict[str, Any]:
    """Return libsndfile's options for a byte order or a bit rate like the source's; its formulas are in
    mpeg_l3_encode.c and ogg_opus.c.
    """
    if form.same and form.format in ("WAV", "WAVEX") and read_at(source.bytes(), 0, 4) == b"RIFX":
        return {"endian": "BIG"}
    if form.same and form.format == "AIFF" and b"sowt" in read_at(source.bytes(), 0, 512):
        return {"endian": "LITTLE"}
    if form.subtype not in LOSSY or source.subtype != form.subtype:
        return {}
    if source.seconds is None and len(parts := containers.parts(source.bytes())) > 1:  # joined: as the first
        with open_audio(Window(source.bytes(), *parts[0]), warn=False) as first:
            return _options(first, form)
    if not source.seconds:
        return {}
    file, rate = source.bytes(), source.sample_rate
    if form.subtype == "MPEG_LAYER_III":
        start, constant = mp3.sound_start(file)
        kbps = 8e-3 * (file_size(file) - start) / source.seconds
        low, high = (32, 320) if rate >= 32000 else (8, 160) if rate >= 16000 else (8, 64)
        mode = "CONSTANT" if constant and mp3.has_room(rate, source.channels, kbps) else "AVERAGE"
        return {"bitrate_mode": mode, "compression_level": _share(high, low, kbps)}
    if form.subtype == "OPUS":
        kbps = 8e-3 * containers.ogg_sound_size(file) / source.seconds / source.channels
        if source.channels > 4:  # libsndfile's encoder turns 8 to 15 kbit/s a channel into up to 90
            kbps = max(kbps, 16)
        return {"compression_level": _share(256, 6, kbps)}
    wanted = vorbis.nominal(read_at(file, 0, 256)) or round(8 * containers.ogg_sound_size(file) / source.seconds)
    return {"compression_level": vorbis.level_of(rate, source.channels, wanted)}


def _share(best: float, least: float, kbps: float) -> float:
    return min(max((best - kbps) / (best - least), 0.0), 0.999)
