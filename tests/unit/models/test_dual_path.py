"""Dual-path networks: shapes, streaming, both directions, both kinds of mixers, operation counts, configuration."""

import numpy as np
import pytest
import torch
from torch import nn

from modelscope_ext import Denoiser
from modelscope_ext.export import export_onnx
from modelscope_ext.models import build
from modelscope_ext.models.dual_path.config import DualPathConfig
from modelscope_ext.models.dual_path.network import DualPath

VARIANTS = [{}, {"heads": 4}, {"mixer": "attention", "heads": 4}, {"norm": True}]


def network(name="DualPath-T", **options) -> DualPath:
    torch.manual_seed(0)
    net = build(name, **options).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return net


@pytest.fixture
def audio():
    return torch.randn(2, 4000, generator=torch.Generator().manual_seed(1)) * 0.1


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("chunk", [1, 160, 997])
@torch.inference_mode()
def test_a_stream_equals_the_whole_utterance(options, chunk, audio):
    net = network(**options)
    audio = audio[:, :700] if chunk == 1 else audio
    whole = net.enhance(audio)
    state, parts = None, []
    for piece in audio.split(chunk, 1):
        out, state = net(piece, state)
        parts.append(out)
    streamed = torch.cat((*parts, net.flush(state)), 1)[
        :, net.algorithmic_delay : net.algorithmic_delay + audio.shape[1]
    ]
    assert torch.allclose(streamed, whole, atol=1e-6)


@torch.inference_mode()
def test_a_causal_network_does_not_see_the_future(audio):
    net = network()
    changed = audio.clone()
    changed[:, 2000:] = 0.3
    difference = (net.enhance(changed) - net.enhance(audio)).abs().amax(0)
    assert difference[: 2000 - net.latency].amax() < 1e-6 < difference[2000:].amax()


@torch.inference_mode()
def test_a_bidirectional_network_sees_the_future_and_does_not_stream(audio):
    net, audio = network(bidirectional=True).double(), audio.double()
    changed = audio.clone()
    changed[:, 2500:] = 0.3
    assert (net.enhance(changed) - net.enhance(audio))[:, :1500].abs().amax() > 1e-10  # rounding is at 1e-17
    assert net.enhance(audio[:, :3999]).shape == (2, 3999)
    with pytest.raises(ValueError, match="whole recording"):
        net(audio)


@torch.inference_mode()
def test_both_directions_begin_from_a_causal_network(audio):
    causal, both = network(norm=True), network(norm=True, bidirectional=True)
    random = both.blocks[0].recurrent.weight_ih[1].clone()
    both.load_resized(causal)
    assert torch.allclose(both.enhance(audio), causal.enhance(audio), atol=1e-6)
    assert torch.equal(both.blocks[0].recurrent.weight_ih[1], random)
    same = network(norm=True, bidirectional=True)
    same.load_resized(both)
    assert torch.equal(same.enhance(audio), both.enhance(audio))
    for net, other in ((causal, both), (network("DualPath-B"), causal), (causal, build("CRUSE4-64-1xGRU4"))):
        with pytest.raises(ValueError, match="cannot begin from the weights of another network"):
            net.load_resized(other)


@torch.inference_mode()
def test_both_directions_are_alike():
    """With the same weights in both directions, a reversed input of the recurrent layer gives the reversed output."""
    layer = network(bidirectional=True).blocks[0].recurrent
    for weight in layer.weights:
        weight[1] = weight[0]
    layer.project = nn.Identity()
    x = torch.randn(7, 5, 24)
    forward, backward = layer(x, None)[0].chunk(2, -1)
    flipped = layer(x.flip(0), None)[0].flip(0).chunk(2, -1)
    assert torch.allclose(forward, flipped[1], atol=1e-6)
    assert torch.allclose(backward, flipped[0], atol=1e-6)


