"""One process, or several that torchrun has started, train together."""

import os

import torch
from torch import Tensor

__all__ = ["average", "join"]


def join(device: str | None = None) -> tuple[int, int]:
    """This process' rank, and how many train together: as torchrun has set it up, or one alone."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return 0, 1
    if not torch.distributed.is_initialized():
        gpu = torch.cuda.is_available() and device != "cpu"
        if gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        torch.distributed.init_process_group("nccl" if gpu else "gloo")
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def average(tensors: list[Tensor]) -> None:
    """Replaces tensors by their means over the processes, in one message."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
