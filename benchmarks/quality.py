"""Print metrics of a model on pairs as a Markdown table.

    python benchmarks/quality.py --data-dir DATA [--model FOLDER] [--count 200] [--degraded]

There are two sets: mixtures of validation speech and noise at -5 … 15 dB with a fixed seed, and the recorded pairs in
`DATA/pairs` (`noisy` against `clean`). No model is trained on them. --degraded adds the recorded pairs after clipping,
coding or a narrow band on both sides.
"""

import argparse
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from tqdm import tqdm

from modelscope_ext import Denoiser, metrics
from modelscope_ext.audio import audio_files, read_mono, resample
from modelscope_ext.data.corpus import load_corpus
from modelscope_ext.data.mixing import validation_pairs

RATE = 16000
COLUMNS = ["WB-PESQ", "NB-PESQ", "STOI %", "SI-SDR dB", "CD dB", "SIG", "BAK", "OVRL", "P.808"]


def scores(estimate: np.ndarray, clean: np.ndarray, dnsmos: bool) -> list[float]:
    """Return all metrics of one utterance."""
    return [
        metrics.pesq(estimate, clean),
        metrics.pesq(estimate, clean, wide_band=False),
        metrics.stoi(estimate, clean),
        metrics.si_sdr(estimate, clean),
        metrics.cepstral_distance(estimate, clean),
        *(metrics.dnsmos(estimate).values() if dnsmos else ()),
    ]


def streamed(denoiser: Denoiser, noisy: np.ndarray) -> np.ndarray:
    """Denoise as a stream, without warm-up."""
    stream = denoiser.stream(RATE)
    return np.concatenate((stream.feed(noisy), stream.flush()))


def clipped(audio: np.ndarray, above_db: float) -> np.ndarray:
    """Clip at `above_db` above the root mean square."""
    peak = np.sqrt(np.square(audio).mean()) * 10 ** (above_db / 20)
    return audio.clip(-peak, peak)


def coded(audio: np.ndarray, format: str, subtype: str, **options: float) -> np.ndarray:
    """Write and read in another format; remove the delay of the coder."""
    file = io.BytesIO()
    soundfile.write(file, audio, RATE, format=format, subtype=subtype, **options)
    file.seek(0)
    out = np.pad(soundfile.read(file, dtype="float32")[0], (0, 8000))
    size = len(out) + len(audio)
    delay = np.fft.irfft(np.fft.rfft(out, size) * np.fft.rfft(audio, size).conj(), size)[:4000].argmax()
    return out[delay : delay + len(audio)]


DEGRADATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "unchanged": lambda audio: audio,
    "clipped 12 dB above its RMS": lambda audio: clipped(audio, 12),
    "clipped 6 dB above its RMS": lambda audio: clipped(audio, 6),
    "MP3, compression level 0.9": lambda audio: coded(audio, "MP3", "MPEG_LAYER_III", compression_level=0.9),
    "Opus, compression level 0.95": lambda audio: coded(audio, "OGG", "OPUS", compression_level=0.95),
    "8 bits, mu-law": lambda audio: coded(audio, "WAV", "ULAW"),
    "8 kHz": lambda audio: resample(resample(audio, RATE, 8000), 8000, RATE)[: len(audio)],
}


def degraded(pairs: list[tuple[np.ndarray, np.ndarray]], denoiser: Denoiser) -> None:
    print("\n| recorded pairs, both sides | WB-PESQ | STOI % | SI-SDR dB | clean side, dB |\n|---|---|---|---|---|")
    for name, degrade in DEGRADATIONS.items():
        rows = []
        for noisy, clean in pairs:
            noisy, clean = degrade(noisy), degrade(clean)
            out = denoiser(noisy, RATE)
            row = [score(x, clean) for score in (metrics.pesq, metrics.stoi, metrics.si_sdr) for x in (noisy, out)]
            rows.append([*row, metrics.si_sdr(denoiser(clean, RATE), clean)])
        found = np.nanmean(rows, 0)
        before_after = " | ".join(f"{a:.2f} → {b:.2f}" for a, b in found[:-1].reshape(3, 2))
        print(f"| {name} | {before_after} | {found[-1]:.1f} |", flush=True)


def table(title: str, pairs: list[tuple[np.ndarray, np.ndarray]], systems: dict[str, Callable], dnsmos: bool) -> None:
    print(f"\n{title} ({len(pairs)} pairs, mean ± 95 % confidence)\n")
    columns = COLUMNS if dnsmos else COLUMNS[:-4]
    print(f"| | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, system in systems.items():
        rows = np.array([scores(system(noisy), clean, dnsmos) for noisy, clean in tqdm(pairs, desc=name, leave=False)])
        mean = np.nanmean(rows, 0)
        spread = 1.96 * np.nanstd(rows, 0, ddof=1) / np.sqrt((~np.isnan(rows)).sum(0))
        print(f"| {name} | {' | '.join(f'{m:.2f} ± {s:.2f}' for m, s in zip(mean, spread, strict=True))} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", help="model folder [the packaged model]")
    parser.add_argument("--count", type=int, default=100, help="number of mixtures [100]")
    parser.add_argument("--degraded", action="store_true", help="also clip, code and narrow the recorded pairs")
    parser.add_argument("--dnsmos", action="store_true", help="also for the mixtures; takes many minutes")
    args = parser.parse_args()
    torch.set_num_threads(1)

    limited = Denoiser(args.model)
    systems = {"noisy": lambda noisy: noisy, "ours": lambda noisy: limited(noisy, RATE)}
    if limited.dry_gain:
        full = Denoiser(args.model, attenuation_limit_db=np.inf)
        systems["ours, no attenuation limit"] = lambda noisy: full(noisy, RATE)
    if limited.backend.causal:
        systems["ours, as a stream"] = lambda noisy: streamed(limited, noisy)
    with tempfile.TemporaryDirectory() as cache:
        speech, noise = (load_corpus(args.data_dir / name, cache) for name in ("valid_speech", "valid_noise"))
        mixed = validation_pairs(speech, noise, args.count, seed=2026)
    table("Validation speech × noise, seed 2026", mixed, systems, args.dnsmos)

    folder = args.data_dir / "pairs"
    names = [path.relative_to(folder / "noisy") for path in audio_files(folder / "noisy")]
    recorded = [tuple(read_mono(folder / side / name, RATE) for side in ("noisy", "clean")) for name in names]
    table("Recorded pairs (VoiceBank+DEMAND)", recorded, systems, True)
    if args.degraded:
        degraded(recorded, limited)


if __name__ == "__main__":
    main()
