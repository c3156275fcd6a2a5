"""Mixtures at 48 kHz as energies of bands, of which `high_band.py` trains the gains above 8 kHz."""

import math
import zlib
from pathlib import Path

import numpy as np
import soundfile
import soxr

from modelscope_ext import Denoiser
from modelscope_ext.audio import StreamResampler
from modelscope_ext.inference.band_gains import HIGH, LOW
from modelscope_ext.inference.full_band import HighBand

RATE, SECONDS, FRAMES = 48000, 6, 750
#: Beginnings of the names of voices, and the share of noise files, that validate.
HELD_VOICES, HELD_NOISE = ("Darshan_Soni", "kalaasi", "ukrainian", "nepalese"), 6
#: Energies of a mixture: parts of its columns; see `energies`.
COLUMNS = {
    "speech": 8,
    "noise": 8,
    "mixture": 8,
    "before": 6,
    "after": 6,
    "ideal": 6,
    "half": 6,
    "limited": 6,
    "all": 1,
}


class Recorder:
    """Keeps the energies that a `HighBand` gives to its gains."""

    def update(self, energies: np.ndarray) -> np.ndarray:
        self.seen = tuple(np.split(energies[0, :FRAMES], (HIGH, HIGH + LOW), 1))
        return np.ones_like(energies[..., :HIGH])


class Corpora:
    """Training or validation files of DATA/speech48 and DATA/noise48, apart by voice and by file."""

    def __init__(self, data: Path, valid: bool) -> None:
        speech = [p for p in sorted((data / "speech48").rglob("*.*")) if p.name.startswith(HELD_VOICES) == valid]
        held = {
            p: zlib.crc32(f"{p.name}{p.parent.name}".encode()) % HELD_NOISE == 0
            for p in (data / "noise48").rglob("*.*")
        }
        self.noises = sorted(path for path, is_held in held.items() if is_held == valid)
        voices: dict[tuple[str, str], list[Path]] = {}
        for path in speech:
            voices.setdefault((path.parent.name, path.name.split("_")[0]), []).append(path)
        self.voices = [voices[key] for key in sorted(voices)]
        weights = np.minimum([len(paths) for paths in self.voices], 12)
        self.shares = weights / weights.sum()
        self.read: dict[Path, np.ndarray] = {}

    def audio(self, path: Path) -> np.ndarray:
        if path not in self.read:
            audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
            self.read[path] = soxr.resample(audio[:, 0], rate, RATE)
        return self.read[path]

    def noise(self, rng: np.random.Generator) -> np.ndarray:
        return self.audio(self.noises[rng.integers(len(self.noises))])


