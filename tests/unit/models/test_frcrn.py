"""FRCRN against ModelScope's own class: same weights, same batch, same numbers."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import RELEASED, SHARED, randomize
from torch.nn import functional

from modelscope_ext.checkpoint import dft_matrices
from modelscope_ext.losses import frcrn_loss, si_snr
from modelscope_ext.models import build
from modelscope_ext.models.frcrn.complex_conv import ComplexConv2d, ComplexConvTranspose2d
from modelscope_ext.models.frcrn.config import FrcrnConfig
from modelscope_ext.models.frcrn.fsmn import ComplexFsmn

NAMES = ("spec_l1", "wav_l1", "mask_l1", "spec_l2", "wav_l2", "mask_l2")  # the order of the stock class's list


def relative(found, wanted):
    return ((found - wanted).norm() / wanted.norm()).item()


@pytest.fixture(scope="module")
def ours():
    torch.manual_seed(1)
    net = build("FRCRN")
    randomize(net)
    return net.eval()


@pytest.fixture
def pair(ours):
    """(stock, ours) with the same weights, in eval mode; both may be changed."""
    stock_class = pytest.importorskip("modelscope.models.audio.ans.frcrn").FRCRN
    stock, net = stock_class(**RELEASED).eval(), build("FRCRN").eval()
    net.load_state_dict(ours.state_dict())
    found = stock.load_state_dict(ours.state_dict(), strict=False)
    assert not found.unexpected_keys
    return stock, net


def test_the_released_configuration_is_the_default():
    path = SHARED / "model_card" / "configuration.json"
    found = json.loads(path.read_text())["model"] if path.exists() else {"type": "", **RELEASED}
    found.pop("type")
    assert found == RELEASED
    assert FrcrnConfig(**found) == FrcrnConfig()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_depth": 20}, "model_depth must be 14, got 20"),
        ({"win_type": "hamming", "complex": False}, "complex must be True.*win_type must be 'hann', got 'hamming'"),
        ({"depth": 14, "a": 1}, "unknown FRCRN options a, depth; known are complex, model_complexity, .*win_type"),
    ],
)
def test_other_configurations_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build("FRCRN", **options)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("batch", "length"), [(1, 640), (2, 1700), (3, 961), (4, 641 + 320)])
def test_outputs_are_those_of_the_stock_class(pair, training, batch, length):
    stock, net = (m.train(training) for m in pair)
    audio = torch.randn(batch, length, generator=torch.Generator().manual_seed(batch)) * 0.1
    with torch.no_grad():
        wanted, found = dict(zip(NAMES, stock(audio), strict=True)), net(audio)
    assert sorted(found) == sorted(NAMES)
    for name in NAMES:
        assert found[name].shape == wanted[name].shape
        assert relative(found[name], wanted[name]) < 3e-5, name
    if training:
        state = stock.state_dict()
        for name, value in net.state_dict().items():
            torch.testing.assert_close(value, state[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_gradients_are_those_of_the_stock_class(pair, training):
    """Use double precision: in single precision, rounding moves values across the corner of a ReLU."""
    stock, net = (m.double().train(training) for m in pair)
    state = stock.state_dict()
    for name, value in dft_matrices(net.window).items():  # both by the same DFT
        state[name].copy_(value)
    torch.manual_seed(3)
    audio = torch.randn(2, 960, dtype=torch.float64) * 0.1
    wanted, found = dict(zip(NAMES, stock(audio), strict=True)), net(audio)
    directions = {name: torch.randn_like(value) / value.norm().detach() for name, value in wanted.items()}
    for outputs in (wanted, found):
        sum((outputs[name] * direction).sum() for name, direction in directions.items()).backward()
    grads = {name: p.grad for name, p in stock.named_parameters(remove_duplicate=False)}
    total = torch.stack([g.norm() for g in grads.values() if g is not None]).norm()
    unused = [name for name, p in net.named_parameters() if p.grad is None]
    assert unused == [n for n, _ in net.named_parameters() if grads[n] is None]
    assert {tuple(n.split(".")[1:3]) for n in unused} == {
        ("fsmn_enc", "0"),
        ("fsmn_dec", "6"),
        ("se_layers_enc", "6"),
        ("se_layers_dec", "5"),
    }
    for name, p in net.named_parameters():
        if p.grad is not None:
            assert (p.grad - grads[name]).norm() <= 1e-6 * grads[name].norm() + 1e-10 * total, name


def test_the_loss_is_the_stock_loss(pair, clean, noisy):
    stock, _ = pair
    clean, noisy = (torch.from_numpy(x[: 2 * 6400]).view(2, -1) for x in (clean[8000:], noisy[8000:]))
    with torch.no_grad():
        outputs = stock(noisy)
        wanted = stock.loss(noisy, clean, outputs, mode="Mix") | stock.loss(noisy, clean, outputs, mode="SiSNR")
    outputs = dict(zip(NAMES, outputs, strict=True))
    found = frcrn_loss(outputs["wav_l2"], outputs["mask_l2"], noisy, clean)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-4), name


def test_the_loss_takes_lengths_that_are_no_whole_frames(ours):
    noisy, clean = torch.randn(2, 2, 1000)
    with torch.no_grad():
        outputs = ours(noisy)
    found = frcrn_loss(outputs["wav_l2"], outputs["mask_l2"], noisy, clean)
    assert found["loss"].isfinite()
    assert found["sisnr"] == -si_snr(outputs["wav_l2"], clean[:, :960]).mean()
    with pytest.raises(ValueError, match=r"got \(2, 1000\) and \(2, 960\)"):
        frcrn_loss(outputs["wav_l2"], outputs["mask_l2"], noisy, clean[:, :960])


def test_each_of_a_batch_is_as_alone(ours):
    audio = torch.randn(2, 640)  # one frame: the shape at which a bare squeeze goes wrong
    with torch.no_grad():
        together, alone = ours(audio), [ours(row[None]) for row in audio]
    for name in NAMES:
        assert relative(together[name], torch.cat([one[name] for one in alone])) < 1e-5, name


def test_utterances_side_by_side_are_as_one_after_the_other(ours):
    """Two threads compute two utterances at the same time; the number of threads stays."""
    audio = torch.randn(3, 8000) * 0.1
    with torch.inference_mode():
        alone = torch.cat([ours.enhance(each[None]) for each in audio])
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            together = ours.enhance(audio)
            assert torch.get_num_threads() == 2
            with ThreadPoolExecutor(1) as later:
                assert later.submit(torch.get_num_threads).result() == 2
        finally:
            torch.set_num_threads(threads)
    assert torch.allclose(together, alone, atol=1e-6)


def test_means_of_another_input_can_be_given(ours):
    """The fast and the plain way agree on given means; the input's own means change nothing."""
    audio, other = torch.randn(2, 4000) * 0.1, torch.randn(2, 6000) * torch.linspace(0, 0.3, 6000)
    with torch.no_grad():
        (means,), (own,) = ours.squeeze_means(other), ours.squeeze_means(audio)
        assert means.shape == (2, 22, 256)
        (fast, fast_own), (same, _) = (ours.enhance_part(audio, each) for each in (means, own))
        alone = ours.enhance(audio)
    with torch.enable_grad():
        (plain, plain_own), (plain_means,) = ours.enhance_part(audio, means.detach()), ours.squeeze_means(other)
    assert relative(plain_means, means) < 1e-5
    assert relative(plain_own, fast_own) < 1e-5
    assert relative(fast_own, own) > 1e-4
    assert relative(fast, plain) < 1e-5
    assert relative(same, alone) < 1e-5
    assert relative(fast, alone) > 1e-4


