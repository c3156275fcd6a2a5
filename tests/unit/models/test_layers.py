import pytest
import torch
from torch import nn

from modelscope_ext.models.cruse.causal_conv import CausalConv2d, CausalConvTranspose2d
from modelscope_ext.models.grouped_rnn import GroupedRNN


def pytorchs(net, x, state):
    """Return the same recurrences by `nn.GRU` and `nn.LSTM`, one for each group."""
    outputs, ends = [], []
    for i, part in enumerate(x.chunk(net.groups, -1)):
        stock = getattr(nn, net.kind)(net.width, net.width, net.layers, batch_first=True)
        weights = {name: parameter[i] for name, parameter in net.named_parameters()}
        start = tuple(s[i] for s in state)
        y, end = torch.func.functional_call(stock, weights, (part, start[0] if net.kind == "GRU" else start))
        outputs.append(y)
        ends.append((end,) if net.kind == "GRU" else end)
    return torch.cat(outputs, -1), tuple(torch.stack(e) for e in zip(*ends, strict=True))


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("path", ["default", "one by one"])
def test_groups_equal_pytorchs_and_so_do_their_gradients(kind, layers, batch, path):
    torch.manual_seed(0)
    net = GroupedRNN(kind, 24, layers, groups=4).double()
    if path == "one by one":  # as on a GPU
        net.fused = False
    x = torch.randn(batch, 7, 24, dtype=torch.double, requires_grad=True)
    state = tuple(
        torch.randn(4, layers, batch, 6, dtype=torch.double, requires_grad=True) for _ in range(1 + (kind == "LSTM"))
    )
    weight = torch.randn(batch, 7, 24, dtype=torch.double)
    (y, end), (stock_y, stock_end) = net(x, state), pytorchs(net, x, state)
    assert torch.allclose(y, stock_y, atol=1e-12)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(end, stock_end, strict=True))
    inputs = [x, *state, *net.parameters()]
    ours, stock = (torch.autograd.grad((out * weight).sum(), inputs) for out in (y, stock_y))
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(ours, stock, strict=True))


def test_grouped_gru_passes_gradcheck():
    net = GroupedRNN("GRU", 4, groups=2).double()
    x = torch.randn(2, 3, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: net(x)[0], (x,))


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_a_recurrent_stream_equals_the_whole(kind):
    net = GroupedRNN(kind, 12, 2, groups=3)
    x = torch.randn(2, 9, 12)
    whole, end = net(x)
    state, parts = None, []
    for part in x.split((1, 5, 3), 1):
        y, state = net(part, state)
        parts.append(y)
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(state, end, strict=True))


def test_groups_must_divide_the_features():
    with pytest.raises(ValueError, match="10 features cannot be cut into 4 equal groups"):
        GroupedRNN("GRU", 10, groups=4)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("kernel", [1, 2])
@pytest.mark.parametrize("freq", [20, 21])
def test_transposed_conv_mirrors_the_conv_and_both_are_causal(padding, kernel, freq):
    down = CausalConv2d(3, 4, kernel, padding)
    x = torch.randn(2, 3, 6, freq)
    y, _ = down(x)
    up = CausalConvTranspose2d(4, 3, kernel, padding, y.shape[3], freq)
    z, _ = up(y)
    assert z.shape == x.shape
    changed = x.clone()
    changed[:, :, 4:] += 1
    z2, _ = up(down(changed)[0])
    assert torch.equal(z2[:, :, :4], z[:, :, :4])
    assert not torch.allclose(z2[:, :, 4], z[:, :, 4])


def test_causal_conv_equals_a_padded_conv():
    layer = CausalConv2d(2, 3, 2, 1)
    x = torch.randn(1, 2, 5, 9)
    padded = nn.functional.pad(x, (1, 1, 1, 0))
    expected = nn.functional.conv2d(padded, layer.conv.weight, layer.conv.bias, (1, 2))
    assert torch.allclose(layer(x)[0], expected, atol=1e-6)
    first, cache = layer(x[:, :, :2])
    second, _ = layer(x[:, :, 2:], cache)
    assert torch.allclose(torch.cat((first, second), 2), expected, atol=1e-6)
