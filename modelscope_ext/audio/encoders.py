"""Encoders of FFmpeg by PyAV, and the containers for them.

Axes: (n, channels), float32; rates in Hz.
"""

import logging
import math
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modelscope_ext.audio.frames import MANY, TYPES
from modelscope_ext.audio.media import open_container
from modelscope_ext.audio.mp3 import KBPS
from modelscope_ext.audio.pcm import from_float
from modelscope_ext.audio.reading import AudioFile
from modelscope_ext.audio.resample import StreamResampler
from modelscope_ext.audio.timeline import Timeline
from modelscope_ext.audio.vorbis import VorbisTrack, nominal

logger = logging.getLogger(__name__)


class Muxer(NamedTuple):
    """A container of FFmpeg; `codec` is for sound of other kinds of files."""

    name: str
    codec: str
    video: bool = False
    tracks: bool = False  # holds several


#: Suffix → container.
MUXERS = {
    **dict.fromkeys(("m4a", "m4b", "m4r"), Muxer("ipod", "aac")),
    **dict.fromkeys(("mp4", "m4v"), Muxer("mp4", "aac", True, True)),
    **dict.fromkeys(("3gp", "3gpp"), Muxer("3gp", "aac", True, True)),
    **dict.fromkeys(("mpg", "mpeg"), Muxer("mpeg", "mp2", True, True)),
    **dict.fromkeys(("ts", "mts", "m2ts"), Muxer("mpegts", "aac", True, True)),
    **dict.fromkeys(("asf", "wmv"), Muxer("asf", "wmav2", True, True)),
    "3g2": Muxer("3g2", "aac", True, True),
    "3ga": Muxer("3gp", "aac"),
    "mov": Muxer("mov", "aac", True, True),
    "f4v": Muxer("f4v", "aac", True, True),
    "mkv": Muxer("matroska", "aac", True, True),
    "mka": Muxer("matroska", "aac", False, True),
    "webm": Muxer("webm", "opus", True, True),
    "weba": Muxer("webm", "opus"),
    "avi": Muxer("avi", "mp3", True, True),
    "flv": Muxer("flv", "aac", True),
    "ogv": Muxer("ogg", "opus", True, True),
    "ogx": Muxer("ogg", "opus", True, True),
    "nut": Muxer("nut", "aac", True, True),
    "wma": Muxer("asf", "wmav2"),
    "aac": Muxer("adts", "aac"),
    "ac3": Muxer("ac3", "ac3"),
    "eac3": Muxer("eac3", "eac3"),
    "amr": Muxer("amr", "amr_nb"),
    "mp2": Muxer("mp2", "mp2"),
    "tta": Muxer("tta", "tta"),
    "wv": Muxer("wv", "wavpack"),
}
#: Codec → encoders, the first that there is. Others have the codec's name.
ENCODERS = {
    "mp3": ("libmp3lame",),
    "opus": ("libopus",),
    "amr_nb": ("libopencore_amrnb",),
    "amr_wb": ("libvo_amrwbenc",),
    "wmapro": ("wmav2",),
    "wmalossless": ("wmav2",),
    "wmavoice": ("wmav2",),
}
#: Samples by which an encoder is late in files that do not store it: the source's own delay takes their place.
DELAYS = {"aac": 1024, "ac3": 256, "eac3": 256, "amr_nb": 40, "mp2": 481, "mp3": 1105}
WITHOUT_DELAY = ("adts", "ac3", "eac3", "amr", "mp2", "avi", "flv", "mpegts", "mpeg")
#: Samples by which FFmpeg overrates the delay of an encoder where it is stored.
EARLY = {"libopencore_amrnb": 10}
#: Rates of encoders for which FFmpeg lists none.
RATES = {"libopencore_amrnb": (8000,), "libvo_amrwbenc": (16000,)}
#: Bit rates in kbit/s of MPEG-1 and MPEG-2, layer 2: the encoder takes no others.
LAYER_2 = ((32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384), KBPS[1])
LAYOUTS = ("mono", "stereo", "2.1", "4.0", "5.0", "5.1", "6.1", "7.1")
#: Bits per second and channel for sound that was not compressed with loss.
BIT_RATE = 96_000
#: Packets that give the bit rate of a track where its header does not.
PACKETS = 1000


def muxer_of(path: str | Path) -> Muxer | None:
    """Return the container of FFmpeg for a file name, or None."""
    return MUXERS.get(Path(path).suffix.lower().lstrip("."))


