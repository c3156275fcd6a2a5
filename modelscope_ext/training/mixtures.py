"""Training on mixtures of speech and noise that are made on the fly."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from modelscope_ext import metrics
from modelscope_ext.atomic import require_outside
from modelscope_ext.checkpoint import load_model, save_model
from modelscope_ext.data.corpus import Corpus, load_corpus
from modelscope_ext.data.mixing import Mixer, validation_pairs
from modelscope_ext.data.rooms import load_rooms, save_rooms, simulate_rooms
from modelscope_ext.data.speakers import cap_speakers
from modelscope_ext.hub import model_folder
from modelscope_ext.losses import CompressedSpectralLoss
from modelscope_ext.models import CRUSE_TYPE, DUAL_PATH_TYPE, build, has_bfloat16, to_device
from modelscope_ext.models.dual_path.network import DualPath
from modelscope_ext.progress import Bar
from modelscope_ext.tensors import save_tensors
from modelscope_ext.training.batches import data_loader, positions
from modelscope_ext.training.config import TrainConfig, corpus_options
from modelscope_ext.training.distributed import barrier, init_process_group, rank, rank_zero_first, world_size
from modelscope_ext.training.loop import Progress, autocast, hide_bar
from modelscope_ext.training.muon import Muon
from modelscope_ext.training.states import load_optimizer

logger = logging.getLogger(__name__)
#: Files in the folder of a run that a configuration could be.
WRITTEN = ("last.pt", "log.csv", "best/configuration.json")
FREE = ("bias", "position")  # parameters without weight decay


def schedule(config: TrainConfig, step: int) -> float:
    """Return the share of the learning rates: a linear rise and a constant part and a linear fall.

    A run that has not begun to fall may be given more steps (Haegele et al., arXiv 2405.18392).
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    left = (config.steps - step) / max(1.0, config.decay_share * config.steps)
    return config.final_share + (1 - config.final_share) * max(0.0, min(1.0, left))


