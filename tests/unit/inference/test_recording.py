import dataclasses

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from modelscope_ext import Denoiser, build
from modelscope_ext.inference.backend import Limits
from modelscope_ext.inference.recording import REFERENCE_RMS, RecordingStats, reference_gain, scan
from modelscope_ext.inference.torch_backend import TorchBackend

RATE = 16000


class Averaging:
    """A back end whose statistics are the RMS of each row."""

    name, sample_rate, causal = "Averaging", RATE, False

    def __init__(self, batch=1, level=False):
        self.limits = Limits(needs_statistics=True, batch=batch, reference_level=level)
        self.excerpts = []

    def statistics(self, audio, parts, quick):
        assert quick
        self.excerpts.append(audio)
        return np.broadcast_to(rms(audio), (parts, len(audio), 1))


def rms(audio):
    return np.sqrt(np.square(audio).mean(1, keepdims=True))


def white(rows, seconds):
    return np.random.default_rng(0).standard_normal((rows, seconds * RATE), np.float32)


@pytest.mark.parametrize("batch", [1, 2])
def test_the_means_are_those_of_seconds_all_over_the_recording(batch):
    audio = white(2, 90) * np.float32([[2.0], [0.5]]) * np.linspace(0.1, 2, 90 * RATE, dtype=np.float32)
    backend = Averaging(batch, level=True)
    stats = scan(backend, np.array_split(audio, 37, axis=1))
    assert stats.gain == pytest.approx(reference_gain(audio))
    assert stats.current().shape == (2, 1)
    assert np.allclose(stats.current(), rms(audio * stats.gain), rtol=0.03)
    wanted = {1: [(2, 12 * RATE + 960)] * 3, 2: [(4, 9 * RATE + 960)] * 2}
    assert [excerpt.shape for excerpt in backend.excerpts] == wanted[batch]
    assert np.allclose(stats.current(), scan(backend, [audio]).current(), rtol=1e-6)


def test_no_edges_where_pieces_meet():
    backend, tone = Averaging(), np.sin(2 * np.pi * 100 * np.arange(90 * RATE) / RATE, dtype=np.float32)[None]
    scan(backend, [tone])
    assert np.abs(np.diff(backend.excerpts[0])).max() < 0.08


@pytest.mark.parametrize("period", [2.4, 3.75, 7.0])
def test_pieces_sound_on_average_like_the_recording(period):
    """Noise that comes and goes, whether or not as regularly as the pieces lie: a tenth of the power's variance."""
    audio = white(1, 150)
    loud = np.arange(audio.shape[1]) % round(period * RATE) < 0.3 * period * RATE
    audio *= np.where(loud, 1, 0.01).astype(np.float32)
    assert scan(Averaging(4), [audio]).current() == pytest.approx(rms(audio), rel=0.02)


