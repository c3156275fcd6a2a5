"""Texts and other data beside the sound of w64, caf, au, sph and voc files and wavs of the other byte order."""

import struct

import av
import numpy as np
import pytest
import soundfile
from conftest import speech

from modelscope_ext.audio import AudioError, open_audio

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


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_f32le", "pcm_f64le", "pcm_mulaw"])
def test_a_w64_file_with_a_speaker_mask_is_read_and_written(dry, tmp_path, codec, caplog):
    """Libsndfile takes any samples of such a file for integers; it writes none."""
    audio = speech(16000, 1.0, 6)
    with av.open(str(tmp_path / "a.w64"), "w") as out:
        frame = av.AudioFrame.from_ndarray(audio.reshape(1, -1), "flt", "5.1")
        frame.sample_rate = 16000
        stream = out.add_stream(codec, rate=16000, layout="5.1")
        for each in (frame, None):
            out.mux(stream.encode(each))
    assert np.abs(read(tmp_path / "a.w64") - audio).max() < (0.02 if codec == "pcm_mulaw" else 2**-15)
    dry.file(tmp_path / "a.w64", tmp_path / "out" / "a.w64")
    assert np.abs(read(tmp_path / "out" / "a.w64") - read(tmp_path / "a.w64")).max() < (
        0.02 if codec == "pcm_mulaw" else 2**-14
    )
    with av.open(str(tmp_path / "out" / "a.w64")) as result:
        assert result.streams.audio[0].codec_context.name == codec
        assert (result.streams.audio[0].layout.name == "5.1") == (codec == "pcm_s16le")  # others have no place for it
    assert ("wrong beside a speaker mask" in caplog.text) == (codec != "pcm_s16le")


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


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_a_wav_of_the_other_byte_order_keeps_it_and_its_chunks(dry, tmp_path, caplog, subtype, tail):
    """A chunk "cue " makes libsndfile take the samples for those of the usual order, as FFmpeg always does."""
    audio = np.repeat(speech(16000, 1.0), 2, axis=1)
    with soundfile.SoundFile(tmp_path / "a.wav", "w", 16000, 2, subtype, "BIG") as file:
        file.title = "Grüße"
        file.write(audio)
    content = (tmp_path / "a.wav").read_bytes()
    extra = b"cue " + struct.pack(">2I2I4s3I", 28, 1, 1, 0, b"data", 0, 0, 8000) + b"note\0\0\0\3abc\0"
    at = len(content) if tail else content.index(b"LIST")
    content = content[:at] + extra + content[at:]
    (tmp_path / "a.wav").write_bytes(content[:4] + struct.pack(">I", len(content) - 8) + content[8:])
    assert np.abs(read(tmp_path / "a.wav") - audio).max() <= 2**-15
    result = denoised(dry, tmp_path / "a.wav")
    assert result[:4] == b"RIFX"
    assert struct.unpack_from(">I", result, 4) == (len(result) - 8,)
    assert extra in result
    assert result.count("Grüße".encode()) == 1
    assert caplog.text == ""


def test_a_broken_wav_of_the_other_byte_order_is_an_error(tmp_path):
    """FFmpeg would read it as noise."""
    soundfile.write(tmp_path / "a.wav", speech(16000, 1.0), 16000, "PCM_16", "BIG")
    content = (tmp_path / "a.wav").read_bytes()
    at = content.index(b"fmt ") + 8
    (tmp_path / "a.wav").write_bytes(content[:at] + b"\x12\x34" + content[at + 2 :])
    with pytest.raises(AudioError, match=r"a\.wav: not readable as audio"):
        read(tmp_path / "a.wav")


@pytest.mark.parametrize("text", [b"", b"A take\0"])
def test_the_text_of_a_voc_file_is_lost_with_a_warning(dry, tmp_path, caplog, text):
    soundfile.write(tmp_path / "a.voc", speech(16000, 1.0), 16000, "PCM_16")
    content = (tmp_path / "a.voc").read_bytes()
    block = b"\5" + len(text).to_bytes(3, "little") + text if text else b""
    (tmp_path / "a.voc").write_bytes(content[:26] + block + content[26:])
    denoised(dry, tmp_path / "a.voc")
    assert ("a.voc: not all of its tags are copied (no encoder writes texts into voc files)" in caplog.text) == bool(
        text
    )
