"""Networks in PyTorch."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["TorchEngine"]


class TorchEngine:
    """An `Engine` for a network of this package, in eval mode, on the device where it is."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.name = net, type(net).__name__
        self.sample_rate, self.causal, self.attenuation_limit_db = net.sample_rate, net.causal, net.attenuation_limit_db
        self.delay, self.latency = (net.delay, net.latency) if net.causal else (0, 0)
        self.reference_level, self.lead_in_s = not net.causal, net.lead_in_s
        self.batch = 4 if next(net.parameters()).is_cuda else min(2, torch.get_num_threads())

    def feed(self, audio: np.ndarray, state: Any = None) -> tuple[np.ndarray, Any]:
        """See `Engine`."""
        with torch.inference_mode():
            out, state = self.net(self._tensor(audio), state)
        return out.cpu().numpy(), state

    def finish(self, state: Any) -> np.ndarray:
        """See `Engine`."""
        with torch.inference_mode():
            return self.net.finish(state).cpu().numpy()

    def enhance(self, audio: np.ndarray) -> np.ndarray:
        """See `Engine`."""
        with torch.inference_mode():
            return self.net.enhance(self._tensor(audio)).cpu().numpy()

    def _tensor(self, audio: np.ndarray) -> Tensor:
        return torch.from_numpy(np.require(audio, requirements=["C", "W"])).to(next(self.net.parameters()).device)
