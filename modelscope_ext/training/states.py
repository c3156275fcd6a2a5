"""States of optimizers, schedulers and random generators out of a checkpoint, refused where they do not fit."""

from typing import Any

import torch
from torch import Tensor


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over the state of an optimizer.

    Raises:
        ValueError: it is that of other parameters or of another optimizer.
    """
    wanted = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, found in zip(wanted, optimizer.param_groups, strict=True):
        _require_numbers(group, found, "optimizer")
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.ndim == parameter.ndim and value.shape != parameter.shape:
                raise ValueError(f"{name} of the optimizer is {tuple(value.shape)}, not {tuple(parameter.shape)}")


def load_scheduler(scheduler: Any, state: dict[str, Any]) -> None:
    """Take over the state of a scheduler of learning rates, or raise ValueError if it is that of another one."""
    if "last_epoch" not in state:
        raise ValueError("no state of a scheduler")
    _require_numbers(scheduler.state_dict(), state, "scheduler")
    scheduler.load_state_dict(state)


def check_position(step: Any, seconds: Any, random: Any) -> None:
    """Raise ValueError if this is no position in a run and no state of torch's generator."""
    if type(step) is not int or step < 0 or not isinstance(seconds, (int, float)):
        raise ValueError(f"no position in a run: {step!r:.50}, {seconds!r:.50}")
    now = torch.get_rng_state()
    if random is not None and not (
        isinstance(random, Tensor) and (random.dtype, random.shape) == (now.dtype, now.shape)
    ):
        raise ValueError("no state of a random generator")


def _require_numbers(own: dict[str, Any], found: dict[str, Any], kind: str) -> None:
    """Raise ValueError if a value of a state should be a number and is none; later versions of torch have more."""
    for name, value in own.items():
        if name in found and isinstance(value, (int, float)) and not isinstance(found[name], (int, float)):
            raise ValueError(f"{name} of the {kind} is {found[name]!r:.50}")
