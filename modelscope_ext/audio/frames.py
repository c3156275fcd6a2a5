"""Packets and frames of PyAV.

Axes: (n, channels).
"""

from typing import Any

import numpy as np

#: Channels from which on PyAV does not handle planar samples.
MANY = 8
#: FFmpeg's formats of samples, packed; planar ones end with a "p".
TYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "s64": np.int64, "flt": np.float32, "dbl": np.float64}


def packed(frame: Any) -> Any:
    """Return a frame whose samples PyAV can read (of eight planes it reads memory behind them) or None without any."""
    if not frame.format.is_planar or frame.layout.nb_channels < MANY:
        return frame
    import av

    return next(iter(av.AudioResampler(frame.format.name.removesuffix("p")).resample(frame)), None)


def mixed(frame: Any, layout: Any) -> Any:
    """Return a frame with the channels of a layout, by FFmpeg's rule."""
    import av

    return next(iter(av.AudioResampler(frame.format.name, layout).resample(frame)), None)


def samples_of(frame: Any) -> np.ndarray:
    """Return the (n, channels) samples of a frame in its own format; `to_ndarray` takes several times as long."""
    dtype, planes, count = TYPES[frame.format.name.removesuffix("p")], frame.planes, frame.samples
    if len(planes) == 1:
        channels = frame.layout.nb_channels
        return np.frombuffer(planes[0], dtype, count * channels).reshape(-1, channels)
    samples = np.empty((count, len(planes)), dtype)
    for channel, plane in enumerate(planes):
        samples[:, channel] = np.frombuffer(plane, dtype, count)
    return samples


def without_tag(packet: Any) -> Any:
    """Return a packet without the ID3 tag that joined mp3 files have in the middle, before a frame."""
    head = bytes(memoryview(packet)[:10])
    size = 10 + sum(byte << 7 * place for place, byte in enumerate(head[:5:-1]))
    if head[:3] != b"ID3" or packet.size <= size:
        return packet
    rest = type(packet)(bytes(memoryview(packet)[size:]))
    rest.stream, rest.time_base, rest.duration = packet.stream, packet.time_base, packet.duration
    rest.pts, rest.dts = packet.pts, packet.dts
    return rest
