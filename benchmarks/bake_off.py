"""Train variants of a configuration for equal CPU time and score their averaged weights on fixed mixtures.

    python benchmarks/bake_off.py --config C.json --data-dir ../shared/data --work-dir runs/bake \
        --minutes 10 20 30 --variant S='{}' --variant norm='{"model": {"norm": true}}'

Each variant is the configuration with some of its fields replaced. It lives in a folder of its own, and a second call
goes on where the first one stopped. Mixing runs in a worker process and is not counted. Scores are means over
mixtures of held-back speakers and noises, with 95 % confidence intervals of the difference to the first variant.
"""

import argparse
import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import torch

from modelscope_ext import metrics
from modelscope_ext.data.corpus import load_corpus
from modelscope_ext.data.mixing import validation_pairs
from modelscope_ext.training.config import load_config
from modelscope_ext.training.loop import TrainingLoop
from modelscope_ext.training.mixtures import MixtureRecipe

COLUMNS = ("WB-PESQ", "SI-SDR", "STOI", "BAK", "OVRL")


def merged(base: dict, changes: dict) -> dict:
    return {
        **base,
        **{
            key: merged(base.get(key, {}), value) if isinstance(value, dict) else value
            for key, value in changes.items()
        },
    }


def train(loop: TrainingLoop, seconds: float) -> float:
    """Train for so many seconds of CPU time; return how many it took."""
    start, over = time.process_time(), threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            if time.process_time() - start >= seconds:
                os.kill(os.getpid(), signal.SIGTERM)  # the loop finishes its step and saves
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    loop.run()
    over.set()
    watcher.join()
    return time.process_time() - start


@torch.inference_mode()
def score(net: torch.nn.Module, pairs: list) -> np.ndarray:
    """Return one row of `COLUMNS` for each (noisy, clean) pair."""
    net.eval()
    rows = []
    for noisy, clean in pairs:
        out = net.enhance(torch.from_numpy(noisy)[None])[0].numpy()
        quality = metrics.dnsmos(out)
        row = [metric(out, clean) for metric in (metrics.pesq, metrics.si_sdr, metrics.stoi)]
        rows.append([*row, quality["BAK"], quality["OVRL"]])
    return np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--data-dir", required=True, type=Path)
    parser.add_argument("--work-dir", required=True, type=Path)
    parser.add_argument("--variant", action="append", required=True, metavar="NAME=JSON")
    parser.add_argument("--minutes", type=float, nargs="+", required=True, help="of CPU time, when to score")
    parser.add_argument("--count", type=int, default=100, help="mixtures")
    args = parser.parse_args()
    base = json.loads(Path(args.config).read_text())
    base["validation"] |= {"pairs": 1, "every": 10**9}
    cache = args.work_dir / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    folders = [load_corpus(args.data_dir / base["validation"][name], cache) for name in ("speech", "noise")]
    pairs = validation_pairs(*folders, args.count, seed=2021, seconds=5.0)
    for variant in args.variant:
        name, _, changes = variant.partition("=")
        folder = args.work_dir / name
        folder.mkdir(exist_ok=True)
        if not (folder / "cache").exists():
            (folder / "cache").symlink_to(cache.resolve())
        (folder / "config.json").write_text(json.dumps(merged(base, json.loads(changes or "{}"))))
        used = float((folder / "used").read_text()) if (folder / "used").exists() else 0.0
        config = load_config(folder / "config.json")
        loop = TrainingLoop(MixtureRecipe(config, args.data_dir, folder, progress=False))
        for minutes in args.minutes:
            if used >= minutes * 60:
                continue
            used += train(loop, minutes * 60 - used)
            (folder / "used").write_text(str(used))
            rows = score(loop.recipe.average.module, pairs)
            np.save(folder / f"scores_{minutes:g}.npy", rows)
            means = ", ".join(f"{title} {value:.3f}" for title, value in zip(COLUMNS, np.nanmean(rows, 0), strict=True))
            compared = ""
            first = args.work_dir / args.variant[0].partition("=")[0] / f"scores_{minutes:g}.npy"
            if first.exists() and first.parent != folder:
                difference = rows - np.load(first)
                half = 1.96 * np.nanstd(difference, 0) / len(rows) ** 0.5
                compared = "; to the first: " + ", ".join(
                    f"{m:+.3f} ± {h:.3f}" for m, h in zip(np.nanmean(difference, 0), half, strict=True)
                )
            print(f"{name} {minutes:g} min, {loop.done.step} steps: {means}{compared}", flush=True)


if __name__ == "__main__":
    main()