class Track:
    """An encoder of one track.

    Args:
        out: PyAV's container.
        muxer: its description.
        source: PyAV's stream of the source.
        file: the same track, as it is read.

    Attributes:
        stream: PyAV's stream of the result.
        time: seconds up to which the track is encoded.

    Raises:
        ValueError: there is no such encoder, or it does not take so many channels.
    """

    def __init__(self, out: Any, muxer: Muxer, source: Any, file: AudioFile) -> None:
        import av

        self._av = av
        same, codec, wanted = _wanted(muxer, source, file)
        rate, self.stream = _add_stream(out, (wanted, muxer.codec), file.sample_rate)
        stream, options = self.stream, self.stream.codec_context.codec
        encoder = options.name
        if same and options.canonical_name != codec and file.warn:
            logger.warning("%s: %s is written, as there is no encoder for %s", file.name, options.canonical_name, codec)
        if rate < file.sample_rate and file.warn:
            logger.warning("%s: %s has no more than %d Hz", file.name, options.canonical_name, rate)
        layout = source.layout.name if source.layout.nb_channels == file.channels else ""
        layout = "" if "channels" in layout else layout  # of no known order
        if not layout and file.channels > len(LAYOUTS):
            raise ValueError(f"{encoder} has no layout of {file.channels} channels")
        stream.layout = layout or LAYOUTS[file.channels - 1]
        stream.format = _sample_format([each.name for each in options.audio_formats or []], source.format)
        if options.lossy and not options.lossless:
            wanted_rate = min(_bit_rate(av, file, source) or BIT_RATE * file.channels, 512_000 * file.channels)
            known = LAYER_2[rate < 32000] if encoder == "mp2" else (wanted_rate / 1000,)
            stream.bit_rate = round(1000 * min(known, key=lambda kbps: abs(1000 * kbps - wanted_rate)))
        self._rate, self._timeline = rate, Timeline(file, rate)
        self._dtype = np.dtype(TYPES[stream.format.name.removesuffix("p")])
        self._planar = stream.format.is_planar and file.channels < MANY  # PyAV converts others
        self._format = stream.format.name if self._planar else stream.format.name.removesuffix("p")
        self._skip = DELAYS.get(codec, 0) if same and muxer.name in WITHOUT_DELAY else 0
        self._late = bool(self._skip)
        self._resampler = StreamResampler(file.sample_rate, rate, file.channels) if rate != file.sample_rate else None
        early = EARLY.get(encoder, 0) if muxer.name not in WITHOUT_DELAY else 0
        self._left = np.zeros((early, file.channels), np.float32)
        self._done, self._last = 0, -math.inf
        self.time = -math.inf

    def start(self) -> None:
        """Take what the encoder chose when it was opened."""
        self._size = self.stream.frame_size or 1024

    def encode(self, block: np.ndarray) -> list[Any]:
        """Return the packets that are ready after (n, channels) samples."""
        return self._encode(self._resampler.feed(block) if self._resampler else block)

    def flush(self) -> list[Any]:
        """Return the last packets."""
        rest = self._resampler.flush() if self._resampler else self._left[:0]
        packets = self._encode(rest, last=True)
        self.time = math.inf
        packets += self.stream.encode(None)
        return [packet for packet in packets if not (self._late and packet.pts is not None and packet.pts > self._last)]

    def _encode(self, block: np.ndarray, last: bool = False) -> list[Any]:
        block = self._timeline.fill(block)
        skipped = min(self._skip, len(block))
        self._skip -= skipped
        self._done += skipped
        samples = np.concatenate((self._left, block[skipped:]))
        whole = len(samples) if last else len(samples) // self._size * self._size
        packets = []
        for start in range(0, whole, self._size):
            packets += self.stream.encode(self._frame(samples[start : min(whole, start + self._size)]))
        self._left = samples[whole:]
        return packets

    def _frame(self, samples: np.ndarray) -> Any:
        data = from_float(samples, self._dtype)
        data = data.T if self._planar else data.reshape(1, -1)
        frame = self._av.AudioFrame.from_ndarray(np.ascontiguousarray(data), self._format, self.stream.layout)
        frame.sample_rate, frame.time_base = self._rate, Fraction(1, self._rate)
        self.time = self._timeline.time_of(self._done)
        self._last = max(round(self.time * self._rate), self._last + 1)
        frame.pts = self._last
        self._done += len(samples)
        return frame