@pytest.mark.parametrize("amx", [False, True])
def test_quick_means_are_about_the_same(ours, monkeypatch, amx):
    monkeypatch.setattr("modelscope_ext.models.frcrn.network.has_amx", lambda: amx)
    assert ours.quick_means == amx
    with torch.inference_mode():
        audio = torch.randn(2, 4000) * torch.linspace(0, 0.3, 4000)  # bfloat16 is slow without hardware for it
        (means,), (quick,) = ours.squeeze_means(audio), ours.squeeze_means(audio, quick=True)
    assert means.dtype == quick.dtype
    apart = [relative(*layers) for layers in zip(quick.unbind(1), means.unbind(1), strict=True)]
    assert max(apart) < 10 ** (-40 / 20)
    assert (max(apart) > 1e-4) == amx


def test_means_of_parts_are_those_of_these_frames(ours):
    """Quiet and loud thirds: their average is the mean of all, and the fast and the plain way agree."""
    audio = torch.randn(2, 3 * 4800) * torch.tensor([0.01, 0.3, 0.1]).repeat_interleave(4800)
    with torch.no_grad():
        parts, (whole,), alone = (
            ours.squeeze_means(audio, 3),
            ours.squeeze_means(audio),
            ours.squeeze_means(audio[:, 4800:9600]),
        )
    assert parts.shape == (3, 2, 22, 256)
    assert relative(parts.mean(0), whole) < 0.02
    assert relative(parts[1], whole) > 0.1
    assert relative(parts[1, :, 0], alone[0, :, 0]) < 0.1  # the first layer's: later ones depend on gains before them
    with torch.enable_grad():
        assert relative(ours.squeeze_means(audio, 3), parts) < 1e-5


