"""How fast: real-time factor, milliseconds a frame in a stream, start of the command. Prints Markdown.

    python benchmarks/speed.py [--seconds 60]

The machine decides the figures; compare only what one run prints. Set nothing else to work meanwhile.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from modelscope_ext import Denoiser
from modelscope_ext.models import build
from modelscope_ext.models.cruse import PUBLISHED, CruseConfig, published_macs

RATE = 16000
EXAMPLE = Path(__file__).parent.parent / "examples" / "noisy.wav"


def timed(work, repeats: int = 3) -> float:
    """Seconds of the fastest run: what disturbs a run only makes it slower."""
    runs = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        runs.append(time.perf_counter() - start)
    return min(runs)


def files(denoiser: Denoiser, seconds: int) -> None:
    print(f"\n| {seconds} s of audio | 1 thread | 2 threads |\n|---|---|---|")
    rng = np.random.default_rng(0)
    for rate in (16000, 48000):
        audio = (rng.standard_normal(seconds * rate) * 0.1).astype(np.float32)
        cells = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            cells.append(f"{timed(lambda: denoiser(audio, rate)) / seconds:.4f}")  # noqa: B023 (called at once)
        print(f"| real-time factor at {rate // 1000} kHz | {' | '.join(cells)} |")


def frames(denoiser: Denoiser) -> None:
    torch.set_num_threads(1)
    print("\n| stream, 10-ms chunks, 1 thread | median ms | 95 % | 99.9 % |\n|---|---|---|---|")
    rng = np.random.default_rng(0)
    for rate in (16000, 48000):
        stream, size = denoiser.stream(rate), rate // 100
        chunks = (rng.standard_normal((3000, size)) * 0.1).astype(np.float32)
        took = []
        for chunk in chunks:
            start = time.perf_counter()
            stream.feed(chunk)
            took.append(1000 * (time.perf_counter() - start))
        took = sorted(took[100:])
        cells = [statistics.median(took), took[int(0.95 * len(took))], took[int(0.999 * len(took))]]
        print(f"| {rate // 1000} kHz | {' | '.join(f'{cell:.2f}' for cell in cells)} |")


def command() -> None:
    print("\n| command | seconds |\n|---|---|")
    with tempfile.TemporaryDirectory() as out:
        for arguments in (["--version"], ["denoise", "-q", str(EXAMPLE), "-o", out]):
            line = [sys.executable, "-m", "modelscope_ext", *arguments]
            took = timed(lambda: subprocess.run(line, check=True, stdout=subprocess.DEVNULL))  # noqa: B023
            print(f"| `modelscope-ext {arguments[0]}` | {took:.2f} |")


def variants() -> None:
    print("\n| variant | parameters, M | MACs a frame, M: honest | by the paper's formula | as printed in the paper |")
    print("|---|---|---|---|---|")
    for name, printed in PUBLISHED.items():
        net = build(name)
        parameters = sum(p.numel() for p in net.parameters()) / 1e6
        formula = published_macs(CruseConfig.from_name(name)) / 1e6
        print(f"| {name} | {parameters:.2f} | {net.macs_per_frame() / 1e6:.2f} | {formula:.2f} | {printed} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    args = parser.parse_args()
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}")
    variants()
    denoiser = Denoiser()
    files(denoiser, args.seconds)
    frames(denoiser)
    command()


if __name__ == "__main__":
    main()
