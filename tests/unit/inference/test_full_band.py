import numpy as np
import onnx
import pytest
import soundfile
import torch
from conftest import SHARED, streamed
from onnx import numpy_helper

from modelscope_ext import Denoiser
from modelscope_ext.audio import resample
from modelscope_ext.checkpoint import load_model
from modelscope_ext.cli import main
from modelscope_ext.inference.backend import Limits
from modelscope_ext.inference.band_gains import BandGains, log_energies
from modelscope_ext.inference.stream import DenoiseStream
from modelscope_ext.pretrained import HIGH_BAND, MODELS

RATES = [17000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000]


class Gate:
    """A back end without delay that removes the first samples and keeps the rest."""

    name, sample_rate, causal, limits = "Gate", 16000, True, Limits()

    def __init__(self, removed=16000):
        self.removed = removed

    def feed(self, audio, state=None):
        end = (state or 0) + audio.shape[1]
        return audio * (np.arange(end - audio.shape[1], end) >= self.removed), end

    def flush(self, state):
        return np.zeros((1, 0), np.float32)


def level_db(audio, rate, low, high):
    """Return the power of audio between two frequencies, dB."""
    window = np.hanning(len(audio))
    power = np.square(np.abs(np.fft.rfft(audio * window)))
    freqs = np.fft.rfftfreq(len(audio), 1 / rate)
    return 10 * np.log10(power[(freqs >= low) & (freqs < high)].sum() / np.square(window).sum() + 1e-20)


def white(seconds, rate, seed=0):
    return (np.random.default_rng(seed).standard_normal(round(seconds * rate)) * 0.1).astype(np.float32)


def passed(backend, audio, rate, chunk=1000, **options):
    stream = DenoiseStream(backend, rate, **options)
    outs = [stream.feed(audio[start : start + chunk]) for start in range(0, len(audio), chunk)]
    return np.concatenate((*outs, stream.flush()))


