"""`--loudness` against an independent meter: pyloudnorm, and peaks between samples by scipy."""

import re
import subprocess

import imageio_ffmpeg
import numpy as np
import pyloudnorm
import pytest
import soundfile
from conftest import speech
from scipy.signal import resample_poly

from modelscope_ext import Denoiser
from modelscope_ext.audio import AudioError, open_audio
from modelscope_ext.cli import main


@pytest.fixture(scope="module")
def denoiser():
    return Denoiser()


def read(path):
    with open_audio(path) as file:
        return np.concatenate(list(file.blocks(1.0))), file.sample_rate


def loudness(audio, rate):
    """Return the loudness of (N, channels) audio; pyloudnorm takes left, right, centre and the two behind."""
    audio = audio[:, [0, 1, 2, 4, 5]] if audio.shape[1] == 6 else audio
    return pyloudnorm.Meter(rate).integrated_loudness(audio.astype(np.float64))


def true_peak_db(audio):
    return 20 * np.log10(np.abs(resample_poly(audio, 8, 1)).max())


@pytest.mark.parametrize("wanted", [-16, -30])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16000, 1), (44100, 2), (48000, 6), (48000, 1)])
def test_a_result_has_the_loudness_and_no_true_peak_above_minus_one(denoiser, tmp_path, rate, channels, wanted):
    source, target = tmp_path / "a.wav", tmp_path / "out" / "a.wav"
    soundfile.write(source, speech(rate, channels=channels), rate)
    denoiser.file(source, target, loudness=wanted)
    audio, _ = read(target)
    assert len(audio) == len(read(source)[0])
    assert loudness(audio, rate) == pytest.approx(wanted, abs=0.5)
    assert true_peak_db(audio) <= -1


def test_floats_far_above_full_scale_have_the_loudness(dry, tmp_path):
    soundfile.write(tmp_path / "a.wav", speech(16000) * 32768, 16000, "FLOAT")
    dry.file(tmp_path / "a.wav", tmp_path / "b.wav", loudness=-23)
    assert loudness(read(tmp_path / "b.wav")[0], 16000) == pytest.approx(-23, abs=0.5)


def test_a_gain_alone_changes_the_loudness_where_peaks_permit(dry, tmp_path):
    audio = speech(16000) * 0.3
    soundfile.write(tmp_path / "a.wav", audio, 16000, "FLOAT")
    dry.file(tmp_path / "a.wav", tmp_path / "b.wav", loudness=-30)
    found = read(tmp_path / "b.wav")[0]
    gain = np.vdot(found, audio) / np.vdot(audio, audio)
    np.testing.assert_allclose(found, gain * audio, rtol=1e-4, atol=1e-7)
    assert loudness(found, 16000) == pytest.approx(-30, abs=0.2)


def test_the_limiter_keeps_time_and_what_is_not_loud(dry, tmp_path):
    audio = speech(48000, 4.0, 2)
    audio[100_000] *= 30  # a click, far from speech
    soundfile.write(tmp_path / "a.wav", audio, 48000, "FLOAT")
    dry.file(tmp_path / "a.wav", tmp_path / "b.wav", loudness=-20)
    found = read(tmp_path / "b.wav")[0]
    for part in (slice(20_000, 90_000), slice(130_000, 190_000)):
        gain = np.vdot(found[part], audio[part]) / np.vdot(audio[part], audio[part])
        error = found[part] - gain * audio[part]
        assert 10 * np.log10(np.square(gain * audio[part]).sum() / np.square(error).sum()) > 25
    assert true_peak_db(found) <= -1


@pytest.mark.parametrize("seconds", [0.45, 1.0])
def test_a_short_recording_gets_the_loudness(dry, tmp_path, seconds):
    soundfile.write(tmp_path / "a.wav", speech(16000)[8000 : 8000 + round(seconds * 16000)], 16000)
    dry.file(tmp_path / "a.wav", tmp_path / "b.wav", loudness=-16)
    assert loudness(read(tmp_path / "b.wav")[0], 16000) == pytest.approx(-16, abs=0.5)