def talk(corpora: Corpora, rng: np.random.Generator) -> np.ndarray:
    """Return pieces of a voice with pauses, half of them at another speed, some in a room."""
    voice, length = corpora.voices[rng.choice(len(corpora.voices), p=corpora.shares)], SECONDS * RATE
    out = np.zeros(length, np.float32)
    at = int(rng.integers(0, RATE) if rng.random() < 0.4 else 0)
    while at < length:
        audio = corpora.audio(voice[rng.integers(len(voice))])
        start = int(rng.integers(0, max(1, len(audio) - 2 * RATE)))
        piece = audio[start : start + int(rng.uniform(1, 5) * RATE)].copy()
        fade = min(480, len(piece) // 2)
        piece[:fade] *= np.linspace(0, 1, fade)
        piece[len(piece) - fade :] *= np.linspace(1, 0, fade)
        out[at : at + len(piece)] = piece[: length - at]
        at += len(piece[: length - at]) + int(rng.uniform(0.1, 1.2) * RATE if rng.random() < 0.5 else 0)
    if rng.random() < 0.5:
        out = soxr.resample(out, RATE, RATE * rng.uniform(0.9, 1.1))
        out = out[:length] if len(out) >= length else np.pad(out, (0, length - len(out)))
    if rng.random() < 0.15:
        times = np.arange(int(0.3 * RATE)) / RATE
        room = rng.standard_normal(len(times)) * 10 ** (-3 * times / rng.uniform(0.1, 0.35))
        room[:48] = 0
        room = room * rng.uniform(0.02, 0.15)
        room[0] = 1
        out = np.fft.irfft(np.fft.rfft(out, 2 * length) * np.fft.rfft(room, 2 * length), 2 * length)[:length]
    return out


def hiss(rng: np.random.Generator, length: int) -> np.ndarray:
    """Return noise of a random slope, some of it at a changing level; mean power 1."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    noise = np.fft.irfft(spectrum / np.arange(1, len(spectrum) + 1) ** rng.uniform(0, 0.7), length)
    if rng.random() < 0.3:
        knots = rng.integers(3, 12)
        levels = np.interp(np.arange(length), np.linspace(0, length, knots), rng.uniform(-10, 6, knots))
        noise *= 10 ** (levels / 20)
    return noise / np.sqrt(np.square(noise).mean() + 1e-12)


def surroundings(corpora: Corpora, rng: np.random.Generator) -> np.ndarray:
    """Return recorded noise, or two, or some with hiss."""
    length, audio = SECONDS * RATE, corpora.noise(rng)
    if rng.random() < 0.5 and len(audio) > 2 * RATE:
        audio = audio[int(rng.integers(0, len(audio))) :]
    noise = np.resize(audio, length).astype(float)
    if rng.random() < 0.25:
        other = np.resize(corpora.noise(rng), length)
        level = np.sqrt(np.square(noise).mean() / (np.square(other).mean() + 1e-12))
        noise = noise + other * level * 10 ** rng.uniform(-0.7, 0)
    if rng.random() < 0.35:
        noise = noise + hiss(rng, length) * np.sqrt(np.square(noise).mean()) * 10 ** rng.uniform(-1.25, 0)
    return noise


def mixture(corpora: Corpora, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return speech and noise, (N,) float32; one of them may be silent."""
    speech, kind = talk(corpora, rng), rng.random()
    noise = np.zeros(len(speech))
    if kind >= 0.08:
        noise = surroundings(corpora, rng) if kind < 0.63 else hiss(rng, len(speech))
    loud = np.abs(speech) > 1e-3 * np.abs(speech).max()
    snr_db = rng.uniform(0, 17) if rng.random() < 0.75 else rng.uniform(-8, 35)
    power = np.square(speech[loud]).mean() / (np.square(noise).mean() + 1e-12) / 10 ** (snr_db / 10)
    noise = noise * math.sqrt(power)
    if rng.random() < 0.05:
        speech = speech * 0
    gain = 10 ** (rng.uniform(-20, 0) / 20) * 0.9 / max(1e-3, np.abs(speech + noise).max())
    return np.float32(speech * gain), np.float32(noise * gain)


def energies(denoiser: Denoiser, speech: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return the energies (T, `COLUMNS`) of a mixture by frames.

    The network's output comes in four kinds, so that the gains suit other networks than this one: its own, the clean
    speech, the mean of both, and its own with a limit of 26 dB.
    """
    mixed = speech + noise
    before, clean = (_resampled(audio) for audio in (mixed, speech))
    stream = denoiser.stream(16000)
    own = np.concatenate((stream.feed(before), stream.flush()))
    parts = [
        _recorded(audio, before, after)
        for audio, after in (
            (speech, own),
            (noise, clean),
            (mixed, (own + clean) / 2),
            (mixed, 0.95 * own + 0.05 * before),
        )
    ]
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(speech, RATE // 125), 2 * RATE // 125)[:: RATE // 125]
    high, after = [part[0] for part in parts[:3]], [part[2] for part in parts]
    return np.concatenate((*high, parts[0][1], *after, np.square(frames).mean(1)[:FRAMES, None]), 1)


def _resampled(audio: np.ndarray) -> np.ndarray:
    resampler = StreamResampler(RATE, 16000, 1)
    return np.concatenate((resampler.feed(audio[:, None]), resampler.flush()))[:, 0]


def _recorded(audio: np.ndarray, before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    band = HighBand(RATE, 1)
    band.gains = Recorder()
    band.feed(*(np.pad(each, (0, RATE // 10))[None] for each in (audio, before, after)))
    return band.gains.seen


def prepared(data: Path, folder: Path, count: int, valid: bool) -> np.ndarray:
    """Return the energies (count, T, columns) of mixtures; `folder` keeps them."""
    path = folder / f"{'valid' if valid else 'train'}_{count}.npy"
    if not path.exists():
        corpora, denoiser = Corpora(data, valid), Denoiser(band="speech", attenuation_limit_db=math.inf)
        rngs = [np.random.default_rng([i, 77, valid]) for i in range(count)]
        np.save(path, [energies(denoiser, *mixture(corpora, rng)) for rng in rngs])
    return np.load(path)
