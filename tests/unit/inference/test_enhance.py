import math
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from conftest import EXAMPLES, ROOT, SHARED, streamed

from modelscope_ext import Denoiser, build
from modelscope_ext.audio import AudioError, as_float, from_float
from modelscope_ext.checkpoint import load_model
from modelscope_ext.data.corpus import load_corpus
from modelscope_ext.data.mixing import validation_pairs
from modelscope_ext.metrics import pesq, si_sdr, stoi
from modelscope_ext.pretrained import DEFAULT


def test_the_example_comes_out_cleaner(denoiser, noisy, clean):
    out = denoiser(noisy, 16000)
    assert si_sdr(out, clean) > si_sdr(noisy, clean) + 4
    assert pesq(out, clean) > pesq(noisy, clean)


@pytest.mark.shared
@pytest.mark.slow
def test_the_card_says_the_truth(denoiser, tmp_path):
    """The gain on the validation pairs of `benchmarks/quality.py` is at least 5 dB SI-SDR and 5 points of STOI."""
    speech, noise = (load_corpus(SHARED / "data" / f"valid_{kind}", tmp_path) for kind in ("speech", "noise"))
    rows = []
    for noisy, clean in validation_pairs(speech, noise, 50, seed=2026):
        out = denoiser(noisy, 16000)
        rows.append([si_sdr(out, clean) - si_sdr(noisy, clean), stoi(out, clean) - stoi(noisy, clean)])
    gained = np.mean(rows, 0)
    assert gained[0] >= 5
    assert gained[1] >= 5


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000])
def test_any_rate_keeps_length_alignment_and_level(rate, noisy):
    """With a gain of one the output is the input below 8 kHz."""
    net = load_model(DEFAULT)
    bypass = Denoiser(net)
    net.mask = lambda spec, state: (torch.ones_like(spec.real), state)
    time = np.arange(rate + 7) / rate
    audio = (0.3 * np.sin(2 * np.pi * 440 * time) + 0.2 * np.sin(2 * np.pi * 3000 * time)).astype(np.float32)
    out = bypass(audio, rate)
    assert out.shape == audio.shape
    inner = slice(rate // 50, -rate // 50)
    assert np.abs(out - audio)[inner].max() < 3e-3


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int16", "int32", "uint8"])
@pytest.mark.parametrize("channels", [None, 1, 2, 7])
def test_shape_and_type_stay(denoiser, noisy, dtype, channels):
    audio = from_float(noisy[16000:24000], np.dtype(dtype))
    if channels:
        audio = np.repeat(audio[:, None], channels, 1)
    out = denoiser(audio, 16000)
    assert out.dtype == audio.dtype
    assert out.shape == audio.shape
    expected = denoiser(noisy[16000:24000], 16000)
    tolerance = {"int8": 0.03, "uint8": 0.03, "float16": 2e-3}.get(dtype, 3e-4)
    first = as_float(out)[:, 0] if channels else as_float(out)
    assert np.abs(first - expected).max() < tolerance


@pytest.mark.parametrize("length", [0, 1, 3, 159, 160, 320, 321, 16001])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_exact_length(denoiser, length, rate):
    out = denoiser(np.full(length, 0.1, np.float32), rate)
    assert out.shape == (length,)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8])
def test_silence_stays_silence(denoiser, dtype):
    silence = from_float(np.zeros(20000, np.float32), np.dtype(dtype))
    assert np.array_equal(denoiser(silence, 44100), silence)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.full(100, np.nan, np.float32), "NaN or infinite"),
        (np.full(100, np.inf), "NaN or infinite"),
        (np.full(100, 1e300), "NaN or infinite"),
        (np.zeros((2, 3, 4), np.float32), r"need \(N,\) or \(N, channels\) audio, got shape \(2, 3, 4\)"),
        (np.zeros(4, complex), "must be floating point or integers, not complex128"),
        (np.array(["a"]), "must be floating point or integers"),
    ],
)
def test_arrays_that_are_no_audio_are_reported(denoiser, audio, message):
    with pytest.raises(AudioError, match=message):
        denoiser(audio, 16000)


@pytest.mark.parametrize("rate", [0, -1, 16000.5, "16k", 10**9])
def test_rates_that_are_none_are_reported(denoiser, rate):
    with pytest.raises(AudioError, match="sample_rate must be a whole number"):
        denoiser(np.zeros(10, np.float32), rate)


def test_full_scale_does_not_wrap(denoiser):
    loud = np.full(16000, 32767, np.int16)
    loud[::2] = -32768
    out = denoiser(loud, 16000).astype(int)
    assert np.abs(np.diff(np.sign(out))).max() <= 2
    assert out.min() >= -32768


