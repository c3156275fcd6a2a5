import sys

import pytest
import torch
from conftest import ROOT

from modelscope_ext.checkpoint import load_model
from modelscope_ext.models import build
from modelscope_ext.models.cruse.network import SKIPS, CruseConfig
from modelscope_ext.pretrained import DEFAULT

sys.path.append(str(ROOT / "benchmarks"))
from published import PUBLISHED, published_macs

SMALL = "CRUSE3-24-1xGRU3"
#: Parameters without batch norm, in millions: facts/cruse.md counts 10.6 for CRUSE4-120 and so on.
PARAMETERS = {
    "CRUSE5-256-2xLSTM1": 17.3,
    "CRUSE5-256-2xGRU1": 13.1,
    "CRUSE5-256-1xGRU1": 6.8,
    "CRUSE4-120-1xGRU1": 10.6,
    "CRUSE4-64-1xGRU1": 3.06,
    "CRUSE4-64-1xGRU4": 0.83,
    "CRUSE4-128-1xGRU4": 3.11,
}


def randomised(name, **options):
    """Return a network in eval mode whose batch norms are no identity."""
    torch.manual_seed(1)
    net = build(name, **options)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.weight, 1, 0.2)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return net.eval()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_variants_cost_what_the_paper_says(name):
    config = CruseConfig.from_name(name)
    assert config.name == name
    assert published_macs(name) / 1e6 == pytest.approx(PUBLISHED[name], rel=0.03)
    if name in PARAMETERS:
        net = build(name, batch_norm=False, skip="none")
        assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(PARAMETERS[name], rel=0.03)


@pytest.mark.parametrize(
    "options", [*({"skip": skip} for skip in SKIPS), {"mask": "complex"}, {"bidirectional": True}], ids=str
)
def test_honest_macs_are_what_hooks_count(options):
    """Hooks count every multiplication by a weight for a frame."""
    net = randomised("CRUSE4-128-1xGRU4", **options)
    counted = []

    def count(module, inputs, output):
        x, y = inputs[0], output
        if isinstance(module, torch.nn.Conv2d):
            counted.append(y.numel() * module.weight[0].numel())
        elif isinstance(module, torch.nn.ConvTranspose2d):
            # one frame; the cached one was counted before
            counted.append(x[:, :, -1:].numel() * module.weight[0].numel())
        elif type(module).__name__ == "_ChannelScale":
            counted.append(x.numel())
        elif type(module).__name__ == "GroupedRNN":
            counted.append(sum(p.numel() for p in module.parameters() if p.ndim == 3) * x.shape[1])

    for module in net.modules():
        module.register_forward_hook(lambda m, i, o: count(m, i, o[0] if isinstance(o, tuple) else o))
    with torch.no_grad():
        net.mask(torch.randn(1, 1, 161, dtype=torch.complex64), net.initial_state())
    # Convolutions at the edges of the frequency axis multiply zeros; they are counted like the others.
    assert net.macs_per_frame() == pytest.approx(sum(counted), rel=0.01)


def test_honest_count_of_the_facts_sheet():
    assert build("CRUSE4-128-1xGRU4", skip="none").macs_per_frame() == pytest.approx(4.84e6, rel=0.01)


@pytest.mark.parametrize("chunk", [1, 160, 997])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((SMALL, {"skip": skip}) for skip in SKIPS),
        (SMALL, {"batch_norm": False, "freq_padding": 0}),
        (SMALL, {"batch_norm": False, "mask": "complex"}),
        (SMALL, {"mask": "complex", "window": 512}),
        ("CRUSE3-24-2xLSTM1", {}),
        ("CRUSE5-32-2xGRU2", {}),
        ("CRUSE4-64-1xGRU4-1D", {}),
    ],
    ids=str,
)
def test_a_stream_equals_the_whole(name, options, chunk):
    net = randomised(name, **options)
    audio = torch.randn(2, 2400 if chunk == 1 else 8000) * 0.1
    with torch.no_grad():
        whole, _ = net(audio)
        state, parts = None, []
        for part in audio.split(chunk, 1):
            out, state = net(part, state)
            parts.append(out)
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)
    assert whole.std() > 1e-3


@pytest.mark.parametrize(
    ("name", "options", "latency"), [(SMALL, {}, 320), ("CRUSE5-32-2xLSTM2", {}, 320), (SMALL, {"window": 512}, 512)]
)
def test_nothing_later_than_the_latency_has_an_effect(name, options, latency):
    net = randomised(name, **options)
    assert net.latency == latency
    audio = torch.randn(1, 4000) * 0.1
    with torch.no_grad():
        whole = net.enhance(audio)
        for cut in (1000, 1117, 2400):
            changed = audio.clone()
            changed[:, cut:] = torch.randn(1, 4000 - cut)
            differs = (net.enhance(changed) - whole).abs()[0] > 1e-7
            first = int(differs.nonzero()[0])
            assert cut - net.latency <= first <= cut


@pytest.mark.parametrize("length", [0, 1, 3, 160, 319, 320, 12345])
def test_enhance_keeps_the_length(length):
    assert randomised(SMALL).enhance(torch.randn(3, length)).shape == (3, length)


def test_unit_gain_returns_the_input(monkeypatch):
    """With a gain of one, analysis, synthesis and alignment are exact."""
    net = randomised(SMALL)
    monkeypatch.setattr(net, "mask", lambda spec, state: (torch.ones_like(spec.real), state))
    audio = torch.randn(2, 5001)
    assert torch.allclose(net.enhance(audio), audio, atol=1e-5)