def test_what_cannot_be_measured_keeps_its_level(dry, tmp_path, caplog):
    for name, audio, reason in (
        ("silence", np.zeros((16000, 1), np.float32), "quieter than -60 LUFS"),
        ("hiss", speech(16000) * 1e-3, "quieter than -60 LUFS"),
        ("word", speech(16000)[8000:13000], "shorter than 0.4 s"),
        ("nothing", np.zeros((0, 1), np.float32), "shorter than 0.4 s"),
    ):
        caplog.clear()
        soundfile.write(tmp_path / f"{name}.wav", audio, 16000, "FLOAT")
        dry.file(tmp_path / f"{name}.wav", tmp_path / "b.wav", loudness=-16)
        np.testing.assert_allclose(read_all(tmp_path / "b.wav"), audio, rtol=1e-6, atol=1e-9)
        assert f"{name}.wav: {reason}; its loudness is not changed" in caplog.text


def read_all(path):
    return soundfile.read(path, dtype="float32", always_2d=True)[0]


def test_a_loudness_that_peaks_do_not_permit_is_reported(dry, tmp_path, caplog):
    soundfile.write(tmp_path / "a.wav", speech(16000), 16000)
    dry.file(tmp_path / "a.wav", tmp_path / "b.wav", loudness=-5)
    assert "a.wav: a true peak of -1 dB permit" in caplog.text
    assert true_peak_db(read(tmp_path / "b.wav")[0]) <= -0.99


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a", "a.opus", "a.flac", "a.ogg"])
def test_lossy_results_have_the_loudness_too(denoiser, tmp_path, name):
    soundfile.write(tmp_path / "a.wav", speech(24000), 24000)
    denoiser.file(tmp_path / "a.wav", tmp_path / name, loudness=-16)
    audio, rate = read(tmp_path / name)
    assert loudness(audio, rate) == pytest.approx(-16, abs=0.5)
    assert true_peak_db(audio) <= -1


LOW_RATES = {
    "a.amr": ("-b:a", "4.75k"),
    "a.opus": ("-c:a", "libopus", "-b:a", "16k"),
    "a.mp3": ("-b:a", "8k"),
    "a.m4a": ("-b:a", "16k"),
}


@pytest.mark.parametrize("name", LOW_RATES)
def test_what_a_codec_of_a_low_bit_rate_changes_is_made_up_for(dry, tmp_path, name):
    soundfile.write(tmp_path / "a.wav", speech(8000), 8000)
    program = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([program, "-v", "error", "-i", "a.wav", *LOW_RATES[name], name], cwd=tmp_path, check=True)
    dry.file(tmp_path / name, tmp_path / "out" / name, loudness=-18)
    audio, rate = read(tmp_path / "out" / name)
    assert loudness(audio, rate) == pytest.approx(-18, abs=0.4)
    assert true_peak_db(audio) <= -1
    assert len(audio) == pytest.approx(len(read(tmp_path / name)[0]), abs=rate / 1000)  # an m4a stores milliseconds
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_a_loudness_that_a_codec_does_not_reach_is_reported(dry, tmp_path, caplog):
    soundfile.write(tmp_path / "a.mp3", speech(8000), 8000, compression_level=0.999, bitrate_mode="CONSTANT")
    dry.file(tmp_path / "a.mp3", tmp_path / "b.mp3", loudness=-5)
    audio, rate = read(tmp_path / "b.mp3")
    assert true_peak_db(audio) <= -0.99
    found = re.search("a.mp3: its codec and a true peak of -1 dB permit (.*) LUFS only", caplog.text)
    assert float(found[1]) == pytest.approx(loudness(audio, rate), abs=0.3)


def test_the_command_takes_a_loudness_for_folders(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for number in range(2):
        soundfile.write(tmp_path / "in" / f"{number}.wav", speech(16000) * 0.1**number, 16000)
    command = ["denoise", "-q", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--loudness"]
    assert main([*command, "-16"]) == 0
    for number in range(2):
        assert loudness(*read(tmp_path / "out" / f"{number}.wav")) == pytest.approx(-16, abs=0.5)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.wav", "1.wav"]
    for wrong in ("16", "nan", "0", "-90", "-inf"):
        assert main([*command[:-1], f"--loudness={wrong}"]) == 1
        assert "loudness must be -50 … -5 LUFS" in capsys.readouterr().err


def test_a_track_that_cannot_be_measured_is_an_error_before_any_work(dry, tmp_path):
    soundfile.write(tmp_path / "a.wav", speech(4000), 4000)
    with pytest.raises(AudioError, match=r"a\.wav: 4000 Hz and 1 channels; loudness is measured from 8000 Hz on"):
        dry.file(tmp_path / "a.wav", tmp_path / "b.wav", loudness=-16)
    with pytest.raises(ValueError, match="loudness must be"):
        dry.file(tmp_path / "a.wav", tmp_path / "b.wav", loudness=3)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
