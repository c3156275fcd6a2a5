"""Structure of compressed files and containers: joined recordings, missing ends.

Positions and sizes are in bytes from the beginning of a file.
"""

import itertools
import math
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import BinaryIO

from modelscope_ext.audio.headers import file_size, read_at

#: Bytes that are searched at a time.
SEARCH = 2**20
ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
#: Names of Matroska's elements: of the first level, and within a cluster.
CLUSTER, TRACKS, TRACK_ENTRY, TRACK_NUMBER, SIMPLE_BLOCK = 0x1F43B675, 0x1654AE6B, 0xAE, 0xD7, 0xA3
SECTIONS = {CLUSTER, TRACKS, 0x114D9B74, 0x1549A966, 0x1043A770, 0x1C53BB6B, 0x1941A469, 0x1254C367, 0xEC, 0xBF}
BLOCKS = {SIMPLE_BLOCK, 0xA0, 0xE7, 0xA7, 0xAB, 0x5854, 0xAF, 0xEC, 0xBF}
#: Each byte with its bits in the other order.
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
EBML, SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")


# Joined recordings


def parts(file: BinaryIO) -> list[tuple[int, int]]:
    """Return start and end of each recording in a file of joined ogg, flac, wav or aiff files."""
    head = read_at(file, 0, 4)
    if head == b"OggS":
        starts = _ogg_starts(file)
    elif head in (b"RIFF", b"RIFX", b"FORM"):
        starts = _form_starts(file)
    elif head == b"fLaC":
        starts = [
            at for at in _found(file, b"fLaC") if read_at(file, at + 4, 4)[:4] in (b"\0\0\0\x22", b"\x80\0\0\x22")
        ]
    else:
        return [(0, file_size(file))]
    starts = sorted({0, *starts})  # a damaged beginning is a part too
    return list(zip(starts, [*starts[1:], file_size(file)], strict=True))


def _form_starts(file: BinaryIO) -> list[int]:
    head = read_at(file, 0, 12)
    starts, position = [0], 0
    while len(starts) < 1000:
        length = read_at(file, position + 4, 4)
        if len(length) < 4:
            return starts
        position += 8 + struct.unpack("<I" if head[:4] == b"RIFF" else ">I", length)[0]
        position += position % 2
        following = read_at(file, position, 12)
        if len(following) < 12 or following[:4] + following[8:11] != head[:4] + head[8:11]:
            return starts
        starts.append(position)
    return starts


def _ogg_pages(file: BinaryIO) -> Iterator[tuple[int, int, int, int]]:
    """Yield position, end, flags and granule position of each ogg page."""
    position, size = 0, file_size(file)
    while position < size:
        head = read_at(file, position, 27 + 255)
        if head[:4] != b"OggS" or len(head) < 27:
            found = next(_found(file, b"OggS", position + 1), None)
            if found is None:
                return
            position = found
            continue
        lengths = head[27 : 27 + head[26]]
        end = position + 27 + len(lengths) + sum(lengths)
        if end > size or len(lengths) < head[26]:
            return
        yield position, end, head[5], struct.unpack_from("<q", head, 6)[0]
        position = end


def _ogg_starts(file: BinaryIO) -> list[int]:
    starts, first = [], False
    for position, _, flags, _ in _ogg_pages(file):
        if flags & 2 and not first:
            starts.append(position)
        first = bool(flags & 2)
    return [0, *starts[1:]]


def ogg_streams(file: BinaryIO) -> int:
    """Return the number of streams of sound, picture and other things side by side in an ogg file; 0 in others."""
    pages = _ogg_pages(file) if read_at(file, 0, 4) == b"OggS" else ()
    return sum(1 for _ in itertools.takewhile(lambda page: page[2] & 2, pages))


