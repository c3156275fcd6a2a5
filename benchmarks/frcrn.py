"""Compare FRCRN with ModelScope's stock classes, interleaved in one process. Prints Markdown.

    python benchmarks/frcrn.py [--seconds 5] [--threads 1 2] [--rounds 3] [--device cuda]

The weights are random; the cost is the same. Network: from samples to samples. Pipeline: from a wav file to 16-bit PCM;
the stock one pads. Figures depend on the machine: look at the ratios, with nothing else running. On a GPU it compares
the networks: ours in 32 bits, and as in `Denoiser`.
"""

import modelscope_ext  # noqa: F401, I001 (before torch: it shortens how long threads spin, for both)

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from modelscope.models.audio.ans.frcrn import FRCRNDecorator
from modelscope.pipelines.audio.ans_pipeline import ANSPipeline as StockPipeline

from modelscope_ext.checkpoint import load_model, save_released
from modelscope_ext.inference.torch_backend import TorchBackend
from modelscope_ext.plugin.pipeline import NoiseSuppressionPipeline

ROOT = Path(__file__).parent.parent
RATE = 16000


def silent(work: Callable[[], object]) -> object:
    """Run without the output of the stock classes."""
    with contextlib.redirect_stdout(io.StringIO()):
        return work()


def compare(name: str, works: dict[str, Callable], given: object, short: object, rounds: int) -> None:
    """Time each work on `given` in turn, after a run on `short`."""
    took: dict[str, list[float]] = {key: [] for key in works}
    for work in works.values():
        silent(lambda work=work: work(short))
    for _ in range(rounds):
        for key, work in works.items():
            start = time.perf_counter()
            silent(lambda work=work: work(given))
            took[key].append(time.perf_counter() - start)
    stock, ours = (sorted(took[key]) for key in ("stock", "ours"))
    ratios = sorted(s / o for s, o in zip(took["stock"], took["ours"], strict=True))
    print(
        f"| {name} | {stock[0]:.2f} | {ours[0]:.2f} | {stock[0] / ours[0]:.2f} | {ratios[0]:.2f} … {ratios[-1]:.2f} |"
    )


def on_gpu(stock: torch.nn.Module, net: torch.nn.Module, audio: torch.Tensor, rounds: int) -> None:
    backend, device = TorchBackend(net), net.window.device

    def on_its_device(work: Callable[[torch.Tensor], torch.Tensor | list]) -> Callable[[torch.Tensor], object]:
        def called(audio: torch.Tensor) -> None:
            with torch.inference_mode():
                work(audio.to(device))
                torch.cuda.synchronize(device)

        return called

    for name, ours in {
        "network, 32 bits": on_its_device(net.enhance),
        "network, as in `Denoiser`": lambda audio: backend.enhance(audio.numpy()),
    }.items():
        compare(name, {"stock": on_its_device(stock), "ours": ours}, audio, audio, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    configuration = json.loads((ROOT / "configuration.json").read_text())
    options = {key: value for key, value in configuration["model"].items() if key != "type"}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "configuration.json").write_text(json.dumps(configuration))
        torch.manual_seed(0)
        save_released(load_model(folder, need_weights=False), Path(folder) / "pytorch_model.bin")
        audio = np.random.default_rng(0).standard_normal(round(args.seconds * RATE)).astype(np.float32) * 0.05
        wav, short = str(Path(folder) / "noisy.wav"), str(Path(folder) / "short.wav")
        soundfile.write(wav, audio, RATE)
        soundfile.write(short, audio[: 2 * RATE], RATE)
        stock = silent(lambda: FRCRNDecorator(folder, **options).eval())
        pipelines = {
            "stock": StockPipeline(model=stock, preprocessor=lambda x: x),
            "ours": NoiseSuppressionPipeline(model=folder),
        }
        ours = load_model(folder)
        batch = torch.from_numpy(audio)[None]
        title = f"{args.seconds:g} s, {args.device}"
        print(f"| {title} | stock, s | ours, s | ratio of the fastest | of each round |\n|---|---|---|---|---|")
        if args.device != "cpu":
            on_gpu(stock.model.to(args.device), ours.to(args.device), batch, args.rounds)
            return
        for threads in args.threads:
            torch.set_num_threads(threads)
            if args.seconds < 60:
                with torch.inference_mode():
                    works = {"stock": stock.model, "ours": ours.enhance}
                    compare(f"network, {threads} threads", works, batch, batch[:, : 2 * RATE], args.rounds)
            compare(f"pipeline, {threads} threads", pipelines, wav, short, args.rounds)


if __name__ == "__main__":
    main()
