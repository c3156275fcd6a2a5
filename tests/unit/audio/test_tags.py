"""Texts and other data beside the sound of w64, caf, au and sph files."""

import struct

import numpy as np
import pytest
import soundfile
from conftest import speech

from modelscope_ext.audio import open_audio

NOTE = b"NOTE" + bytes.fromhex("f3acd3118cd100c04f8edb8a")


def read(path):
    with open_audio(path) as file:
        return np.concatenate(list(file.blocks(1.0)))


def denoised(dry, path):
    """Return the result of a file: its bytes, after a comparison of the samples and of the warnings' number."""
    target = path.parent / "out" / path.name
    dry.file(path, target)
    assert np.abs(read(target) - read(path)).max() <= 2**-15
    assert soundfile.info(target).frames == len(read(path))
    return target.read_bytes()


@pytest.mark.parametrize("tail", [False, True])
def test_chunks_of_a_w64_file_are_kept(dry, tmp_path, caplog, tail):
    soundfile.write(tmp_path / "a.w64", speech(16000, 1.0)[:-1], 16000, "PCM_16")
    content = (tmp_path / "a.w64").read_bytes()
    extra = NOTE + struct.pack("<Q", 24 + 13) + b"A take, twice" + bytes(3)
    at = content.index(b"data\xf3\xac")
    content = content + bytes(-len(content) % 8) + extra if tail else content[:at] + extra + content[at:]
    (tmp_path / "a.w64").write_bytes(content[:16] + struct.pack("<Q", len(content)) + content[24:])
    assert len(read(tmp_path / "a.w64")) == 15_999  # no chunk is read as sound
    result = denoised(dry, tmp_path / "a.w64")
    assert extra in result
    assert result.index(b"data\xf3\xac") % 8 == 0
    assert struct.unpack_from("<Q", result, 16) == (len(result),)
    assert caplog.text == ""


@pytest.mark.parametrize("subtype", ["PCM_16", "ALAC_16"])
def test_texts_marks_and_other_chunks_of_a_caf_file_are_kept(dry, tmp_path, caplog, subtype):
    with soundfile.SoundFile(tmp_path / "a.caf", "w", 16000, 1, subtype) as file:
        file.title = "Grüße"
        file.write(speech(16000, 1.0))
    texts = b"recorder\0H4n\0"
    extra = b"info" + struct.pack(">qI", 4 + len(texts), 1) + texts + b"mark" + struct.pack(">qII", 8, 0, 0)
    (tmp_path / "a.caf").write_bytes((tmp_path / "a.caf").read_bytes() + extra)
    result = denoised(dry, tmp_path / "a.caf")
    assert extra in result
    assert result.count("Grüße".encode()) == 1
    assert caplog.text == ""


@pytest.mark.parametrize("order", [">", "<"])
@pytest.mark.parametrize("text", [b"A take", b"x" * 3001, bytes(8)])
def test_the_text_of_an_au_file_is_kept(dry, tmp_path, caplog, order, text):
    samples = np.round(speech(16000, 70.0)[:, 0] * 32767).astype(order + "i2")  # over 2 MiB
    start = 24 + len(text)
    head = (b".snd" if order == ">" else b"dns.") + struct.pack(order + "5I", start, samples.nbytes, 3, 16000, 1)
    (tmp_path / "a.au").write_bytes(head + text + samples.tobytes())
    result = denoised(dry, tmp_path / "a.au")
    (begin,) = struct.unpack_from(">I", result, 4)
    assert result[24:begin].rstrip(b"\0") == text.rstrip(b"\0")
    assert caplog.text == ""


def test_the_fields_of_a_sph_file_are_kept(dry, tmp_path, caplog):
    soundfile.write(tmp_path / "a.sph", speech(16000, 1.0), 16000, "PCM_16", format="NIST")
    content = (tmp_path / "a.sph").read_bytes()
    fields = b"speaker_id -s4 fadg\nutterance_id -s5 sa1 x\nsample_checksum -i 7\n"
    head = content[:1024].replace(b"end_head", fields + b"end_head")[:1024]
    (tmp_path / "a.sph").write_bytes(head + content[1024:])
    result = denoised(dry, tmp_path / "a.sph")
    assert b"\nspeaker_id -s4 fadg\nutterance_id -s5 sa1 x\nend_head\n" in result[:1024]
    assert caplog.text == ""
    many = b"".join(b"field_%d -s4 abcd\n" % number for number in range(45))
    (tmp_path / "b.sph").write_bytes(content[:1024].replace(b"end_head", many + b"end_head")[:1024] + content[1024:])
    denoised(dry, tmp_path / "b.sph")
