"""Trains CRUSE on an endless stream of mixtures, and goes on where it was killed.

In the work folder: `last.pt` (everything needed to go on), `best/` (a model folder: the averaged weights with the
highest validation score), `log.csv`, TensorBoard events, and `cache/` (decoded corpora, rooms).
"""

import json
import logging
import math
import signal
import threading
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from modelscope_ext import metrics
from modelscope_ext.checkpoint import CRUSE_TYPE, load_model, save_model, save_tensors
from modelscope_ext.data.corpus import Corpus, load_corpus
from modelscope_ext.data.mixing import MixConfig, Mixer, validation_pairs
from modelscope_ext.data.rooms import load_rooms, save_rooms, simulate_rooms
from modelscope_ext.data.speakers import cap_speakers
from modelscope_ext.losses import CompressedSpectralLoss
from modelscope_ext.models import build, has_bfloat16, to_device
from modelscope_ext.models.cruse.network import Cruse
from modelscope_ext.models.dual_path import DualPath
from modelscope_ext.pretrained import DEFAULT
from modelscope_ext.training.config import DataConfig, TrainConfig, corpus_options
from modelscope_ext.training.distributed import agree, average, in_turns, join, wait
from modelscope_ext.training.log import Log
from modelscope_ext.training.muon import Muon

__all__ = ["Trainer", "schedule", "validate"]

logger = logging.getLogger(__name__)
FIELDS = ["step", "hours", "learning_rate", "loss", "grad_norm", "pesq", "si_sdr", "stoi", "cd", "q", "seconds"]
LOG_EVERY = 100  # steps
FREE = ("bias", "position")  # parameters without weight decay


def schedule(config: TrainConfig, step: int) -> float:
    """Share of the learning rates: it rises, stays at one, and falls, all linearly (Haegele et al., arXiv 2405.18392).

    A run that has not begun to fall may be given more steps.
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    left = (config.steps - step) / max(1.0, config.decay_share * config.steps)
    return config.final_share + (1 - config.final_share) * max(0.0, min(1.0, left))


@torch.no_grad()
def validate(net: nn.Module, pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Mean pesq, si_sdr, stoi, cd and q = pesq + 0.2 si_sdr - cd over (noisy, clean) pairs; NaN rows are left out."""
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


@dataclass
class _Progress:
    step: int = 0
    seconds: float = 0.0  # of training, over all runs
    best_q: float = -math.inf


