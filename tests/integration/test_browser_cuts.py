"""The page of `examples/browser` says that a recording is cut off, and only then."""

import numpy as np
import pytest
import soundfile
from browsing import downloaded, give, write_sound, write_video
from conftest import RATE, speech

from modelscope_ext.audio import resample

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("name", "subtype"), [("a.wav", "PCM_16"), ("a.ogg", "VORBIS"), ("b.ogg", "OPUS")])
def test_a_recording_that_is_cut_off_gives_what_is_there(page, tmp_path, noisy, name, subtype):
    soundfile.write(tmp_path / name, noisy, RATE, subtype)
    whole = (tmp_path / name).read_bytes()
    assert "cut off" not in give(page, tmp_path / name)
    (tmp_path / name).write_bytes(whole[:-1])
    assert "The file is cut off: its end is missing" in give(page, tmp_path / name)
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    assert "cut off" in give(page, tmp_path / name)
    found, rate = downloaded(page, tmp_path)
    assert rate == (48000 if subtype == "OPUS" else RATE)
    found = found[:: rate // RATE]
    assert 2 * RATE < len(found) < 6 * RATE
    assert np.corrcoef(found, noisy[: len(found)])[0, 1] > 0.5


def test_an_ogg_file_without_a_mark_of_its_end_may_be_cut_off(page, tmp_path, noisy):
    soundfile.write(tmp_path / "a.ogg", noisy, RATE, "OPUS")
    whole = (tmp_path / "a.ogg").read_bytes()
    (tmp_path / "a.ogg").write_bytes(whole[: whole.rindex(b"OggS")])  # between two pages
    assert "it may be cut off" in give(page, tmp_path / "a.ogg")


KINDS = [
    ("a.flac", "flac", 16000, {}),
    ("a.mp3", "libmp3lame", 44100, {}),
    ("a.mp4", "aac", 44100, {"movflags": "faststart"}),
    ("a.webm", "libopus", 48000, {}),
    ("a.mkv", "aac", 48000, {}),
]


@pytest.mark.parametrize(("name", "codec", "rate", "options"), KINDS)
def test_less_than_a_second_that_is_missing_is_said(page, tmp_path, noisy, name, codec, rate, options):
    write_sound(tmp_path / name, codec, rate, resample(noisy, RATE, rate)[: 33 * rate // 10], options)
    whole = (tmp_path / name).read_bytes()
    said = give(page, tmp_path / name)
    assert said.startswith("Done: 0:03 in ")
    assert said.endswith(" s.")
    (tmp_path / name).write_bytes(whole[: 9 * len(whole) // 10])
    assert "The file is cut off: its end is missing" in give(page, tmp_path / name)
    assert 2.5 < len(downloaded(page, tmp_path)[0]) / rate < 3.2


def test_an_mp3_file_that_does_not_say_its_length_promises_none(page, tmp_path, noisy):
    write_sound(tmp_path / "a.mp3", "libmp3lame", RATE, noisy, {"write_xing": "0"})
    with (tmp_path / "a.mp3").open("ab") as file:
        file.write(b"TAG" + bytes(20000))
    assert give(page, tmp_path / "a.mp3").endswith(" s.")


def test_a_video_that_is_longer_than_its_sound_is_whole(page, tmp_path):
    write_video(tmp_path / "a.webm", "libvpx", "libopus", speech(48000)[:, 0], more=5)
    assert give(page, tmp_path / "a.webm").endswith(" s.")


@pytest.mark.parametrize("sizes", [(0, 0), (36, 0), (0xFFFFFFFF, 0xFFFFFFFF)])
def test_a_wav_file_of_a_recorder_that_was_switched_off_is_read_to_its_end(page, tmp_path, noisy, sizes):
    soundfile.write(tmp_path / "a.wav", noisy[:RATE], RATE)
    header = bytearray((tmp_path / "a.wav").read_bytes())
    header[4:8], header[40:44] = (size.to_bytes(4, "little") for size in sizes)
    (tmp_path / "a.wav").write_bytes(header)
    said = give(page, tmp_path / "a.wav")
    assert said.startswith("Done: 0:01")
    assert "cut off" not in said
    found, rate = downloaded(page, tmp_path)
    assert (rate, len(found)) == (RATE, RATE)
