import io
import os
import re

import numpy as np
import pytest
import soundfile
import soxr

from modelscope_ext.audio import (
    AudioError,
    StreamResampler,
    as_float,
    audio_files,
    find_problem,
    from_float,
    open_audio,
    read_mono,
    resample,
    validate_format,
    write_audio,
)

RATES = [(48000, 16000), (16000, 48000), (44100, 16000), (16000, 44100), (8000, 16000), (16000, 8000), (11025, 16000)]


@pytest.mark.parametrize(("source", "target"), RATES)
def test_a_resampled_stream_equals_the_whole_and_soxr(source, target):
    rng = np.random.default_rng(0)
    low = min(source, target)
    audio = np.zeros((source, 2), np.float32)
    time = np.arange(source) / source
    for hz in (100, 0.2 * low, 0.38 * low):  # within the pass band of both
        audio += np.sin(2 * np.pi * hz * time + rng.uniform(0, 6, (2, 1))).T.astype(np.float32) * 0.2
    whole = StreamResampler(source, target, 2)
    expected = np.concatenate((whole.feed(audio), whole.flush()))
    assert len(expected) == target
    stream = StreamResampler(source, target, 2)
    cuts = np.cumsum([1, 0, 7, 160, 997, 5000])
    parts = [stream.feed(part) for part in np.split(audio, cuts)] + [stream.flush()]
    assert np.allclose(np.concatenate(parts), expected, atol=1e-6)
    middle = slice(target // 20, -target // 20)
    assert np.abs(expected - soxr.resample(audio, source, target))[middle].max() < 2e-3


@pytest.mark.parametrize(("source", "target"), [(48000, 16000), (44100, 16000)])
def test_resampling_keeps_aliases_out(source, target):
    tone = np.sin(2 * np.pi * 9500 * np.arange(source) / source).astype(np.float32)[:, None]
    out = StreamResampler(source, target, 1).feed(tone)
    assert np.abs(out[200:]).max() < 1e-3


@pytest.mark.parametrize(("source", "target"), RATES)
def test_a_resampled_sample_waits_as_long_as_stated(source, target):
    stream = StreamResampler(source, target, 1)
    for _ in range(source // 10):
        stream.feed(np.zeros((1, 1), np.float32))
        assert stream.fed / source - stream.done / target <= stream.waits + 1 / target + 1 / source


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_reads_what_soundfile_reads(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    tone = np.sin(2 * np.pi * 440 * np.arange(22050) / 22050).astype(np.float32) * 0.5
    soundfile.write(path, np.stack((tone, tone), 1), 22050)
    audio = read_mono(path, 16000)
    assert abs(len(audio) - 16000) < 1200  # mp3 pads
    assert np.sqrt(np.mean(audio**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


def test_bad_files_are_named_with_the_reason(tmp_path):
    cases = {"none.wav": "no such file", "text.wav": "not readable as audio", "folder.wav": "is a folder"}
    (tmp_path / "text.wav").write_text("this is a letter to my aunt")
    (tmp_path / "folder.wav").mkdir()
    nan = tmp_path / "nan.wav"
    soundfile.write(nan, np.full(100, np.nan), 16000, "FLOAT")
    cases["nan.wav"] = "has NaN or infinite samples"
    for name, reason in cases.items():
        with pytest.raises(AudioError, match=f"{name}: .*{reason}"):
            read_mono(tmp_path / name, 16000)
    with pytest.raises(AudioError, match="not readable as audio"), open_audio(io.BytesIO(b"nothing")):
        pass


def test_a_file_that_is_cut_off_is_read_with_a_warning(tmp_path, caplog):
    whole = tmp_path / "whole.flac"
    soundfile.write(whole, np.random.default_rng(0).standard_normal(50000) * 0.1, 16000)
    cut = tmp_path / "cut.flac"
    cut.write_bytes(whole.read_bytes()[:40000])
    with open_audio(cut) as file:
        assert 10000 < sum(map(len, file.blocks(1.0))) < 30000
    assert re.search(r"cut\.flac: (cut off|damaged)", caplog.text)


def test_audio_files_are_found_below_a_folder(tmp_path):
    for name in ("b/x.WAV", "a.flac", "notes.txt", ".hidden/h.wav", "._a.flac"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(p.relative_to(tmp_path)) for p in audio_files(tmp_path)] == ["a.flac", "b/x.WAV"]


def test_a_suffix_that_programs_have_too_is_decided_by_content(tmp_path):
    (tmp_path / "video.ts").write_bytes(2 * (b"G" + bytes(187)))
    (tmp_path / "program.ts").write_text("Get(): number { return 1 }")
    assert [path.name for path in audio_files(tmp_path)] == ["video.ts"]


def test_a_written_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "deep" / "out.wav"

    def break_off():
        with write_audio(path, 16000, 1, "WAV", "PCM_16") as file:
            file.write(np.zeros(100))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert list(tmp_path.rglob("*.*")) == []
    with write_audio(path, 16000, 1, "WAV", "PCM_16") as file:
        file.write(np.zeros(100))
    assert [p.name for p in path.parent.iterdir()] == ["out.wav"]


def test_same_rate_is_no_work():
    audio = np.zeros(3)
    assert resample(audio, 16000, 16000) is audio


@pytest.mark.parametrize(
    ("samples", "block", "whole"),
    [
        ([0.5, -0.5], None, None),
        ([], None, "empty"),
        ([0.25, 0.25, 0.25], None, "silent"),
        ([2.0**-15, -(2.0**-15)], None, "silent"),
        ([2.0**-15, -(2.0**-14)], None, None),
        ([0.5, np.nan], "has NaN or infinite samples", "has NaN or infinite samples"),
        ([0.5, -np.inf], "has NaN or infinite samples", "has NaN or infinite samples"),
        ([2.0**31, 0.0], None, None),
        (
            [2.0**32, 0.0],
            "has samples of up to 4.3e+09 where full scale is 1",
            "has samples of up to 4.3e+09 where full",
        ),
        ([3e38, -3e38], "has samples of up to 3e+38 where full scale is 1", "has samples of up to 3e+38"),
    ],
)
def test_unusable_audio_has_one_definition(samples, block, whole):
    for shape in ((-1,), (-1, 1)):
        audio = np.array(samples, np.float32).reshape(shape)
        assert find_problem(audio) == block
        assert (find_problem(audio, whole=True) or "").startswith(whole or "")
        assert (find_problem(audio, whole=True) is None) == (whole is None)


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i2", "i4", "u4", "f2", "f4", "f8"])
def test_samples_of_every_type_survive_the_way_through_floats(dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        samples = np.array([0, 0.5, -1, 1], dtype)
    else:
        limits = np.iinfo(dtype)
        samples = np.array([limits.min, limits.max // 256 * 128, limits.max // 256 * 256], dtype)
    back = from_float(as_float(samples), dtype)
    assert back.dtype == dtype
    assert np.array_equal(back, samples)


def test_silence_of_unsigned_samples_is_in_the_middle():
    assert as_float(np.array([128, 0], np.uint8)).tolist() == [0, -1]


def test_impossible_formats_are_refused():
    validate_format(np.int32(1000), 1024)
    for arguments in ((999,), (16000.0,), (1_000_001,), (16000, 0), (16000, 1025)):
        with pytest.raises(AudioError, match=r"must be a whole number|need 1 … 1024 channels"):
            validate_format(*arguments)


def test_folders_are_searched_by_content_too_and_unreadable_ones_are_named(tmp_path, monkeypatch, caplog):
    soundfile.write(tmp_path / "voice", np.zeros(100), 16000, format="WAV")
    soundfile.write(tmp_path / "a.flac", np.zeros(100), 16000)
    (tmp_path / "notes.txt").write_text("RIFFS and other things")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    unreadable = {}
    assert [path.name for path in audio_files(tmp_path, unreadable)] == ["a.flac", "voice"]
    assert unreadable == {str(tmp_path / "closed"): "cannot be read (Permission denied)"}
    assert caplog.text == ""
    assert [path.name for path in audio_files(tmp_path)] == ["a.flac", "voice"]
    assert "closed: cannot be read (Permission denied)" in caplog.text


def test_links_to_folders_elsewhere_are_named_and_loops_are_not(tmp_path, caplog):
    for name in ("in/deep/a.wav", "other/b.wav"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    for name, target in (("up", "../.."), ("own", "../deep"), ("beside", "../../other")):
        (tmp_path / "in" / "deep" / name).symlink_to(target)
    assert audio_files(tmp_path / "in") == [tmp_path / "in" / "deep" / "a.wav"]
    assert re.findall(r"deep/(\w+): a link to a folder is not followed", caplog.text) == ["beside"]


def test_channels_are_averaged_unless_they_cancel_each_other(tmp_path):
    tone = np.sin(np.arange(16000) / 5).astype(np.float32) / 4
    for second, expected in ((tone, tone), (-tone, tone), (np.zeros_like(tone), tone / 2), (-tone / 2, tone / 4)):
        soundfile.write(tmp_path / "a.wav", np.stack((tone, second), 1), 16000, "FLOAT")
        assert np.allclose(read_mono(tmp_path / "a.wav", 16000), expected, atol=1e-6)
