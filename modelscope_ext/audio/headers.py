"""Headers of uncompressed files against the bytes that are there.

Positions and sizes are in bytes from the beginning of a file.
"""

import io
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

#: Tags that players append to any file.
TRAILERS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICS")
WAVE_64 = bytes.fromhex("726966662e91cf11a5d628db04c10000")
DATA_64 = bytes.fromhex("64617461f3acd3118cd100c04f8edb8a")


class Window(io.RawIOBase):
    """A readable file: `prefix`, then the bytes `start` to `end` of another file."""

    def __init__(self, file: BinaryIO, start: int = 0, end: int | None = None, prefix: bytes = b"") -> None:
        self.file, self.start, self.prefix = file, start, prefix
        self.size = len(prefix) + max(0, (file_size(file) if end is None else end) - start)
        self.position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position and return it."""
        self.position = max(0, offset + (0, self.position, self.size)[whence])
        return self.position

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer from the position on; return the number of bytes."""
        wanted = min(len(buffer), max(0, self.size - self.position))
        data = self.prefix[self.position : self.position + wanted]
        if len(data) < wanted:
            self.file.seek(self.start + self.position + len(data) - len(self.prefix))
            data += self.file.read(wanted - len(data))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


class Sound(NamedTuple):
    """Place of the samples in an uncompressed file.

    start: of the samples; claimed: their size in the header; end: their true end; fields: position and layout of the
    size fields, each with the part of the size that lies before `start`.
    """

    start: int
    claimed: int
    end: int
    fields: tuple[tuple[int, str, int], ...]
    unknown: bool = False  # the header gives no size

    @property
    def missing(self) -> int:
        """Return the bytes that the header promises and the file lacks."""
        return 0 if self.unknown else max(0, self.start + self.claimed - self.end)

    @property
    def more(self) -> int:
        """Return the bytes of sound beyond the size in the header."""
        return max(0, self.end - self.start - self.claimed)


def file_size(file: BinaryIO) -> int:
    """Return the size of an open file."""
    return file.seek(0, os.SEEK_END)


def read_at(file: BinaryIO, position: int, count: int) -> bytes:
    """Return up to `count` bytes at a position, none outside the file: headers may name any position."""
    if not 0 <= position < file_size(file):
        return b""
    file.seek(position)
    return file.read(count)


