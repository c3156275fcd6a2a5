"""One training loop for all recipes: resume, checkpoints, log, signals, several processes."""

import contextlib
import logging
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from modelscope_ext.progress import Bar
from modelscope_ext.tensors import load_tensors
from modelscope_ext.training.config import SegmentConfig, TrainConfig, check_unchanged, to_json
from modelscope_ext.training.distributed import all_reduce_mean, broadcast_latest_state, rank, world_size
from modelscope_ext.training.log import Log
from modelscope_ext.training.states import check_position

logger = logging.getLogger(__name__)
#: Steps in a row that are skipped before the run ends with an error.
MAX_SKIPPED = 10


class DivergenceError(ValueError):
    """Many steps in a row without a finite loss and gradient."""


@dataclass
class Progress:
    """Position in a run."""

    step: int = 0
    seconds: float = 0.0  # of training, over all runs
    random: Tensor | None = None  # state of torch's generator; None before the first step


class Recipe(Protocol):
    """A network with its data, losses and validation.

    Attributes:
        epoch: steps after which a checkpoint is written and the first column of the log counts one; None: it counts
            steps.
        row_every: steps between two rows of the log.
        scores: the last validation.
        progress: show bars.
    """

    net: nn.Module
    config: TrainConfig | SegmentConfig
    work_dir: Path
    columns: list[str]
    epoch: int | None
    row_every: int
    scores: dict[str, float]
    progress: bool

    def newest_checkpoint(self) -> Path | None:
        """Return the newest checkpoint in `work_dir` or None."""

    def batches(self, start: int, stop: int) -> Iterable:
        """Return this process's batches of the steps `start` … `stop`."""

    def losses(self, batch: Any, step: int) -> dict[str, Tensor]:
        """Return `loss` with its graph and further scalars for the log."""

    def update(self, step: int) -> None:
        """Change the weights by their gradients."""

    def row(self, progress: Progress, means: dict[str, float], last: bool) -> dict[str, float]:
        """Validate in all processes if it is time to and return a row of the log."""

    def save(self, progress: Progress, state: dict[str, Any]) -> None:
        """Write a checkpoint."""

    def state(self, progress: Progress) -> dict[str, Any]:
        """Return the content of a checkpoint."""

    def load_state(self, state: dict[str, Any]) -> Progress:
        """Take over the content of a checkpoint."""

    def enough(self, progress: Progress) -> str:
        """Return why no further step is worth its time, or an empty text."""


