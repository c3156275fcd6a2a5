"""The model card's training and evaluation programs from docs/modelscope.md, with the paths and sizes of a test."""

import json
import re

import numpy as np
import pytest
import soundfile
from conftest import ROOT
from processes import run_code

from modelscope_ext.data.prepare import prepare_pairs

pytestmark = pytest.mark.slow


def snippet(marker):
    found = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "modelscope.md").read_text(), re.DOTALL)
    return next(code for code in found if marker in code)


@pytest.fixture
def folders(frcrn_folder, corpora, clean, tmp_path):
    """Return a data set of eight seconds and the released model folder, set to one epoch of one batch of two."""
    for name in ("noisy", "clean"):
        (tmp_path / name).mkdir()
    noise = np.random.default_rng(0).standard_normal(len(clean)).astype(np.float32) / 30
    for i in range(2):
        part = slice(i * 64000, (i + 1) * 64000)
        soundfile.write(tmp_path / "clean" / f"{i}.wav", clean[part], 16000)
        soundfile.write(tmp_path / "noisy" / f"{i}.wav", clean[part] + noise[part], 16000)
    for split in ("train", "test"):
        prepare_pairs(tmp_path / "noisy", tmp_path / "clean", tmp_path / "data", split)
    model = tmp_path / "speech_frcrn_ans_cirm_16k"
    model.mkdir()
    (model / "pytorch_model.bin").symlink_to(frcrn_folder / "pytorch_model.bin")
    configuration = json.loads((frcrn_folder / "configuration.json").read_text())
    configuration["train"] |= {"max_epochs": 1, "train_iters_per_epoch": 1}
    for section in ("train", "evaluation"):
        configuration[section]["dataloader"]["batch_size_per_gpu"] = 1
    (model / "configuration.json").write_text(json.dumps(configuration))
    return tmp_path / "data", model


def local(code, folders, tmp_path):
    data, model = folders
    for published, here in (
        ("/your_local_path/ICASSP_2021_DNS_Challenge", str(data)),
        ("your_local_path/speech_frcrn_ans_cirm_16k", str(model)),
        ("damo/speech_frcrn_ans_cirm_16k", str(model)),
        ("./checkpoint", str(tmp_path / "checkpoint")),
        ("test_size=3000", "test_size=2"),
        ("val_iters_per_epoch=125", "val_iters_per_epoch=2"),
    ):
        code = code.replace(published, here)
    return f"import os, torch\nos.environ['HF_HOME'] = {str(tmp_path / 'hf')!r}\ntorch.set_num_threads(1)\n{code}"


def test_training(folders, tmp_path):
    run_code(local(snippet("trainer.train()"), folders, tmp_path), tmp_path)
    assert {"epoch_1.pth", "log.csv", "output"} <= {path.name for path in (tmp_path / "checkpoint").iterdir()}


def test_evaluation(folders, tmp_path):
    done = run_code(local(snippet("trainer.evaluate()"), folders, tmp_path), tmp_path)
    assert -60 < float(done.stdout.split()[-1]) < 60
