"""Training by one process, or by several that torchrun starts on one machine or more.

All processes make the same calls in the same order. A lost process is a ConnectionError in the others: at once if its
connection breaks, after `PEER_TIMEOUT` otherwise. Then torchrun with `--max-restarts` starts all of them again.
"""

import functools
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from modelscope_ext.atomic import alone_in

#: Time limit of a training step that waits for the other processes.
PEER_TIMEOUT = timedelta(minutes=5)
#: Time limit of work that one process does for all: decoding, validation.
BARRIER_TIMEOUT = timedelta(days=1)


def init_process_group(device: str | None = None) -> None:
    """Connect to any other processes that torchrun has started."""
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return
        gpu = torch.cuda.is_available() and device != "cpu"
        if gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        with _lost_peers():
            dist.init_process_group("nccl" if gpu else "gloo", timeout=PEER_TIMEOUT)
    with _lost_peers():
        _barrier_group()


@contextmanager
def alone_at_work(folder: str | Path) -> Iterator[None]:
    """Make the folder of a run and keep other trainings out of it; wait for one that is in it.

    Of several processes of one training the first one alone waits.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    if int(os.environ.get("RANK", 0)):
        yield
        return
    with alone_in(Path(folder)):
        yield


def rank() -> int:
    """Return the number of this process; 0 for a single one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_reduce_mean(tensors: list[Tensor]) -> None:
    """Replace tensors by their means over all processes in one message."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    with _lost_peers():
        dist.all_reduce(flat)
    flat /= world_size()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def barrier() -> None:
    """Wait up to `BARRIER_TIMEOUT` for all processes; return at once if there is only one."""
    if dist.is_initialized():
        with _lost_peers():
            dist.barrier(_barrier_group())


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Run the block in the first process and then in the first one of each other machine and then in the rest.

    Files that one process writes are ready for the next. If machines share no folder each writes its own.
    """
    turn = 0 if rank() == 0 else 1 if os.environ.get("LOCAL_RANK", "0") == "0" else 2
    for _ in range(turn):
        barrier()
    yield
    for _ in range(2 - turn):
        barrier()


def broadcast_latest_state(step: int, state: Callable[[], dict[str, Any]]) -> dict | None:
    """Broadcast the most advanced process's training state; return it on the CPU or None on that process.

    `step` is that of this process. `state` returns its state for `torch.load(weights_only=True)`.
    """
    barrier()  # one may start late
    steps: list = [None] * world_size()
    content = io.BytesIO()
    with _lost_peers():
        dist.all_gather_object(steps, step)
        latest = steps.index(max(steps))
        if rank() == latest:
            torch.save(state(), content)
        message = [content.getvalue()]
        dist.broadcast_object_list(message, latest)
    if rank() == latest:
        return None
    return torch.load(io.BytesIO(message[0]), map_location="cpu", weights_only=True)


@functools.cache
def _barrier_group() -> Any:
    """Return a second group of all processes with the longer timeout."""
    return dist.new_group(timeout=BARRIER_TIMEOUT, backend="gloo")


@contextmanager
def _lost_peers() -> Iterator[None]:
    """Turn errors of gloo, NCCL and the store into a `ConnectionError`."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ConnectionError(
            f"lost another process of this training ({reason}); torchrun --max-restarts starts all of them again, and "
            "the same command continues from the last checkpoint"
        ) from error