class TrainingLoop:
    """A run of a recipe in its folder. SIGTERM and Ctrl-C end it after a step, with a checkpoint.

    A step whose loss or gradient is not finite is skipped: weights, buffers and optimizers stay as they were. With
    `resume` the run continues from the newest checkpoint in the folder.

    `notify` is called with before_run, with before_train_iter, after_train_iter and, after evaluation and checkpoint,
    after_step for each step, and with after_run.

    Raises:
        ValueError: the checkpoint is damaged or of another configuration.
    """

    def __init__(self, recipe: Recipe, resume: bool = True, notify: Callable[[str], object] = bool) -> None:
        self.recipe, self.config, self.notify, self.done = recipe, recipe.config, notify, Progress()
        self.window: list[dict[str, float]] = []  # values of the steps since the last row
        self.skipped = 0
        recipe.work_dir.mkdir(parents=True, exist_ok=True)
        if resume and (checkpoint := recipe.newest_checkpoint()):
            self.load(checkpoint, same_settings=True)

    @property
    def finished(self) -> bool:
        """Return True after the last step."""
        return self.done.step >= self.config.steps or bool(self.recipe.enough(self.done))

    def load(self, path: str | Path, same_settings: bool = False) -> None:
        """Continue from a checkpoint: weights, optimizers, position and random state.

        `same_settings` refuses a checkpoint of another configuration.

        Raises:
            ValueError: the file is missing, damaged or of another configuration or holds no training state.
        """
        try:
            state = load_tensors(Path(path))
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file") from None
        except Exception as error:  # torch does not document what its reader raises on damaged files
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{path}: no checkpoint, or damaged ({reason})") from error
        self._restore(state, str(path), same_settings)
        logger.info("continuing after %s", self._position(self.done.step))

    def run(self, stop_after: int | None = None) -> dict[str, float]:
        """Train to the end or for `stop_after` steps or epochs. Return the last validation or an empty one.

        Raises:
            DivergenceError: too many steps in a row were skipped.
            ConnectionError: another process is lost.
        """
        recipe, done = self.recipe, self._join_peers()
        last, epoch = self.config.steps, recipe.epoch or 1
        if stop_after is not None:
            last = min(last, (done.step // epoch + stop_after) * epoch)
        batches = recipe.batches(done.step, last)
        if done.random is None:
            random.seed(self.config.seed)
            np.random.seed(self.config.seed % 2**32)
            torch.manual_seed(self.config.seed)
        else:
            torch.set_rng_state(done.random)
        with _stop_signals() as signals, self._open_log() as log, self._open_bar() as bar:
            saved = begun = time.monotonic()
            self.notify("before_run")
            for batch in batches:
                self.notify("before_train_iter")
                stop = self._step(batch, signals)
                self.notify("after_train_iter")
                done.step += 1
                now = time.monotonic()
                done.seconds, begun = done.seconds + now - begun, now
                self._show(bar)
                if done.step % recipe.row_every == 0 or done.step == last:
                    row = recipe.row(done, self._means(), done.step == last)
                    if log:
                        log.write(row)
                overdue = time.monotonic() - saved > self.config.checkpoint_seconds
                if stop or overdue or done.step == last or (recipe.epoch and done.step % epoch == 0):
                    done.random = torch.get_rng_state()
                    if not rank():
                        recipe.save(done, self._state())
                    saved = time.monotonic()
                self.notify("after_step")
                if stop:
                    reason = recipe.enough(done) or "the same command continues"
                    logger.info("stopped after %s; %s", self._position(done.step), reason)
                    break
            self.notify("after_run")
        return recipe.scores

    def _join_peers(self) -> Progress:
        """Take over the state of the most advanced process."""
        if world_size() > 1 and (state := broadcast_latest_state(self.done.step, self._state)):
            self._restore(state, "the checkpoint of another process", same_settings=True)
        return self.done

    def _step(self, batch: Any, signals: list[int]) -> bool:
        """Train one step; return whether any process is to stop after it."""
        recipe, net, step = self.recipe, self.recipe.net, self.done.step
        buffers = [buffer.clone() for buffer in net.buffers()]
        losses = recipe.losses(batch, step)
        net.zero_grad()
        losses["loss"].backward()
        values, stop = self._reduce(losses, bool(signals or recipe.enough(self.done)))
        values["grad_norm"] = float(nn.utils.clip_grad_norm_(net.parameters(), self.config.clip_norm or math.inf))
        if math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"]):
            recipe.update(step)
            self.window.append(values)
            self.skipped = 0
            return stop
        for buffer, before in zip(net.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self.skipped += 1
        where = self._position(step + 1)
        if self.skipped == MAX_SKIPPED:
            raise DivergenceError(
                f"the last {MAX_SKIPPED} steps up to {where} had no finite loss and gradient. Check the data, or begin "
                f"with a lower learning rate in another folder; the last checkpoint in {recipe.work_dir} is good"
            )
        logger.warning("%s: the loss or its gradient is not finite; skipped", where)
        return stop

    def _reduce(self, losses: dict[str, Tensor], stop: bool) -> tuple[dict[str, float], bool]:
        """Average gradients and losses over the processes."""
        message = torch.stack([value.detach().float() for value in losses.values()])
        message = torch.cat((message, message.new_tensor([float(stop)])))
        if world_size() > 1:
            gradients = [parameter.grad for parameter in self.recipe.net.parameters() if parameter.grad is not None]
            all_reduce_mean([*gradients, message])
        *values, stopping = message.tolist()
        return dict(zip(losses, values, strict=True)), stopping > 0

    def _means(self) -> dict[str, float]:
        """Return the means since the last row."""
        window, self.window = self.window, []
        return {name: float(np.mean([values[name] for values in window])) for name in (window[0] if window else ())}

    def _position(self, step: int) -> str:
        if not self.recipe.epoch:
            return f"step {step}"
        epoch, iteration = divmod(step, self.recipe.epoch)
        return f"epoch {epoch + 1}, iteration {iteration}" if iteration else f"epoch {epoch}"

    def _open_log(self) -> contextlib.AbstractContextManager:
        if rank():
            return contextlib.nullcontext()
        done = self.done.step // (self.recipe.epoch or 1)
        return contextlib.closing(Log(self.recipe.work_dir, self.recipe.columns, done))

    def _open_bar(self) -> Bar:
        total = None if getattr(self.config, "minutes", None) else self.config.steps
        options = {"total": total, "initial": self.done.step, "unit": "step", "dynamic_ncols": True}
        return Bar(**options, quiet=hide_bar(self.recipe.progress))

    def _show(self, bar: Bar) -> None:
        if self.done.step % 10 == 0 and self.window and not bar.disable:
            loss = np.mean([values["loss"] for values in self.window[-100:]])
            bar.set_postfix_str(f"{self._position(self.done.step)}, loss {loss:.4f}", refresh=False)
        bar.update()

    def _state(self) -> dict[str, Any]:
        columns = {name: [values[name] for values in self.window] for name in (self.window[0] if self.window else ())}
        loop = {"window": columns, "skipped": self.skipped, "scores": plain_scores(self.recipe.scores)}
        return self.recipe.state(self.done) | {"config": to_json(self.config), "loop": loop}

    def _restore(self, state: Any, name: str, same_settings: bool) -> None:
        """Take over a checkpoint, or raise ValueError with its name."""
        if same_settings and isinstance(state, dict) and "config" in state:  # the first versions of epochs left it out
            check_unchanged(state["config"], self.config, name)
        try:
            self.done = self.recipe.load_state(state)
            loop = {"window": {}, "skipped": 0, "scores": self.recipe.scores, **state.get("loop", {})}
            names, columns = loop["window"].keys(), loop["window"].values()
            self.window = [dict(zip(names, map(float, values), strict=True)) for values in zip(*columns, strict=True)]
            self.skipped = int(loop["skipped"])
            self.recipe.scores = dict(loop["scores"])
            check_position(self.done.step, self.done.seconds, self.done.random)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"{name}: holds no training state to continue from ({error}); to use its weights alone, "
                             "copy it to pytorch_model.bin of the model folder") from error  # fmt: skip
        except (ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{name}: damaged, or of another network ({reason})") from error


def plain_scores(scores: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of an evaluation as a checkpoint takes them."""
    return {name: float(value) for name, value in scores.items() if isinstance(value, (int, float))}


def autocast(device: torch.device, cpu: bool = False) -> torch.autocast:
    """Return the context of a forward pass in training: bfloat16 on a GPU and on a CPU if `cpu`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=cpu or device.type == "cuda")


def hide_bar(progress: bool) -> bool:
    """Return True where no bar is wanted: the first process alone shows one."""
    return not progress or rank() > 0


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list; only the main thread can."""
    received: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
    handlers = {number: signal.signal(number, lambda number, _: received.append(number)) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
