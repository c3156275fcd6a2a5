"""P disconnected recurrent networks side by side, each on its contiguous share of the features.

Axes: sequences (B, T, R); inside, (P, T, B, H) with H = R / P.
"""

import torch
from torch import Tensor, nn

NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class _GruLayer(torch.autograd.Function):
    """One GRU layer of every group: one batched product for all inputs and one for each step.

    On a CPU autograd's bookkeeping dominates a step of `nn.GRU`, once a group. Here the backward pass is explicit and
    the tape is four tensors.
    """

    @staticmethod
    def forward(ctx, x, h0, w_ih, w_hh, bias, bias_hn):
        steps, batch, width = *x.shape[1:3], h0.shape[-1]
        gates = torch.baddbmm(bias.unsqueeze(1), x.flatten(1, 2), w_ih.transpose(1, 2))
        gates = gates.unflatten(1, (steps, batch))  # (P, T, B, 3H), becomes r, z, n
        outputs, recurrent_n = (gates.new_empty(*gates.shape[:3], width) for _ in range(2))
        w_hh_t, bias_hn = w_hh.transpose(1, 2), bias_hn.unsqueeze(1)
        product = h0.new_empty(h0.shape[0], batch, 3 * width)
        h = h0
        for t in range(steps):
            torch.bmm(h, w_hh_t, out=product)
            rz, n = gates[:, t, :, : 2 * width], gates[:, t, :, 2 * width :]
            rz.add_(product[..., : 2 * width]).sigmoid_()
            hn = torch.add(product[..., 2 * width :], bias_hn, out=recurrent_n[:, t])
            n.addcmul_(rz[..., :width], hn).tanh_()
            h = torch.lerp(n, h, rz[..., width:], out=outputs[:, t])
        ctx.save_for_backward(x, h0, w_ih, w_hh, gates, recurrent_n, outputs)
        return outputs

    @staticmethod
    def backward(ctx, grad_outputs):
        x, h0, w_ih, w_hh, gates, recurrent_n, outputs = ctx.saved_tensors
        width = h0.shape[-1]
        r, z, n = gates.split(width, -1)
        before = torch.cat((h0.unsqueeze(1), outputs[:, :-1]), 1)
        # d(gate's argument) / dh for all steps at once; the loop only multiplies them by dh.
        to_n = (1 - z) * (1 - n * n)
        grads = torch.empty_like(gates)  # (P, T, B, 3H), with respect to W_hh h
        torch.mul(to_n * recurrent_n * r, 1 - r, out=grads[..., :width])
        torch.mul((before - n) * z, 1 - z, out=grads[..., width : 2 * width])
        torch.mul(to_n, r, out=grads[..., 2 * width :])
        dh = torch.zeros_like(h0)
        for t in range(outputs.shape[1] - 1, -1, -1):
            dh = dh + grad_outputs[:, t]
            now = grads[:, t].unflatten(-1, (3, width)).mul_(dh.unsqueeze(-2)).flatten(-2)
            to_n[:, t].mul_(dh)
            dh = torch.baddbmm(dh * z[:, t], now, w_hh)
        rows = grads.flatten(1, 2)  # (P, T * B, 3H)
        grad_w_hh = torch.bmm(rows.transpose(1, 2), before.flatten(1, 2))
        grad_bias_hn = grads[..., 2 * width :].sum((1, 2))
        grads[..., 2 * width :] = to_n  # now with respect to W_ih x, which r does not multiply
        grad_w_ih = torch.bmm(rows.transpose(1, 2), x.flatten(1, 2))
        grad_x = torch.bmm(rows, w_ih).unflatten(1, x.shape[1:3])
        return grad_x, dh, grad_w_ih, grad_w_hh, rows.sum(1), grad_bias_hn


def grouped_gru(x: Tensor, h0: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """Return the output (P, T, B, H) of one GRU layer for each of P groups.

    Gate order (r, z, n) and equations are PyTorch's. x is (P, T, B, H_in) and h0 (P, B, H). The weights are (P, 3H,
    H_in) and (P, 3H, H) and the biases (P, 3H).
    """
    rz = 2 * h0.shape[-1]
    bias = torch.cat((b_ih[:, :rz] + b_hh[:, :rz], b_ih[:, rz:]), 1)
    return _GruLayer.apply(x, h0, w_ih, w_hh, bias, b_hh[:, rz:])


class GroupedRNN(nn.Module):
    """P disconnected GRUs or LSTMs of `layers` layers over contiguous parts of R features (Braun et al. 2021).

    The parts are not interleaved between layers. Parameters are PyTorch's with the groups stacked: `weight_ih_l0`
    (P, gates * H, H) and so on.
    """

    def __init__(self, kind: str, features: int, layers: int = 1, groups: int = 1) -> None:
        super().__init__()
        if features % groups:
            raise ValueError(f"{features} features cannot be cut into {groups} equal groups")
        self.kind, self.layers, self.groups, self.width = kind, layers, groups, features // groups
        #: False computes GRUs on a CPU by PyTorch's own kernels, for comparisons.
        self.fused = True
        gates = {"GRU": 3, "LSTM": 4}[kind] * self.width
        bound = self.width**-0.5  # as in PyTorch
        for layer in range(layers):
            for name in NAMES:
                shape = (groups, gates, self.width) if name.startswith("weight") else (groups, gates)
                self.register_parameter(f"{name}_l{layer}", nn.Parameter(torch.empty(shape).uniform_(-bound, bound)))

    def forward(self, x: Tensor, state: tuple[Tensor, ...] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the output for (B, T, R) in the same shape and the state after the last step.

        The state is (h,) for GRUs and (h, c) for LSTMs with (P, layers, B, R / P) each. None is zeros.
        """
        if state is None:
            shape = (self.groups, self.layers, x.shape[0], self.width)
            state = tuple(x.new_zeros(shape) for _ in range(1 if self.kind == "GRU" else 2))
        x = x.unflatten(-1, (self.groups, -1)).permute(2, 1, 0, 3).contiguous()  # (P, T, B, H)
        if self.fused and self.kind == "GRU" and x.device.type == "cpu":
            y, state = self._fused(x, state[0])
        else:
            y, state = self._by_pytorch(x, state)
        return y.permute(2, 1, 0, 3).flatten(2), state

    def layer_weights(self, layer: int) -> list[Tensor]:
        """Return the input weight and recurrent weight and their biases of a layer."""
        return [getattr(self, f"{name}_l{layer}") for name in NAMES]

    def _fused(self, x: Tensor, h0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        ends = []
        for layer in range(self.layers):
            x = grouped_gru(x, h0[:, layer], *self.layer_weights(layer))
            ends.append(x[:, -1])
        return x, (torch.stack(ends, 1),)

    def _by_pytorch(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run PyTorch's own kernels (cuDNN on a GPU) for one group at a time."""
        run = torch.gru if self.kind == "GRU" else torch.lstm
        flat = [weight for layer in range(self.layers) for weight in self.layer_weights(layer)]
        outputs, ends = [], []
        for i in range(self.groups):
            start = tuple(part[i] for part in state)
            y, *end = run(
                x[i], start[0] if self.kind == "GRU" else start, [weight[i] for weight in flat],
                True, self.layers, 0.0, self.training, False, False,
            )  # fmt: skip
            outputs.append(y)
            ends.append(end)
        return torch.stack(outputs), tuple(torch.stack(parts) for parts in zip(*ends, strict=True))
