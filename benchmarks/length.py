"""Measure time and memory for lengths of a file, each in its own process. Prints Markdown, draws a PNG.

    python benchmarks/length.py [--model FOLDER] [--seconds 10 60 600] [--picture length.png]
    python benchmarks/length.py --model FRCRN_FOLDER --seconds 600 10800 --chunks 3

Peak memory is the largest resident set of the process minus that after loading the model. With `--chunks` the network
is called that often, for one or two chunks of 15 s, and the other chunks pass: the memory of hours, in minutes.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RATE = 16000


def one(model: str | None, seconds: float, chunks: int | None) -> None:
    """Denoise one file; print seconds and megabytes."""
    import numpy as np
    import soundfile

    from modelscope_ext import Denoiser

    denoiser = Denoiser(model)
    if chunks is not None:
        network, left = denoiser.backend.enhance, iter(range(chunks))
        denoiser.backend.enhance = lambda audio, *more: (
            (audio, None) if next(left, None) is None else network(audio, *more)
        )
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "noisy.wav", Path(folder) / "denoised.wav"
        rng, left = np.random.default_rng(0), round(seconds * RATE)
        with soundfile.SoundFile(source, "w", RATE, 1, "PCM_16") as file:
            while left > 0:
                file.write(rng.standard_normal(min(left, 10 * RATE)) * 0.05)
                left -= 10 * RATE
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        denoiser.file(source, target)
        took = time.perf_counter() - start
        assert soundfile.info(target).frames == round(seconds * RATE)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": took, "megabytes": (peak - before) / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model folder or an ONNX file [the default model]")
    parser.add_argument("--seconds", type=float, nargs="+", default=[10, 60, 600])
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--chunks", type=int, help="number of calls of a network for whole utterances [all]")
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return one(args.model, args.one, args.chunks)
    print("| length, s | took, s | a second of audio, s | peak memory, MB |\n|---|---|---|---|")
    rows = []
    for seconds in args.seconds:
        line = [sys.executable, __file__, "--one", str(seconds), *(["--model", args.model] if args.model else [])]
        line += ["--chunks", str(args.chunks)] if args.chunks is not None else []
        env = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        found = json.loads(subprocess.run(line, env=env, check=True, capture_output=True, text=True).stdout)
        rows.append((seconds, found["seconds"], found["megabytes"]))
        print(
            f"| {seconds:g} | {found['seconds']:.1f} | {found['seconds'] / seconds:.3f} | {found['megabytes']:.0f} |",
            flush=True,
        )
    if args.picture:
        draw(rows, args.picture)


def draw(rows: list[tuple[float, float, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), dpi=110, layout="constrained")
    for axis, column, name in zip(figure.subplots(1, 2), (1, 2), ("took, s", "peak memory, MB"), strict=True):
        axis.plot([row[0] for row in rows], [row[column] for row in rows], "o-")
        axis.set(xscale="log", xlabel="length, s", ylabel=name)
        axis.set(**({"yscale": "log"} if column == 1 else {"ylim": (0, None)}))
        axis.grid(alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    main()
