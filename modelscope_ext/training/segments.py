"""Training in epochs on a data set of segments, as ModelScope's configurations describe it."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from modelscope_ext.progress import Bar
from modelscope_ext.tensors import save_tensors
from modelscope_ext.training.batches import BadDataError, Segments, check_rows, collate, data_loader, positions
from modelscope_ext.training.config import SegmentConfig
from modelscope_ext.training.distributed import init_process_group, rank, world_size
from modelscope_ext.training.loop import Progress, autocast, hide_bar, plain_scores
from modelscope_ext.training.states import load_optimizer, load_scheduler

logger = logging.getLogger(__name__)
LOSSES = ["loss", "amp_loss", "phase_loss", "sisnr"]


class SegmentRecipe:
    """A network with its losses, trained on rows in epochs.

    After each epoch it writes `epoch_N.pth` and `best.pth` if the evaluation is the best so far. `last.pth` is a
    checkpoint within an epoch.

    Args:
        net: `net({"noisy", "clean"})` returns at least "loss" and the other numbers of the log.
        config: how to train.
        work_dir: folder of the run.
        train_rows, eval_rows: data sets as `Segments` takes them; None if not needed.
        metrics: makes the metrics of an evaluation: objects with `add(outputs, inputs)`, `evaluate()` and
            `merge(other)`.
        device: "cpu" or "cuda", where training uses bfloat16; None takes a GPU if there is one.
        progress: show bars.

    Raises:
        BadDataError: rows cannot be trained on.
        ValueError: torch has no such optimizer or scheduler or not with these options.
    """

    columns = ["epoch", "iter", "learning_rate", *LOSSES, "avg_loss", "avg_sisnr", "seconds"]

    def __init__(
        self,
        net: nn.Module,
        config: SegmentConfig,
        work_dir: str | Path,
        train_rows: Any = None,
        eval_rows: Any = None,
        metrics: Callable[[], list] = list,
        device: str | None = None,
        progress: bool = True,
    ) -> None:
        self.config, self.work_dir, self.metrics, self.progress = config, Path(work_dir), metrics, progress
        self.epoch = self.row_every = config.iterations
        self.scores: dict[str, float] = {}
        self.lowest = math.inf  # value of the scheduler's metric
        self.improved = False
        self.stale = 0  # evaluations since the best one
        init_process_group(device)
        self.train_rows, self.eval_rows = (None if rows is None else Segments(rows) for rows in (train_rows, eval_rows))
        silent = [
            self._silent(*each) for each in ((self.train_rows, "training data"), (self.eval_rows, "evaluation data"))
        ]
        self.left_out = set(silent[1])
        self.net = net.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.device = next(net.parameters()).device
        options = {"lr": 1e-3, **(config.optimizer_options or {})}
        self.optimizer = _make(torch.optim, config.optimizer, net.parameters(), options)
        self.scheduler = None
        if config.scheduler:
            options = config.scheduler_options or {}
            self.scheduler = _make(torch.optim.lr_scheduler, config.scheduler, self.optimizer, options)

    def _silent(self, rows: Segments | None, name: str) -> list[int]:
        """Check rows; return the indices of those that are left out because they are silent."""
        silent = check_rows(rows, name) if rows is not None else []
        if silent and self.config.silent_rows == "refuse":
            raise BadDataError(f"{name}: {len(silent)} rows are silent, the first is {silent[0]}")
        if silent:
            logger.warning("%s: %d silent rows of %d are left out", name, len(silent), len(rows))
        return silent

    def newest_checkpoint(self) -> Path | None:
        """Return `last.pth` or the checkpoint of the last epoch."""
        if (last := self.work_dir / "last.pth").exists():
            return last
        epochs = self._epochs()
        return epochs[max(epochs)] if epochs else None

    def _epochs(self) -> dict[int, Path]:
        paths = self.work_dir.glob("epoch_*.pth")
        return {int(path.stem[6:]): path for path in paths if path.stem[6:].isdecimal()}

    def batches(self, start: int, stop: int) -> DataLoader:
        """Return batches of rows. Each pass over the rows has its own order."""
        if self.train_rows is None:
            raise ValueError("there is no train_dataset to train on")
        config = self.config
        self.net.train()
        order = _shuffled(positions(start, stop, config.batch), len(self.train_rows), config.seed)
        return data_loader(self.train_rows, config.batch, order, config.workers, self.device, collate)

    def losses(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Return the losses that the network computes."""
        inputs = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        with autocast(self.device):
            outputs = self.net(inputs)
        return {name: outputs[name] for name in LOSSES if name in outputs}

    def update(self, step: int) -> None:
        """Change the weights by their gradients."""
        self.optimizer.step()

    def row(self, progress: Progress, means: dict[str, float], last: bool) -> dict[str, float]:
        """End an epoch: evaluate and change the learning rate."""
        config, epoch = self.config, progress.step // self.epoch
        row = {"epoch": epoch, "iter": progress.step, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        row |= {name: means[name] for name in LOSSES if name in means}
        if self.eval_rows is not None and epoch % config.eval_every == 0:
            self.scores = self.evaluate()
            row |= {name: self.scores[name] for name in ("avg_loss", "avg_sisnr") if name in self.scores}
        value = self.scores.get(config.scheduler_metric)
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            if value is not None:
                self.scheduler.step(value)
        elif self.scheduler:
            self.scheduler.step()
        self.improved = value is not None and value < self.lowest
        self.stale = 0 if self.improved else self.stale + (value is not None)
        self.lowest = min(self.lowest, math.inf if value is None else value)
        return row | {"seconds": progress.seconds}

    def enough(self, progress: Progress) -> str:
        """Return that the time is over or that the evaluation no longer improves, or an empty text."""
        if self.config.minutes is not None and progress.seconds >= 60 * self.config.minutes:
            return "the time is over"
        if self.config.patience is not None and self.stale >= self.config.patience:
            return f"no evaluation was better in {self.stale} epochs"
        return ""

    def save(self, progress: Progress, state: dict[str, Any]) -> None:
        """Write `best.pth` and `epoch_N.pth` at the end of an epoch, `last.pth` within it.

        `epoch_N.pth` is the last: whatever a killed run did not write, it does after the checkpoint before.
        """
        epoch, iteration = divmod(progress.step, self.epoch)
        last, keep = self.work_dir / "last.pth", self.config.keep
        if iteration:
            save_tensors(state, last)
            return
        if self.improved:
            save_tensors(state, self.work_dir / "best.pth")
        save_tensors(state, self.work_dir / f"epoch_{epoch}.pth")
        last.unlink(missing_ok=True)
        for number, path in self._epochs().items() if keep else ():
            if number <= epoch - keep:
                path.unlink(missing_ok=True)

    def state(self, progress: Progress) -> dict[str, Any]:
        """Return weights and metrics and what continues training."""
        epoch, iteration = divmod(progress.step, self.epoch)
        position = {"epoch": epoch, "iteration": iteration, "seconds": progress.seconds}
        position |= {"best": self.lowest, "stale": self.stale}
        trainer = {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "progress": position,
            "random": progress.random,
        }
        meta = {"epoch": epoch, "iter": iteration, "metrics": {} if iteration else plain_scores(self.scores)}
        return {"state_dict": self.net.state_dict(), "meta": meta, "trainer": trainer}

    def load_state(self, state: dict[str, Any]) -> Progress:
        """Take over a checkpoint."""
        trainer = state["trainer"]
        position = trainer["progress"]
        self.net.load_state_dict(state["state_dict"])
        load_optimizer(self.optimizer, trainer["optimizer"])
        if self.scheduler:
            load_scheduler(self.scheduler, trainer["scheduler"])
        self.lowest, self.stale = float(position["best"]), int(position.get("stale", 0))
        self.scores = state["meta"]["metrics"]  # empty within an epoch
        step = position["epoch"] * self.epoch + position["iteration"]
        return Progress(step, position["seconds"], trainer["random"])

    def evaluate(self) -> dict[str, float]:
        """Return all metrics over the evaluation data of all processes or over its first `eval_iterations` batches."""
        if self.eval_rows is None:
            raise ValueError("there is no eval_dataset to evaluate on")
        config, rows = self.config, self.eval_rows
        own = [index for index in range(rank(), len(rows), world_size()) if index not in self.left_out]
        loader = data_loader(rows, config.eval_batch, own, config.eval_workers, self.device, collate)
        batches = min(len(loader), config.eval_iterations or len(loader))
        metrics, was_training = self.metrics(), self.net.training
        bar = Bar(total=batches, desc="evaluation", quiet=hide_bar(self.progress), leave=False)
        self.net.eval()
        with torch.no_grad(), bar:
            for batch, _ in zip(loader, range(batches), strict=False):
                inputs = {name: value.to(self.device) for name, value in batch.items()}
                outputs = self.net(inputs)
                for metric in metrics:
                    metric.add(outputs, inputs)
                bar.update()
        self.net.train(was_training)
        return {name: value for metric in _merged(metrics) for name, value in metric.evaluate().items()}


def _merged(metrics: list) -> list:
    """Return the metrics over all processes."""
    if world_size() == 1:
        return metrics
    gathered: list = [None] * world_size()
    torch.distributed.all_gather_object(gathered, metrics)
    for others in gathered[1:]:
        for metric, other in zip(gathered[0], others, strict=True):
            metric.merge(other)
    return gathered[0]


def _shuffled(numbers: Iterable[int], rows: int, seed: int) -> Iterator[int]:
    """Yield a row for each sample number; the rows of each pass are in an order of their own."""
    order, current = None, None
    for number in numbers:
        turn, index = divmod(number, rows)
        if turn != current:
            order, current = np.random.default_rng((seed, turn)).permutation(rows), turn
        yield int(order[index])


def _make(module: Any, name: str, argument: Any, options: dict[str, Any]) -> Any:
    """Return an optimizer or a scheduler of torch by its name."""
    short = f"{module.__name__.removeprefix('torch.')}.{name}"
    kind = getattr(module, str(name), None)
    if not isinstance(kind, type):
        raise ValueError(f"torch has no {short}")
    try:
        return kind(argument, **options)
    except TypeError as error:
        raise ValueError(f"{short} cannot be made with {options}: {error}") from error
