"""Metrics of the embedded model (or another) on pairs, as a Markdown table.

    python benchmarks/quality.py --data-dir DATA [--model FOLDER] [--count 200]

Two sets: speech x noise of the validation folders, mixed with a fixed seed at -5 … 15 dB, and the recorded pairs in
`DATA/pairs` (`noisy` against `clean`). Neither is ever trained on.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from modelscope_ext import Denoiser, metrics
from modelscope_ext.audio import audio_files, read_mono
from modelscope_ext.data.corpus import load_corpus
from modelscope_ext.data.mixing import validation_pairs

RATE = 16000
COLUMNS = ["WB-PESQ", "NB-PESQ", "STOI %", "SI-SDR dB", "CD dB", "SIG", "BAK", "OVRL", "P.808"]


def scores(estimate: np.ndarray, clean: np.ndarray, dnsmos: bool) -> list[float]:
    """All metrics of one utterance."""
    return [
        metrics.pesq(estimate, clean),
        metrics.pesq(estimate, clean, wide_band=False),
        metrics.stoi(estimate, clean),
        metrics.si_sdr(estimate, clean),
        metrics.cepstral_distance(estimate, clean),
        *(metrics.dnsmos(estimate).values() if dnsmos else ()),
    ]


def streamed(denoiser: Denoiser, noisy: np.ndarray) -> np.ndarray:
    """As live audio, which has no beginning to hear before it begins."""
    stream = denoiser.stream(RATE)
    return np.concatenate((stream.feed(noisy), stream.flush()))


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
    parser.add_argument("--model", help="a model folder instead of the embedded model")
    parser.add_argument("--count", type=int, default=100, help="pairs to mix [100]")
    parser.add_argument("--dnsmos", action="store_true", help="of the mixtures too, which takes many minutes")
    args = parser.parse_args()
    torch.set_num_threads(1)

    limited = Denoiser(args.model)
    systems = {"noisy": lambda noisy: noisy, "ours": lambda noisy: limited(noisy, RATE)}
    if limited.noisy_share:
        full = Denoiser(args.model, attenuation_limit_db=np.inf)
        systems["ours, no attenuation limit"] = lambda noisy: full(noisy, RATE)
    if limited.engine.causal:
        systems["ours, as a stream"] = lambda noisy: streamed(limited, noisy)
    with tempfile.TemporaryDirectory() as cache:
        speech, noise = (load_corpus(args.data_dir / name, cache) for name in ("valid_speech", "valid_noise"))
        mixed = validation_pairs(speech, noise, args.count, seed=2026)
    table("Validation speech × noise, seed 2026", mixed, systems, args.dnsmos)

    folder = args.data_dir / "pairs"
    names = [path.relative_to(folder / "noisy") for path in audio_files(folder / "noisy")]
    recorded = [tuple(read_mono(folder / side / name, RATE) for side in ("noisy", "clean")) for name in names]
    table("Recorded pairs (VoiceBank+DEMAND)", recorded, systems, True)


if __name__ == "__main__":
    main()
