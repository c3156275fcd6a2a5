"""Muon: an optimizer whose steps have all singular values near one (Jordan et al. 2024, "Muon").

The step of a weight matrix is its momentum after a Newton-Schulz iteration towards orthogonality. The factor
0.2 sqrt(max(rows, columns)) gives it the size of an AdamW step, so learning rate and weight decay mean the same
(Liu et al., arXiv 2502.16982).
"""

import torch
from torch import Tensor

#: Coefficients of the quintic iteration. The singular values end between about 0.7 and 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """Return (..., M, N) matrices with their singular values brought near one; zeros stay."""
    a, b, c = COEFFICIENTS
    x = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


def _as_matrices(weight: Tensor) -> Tensor:
    """Return a convolution (out, in, …) as one matrix; stacked gates (groups, gates * H, H) as one matrix a gate."""
    if weight.ndim == 3:
        return weight.unflatten(1, (-1, weight.shape[2])).flatten(0, 1)
    return weight.flatten(1).unsqueeze(0)


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum. Learning rate and weight decay are as for AdamW.

    The parameters are weights of convolutions (out, in, …) or stacked recurrent ones (groups, gates * H, H). Biases and
    the first and the last layer are for AdamW.
    """

    def __init__(self, params, lr: float = 2e-3, momentum: float = 0.95, weight_decay: float = 0.1) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """Change the weights by their gradients."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                average = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                matrices = _as_matrices(weight.grad.lerp(average, group["momentum"]))
                change = orthogonalised(matrices) * (0.2 * max(matrices.shape[1:]) ** 0.5)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(change.reshape(weight.shape), alpha=group["lr"])