def test_wet_and_limit_mix_the_noisy_signal_back_in(noisy):
    full = Denoiser(attenuation_limit_db=math.inf)(noisy, 16000)
    assert np.allclose(Denoiser(wet=0)(noisy, 16000), noisy, atol=1e-6)
    half = Denoiser(wet=0.5, attenuation_limit_db=math.inf)(noisy, 16000)
    assert np.allclose(half, (noisy + full) / 2, atol=1e-6)
    limited = Denoiser(attenuation_limit_db=12)(noisy, 16000)
    share = 10 ** (-12 / 20)
    assert np.allclose(limited, share * noisy + (1 - share) * full, atol=1e-6)
    assert np.allclose(Denoiser(attenuation_limit_db=0)(noisy, 16000), noisy, atol=1e-6)
    for wrong in ({"wet": 1.1}, {"wet": math.nan}, {"attenuation_limit_db": -1}, {"attenuation_limit_db": math.nan}):
        with pytest.raises(ValueError, match="must be"):
            Denoiser(**wrong)


@pytest.mark.parametrize("rate", [16000, 48000, 44100])
@pytest.mark.parametrize("channels", [None, 2])
def test_chunks_do_not_change_a_stream(denoiser, noisy, rate, channels):
    audio = np.resize(noisy, rate // 2)
    if channels:
        audio = np.stack([audio, audio[::-1]], 1)
    for chunk in (1, 160, 997):
        part = audio[: 4000 if chunk == 1 else None]
        whole = streamed(denoiser, part, rate)
        stream = denoiser.stream(rate, channels or 1)
        outs = [stream.feed(part[i : i + chunk]) for i in range(0, len(part), chunk)]
        fed_out = sum(map(len, outs))
        outs.append(stream.flush())
        out = np.concatenate(outs)
        assert out.shape == part.shape
        assert np.allclose(out[:fed_out], whole[:fed_out], atol=1e-5)
        assert (len(part) - fed_out) / rate <= stream.latency_ms / 1000 + (chunk + 2) / rate


@pytest.mark.parametrize(("rate", "seconds"), [(16000, 5), (16000, 1.5), (44100, 3)])
def test_an_array_is_a_stream_after_a_time_reversed_warm_up(noisy, rate, seconds):
    denoiser = Denoiser("stream")
    audio = np.resize(noisy, round(seconds * rate))
    warmup = audio[1 : 2 * rate + 1][::-1]
    expected = streamed(denoiser, np.concatenate((warmup, audio)), rate)[len(warmup) :]
    assert np.abs(denoiser(audio, rate) - expected).max() < 1e-5


def test_the_beginning_is_as_clean_as_the_rest(denoiser, noisy, clean):
    """A stream adapts in the first second; an array is clean from the first sample on."""
    rows = []
    for start in range(0, 5 * 16000, 16000):  # as if the recording began there
        part, first = noisy[start:], slice(start, start + 8000)
        outs = denoiser(part, 16000), streamed(denoiser, part, 16000), part
        rows.append([si_sdr(out[:8000], clean[first]) for out in outs])
    array, stream, nothing = np.nanmean(rows, 0)  # it is not a number where nobody speaks
    assert array > stream + 0.5 > nothing + 0.5


@pytest.mark.parametrize("zeros", [256, 16000])
def test_a_stream_may_begin_with_silence(denoiser, noisy, clean, zeros):
    """As from a muted microphone; a model trained without such mixtures lost 0.3 dB by one frame."""
    silence = np.zeros(zeros, np.float32)
    out = streamed(denoiser, np.concatenate((silence, noisy)), 16000)[zeros:]
    assert si_sdr(out, clean) > si_sdr(streamed(denoiser, noisy, 16000), clean) - 0.1


def test_latency_is_stated_and_kept(denoiser):
    assert denoiser.stream(16000).latency_ms == 32
    for rate, longest in ((16000, 36), (48000, 36), (44100, 42)):
        stream, rng = denoiser.stream(rate), np.random.default_rng(0)
        assert stream.latency_ms <= longest
        audio = (rng.standard_normal(rate // 2) * 0.1).astype(np.float32)
        changed = audio.copy()
        cut = rate // 4
        changed[cut:] = 0
        differs = np.abs(streamed(denoiser, audio, rate) - streamed(denoiser, changed, rate)) > 1e-6
        assert cut - stream.latency_ms * rate / 1000 - 1 <= np.argmax(differs) <= cut


def test_a_stream_checks_its_chunks(denoiser):
    stream = denoiser.stream(16000, 2)
    with pytest.raises(AudioError, match=r"takes chunks of shape \(n, 2\), got \(5,\)"):
        stream.feed(np.zeros(5, np.float32))
    stream.flush()
    with pytest.raises(RuntimeError, match="make a new one"):
        stream.feed(np.zeros((5, 2), np.float32))
    with pytest.raises(RuntimeError, match="make a new one"):
        stream.flush()


def test_what_cannot_be_used_is_reported():
    with pytest.raises(ValueError, match="cannot use the device 'warp'"):
        Denoiser(device="warp")
    with pytest.raises(ValueError, match="Frcrn needs a whole utterance before its first output, so it cannot stream"):
        Denoiser(build("FRCRN")).stream(16000)


@pytest.mark.parametrize(
    ("suffix", "subtype", "rate", "channels"),
    [
        ("wav", "PCM_16", 16000, 1),
        ("wav", "PCM_U8", 8000, 1),
        ("wav", "PCM_24", 192000, 2),
        ("wav", "FLOAT", 44100, 7),
        ("flac", "PCM_24", 48000, 2),
        ("ogg", "VORBIS", 44100, 2),
        ("mp3", "MPEG_LAYER_III", 44100, 2),
        ("aiff", "PCM_16", 22050, 1),
    ],
)
def test_a_file_keeps_its_form(denoiser, tmp_path, noisy, suffix, subtype, rate, channels):
    source, target = tmp_path / f"in.{suffix}", tmp_path / "out" / f"out.{suffix}"
    audio = np.repeat(noisy[:rate, None], channels, 1)
    soundfile.write(source, audio, rate, subtype)
    done = []
    denoiser.file(source, target, done.append)
    before, after = soundfile.info(source), soundfile.info(target)
    assert after.frames == before.frames or suffix == "mp3"
    assert (after.samplerate, after.channels, after.format, after.subtype) == (rate, channels, before.format, subtype)
    assert sum(done) == pytest.approx(before.frames / rate)
    if suffix == "wav":
        expected = denoiser(soundfile.read(source, dtype="float32", always_2d=True)[0], rate)
        tolerance = 1.01 / 128 if subtype == "PCM_U8" else 1e-4
        assert np.abs(soundfile.read(target, always_2d=True)[0] - expected).max() < tolerance


def test_another_suffix_is_another_format(denoiser, tmp_path):
    denoiser.file(EXAMPLES / "noisy.wav", tmp_path / "out.flac")
    assert soundfile.info(tmp_path / "out.flac").format == "FLAC"
    with pytest.raises(AudioError, match=r"out\.txt: no audio format has this suffix"):
        denoiser.file(EXAMPLES / "noisy.wav", tmp_path / "out.txt")


def test_bad_files_leave_nothing_behind(denoiser, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    audio = np.random.default_rng(0).standard_normal(200_000) * 0.1
    soundfile.write(source / "nan.wav", np.append(audio, np.nan), 16000, "FLOAT")
    (source / "text.wav").write_text("dear aunt")
    (source / "zero.wav").touch()
    for path in sorted(source.iterdir()):
        with pytest.raises(AudioError, match=path.name):
            denoiser.file(path, tmp_path / "out" / path.name)
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_no_samples_in_no_samples_out(denoiser, tmp_path):
    soundfile.write(tmp_path / "in.wav", np.zeros(0), 16000)
    denoiser.file(tmp_path / "in.wav", tmp_path / "out.wav")
    assert soundfile.info(tmp_path / "out.wav").frames == 0


def test_a_file_does_not_overwrite_itself(denoiser, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(100), 16000)
    before = path.read_bytes()
    with pytest.raises(AudioError, match="overwrite its own input"):
        denoiser.file(path, tmp_path / "." / "a.wav")
    assert path.read_bytes() == before


PEAK = """
import resource, sys
from modelscope_ext import Denoiser
import torch; torch.set_num_threads(1)
Denoiser().file(sys.argv[1], sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path):
    peaks = []
    for seconds in (30, 300):
        source = tmp_path / f"{seconds}.wav"
        with soundfile.SoundFile(source, "w", 16000, 1) as file:
            for _ in range(seconds):
                file.write(np.random.default_rng(0).standard_normal(16000) * 0.1)
        command = [sys.executable, "-c", PEAK, source, tmp_path / "out.wav"]
        peaks.append(int(subprocess.check_output(command, cwd=ROOT)))
    # 300 s of float32 are 19 MB; one more copy of the file would show.
    assert peaks[1] < peaks[0] + 10_000


@pytest.mark.parametrize("gain", [32768.0, 1e-3, 1e-5])
def test_audio_far_from_the_level_of_speech_is_as_good(denoiser, gain):
    noisy = soundfile.read(EXAMPLES / "noisy.wav", dtype="float32")[0]
    expected = denoiser(noisy, 16000)
    error = denoiser(noisy * np.float32(gain), 16000) / gain - expected
    assert np.square(error).sum() < 0.01 * np.square(expected).sum()
