"""Files that FFmpeg writes, by PyAV: denoised tracks encoded, and all else of the source copied as it is.

Axes: (n, channels), float32.
"""

import logging
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from modelscope_ext.audio import transport
from modelscope_ext.audio.containers import is_faststart
from modelscope_ext.audio.encoders import Muxer, Track, add_track, describe
from modelscope_ext.audio.media import open_container, reason_of
from modelscope_ext.audio.pcm import AudioError
from modelscope_ext.audio.reading import AudioFile
from modelscope_ext.audio.timeline import Shifts
from modelscope_ext.audio.vorbis import VorbisTrack

logger = logging.getLogger(__name__)

#: FFmpeg's mark of a stream that is a cover.
PICTURE = 0x400

#: Containers of the family of QuickTime.
MOV = ("mov", "mp4", "ipod", "3gp", "3g2", "f4v")

#: Tags that FFmpeg makes of the header of an mp4 file.
OF_CONTAINER = ("major_brand", "minor_version", "compatible_brands", "encoder")
#: Options of transport streams: several frames of sound share a packet, and no time stamp changes.
TRANSPORT = {"max_delay": "700000", "mpegts_copyts": "1"}


class MediaWriter:
    """A file in the making.

    Args:
        out: open file to write to.
        target: its final name, for messages.
        muxer: its container.
        files: the audio tracks of the source that are denoised, in order.

    Raises:
        AudioError: the container or the encoder does not take this.
    """

    def __init__(self, out: Any, target: Path, muxer: Muxer, files: list[AudioFile]) -> None:
        import av

        self._error = (av.FFmpegError, ValueError)
        self._target, self._muxer = target, muxer
        self._file = files[0]
        self._source = open_container(self._file.bytes())
        self._out: Any = None
        try:
            self._begin(av, out, files, keep_data=True)
        except AudioError:
            self.close()
            raise
        except self._error as error:
            self.close()
            form = f"{self._file.sample_rate} Hz and {self._file.channels} channels in {muxer.name}"
            raise AudioError(f"{target}: cannot be written, {form}: {reason_of(error)}") from error
        except BaseException:
            self.close()
            raise

    def _begin(self, av: Any, out: Any, files: list[AudioFile], keep_data: bool) -> None:
        """Write the header; without data streams if the container refuses them."""
        out.seek(0)
        out.truncate()
        options = self._options(out)

        def open_again(*_: Any) -> BinaryIO:
            """Open the file to read, as FFmpeg does to move the index to its beginning."""
            out.flush()
            return open(out.name, "rb")

        self._out = av.open(out, "w", format=self._muxer.name, options=options, io_open=open_again)
        self._out.metadata.update({k: v for k, v in self._source.metadata.items() if k not in OF_CONTAINER})
        if self._source.format.name == self._muxer.name == "mpegts":
            self._name_service()
        denoised = {file.track: file for file in files}
        self._tracks: dict[int, Track | VorbisTrack] = {}
        self._copied: dict[int, Any] = {}
        self._times: dict[int, float] = {}  # of each stream: the last time in s
        self._shifts = Shifts(self._file.bytes())
        audio = {stream.index: number for number, stream in enumerate(self._source.streams.audio)}
        for stream in self._source.streams:
            if (number := audio.get(stream.index, -1)) in denoised:
                self._tracks[number] = add_track(self._out, self._muxer, stream, denoised[number])
            elif self._holds(stream, keep_data):
                self._copy(stream)
        if chapters := self._source.chapters():
            with suppress(*self._error):
                self._out.set_chapters(chapters)
        try:
            self._out.start_encoding()
        except self._error:
            if not keep_data or all(stream.type != "data" for stream in self._source.streams):
                raise
            self._drop()
            self._begin(av, out, files, keep_data=False)
            return
        for track in self._tracks.values():
            track.start()
        self._packets = (
            self._source.demux([self._source.streams[i] for i in self._copied]) if self._copied else iter(())
        )
        self._waiting: Any = next(self._packets, None)

    def _name_service(self) -> None:
        names = transport.services(self._file.bytes())
        if len(names) > 1:
            if self._file.warn:
                logger.warning("%s: the names of %d services are left out", self._target, len(names))
        elif names:
            provider, name = names[0]
            self._out.metadata.update(service_provider=provider, service_name=name)

    def _options(self, out: Any) -> dict[str, str]:
        """Return FFmpeg's options for the container."""
        if self._muxer.name == "mpegts":
            return {**TRANSPORT, "mpegts_m2ts_mode": str(int(transport.is_prefixed(self._file.bytes())))}
        if self._muxer.name not in MOV:
            return {}
        precise = {"movie_timescale": str(self._file.sample_rate)}  # lengths to the sample, not the millisecond
        own = any(name.startswith("com.") for name in self._source.metadata)  # tags of telephones, in an atom of theirs
        first = is_faststart(self._file.bytes()) and isinstance(getattr(out, "name", None), str)  # a file with a path
        flags = ["use_metadata_tags"] * own + ["faststart"] * first
        return {**precise, "movflags": "+".join(flags)} if flags else precise

    def _holds(self, stream: Any, keep_data: bool) -> bool:
        """Return True for a stream that the container is for; log what is left out."""
        if stream.disposition & PICTURE:  # in other containers it is a tag
            return self._muxer.name == "matroska"
        wanted = self._muxer.tracks if stream.type == "audio" else self._muxer.video
        if "timecode" in stream.metadata and stream.type == "data" and self._muxer.name in MOV:
            return False  # the container makes it again
        if stream.type == "data" and not keep_data:
            if self._source.chapters():  # the stream with their names, which the container makes again
                return False
            self._leave_out(stream)
            return False
        is_said = stream.type == "audio" or (stream.type == "data" and self._source.chapters())
        if not wanted and not is_said and self._target.suffix.lower() == Path(self._file.name).suffix.lower():
            self._leave_out(stream)
        return wanted

    def _leave_out(self, stream: Any, reason: str = "") -> None:
        if self._file.warn:
            logger.warning("%s: stream %d, %s, is left out%s", self._target, stream.index, stream.type, reason)

    def _copy(self, stream: Any) -> None:
        try:
            if stream.disposition & PICTURE:
                with open_container(self._file.bytes()) as again:
                    data = bytes(next(again.demux(again.streams[stream.index])))
                names = stream.metadata
                self._out.add_attachment(names.get("filename", "cover"), names.get("mimetype", "image/jpeg"), data)
                return
            if stream.type == "attachment":
                copy = self._out.add_attachment(stream.name or "file", stream.mimetype or "", stream.data)
            else:
                copy = self._out.add_stream_from_template(stream, opaque=True)
                kind = stream.container.format.name.split(",")[0]
                if stream.type == "video" and (kind == self._muxer.name or (kind == "mov" and self._muxer.name in MOV)):
                    with suppress(*self._error):
                        copy.codec_context.codec_tag = stream.codec_context.codec_tag
        except self._error as error:
            if stream.type == "video":
                raise AudioError(f"{self._target}: {reason_of(error)}; choose the suffix .mkv") from error
            self._leave_out(stream, f" ({error})")
            return
        describe(copy, stream)
        if stream.type != "attachment":
            self._copied[stream.index] = copy

    def write(self, block: np.ndarray, track: int = 0) -> None:
        """Encode the next (n, channels) samples of a track; copy other streams up to them."""
        self._mux(self._tracks[track].encode(block))

    def finish(self) -> None:
        """Write all that waits, and the end of the file."""
        for track in self._tracks.values():
            self._mux(track.flush())
        self._copy_until(math.inf)
        self._close_out()

    def close(self) -> None:
        """Close the files; one that is not finished is of no use."""
        self._drop()
        self._source.close()

    def _drop(self) -> None:
        if self._out is not None:
            with suppress(*self._error, OSError):
                self._close_out()

    def _close_out(self) -> None:
        out, self._out = self._out, None
        try:
            out.close()
        except self._error as error:
            raise AudioError(f"{self._target}: cannot be written ({reason_of(error)})") from error

    def _mux(self, packets: list[Any]) -> None:
        try:
            for packet in packets:
                self._out.mux_one(packet)
        except self._error as error:
            raise AudioError(f"{self._target}: cannot be written ({reason_of(error)})") from error
        self._copy_until(min(track.time for track in self._tracks.values()))

    def _copy_until(self, seconds: float) -> None:
        """Copy the packets of other streams up to a time."""
        while (packet := self._waiting) is not None:
            if not self._is_due(packet, seconds):
                return
            try:
                if packet.size and _is_shown(packet):
                    packet.stream = self._copied[packet.stream_index]
                    self._out.mux_one(packet)
                self._waiting = next(self._packets, None)
            except self._error as error:
                hint = "" if self._muxer.name == "matroska" else "; choose the suffix .mkv"
                raise AudioError(f"{self._target}: a stream cannot be copied ({reason_of(error)}){hint}") from error

    def _is_due(self, packet: Any, seconds: float) -> bool:
        """Return True for a packet up to a time; shift its time stamps where a joined recording begins."""
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is None:
            return True
        time, index = float(stamp * packet.time_base), packet.stream_index
        last = self._times.get(index, -math.inf)
        shift = self._shifts.of(index, time, last)
        if time + shift > seconds:
            return False
        if shift:
            ticks = round(shift / packet.time_base)
            packet.dts = stamp + ticks
            packet.pts = None if packet.pts is None else packet.pts + ticks
        self._times[index] = max(last, time + shift)
        return True


def _is_shown(packet: Any) -> bool:
    """Begin a subtitle that was cut at the start of a video there; return False for one that ends before it."""
    if packet.stream.type == "subtitle" and packet.pts is not None and packet.pts < 0:
        packet.duration = max(0, (packet.duration or 0) + packet.pts)
        packet.pts = packet.dts = 0
        return packet.duration > 0
    return True