def test_calls_that_share_memory_give_the_same(ours):
    """Lengths and batches differ from call to call."""
    with torch.inference_mode():
        audios = [torch.randn(shape) for shape in ((1, 4000), (2, 1500), (1, 5000), (1, 1))]
        shared = [ours.enhance_part(audio, keep_memory=True)[0] for audio in audios]
        assert all(torch.equal(out, ours.enhance(audio)) for out, audio in zip(shared, audios, strict=True))


@pytest.mark.parametrize("length", [1, 319, 640, 1001])
def test_utterances_of_any_length_are_enhanced(ours, length):
    audio = torch.randn(2, length)
    with torch.no_grad():
        found = ours.enhance(audio)
        whole = ours(functional.pad(audio, (320, 320 + -length % 320)))["wav_l2"]
    assert found.shape == audio.shape
    torch.testing.assert_close(found, whole[:, 320 : 320 + length], rtol=1e-4, atol=1e-5)


def test_silence_stays_silent(ours):
    with torch.no_grad():
        assert not ours.enhance(torch.zeros(1, 2000)).any()


def test_other_shapes_are_refused(ours):
    for audio in (torch.zeros(1, 1, 700), torch.zeros(1, 639)):
        with pytest.raises(ValueError, match=r"need \(B, N\) audio, N >= 640, got shape"):
            ours(audio)
    with pytest.raises(ValueError, match=r"need \(B, N\) audio, got shape \(700,\)"):
        ours.enhance(torch.zeros(700))


def test_it_says_what_it_is(ours):
    assert (ours.sample_rate, ours.causal) == (16000, False)


@pytest.fixture(scope="module")
def causal(ours):
    net = build("FRCRN", causal=True).eval()
    net.load_state_dict(ours.state_dict())
    return net


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 9, 70])
@pytest.mark.parametrize("kind", ["released", "causal"])
def test_inference_is_what_training_is(ours, causal, kind, frames):
    """Without gradients the computation is another, faster one; blocks of layers end at different frames."""
    net = {"released": ours, "causal": causal}[kind]
    audio = torch.randn(2, 320 + 320 * frames) * 0.1
    wanted = net.outputs(audio)
    with torch.no_grad():
        found = net.outputs(audio)
    for name in NAMES:
        assert relative(found[name], wanted[name].detach()) < 1e-5, name


def test_double_precision_has_no_other_error(ours):
    """The two ways differ by rounding only."""
    net = build("FRCRN").double().eval()
    net.load_state_dict(ours.state_dict())
    audio = torch.randn(1, 2000, dtype=torch.float64) * 0.1
    wanted = net.outputs(audio)
    with torch.inference_mode():
        found = net.outputs(audio)
    assert relative(found["mask_l2"], wanted["mask_l2"].detach()) < 1e-13


