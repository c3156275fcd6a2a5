"""Training of a model folder on a prepared data set, with a gate for its result."""

import hashlib
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelscope_ext.atomic import atomic_write, require_outside
from modelscope_ext.checkpoint import read_configuration
from modelscope_ext.data.segments import to_segment
from modelscope_ext.hub import CONFIGURATION, RELEASED_WEIGHTS
from modelscope_ext.training.config import SegmentConfig
from modelscope_ext.training.distributed import alone_at_work, rank
from modelscope_ext.training.loop import TrainingLoop
from modelscope_ext.training.objectives import build_metrics, build_objective
from modelscope_ext.training.segments import SegmentRecipe


def fine_tune(
    folder: str | Path,
    data: str | Path | tuple[Any, Any],
    work_dir: str | Path,
    options: dict[str, Any] | None = None,
    device: str | None = None,
    gate: Callable[[Path], list[str]] | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """Train a model folder; continue the run in `work_dir` if there is one.

    Args:
        folder: a model folder. Without weights in it training begins from random ones.
        data: a folder that `prepare-data` wrote, whose `test` configuration evaluates or else a twentieth of `train`;
            or rows to train on and rows that evaluate, each as `Segments` takes them.
        work_dir: folder of the run; see `SegmentRecipe`. `output/` is the result, a model folder.
        options: dotted keys of the configuration → values instead of its own, as "train.max_epochs".
        device: "cpu", "cuda" …
        gate: returns complaints about a model folder. If there are any, the result is moved to `refused/`.
        progress: show bars.

    Returns:
        The last evaluation.

    Raises:
        ValueError: the data or the folders cannot be used or the gate has complaints.
    """
    folder, work_dir = Path(folder), Path(work_dir)
    require_outside(folder, work_dir / "output", work_dir / "refused")
    configuration = _configuration(folder, options or {})
    names = configuration.get("evaluation", {}).get("metrics", ["audio-noise-metric"])
    names = [names] if isinstance(names, (str, dict)) else names
    net, config = build_objective(folder), SegmentConfig.from_configuration(configuration)
    rows = data if isinstance(data, tuple) else _load_segments(Path(data))
    with alone_at_work(work_dir):
        recipe = SegmentRecipe(net, config, work_dir, *rows, lambda: build_metrics(names), device, progress)
        loop = TrainingLoop(recipe)
        scores = loop.run()
        if loop.finished and not rank():
            _judge(folder, loop, gate)
    return scores


def _judge(folder: Path, loop: TrainingLoop, gate: Callable[[Path], list[str]] | None) -> None:
    """Write the result of a run that is finished, or raise ValueError with the complaints about it."""
    work_dir = loop.recipe.work_dir
    if loop.done.step < loop.recipe.epoch:
        raise ValueError(f"{work_dir}: the time was over before the first evaluation; allow more minutes")
    output, refused = work_dir / "output", work_dir / "refused"
    write_output(folder, loop, refused if gate else output)
    if gate:
        if complaints := gate(refused):
            raise ValueError(f"the result does not replace {folder} and stays in {refused}: {'; '.join(complaints)}")
        shutil.rmtree(output, ignore_errors=True)
        os.replace(refused, output)


def _configuration(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Return a folder's configuration with the options' values instead of its own."""
    configuration = read_configuration(folder)
    for key, value in options.items():
        *sections, name = key.split(".")
        section = configuration
        for each in sections:
            section = section.setdefault(each, {})
        section[name] = value
    return configuration


def _load_segments(data: Path) -> tuple[Any, Any]:
    """Return the training and the evaluation segments of a prepared folder as Hugging Face data sets."""
    from datasets import get_dataset_config_names, load_dataset

    if not data.is_dir():
        raise ValueError(f"{data}: no such folder; write one with: modelscope-ext prepare-data")
    names = get_dataset_config_names(str(data))
    if "train" not in names:
        raise ValueError(f"{data}: has no configuration train; write one with: modelscope-ext prepare-data")
    options = {"remove_columns": ["duration"], "batched": True, "batch_size": 36}
    content = _content_tag(data)
    parts = {
        name: load_dataset(str(data), name, split=name, description=content).map(to_segment, **options)
        for name in ("train", "test")
        if name in names
    }
    if "test" not in parts:
        parts = parts["train"].train_test_split(test_size=0.05, seed=0)
    return parts["train"], parts["test"]


def _content_tag(folder: Path) -> str:
    """Return a text that differs for other files; the cache of `datasets` goes by the name of a folder alone."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(found).encode()).hexdigest()[:32]


def write_output(folder: Path, loop: TrainingLoop, output: Path) -> None:
    """Write a model folder with the best weights of a run, or with the last ones if it had no evaluation."""
    recipe, epoch = loop.recipe, loop.done.step // loop.recipe.epoch
    best = recipe.work_dir / "best.pth"
    evaluated = best.exists() and math.isfinite(recipe.lowest)  # the file may be of an earlier run
    weights = best if evaluated else recipe.work_dir / f"epoch_{epoch}.pth"
    for source, name in ((folder / CONFIGURATION, CONFIGURATION), (weights, RELEASED_WEIGHTS)):
        with atomic_write(output / name) as temp:
            shutil.copyfile(source, temp)
