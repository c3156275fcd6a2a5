"""Tags, covers, cue points and other data beside the sound, copied between files of one kind."""

import contextlib
import itertools
import logging
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from modelscope_ext.audio import containers
from modelscope_ext.audio.headers import aligned, chunk_list, file_size, find_sound, read_at
from modelscope_ext.audio.mp3 import sound_start
from modelscope_ext.audio.reading import AudioFile

logger = logging.getLogger(__name__)

#: Texts that libsndfile stores in any format that has a place for them.
STRINGS = {"title", "artist", "album", "date", "genre", "comment", "copyright", "tracknumber"}
#: Chunks that describe the samples of their own file.
OWN = {b"ds64", b"fmt ", b"data", b"fact", b"PEAK", b"JUNK", b"junk", b"PAD ", b"FLLR", b"levl", b"MD5 "}
OWN |= {b"COMM", b"SSND", b"FVER", b"desc", b"free", b"kuki", b"pakt", b"peak", b"riff", b"wave"}
#: First chunk of a file and the layout of lengths, by the first bytes; others are as in a wav.
LAYOUTS = {b"RIFX": (12, ">I"), b"FORM": (12, ">I"), b"caff": (8, ">q"), b"riff": (40, "<Q")}
#: Bytes of a chunk's name and length, by the form of the length.
HEADERS = {"I": 8, "q": 12, "Q": 24}
#: Bytes of an extensible chunk "fmt ", and its end after the format's number.
EXTENSIBLE, SUBFORMAT = 40, bytes.fromhex("000000001000800000aa00389b71")
#: Bytes of the header of a NIST SPHERE file.
NIST_HEADER = 1024
#: Bytes below which a wav needs no 64-bit header.
SHORT = 2**32
#: Beginnings of a joined file.
JOINED = (b"RIFF", b"RIFX", b"FORM", b"RF64")
#: Bytes that are copied at a time.
BLOCK = 2**20


def copy_tags(source: AudioFile, target: Path, has_texts: bool = False) -> None:
    """Copy all that a file has beside its sound into a file of the same kind; log a warning if that fails.

    A file of another kind is left as it is, without a warning if it has the texts already.
    """
    original = source.bytes()
    copy = _copier(original)
    try:
        with target.open("rb+") as file:
            if _copier(file) is not copy:
                if has_texts:
                    return
                raise ValueError("its content is of another kind than its name")
            if copy in (_copy_chunks, _copy_annotation, _copy_fields):
                copy(original, file)
                return
        original.seek(0)
        copy(original, target)
    except Exception as error:  # tags of any content, and a library that meets them
        logger.warning("%s: not all of its tags are copied (%s)", source.name, str(error) or type(error).__name__)


def _copier(file: BinaryIO) -> Callable[[BinaryIO, Any], None]:
    """Return the function that copies tags between files of the kind of this one."""
    head = read_at(file, 0, 64)
    if head[:3] == b"ID3" and read_at(file, sound_start(file)[0], 4) == b"fLaC":
        return _copy_flac
    kinds: tuple[tuple[bool, Callable[[BinaryIO, Any], None]], ...] = (
        (head[:4] in (b"RIFF", b"RF64", *LAYOUTS), _copy_chunks),
        (head[:4] in (b".snd", b"dns."), _copy_annotation),
        (head[:7] == b"NIST_1A", _copy_fields),
        (head[:19] == b"Creative Voice File", _refuse_texts),
        (head[:4] == b"fLaC", _copy_flac),
        (head[:4] == b"OggS", _copy_comments),
        (head[4:8] == b"ftyp", _copy_atoms),
        (head[:16] == containers.ASF, _copy_asf),
        (True, _copy_id3),
    )
    return next(copy for fits, copy in kinds if fits)


def shorten_header(path: Path) -> None:
    """Turn a wav of the 64-bit form into a plain one if it is short enough."""
    with path.open("rb+") as file:
        size, place = file_size(file), find_sound(file)
        if read_at(file, 0, 4) != b"RF64" or place is None or size >= SHORT:
            return
        for position, content in (
            (0, b"RIFF" + struct.pack("<I", size - 8)),
            (12, b"JUNK"),
            (place.start - 4, struct.pack("<I", place.end - place.start)),
        ):
            file.seek(position)
            file.write(content)


