"""Training in epochs on a data set of segments, as ModelScope's configurations describe it.

Rows are {"noisy": (N,), "clean": (N,)} float32 at 16 kHz; batches {"noisy": (B, N), "clean": (B, N)}.
"""

import contextlib
import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from modelscope_ext.checkpoint import save_tensors
from modelscope_ext.data.segments import find_row_problem
from modelscope_ext.training.distributed import agree, average, join
from modelscope_ext.training.log import Log

__all__ = ["BadDataError", "EpochConfig", "EpochTrainer", "check_rows"]

logger = logging.getLogger(__name__)
LOSSES = ["loss", "amp_loss", "phase_loss", "sisnr"]
FIELDS = ["epoch", "iter", "learning_rate", *LOSSES, "avg_loss", "avg_sisnr", "seconds"]
#: Rows that are looked at before the first step; every batch is looked at again when its turn comes.
CHECKED_ROWS = 20_000


class BadDataError(ValueError):
    """Rows that cannot be trained on; the message names them and says why."""


@dataclass(frozen=True)
class EpochConfig:
    """What the "train" and "evaluation" sections of a `configuration.json` say.

    Batches are those of one process: n processes train on n times as many rows a step.
    """

    epochs: int = 200
    iterations: int = 2000  # an epoch; rows are taken up again when they run out
    batch: int = 12
    workers: int = 0
    seed: int = 20
    optimizer: str = "Adam"
    optimizer_options: dict[str, Any] | None = None  # lr, weight_decay …
    clip_norm: float | None = 10.0
    scheduler: str | None = "ReduceLROnPlateau"
    scheduler_options: dict[str, Any] | None = None
    scheduler_metric: str = "avg_loss"
    eval_every: int = 1  # epochs
    eval_iterations: int | None = 200
    eval_batch: int = 12
    eval_workers: int = 0
    keep: int | None = None  # checkpoints; None: all
    checkpoint_seconds: float = 600.0

    @classmethod
    def from_configuration(cls, configuration: dict[str, Any]) -> "EpochConfig":
        """Reads both sections; what is missing stays as released, settings that torch no longer has are left out.

        Raises:
            ValueError: a section or a value is not of its kind.
        """
        try:
            return cls._read(configuration)
        except (AttributeError, TypeError) as error:
            raise ValueError(f'the sections "train" and "evaluation" are not like the released: {error}') from error

    @classmethod
    def _read(cls, configuration: dict[str, Any]) -> "EpochConfig":
        train, evaluation = configuration.get("train", {}), configuration.get("evaluation", {})
        optimizer, scheduler = dict(train.get("optimizer", {})), dict(train.get("lr_scheduler", {}))
        options = optimizer.pop("options", {})
        scheduler.pop("options", None)
        scheduler.pop("verbose", None)
        hooks = {hook.get("type"): hook for hook in train.get("hooks", [])}
        period = train.get("checkpoint", {}).get("period", {})
        found = {
            "epochs": train.get("max_epochs"),
            "iterations": train.get("train_iters_per_epoch"),
            "batch": train.get("dataloader", {}).get("batch_size_per_gpu"),
            "workers": train.get("dataloader", {}).get("workers_per_gpu"),
            "seed": train.get("seed"),
            "optimizer": optimizer.pop("type", None),
            "optimizer_options": optimizer or None,
            "clip_norm": options.get("grad_clip", {}).get("max_norm"),
            "scheduler": scheduler.pop("type", None),
            "scheduler_options": scheduler or None,
            "scheduler_metric": train.get("lr_scheduler_hook", {}).get("metric_key"),
            "eval_every": hooks.get("EvaluationHook", {}).get("interval"),
            "eval_iterations": evaluation.get("val_iters_per_epoch"),
            "eval_batch": evaluation.get("dataloader", {}).get("batch_size_per_gpu"),
            "eval_workers": evaluation.get("dataloader", {}).get("workers_per_gpu"),
            "keep": period.get("max_checkpoint_num"),
        }
        return cls(**{name: value for name, value in found.items() if value is not None})

    def __post_init__(self) -> None:
        for name in ("epochs", "iterations", "batch", "eval_batch", "eval_every"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {getattr(self, name)!r}")


def check_rows(rows: Dataset, name: str, limit: int = CHECKED_ROWS) -> None:
    """Looks at all rows, or at `limit` spread over them.

    Raises:
        BadDataError: a row lacks a column, its two signals differ in length, or have NaN, or its target is silent; the
            first ten are named.
    """
    count = len(rows)
    if not count:
        raise BadDataError(f"{name}: has no rows")
    problems = []
    for index in range(count) if count <= limit else np.linspace(0, count - 1, limit).astype(int).tolist():
        if problem := find_row_problem(rows[index]):
            problems.append(f"row {index}: {problem}")
        if len(problems) == 10:
            problems.append("and perhaps more")
            break
    if problems:
        raise BadDataError(f"{name}: " + "; ".join(problems))


class _Order:
    """Row numbers without end: each pass over the rows in an order of its own, from a given position on."""

    def __init__(self, rows: int, seed: int, start: int, stop: int, rank: int, ranks: int, batch: int) -> None:
        self.rows, self.seed, self.start, self.stop = rows, seed, start, stop
        self.rank, self.ranks, self.batch = rank, ranks, batch

    def __iter__(self) -> Iterator[int]:
        order, current = None, None
        for position in range(self.start, self.stop):
            if position // self.batch % self.ranks != self.rank:
                continue
            turn = position // self.rows
            if turn != current:
                order, current = np.random.default_rng((self.seed, turn)).permutation(self.rows), turn
            yield int(order[position % self.rows])

    def __len__(self) -> int:
        return (self.stop - self.start) // self.ranks


@dataclass
class _Progress:
    epoch: int = 0
    iteration: int = 0  # of this epoch
    seconds: float = 0.0
    best: float = math.inf  # lowest value of the scheduler's metric


class EpochTrainer:
    """A network, its data and a folder.

    Args:
        model: `model({"noisy", "clean"})` returns at least "loss", and the other numbers of the log.
        config: how to train.
        work_dir: gets `epoch_N.pth` after every epoch, `last.pth` in between, `best.pth` and the log.
        train_rows, eval_rows: row i is {"noisy": (N,), "clean": (N,)}; None where it is not needed.
        metrics: what makes the metrics that `evaluate` adds up: objects with `add(outputs, inputs)`, `evaluate()` and
            `merge(other)`.
        device: "cpu", "cuda" (there with bfloat16 autocast); None takes CUDA where there is one.
        progress: show bars.
    """

    def __init__(
        self,
        model: nn.Module,
        config: EpochConfig,
        work_dir: str | Path,
        train_rows: Dataset | None = None,
        eval_rows: Dataset | None = None,
        metrics: Callable[[], list] = list,
        device: str | None = None,
        progress: bool = True,
    ) -> None:
        self.config, self.work_dir, self.metrics = config, Path(work_dir), metrics
        self.rank, self.ranks = join(device)
        self.bar = progress and not self.rank
        self.work_dir.mkdir(parents=True, exist_ok=True)
        for rows, name in ((train_rows, "training data"), (eval_rows, "evaluation data")):
            if rows is not None:
                check_rows(rows, name)
        self.train_rows, self.eval_rows = train_rows, eval_rows
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.to(device)
        self.device = next(model.parameters()).device
        options = {"lr": 1e-3, **(config.optimizer_options or {})}
        self.optimizer = _made(torch.optim, config.optimizer, self.model.parameters(), options)
        self.scheduler = None
        if config.scheduler:
            options = config.scheduler_options or {}
            self.scheduler = _made(torch.optim.lr_scheduler, config.scheduler, self.optimizer, options)
        self.done = _Progress()

    @property
    def last(self) -> Path:
        """The checkpoint that goes on in the middle of an epoch."""
        return self.work_dir / "last.pth"

    def train(self) -> dict[str, float]:
        """Trains to the last epoch; returns the last evaluation, empty without evaluation data."""
        if self.train_rows is None:
            raise ValueError("there is no train_dataset to train on")
        config, done = self.config, self.done
        _seed(config.seed)
        if self.ranks > 1 and (state := agree([done.epoch, done.iteration], self._state, self.device)):
            self._restore(state)
            done = self.done
        log = Log(self.work_dir, FIELDS, done.epoch) if not self.rank else None
        batches = iter(self._train_batches())
        values: dict[str, float] = {}
        try:
            while done.epoch < config.epochs:
                row = self._epoch(batches)
                if self.eval_rows is not None and (done.epoch + 1) % config.eval_every == 0:
                    values = self.evaluate()
                    row |= {name: values[name] for name in ("avg_loss", "avg_sisnr") if name in values}
                self._schedule(values)
                best = values.get(config.scheduler_metric, math.inf) < done.best
                done.best = min(done.best, values.get(config.scheduler_metric, math.inf))
                done.epoch, done.iteration = done.epoch + 1, 0
                self._save_epoch(values, best)
                if log:
                    log.write({"epoch": done.epoch, **row, "seconds": done.seconds}, told=True)
        finally:
            if log:
                log.close()
        return values

    def evaluate(self) -> dict[str, float]:
        """All metrics over the evaluation data, or its first `eval_iterations` batches, of all processes together."""
        if self.eval_rows is None:
            raise ValueError("there is no eval_dataset to evaluate on")
        config, rows = self.config, self.eval_rows
        own = range(self.rank, len(rows), self.ranks)
        loader = DataLoader(rows, config.eval_batch, sampler=own, num_workers=config.eval_workers, collate_fn=_collate)
        batches = min(len(loader), config.eval_iterations or len(loader))
        metrics = self.metrics()
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad(), tqdm(total=batches, desc="evaluation", disable=self._bar, leave=False) as bar:
            for batch, _ in zip(loader, range(batches), strict=False):
                inputs = {name: value.to(self.device) for name, value in batch.items()}
                outputs = self.model(inputs)
                for metric in metrics:
                    metric.add(outputs, inputs)
                bar.update()
        self.model.train(was_training)
        if self.ranks > 1:
            gathered: list = [None] * self.ranks
            torch.distributed.all_gather_object(gathered, metrics)
            metrics, *others = gathered
            for other_metrics in others:
                for metric, other in zip(metrics, other_metrics, strict=True):
                    metric.merge(other)
        return {name: value for metric in metrics for name, value in metric.evaluate().items()}

    def load(self, path: str | Path) -> None:
        """Goes on from a checkpoint of `train`, `epoch_N.pth` or `last.pth`: everything is as it was then.

        Raises:
            ValueError: the file is no such checkpoint.
        """
        path = Path(path)
        try:
            self._restore(torch.load(path, map_location="cpu", weights_only=True))
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file") from None
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: holds no state of a run to go on from ({error}); its weights alone: copy it to "
                             "pytorch_model.bin of the model folder") from error  # fmt: skip
        except Exception as error:  # what torch's reader raises on damaged files is not documented
            raise ValueError(f"{path}: no checkpoint, or damaged ({str(error).partition(chr(10))[0]})") from error
        logger.info("going on after epoch %d, iteration %d", self.done.epoch, self.done.iteration)

    @property
    def _bar(self) -> bool | None:
        """`disable` of tqdm: where there is no terminal there is no bar."""
        return None if self.bar else True

    def _train_batches(self) -> DataLoader:
        config, done = self.config, self.done
        a_step = config.batch * self.ranks
        start = (done.epoch * config.iterations + done.iteration) * a_step
        stop = config.epochs * config.iterations * a_step
        order = _Order(len(self.train_rows), config.seed, start, stop, self.rank, self.ranks, config.batch)
        return DataLoader(
            self.train_rows,
            config.batch,
            sampler=order,
            num_workers=config.workers,
            collate_fn=_collate,
            generator=torch.Generator(),
            pin_memory=self.device.type == "cuda",
        )

    def _epoch(self, batches: Iterator) -> dict[str, float]:
        config, done = self.config, self.done
        self.model.train()
        sums = dict.fromkeys(LOSSES, 0.0)
        begun = saved = time.monotonic()
        first = done.iteration
        title = f"epoch {done.epoch + 1} of {config.epochs}"
        with tqdm(total=config.iterations, initial=first, desc=title, disable=self._bar, dynamic_ncols=True) as bar:
            while done.iteration < config.iterations:
                values = self._step(next(batches))
                for name, value in values.items():
                    sums[name] += value
                done.iteration += 1
                done.seconds += time.monotonic() - begun
                begun = time.monotonic()
                bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
                bar.update()
                if begun - saved > config.checkpoint_seconds and done.iteration < config.iterations:
                    self._save(self.last)
                    saved = begun
        steps = config.iterations - first
        means = {name: value / max(1, steps) for name, value in sums.items() if value}
        rate = self.optimizer.param_groups[0]["lr"]
        return {"iter": (done.epoch + 1) * config.iterations, "learning_rate": rate, **means}

    def _step(self, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        inputs = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        gpu = self.device.type == "cuda"
        with torch.autocast("cuda", torch.bfloat16) if gpu else contextlib.nullcontext():
            outputs = self.model(inputs)
        self.optimizer.zero_grad()
        outputs["loss"].backward()
        told = torch.stack([outputs[name].detach().float() for name in LOSSES if name in outputs])
        if self.ranks > 1:
            average([*(p.grad for p in self.model.parameters() if p.grad is not None), told])
        values = dict(zip([name for name in LOSSES if name in outputs], told.tolist(), strict=True))
        if not math.isfinite(values["loss"]):
            raise BadDataError(
                f"the loss is {values['loss']} in epoch {self.done.epoch + 1}, iteration {self.done.iteration + 1}; "
                f"the last checkpoint in {self.work_dir} is sound"
            )
        if self.config.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        return values

    def _schedule(self, values: dict[str, float]) -> None:
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            if self.config.scheduler_metric in values:
                self.scheduler.step(values[self.config.scheduler_metric])
        elif self.scheduler:
            self.scheduler.step()

    def _save_epoch(self, values: dict[str, float], best: bool) -> None:
        if self.rank:
            return
        self._save(self.work_dir / f"epoch_{self.done.epoch}.pth", values)
        if best:
            self._save(self.work_dir / "best.pth", values)
        self.last.unlink(missing_ok=True)
        if self.config.keep and self.done.epoch > self.config.keep:
            (self.work_dir / f"epoch_{self.done.epoch - self.config.keep}.pth").unlink(missing_ok=True)

    def _save(self, path: Path, values: dict[str, float] | None = None) -> None:
        """Whole or not at all."""
        if self.rank:
            return
        save_tensors(self._state(values), path)

    def _state(self, values: dict[str, float] | None = None) -> dict[str, Any]:
        trainer = {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "progress": asdict(self.done),
            "random": torch.get_rng_state(),
        }
        meta = {"epoch": self.done.epoch, "iter": self.done.iteration, "metrics": values or {}}
        return {"state_dict": self.model.state_dict(), "meta": meta, "trainer": trainer}

    def _restore(self, state: dict[str, Any]) -> None:
        trainer = state["trainer"]
        self.model.load_state_dict(state["state_dict"])
        self.optimizer.load_state_dict(trainer["optimizer"])
        if self.scheduler:
            self.scheduler.load_state_dict(trainer["scheduler"])
        self.done = _Progress(**trainer["progress"])
        torch.set_rng_state(trainer["random"])


def _collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Rows of equal length as a batch; a row that has gone bad is told before it spoils the weights."""
    for row in rows:
        if problem := find_row_problem(row):
            raise BadDataError(f"a row of the data {problem}")
    lengths = {len(row["noisy"]) for row in rows}
    if len(lengths) > 1:
        raise BadDataError(f"rows of {', '.join(map(str, sorted(lengths)))} samples in one batch; use to_segment")
    return {
        column: torch.from_numpy(np.stack([np.asarray(row[column], np.float32) for row in rows]))
        for column in ("noisy", "clean")
    }


def _made(module: Any, name: str, argument: Any, options: dict[str, Any]) -> Any:
    short = f"{module.__name__.removeprefix('torch.')}.{name}"
    found = getattr(module, str(name), None)
    if not isinstance(found, type):
        raise ValueError(f"torch has no {short}")
    try:
        return found(argument, **options)
    except TypeError as error:
        raise ValueError(f"{short} cannot be made with {options}: {error}") from error


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
