import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from modelscope_ext import Denoiser, build
from modelscope_ext.inference.backend import Limits
from modelscope_ext.inference.chunking import ChunkedInference
from modelscope_ext.inference.recording import RecordingStats, reference_gain
from modelscope_ext.inference.torch_backend import TorchBackend


class Scale(nn.Module):
    """A network for whole utterances that halves them and records their lengths and levels."""

    sample_rate = 16000
    causal = False
    reference_level = True
    attenuation_limit_db = float("inf")
    warmup_s = 0.0

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))
        self.inputs = []

    def enhance(self, audio):
        self.inputs.append((audio.shape[1], float(audio.square().mean().sqrt())))
        return audio * self.factor


@pytest.mark.parametrize("length", [0, 1, 100, 15999, 24000, 24001, 40000, 100_003])
@pytest.mark.parametrize("step", [1700, 1_000_000])
@pytest.mark.parametrize("batch", [1, 3])
def test_nothing_is_lost_or_moved(length, step, batch):
    net = Scale()
    backend = TorchBackend(net)
    stats = RecordingStats(np.array([[2.0], [0.1]]))
    whole = ChunkedInference(backend, stats, chunk_s=1.0, margin_s=0.1, fade_s=0.2, batch=batch)
    audio = np.random.default_rng(0).standard_normal((2, length), np.float32) * np.float32(0.1)
    state, parts = None, []
    for start in range(0, max(1, length), step):
        out, state = whole.feed(audio[:, start : start + step], state)
        parts.append(out)
    parts.append(whole.flush(state))
    out = np.concatenate(parts, 1)
    assert out.dtype == np.float32
    assert out.shape == audio.shape
    assert np.allclose(out, audio / 2, atol=1e-6)
    chunks = [n for n, _ in net.inputs]
    assert all(n in (13_440, 14_720, 16_000) for n in chunks[:-1])
    if length > 24000:
        assert 8000 <= chunks[-1] < 24000
    elif length:
        assert chunks == [length]


class Averaging:
    """A back end whose gain for a row is the given mean; its own mean is the RMS of the row."""

    name, sample_rate, causal, limits = "Averaging", 16000, False, Limits(needs_statistics=True)

    def __init__(self, own=None):
        self.inputs, self.own = [], own

    def enhance(self, audio, stats=None, more=False):
        self.inputs.append(audio.shape)
        return audio * stats, self.own and np.sqrt(np.square(audio).mean(1, keepdims=True))


@pytest.mark.parametrize("batch", [1, 3])
def test_chunks_are_denoised_side_by_side_where_they_are_there(batch):
    """Chunks of each stream get its gain and its means."""
    audio = np.random.default_rng(1).standard_normal((2, 70_000), np.float32) * np.float32(0.1)
    backend, gain, means = Averaging(), np.array([[2.0], [0.1]]), np.float32([[3], [5]])
    known = RecordingStats(gain, means[None], 70_000)
    whole = ChunkedInference(backend, known, chunk_s=1.0, margin_s=0.1, fade_s=0.2, batch=batch)
    out, state = whole.feed(audio)
    out = np.concatenate((out, whole.flush(state)), 1)
    assert np.allclose(out, audio * means, atol=1e-6)
    *chunks, last = backend.inputs
    assert all(n in (13_440, 14_720, 16_000) for _, n in chunks)
    assert chunks[0][0] == 2 * batch
    assert last[0] == 2


@pytest.mark.parametrize("batch", [1, 3])
def test_statistics_of_processed_chunks_replace_estimates(batch):
    """The gain of each stream begins at the given mean and ends near its own."""
    audio = np.random.default_rng(1).standard_normal((2, 240_000), np.float32) * np.float32([[0.1], [0.3]])
    stats = RecordingStats(1.0, np.ones((10, 2, 1)), audio.shape[1])
    whole = ChunkedInference(Averaging(own=True), stats, chunk_s=1.0, margin_s=0.1, fade_s=0.2, batch=batch)
    out, state = whole.feed(audio)
    gains = np.concatenate((out, whole.flush(state)), 1) / audio
    assert np.allclose(gains[:, :6000], 1)
    assert (gains[:, 120_000] < 0.7).all()
    assert np.allclose(gains[:, -1:], [[0.1], [0.3]], atol=0.15)
    assert whole.feed(audio)[1].stats.processed == state.stats.processed  # nothing is kept besides the state


@pytest.mark.parametrize("batch", [1, 2])
def test_chunks_end_in_pauses(batch):
    """Chunks end where the loudest stream, after its gain, is quietest."""

    class Count(Averaging):
        def enhance(self, audio, stats=None, more=False):
            self.inputs.append(0)
            number = np.arange(len(audio), dtype=np.float32)[:, None] + np.float32(10 * len(self.inputs))
            return number + 0 * audio, None

    audio = np.random.default_rng(0).standard_normal((1, 60 * 16000), np.float32)
    pauses = [13.0, 26.0, 39.0]
    for pause in pauses:
        audio[:, round(pause * 16000) :][:, :6000] *= 0.1
    whole = ChunkedInference(Count(), batch=batch)
    out, state = whole.feed(audio)
    out = np.concatenate((out, whole.flush(state)), 1)[0]
    changes = np.flatnonzero(np.diff(out)) / 16000
    assert all(any(pause <= t <= pause + 6000 / 16000 for pause in pauses) for t in changes)
    assert all(any(pause <= t <= pause + 6000 / 16000 for t in changes) for pause in pauses)