def test_complex_masks_turn_phases_and_never_amplify():
    net = randomised(SMALL, mask="complex", batch_norm=False)
    spec = torch.randn(2, 5, 161, dtype=torch.complex64) * 3
    with torch.no_grad():
        mask, _ = net.mask(spec, net.initial_state(2))
        again, _ = net.mask(spec * 1j, net.initial_state(2))
    assert mask.is_complex()
    assert mask.shape == spec.shape
    assert mask.abs().max() < 1
    assert mask.angle().std() > 1e-3
    assert (again - mask).abs().max() > 1e-4, "the phase has an effect"
    silent = net.enhance(torch.zeros(1, 3200))
    assert not silent.any()
    net.enhance(torch.zeros(1, 3200)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("CRUSE4-64", {}, "no CRUSE is called 'CRUSE4-64'"),
        ("FRCRM", {}, "FRCRM"),
        (SMALL, {"skips": "add"}, "unknown CRUSE options skips; known are layers"),
        (SMALL, {"skip": "mul"}, "skip must be one of none, add"),
        (SMALL, {"mask": "real"}, "mask must be one of gain, complex"),
        ("CRUSE4-64-1xGRU7", {}, "704 features .* cannot be cut into 7 equal groups"),
        ("CRUSE4-1000000000-1xGRU1", {}, "channels must be 1 to 4096"),
        ("CRUSE9-64-1xGRU1", {}, "layers must be 1 to 7"),
    ],
)
def test_unknown_names_and_options_are_reported(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"need \(B, N\) audio, got shape \(1, 1, 9\)"):
        build(SMALL)(torch.zeros(1, 1, 9))


@pytest.mark.parametrize(("name", "mask"), [("CRUSE3-24-2xGRU3", "complex"), ("CRUSE3-24-1xLSTM1", "gain")])
def test_weights_of_another_window_are_resized(name, mask, noisy):
    """With the same window the output is the same; with a longer one it is closer than that of a fresh network."""
    options = {"mask": mask, "batch_norm": False}
    other, same, longer, fresh = (randomised(name, window=window, **options) for window in (320, 320, 512, 512))
    with torch.no_grad():
        for parameter in other.rnn.parameters():  # larger than random values, to give the recurrent part an effect
            parameter.mul_(3)
        same.load_resized(other)
        longer.load_resized(other)
        audio = torch.from_numpy(noisy[None, :32000])
        wanted = other.enhance(audio)
        errors = [float((net.enhance(audio) - wanted).square().mean() / wanted.var()) for net in (same, longer, fresh)]
    assert errors[0] < 1e-9
    assert errors[1] < errors[2]
    for unlike in (randomised(SMALL), randomised(name, window=256, **options)):
        with pytest.raises(ValueError, match="cannot begin from the weights of another network: CruseConfig"):
            unlike.load_resized(other)
    cut = build("CRUSE4-6-1xGRU11")  # 6 channels x 11 frequencies: 6 features a group
    with pytest.raises(ValueError, match="its groups cut channels into parts"):
        cut.load_resized(cut)


def test_both_directions_see_the_future_and_do_not_stream(noisy):
    net, audio = randomised(SMALL, bidirectional=True).double(), torch.from_numpy(noisy[None, :8000]).double()
    changed = audio.clone()
    changed[:, 5000:] = 0.3
    with torch.no_grad():
        assert (net.enhance(changed) - net.enhance(audio))[:, :3000].abs().amax() > 1e-10  # rounding is at 1e-17
        assert net.enhance(audio[:, :3999]).shape == (1, 3999)
    with pytest.raises(ValueError, match="whole recording"):
        net(audio)
    net.enhance(audio).square().sum().backward()
    assert not [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()]


@pytest.mark.parametrize("window", [320, 512])
def test_both_directions_begin_from_a_causal_network(noisy, window):
    options = {"batch_norm": False, "bidirectional": True}
    causal, both, same = randomised(SMALL, batch_norm=False), *(randomised(SMALL, **options) for _ in range(2))
    longer = randomised(SMALL, **options, window=window)
    audio = torch.from_numpy(noisy[None, :16000])
    with torch.no_grad():
        both.load_resized(causal)
        assert torch.equal(both.backward_rnn.weight_hh_l0, causal.rnn.weight_hh_l0)
        same.load_resized(both)
        assert torch.equal(same.enhance(audio), both.enhance(audio))
        both.backward_share.zero_()
        wanted = causal.enhance(audio)
        assert torch.allclose(both.enhance(audio), wanted, atol=1e-6)
        longer.load_resized(both)
        error = float((longer.enhance(audio) - wanted).square().mean() / wanted.var())
        assert error < (1e-9 if window == 320 else 0.1)
    with pytest.raises(ValueError, match="cannot begin from the weights of another network: CruseConfig"):
        causal.load_resized(both)


def test_a_trained_net_with_a_longer_window_is_close_at_once(noisy):
    trained = load_model(DEFAULT)
    other = build(trained.config.name, **{**vars(trained.config), "window": 640})
    other.load_resized(trained)
    audio = torch.from_numpy(noisy[None, 4800:48000])
    with torch.no_grad():
        wanted = trained.enhance(audio)
        error = other.eval().enhance(audio) - wanted
    assert float(error.square().mean() / wanted.var()) < 0.1