def _copy_chunks(source: BinaryIO, target: BinaryIO) -> None:
    """Copy the chunks of a wav, w64, aiff or caf file that describe no samples, and the speaker mask."""
    kind = read_at(target, 0, 4)
    first, layout = LAYOUTS.get(kind, (12, "<I"))
    if {kind, read_at(source, 0, 4)} not in ({b"RIFF", b"RF64"}, {kind}):
        raise ValueError("its content is of another kind than its name")
    header = HEADERS[layout[1]]
    place = find_sound(source)
    chunks = list(chunk_list(source, first, layout))
    if place is None and kind != b"caff":  # such as an avi
        return
    if place is not None:
        after = chunk_list(source, aligned(place.end, layout), layout)
        after = itertools.takewhile(lambda chunk: chunk[0] not in JOINED, after)
        chunks = [*itertools.takewhile(lambda chunk: chunk[1] + header < place.start, chunks), *after]
    chunks = [(name, at, length) for name, at, length in chunks if 0 <= length <= file_size(source) - at - header]
    has_mask = _copy_mask(source, chunks, target, layout)
    extra = [(at, header + length) for name, at, length in chunks if name[: 4 if layout == "<Q" else None] not in OWN]
    ours = find_sound(target) if kind == b"riff" else None
    if ours:
        content = b"".join(read_at(source, at, length).ljust(aligned(length, layout), b"\0") for at, length in extra)
        _insert(target, ours.start - header, content)  # libsndfile takes what follows for samples
    else:
        _append(source, extra, target, layout)
    size = file_size(target)
    if kind != b"caff":  # which has no length of all
        field = {b"RF64": (20, "<Q", size - 8), b"riff": (16, "<Q", size)}.get(kind, (4, layout, size - 8))
        target.seek(field[0])
        target.write(struct.pack(*field[1:]))
    if not has_mask:
        raise ValueError("libsndfile reads these samples wrong beside a speaker mask")


def _append(source: BinaryIO, places: list[tuple[int, int]], target: BinaryIO, layout: str) -> None:
    """Append pieces of a file, each from a position on; both end where a chunk may begin."""
    position = file_size(target)
    if layout == ">q":  # libsndfile writes a byte behind the samples of ALAC that is in no chunk
        position = min(position, max(at + 12 + length for _, at, length in chunk_list(target, 8, layout)))
    for at, length in places:
        target.seek(position := aligned(position, layout))
        for start in range(at, at + length, BLOCK):
            target.write(read_at(source, start, min(BLOCK, at + length - start)))
        position += length
    target.truncate(aligned(position, layout))


def _insert(target: BinaryIO, begin: int, content: bytes) -> None:
    """Insert bytes at a position."""
    end = file_size(target)
    try:
        target.write(bytes(len(content)))  # which a full disk refuses before anything has moved
        target.flush()
    except OSError:
        target.truncate(end)
        raise
    while content and end > begin:
        start = max(begin, end - BLOCK)
        block = read_at(target, start, end - start)
        target.seek(start + len(content))
        target.write(block)
        end = start
    target.seek(begin)
    target.write(content)


def _copy_mask(source: BinaryIO, chunks: list[tuple[bytes, int, int]], target: BinaryIO, layout: str) -> bool:
    """Copy valid bits and speaker mask of an extensible chunk "fmt "; return False if the target has no place for it.

    Libsndfile writes integers in w64 files without one, so the chunk gets longer.
    """
    first, header = LAYOUTS.get(read_at(target, 0, 4), (12, ""))[0], HEADERS[layout[1]]
    all_of_it = chunk_list(target, first, layout)
    found = [next((chunk for chunk in each if chunk[0][:4] == b"fmt "), None) for each in (chunks, all_of_it)]
    if not found[0] or not found[1] or found[0][2] < EXTENSIBLE:
        return True
    theirs, at, length = read_at(source, found[0][1] + header, 24), found[1][1] + header, found[1][2]
    old = read_at(target, at, 16)
    if length < EXTENSIBLE and layout == "<Q" and old[:2] == b"\1\0":
        _insert(target, aligned(at + length, layout), bytes(EXTENSIBLE - aligned(length, layout)))
        target.seek(at - 8)
        target.write(struct.pack("<Q", header + EXTENSIBLE) + b"\xfe\xff" + old[2:] + struct.pack("<H", 22) + old[14:])
        target.seek(at + 24)
        target.write(old[:2] + SUBFORMAT)
        length = EXTENSIBLE
    if length < EXTENSIBLE:
        return layout != "<Q"  # a plain wav has the usual mask
    valid = theirs[18:20] if theirs[14:16] == old[14:] else old[14:]
    target.seek(at + 18)
    target.write(valid + theirs[20:])
    return True


