"""Names of the services in an MPEG transport stream, which FFmpeg reads and PyAV does not give."""

from collections.abc import Iterator
from typing import BinaryIO

from modelscope_ext.audio.headers import read_at

#: Bytes of a packet, and bytes that are searched for the table.
PACKET, SEARCH = 188, 2**20
#: Packets and table of the descriptions of services, and the descriptor with a name: ETSI EN 300 468.
PID, TABLE, NAMES = 0x11, 0x42, 0x48
#: Beginning of a text → its encoding.
ENCODINGS = {b"\x15": "utf-8", **{bytes([number]): f"iso8859_{number + 4}" for number in range(1, 12) if number != 8}}
ENCODINGS |= {bytes([16, 0, number]): f"iso8859_{number}" for number in range(1, 16) if number != 12}


def is_prefixed(file: BinaryIO) -> bool:
    """Return True for packets of 192 bytes: a time stands before each."""
    head = read_at(file, 0, 5)
    return head[4:] == b"G" and head[:1] != b"G"


def services(file: BinaryIO) -> list[tuple[str, str]]:
    """Return provider and name of each service of a transport stream; none without a whole table."""
    found = []
    try:
        section = _table(file)
        position, end = 11, len(section) - 4
        while position < end:
            length = int.from_bytes(section[position + 3 : position + 5], "big") & 0xFFF
            found += list(_names(section[position + 5 : position + 5 + length]))
            position += 5 + length
    except IndexError:  # a damaged one
        pass
    return found


def _table(file: BinaryIO) -> bytes:
    data, prefix = read_at(file, 0, SEARCH), 4 * is_prefixed(file)
    section = b""
    for at in range(prefix, len(data) - PACKET + 1, PACKET + prefix):
        packet = data[at : at + PACKET]
        if int.from_bytes(packet[1:3], "big") & 0x1FFF != PID:
            continue
        payload = packet[5 + packet[4] if packet[3] & 0x20 else 4 :]
        if packet[1] & 0x40:  # a section begins
            section = payload[1 + payload[0] :]
        elif section:
            section += payload
        length = 3 + (int.from_bytes(section[1:3], "big") & 0xFFF)
        if section[:1] == bytes([TABLE]) and len(section) >= length:
            return section[:length]
    return b""


def _names(descriptors: bytes) -> Iterator[tuple[str, str]]:
    while descriptors:
        size = descriptors[1]
        if descriptors[0] == NAMES:
            body = descriptors[3 : 2 + size]
            name = body[2 + body[0] :]
            yield _text(body[1 : 1 + body[0]]), _text(name[: body[1 + body[0]]])
        descriptors = descriptors[2 + size :]


def _text(content: bytes) -> str:
    mark = content[: 3 if content[:1] == b"\x10" else 1]
    if mark in ENCODINGS:
        return content[len(mark) :].decode(ENCODINGS[mark], "replace")
    return content.decode("latin-1")
