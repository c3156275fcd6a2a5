"""ModelScope's own networks through `Denoiser`, compared with ModelScope's pipelines on random weights."""

import json
import os

import pytest
import torch
from helpers import ZIPENHANCER
from processes import run_code

from modelscope_ext import Denoiser
from modelscope_ext.checkpoint import CheckpointError

pytestmark = pytest.mark.slow
CODE = """
import json, numpy as np, torch
torch.set_num_threads(1)
import modelscope_ext
from modelscope_ext import Denoiser
FOLDER = {!r}
options = json.load(open(FOLDER + "/configuration.json"))["model"]
from modelscope.models.audio.ans.zipenhancer import AttrDict, ZipEnhancer
torch.manual_seed(0)
net = ZipEnhancer(AttrDict(options))
torch.save({{"generator": net.state_dict()}}, FOLDER + "/pytorch_model.bin")
rng = np.random.default_rng(0)
noise = (rng.standard_normal(16000 * 12) * np.repeat(rng.uniform(0.02, 0.2, 24), 8000)).astype(np.float32)
state = torch.get_rng_state()
denoiser = Denoiser(FOLDER)
assert torch.equal(torch.get_rng_state(), state)

def gap_db(one, other):
    return 10 * np.log10(np.square(one - other).mean() / np.square(other).mean())
"""


@pytest.fixture
def folder(tmp_path):
    described = {"framework": "pytorch", "task": "acoustic-noise-suppression", "model": ZIPENHANCER}
    described["pipeline"] = {"type": ZIPENHANCER["type"]}
    folder = tmp_path / "zip"
    folder.mkdir()
    (folder / "configuration.json").write_text(json.dumps(described))
    return folder


def test_a_short_recording_is_as_in_the_stock_pipeline(folder, tmp_path):
    code = f"""
{CODE.format(str(folder))}
import io, soundfile
from modelscope.pipelines import pipeline
from modelscope.utils.audio.audio_utils import audio_norm
ans = pipeline("acoustic-noise-suppression", model=FOLDER)
assert type(ans).__module__.startswith("modelscope.")
audio = noise[:48000]
file = io.BytesIO()
soundfile.write(file, audio, 16000, "FLOAT", format="WAV")
with torch.no_grad():
    theirs = ans.model({{"noisy": torch.from_numpy(audio)[None].to(ans.device)}})["wav_l2"][0].cpu().numpy()
    factor = torch.sqrt(48000 / torch.from_numpy(audio)[None].square().sum()).numpy()  # as in ModelScope's class
assert gap_db(denoiser.backend.enhance(audio[None] * factor)[0][0] / factor, theirs) < -80
# A factor that is rounded otherwise makes -30 dB of difference even in ModelScope's class: a phase of pi becomes -pi.
ours = denoiser(audio, 16000)
assert gap_db(ours, theirs) < -20
pcm = np.frombuffer(ans(file.getvalue())["output_pcm"], np.int16) / 32768
level = (audio_norm(audio) / audio)[1000]
assert np.abs(pcm - level * ours).max() < 2 / 32768
for rate, length in ((16000, 1), (48000, 30000), (44100, 7)):
    assert denoiser(noise[:length], rate).shape == (length,)
assert not denoiser(np.zeros(20000, np.float32), 16000).any()
"""
    run_code(code, tmp_path)


def test_a_long_recording_has_one_level_and_no_seams(folder, tmp_path):
    """With a stand-in that depends on the level, and on nothing beyond a frame."""
    code = f"""
{CODE.format(str(folder))}
from modelscope_ext.inference.zipenhancer import ZipEnhancer as Wrapped
from modelscope.models.audio.ans.zipenhancer import mag_pha_istft, mag_pha_stft

class Louder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.power = torch.nn.Parameter(torch.tensor(1.2))
    def forward(self, magnitude, phase):
        return magnitude**self.power, phase

denoiser = Denoiser(Wrapped(Louder(), mag_pha_stft, mag_pha_istft).eval())
gain = np.float32(1 / np.sqrt(np.square(noise, dtype=np.float64).mean()))
whole = denoiser.backend.enhance(noise[None] * gain)[0][0] / gain
chunks = denoiser(noise, 16000)
error = np.square(chunks - whole).reshape(-1, 1600).mean(1) / np.square(whole).mean()
assert 10 * np.log10(error.max() + 1e-20) < -45, 10 * np.log10(error.max())
assert gap_db(denoiser(noise / 64, 16000) * 64, chunks) < -80
"""
    run_code(code, tmp_path)


def test_a_folder_that_cannot_be_used_is_an_error(folder):
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: no such file; without weights nothing"):
        Denoiser(folder)
    torch.save({"generator": {"a": torch.zeros(1)}}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="has unknown a"):
        Denoiser(folder)
    torch.save({"generator": os.system}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="would run"):
        Denoiser(folder)
    described = json.loads((folder / "configuration.json").read_text())
    del described["model"]["former_conf"]
    (folder / "configuration.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="the model lacks former_conf"):
        Denoiser(folder)