class Trainer:
    """One run in one folder.

    Args:
        config: what to train, and on what.
        data_dir: the folder that the configuration's data folders are relative to.
        work_dir: where the run lives; one that was begun before goes on, with the same data order.
        device: "cpu" or "cuda" (there with bfloat16 autocast); None takes CUDA where there is one.
        progress: show a bar.

    Raises:
        ValueError: the folder holds a run of another configuration.
    """

    def __init__(
        self,
        config: TrainConfig,
        data_dir: str | Path,
        work_dir: str | Path,
        device: str | None = None,
        progress: bool = True,
    ) -> None:
        self.config, self.data_dir, self.work_dir = config, Path(data_dir), Path(work_dir)
        self.rank, self.ranks = join(device)
        if config.batch % self.ranks:
            raise ValueError(f"batch {config.batch} cannot be shared evenly by {self.ranks} processes")
        self.bar = progress and not self.rank
        self.work_dir.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        options = dict(config.model)
        net = build(options.pop("name"), **options)
        if config.start and not self.checkpoint.exists():
            _begin(net, config.start)
        self.net = to_device(net, device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.device = next(net.parameters()).device
        self.autocast = self.device.type == "cuda"
        if self.device.type == "cpu":
            torch.set_num_threads(config.threads)
            self.autocast = has_bfloat16() and isinstance(self.net, DualPath)  # a CRUSE computes in 32 bits there
        # Batch norm's running statistics are copied, not averaged: an average of them lags behind the weights' own.
        self.average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
        names = ("complex_weight", "snr_weight", "loudness_weight", "under_weight", "silent_weight")
        weights = {name: getattr(config, name) for name in names}
        self.loss = CompressedSpectralLoss(config.compression, **weights).to(self.device)
        self.optimizers = _optimizers(self.net, config)
        self.done = _Progress()
        if self.checkpoint.exists():
            self._load()
        if self.ranks > 1 and (state := agree([self.done.step], self._state, self.device)):
            self._restore(state, f"the {self.checkpoint.name} of another process")

    @property
    def checkpoint(self) -> Path:
        """Where the state of the run is kept."""
        return self.work_dir / "last.pt"

    def run(self, stop_after: int | None = None) -> dict[str, float]:
        """Trains to the configured number of steps, or `stop_after` steps from here; returns the last validation.

        On SIGTERM or Ctrl-C the step is finished and the state is saved.
        """
        config, done = self.config, self.done
        last = config.steps if stop_after is None else min(config.steps, done.step + stop_after)
        with in_turns():  # the first process decodes, for all that share its folder
            mixer = self._data()
            pairs = self._validation_pairs()
        indices = np.arange(done.step * config.batch, last * config.batch).reshape(-1, self.ranks, self._share)
        # Its own workers' seeds come from this generator, so that making the loader leaves torch's own untouched.
        loader = DataLoader(
            mixer,
            batch_size=self._share,
            sampler=indices[:, self.rank].ravel().tolist(),
            num_workers=config.workers,
            generator=torch.Generator(),
            prefetch_factor=4 if config.workers else None,
            worker_init_fn=_leave_signals_to_the_trainer,
            pin_memory=self.device.type == "cuda",
        )
        stopping: list[int] = []
        handlers = {s: signal.signal(s, lambda number, _: stopping.append(number)) for s in _signals()}
        log = Log(self.work_dir, FIELDS, done.step) if not self.rank else None
        bar = tqdm(total=config.steps, initial=done.step, disable=self._bar, unit="step", dynamic_ncols=True)
        scores: dict[str, float] = {}
        saved, begun, losses, norms = time.monotonic(), time.monotonic(), [], []
        try:
            for noisy, target in loader:
                loss, norm, stop = self._step(noisy.to(self.device), target.to(self.device), stopping)
                losses.append(loss)
                norms.append(norm)
                done.step += 1
                done.seconds += time.monotonic() - begun
                begun = time.monotonic()
                hours = done.step * config.batch * config.data.mix.seconds / 3600
                if done.step % 10 == 0:
                    bar.set_postfix(loss=f"{np.mean(losses[-100:]):.4f}", hours=f"{hours:.1f}", refresh=False)
                bar.update()
                logged = done.step % LOG_EVERY == 0 or done.step == last
                validated = logged and (done.step % config.validation.every == 0 or done.step == last)
                if log and logged:
                    row = {
                        "step": done.step,
                        "hours": hours,
                        "learning_rate": config.learning_rate * schedule(config, done.step),
                        "loss": np.mean(losses),
                        "grad_norm": np.mean(norms),
                        "seconds": done.seconds,
                    }
                    if validated:
                        scores = self._validate(pairs)
                        row |= scores
                    log.write(row, told=bar.disable)
                    losses, norms = [], []
                if validated:
                    wait()  # for the first process, which alone has validated
                if stop or done.step == last or time.monotonic() - saved > config.checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
                if stop:
                    break
        finally:
            bar.close()
            if log:
                log.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return scores

    @property
    def _bar(self) -> bool | None:
        """What tqdm's `disable` is: None shows a bar where it is seen."""
        return None if self.bar else True

    @property
    def _share(self) -> int:
        """Pairs of a batch that this process takes."""
        return self.config.batch // self.ranks

    def _step(self, noisy: torch.Tensor, target: torch.Tensor, stopping: list) -> tuple[float, float, bool]:
        """The loss, the gradient's norm, and whether some process was asked to stop."""
        self.net.train()
        if self.done.step >= self.config.norm_steps:
            for module in self.net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        share = schedule(self.config, self.done.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * share
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            estimate = self.net.enhance(noisy)
        loss = self.loss(estimate.float(), target, noisy)
        self.net.zero_grad()
        loss.backward()
        mean_loss, stop = self._merge(loss.detach(), bool(stopping))
        norm = float(nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip_norm))
        if math.isfinite(norm):
            for optimizer in self.optimizers:
                optimizer.step()
            self.average.update_parameters(self.net)
        else:
            logger.warning("step %d: the gradient is not finite; skipped", self.done.step)
        return mean_loss, norm, stop

    def _merge(self, loss: torch.Tensor, stop: bool) -> tuple[float, bool]:
        """Averages gradients and loss over the processes."""
        if self.ranks == 1:
            return float(loss), stop
        told = torch.stack((loss, loss.new_tensor(float(stop))))
        average([*(parameter.grad for parameter in self.net.parameters() if parameter.grad is not None), told])
        return float(told[0]), bool(told[1] > 0)

    def _validate(self, pairs: list) -> dict[str, float]:
        scores = validate(self.average.module, pairs)
        if scores["q"] > self.done.best_q:
            self.done.best_q = scores["q"]
            described = {
                "framework": "pytorch",
                "task": "acoustic-noise-suppression",
                "pipeline": {"type": CRUSE_TYPE},
                "preprocessor": {"type": CRUSE_TYPE},
                "model": {"type": CRUSE_TYPE, **self.config.model},
                "training": {"steps": self.done.step, "hours": self._hours(), "validation": scores},
            }
            save_model(self.average.module, self.work_dir / "best", described)
        return scores

    def _hours(self) -> float:
        return round(self.done.step * self.config.batch * self.config.data.mix.seconds / 3600, 1)

    def _data(self) -> Mixer:
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
            return tqdm(files, desc=f"decoding {folder}", unit="file", disable=self._bar)

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

    def _validation_pairs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        config = self.config.validation
        speech, noise = self._corpus(config.speech), self._corpus(config.noise)
        return validation_pairs(speech, noise, config.pairs, config.seed, config.seconds)

    def _save(self) -> None:
        if not self.rank:
            save_tensors(self._state(), self.checkpoint)

    def _state(self) -> dict[str, Any]:
        return {
            "config": json.dumps(_comparable(self.config)),
            "progress": asdict(self.done),
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "random": torch.get_rng_state(),
        }

    def _load(self) -> None:
        try:
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            json.loads(state["config"])
        except Exception as error:  # what torch's reader raises on damaged files is not documented
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{self.checkpoint}: no checkpoint of a run, or damaged ({reason})") from error
        self._restore(state, str(self.checkpoint))
        logger.info("going on from step %d", self.done.step)

    def _restore(self, state: dict[str, Any], name: str) -> None:
        before, now = json.loads(state["config"]), json.loads(json.dumps(_comparable(self.config)))
        # A run that an older version began has what has come since as it is by default.
        defaults = {each.name: each.default for each in fields(self.config)}
        before["data"] = json.loads(json.dumps(asdict(DataConfig({}, {})))) | before["data"]
        before["data"]["mix"] = json.loads(json.dumps(asdict(MixConfig()))) | before["data"]["mix"]
        if changed := [key for key in now if now[key] != before.get(key, defaults[key])]:
            raise ValueError(
                f"{name} belongs to a run with another configuration ({', '.join(changed)} differ); "
                "choose another --work-dir, or remove that file"
            )
        self.done = _Progress(**state["progress"])
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        torch.set_rng_state(state["random"].cpu())


def _optimizers(net: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between the first and the last layer, AdamW for the rest."""
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


def _begin(net: nn.Module, start: str) -> None:
    try:
        if not isinstance(net, Cruse):
            raise ValueError(f"{type(net).__name__} cannot begin from another network")
        net.load_resized(load_model(DEFAULT if start == "default" else start))
    except ValueError as error:
        raise ValueError(f"cannot begin from {start}: {error}") from error


def _comparable(config: TrainConfig) -> dict[str, Any]:
    """What must not change within a run; how fast it runs and how often it is looked at may."""
    free = ("steps", "threads", "workers", "checkpoint_seconds", "validation")
    return {key: value for key, value in asdict(config).items() if key not in free}


def _leave_signals_to_the_trainer(worker: int) -> None:
    """A signal to the whole process group would end a data worker in the middle of a step."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _signals() -> list[int]:
    """The signals that end a run in good order; only the main thread may catch them."""
    return [signal.SIGINT, signal.SIGTERM] if threading.current_thread() is threading.main_thread() else []
