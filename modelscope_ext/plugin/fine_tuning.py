"""`modelscope-ext train --model`: `build_trainer` on a prepared data set, resumed, and gated if asked."""

import os
import shutil
from pathlib import Path

from modelscope_ext.checkpoint import has_weights
from modelscope_ext.data.pairs import find_pairs
from modelscope_ext.data.segments import to_segment
from modelscope_ext.evaluation import MARGINS, Evaluation, evaluate, regression_gate
from modelscope_ext.inference.denoiser import Denoiser
from modelscope_ext.plugin.trainer import NoiseSuppressionTrainer

__all__ = ["fine_tune"]

#: What the gate looks at: quick, and what fine-tuning spoils first.
GATE_METRICS = ("wb_pesq", "stoi", "si_sdr")


def fine_tune(
    model: str,
    data: str | Path,
    work_dir: str | Path,
    epochs: int | None = None,
    iterations: int | None = None,
    batch: int | None = None,
    learning_rate: float | None = None,
    device: str | None = None,
    gate_pairs: str | Path | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """Trains a model folder on what `prepare-data` wrote; a run in `work_dir` goes on where it was.

    Args:
        model: a model folder or an id; without weights in it training begins from scratch.
        data: the prepared folder; its `test` configuration, or else a twentieth of `train`, evaluates.
        work_dir: see `NoiseSuppressionTrainer`; `output/` is the result.
        epochs: instead of the configuration's.
        iterations: of an epoch, likewise.
        batch: likewise.
        learning_rate: likewise.
        device: "cpu", "cuda" …
        gate_pairs: pairs, as `evaluate` takes them: a result that scores worse than `model` by more than the margins
            of `evaluation.regression_gate` is refused.
        progress: show bars.

    Returns:
        The last evaluation.

    Raises:
        ValueError: the data or the folders cannot be used, or the gate refuses; `work_dir/refused` is the result then.
    """
    work_dir = Path(work_dir)
    output = work_dir / "output"
    pairs = find_pairs(gate_pairs) if gate_pairs else None
    trainer = _trainer(model, data, work_dir, epochs, iterations, batch, learning_rate, device, progress)
    before: Evaluation | None = None
    if pairs is not None and has_weights(trainer.model_dir):
        before = evaluate(pairs, Denoiser(trainer.model_dir), GATE_METRICS, name="before")
    trainer.train(_checkpoint(work_dir))
    if before is None or trainer.runner.rank:
        return trainer.metric_values
    refused = work_dir / "refused"
    shutil.rmtree(refused, ignore_errors=True)
    os.replace(output, refused)
    after = evaluate(pairs, Denoiser(refused), GATE_METRICS, name="after")
    if complaints := regression_gate(before, after, {name: MARGINS[name] for name in GATE_METRICS}):
        raise ValueError(f"the result is worse than {model} and stays in {refused}: {'; '.join(complaints)}")
    os.replace(refused, output)
    return trainer.metric_values


def _trainer(
    model: str,
    data: str | Path,
    work_dir: Path,
    epochs: int | None,
    iterations: int | None,
    batch: int | None,
    learning_rate: float | None,
    device: str | None,
    progress: bool,
) -> NoiseSuppressionTrainer:
    from datasets import get_dataset_config_names, load_dataset

    data = Path(data)
    if not data.is_dir():
        raise ValueError(f"{data}: no such folder; write one with: modelscope-ext prepare-data")
    names = get_dataset_config_names(str(data))
    if "train" not in names:
        raise ValueError(f"{data}: has no configuration train; write one with: modelscope-ext prepare-data")
    segments = {
        name: load_dataset(str(data), name, split=name).map(
            to_segment, remove_columns=["duration"], batched=True, batch_size=36
        )
        for name in ("train", "test")
        if name in names
    }
    if "test" not in segments:
        segments = segments["train"].train_test_split(test_size=0.05, seed=0)
    options = {
        "train.dataloader.batch_size_per_gpu": batch,
        "evaluation.dataloader.batch_size_per_gpu": batch,
        "train.optimizer.lr": learning_rate,
    }
    trainer = NoiseSuppressionTrainer(
        model,
        segments["train"],
        segments["test"],
        str(work_dir),
        cfg_options={key: value for key, value in options.items() if value is not None},
        max_epochs=epochs,
        train_iters_per_epoch=iterations,
        device=device,
    )
    trainer.runner.bar &= progress
    return trainer


def _checkpoint(work_dir: Path) -> str | None:
    """The newest state of a run in this folder."""
    if (work_dir / "last.pth").exists():
        return str(work_dir / "last.pth")
    epochs = {int(path.stem[6:]): path for path in work_dir.glob("epoch_*.pth") if path.stem[6:].isdigit()}
    return str(epochs[max(epochs)]) if epochs else None
