"""Audio tracks of any container that FFmpeg reads, by PyAV.

Axes: (N, channels), float32; rates in Hz.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np

from modelscope_ext.audio import mp3
from modelscope_ext.audio.frames import mixed, packed, samples_of, without_tag
from modelscope_ext.audio.headers import read_at
from modelscope_ext.audio.pcm import AudioError, as_float
from modelscope_ext.audio.resample import StreamResampler

#: FFmpeg's names of the containers that are opened. Play lists, which name other files, are none of them.
CONTAINERS = (
    "3gp,aa,aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,gsm,iff,ircam,ivf,loas,"
    "matroska,mlp,mov,mp3,mpc,mpc8,mpeg,mpegts,mxf,nistsphere,nut,ogg,oma,qcp,rm,shn,sox,tak,truehd,tta,voc,w64,wav,"
    "wsd,wv,xwma"
)
#: Container and codec → format and subtype of libsndfile.
WRITTEN_AS = {
    ("mp3", "mp3"): ("MP3", "MPEG_LAYER_III"),
    ("ogg", "opus"): ("OGG", "OPUS"),
    ("ogg", "vorbis"): ("OGG", "VORBIS"),
    ("flac", "flac"): ("FLAC", None),
    ("wav", "pcm_s16le"): ("WAV", "PCM_16"),
    ("aiff", "pcm_s16be"): ("AIFF", "PCM_16"),
    ("caf", "alac"): ("CAF", None),
    ("voc", "pcm_u8"): ("VOC", "PCM_U8"),
    ("voc", "pcm_s16le"): ("VOC", "PCM_16"),
}
#: Kind of FFmpeg's uncompressed codecs → subtype of libsndfile.
PCM = {"s16": "PCM_16", "s24": "PCM_24", "s32": "PCM_32", "f32": "FLOAT", "f64": "DOUBLE", "mul": "ULAW", "ala": "ALAW"}
#: Containers whose header gives the length of the track exactly.
EXACT = {"mov", "flac", "tta", "wv", "ape", "tak"}
#: Seconds by which a track may be shorter than its header claims.
SLACK_S = 0.1
#: Longest padding in samples at the end of a track, which is removed where the container gives the length.
PADDING = 8192
#: Longest gap in seconds for which silence stands in.
GAP_S = 1.0
#: FFmpeg's flag for a decoder that drops no samples at the beginning.
SKIP_MANUAL = 1 << 29
#: Seconds by which time stamps may differ from the count of samples: Matroska rounds them to milliseconds.
JITTER_S = 0.002


class Fit:
    """Converts chunks of any rate and number of channels to those of the first chunk.

    Args:
        sample_rate: rate of the result.
        channels: number of channels of the result.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        self.sample_rate, self.channels = sample_rate, channels
        self.resampler: StreamResampler | None = None
        self.rate = sample_rate

    def feed(self, chunk: np.ndarray, sample_rate: int) -> np.ndarray:
        """Return an (n, channels) chunk at the rate of the result.

        Raises:
            AudioError: neither the chunk nor the result is mono and they differ in channels.
        """
        if chunk.shape[1] == self.channels and sample_rate == self.sample_rate and not self.resampler:
            return chunk
        if chunk.shape[1] != self.channels:
            if 1 not in (chunk.shape[1], self.channels):
                raise AudioError(f"changes from {self.channels} to {chunk.shape[1]} channels")
            mono = chunk.mean(1, keepdims=True, dtype=np.float32)
            chunk = np.ascontiguousarray(np.broadcast_to(mono, (len(chunk), self.channels)))
        rest = chunk[:0]
        if sample_rate != self.rate:
            rest, self.rate = self.flush(), sample_rate
            if sample_rate != self.sample_rate:
                self.resampler = StreamResampler(sample_rate, self.sample_rate, self.channels)
        if self.resampler:
            chunk = self.resampler.feed(chunk)
        return np.concatenate((rest, chunk)) if len(rest) else chunk

    def flush(self) -> np.ndarray:
        """Return the rest."""
        resampler, self.resampler = self.resampler, None
        return resampler.flush() if resampler else np.zeros((0, self.channels), np.float32)


