"""Vorbis by libsndfile, also for the containers of FFmpeg, whose own encoder is no match.

Axes: (n, channels), float32; rates in Hz.
"""

import io
import math
import struct
from fractions import Fraction
from typing import Any

import numpy as np
import soundfile

from modelscope_ext.audio.containers import ogg_packets
from modelscope_ext.audio.media import open_container
from modelscope_ext.audio.pcm import to_ogg
from modelscope_ext.audio.reading import AudioFile
from modelscope_ext.audio.timeline import Timeline

#: Packets of a Vorbis stream before its sound.
HEADERS = 3
#: FFmpeg's number of the data that tell how many samples to leave out at both ends of a packet.
SKIP_SAMPLES = 11


def level_of(sample_rate: int, channels: int, bit_rate: int) -> float:
    """Return libsndfile's level of compression whose nominal bit rate is nearest."""
    levels = [step / 20 for step in range(21)]
    return min(levels, key=lambda level: abs(nominal(_shortest(sample_rate, channels, level)) - bit_rate))


def nominal(header: bytes) -> int:
    """Return the nominal bit rate in data that hold the first header of a Vorbis stream; 0 without it."""
    at = header.find(b"\x01vorbis")
    return max(0, struct.unpack_from("<i", header, at + 20)[0]) if 0 <= at <= len(header) - 24 else 0


def _shortest(sample_rate: int, channels: int, level: float) -> bytes:
    file = io.BytesIO()
    with _encoder(file, sample_rate, channels, level) as sound:
        sound.write(np.zeros((1, channels), np.float32))
    return file.getvalue()


def _encoder(file: io.BytesIO, sample_rate: int, channels: int, level: float) -> soundfile.SoundFile:
    return soundfile.SoundFile(file, "w", sample_rate, channels, "VORBIS", format="OGG", compression_level=level)


class VorbisTrack:
    """An encoder of one track, as `encoders.Track` is for other codecs.

    Args:
        out: PyAV's container.
        file: the track of the source, as it is read.
        bit_rate: bits per second that it should have.

    Attributes:
        stream: PyAV's stream of the result.
        time: seconds up to which the track is encoded.
    """

    def __init__(self, out: Any, file: AudioFile, bit_rate: int) -> None:
        import av

        self._av, self._rate, self._timeline = av, file.sample_rate, Timeline(file, file.sample_rate)
        form = (file.sample_rate, file.channels)
        level = level_of(*form, bit_rate)
        self._like = open_container(io.BytesIO(_shortest(*form, level)))  # which has the same headers
        self.stream = out.add_stream_from_template(self._like.streams.audio[0])
        self._ogg = io.BytesIO()
        self._sound = _encoder(self._ogg, *form, level)
        self._rest, self._headers = b"", HEADERS
        self._taken = self._done = 0
        self._last = -(2**62)
        self.time = -math.inf

    def start(self) -> None:
        """Do nothing: the encoder needs nothing of the container."""

    def encode(self, block: np.ndarray) -> list[Any]:
        """Return the packets that are ready after (n, channels) samples."""
        block = self._timeline.fill(block)
        self._sound.write(to_ogg(block))
        self._taken += len(block)
        return self._packets()

    def flush(self) -> list[Any]:
        """Return the last packets; the last one says where the sound ends within it."""
        self._sound.close()
        packets = self._packets()
        self.time = math.inf
        beyond = self._done - self._taken
        if packets and beyond > 0:
            data = self._av.packet.PacketSideData(SKIP_SAMPLES, 10)
            data.update(struct.pack("<IIBB", 0, beyond, 0, 0))
            packets[-1].set_sidedata(data)
            packets[-1].duration = max(0, packets[-1].duration - beyond)
        return packets

    def _packets(self) -> list[Any]:
        found, self._rest = ogg_packets(self._ogg.getvalue(), self._rest)
        self._ogg.seek(0)
        self._ogg.truncate()
        sound = found[self._headers :]
        self._headers = max(0, self._headers - len(found))
        return list(map(self._packet, sound))

    def _packet(self, content: bytes) -> Any:
        """Return a packet with its time: a decoder counts its samples."""
        packet = self._av.Packet(content)
        packet.stream = self._like.streams.audio[0]
        length = sum(frame.samples for frame in packet.decode())
        self.time = self._timeline.time_of(self._done)
        self._last = max(round(self.time * self._rate), self._last + 1)
        packet.stream, packet.time_base, packet.duration = self.stream, Fraction(1, self._rate), length
        packet.pts = packet.dts = self._last
        self._done += length
        return packet
