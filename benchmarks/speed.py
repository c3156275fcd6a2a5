"""Measure real-time factors, milliseconds a frame of streams by each back end and the start of the command; Markdown.

    python benchmarks/speed.py [--seconds 60]
    python benchmarks/speed.py --frcrn …    # FRCRN beside the stock pipeline: benchmarks/frcrn.py, and its options

Figures depend on the machine: compare only those of one run, with nothing else running.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from published import PUBLISHED, published_macs

from modelscope_ext import Denoiser
from modelscope_ext.checkpoint import load_model
from modelscope_ext.export import export_onnx
from modelscope_ext.inference.backend import Backend
from modelscope_ext.models import build
from modelscope_ext.models.cruse.network import Cruse, CruseState
from modelscope_ext.pretrained import DEFAULT

RATE = 16000
EXAMPLE = Path(__file__).parent.parent / "examples" / "noisy.wav"


def timed(work, repeats: int = 3) -> float:
    """Return seconds of the fastest run: disturbances only make runs slower."""
    runs = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        runs.append(time.perf_counter() - start)
    return min(runs)


def files(denoisers: dict[str, Denoiser], seconds: int) -> None:
    print(f"\n| {seconds} s of audio: real-time factor, 1 thread | 16 kHz | 48 kHz |\n|---|---|---|")
    rng = np.random.default_rng(0)
    audio = {rate: (rng.standard_normal(seconds * rate) * 0.1).astype(np.float32) for rate in (16000, 48000)}
    for name, denoiser in denoisers.items():
        cells = [timed(lambda: denoiser(audio[rate], rate)) / seconds for rate in audio]  # noqa: B023 (called at once)
        print(f"| {name} | {' | '.join(f'{cell:.4f}' for cell in cells)} |")


def percentiles(work: Callable[[np.ndarray], object], chunks: np.ndarray) -> str:
    """Return milliseconds a call as cells of a table, without the first hundred calls."""
    took = []
    for chunk in chunks:
        start = time.perf_counter()
        work(chunk)
        took.append(1000 * (time.perf_counter() - start))
    took = sorted(took[100:])
    return " | ".join(f"{took[int(share * len(took))]:.3f}" for share in (0.5, 0.95, 0.999))


def frames(title: str, net: Cruse, denoisers: dict[str, Denoiser]) -> None:
    """Time frames: each chunk is a hop."""
    print(
        f"\n| {title}, {1000 * net.hop / RATE:g}-ms frames, 1 thread | median ms | 95 % | 99.9 % |\n|---|---|---|---|"
    )
    rng = np.random.default_rng(0)
    for rate in (16000, 48000):
        chunks = (rng.standard_normal((3000, net.hop * rate // RATE)) * 0.1).astype(np.float32)
        for name, denoiser in denoisers.items():
            if denoiser.backend.causal:
                print(f"| {name}: stream at {rate // 1000} kHz | {percentiles(denoiser.stream(rate).feed, chunks)} |")
    # The network alone.
    chunks = (rng.standard_normal((3000, 1, net.hop)) * 0.1).astype(np.float32)
    for name, denoiser in denoisers.items():
        if denoiser.backend.causal:
            print(f"| {name}: network alone | {percentiles(stepper(denoiser.backend), chunks)} |")
    for name, step in compiled_steps(net).items():
        print(f"| {name}: network alone | {percentiles(step, chunks)} |")


def stepper(backend: Backend) -> Callable[[np.ndarray], np.ndarray]:
    state = None

    def step(audio: np.ndarray) -> np.ndarray:
        nonlocal state
        out, state = backend.feed(audio, state)
        return out

    return step


class Flat(torch.nn.Module):
    """A step of a CRUSE with one layer of GRUs; its state is plain arguments and results."""

    def __init__(self, net: Cruse) -> None:
        super().__init__()
        self.net, self.depth = net, net.config.layers

    def forward(self, audio, waiting, tail, *rest):
        caches = rest[: self.depth], rest[self.depth : -1]
        out, state = self.net(audio, CruseState(waiting, tail, *caches, rest[-1:]))
        return out, state.audio, state.tail, *state.encoder, *state.decoder, *state.rnn


def compiled_steps(net: Cruse) -> dict[str, Callable[[np.ndarray], object]]:
    """Return steps that PyTorch itself makes faster."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        audio = torch.zeros(1, net.hop)
        _, state = net(audio, net(audio)[1])
        arguments = [state.audio, state.tail, *state.encoder, *state.decoder, *state.rnn]
        frozen = torch.jit.freeze(torch.jit.trace(Flat(net).eval(), (audio, *arguments), check_trace=False))
        steps = {
            "PyTorch, traced and frozen": frozen,
            "PyTorch, torch.compile": torch.compile(Flat(net).eval(), dynamic=False),
        }

    def with_state(step):
        state = arguments

        def call(audio: np.ndarray) -> np.ndarray:
            nonlocal state
            with torch.no_grad():
                out, *state = step(torch.from_numpy(audio), *state)
            return out.numpy()

        return call

    return {name: with_state(step) for name, step in steps.items()}


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
        formula = published_macs(name) / 1e6
        print(f"| {name} | {parameters:.2f} | {net.macs_per_frame() / 1e6:.2f} | {formula:.2f} | {printed} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    if sys.argv[1:2] == ["--frcrn"]:
        sys.exit(subprocess.run([sys.executable, Path(__file__).with_name("frcrn.py"), *sys.argv[2:]]).returncode)
    args = parser.parse_args()
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}")
    variants()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    net, published = load_model(DEFAULT), build("CRUSE4-64-1xGRU4", mask="complex", batch_norm=False).eval()
    denoisers = back_ends(net)
    files(denoisers, args.seconds)
    frames("the default model", net, denoisers)
    frames("CRUSE4-64-1xGRU4 with the paper's windows", published, back_ends(published))
    command()


def back_ends(net: Cruse) -> dict[str, Denoiser]:
    with tempfile.TemporaryDirectory() as folder:
        path, found = Path(folder) / "net.onnx", {"PyTorch": Denoiser(net)}
        for name, options in {
            "onnxruntime, step": {},
            "onnxruntime, step in 8 bits": {"int8": True},
            "onnxruntime, utterance": {"utterance": True},
        }.items():
            export_onnx(net, path, **options)
            found[name] = Denoiser(path)
        return found | {"OpenVINO, utterance": Denoiser(path, device="openvino")}


if __name__ == "__main__":
    main()
