"""Signals that the packaged model must preserve: clean speech, pauses, sounds other than speech."""

import numpy as np
import pytest
from conftest import RATE, SHARED

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
    """In the pauses the output is nearly as steady as the input, and far softer also where a word dies away.

    With 40 dB of attenuation instead of 32 the level deviates by 5 dB. From 20 dB down the difference between
    2.5 dB and the input's 0.2 dB is far below the speech.
    """
    noisy = clean * 0.5 + np.resize(hiss[colour], len(clean))
    pauses = level(clean) < -60
    before, after = level(noisy)[pauses], level(denoiser(noisy, RATE))[pauses]
    assert pauses.sum() > 20
    assert after.mean() < before.mean() - 25
    assert np.quantile(after, 0.95) < before.mean() - 20
    assert after.std() < before.std() + 2.5


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