def _copy_annotation(source: BinaryIO, target: BinaryIO) -> None:
    """Insert the text that stands before the samples of an au file."""
    head = read_at(source, 0, 8)
    (start,) = struct.unpack(">I" if head[:4] == b".snd" else "<I", head[4:])
    text = read_at(source, 24, start - 24) if 24 < start < BLOCK else b""
    if not text.strip(b"\0"):
        return
    text += bytes(-len(text) % 8)
    (begin,) = struct.unpack(">I", read_at(target, 4, 4))
    _insert(target, begin, text)
    target.seek(4)
    target.write(struct.pack(">I", begin + len(text)))


def _copy_fields(source: BinaryIO, target: BinaryIO) -> None:
    """Insert the fields of a NIST SPHERE header that describe no samples."""
    theirs, ours = (read_at(file, 0, NIST_HEADER).partition(b"end_head")[0].splitlines() for file in (source, target))
    known = {line.split()[0] for line in ours if line.split()}
    fields = [line for line in theirs[2:] if line.split() and line.split()[0] not in known]
    fields = [line for line in fields if not line.startswith(b"sample_")]
    header = b"\n".join([*ours, *fields, b"end_head\n"])
    if len(header) > NIST_HEADER:
        raise ValueError("they need a header of more than 1 KiB")
    target.seek(0)
    target.write(header.ljust(NIST_HEADER))


def _refuse_texts(source: BinaryIO, target: Path) -> None:
    if any(kind == 5 for kind, _, _ in containers.voc_blocks(source)):
        raise ValueError("no encoder writes texts into voc files")


def _copy_flac(source: BinaryIO, target: Path) -> None:
    from mutagen.flac import FLAC, Padding, SeekTable, StreamInfo

    ours, theirs = FLAC(target), FLAC(source)
    described = [block for block in theirs.metadata_blocks if not isinstance(block, (StreamInfo, SeekTable, Padding))]
    if described:
        ours.metadata_blocks[:] = [ours.metadata_blocks[0], *described]
        ours.tags, ours.cuesheet = theirs.tags, theirs.cuesheet
        ours.save()


def _copy_comments(source: BinaryIO, target: Path) -> None:
    from mutagen.oggopus import OggOpus
    from mutagen.oggvorbis import OggVorbis

    kind = OggOpus if b"OpusHead" in read_at(source, 0, 1024) else OggVorbis  # after that of a picture
    source.seek(0)
    if theirs := kind(source).tags:
        ours = kind(target)
        ours.tags[:] = theirs[:]
        ours.save()


def _copy_atoms(source: BinaryIO, target: Path) -> None:
    from mutagen.mp4 import MP4MetadataError, MP4Tags

    with contextlib.suppress(MP4MetadataError), target.open("rb") as file:  # there are none
        if None not in (theirs := _itunes_atoms(source), _itunes_atoms(file)):
            MP4Tags(theirs, source).save(target)


def _itunes_atoms(file: BinaryIO) -> Any:
    """Return mutagen's atoms of a file, None if its tags are those of telephones, whose numbers mutagen misreads."""
    from mutagen.mp4 import Atoms

    atoms = Atoms(file)
    with contextlib.suppress(KeyError):
        meta = atoms.path(b"moov", b"udta", b"meta")[-1]
        if b"mdta" in read_at(file, meta.offset, 64):
            return None
    return atoms


def _copy_asf(source: BinaryIO, target: Path) -> None:
    from mutagen.asf import ASF

    theirs, ours = ASF(source), ASF(target)
    ours.tags = theirs.tags
    ours.save()


def _copy_id3(source: BinaryIO, target: Path) -> None:
    """Copy what the forms of tags give that may stand in mp3, aac, tta, wv and other files."""
    from mutagen.apev2 import APENoHeaderError, APEv2
    from mutagen.id3 import ID3, ID3NoHeaderError

    try:
        tags = ID3(source, translate=False)
    except ID3NoHeaderError:
        pass
    else:
        old = read_at(source, file_size(source) - 128, 3) == b"TAG"
        tags.save(target, v1=2 if old else 0, v2_version=4 if tags.version[1] == 4 else 3)
    source.seek(0)
    with contextlib.suppress(APENoHeaderError):
        APEv2(source).save(target)
