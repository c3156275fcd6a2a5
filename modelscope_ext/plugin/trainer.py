"""Training and evaluation by `modelscope.trainers.build_trainer`."""

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from modelscope.metrics.builder import build_metric
from modelscope.msdatasets import MsDataset
from modelscope.trainers.base import BaseTrainer
from modelscope.trainers.builder import TRAINERS

from modelscope_ext.atomic import atomic_write
from modelscope_ext.audio import SAMPLE_RATE, resample
from modelscope_ext.checkpoint import CONFIGURATION, RELEASED_WEIGHTS, load_weights
from modelscope_ext.hub import model_folder
from modelscope_ext.plugin.model import CruseModel, FrcrnModel
from modelscope_ext.plugin.names import CRUSE_TYPE, FRCRN_TYPE
from modelscope_ext.training.epochs import BadDataError, EpochConfig, EpochTrainer

__all__ = ["NoiseSuppressionTrainer"]

MODELS = {FRCRN_TYPE: FrcrnModel, CRUSE_TYPE: CruseModel}
#: What ModelScope passes; any other argument that is set is a mistake.
IGNORED = {"trust_remote_code", "device_map"}


@TRAINERS.register_module(module_name=CRUSE_TYPE)
@TRAINERS.register_module(module_name=FRCRN_TYPE, force=True)
class NoiseSuppressionTrainer(BaseTrainer):
    """`build_trainer(Trainers.speech_frcrn_ans_cirm_16k, default_args=…)`, or `Trainers.speech_cruse_ans_16k`.

    Args:
        model: a model folder or an id; without weights in it training begins from scratch.
        train_dataset, eval_dataset: an `MsDataset`, a Hugging Face data set or a PyTorch one with columns noisy and
            clean: segments of one length, as `to_segment` makes them; for evaluation whole audio cells too.
        work_dir: gets `epoch_N.pth` after every epoch, `best.pth`, `last.pth`, `output/` (a model folder with the best
            weights), `log.csv`, and TensorBoard events.
        cfg_file: a configuration instead of the model folder's.
        cfg_modify_fn: called with the configuration, returns the one to use.
        cfg_options: dotted keys of the configuration → values.
        model_revision: of an id.
        seed, max_epochs, train_iters_per_epoch, val_iters_per_epoch: instead of the configuration's.
        device: "cpu", "gpu", "cuda:1" …; a GPU is taken where there is one, and trains in bfloat16.
        launcher: "pytorch" or None: a program that torchrun has started trains with the others in either case, on GPUs
            or CPUs; "pytorch" is an error in any other program.
    """

    def __init__(
        self,
        model: str,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        work_dir: str | None = None,
        cfg_file: str | None = None,
        cfg_modify_fn: Callable | None = None,
        cfg_options: dict | None = None,
        model_revision: str | None = None,
        seed: int | None = None,
        max_epochs: int | None = None,
        train_iters_per_epoch: int | None = None,
        val_iters_per_epoch: int | None = None,
        device: str | None = None,
        launcher: str | None = None,
        **kwargs,
    ) -> None:
        if launcher not in (None, "pytorch") or (launcher and "LOCAL_RANK" not in os.environ):
            raise ValueError(
                f"launcher={launcher!r}: several processes are started by torchrun, as in "
                "`torchrun --nproc-per-node 2 train.py`, with launcher='pytorch'"
            )
        if given := sorted(name for name, value in kwargs.items() if name not in IGNORED and value is not None):
            raise TypeError(f"this trainer has no use for {', '.join(given)}")
        self.model_dir = model_folder(model, model_revision)
        super().__init__(cfg_file or str(self.model_dir / CONFIGURATION))
        if cfg_modify_fn:
            self.cfg = cfg_modify_fn(self.cfg)
        self.cfg.merge_from_dict(cfg_options or {})
        configuration = self.cfg.to_dict()
        train, evaluation = configuration.setdefault("train", {}), configuration.setdefault("evaluation", {})
        for section, key, value in (
            (train, "seed", seed),
            (train, "max_epochs", max_epochs),
            (train, "train_iters_per_epoch", train_iters_per_epoch),
            (evaluation, "val_iters_per_epoch", val_iters_per_epoch),
        ):
            if value is not None:
                section[key] = value
        whole = _whole_utterances(eval_dataset)
        if whole:
            evaluation["dataloader"] = {**evaluation.get("dataloader", {}), "batch_size_per_gpu": 1}
        self.model = MODELS[configuration["model"]["type"]](str(self.model_dir))
        self.metric_names = _metrics(evaluation, whole)
        self.work_dir = str(work_dir or train.get("work_dir", "./work_dir"))
        self.metric_values: dict[str, float] = {}
        self.runner = EpochTrainer(
            self.model,
            EpochConfig.from_configuration(configuration),
            self.work_dir,
            _rows(train_dataset),
            _rows(eval_dataset),
            lambda: [build_metric(name) for name in self.metric_names],
            None if device == "gpu" else device,
        )

    def train(self, checkpoint_path: str | None = None, load_all_state: bool = True, *args, **kwargs) -> None:
        """Trains; with a checkpoint of an earlier run exactly from there, or with its weights alone."""
        if checkpoint_path is not None:
            self._load(checkpoint_path, load_all_state)
        self.metric_values = self.runner.train()
        best = Path(self.work_dir) / "best.pth"
        if not self.runner.rank:
            output = Path(self.work_dir) / "output"
            latest = Path(self.work_dir) / f"epoch_{self.runner.done.epoch}.pth"
            with atomic_write(output / CONFIGURATION) as half:
                shutil.copyfile(self.model_dir / CONFIGURATION, half)
            with atomic_write(output / RELEASED_WEIGHTS) as half:
                shutil.copyfile(best if best.exists() else latest, half)

    def evaluate(self, checkpoint_path: str | None = None, *args, **kwargs) -> dict[str, float]:
        """The configured metrics over the evaluation data, with the weights of a checkpoint if one is given."""
        if checkpoint_path is not None:
            self._load(checkpoint_path, False)
        self.metric_values = self.runner.evaluate()
        return self.metric_values

    def _load(self, path: str, all_state: bool) -> None:
        if all_state:
            self.runner.load(path)
        else:
            load_weights(self.model.model, path)