def test_changed_weights_are_seen():
    net, audio = build("FRCRN").eval(), torch.randn(1, 1000)
    with torch.no_grad():
        before = net.enhance(audio)
        net.unet2.linear.conv_re.weight.mul_(-1)
        after = net.enhance(audio)
    wanted = net.enhance(audio).detach()
    assert relative(after, wanted) < 1e-5
    assert relative(before, wanted) > 1e-2


@pytest.mark.parametrize("chunk", [1, 320, 997])
def test_a_causal_one_streams(causal, chunk):
    """A stream equals the utterance for any chunks; streams side by side are independent."""
    audio = torch.randn(2, 3000 if chunk > 1 else 1300) * 0.1
    with torch.no_grad():
        whole, state, parts = causal.enhance(audio), None, []
        for start in range(0, audio.shape[1], chunk):
            part, state = causal(audio[:, start : start + chunk], state)
            parts.append(part)
        parts.append(causal.flush(state))
        alone = causal.enhance(audio[1:])
    found = torch.cat(parts, 1)[:, causal.algorithmic_delay :][:, : audio.shape[1]]
    assert relative(found, whole) < 1e-5
    assert relative(alone, whole[1:]) < 1e-5


def test_a_causal_one_depends_on_a_window_ahead_and_no_more(causal):
    assert (causal.causal, causal.latency) == (True, 640)
    audio, at = torch.randn(1, 4000) * 0.1, 2000
    changed = audio.clone()
    changed[:, at:] += 0.1
    with torch.no_grad():
        differs = (causal.enhance(changed) - causal.enhance(audio)).abs()[0] > 1e-6
    first = int(differs.nonzero()[0])
    assert at - causal.latency < first < at


def test_a_causal_one_can_be_trained(causal):
    net = build("FRCRN", causal=True)
    net.enhance(torch.randn(2, 1500)).square().sum().backward()
    assert net.unet.encoders[0].conv.conv_re.weight.grad.norm() > 0


def complex_of(x):
    return torch.complex(*x.chunk(2, 1))


@pytest.mark.parametrize("parts", [1, 2])
def test_convolutions_are_those_of_complex_numbers(parts):
    x = torch.randn(2, 12 * parts, 9, 7, dtype=torch.float64)
    z = torch.cat([complex_of(part) for part in x.chunk(parts, 1)], 1)
    layers = [(ComplexConvTranspose2d(6 * parts, 5, (5, 2), (2, 1), (0, 1), parts), "tconv", torch.conv_transpose2d)]
    if parts == 1:
        layers.append((ComplexConv2d(6, 5, (5, 2), (2, 1), (0, 1)), "conv", torch.conv2d))
    for layer, prefix, function in layers:
        re, im = (getattr(layer.double(), f"{prefix}_{part}") for part in ("re", "im"))
        weight, bias = torch.complex(re.weight, im.weight), torch.complex(re.bias - im.bias, re.bias + im.bias)
        wanted = function(z, weight, bias, stride=(2, 1), padding=(0, 1))
        torch.testing.assert_close(complex_of(layer(x)), wanted)


@pytest.mark.parametrize("steps", [1, 2, 19, 20, 45])
def test_fsmn_is_its_equation(steps):
    """Y = f_re(x) + i f_im(x), f(x) = x + p + sum_k a_k p[t - k], p = P relu(L x + b); also one step in a batch."""
    layer = ComplexFsmn(4).double()
    x = torch.randn(2, 8, steps, 3, dtype=torch.float64)

    def memory(unit, x):  # (B, C, S, R)
        p = unit.project(unit.linear(x.movedim(1, 3)).relu()).movedim(3, 1)
        taps = unit.conv1.weight.flatten(1).flip(1)  # the present comes first
        delayed = [functional.pad(p, (0, 0, k, 0))[:, :, :steps] for k in range(20)]
        return x + p + sum(taps[:, k, None, None] * d for k, d in enumerate(delayed))

    f_re, f_im = layer.fsmn_re_L1, layer.fsmn_im_L1
    a, b = x.chunk(2, 1)
    wanted = torch.cat((memory(f_re, a) - memory(f_im, b), memory(f_re, b) + memory(f_im, a)), 1)
    torch.testing.assert_close(layer(x), wanted)
