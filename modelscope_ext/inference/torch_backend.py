"""Networks by PyTorch."""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modelscope_ext.hub import model_folder
from modelscope_ext.inference.backend import Limits
from modelscope_ext.inference.stock import load_network
from modelscope_ext.models import to_device

if hasattr(os, "register_at_fork"):
    # A child has none of its parent's threads, but OpenMP would wait for them.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


class TorchBackend:
    """A `Backend` for a network of this package, on its device.

    Args:
        net: in eval mode.
        bfloat16: compute whole utterances in bfloat16: half the bytes to move and an error of about -45 dB. None does
            so for FRCRN on GPUs that have it.
    """

    def __init__(self, net: nn.Module, bfloat16: bool | None = None) -> None:
        self._net, self.name = net, type(net).__name__
        self.sample_rate, self.causal = net.sample_rate, net.causal
        device = next(net.parameters()).device
        on_gpu = device.type == "cuda"
        if bfloat16 is None:
            bfloat16 = on_gpu and not net.causal and torch.cuda.get_device_capability(device) >= (8, 0)
        self._bfloat16 = bfloat16
        has_means = hasattr(net, "squeeze_means")
        own = {name: getattr(net, name) for name in ("unit_level", "chunk_s") if hasattr(net, name)}
        excerpts = {"excerpt_s": 90.0, "excerpt_share": 0.8} if has_means and net.quick_means else {}
        self.limits = Limits(
            algorithmic_delay=net.algorithmic_delay if net.causal else 0,
            latency=net.latency if net.causal else 0,
            hop=getattr(net, "hop", 1),
            attenuation_limit_db=net.attenuation_limit_db,
            warmup_s=net.warmup_s,
            reference_level=net.reference_level,
            batch=4 if on_gpu else 2,  # not the number of threads, on which the output would depend
            needs_statistics=has_means,
            **own,
            **excerpts,
        )

    def __reduce__(self) -> tuple:
        """Go to another process by value: torch shares each tensor by a descriptor, and a forkserver takes 256."""
        return _unpickled, (pickle.dumps(self._net), self._bfloat16)

    def feed(self, audio: np.ndarray, state: Any = None) -> tuple[np.ndarray, Any]:
        """See `Backend`."""
        with self._inference():
            out, state = self._net(self._tensor(audio), state)
        return _array(out), state

    def flush(self, state: Any) -> np.ndarray:
        """See `Backend`."""
        with self._inference():
            return _array(self._net.flush(state))

    def enhance(
        self, audio: np.ndarray, stats: np.ndarray | None = None, more: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """See `Backend`."""
        with self._inference(self._bfloat16):
            if not self.limits.needs_statistics:
                return _array(self._net.enhance(self._tensor(audio))), None
            means = None if stats is None else self._tensor(stats)
            out, own = self._net.enhance_part(self._tensor(audio), means, more)
        return _array(out), _array(own)

    def statistics(self, audio: np.ndarray, parts: int = 1, quick: bool = False) -> np.ndarray:
        """See `Backend`."""
        with self._inference(self._bfloat16):
            return _array(self._net.squeeze_means(self._tensor(audio), parts, quick))

    @contextmanager
    def _inference(self, bfloat16: bool = False) -> Iterator[None]:
        device = next(self._net.parameters()).device.type
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bfloat16):  # not the caller's
            yield

    def _tensor(self, audio: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(audio, order="C")).to(next(self._net.parameters()).device)


def load_backend(model: nn.Module | str | Path, device: str | None = None) -> TorchBackend:
    """Return a back end for a network, a model folder or an id of ModelScope's hub.

    Args:
        model: the network or its place.
        device: "cpu", "cuda" …; None leaves the network where it is.
    """
    if isinstance(model, (str, Path)):
        model = load_network(model_folder(model))
    return TorchBackend(to_device(model, device) if device else model)


def _unpickled(net: bytes, bfloat16: bool) -> TorchBackend:
    return TorchBackend(pickle.loads(net), bfloat16)


def _array(x: Tensor) -> np.ndarray:
    return x.float().cpu().numpy()
