import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from modelscope_ext import Denoiser, build
from modelscope_ext.engines.pytorch import TorchEngine
from modelscope_ext.models.frcrn import Frcrn
from modelscope_ext.utterances import REFERENCE_RMS, Utterances, reference_gain


class Scale(nn.Module):
    """A net for whole utterances that halves them, and remembers how long they were and how loud."""

    sample_rate = 16000
    causal = False
    attenuation_limit_db = float("inf")
    lead_in_s = 0.0

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))
        self.heard = []

    def enhance(self, audio):
        self.heard.append((audio.shape[1], float(audio.square().mean().sqrt())))
        return audio * self.factor


@pytest.mark.parametrize("length", [0, 1, 100, 15999, 24000, 24001, 40000, 100_003])
@pytest.mark.parametrize("step", [1700, 1_000_000])
@pytest.mark.parametrize("batch", [1, 3])
def test_nothing_is_lost_or_moved(length, step, batch):
    net = Scale()
    whole = Utterances(TorchEngine(net), np.array([[2.0], [0.1]]), chunk_s=1.0, margin_s=0.1, fade_s=0.2, batch=batch)
    audio = np.random.default_rng(0).standard_normal((2, length), np.float32) * np.float32(0.1)
    state, parts = None, []
    for start in range(0, max(1, length), step):
        out, state = whole.feed(audio[:, start : start + step], state)
        parts.append(out)
    parts.append(whole.finish(state))
    out = np.concatenate(parts, 1)
    assert out.dtype == np.float32
    assert out.shape == audio.shape
    assert np.allclose(out, audio / 2, atol=1e-6)
    chunks = [n for n, _ in net.heard]
    assert all(n == 16000 for n in chunks[:-1])
    if length > 24000:
        assert 8000 <= chunks[-1] < 24000
    elif length:
        assert chunks == [length]


def test_chunks_are_denoised_side_by_side_where_they_are_there():
    """Each stream's chunks get that stream's gain, and the result is that of one chunk after the other."""

    class Rows(Scale):
        def enhance(self, audio):
            self.heard.append(audio.shape)
            return audio * audio.abs().amax(1, keepdim=True)

    audio = np.random.default_rng(1).standard_normal((2, 70_000), np.float32) * np.float32(0.1)
    results = []
    for batch, shapes in ((1, [(2, 16000)] * 5 + [(2, 22_000)]), (3, [(6, 16000), (4, 16000), (2, 22_000)])):
        net, gain = Rows(), np.array([[2.0], [0.1]])
        whole = Utterances(TorchEngine(net), gain, chunk_s=1.0, margin_s=0.1, fade_s=0.2, batch=batch)
        out, state = whole.feed(audio)
        results.append(np.concatenate((out, whole.finish(state)), 1))
        assert net.heard == shapes
    assert np.allclose(*results, atol=1e-7)


def test_chunks_are_faded_into_each_other():
    """A net that gives its chunk's number: the seam is a straight line between the two."""

    class Count(Scale):
        def enhance(self, audio):
            self.heard.append(0)
            return torch.full_like(audio, float(len(self.heard)))

    whole = Utterances(TorchEngine(Count()), chunk_s=1.0, margin_s=0.1, fade_s=0.2)
    audio = np.ones((1, 28000), np.float32)
    out, state = whole.feed(audio)
    out = np.concatenate((out, whole.finish(state)), 1)[0]
    assert np.allclose(out[: 16000 - 1600 - 3200], 1)
    assert np.allclose(out[11200:14400], np.linspace(1, 2, 3200), atol=1e-3)
    assert np.allclose(out[14400:], 2)


def test_the_reference_level_is_that_of_loud_samples():
    audio = np.zeros((4, 8000), np.float32)
    audio[0, ::8] = 0.3  # all that is not zero is loud
    audio[1] = np.random.default_rng(0).standard_normal(8000)
    audio[3] = 1e-45  # the least there is; the gain must not overflow
    gain = reference_gain(audio)
    assert gain[0, 0] * 0.3 == pytest.approx(REFERENCE_RMS)
    power = np.square(audio[1], dtype=np.float64)
    loud = power > power.mean()
    assert np.sqrt((power[loud] * gain[1] ** 2).mean()) == pytest.approx(REFERENCE_RMS)
    assert gain[2] == 1
    assert np.isfinite(gain.astype(np.float32)).all()
    pieces = np.array_split(audio, 7, axis=1)
    assert np.allclose(reference_gain(lambda: pieces), gain, rtol=1e-12)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_a_denoiser_takes_such_a_net(rate):
    net = Scale()
    net.factor.data.fill_(1.0)
    audio = (np.sin(2 * np.pi * 440 * np.arange(rate * 2 + 5) / rate) * 0.3).astype(np.float32)
    out = Denoiser(net)(np.stack((audio, audio / 4), 1), rate)
    assert out.shape == (len(audio), 2)
    inner = slice(rate // 50, -rate // 50)
    assert np.abs(out[inner] - np.stack((audio, audio / 4), 1)[inner]).max() < 2e-3
    assert all(level == pytest.approx(net.heard[0][1], rel=0.1) for _, level in net.heard)


def test_the_level_is_that_of_the_whole(tmp_path):
    """A gain for each chunk would be heard at the seams: a network is another at another level."""
    net = Scale()
    audio = np.random.default_rng(0).standard_normal(70 * 8000) * np.linspace(0.01, 0.2, 70 * 8000)
    Denoiser(net)(audio, 8000)
    heard = [level for _, level in net.heard]
    assert len(heard) > 2
    assert heard[-1] / heard[0] > 3  # as in the input, not all at one level
    soundfile.write(tmp_path / "noisy.wav", audio, 8000, "DOUBLE")
    net.heard.clear()
    Denoiser(net).file(tmp_path / "noisy.wav", tmp_path / "denoised.wav")
    assert [level for _, level in net.heard] == pytest.approx(heard)


def test_chunks_must_be_longer_than_their_seams():
    with pytest.raises(ValueError, match="too short"):
        Utterances(TorchEngine(Scale()), chunk_s=0.9)


def test_bfloat16_of_gpus_changes_little(monkeypatch, noisy):
    """What an engine on a GPU does, here on the CPU; the network as training has it, which GPUs take."""
    torch.manual_seed(0)
    engine = TorchEngine(build("FRCRN").eval())
    assert not engine.bfloat16
    audio = noisy[None, 8000:16000] * reference_gain(noisy[None]).astype(np.float32)
    expected = engine.enhance(audio)
    monkeypatch.setattr(Frcrn, "_unet", lambda self, name, x, *_: getattr(self, name)(x))
    engine.bfloat16 = True
    found = engine.enhance(audio)
    assert found.dtype == np.float32
    error, level = (np.square(each, dtype=np.float64).sum() for each in (found - expected, expected))
    assert 0 < error < 10**-3 * level