@torch.inference_mode()
def test_the_recurrent_layer_is_a_gru():
    layer = network().blocks[0].recurrent
    gru = nn.GRU(24, 24)
    for name, weight in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), layer.weights, strict=True):
        getattr(gru, f"{name}_l0").copy_(weight[0])
    x = torch.randn(9, 6, 24)
    expected, end = gru(x)
    actual, state = layer(x, None)
    assert torch.allclose(actual, layer.project(expected), atol=1e-6)
    assert torch.allclose(state, end, atol=1e-6)


@torch.inference_mode()
def test_the_mask_is_bounded_and_a_batch_row_is_alone(audio):
    net = network()
    mask, _ = net.mask(torch.fft.rfft(audio[:, :512]).unsqueeze(1) * 100, net.initial_state(2))
    assert mask.shape == (2, 1, 257)
    assert mask.abs().amax() <= 1
    assert torch.allclose(net.enhance(audio)[1:], net.enhance(audio[1:]), atol=1e-6)


def test_every_parameter_learns(audio):
    for options in VARIANTS:
        net = network(**options, bidirectional=True)
        net.enhance(audio).square().sum().backward()
        assert not [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()]


@pytest.mark.parametrize("options", [*VARIANTS, {"bidirectional": True}], ids=str)
def test_operations_are_counted_honestly(options):
    """Compared with a count over the modules that multiply, and the products of matrices with no module."""
    net = network(**options)
    counted = []

    def count(module, inputs, output):
        if isinstance(module, nn.Linear):
            counted.append(output.numel() * module.in_features)
        else:
            spread = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
            counted.append(spread.numel() // spread.shape[1] * module.weight.numel())

    for module in net.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            module.register_forward_hook(count)
    with torch.inference_mode():
        net.enhance(torch.zeros(1, 256 * 9))
    config, frames = net.config, 10
    bands, inner = config.inner_bands, config.inner_channels
    directions = 2 if config.bidirectional else 1
    mixing = 2 * bands if config.mixer == "attention" else bands
    others = 2 * 64 * bands * config.channels + config.blocks * bands * inner * (6 * directions * inner + mixing)
    assert sum(counted) / frames + others == net.macs_per_frame()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("DualPath-X", {}, "no dual-path network is called"),
        ("DualPath-S", {"colour": 1}, "unknown DualPath options colour; known are channels"),
        ("DualPath-S", {"blocks": 0}, "blocks must be 1 to 16"),
        ("DualPath-S", {"norm": 1}, "norm must be true or false"),
        ("DualPath-S", {"mixer": "fourier"}, "matrix, attention"),
        ("DualPath-S", {"heads": 5}, "cannot be split into 5 heads"),
    ],
)
def test_wrong_configurations_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)


def test_names_come_back():
    assert [DualPathConfig.from_name(f"DualPath-{size}").name for size in "TBSM"] == [f"DualPath-{s}" for s in "TBSM"]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("blocks", [False, True])
def test_an_exported_step_computes_the_same(options, blocks, tmp_path):
    export_onnx(network(**options), tmp_path / "step.onnx", blocks=blocks)  # which compares the two


@pytest.mark.parametrize("options", [*VARIANTS, {"bidirectional": True}], ids=str)
def test_exported_utterances_compute_the_same(options, tmp_path):
    net = network(**options)
    export_onnx(net, tmp_path / "whole.onnx", utterance=True)
    audio = np.random.default_rng(3).standard_normal(5000).astype(np.float32) * 0.1
    with torch.inference_mode():
        expected = net.enhance(torch.from_numpy(audio)[None])[0].numpy()
    actual = Denoiser(tmp_path / "whole.onnx")(audio, 16000)
    if not net.causal:  # a causal one hears a lead-in
        assert np.abs(actual - expected).max() < 1e-5


def test_a_bidirectional_network_has_no_step(tmp_path):
    with pytest.raises(ValueError, match="no step to export"):
        export_onnx(network(bidirectional=True), tmp_path / "step.onnx", utterance=False)