def find_sound(file: BinaryIO) -> Sound | None:
    """Return the place of the samples in a wav, rf64, w64, aiff, au or caf file; None in others."""
    head, size = read_at(file, 0, 40), file_size(file)
    for kind, found in (
        (head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE", _riff),
        (head[:4] == b"FORM" and head[8:11] == b"AIF", _aiff),
        (head[:4] == b".snd", _au),
        (head[:4] == b"caff", _caf),
        (head[:16] == WAVE_64, _w64),
    ):
        if kind:
            return found(file, head, size)
    return None


def has_misread_chunks(file: BinaryIO, sound: Sound) -> bool:
    """Return True for a file that libsndfile reads right in the form of `repaired` only.

    It takes what follows the samples of a w64 file for samples, any sample of an extensible w64 file for an integer,
    and after a chunk "cue " big-endian samples for little-endian ones.
    """
    if read_at(file, 0, 4) == b"RIFX":
        return any(name == b"cue " for name, _, _ in chunk_list(file, 12, ">I"))
    if read_at(file, 0, 16) != WAVE_64:
        return False
    return aligned(sound.end, "<Q") < file_size(file) or _extensible(file) is not None


def _extensible(file: BinaryIO) -> int | None:
    """Return the position of the format in a w64 file whose samples are said to be no integers in a further field."""
    at = next((at + 24 for name, at, _ in chunk_list(file, 40, "<Q") if name[:4] == b"fmt "), 0)
    head = read_at(file, at, 26)
    return at if head[:2] == b"\xfe\xff" and head[24:] not in (b"", b"\1\0") else None


def repaired(file: BinaryIO, sound: Sound) -> BinaryIO | None:
    """Return the file with the true sizes in its header or None where they do not fit it; it ends with its samples."""
    length = sound.end - sound.start
    header = bytearray(read_at(file, 0, sound.start))
    for name, at, _ in chunk_list(file, 12, ">I") if header[:4] == b"RIFX" else ():
        if name == b"cue " and at < sound.start:
            header[at : at + 4] = b"JUNK"
    if header[:4] == b"riff" and (at := _extensible(file)):
        header[at : at + 2] = header[at + 24 : at + 26]
    if header[:4] == b"RIFF" and sound.end >= 2**32:  # the 64-bit form, with a further chunk
        sizes = struct.pack("<QQQI", sound.end + 36 - 8, length, 0, 0)
        header = bytearray(b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I", len(sizes)) + sizes) + header[12:]
        header[-4:] = b"\xff\xff\xff\xff"
    else:
        for position, layout, before in sound.fields:
            try:
                struct.pack_into(layout, header, position, before + length)
            except struct.error:
                return None
    return Window(file, sound.start, sound.end, bytes(header))


def chunk_list(file: BinaryIO, position: int, layout: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, position and length of the chunks from a position on; `layout` is that of their length.

    Those of w64 files, "<Q", have names of 16 bytes and lengths with their header.
    """
    size, is_64 = file_size(file), layout[1] == "Q"
    header = (16 if is_64 else 4) + struct.calcsize(layout)
    for _ in range(1000):
        data = read_at(file, position, header)
        if len(data) < header or position > size:
            return
        (length,) = struct.unpack(layout, data[16 if is_64 else 4 :])
        length -= header if is_64 else 0
        yield data[:16] if is_64 else data[:4], position, length
        if length < 0 and not is_64:
            return
        position = aligned(position + header + max(0, length), layout)


def aligned(position: int, layout: str) -> int:
    """Return where the next chunk begins after one that ends at a position."""
    return position + -position % {"I": 2, "q": 1, "Q": 8}[layout[1]]


def _chunks(file: BinaryIO, position: int, layout: str, wanted: bytes) -> int | None:
    """Return the position of a chunk or None."""
    return next((at for name, at, _ in chunk_list(file, position, layout) if name == wanted), None)


def _true_end(file: BinaryIO, start: int, claimed: int, size: int, layout: str) -> int:
    """Return where samples end: at a size that a chunk, a tag or the end of the file follows, else at that end."""
    end, wraps = start + claimed, layout[1] == "I"
    while end <= size:
        rest = read_at(file, end, 20)
        if any(_follows(file, end + pad, size, layout) for pad in ((0, 1) if claimed % 2 else (0,))):
            return end
        if len(rest) < 8 or rest.startswith(TRAILERS):
            return end
        if not wraps:
            break
        end += 2**32
    return size


def _follows(file: BinaryIO, position: int, size: int, layout: str) -> bool:
    """Return True at the end of the file or at a chunk that fits into it."""
    header = read_at(file, position, 4 + struct.calcsize(layout))
    if not header:
        return True
    if len(header) < 4 + struct.calcsize(layout) or not all(32 <= byte < 127 for byte in header[:4]):
        return False
    return 0 <= struct.unpack(layout, header[4:])[0] <= size - position - len(header)


def _sound(file: BinaryIO, start: int, claimed: int, layout: str, fields: list[tuple[int, str, int]]) -> Sound:
    size = file_size(file)
    unknown = claimed < 0 or (layout[1] == "I" and claimed >> 12 in (0x7FFFF, 0x80000, 0xFFFFF))
    end = size if unknown else _true_end(file, start, claimed, size, layout)
    return Sound(start, claimed, end, tuple(fields), unknown)


def _riff(file: BinaryIO, head: bytes, size: int) -> Sound | None:
    order = ">" if head[:4] == b"RIFX" else "<"
    at = _chunks(file, 12, order + "I", b"data")
    if at is None:
        return None
    start = at + 8
    if head[:4] == b"RF64" and head[12:16] == b"ds64" and len(head) >= 36:
        claimed = struct.unpack("<Q", head[28:36])[0]
        end = _true_end(file, start, claimed, size, "<I") if claimed else size
        return Sound(start, claimed, min(end, size), ((20, "<Q", start - 8), (28, "<Q", 0)), not claimed)
    (claimed,) = struct.unpack(order + "I", read_at(file, at + 4, 4))
    return _sound(file, start, claimed, order + "I", [(4, order + "I", start - 8), (at + 4, order + "I", 0)])


def _aiff(file: BinaryIO, head: bytes, size: int) -> Sound | None:
    at = _chunks(file, 12, ">I", b"SSND")
    if at is None:
        return None
    (claimed,) = struct.unpack(">I", read_at(file, at + 4, 4))
    found = _sound(file, at + 8, claimed, ">I", [(4, ">I", at), (at + 4, ">I", 0)])
    return found._replace(start=found.start)


def _au(file: BinaryIO, head: bytes, size: int) -> Sound | None:
    if len(head) < 24:
        return None
    start, claimed = struct.unpack(">II", head[4:12])
    if not 24 <= start <= size:
        return None
    return Sound(start, claimed, size, ((8, ">I", 0),), claimed >> 12 == 0xFFFFF)


def _caf(file: BinaryIO, head: bytes, size: int) -> Sound | None:
    at = _chunks(file, 8, ">q", b"data")
    if at is None or head[28:32] in (b"alac", b"aac "):  # compressed packets, with a table of them
        return None
    (claimed,) = struct.unpack(">q", read_at(file, at + 4, 8))
    return _sound(file, at + 12, claimed, ">q", [(at + 4, ">q", 0)])


def _w64(file: BinaryIO, head: bytes, size: int) -> Sound | None:
    found = next((chunk for chunk in chunk_list(file, 40, "<Q") if chunk[0] == DATA_64), None)
    if found is None:
        return None
    start, claimed = found[1] + 24, max(0, found[2])
    end = min(size, start + claimed) if claimed else size
    return Sound(start, claimed, end, ((16, "<Q", start), (found[1] + 16, "<Q", 24)), not claimed)