class Media:
    """A decoder of one audio track.

    Args:
        file: a seekable binary file; it stays open.
        track: number of the audio track from 0 on.

    Attributes:
        sample_rate, channels: of the first samples. Later samples are converted to them.
        format, subtype: names of libsndfile for the same format, None without them.
        tracks: number of audio tracks.
        seconds: length in the header, None without one; it may be an estimate.
        tags: title, artist … by FFmpeg's names.
        times: samples read before each jump of the time stamps, and the time in s after it, to be taken away.
        problems: reasons why samples may be missing; complete after the last `read`.

    Raises:
        AudioError: the file has no such track or nothing in it can be decoded.
    """

    def __init__(self, file: BinaryIO, track: int = 0) -> None:
        self._container = open_container(file)
        import av

        self.problems: list[str] = []
        self.times: deque[tuple[int, float]] = deque()
        self._mark: tuple[int, float] | None = None  # the last one
        self._error = av.FFmpegError
        self._damaged = self._gap = 0
        self._is_mp3 = self._container.format.name == "mp3"
        try:
            tracks = self._container.streams.audio
            if not 0 <= track < len(tracks):
                raise AudioError(f"no audio track {track}; there are {len(tracks)}" if tracks else "no audio track")
            self._stream, self.tracks = tracks[track], len(tracks)
            if self._stream.codec_context is None:
                raise AudioError(f"there is no decoder for audio track {track}")
            self._skip = self._keep_beginning()
            frames = self._frames()
            first = next(frames, None)
            if first is None:
                raise AudioError("; ".join(["nothing can be decoded", *self.problems]))
        except BaseException:
            self.close()
            raise
        self.sample_rate, self._layout, self.channels = first.sample_rate, first.layout, first.layout.nb_channels
        self._container_name = self._container.format.name.split(",")[0]
        self._frames_left = itertools.chain([first], frames)
        self._fit = Fit(self.sample_rate, self.channels)
        codec = self._stream.codec_context
        self.format, self.subtype = WRITTEN_AS.get((self._container_name, codec.codec.canonical_name), (None, None))
        if self._container_name == "ogg" and len(self._container.streams) > 1:
            self.format = None  # libsndfile writes one stream
        if self.subtype is None and codec.name in ("flac", "alac", "tta", "wavpack"):
            kind = "ALAC" if self.format == "CAF" else "PCM"
            self.subtype = f"{kind}_16" if codec.format.name.startswith("s16") else f"{kind}_24"
        if self.subtype is None and codec.name.startswith("pcm_"):
            self.subtype = PCM.get(codec.name.split("_")[1][:3])
        self.seconds, self.tags = self._claimed_seconds(), dict(self._container.metadata)
        self._start = first.time or 0.0
        self._chunks = self._trimmed()
        self._waiting: list[np.ndarray] = []

    def close(self) -> None:
        """Close the decoder."""
        self._container.close()

    def read(self, length: int) -> np.ndarray:
        """Return the next (n, channels) samples, n = `length` but at the end."""
        have = sum(map(len, self._waiting))
        while have < length and (chunk := next(self._chunks, None)) is not None:
            self._waiting.append(chunk)
            have += len(chunk)
        if not self._waiting:
            return np.zeros((0, self.channels), np.float32)
        samples = as_float(np.concatenate(self._waiting))  # which refuses what is not finite
        self._waiting = [samples[length:]] if len(samples) > length else []
        return samples[:length]

    def _claimed_seconds(self) -> float | None:
        stream, container = self._stream, self._container
        if stream.duration is not None and stream.time_base:
            return max(0.0, float(stream.duration * stream.time_base))
        return container.duration / 1e6 if container.duration and container.duration > 0 else None

    def _frames(self) -> Iterator[Any]:
        """Yield all frames that can be decoded; count packets that cannot."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except self._error as error:
                self.problems.append(f"its end is unreadable ({reason_of(error)})")
                packet = None
            if packet is None:
                return
            try:
                frames = (without_tag(packet) if self._is_mp3 else packet).decode()
            except self._error:
                self._damaged += 1
                if packet.duration and packet.time_base:
                    self._gap += min(GAP_S, float(packet.duration * packet.time_base))
                continue
            if packet.is_corrupt or any(frame.is_corrupt for frame in frames) or self._is_partial(packet):
                self.problems.append("a packet is incomplete")
            yield from frames

    def _keep_beginning(self) -> int:
        """Return the samples of padding of a wma file. FFmpeg's decoder drops twice as many: a frame of the sound.

        At the end of ALAC in a caf file it drops as many samples of the sound as the last packet is short of.
        """
        codec = self._stream.codec_context
        is_alac = codec.name == "alac" and self._container.format.name == "caf"
        if not is_alac and codec.name not in ("wmav1", "wmav2"):
            return 0
        codec.flags2 |= SKIP_MANUAL
        if is_alac:
            return 0
        return 512 << sum(codec.sample_rate > rate for rate in (16000, 22050, 48000))

    def _is_partial(self, packet: Any) -> bool:
        """Return True for an mp3 frame without its end, which FFmpeg decodes all the same."""
        if not self._is_mp3 or not packet.size:
            return False
        wanted = mp3.frame_size(bytes(memoryview(packet)[:4]))
        return wanted is not None and packet.size < wanted

    def _samples(self) -> Iterator[np.ndarray]:
        """Yield (n, channels) chunks; silence stands in for packets that cannot be decoded."""
        done = 0
        for frame in filter(None, map(self._packed, self._frames_left)):
            data, channels = samples_of(frame), frame.layout.nb_channels
            if data.dtype != np.float32:
                data = as_float(data)
            if self._gap:
                data = np.concatenate((np.zeros((round(self._gap * frame.sample_rate), channels), np.float32), data))
                self._gap = 0
            if self._skip:
                data, self._skip = data[self._skip :], max(0, self._skip - len(data))
            if frame.pts is not None:
                self._note_time(done + len(data) - frame.samples, frame.time)
            chunk = self._fit.feed(data, frame.sample_rate)
            done += len(chunk)
            yield chunk
        yield self._fit.flush()

    def _packed(self, frame: Any) -> Any:
        channels = frame.layout.nb_channels
        try:
            if channels != self.channels and 1 not in (channels, self.channels):
                problem = f"it changes from {self.channels} to {channels} channels, which are mixed"
                self.problems += [] if problem in self.problems else [problem]
                frame = mixed(frame, self._layout)
            return packed(frame)
        except self._error:  # a damaged packet may claim any number of channels
            self._damaged += 1
            return None

    def _note_time(self, done: int, seconds: float) -> None:
        at, time = self._mark or (0, math.inf)
        if abs(time + (done - at) / self.sample_rate - seconds) > JITTER_S:
            self._mark = (done, seconds)
            self.times.append(self._mark)

    def _trimmed(self) -> Iterator[np.ndarray]:
        """Yield the samples without the padding of the last frame; report a length that is not reached."""
        exact = self._container_name in EXACT and self.seconds is not None
        length = round(self.seconds * self.sample_rate) if exact else None
        done, beyond = 0, []
        for chunk in self._samples():
            inside = chunk if length is None or beyond else chunk[: max(0, length - done)]
            done += len(chunk)
            if len(inside):
                yield inside
            if len(inside) < len(chunk):
                beyond.append(chunk[len(inside) :])
                if sum(map(len, beyond)) > PADDING:  # the header is wrong
                    yield from beyond
                    beyond, length = [], None
        if self._damaged:
            self.problems.append(f"{self._damaged} damaged packets")
        promised = self.seconds if exact else self._promised_seconds()
        gapless = exact and self._container_name != "mov"
        reached = done / self.sample_rate if gapless else self._reached(done)
        if promised and reached < promised - SLACK_S:
            self.problems.append(f"it ends after {reached:.2f} of {promised:.2f} s")

    def _promised_seconds(self) -> float | None:
        """Return the length of the track from the start of a Matroska file on, if it is known; None in others."""
        if self._container_name != "matroska":
            return None
        parts = self._stream.metadata.get("DURATION", "").split(":")
        with suppress(ValueError):
            hours, minutes, seconds = map(float, parts)
            return 3600 * hours + 60 * minutes + seconds - max(0.0, self._start)
        return self.seconds - max(0.0, self._start) if self.seconds and len(self._container.streams) == 1 else None

    def _reached(self, done: int) -> float:
        """Return the seconds from the first to the last of so many samples, with gaps of the time stamps."""
        at, time = self._mark or (0, self._start)
        return time - self._start + (done - at) / self.sample_rate


def open_container(file: BinaryIO) -> Any:
    """Return PyAV's container for a seekable binary file.

    Raises:
        AudioError: it is none that FFmpeg reads.
    """
    import av  # takes a quarter of a second

    if read_at(file, 0, 4) == b"RIFX":
        raise AudioError("FFmpeg takes its samples for those of the other byte order")
    file.seek(0)
    try:
        return av.open(file, options={"format_whitelist": CONTAINERS}, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise AudioError(reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """Return FFmpeg's reason without the place in its code."""
    return (getattr(error, "strerror", None) or str(error)).strip().rstrip(".")