@pytest.mark.parametrize("quick", [False, True])
def test_with_statistics_of_the_recording_chunks_are_like_the_whole(noisy, quick):
    """Squeezes are made sensitive: without the statistics the difference is hundreds of times as large."""
    torch.manual_seed(0)
    net = build("FRCRN").eval()
    with torch.no_grad():
        for unet in (net.unet, net.unet2):
            for layer in (*unet.se_layers_enc, *unet.se_layers_dec):
                for linear in (layer.fc_r[0], layer.fc_i[0], layer.fc_r[2], layer.fc_i[2]):
                    linear.weight *= 4
    backend, audio = TorchBackend(net), noisy[None, : 4 * 16000].copy()
    audio[:, : 2 * 16000] *= 0.1
    gain = reference_gain(audio).astype(np.float32)
    whole = backend.enhance(audio * gain)[0] / gain
    errors = []
    known = RecordingStats(gain, backend.statistics(audio * gain, 8, quick), audio.shape[1])
    for stats in (RecordingStats(gain), known):
        chunks = ChunkedInference(backend, stats, chunk_s=1.6)
        out, state = chunks.feed(audio)
        errors.append(np.square(np.concatenate((out, chunks.flush(state)), 1) - whole).mean() / np.square(whole).mean())
    assert errors[1] < 10**-4.5
    assert errors[0] > 100 * errors[1]


def test_chunks_are_faded_into_each_other():
    """The output is the number of the chunk: a seam is a straight line between two numbers."""

    class Count(Scale):
        def enhance(self, audio):
            self.inputs.append(0)
            return torch.full_like(audio, float(len(self.inputs)))

    whole = ChunkedInference(TorchBackend(Count()), chunk_s=1.0, margin_s=0.16, fade_s=0.2)
    audio = np.ones((1, 28000), np.float32)
    out, state = whole.feed(audio)
    out = np.concatenate((out, whole.flush(state)), 1)[0]
    assert np.allclose(out[: 16000 - 2560 - 3200], 1)
    assert np.allclose(out[10240:13440], np.linspace(1, 2, 3200), atol=1e-3)
    assert np.allclose(out[13440:], 2)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_a_denoiser_takes_such_a_net(rate):
    net = Scale()
    net.factor.data.fill_(1.0)
    audio = (np.sin(2 * np.pi * 440 * np.arange(rate * 2 + 5) / rate) * 0.3).astype(np.float32)
    out = Denoiser(net)(np.stack((audio, audio / 4), 1), rate)
    assert out.shape == (len(audio), 2)
    inner = slice(rate // 50, -rate // 50)
    assert np.abs(out[inner] - np.stack((audio, audio / 4), 1)[inner]).max() < 2e-3
    assert all(level == pytest.approx(net.inputs[0][1], rel=0.1) for _, level in net.inputs)


def test_the_level_is_that_of_the_whole(tmp_path):
    """A gain for each chunk would be audible at the seams: networks depend on the level."""
    net = Scale()
    audio = np.random.default_rng(0).standard_normal(70 * 8000) * np.linspace(0.01, 0.2, 70 * 8000)
    Denoiser(net)(audio, 8000)
    levels = [level for _, level in net.inputs]
    assert len(levels) > 2
    assert levels[-1] / levels[0] > 3  # as in the input
    soundfile.write(tmp_path / "noisy.wav", audio, 8000, "DOUBLE")
    net.inputs.clear()
    Denoiser(net).file(tmp_path / "noisy.wav", tmp_path / "denoised.wav")
    assert [level for _, level in net.inputs] == pytest.approx(levels)


def test_chunks_must_be_longer_than_their_seams():
    with pytest.raises(ValueError, match="too short"):
        ChunkedInference(TorchBackend(Scale()), chunk_s=0.9)


def test_bfloat16_of_gpus_changes_little(noisy):
    """The computation of a back end on a GPU, here on the CPU: the network as in training."""
    torch.manual_seed(0)
    net = build("FRCRN").eval()
    audio = noisy[None, 8000:16000] * reference_gain(noisy[None]).astype(np.float32)
    expected, _ = TorchBackend(net).enhance(audio)
    net.fast = False
    found, _ = TorchBackend(net, bfloat16=True).enhance(audio)
    assert found.dtype == np.float32
    error, level = (np.square(each, dtype=np.float64).sum() for each in (found - expected, expected))
    assert 0 < error < 10**-3 * level