@torch.no_grad()
def validate(net: nn.Module, pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Return the means of pesq, si_sdr, stoi and cd over (noisy, clean) pairs and q = pesq + 0.2 si_sdr - cd.

    A value that is NaN does not count.
    """
    net.eval()
    device = next(net.parameters()).device
    rows = []
    for noisy, clean in pairs:
        out = net.enhance(torch.from_numpy(noisy).to(device)[None])[0].cpu().numpy()
        row = [metrics.pesq(out, clean), metrics.si_sdr(out, clean), metrics.stoi(out, clean)]
        rows.append([*row, metrics.cepstral_distance(out, clean)])
    pesq, si_sdr, stoi, cd = (float(value) for value in np.nanmean(rows, axis=0))
    q = metrics.model_selection_score(pesq, si_sdr, cd)
    return {"pesq": pesq, "si_sdr": si_sdr, "stoi": stoi, "cd": cd, "q": q}


class MixtureRecipe:
    """A CRUSE, trained on mixtures: compressed spectral loss, Muon and AdamW, averaged weights.

    Args:
        config: what to train and on what.
        data_dir: folder that the configuration's folders are relative to.
        work_dir: folder of the run. It gets `last.pt` (the checkpoint), `best/` (a model folder with the averaged
            weights of the highest validation score), `log.csv`, TensorBoard events, and `cache/` (decoded audio).
        device: "cpu" or "cuda", where training uses bfloat16; None takes a GPU if there is one.
        progress: show bars.

    Raises:
        ValueError: the batch cannot be divided by the processes or the start does not fit the model.
    """

    columns = ["step", "hours", "learning_rate", "loss", "grad_norm", "pesq", "si_sdr", "stoi", "cd", "q", "seconds"]
    epoch = None
    row_every = 100

    def __init__(
        self,
        config: TrainConfig,
        data_dir: str | Path,
        work_dir: str | Path,
        device: str | None = None,
        progress: bool = True,
    ) -> None:
        self.config, self.data_dir, self.work_dir, self.progress = config, Path(data_dir), Path(work_dir), progress
        self.scores: dict[str, float] = {}
        self.best_q = -math.inf
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []  # of the validation
        init_process_group(device)
        if config.batch % world_size():
            raise ValueError(f"batch {config.batch} cannot be shared evenly by {world_size()} processes")
        torch.manual_seed(config.seed)
        options = dict(config.model)
        net = build(options.pop("name"), **options)
        if config.start and not self.newest_checkpoint():
            _begin(net, config.start, self.work_dir / "best")
        self.net = to_device(net, device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.device = next(net.parameters()).device
        cpu = self.device.type == "cpu"
        if cpu:
            torch.set_num_threads(config.threads)
        self.bfloat16_on_cpu = cpu and has_bfloat16() and isinstance(net, DualPath)  # a CRUSE computes in 32 bits there
        # Batch norm's running statistics are copied, not averaged: an average of them lags behind the weights' own.
        self.average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
        names = ("complex_weight", "snr_weight", "loudness_weight", "under_weight", "silent_weight")
        weights = {name: getattr(config, name) for name in names}
        self.loss = CompressedSpectralLoss(config.compression, **weights).to(self.device)
        self.optimizers = _optimizers(self.net, config)

    def newest_checkpoint(self) -> Path | None:
        """Return `last.pt` if it exists."""
        path = self.work_dir / "last.pt"
        return path if path.exists() else None

    def batches(self, start: int, stop: int) -> DataLoader:
        """Return batches of (B, N) noisy and target audio; decode the corpora first."""
        share = self.config.batch // world_size()
        with rank_zero_first():
            mixer = self._mixer()
            chosen = self.config.validation
            corpora = self._corpus(chosen.speech), self._corpus(chosen.noise)
            self.pairs = validation_pairs(*corpora, chosen.pairs, chosen.seed, chosen.seconds)
        return data_loader(mixer, share, positions(start, stop, share), self.config.workers, self.device)

    def losses(self, batch: list[Tensor], step: int) -> dict[str, Tensor]:
        """Return the loss of the enhanced mixtures."""
        noisy, target = (each.to(self.device) for each in batch)
        self.net.train()
        if step >= self.config.norm_steps:
            for module in self.net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        with autocast(self.device, self.bfloat16_on_cpu):
            estimate = self.net.enhance(noisy)
        return {"loss": self.loss(estimate.float(), target, noisy)}

    def update(self, step: int) -> None:
        """Change the weights at the learning rates of this step and their average."""
        share = schedule(self.config, step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * share
            optimizer.step()
        self.average.update_parameters(self.net)

    def row(self, progress: Progress, means: dict[str, float], last: bool) -> dict[str, float]:
        """Return position and means. If it is time for a validation the row has scores too."""
        step = progress.step
        row = {"step": step, "hours": self._hours(step)}
        row |= {"learning_rate": self.config.learning_rate * schedule(self.config, step), **means}
        if step % self.config.validation.every == 0 or last:
            if not rank():
                self.scores = self._validate(step)
                row |= self.scores
            barrier()  # the first process alone validates
        return row | {"seconds": progress.seconds}

    def save(self, progress: Progress, state: dict[str, Any]) -> None:
        """Write `last.pt`."""
        save_tensors(state, self.work_dir / "last.pt")

    def state(self, progress: Progress) -> dict[str, Any]:
        """Return weights and their average and what continues training."""
        return {
            "progress": {"step": progress.step, "seconds": progress.seconds, "best_q": self.best_q},
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "random": progress.random,
        }

    def load_state(self, state: dict[str, Any]) -> Progress:
        """Take over a checkpoint."""
        position = state["progress"]
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            load_optimizer(optimizer, kept)
        self.best_q = float(position["best_q"])
        return Progress(position["step"], position["seconds"], state["random"])

    def enough(self, progress: Progress) -> str:
        """Return an empty text: all steps are worth their time."""
        return ""

    def _validate(self, step: int) -> dict[str, float]:
        scores = validate(self.average.module, self.pairs)
        if scores["q"] > self.best_q:
            self.best_q = scores["q"]
            kind = DUAL_PATH_TYPE if isinstance(self.net, DualPath) else CRUSE_TYPE
            configuration = {
                "framework": "pytorch",
                "task": "acoustic-noise-suppression",
                "pipeline": {"type": kind},
                "preprocessor": {"type": kind},
                "model": {"type": kind, **self.config.model},
                "training": {"steps": step, "hours": round(self._hours(step), 1), "validation": scores},
            }
            save_model(self.average.module, self.work_dir / "best", configuration)
        return scores

    def _hours(self, step: int) -> float:
        return step * self.config.batch * self.config.data.mix.seconds / 3600

    def _mixer(self) -> Mixer:
        config = self.config.data
        spoken, noises = corpus_options(config.speech), corpus_options(config.noise)
        speech, noise = (
            [(self._corpus(folder), options["weight"]) for folder, options in each.items()] for each in (spoken, noises)
        )
        if config.max_speaker_share:
            rules = [options.get("speaker", "one") for options in spoken.values()]
            speech = cap_speakers(speech, rules, config.max_speaker_share)
        limits = {i: each["band_limit_hz"] for i, each in enumerate(spoken.values()) if "band_limit_hz" in each}
        kinds = {i: each["kind"] for i, each in enumerate(noises.values()) if "kind" in each}
        return Mixer(speech, noise, self._rooms(), config.mix, self.config.seed, limits, kinds)

    def _corpus(self, folder: str) -> Corpus:
        def show(files):
            return Bar(files, desc=f"decoding {folder}", unit="file", quiet=hide_bar(self.progress))

        corpus = load_corpus(self.data_dir / folder, self.work_dir / "cache", progress=show)
        logger.info("%s: %d clips, %.1f min", folder, len(corpus), corpus.seconds / 60)
        return corpus

    def _rooms(self) -> list[list[np.ndarray]]:
        config = self.config.data
        rooms: list[list[np.ndarray]] = []
        if config.rooms:
            kept = self.work_dir / "cache" / f"rooms-{config.rooms}-{self.config.seed}.npz"
            if not kept.exists():
                logger.info("simulating %d rooms", config.rooms)
                save_rooms(kept, simulate_rooms(np.random.default_rng(self.config.seed), config.rooms))
            rooms += load_rooms(kept)
        if config.room_folder:
            rooms += load_rooms(self.data_dir / config.room_folder, leave_out=config.rooms_left_out)
        return rooms


def _optimizers(net: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Return AdamW and Muon; Muon takes the matrices between the first and the last layer."""
    matrices, decayed, free = [], [], []
    for name, parameter in net.named_parameters():
        outer = name.startswith(net.outer_layers)
        if name.rpartition(".")[2].startswith(FREE) or parameter.numel() == len(parameter):  # one number a channel
            free.append(parameter)
        elif config.matrix_learning_rate and not outer:
            matrices.append(parameter)
        else:
            decayed.append(parameter)
    groups = [{"params": decayed}, {"params": free, "weight_decay": 0.0}]
    optimizers = [torch.optim.AdamW(groups, config.learning_rate, weight_decay=config.weight_decay)]
    if matrices:
        optimizers.append(Muon(matrices, config.matrix_learning_rate, weight_decay=config.weight_decay))
    return optimizers


def _begin(net: nn.Module, start: str, best: Path) -> None:
    """Begin with the weights of a model folder, which is not the one that this run writes."""
    try:
        if not hasattr(net, "load_resized"):
            raise ValueError(f"{type(net).__name__} cannot begin from another network")
        folder = model_folder(("stream" if net.causal else "file") if start == "default" else start)
        require_outside(folder, best)
        net.load_resized(load_model(folder))
    except ValueError as error:
        raise ValueError(f"cannot begin from {start}: {error}") from error
