"""Train on a pack of `gpu_pack.py` for some seconds and keep what continues it; `gpu_round.sh` calls this."""

import argparse
import logging
import math
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from modelscope_ext.data.corpus import load_corpus
from modelscope_ext.training.config import TrainConfig, load_config
from modelscope_ext.training.distributed import alone_at_work
from modelscope_ext.training.loop import TrainingLoop
from modelscope_ext.training.mixtures import MixtureRecipe

PART = 16_000_000  # bytes of a file that comes back
PARTS = 4  # of a call; each ends with a validation and a new estimate of the steps that are left


class Round(MixtureRecipe):
    """A training on mixtures whose checkpoints are copied out, cut into parts of at most `PART` bytes."""

    out: Path

    def save(self, progress, state) -> None:
        super().save(progress, state)
        for source, target in ((self.work_dir, self.out), (self.work_dir / "best", self.out / "best")):
            target.mkdir(parents=True, exist_ok=True)
            for path in (p for p in source.glob("*") if p.is_file() and p.suffix in (".csv", ".json", ".safetensors")):
                shutil.copy(path, target)
        content = (self.work_dir / "last.pt").read_bytes()
        for i, start in enumerate(range(0, len(content), PART)):
            (self.out / f"last.pt.{i:02d}").write_bytes(content[start : start + PART])


def decode(data: Path, cache: Path, folder: str) -> float:
    """Decode a corpus for the training to find; return its seconds."""
    return load_corpus(data / folder, cache).seconds


def restore(state: Path, work: Path) -> None:
    """Put a checkpoint of another machine into the folder of the run, which has none."""
    parts = sorted(state.glob("last.pt.*"))
    if parts and not (work / "last.pt").exists():
        shutil.copytree(state, work, ignore=shutil.ignore_patterns("last.pt.*"), dirs_exist_ok=True)
        (work / "last.pt").write_bytes(b"".join(part.read_bytes() for part in parts))


def train(loop: TrainingLoop, config: TrainConfig, probe: int, end: float, more_s: float) -> None:
    """Train to the time `end`. The rates fall to their last value then, or `more_s` seconds of training later."""

    def run(planned: int, steps: int) -> tuple[float, float]:
        """Train some of the planned steps; return the seconds a step, and those of the validation and the start."""
        loop.config = loop.recipe.config = replace(config, steps=loop.done.step + planned)
        begun, trained, last = time.monotonic(), loop.done.seconds, loop.done.step + steps
        loop.run(steps)
        if loop.done.step < last:
            raise SystemExit("stopped by a signal; the checkpoint continues")
        trained = loop.done.seconds - trained
        return trained / steps, time.monotonic() - begun - trained

    planned, done = 10**9, loop.done  # at full rates, but where a call before has shown how long a step takes
    if done.step:
        planned = max(probe, math.ceil((end - time.monotonic() + more_s) * done.step / done.seconds))
    step_s, pause_s = run(planned, probe)
    for part in range(PARTS, 0, -1):
        left = end - time.monotonic() - part * pause_s
        if left > step_s:
            step_s, pause_s = run(math.ceil((left + more_s) / step_s), math.ceil(left / step_s / part))


def main() -> None:
    begun = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="of this call")
    parser.add_argument("--more-seconds", type=float, required=True, help="of calls to come")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--probe", type=int, required=True, help="steps that show how long one takes")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("modelscope_ext.training.mixtures").setLevel(logging.WARNING)  # it would name each corpus again
    config, start = load_config(args.pack / "config.json"), args.pack / "start"
    validation = replace(config.validation, every=10**9)  # but at the end of a part
    config = replace(config, batch=args.batch, workers=args.workers, checkpoint_seconds=60.0, validation=validation)
    config = replace(config, start=str(start) if start.is_dir() else config.start)
    restore(args.pack / "state", args.work_dir)
    folders = [*config.data.speech, *config.data.noise, validation.speech, validation.noise]
    with alone_at_work(args.work_dir):
        with ProcessPoolExecutor(max(1, args.workers)) as pool:
            seconds = sum(pool.map(partial(decode, args.pack / "data", args.work_dir / "cache"), folders))
        logging.info("%.2f h decoded in %.1f s", seconds / 3600, time.monotonic() - begun)
        recipe = Round(config, args.pack / "data", args.work_dir, progress=False)
        recipe.out = args.out
        loop = TrainingLoop(recipe)
        logging.info("%s, batch %d, from step %d", recipe.device, config.batch, loop.done.step)
        train(loop, config, args.probe, begun + args.seconds, args.more_seconds)
        logging.info("done at step %d, %.0f s of training, %s", loop.done.step, loop.done.seconds, recipe.scores)


if __name__ == "__main__":
    main()