def ogg_problem(file: BinaryIO) -> str | None:
    """Return why sound of an ogg file is missing or None: decoders leave out damaged pages without a word.

    Some encoders do not mark the last page, and recorders that are switched off cannot.
    """
    last = end = damaged = 0
    numbers: dict[int, int] = {}
    for position, end_of_page, flags, _ in _ogg_pages(file):
        page = read_at(file, position, end_of_page - position)
        serial, number, checksum = struct.unpack_from("<III", page, 14)
        lost = position != end or number != numbers.get(serial, number)
        damaged += lost or _ogg_checksum(page[:22] + bytes(4) + page[26:]) != checksum
        numbers[serial], last, end = number + 1, flags, end_of_page
    if damaged:
        return f"{damaged} damaged pages"
    return None if last & 4 or end == file_size(file) else "cut off within a page"


def _ogg_checksum(page: bytes) -> int:
    """Return the CRC of a page, which is that of zlib with all bits in the other order and without inversion."""
    crc = zlib.crc32(page.translate(MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(crc.to_bytes(4, "little").translate(MIRRORED), "big")


def ogg_packets(pages: bytes, rest: bytes) -> tuple[list[bytes], bytes]:
    """Return the packets that end in whole ogg pages of one stream, and the beginning of the next packet.

    Args:
        pages: one after the other.
        rest: beginning of the first packet, from the pages before.
    """
    packets, position = [], 0
    while position < len(pages):
        lengths = pages[position + 27 : position + 27 + pages[position + 26]]
        position += 27 + len(lengths)
        for length in lengths:
            rest += pages[position : position + length]
            position += length
            if length < 255:
                packets.append(rest)
                rest = b""
    return packets, rest


def ogg_sound_size(file: BinaryIO) -> int:
    """Return the bytes of the pages with sound, that is without headers and tags."""
    return sum(end - position for position, end, _, granule in _ogg_pages(file) if granule > 0)


def _found(file: BinaryIO, pattern: bytes, start: int = 0) -> Iterator[int]:
    """Yield every position of a pattern."""
    rest, position = b"", start
    while block := read_at(file, position, SEARCH):
        data, at = rest + block, -1
        while (at := data.find(pattern, at + 1)) >= 0:
            yield position - len(rest) + at
        rest, position = data[-len(pattern) + 1 :], position + len(block)


# Missing ends of containers


def promised_size(file: BinaryIO) -> int | None:
    """Return the size of an mp4, mov, matroska, webm, avi, asf, voc or sph file by its header; None without it."""
    head = read_at(file, 0, 64)
    kinds: tuple[tuple[bool, Callable[[BinaryIO], int | None]], ...] = (
        (head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"), _boxes_end),
        (head[:4] == EBML, _segment_end),
        (head[:16] == ASF, _asf_end),
        (head[:19] == b"Creative Voice File", _voc_end),
        (head[:7] == b"NIST_1A", _nist_end),
        (head[:4] == b"RIFF" and head[8:12] == b"AVI ", lambda file: 8 + struct.unpack("<I", head[4:8])[0]),
    )
    return next((end(file) for fits, end in kinds if fits), None)


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield the names of the boxes of an mp4 file and their ends, 0 for one that has no length."""
    position, size = 0, file_size(file)
    while position < size:
        head = read_at(file, position, 16)
        length = struct.unpack(">I", head[:4])[0] if len(head) >= 8 else 8
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:])
        position = position + length if length >= 8 else 0
        yield head[4:8], position
        if not position:
            return


def is_faststart(file: BinaryIO) -> bool:
    """Return True for an mp4 file whose index is before its sound and picture."""
    names = itertools.takewhile(lambda name: name != b"mdat", (name for name, _ in _boxes(file)))
    return b"moov" in names


def _boxes_end(file: BinaryIO) -> int | None:
    ends = deque((end for _, end in _boxes(file)), maxlen=1)
    return ends[0] or None if ends else None


def voc_blocks(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Yield kind, position and end of the blocks of a voc file; the last one has the kind 0 in a whole file."""
    position, size = int.from_bytes(read_at(file, 20, 2), "little"), file_size(file)
    while position < size:
        head = read_at(file, position, 4)
        end = position + 4 + int.from_bytes(head[1:], "little") if head[0] else position + 1
        yield head[0], position, end
        position = end if head[0] else size


def _voc_end(file: BinaryIO) -> int | None:
    return max((end for _, _, end in voc_blocks(file)), default=None)


def _nist_end(file: BinaryIO) -> int | None:
    lines = [line.split() for line in read_at(file, 0, 1024).decode("latin-1").splitlines()]
    fields = {line[0]: line[2] for line in lines if len(line) == 3}
    try:
        sizes = [int(fields[name]) for name in ("sample_count", "channel_count", "sample_n_bytes")]
    except (KeyError, ValueError):
        return None
    return 1024 + math.prod(sizes) if "sample_coding" not in fields or fields["sample_coding"] == "pcm" else None


def _segment_end(file: BinaryIO) -> int | None:
    at = next((at for at in (read_at(file, 0, 4096).find(SEGMENT),) if at > 0), None)
    data = read_at(file, at + 4, 8) if at else b""
    if not data or not data[0]:
        return None
    count = 9 - data[0].bit_length()
    value = int.from_bytes(data[:count], "big") & (1 << 7 * count) - 1
    return None if value == (1 << 7 * count) - 1 else at + 4 + count + value  # all ones: unknown


def ebml_damage(file: BinaryIO) -> int | None:
    """Return where the structure of a Matroska or WebM file is first broken or None. Demuxers skip to what is whole."""
    at = read_at(file, 0, 4096).find(SEGMENT)
    tracks: set[int] = set()
    size, position = file_size(file), at + 4 + _vint(file, at + 4)[1]
    end_of_cluster = position
    while 0 < position < size:
        name, data, end = _element(file, position)
        inside = position < end_of_cluster and name in BLOCKS
        if not (inside or name in SECTIONS) or (end is not None and end > (end_of_cluster if inside else size)):
            return position
        if name == CLUSTER:
            end_of_cluster, position = size if end is None else end, data
        elif end is None:
            return position
        else:
            if name == TRACKS:
                tracks = _track_numbers(file, data, end)
            elif name == SIMPLE_BLOCK and _vint(file, data)[0] not in tracks:
                return position
            position = end
    return None


def _vint(file: BinaryIO, position: int) -> tuple[int | None, int]:
    """Return an EBML number, None for the unknown one, and its length; length 9 of an invalid one."""
    data = read_at(file, position, 8)
    length = 9 - data[0].bit_length() if data else 9
    if length > len(data):
        return None, 9
    value = int.from_bytes(data[:length], "big") & (1 << 7 * length) - 1
    return None if value == (1 << 7 * length) - 1 else value, length


def _element(file: BinaryIO, position: int) -> tuple[int, int, int | None]:
    """Return the name of an EBML element, the position of its content and its end, None if that is unknown."""
    head = read_at(file, position, 4)
    length = min(len(head), 9 - head[0].bit_length()) if head else 0
    size, count = _vint(file, position + length)
    data = position + length + count
    return int.from_bytes(head[:length], "big"), data, None if size is None else data + size


def _track_numbers(file: BinaryIO, position: int, end: int) -> set[int]:
    found = set()
    while position < end:
        name, data, after = _element(file, position)
        if name == TRACK_NUMBER:
            found.add(int.from_bytes(read_at(file, data, (after or data) - data), "big"))
        position = data if name == TRACK_ENTRY else (after or end)
    return found


def _asf_end(file: BinaryIO) -> int | None:
    head = read_at(file, 0, 8192)
    at = head.find(ASF_PROPERTIES)
    if at < 0 or len(head) < at + 92:
        return None
    size, flags = struct.unpack_from("<Q", head, at + 40)[0], struct.unpack_from("<I", head, at + 88)[0]
    return None if flags & 1 or not size else size  # 1: a broadcast
