"""Tags, covers, cue points and other data beside the sound, copied between files of one kind."""

import contextlib
import itertools
import logging
import struct
from pathlib import Path
from typing import BinaryIO

from modelscope_ext.audio import containers
from modelscope_ext.audio.headers import chunk_list, file_size, find_sound, read_at
from modelscope_ext.audio.reading import AudioFile

logger = logging.getLogger(__name__)

#: Texts that libsndfile stores in any format that has a place for them.
STRINGS = {"title", "artist", "album", "date", "genre", "comment", "copyright", "tracknumber"}
#: Chunks that describe the samples of their own file.
OWN = {b"ds64", b"fmt ", b"data", b"fact", b"PEAK", b"JUNK", b"junk", b"PAD ", b"FLLR", b"levl", b"MD5 "}
OWN |= {b"COMM", b"SSND", b"FVER"}
#: Bytes below which a wav needs no 64-bit header.
SHORT = 2**32
#: Bytes that are copied at a time.
BLOCK = 2**20


def copy_tags(source: AudioFile, target: Path) -> None:
    """Copy all that a file has beside its sound into a file of the same kind; log a warning if that fails."""
    original = source.bytes()
    head = read_at(original, 0, 64)
    original.seek(0)
    try:
        if head[:4] in (b"RIFF", b"RF64", b"FORM"):
            with target.open("rb+") as file:
                _copy_chunks(original, file)
        elif head[:4] == b"fLaC":
            _copy_flac(original, target)
        elif head[:4] == b"OggS":
            _copy_comments(original, target, b"OpusHead" in head)
        elif head[4:8] == b"ftyp":
            _copy_atoms(original, target)
        elif head[:16] == containers.ASF:
            _copy_asf(original, target)
        else:
            _copy_id3(original, target)
    except Exception as error:  # tags of any content, and a library that meets them
        logger.warning("%s: its tags are not copied (%s)", source.name, str(error) or type(error).__name__)


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
    """Append the chunks of a wav or aiff file that describe no samples; copy the speaker mask."""
    layout = ">I" if read_at(target, 0, 4) == b"FORM" else "<I"
    place = find_sound(source)
    if place is None:
        return
    before = itertools.takewhile(lambda chunk: chunk[1] + 8 < place.start, chunk_list(source, 12, layout))
    chunks = [*before, *chunk_list(source, place.end + place.end % 2, layout)]
    _copy_mask(source, chunks, target)
    position = file_size(target)
    for name, at, length in chunks:
        if name in OWN or at + 8 + length > file_size(source):
            continue
        target.seek(position := position + position % 2)
        for start in range(at, at + 8 + length, BLOCK):
            target.write(read_at(source, start, min(BLOCK, at + 8 + length - start)))
        position += 8 + length
    size = position + position % 2
    target.truncate(size)
    large = read_at(target, 0, 4) == b"RF64"
    target.seek(20 if large else 4)
    target.write(struct.pack("<Q" if large else layout, size - 8))


def _copy_mask(source: BinaryIO, chunks: list[tuple[bytes, int, int]], target: BinaryIO) -> None:
    """Copy the speaker mask if both files have one, in an extensible chunk "fmt "."""
    found = [next((c for c in each if c[0] == b"fmt "), None) for each in (chunks, chunk_list(target, 12, "<I"))]
    if found[0] and found[1] and min(length for _, _, length in found) >= 40:
        mask = read_at(source, found[0][1] + 28, 4)
        target.seek(found[1][1] + 28)
        target.write(mask)


def _copy_flac(source: BinaryIO, target: Path) -> None:
    from mutagen.flac import FLAC, Padding, SeekTable, StreamInfo

    ours, theirs = FLAC(target), FLAC(source)
    described = [block for block in theirs.metadata_blocks if not isinstance(block, (StreamInfo, SeekTable, Padding))]
    if described:
        ours.metadata_blocks[:] = [ours.metadata_blocks[0], *described]
        ours.tags, ours.cuesheet = theirs.tags, theirs.cuesheet
        ours.save()


def _copy_comments(source: BinaryIO, target: Path, opus: bool) -> None:
    from mutagen.oggopus import OggOpus
    from mutagen.oggvorbis import OggVorbis

    kind = OggOpus if opus else OggVorbis
    if theirs := kind(source).tags:
        ours = kind(target)
        ours.tags[:] = theirs[:]
        ours.save()


def _copy_atoms(source: BinaryIO, target: Path) -> None:
    from mutagen.mp4 import MP4

    if theirs := MP4(source).tags:
        theirs.save(target)


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
