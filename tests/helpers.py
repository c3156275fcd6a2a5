"""Trainings that last seconds, for all tests that interrupt, repeat or distribute one."""

import numpy as np
import torch
from torch import nn

from modelscope_ext.models.frcrn.complex_conv import ComplexBatchNorm2d
from modelscope_ext.training.epochs import EpochConfig, EpochTrainer

#: `train` of a CRUSE network on the folder of the fixture `corpora`.
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

EPOCHS = {
    "epochs": 3,
    "iterations": 4,
    "batch": 2,
    "eval_batch": 2,
    "scheduler_options": {"patience": 0, "factor": 0.5},
}


class Tiny(nn.Module):
    """A filter, then complex batch norm, as FRCRN has it."""

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
    def __init__(self, count, seed=0):
        rng = np.random.default_rng(seed)
        self.clean = rng.standard_normal((count, 400)).astype(np.float32)
        self.noisy = self.clean + rng.standard_normal((count, 400)).astype(np.float32) / 2

    def __len__(self):
        return len(self.clean)

    def __getitem__(self, index):
        return {"noisy": self.noisy[index], "clean": self.clean[index]}


class Mean:
    def __init__(self):
        self.values = []

    def add(self, outputs, inputs):
        self.values.append((float(outputs["loss"]), len(inputs["noisy"])))

    def merge(self, other):
        self.values += other.values

    def evaluate(self):
        return {"avg_loss": sum(v * n for v, n in self.values) / sum(n for _, n in self.values)}


def epoch_trainer(folder, rows=7, **changes):
    """Return a trainer of epochs with a network of one filter."""
    config = EpochConfig(**{**EPOCHS, **changes})
    return EpochTrainer(Tiny(), config, folder, Rows(rows), Rows(5, 1), lambda: [Mean()], "cpu", progress=False)
