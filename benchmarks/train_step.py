"""Time a training step of FRCRN, ours and ModelScope's class in turn in one process. Prints Markdown.

    python benchmarks/train_step.py [--batch 2] [--seconds 1] [--rounds 3] [--device cpu]

A step is forward, loss, backward, clipping and Adam.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from modelscope.models.audio.ans.frcrn import FRCRNDecorator

import modelscope_ext  # noqa: F401
from modelscope_ext.checkpoint import load_model, save_released
from modelscope_ext.plugin.model import FrcrnModel
from modelscope_ext.training.config import SegmentConfig
from modelscope_ext.training.loop import TrainingLoop
from modelscope_ext.training.segments import SegmentRecipe

ROOT = Path(__file__).parent.parent


def stock_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: dict) -> float:
    loss = model(batch)["loss"]
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimizer.step()
    return float(loss.detach())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    configuration = json.loads((ROOT / "configuration.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "configuration.json").write_text(json.dumps(configuration))
        torch.manual_seed(0)
        save_released(load_model(folder, need_weights=False), Path(folder) / "pytorch_model.bin")
        options = {key: value for key, value in configuration["model"].items() if key != "type"}
        stock = FRCRNDecorator(folder, **options).train().to(args.device)
        config = replace(SegmentConfig.from_configuration(configuration), checkpoint_seconds=1e9)
        recipe = SegmentRecipe(FrcrnModel(folder), config, Path(folder) / "work", device=args.device, progress=False)
        optimizer = torch.optim.Adam(stock.parameters(), **config.optimizer_options)
        clean = torch.randn(args.batch, round(args.seconds * 16000)) / 10
        batch = {"noisy": clean + torch.randn_like(clean) / 20, "clean": clean}
        on_device = {name: value.to(args.device) for name, value in batch.items()}
        took: dict[str, list[float]] = {"stock": [], "ours": []}

        def batches(start: int, stop: int) -> Iterator[dict]:
            """Yield the batch for our loop; time the step of the stock class, then ours."""
            recipe.net.train()
            for turn in range(args.rounds + 1):
                begun = time.perf_counter()
                loss = stock_step(stock, optimizer, on_device)
                between = time.perf_counter()
                yield batch
                if turn:  # the first ones warm up
                    took["stock"].append(between - begun)
                    took["ours"].append(time.perf_counter() - between)
                else:
                    print(f"stock: loss of the first step {loss:.6f}")

        recipe.batches = batches
        loop = TrainingLoop(recipe)
        loop.run()
        print(f"ours:  loss of the first step {loop.window[0]['loss']:.6f}")
    medians = {name: statistics.median(values) for name, values in took.items()}
    print(
        f"\n| {args.batch} x {args.seconds} s, {args.device}, {args.threads} threads | s a step | ratio |\n"
        "|---|---|---|"
    )
    print(f"| stock | {medians['stock']:.2f} | 1 |")
    print(f"| ours | {medians['ours']:.2f} | {medians['stock'] / medians['ours']:.2f} |")


if __name__ == "__main__":
    main()
