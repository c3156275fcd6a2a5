"""Structure of mp3 files: tags, frames and Xing headers.

Positions and sizes are in bytes from the beginning of a file.
"""

import struct
from typing import BinaryIO

from modelscope_ext.audio.headers import file_size, read_at

#: Bit rates of layer 3 frames in MPEG-1 and MPEG-2.
KBPS = (
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
#: Bytes of LAME's Xing header, which gives the exact length.
XING = 156
#: Most frames of padding.
PADDING = 4
#: Bytes that are read at a time.
SEARCH = 2**20
#: Bytes of a tag that are searched for sound, and frames in a row that are no chance.
MOST_TAG, CHAIN = 2**24, 4


def is_mp3(file: BinaryIO) -> bool:
    """Return True if a file begins with an MPEG audio frame of layer 1 to 3, after its ID3 tag if it has one."""
    head = read_at(file, _after_tag(file), 4)
    return len(head) == 4 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and bool(head[1] & 6) and head[2] < 0xF0


def xing_size(file: BinaryIO) -> int | None:
    """Return the size of an mp3 file by its Xing header without a tag at its end; None without that header."""
    found = _xing_header(file)
    return _after_tag(file) + struct.unpack_from(">I", found, 12)[0] if len(found) >= 16 and found[7] & 3 == 3 else None


def xing_samples(file: BinaryIO) -> int | None:
    """Return the samples that an mp3 file has at least by its Xing header: all but padding; None without it."""
    frames = _xing_frames(file)
    is_mpeg_1 = read_at(file, _after_tag(file), 2)[-1:] >= b"\xf8"
    return None if frames is None else max(0, frames - PADDING) * (1152 if is_mpeg_1 else 576)


def has_more_frames(file: BinaryIO) -> bool:
    """Return True if more frames follow each other than the Xing header counts, where decoders stop."""
    most = _xing_frames(file)
    position, count, first, window = _after_tag(file), 0, 0, b""
    while most is not None and count <= most + 1:  # its own frame does not count
        if position + 4 > first + len(window):
            first, window = position, read_at(file, position, SEARCH)
        size = frame_size(window[position - first : position - first + 4])
        if size is None:
            return False
        position, count = position + size, count + 1
    return most is not None


def _xing_frames(file: BinaryIO) -> int | None:
    found = _xing_header(file)
    return struct.unpack_from(">I", found, 8)[0] if len(found) >= 12 and found[7] & 1 else None


def _xing_header(file: BinaryIO) -> bytes:
    """Return the first frame from its Xing header on; nothing without one."""
    head = read_at(file, _after_tag(file), 256)
    at = max(head.find(b"Xing"), head.find(b"Info"))
    return head[at:] if at >= 0 else b""


def sound_start(file: BinaryIO) -> tuple[int, bool]:
    """Return where the sound of an mp3 file begins, and False if its Xing header marks a variable bit rate."""
    start = _after_tag(file)
    return start, b"Xing" not in read_at(file, start, 256)


def frame_size(head: bytes) -> int | None:
    """Return the size of a layer 3 frame by its first four bytes, None for other frames."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2 or head[2] >> 4 in (0, 15) or head[2] >> 2 & 3 == 3:
        return None
    version = head[1] >> 3 & 3  # 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5
    kbps = KBPS[version != 3][(head[2] >> 4) - 1]
    rate = (44100, 48000, 32000)[head[2] >> 2 & 3] >> {3: 0, 2: 1, 0: 2}.get(version, 0)
    return (144 if version == 3 else 72) * kbps * 1000 // rate + (head[2] >> 1 & 1)


def has_room(sample_rate: int, channels: int, kbps: float) -> bool:
    """Return True if a frame of the nearest constant bit rate has room for the header with the exact length."""
    is_mpeg_1 = sample_rate >= 32000
    nearest = min(KBPS[not is_mpeg_1], key=lambda each: abs(each - kbps))
    about_it = ((17, 32) if is_mpeg_1 else (9, 17))[channels > 1]
    return (144 if is_mpeg_1 else 72) * nearest * 1000 // sample_rate >= 4 + about_it + XING


def _after_tag(file: BinaryIO) -> int:
    head = read_at(file, 0, 10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))


def has_sound_in_tag(file: BinaryIO) -> bool:
    """Return True if frames lie within an ID3 tag: its size is wrong and decoders skip them."""
    data = read_at(file, 0, min(_after_tag(file), file_size(file), MOST_TAG))
    start = data.find(b"\xff")
    while start >= 0:
        position, frames = start, 0
        while frames < CHAIN and (size := frame_size(data[position : position + 4])):
            position, frames = position + size, frames + 1
        if frames == CHAIN:
            return True
        start = data.find(b"\xff", start + 1)
    return False
