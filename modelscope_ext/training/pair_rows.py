"""Training on one's own pairs of files: segments of them, and settings for a short run from good weights."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelscope_ext.atomic import atomic_write
from modelscope_ext.audio import SAMPLE_RATE
from modelscope_ext.data.pairs import Pair
from modelscope_ext.data.segments import to_segment

SEGMENT_S = 3
BATCH = 8
#: A pass through the rows is an epoch, unless it has more steps than this.
MOST_STEPS = 50
#: Settings by their dotted key in `configuration.json`; benchmarks/NOTES.md has the trial.
OPTIONS: dict[str, Any] = {
    "train.max_epochs": 1000,
    "train.dataloader.batch_size_per_gpu": BATCH,
    "evaluation.dataloader.batch_size_per_gpu": BATCH,
    "evaluation.val_iters_per_epoch": 1000,
    "train.optimizer": {"type": "AdamW", "lr": 2e-4, "weight_decay": 0.01, "options": {"grad_clip": {"max_norm": 5.0}}},
    "train.lr_scheduler": {"type": "ReduceLROnPlateau", "factor": 0.5, "patience": 1},
    "train.patience": 6,
    "train.checkpoint.period.max_checkpoint_num": 1,
}


def load_rows(pairs: Sequence[Pair]) -> list[dict[str, np.ndarray]]:
    """Return segments of `SEGMENT_S` of all pairs, {"noisy": (N,), "clean": (N,)} at 16 kHz.

    The last segment of a file ends with zeros.
    """
    files = {"noisy": [pair.noisy for pair in pairs], "clean": [pair.clean for pair in pairs]}
    cut = to_segment(files, SEGMENT_S * SAMPLE_RATE, keep_remainder=True)
    return [{"noisy": noisy, "clean": clean} for noisy, clean in zip(cut["noisy"], cut["clean"], strict=True)]


def record_parts(path: Path, parts: Mapping[str, Sequence[Pair]]) -> None:
    """Write which pairs are in which part, or raise ValueError if an earlier run had other parts."""
    names = {part: [list(pair.names) for pair in pairs] for part, pairs in parts.items()}
    if path.exists() and _read_parts(path) != names:
        raise ValueError(f"{path} is of a run with other pairs; choose another --work-dir, or remove that folder")
    with atomic_write(path) as temp:
        temp.write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")


def _read_parts(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:  # no JSON, or not in UTF-8
        raise ValueError(f"{path}: was not written by train ({error}); choose another --work-dir") from error