def add_track(out: Any, muxer: Muxer, source: Any, file: AudioFile) -> Track | VorbisTrack:
    """Return an encoder of a track for a container; see `Track`."""
    same, codec, wanted = _wanted(muxer, source, file)
    track: Track | VorbisTrack
    if wanted == "vorbis":
        import av

        bit_rate = nominal(source.codec_context.extradata or b"") if codec == "vorbis" else 0
        track = VorbisTrack(out, file, bit_rate or _bit_rate(av, file, source) or BIT_RATE * file.channels)
    else:
        track = Track(out, muxer, source, file)
    if same:
        describe(track.stream, source)
    return track


def describe(stream: Any, source: Any) -> None:
    """Give a stream the tags, disposition and, in a transport stream, number of another one."""
    stream.metadata.update(source.metadata)
    if "name" in source.metadata:  # so FFmpeg calls in mp4 files what it writes as
        stream.metadata.setdefault("title", source.metadata["name"])
    stream.disposition = source.disposition
    if source.container.format.name == stream.container.format.name == "mpegts":
        stream.id = source.id


def _wanted(muxer: Muxer, source: Any, file: AudioFile) -> tuple[bool, str, str]:
    """Return True for a container of the same kind, the codec of the source and that of the result.

    Raises:
        ValueError: the codec of the source is not known.
    """
    if source.codec_context is None:
        raise ValueError("FFmpeg does not know the codec of the source; choose the suffix .wav")
    same = muxer.name in _names(source.container.format.name)
    codec = _codec_of(source, file)
    return same, codec, codec if same or muxer.name == "matroska" else muxer.codec


def _codec_of(source: Any, file: AudioFile) -> str:
    """Return the name of a stream's codec; FFmpeg calls MPEG audio of layer 2 mp3 in a transport stream."""
    name: str = source.codec_context.codec.canonical_name
    if name != "mp3":
        return name
    with open_container(file.bytes()) as again:
        head = bytes(next(again.demux(again.streams[source.index])))[:2]
    return "mp2" if head[:1] == b"\xff" and head[1] & 6 == 4 else name


def _bit_rate(av: Any, file: AudioFile, source: Any) -> int | None:
    """Return the bit rate of a track that was compressed with loss, or None."""
    if source.codec_context.codec.lossless or not source.codec_context.codec.lossy:
        return None
    if source.bit_rate:
        return source.bit_rate
    size = seconds = 0.0
    with suppress(av.FFmpegError), open_container(file.bytes()) as again:
        for _, packet in zip(range(PACKETS), again.demux(again.streams[source.index]), strict=False):
            size += packet.size
            seconds += float((packet.duration or 0) * packet.time_base) if packet.time_base else 0.0
    return round(8 * size / seconds) if seconds else None


def _add_stream(out: Any, codecs: tuple[str, ...], rate: int) -> tuple[int, Any]:
    """Add a stream of the first codec that there is and that the container takes; return its rate and the stream.

    Raises:
        ValueError: there is none.
    """
    import av

    problem = None
    for codec in codecs:
        try:
            encoder = _encoder(codec)
            rate = _rate(rate, RATES.get(encoder) or av.Codec(encoder, "w").audio_rates)
            return rate, out.add_stream(encoder, rate=rate)
        except ValueError as error:
            problem = error
    raise problem or ValueError("no codec is given")


def _encoder(codec: str) -> str:
    """Return the name of an encoder.

    Raises:
        ValueError: there is none.
    """
    import av

    for name in ENCODERS.get(codec, (codec,)):
        with suppress(ValueError):
            if not av.Codec(name, "w").experimental:
                return name
    raise ValueError(f"there is no encoder for {codec}; choose another suffix, such as .m4a or .wav")


def _rate(rate: int, known: Any) -> int:
    """Return a rate that the encoder takes: the same, the next higher one or the highest."""
    if not known or rate in known:
        return rate
    return min((each for each in known if each > rate), default=max(known))


def _sample_format(known: list[str], source: Any) -> str:
    """Return the encoder's format of samples that keeps those of the source."""
    names = {name.removesuffix("p"): name for name in reversed(known)}
    bits = source.name.removesuffix("p") if source else "flt"
    order = [bits, *(("s32", "flt", "s16") if bits in ("flt", "dbl", "s32") else ("s16", "s32", "flt"))]
    return next((names[each] for each in order if each in names), known[0] if known else "s16")


def _names(container: str) -> set[str]:
    """Return FFmpeg's names of the containers that one demuxer reads."""
    names = set(container.split(","))
    families = ({"mov", "mp4", "m4a", "3gp", "3g2", "mj2"}, {"matroska", "webm"})
    mp4 = {"ipod", "f4v", "mp4", "mov"} if names & families[0] else set()
    return names | mp4 | {"aac": {"adts"}, "mpeg": {"vob"}, "mp3": {"mp2"}}.get(container, set())