@pytest.mark.parametrize("rate", RATES)
def test_what_the_network_keeps_is_kept_above_it_and_what_it_removes_is_removed(rate):
    audio = white(2, rate)
    audio[:rate] /= 10
    out = passed(Gate(), audio, rate)
    assert out.shape == audio.shape
    kept, removed = slice(round(1.1 * rate), -rate // 50), slice(rate // 2, round(0.95 * rate))
    top = min(rate / 2, 24000)
    assert level_db(out[removed], rate, 8000, top) < level_db(audio[removed], rate, 8000, top) - 40
    assert level_db(out[kept], rate, 8000, top) == pytest.approx(level_db(audio[kept], rate, 8000, top), abs=2)
    speech = passed(Gate(), audio, rate, band="speech")
    assert level_db(speech[kept], rate, 8200, top) < level_db(audio[kept], rate, 8200, top) - 40


class AllPass:
    """Gains of 1 in place of `BandGains`."""

    def __init__(self, channels):
        pass

    def update(self, energies):
        return np.ones_like(energies[..., :8])


@pytest.mark.parametrize("rate", RATES)
def test_with_gains_of_1_and_a_network_that_changes_nothing_the_output_is_the_recording(rate, monkeypatch):
    """Length, alignment and the crossover: all of the spectrum adds up."""
    monkeypatch.setattr("modelscope_ext.inference.full_band.BandGains", AllPass)
    audio = white(0.5, rate)
    out = passed(Gate(removed=0), audio, rate)
    inner = slice(rate // 50, -rate // 50)
    assert np.square(out - audio)[inner].mean() < 1e-5 * np.square(audio).mean()


@pytest.mark.parametrize("rate", [22050, 44100, 48000])
def test_chunks_change_nothing(rate):
    audio = white(1.5, rate)
    whole = passed(Gate(), audio, rate, len(audio))
    for chunk in (160, 997):
        assert np.allclose(passed(Gate(), audio, rate, chunk), whole, atol=1e-6)
    assert np.allclose(passed(Gate(), audio[:3000], rate, 1), passed(Gate(), audio[:3000], rate), atol=1e-6)


def test_channels_are_denoised_on_their_own(denoiser, noisy):
    left, right = resample(noisy[:24000], 16000, 44100), white(1.5, 44100)
    out = denoiser(np.stack((left, right), 1), 44100)
    assert np.allclose(out[:, 0], denoiser(left, 44100), atol=1e-5)
    assert np.allclose(out[:, 1], denoiser(right, 44100), atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_an_upsampled_recording_gains_nothing_above_its_own_band(denoiser, noisy, rate):
    audio = resample(resample(noisy, 16000, rate), rate, 48000)
    for out in (denoiser(audio, 48000), streamed(denoiser, audio, 48000)):
        assert level_db(out, 48000, 8500, 24000) < level_db(audio, 48000, 100, 8000) - 80


def test_noise_without_speech_is_lowered_above_8_khz_too():
    rate, audio = 48000, white(4, 48000)
    out = Denoiser(attenuation_limit_db=np.inf)(audio, rate)
    assert level_db(out, rate, 8500, 24000) < level_db(audio, rate, 8500, 24000) - 25


def test_gains_are_those_of_pytorch():
    """The weights in the package, in a GRU of PyTorch; the features are those of the module."""
    rng, weights = np.random.default_rng(0), onnx.load(HIGH_BAND).graph.initializer
    net = {each.name.removesuffix("_16"): torch.tensor(numpy_helper.to_array(each)).float() for each in weights}
    high, before, after = (np.float32(rng.exponential(1e-3, (2, 30, bands))) for bands in (8, 6, 6))
    energies = np.concatenate((high, before, after), 2)
    found = torch.from_numpy(BandGains(2).features(log_energies(energies))).transpose(1, 2).flatten(0, 1)
    gru, biases = torch.nn.GRU(32, 48, batch_first=True), net["gru_bias"][0].chunk(2)
    names = {"weight_ih_l0": net["gru"][0], "weight_hh_l0": net["gru_hidden"][0]}
    names |= {"bias_ih_l0": biases[0], "bias_hh_l0": biases[1]}
    parts = {name: value.chunk(3) for name, value in names.items()}  # ONNX has the update gate first
    gru.load_state_dict({name: torch.cat((reset, update, new)) for name, (update, reset, new) in parts.items()})
    with torch.no_grad():
        states = gru(torch.relu(found @ net["dense"] + net["dense_bias"]))[0]
        exponents = (states @ net["exponent"] + net["exponent_bias"]).clamp(max=5).exp().reshape(2, 8, 30)
    share = np.sqrt(np.minimum(after[..., 4:].sum(2) / before[..., 4:].sum(2), 1)) * np.exp(-0.02)
    expected = share[:, :, None] ** exponents.transpose(1, 2).numpy()
    assert np.allclose(BandGains(2).update(energies), expected, atol=1e-5)


def test_the_band_is_one_of_two():
    with pytest.raises(ValueError, match="band must be one of full, speech, got 'all'"):
        Denoiser(band="all")


def test_a_file_has_the_band_of_an_array(denoiser, noisy, tmp_path):
    audio = resample(noisy[:40000], 16000, 48000) + white(2.5, 48000) / 10
    soundfile.write(tmp_path / "in.wav", audio, 48000, "FLOAT")
    denoiser.file(tmp_path / "in.wav", tmp_path / "out.wav")
    out = soundfile.read(tmp_path / "out.wav", dtype="float32")[0]
    assert np.abs(out - denoiser(audio, 48000)).max() < 1e-5


def test_the_command_takes_the_band(tmp_path):
    audio = white(1, 48000)
    soundfile.write(tmp_path / "in.wav", audio, 48000, "FLOAT")
    command = ["denoise", "-q", str(tmp_path / "in.wav"), "-o", str(tmp_path / "out.wav"), "--band", "speech"]
    assert main(command) == 0
    out = soundfile.read(tmp_path / "out.wav", dtype="float32")[0]
    assert np.abs(out - Denoiser(band="speech")(audio, 48000)).max() < 1e-5


def test_every_back_end_has_the_band(denoiser, noisy):
    audio = resample(noisy[:32000], 16000, 48000) + white(2, 48000) / 10
    assert np.abs(denoiser(audio, 48000) - Denoiser(load_model(MODELS["file"]))(audio, 48000)).max() < 1e-3


def recorded(count=6):
    """Return recorded voices with treble, (N,) float32 at 48 kHz."""
    paths = sorted((SHARED / "data" / "valid_speech48").rglob("english_*.ogg"))[:count]
    return [soundfile.read(path, dtype="float32")[0] for path in paths]


def powers(audio, low=8000, high=20000):
    """Return the powers (T, F) of frames of 32 ms between two frequencies."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(audio, 768), 1536)[::768] * np.hanning(1536)
    freqs = np.fft.rfftfreq(1536, 1 / 48000)
    return np.square(np.abs(np.fft.rfft(frames)))[:, (freqs > low) & (freqs <= high)]


@pytest.mark.shared
@pytest.mark.slow
def test_clean_recorded_speech_is_unharmed_above_8_khz():
    denoise, distances, levels, edges = Denoiser(), [], [], []
    for audio in recorded():
        before, after = powers(audio), powers(denoise(audio, 48000))
        floor = before.mean() * 1e-4
        distances.append(np.sqrt(np.square(10 * np.log10((after + floor) / (before + floor))).mean(1)).mean())
        levels.append(10 * np.log10(after.sum() / before.sum()))
        sibilant = before.mean(1) > 0.1 * before.mean(1).max()
        first = np.flatnonzero(sibilant[1:] & ~sibilant[:-1]) + 1  # the first frame of each s and sh
        edges.append(10 * np.log10(after[first].sum() / before[first].sum()))
    assert np.mean(distances) < 3
    assert np.abs(levels).max() < 1
    assert np.abs(edges).max() < 1.5
