"""One process, or several that torchrun has started on one machine or on more, train together.

Each says the same things in the same order. One that is lost is noticed at once where its connection breaks, and
otherwise, a machine without power for example, after `PEER_TIMEOUT`. The others then end with an error, and torchrun,
if it was told `--max-restarts`, starts all of them again.
"""

import functools
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

__all__ = ["agree", "average", "in_turns", "join", "wait"]

#: How long a step waits for the other processes.
PEER_TIMEOUT = timedelta(minutes=5)
#: How long they wait for what one of them does for all: decoding corpora, validation.
PATIENCE = timedelta(days=1)


def join(device: str | None = None) -> tuple[int, int]:
    """This process' rank, and how many train together: as torchrun has set it up, or one alone."""
    if not torch.distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return 0, 1
        gpu = torch.cuda.is_available() and device != "cpu"
        if gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        with _peers():
            torch.distributed.init_process_group("nccl" if gpu else "gloo", timeout=PEER_TIMEOUT)
    with _peers():
        _patient()
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def average(tensors: list[Tensor]) -> None:
    """Replaces tensors by their means over the processes, in one message.

    Raises:
        ConnectionError: another process is lost.
    """
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    with _peers():
        torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def wait() -> None:
    """Until all processes have come here, for up to `PATIENCE`; for one process alone nothing.

    Raises:
        ConnectionError: another process is lost.
    """
    if torch.distributed.is_initialized():
        with _peers():
            torch.distributed.barrier(_patient())


@contextmanager
def in_turns() -> Iterator[None]:
    """The first process goes first, then the first of each other machine, then the rest.

    What the first one leaves in a shared folder, the others find; where the folder is not shared, one process of each
    machine makes its own.

    Raises:
        ConnectionError: another process is lost.
    """
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    turn = 0 if rank == 0 else 1 if os.environ.get("LOCAL_RANK", "0") == "0" else 2
    for _ in range(turn):
        wait()
    yield
    for _ in range(2 - turn):
        wait()


def agree(progress: list[int], state: Callable[[], dict[str, Any]], device: torch.device) -> dict[str, Any] | None:
    """What a process has to take over, so that all have the state of the one that is furthest, the first of them.

    Args:
        progress: of this process, as many numbers as everywhere; the greatest list is furthest.
        state: gives what `torch.load(weights_only=True)` reads.
        device: where the processes exchange tensors.

    Returns:
        The state, on the CPU; None where this process' own is the one.

    Raises:
        ConnectionError: another process is lost.
    """
    wait()  # some may come late
    own = torch.tensor(progress, device=device)
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    found = [torch.empty_like(own) for _ in range(ranks)]
    with _peers():
        torch.distributed.all_gather(found, own)
        furthest = max(range(ranks), key=lambda each: (found[each].tolist(), -each))
        content = io.BytesIO()
        if rank == furthest:
            torch.save(state(), content)
        size = torch.tensor(len(content.getbuffer()), device=device)
        torch.distributed.broadcast(size, furthest)
        told = torch.empty(int(size), dtype=torch.uint8, device=device)
        if rank == furthest:
            told.copy_(torch.frombuffer(content.getbuffer(), dtype=torch.uint8))
        torch.distributed.broadcast(told, furthest)
    if rank == furthest:
        return None
    return torch.load(io.BytesIO(told.cpu().numpy().tobytes()), map_location="cpu", weights_only=True)


@functools.cache
def _patient() -> Any:
    """A second group of all processes, with another timeout; made once."""
    return torch.distributed.new_group(timeout=PATIENCE, backend="gloo")


@contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # whatever it is that gloo, NCCL or the store report
        reason = str(error).partition("\n")[0]
        raise ConnectionError(
            f"lost another process of this training ({reason}); torchrun --max-restarts starts all of them again, and "
            "the same command goes on from the last checkpoint"
        ) from error
