"""Synthetic noise: coloured, rumble, and trains of clicks. Signals are (N,) float32."""

import numpy as np
from scipy.signal import butter, sosfilt


def coloured(rng: np.random.Generator, length: int, exponent: tuple[float, float] = (0.0, 2.0)) -> np.ndarray:
    """Return steady noise with a power spectrum of 1 / f^a; `exponent` is the range of a."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum *= np.arange(1, len(spectrum) + 1) ** (-rng.uniform(*exponent) / 2)  # amplitude: half the exponent
    noise = np.fft.irfft(spectrum, length)
    return (noise / noise.std() * 0.05).astype(np.float32)


def rumble(rng: np.random.Generator, length: int, corner_hz: tuple[float, float], sample_rate: int) -> np.ndarray:
    """Return noise that falls by 6 to 24 dB an octave above a corner and varies by some dB within seconds."""
    corner = np.exp(rng.uniform(*np.log(corner_hz)))
    shape = butter(int(rng.integers(1, 5)), corner, fs=sample_rate, output="sos")
    noise = sosfilt(shape, rng.standard_normal(length))
    turns = np.arange(0, length + 8000, 8000)  # one draw each half second
    swell_db = np.interp(np.arange(length), turns, rng.normal(0, rng.uniform(0, 8), len(turns)))
    return (noise * 10 ** (swell_db / 20)).astype(np.float32)


def click_train(
    rng: np.random.Generator, length: int, sample_rate: int, rate_hz: tuple[float, float] = (0.5, 15.0)
) -> np.ndarray:
    """Return a train of clicks as of keys, switches, steps or faulty contacts.

    The rate is drawn evenly in octaves. A train repeats one to four sounds. Each click has a level of its own.
    """
    rate = np.exp(rng.uniform(*np.log(rate_hz)))
    count = int(np.ceil(length / sample_rate * rate)) + 1
    intervals = (1 + rng.uniform(0, 1) * rng.uniform(-0.9, 0.9, count)) / rate
    first = rng.uniform(0, min(1 / rate, length / sample_rate))
    starts = ((first + np.cumsum(intervals) - intervals[0]) * sample_rate).astype(int)
    starts = starts[starts < length]
    sounds = [_click(rng, sample_rate) for _ in range(rng.integers(1, 5))]
    levels = 10 ** (rng.normal(0, rng.uniform(0, 8), len(starts)) / 20)
    train = np.zeros(length, np.float32)
    for start, level, which in zip(starts, levels, rng.integers(len(sounds), size=len(starts)), strict=True):
        sound = sounds[which][: length - start]
        train[start : start + len(sound)] += np.float32(level) * sound
    return train


def _click(rng: np.random.Generator, sample_rate: int) -> np.ndarray:
    """Return one click with a peak of 0.5: an impulse or decaying resonances with a burst of noise."""
    if rng.random() < 0.2:
        return np.full(rng.integers(1, 6), 0.5, np.float32)
    t60 = np.exp(rng.uniform(*np.log((0.004, 0.12))))
    time = np.arange(int(t60 * sample_rate)) / sample_rate
    click = rng.uniform(0, 1) * rng.standard_normal(len(time)) * np.exp(-6.9 / t60 * rng.uniform(2, 8) * time)
    for _ in range(rng.integers(1, 5)):
        hz = np.exp(rng.uniform(*np.log((150, 0.45 * sample_rate))))
        decay = np.exp(-6.9 / t60 * rng.uniform(1, 3) * time)
        click += rng.uniform(0.2, 1) * decay * np.sin(2 * np.pi * (hz * time + rng.random()))
    return (click * (0.5 / np.abs(click).max())).astype(np.float32)
