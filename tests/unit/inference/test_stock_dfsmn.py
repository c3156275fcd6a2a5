"""ModelScope's DFSMN for 48 kHz through `Denoiser`, compared with ModelScope's pipeline on random weights."""

import json

import numpy as np
import pytest
import torch
from helpers import DFSMN
from processes import python, run_code

from modelscope_ext import Denoiser
from modelscope_ext.checkpoint import CheckpointError

pytestmark = pytest.mark.slow
#: Steady noise, loud and soft, of a length that is no whole number of frames.
AUDIO = """
import numpy as np
rng = np.random.default_rng(0)
audio = rng.standard_normal(48000 * 6 + 500) * np.repeat(rng.uniform(0.001, 0.1, 61), 4800)[: 48000 * 6 + 500]
audio = audio.astype(np.float32)

def gap_db(one, other):
    return 10 * np.log10(np.square(one - other).mean() / np.square(other).mean())
"""
#: `torchaudio.compliance.kaldi`, which the pipeline imports, by another package.
KALDI = """
import importlib.machinery, sys, types, warnings
import kaldi_native_fbank, torch

def fbank(audio, dither, frame_length, frame_shift, num_mel_bins, sample_frequency, window_type):
    options = kaldi_native_fbank.FbankOptions()
    frames = options.frame_opts
    frames.dither, frames.samp_freq, frames.window_type = 0.0, sample_frequency, window_type
    frames.frame_length_ms, frames.frame_shift_ms, options.mel_opts.num_bins = frame_length, frame_shift, num_mel_bins
    found = kaldi_native_fbank.OnlineFbank(options)
    found.accept_waveform(sample_frequency, audio[0].tolist())
    return torch.stack([torch.tensor(found.get_frame(i)) for i in range(found.num_frames_ready)])

torchaudio = types.ModuleType("torchaudio")
torchaudio.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
torchaudio.compliance = types.SimpleNamespace(kaldi=types.SimpleNamespace(fbank=fbank))
sys.modules["torchaudio"] = torchaudio
"""


@pytest.fixture
def folder(tmp_path):
    """Return a model folder without weights; its layers are fewer and shorter than the released ones."""
    described = {
        "framework": "pytorch",
        "task": "acoustic-noise-suppression",
        "model": DFSMN,
        "pipeline": {"type": "speech_dfsmn_ans_psm_48k_causal"},
    }
    folder = tmp_path / "dfsmn"
    folder.mkdir()
    (folder / "configuration.json").write_text(json.dumps(described))
    return folder


def with_weights(folder):
    """Write random weights into a model folder by ModelScope's class."""
    from modelscope.models.audio.ans.denoise_net import DfsmnAns

    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(DfsmnAns("", fsmn_depth=3, lorder=6).state_dict(), folder / "pytorch_model.bin")
    return folder


def test_a_recording_is_as_in_the_stock_pipeline(folder, tmp_path):
    """Up to the last frame: the pipeline leaves silence there."""
    code = f"""
{KALDI}
{AUDIO}
import modelscope_ext
from modelscope_ext import Denoiser
from modelscope.pipelines import pipeline
torch.set_num_threads(1)
ans = pipeline("acoustic-noise-suppression", model={str(with_weights(folder))!r})
assert type(ans).__module__.startswith("modelscope.")
warnings.simplefilter("ignore")  # of torch.stft
theirs = ans.forward({{"audio": torch.from_numpy(audio * 32768)}})["output_pcm"]
theirs = np.frombuffer(theirs, np.int16) / np.float32(32768)
ours = Denoiser({str(folder)!r})(audio, 48000)
end = len(audio) // 960 * 960 - 960
assert np.abs(ours[:end] - theirs[:end]).max() < 1.05 / 32768  # the pipeline cuts the rest of a step off
assert gap_db(ours[:end], theirs[:end]) < -60
assert not theirs[-500:].any() and ours[-500:].std() > 0.1 * audio[-500:].std()
"""
    run_code(code, tmp_path)


def test_a_stream_is_the_recording(folder):
    """At any rate and in pieces and blocks of any length: nothing is forgotten between them."""
    names = {}
    exec(AUDIO, names)
    audio, gap_db, rng = names["audio"], names["gap_db"], names["rng"]
    state = torch.get_rng_state()
    denoiser = Denoiser(with_weights(folder))
    whole = denoiser(audio, 48000)
    assert torch.equal(torch.get_rng_state(), state)
    stream, outputs, start = denoiser.stream(48000), [], 0
    while start < len(audio):
        size = int(rng.integers(1, 3000))
        outputs.append(stream.feed(audio[start : start + size]))
        start += size
    assert gap_db(np.concatenate((*outputs, stream.flush())), whole) < -100
    assert stream.latency_ms == 40
    blocks = denoiser.stream(48000, block=480)
    fed = np.concatenate([blocks.feed(audio[i : i + 480]) for i in range(0, 48000, 480)])
    assert not fed[: blocks.delay].any()
    assert gap_db(fed[blocks.delay :], whole[: len(fed) - blocks.delay]) < -100
    two = denoiser(np.stack((audio, audio[::-1]), 1), 48000)
    assert gap_db(two[:, 0], whole) < -100
    for rate, length in ((16000, 1), (44100, 7), (96000, 50000)):
        assert denoiser(audio[:length], rate).shape == (length,)
    assert not denoiser(np.zeros(20000, np.float32), 16000).any()


def test_levels_far_from_speech_are_scaled(folder):
    names = {}
    exec(AUDIO, names)
    denoiser = Denoiser(with_weights(folder))
    quiet = denoiser(names["audio"] * np.float32(1e-5), 48000)
    assert names["gap_db"](quiet * 1e5, denoiser(names["audio"] * np.float32(1e-4), 48000) * 1e4) < -80


def test_commands_take_the_folder(folder, tmp_path):
    with_weights(folder)
    for command in ("denoise", "report"):
        out = tmp_path / f"{command}.{'wav' if command == 'denoise' else 'html'}"
        python("-m", "modelscope_ext", command, "examples/noisy.wav", "-o", out, "--model", folder)
        assert out.stat().st_size > 10000
    assert "Dfsmn (causal)" in python("-m", "modelscope_ext", "info", folder).stdout
    assert "denoises a second of audio" in python("-m", "modelscope_ext", "doctor", folder).stdout


def test_a_folder_that_cannot_be_used_is_an_error(folder):
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: no such file; without weights nothing"):
        Denoiser(folder)
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="has unknown a"):
        Denoiser(folder)
    described = json.loads((folder / "configuration.json").read_text())
    for wrong in (0, 10**9, "9", True):
        described["model"]["lorder"] = wrong
        (folder / "configuration.json").write_text(json.dumps(described))
        with pytest.raises(CheckpointError, match="lorder must be 1 to 1000"):
            Denoiser(folder)
