"""Signals that the packaged model must preserve: clean speech, pauses, sounds other than speech."""

import numpy as np
import pytest
from conftest import RATE, SHARED

from modelscope_ext import Denoiser
from modelscope_ext.audio import audio_files, read_mono
from modelscope_ext.metrics import si_sdr

FRAME = 800  # 50 ms


def level(audio: np.ndarray) -> np.ndarray:
    """Return the level of each 50-ms frame in dB."""
    frames = audio[: len(audio) // FRAME * FRAME].reshape(-1, FRAME)
    return 10 * np.log10(np.square(frames).mean(1) + 1e-12)


def lost_db(out: np.ndarray, audio: np.ndarray) -> float:
    return -10 * float(np.log10(np.square(out).mean() / np.square(audio).mean()))


@pytest.fixture(scope="module")
def hiss() -> dict[str, np.ndarray]:
    """8 s of white noise and of noise that falls by 3 dB per octave, at -40 dBFS."""
    white = np.random.default_rng(1).standard_normal(8 * RATE)
    spectrum = np.fft.rfft(white)
    pink = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 1), len(white))
    return {name: (noise / noise.std() * 0.01).astype(np.float32) for name, noise in (("white", white), ("pink", pink))}


def test_clean_speech_is_preserved(denoiser, clean):
    out = denoiser(clean, RATE)
    assert si_sdr(out, clean) > 25
    assert abs(lost_db(out, clean)) < 0.1


@pytest.mark.shared
def test_clean_recordings_are_preserved(denoiser):
    found = []
    for path in audio_files(SHARED / "data" / "pairs" / "clean"):
        audio = read_mono(path, RATE)
        out = denoiser(audio, RATE)
        found.append((si_sdr(out, audio), lost_db(out, audio)))
    distance, lost = np.mean(found, 0)
    assert distance > 25
    assert abs(lost) < 0.1


@pytest.mark.parametrize("colour", ["white", "pink"])
def test_noise_between_words_does_not_pump(denoiser, clean, hiss, colour):
    """In the pauses the output is far softer also where a word dies away, and its level deviates downwards only.

    From 32 to 42 dB the level deviates more (1.8 to 3.2 dB in white noise), since quiet frames get softer. The loud
    ones, which are heard, do not get louder: they stay 25 dB and more below the noise.
    """
    noisy = clean * 0.5 + np.resize(hiss[colour], len(clean))
    pauses = level(clean) < -60
    before, after = level(noisy)[pauses], level(denoiser(noisy, RATE))[pauses]
    steadier = level(Denoiser(attenuation_limit_db=32)(noisy, RATE))[pauses]
    assert pauses.sum() > 20
    assert after.mean() < before.mean() - 31
    assert np.quantile(after, 0.95) < before.mean() - 24
    assert after.std() < before.std() + 3.5
    for share in (0.5, 0.95, 1):
        assert np.quantile(after, share) < np.quantile(steadier, share)


@pytest.mark.parametrize("colour", ["white", "pink"])
def test_noise_alone_is_lowered_by_40_db(denoiser, hiss, colour):
    assert lost_db(denoiser(hiss[colour], RATE)[RATE:], hiss[colour][RATE:]) > 40


@pytest.mark.parametrize("colour", ["white", "pink"])
def test_residual_noise_is_not_musical(denoiser, hiss, colour):
    """Noise without isolated peaks has a kurtosis ratio near one (Uemura et al., IWAENC 2008)."""

    def kurtosis(audio: np.ndarray) -> float:
        power = np.abs(np.fft.rfft(audio.reshape(-1, 320) * np.hanning(320))) ** 2
        return float(np.mean(np.square(power).mean(0) / np.square(power.mean(0))))

    out, noise = (audio[RATE:] for audio in (denoiser(hiss[colour], RATE), hiss[colour]))
    assert 0.9 < kurtosis(out) / kurtosis(noise) < 1.2


def test_music_gets_softer_without_added_components(denoiser):
    """For four chords below 2.6 kHz no frame grows, and nothing appears above 4 kHz."""
    time = np.arange(2 * RATE) / RATE
    chords = [
        sum(np.sin(2 * np.pi * root * third * n * time) / n for third in (1, 1.26, 1.5) for n in range(1, 6))
        * np.minimum(1, time / 0.02)
        * np.exp(-time)
        for root in (220, 261.6, 329.6, 196)
    ]
    music = (np.concatenate(chords) * 0.05).astype(np.float32)
    out = denoiser(music, RATE)
    assert (level(out) - level(music)).max() < 0.5

    def above(audio: np.ndarray, hz: float) -> float:
        power = np.abs(np.fft.rfft(audio * np.hanning(len(audio)))) ** 2
        return float(power[round(hz * len(audio) / RATE) :].sum() / power.sum())

    assert above(out, 4000) < above(music, 4000) + 1e-4