@pytest.mark.parametrize(("seconds", "excerpts"), [(22, []), (30, [12]), (300, [15] * 3), (3000, [15] * 8)])
def test_seconds_of_the_excerpts(seconds, excerpts):
    backend = Averaging()
    scan(backend, (np.zeros((1, RATE), np.float32) for _ in range(seconds)))
    assert [excerpt.shape[1] // RATE for excerpt in backend.excerpts] == excerpts


@pytest.mark.parametrize("seconds", [22.51, 23, 24.99, 31.3])
def test_excerpts_of_a_short_recording_may_be_nearly_all_of_it(seconds):
    backend, audio = Averaging(2), white(1, 32)[:, : round(seconds * RATE)]
    backend.limits = dataclasses.replace(backend.limits, excerpt_share=0.8)
    assert scan(backend, [audio]).current() == pytest.approx(rms(audio), rel=0.01)


@pytest.mark.parametrize("hours", [1.5, 2.6])
def test_hours_are_represented_by_an_even_sample(hours):
    """Quiet hours and a loud end. Level and statistics are those of all of it though only a part is kept."""
    rng = np.random.default_rng(0)
    seconds = round(3600 * hours)
    backend = Averaging(level=True)
    backend.sample_rate = 1000
    noise = rng.standard_normal((1, 10_000), np.float32)
    pieces = [noise * np.float32(0.01 if start < 0.7 * seconds else 0.1) for start in range(0, seconds, 10)]
    stats = scan(backend, pieces)
    audio = np.concatenate(pieces, 1)
    assert stats.length == audio.shape[1]
    assert stats.gain == pytest.approx(reference_gain(audio), rel=0.01)
    assert stats.current() == pytest.approx(rms(audio * stats.gain), rel=0.02)


def test_a_burst_in_hours_of_noise_is_not_raised_beyond_the_mean_level():
    """It may lie where nothing is kept."""
    backend = Averaging(level=True)
    backend.sample_rate = 1000
    quiet, loud = np.full((1, 1100), 1e-4, np.float32), np.full((1, 1100), 0.5, np.float32)
    pieces = [quiet] * 7000
    pieces[3001] = loud  # in a slot that is dropped
    stats = scan(backend, pieces)
    power = np.mean([np.square(piece).mean() for piece in pieces])
    assert stats.gain <= REFERENCE_RMS / np.sqrt(power) * 1.0001


@pytest.mark.parametrize("pieces", [[], [np.zeros((1, 0), np.float32)], [np.zeros((1, 7), np.float32)] * 3])
def test_a_recording_shorter_than_a_piece_has_no_statistics(pieces):
    stats = scan(Averaging(level=True), pieces)
    assert stats.current() is None
    assert stats.gain == 1


def test_statistics_of_chunks_replace_estimates():
    stats = RecordingStats(1.0, np.float64([[[1.0]], [[2.0]], [[3.0]], [[10.0]]]), 400)
    assert stats.current() == pytest.approx(4)
    stats = stats.update(np.float32([[5]]), 150)
    assert stats.current() == pytest.approx((150 * 5 + 50 * 2 + 100 * 3 + 100 * 10) / 400)
    stats = stats.update(np.float32([[7]]), 100).update(np.float32([[8]]), 150)
    assert stats.current() == pytest.approx((150 * 5 + 100 * 7 + 150 * 8) / 400)
    assert stats.current().dtype == np.float32
    assert stats.update(np.float32([[5]]), 50).current().shape == (1, 1)


def test_other_backends_need_no_statistics():
    backend = TorchBackend(build("CRUSE4-64-1xGRU4"))
    assert scan(backend, [white(1, 30)]).current() is None


def test_excerpts_are_longer_where_bfloat16_is_fast(monkeypatch):
    net = build("FRCRN").eval()
    shares = []
    for amx in (False, True):
        monkeypatch.setattr("modelscope_ext.models.frcrn.network.has_amx", lambda amx=amx: amx)
        limits = TorchBackend(net).limits
        shares.append((limits.excerpt_s, limits.excerpt_share))
    assert shares == [(45.0, 0.4), (90.0, 0.8)]


class Mean(nn.Module):
    """A network with statistics, as FRCRN, that returns its input."""

    sample_rate, causal, reference_level, quick_means = RATE, False, True, False
    attenuation_limit_db, warmup_s = float("inf"), 0.0

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def enhance_part(self, audio, means, keep_memory):
        return audio, torch.ones(len(audio), 1)

    def squeeze_means(self, audio, parts, quick):
        return torch.ones(parts, len(audio), 1)


@pytest.mark.parametrize(("seconds", "net", "times"), [(5, Mean, 2), (40, Mean, 2), (40, None, 1)])
def test_a_file_is_decoded_at_most_twice(seconds, net, times, monkeypatch, tmp_path):
    """Once for the scan and once for the output; causal networks need no scan."""
    soundfile.write(tmp_path / "a.wav", white(1, seconds)[0] / 20, RATE)
    read, frames = soundfile.SoundFile.read, []

    def counted(self, *arguments, **options):
        block = read(self, *arguments, **options)
        frames.append(len(block))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    Denoiser(net and net().eval()).file(tmp_path / "a.wav", tmp_path / "out.wav")
    assert sum(frames) == times * seconds * RATE


def test_the_reference_level_is_that_of_loud_samples():
    audio = np.zeros((4, 8000), np.float32)
    audio[0, ::8] = 0.3  # all others are zero
    audio[1] = np.random.default_rng(0).standard_normal(8000)
    audio[3] = 1e-45  # the least there is; the gain must not overflow
    gain = reference_gain(audio)
    assert gain[0, 0] * 0.3 == pytest.approx(REFERENCE_RMS)
    power = np.square(audio[1], dtype=np.float64)
    loud = power > power.mean()
    assert np.sqrt((power[loud] * gain[1] ** 2).mean()) == pytest.approx(REFERENCE_RMS)
    assert gain[2] == 1
    assert np.isfinite(gain.astype(np.float32)).all()
    long = np.tile(audio, (1, 100))
    assert np.allclose(reference_gain(long), gain, rtol=1e-12)
    assert scan(Averaging(level=True), np.array_split(audio, 7, axis=1)).gain == pytest.approx(gain, rel=1e-12)
