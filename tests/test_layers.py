import pytest
import torch
from torch import nn

from modelscope_ext.layers.causal_conv import CausalConv2d, CausalConvTranspose2d
from modelscope_ext.layers.grouped_rnn import GroupedRNN


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
def test_grouped_gru_equals_pytorchs_and_so_do_its_gradients(layers, batch):
    torch.manual_seed(0)
    ours = GroupedRNN("GRU", 24, layers, groups=4).double()
    x = torch.randn(batch, 7, 24, dtype=torch.double, requires_grad=True)
    h0 = torch.randn(4, layers, batch, 6, dtype=torch.double, requires_grad=True)
    weight = torch.randn(batch, 7, 24, dtype=torch.double)

    def gradients(y):
        return torch.autograd.grad((y * weight).sum(), [x, h0, *ours.parameters()])

    y, (h,) = ours(x, (h0,))
    parts = [group(part, h0[i]) for i, (group, part) in enumerate(zip(ours.groups, x.chunk(4, -1), strict=True))]
    theirs = torch.cat([part for part, _ in parts], -1)
    assert torch.allclose(y, theirs, atol=1e-12)
    assert torch.allclose(h, torch.stack([end for _, end in parts]), atol=1e-12)
    for mine, reference in zip(gradients(y), gradients(theirs), strict=True):
        assert torch.allclose(mine, reference, atol=1e-10)


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
