import numpy as np
import pytest

from modelscope_ext import build
from modelscope_ext.inference.recording import RecordingMeans, recording_means
from modelscope_ext.inference.torch_backend import TorchBackend

RATE = 16000


class Averaging:
    """An engine that takes the RMS of each row as its means."""

    sample_rate, chunk_s, averages = RATE, 15.0, True
    digest_s, digest_share = 45.0, 0.4

    def __init__(self, batch=1):
        self.digests, self.batch = [], batch

    def means(self, audio, parts, quick):
        assert quick
        self.digests.append(audio)
        return np.broadcast_to(rms(audio), (parts, len(audio), 1))


def rms(audio):
    return np.sqrt(np.square(audio).mean(1, keepdims=True))


def white(rows, seconds):
    return np.random.default_rng(0).standard_normal((rows, seconds * RATE), np.float32)


@pytest.mark.parametrize("batch", [1, 2])
def test_the_means_are_those_of_seconds_all_over_the_recording(batch):
    gain = np.array([[2.0], [0.5]])
    audio = white(2, 90) * np.linspace(0.1, 2, 90 * RATE, dtype=np.float32)
    engine = Averaging(batch)
    means = recording_means(engine, gain, lambda: np.array_split(audio, 37, axis=1)).now()
    assert means.shape == (2, 1)
    assert np.allclose(means, rms(audio * gain), rtol=0.03)
    wanted = {1: [(2, 12 * RATE + 960)] * 3, 2: [(4, 9 * RATE + 960)] * 2}
    assert [digest.shape for digest in engine.digests] == wanted[batch]
    assert np.allclose(means, recording_means(engine, gain, lambda: [audio]).now(), rtol=1e-6)


def test_no_edges_where_pieces_meet():
    engine, tone = Averaging(), np.sin(2 * np.pi * 100 * np.arange(90 * RATE) / RATE, dtype=np.float32)[None]
    recording_means(engine, np.ones((1, 1)), lambda: [tone])
    assert np.abs(np.diff(engine.digests[0])).max() < 0.08


@pytest.mark.parametrize("period", [2.4, 3.75, 7.0])
def test_pieces_sound_on_average_like_the_recording(period):
    """Noise that comes and goes, whether or not as regularly as the pieces lie: a tenth of the power's variance."""
    audio = white(1, 150)
    loud = np.arange(audio.shape[1]) % round(period * RATE) < 0.3 * period * RATE
    audio *= np.where(loud, 1, 0.01).astype(np.float32)
    means = recording_means(Averaging(4), np.ones((1, 1)), lambda: [audio]).now()
    assert means == pytest.approx(rms(audio), rel=0.02)


@pytest.mark.parametrize(("seconds", "digests"), [(22, []), (30, [12]), (300, [15] * 3), (3000, [15] * 8)])
def test_so_much_is_heard_before(seconds, digests):
    engine = Averaging()
    recording_means(engine, np.ones((1, 1)), lambda: (np.zeros((1, RATE), np.float32) for _ in range(seconds)))
    assert [digest.shape[1] // RATE for digest in engine.digests] == digests


@pytest.mark.parametrize("seconds", [22.51, 23, 24.99, 31.3])
def test_nearly_all_of_a_short_recording_may_be_heard(seconds):
    engine, audio = Averaging(2), white(1, 32)[:, : round(seconds * RATE)]
    engine.digest_share = 0.8
    means = recording_means(engine, np.ones((1, 1)), lambda: [audio]).now()
    assert means == pytest.approx(rms(audio), rel=0.01)


@pytest.mark.parametrize("pieces", [[], [np.zeros((1, 0), np.float32)], [np.zeros((1, 7), np.float32)] * 3])
def test_what_is_shorter_than_a_piece_needs_no_means(pieces):
    assert recording_means(Averaging(), np.ones((1, 1)), lambda: pieces) is None


def test_pieces_give_way_to_what_was_heard():
    pieces = np.float64([[[1.0]], [[2.0]], [[3.0]], [[10.0]]])
    means = RecordingMeans(pieces, 400)
    assert means.now() == pytest.approx(4)
    means = means.after(np.float32([[5]]), 150)
    assert means.now() == pytest.approx((150 * 5 + 50 * 2 + 100 * 3 + 100 * 10) / 400)
    means = means.after(np.float32([[7]]), 100).after(np.float32([[8]]), 150)
    assert means.now() == pytest.approx((150 * 5 + 100 * 7 + 150 * 8) / 400)
    assert means.now().dtype == np.float32
    assert means.after(np.float32([[5]]), 50).now().shape == (1, 1)


def test_other_engines_need_no_means():
    assert recording_means(TorchBackend(build("CRUSE4-64-1xGRU4")), np.ones((1, 1)), pytest.fail) is None


def test_an_estimate_is_taken_where_it_costs_little(monkeypatch):
    """Of a longer part of the recording, then."""
    net = build("FRCRN").eval()
    shares = []
    for amx in (False, True):
        monkeypatch.setattr("modelscope_ext.models.frcrn.network.has_amx", lambda amx=amx: amx)
        engine = TorchBackend(net)
        shares.append((engine.digest_s, engine.digest_share))
    assert shares == [(45.0, 0.4), (90.0, 0.8)]