def _metrics(evaluation: dict, whole: bool) -> list:
    names = evaluation.get("metrics", ["audio-noise-metric"])
    names = [names] if isinstance(names, (str, dict)) else list(names)
    installed = all(importlib.util.find_spec(name) for name in ("pesq", "pystoi"))
    if whole and installed and "speech-quality" not in names:
        names.append("speech-quality")
    return names


def _hugging_face(dataset: Any) -> Any:
    return dataset.to_hf_dataset() if isinstance(dataset, MsDataset) else dataset


def _whole_utterances(dataset: Any) -> bool:
    dataset = _hugging_face(dataset)
    return dataset is not None and len(dataset) > 0 and isinstance(dataset[0].get("noisy"), dict)


def _rows(dataset: Any) -> "torch.utils.data.Dataset | None":
    return None if dataset is None else _Rows(_hugging_face(dataset))


class _Rows(torch.utils.data.Dataset):
    """Rows of any data set as {"noisy": (N,), "clean": (N,)} float32 at 16 kHz."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset.with_format("numpy") if hasattr(dataset, "with_format") else dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        row = self.dataset[index]
        return {column: _signal(row[column]) for column in ("noisy", "clean") if column in row}


def _signal(cell: Any) -> np.ndarray:
    if isinstance(cell, dict):
        if "array" not in cell:
            raise BadDataError(f"an audio cell with {', '.join(cell)} instead of array; use modelscope_ext.to_segment")
        audio = np.asarray(cell["array"], np.float32)
        return resample(audio, int(cell.get("sampling_rate", SAMPLE_RATE)), SAMPLE_RATE)
    return np.asarray(cell, np.float32)
