"""Small trainings that several test files share."""

import csv
import os
import signal

import numpy as np
import torch
from torch import nn

from modelscope_ext.models.frcrn.complex_conv import ComplexBatchNorm2d
from modelscope_ext.training.config import SegmentConfig, load_config
from modelscope_ext.training.loop import TrainingLoop
from modelscope_ext.training.mixtures import MixtureRecipe
from modelscope_ext.training.segments import SegmentRecipe

#: A configuration of mixtures for the fixture `corpora`.
CRUSE_CONFIG = {
    "model": {"name": "CRUSE2-8-1xGRU2"},
    "data": {
        "speech": {"speech": 1.0, "speech_6khz": {"weight": 0.5, "band_limit_hz": 6000}},
        "noise": {"noise": 1.0},
        "rooms": 1,
        "room_folder": "rir",
        "mix": {"seconds": 0.5},
    },
    "validation": {"speech": "valid_speech", "noise": "valid_noise", "pairs": 2, "seconds": 2.0, "every": 4},
    "steps": 8,
    "batch": 2,
    "warmup": 2,
    "workers": 0,
    "checkpoint_seconds": 0,
}
SEGMENTS = {
    "epochs": 3,
    "iterations": 4,
    "batch": 2,
    "eval_batch": 2,
    "scheduler_options": {"patience": 0, "factor": 0.5},
}


#: "model" sections for small networks of ModelScope's own package.
ZIPENHANCER = {
    "type": "speech_zipenhancer_ans_multiloss_16k_base",
    "num_tsconformers": 2,
    "dense_channel": 16,
    "batch_first": True,
    "model_num_spks": 1,
    "former_conf": {
        "f_downsampling_factor": [1, 2],
        "downsampling_factor": [1, 2],
        "encoder_dim": 16,
        "num_encoder_layers": 1,
        "encoder_unmasked_dim": 16,
        "query_head_dim": 4,
        "pos_head_dim": 4,
        "value_head_dim": 4,
        "num_heads": 2,
        "feedforward_dim": 24,
        "cnn_module_kernel": 15,
        "pos_dim": 24,
        "causal": False,
    },
}
DFSMN = {"type": "speech_dfsmn_ans", "fsmn_depth": 3, "lorder": 6}


def mixture_loop(config, data, work):
    """Return a training on mixtures; `config` is the path of its JSON file."""
    return TrainingLoop(MixtureRecipe(load_config(config), data, work, "cpu", progress=False))


def segment_loop(work, rows=7, resume=True, evaluate=True, **changes):
    """Return a training of `Tiny` on random rows."""
    config = SegmentConfig(**{**SEGMENTS, **changes})
    data = (Rows(rows), Rows(5, 1) if evaluate else None)
    recipe = SegmentRecipe(Tiny(), config, work, *data, lambda: [MeanLoss()], "cpu", progress=False)
    return TrainingLoop(recipe, resume=resume)


def at_step(loop, step, action):
    """Call `action` when the batch of a step, counted from 0, is there."""
    losses = loop.recipe.losses

    def act_and_train(batch, current):
        if current == step:
            action()
        return losses(batch, current)

    loop.recipe.losses = act_and_train


def interrupt(number=signal.SIGINT):
    """Send this process a signal."""
    os.kill(os.getpid(), number)


def log_rows(folder):
    """Rows of `log.csv`; none if there is no such file."""
    if not (folder / "log.csv").exists():
        return []
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_equal_states(one, other):
    """Compare two state dicts bit by bit."""
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


class Tiny(nn.Module):
    """A filter, then complex batch norm as in FRCRN, with its loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.filter = nn.Conv1d(1, 2, 3, padding=1)
        self.norm = ComplexBatchNorm2d(1)

    def forward(self, inputs):
        x = self.norm(self.filter(inputs["noisy"][:, None])[:, :, None])  # (B, 2, 1, N)
        out = {"wav_l2": x.sum((1, 2))}
        if "clean" in inputs:
            out["loss"] = (out["wav_l2"] - inputs["clean"]).square().mean()
            out["sisnr"] = out["loss"] * 2
        return out


class Rows(torch.utils.data.Dataset):
    """Random rows."""

    def __init__(self, count, seed=0):
        rng = np.random.default_rng(seed)
        self.clean = rng.standard_normal((count, 400)).astype(np.float32)
        self.noisy = self.clean + rng.standard_normal((count, 400)).astype(np.float32) / 2

    def __len__(self):
        return len(self.clean)

    def __getitem__(self, index):
        return {"noisy": self.noisy[index], "clean": self.clean[index]}


class MeanLoss:
    """The mean loss of an evaluation."""

    def __init__(self):
        self.values = []

    def add(self, outputs, inputs):
        self.values.append((float(outputs["loss"]), len(inputs["noisy"])))

    def merge(self, other):
        self.values += other.values

    def evaluate(self):
        return {"avg_loss": sum(v * n for v, n in self.values) / sum(n for _, n in self.values)}
