"""Model folders as trainable networks: modules that return their losses, and metrics of an evaluation.

Inputs are {"noisy": (B, N), "clean": (B, N)} float32 at 16 kHz.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelscope_ext import metrics
from modelscope_ext.checkpoint import FRCRN_TYPE, load_model, read_configuration, released_state_dict
from modelscope_ext.losses import CompressedSpectralLoss, frcrn_loss, si_snr


class Objective(nn.Module):
    """A network and its loss from a model folder. Without weights in it training begins from random ones."""

    def __init__(self, folder: str | Path) -> None:
        nn.Module.__init__(self)
        self.load(folder)

    def load(self, folder: str | Path) -> None:
        """Load the network of a model folder."""
        self.model = load_model(folder, need_weights=False)

    def forward(self, inputs: dict[str, Tensor], **kwargs) -> dict[str, Any]:
        """Return the outputs; with `clean` also the losses and these as numbers in `log_vars`."""
        out = self.outputs(inputs["noisy"])
        if "clean" in inputs:
            losses = self.losses(out, inputs["noisy"], inputs["clean"])
            out |= losses | {"log_vars": {name: value.item() for name, value in losses.items()}}
        return out


class CruseObjective(Objective):
    """A CRUSE with `CompressedSpectralLoss`, whose options are in `train.loss` of the configuration."""

    def load(self, folder: str | Path) -> None:
        """Load the network and the options of its loss."""
        super().load(folder)
        self.loss = CompressedSpectralLoss(**read_configuration(folder).get("train", {}).get("loss", {}))

    def outputs(self, noisy: Tensor) -> dict[str, Tensor]:
        """Return the enhanced audio (B, N) as wav_l2: the name that FRCRN gives it."""
        return {"wav_l2": self.model.enhance(noisy)}

    def losses(self, out: dict[str, Tensor], noisy: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """Return loss and sisnr (the negative SI-SNR)."""
        estimate = out["wav_l2"].float()
        return {"loss": self.loss(estimate, clean, noisy), "sisnr": -si_snr(estimate, clean).mean()}


class FrcrnObjective(Objective):
    """An FRCRN with `frcrn_loss`. Its state dict is that of ModelScope's class, with each layer under two names."""

    def load(self, folder: str | Path) -> None:
        """Load the network of a model folder."""
        super().load(folder)
        self.register_state_dict_post_hook(_add_aliases)
        self.register_load_state_dict_pre_hook(_remove_aliases)

    def outputs(self, noisy: Tensor) -> dict[str, Tensor]:
        """Return the outputs of `Frcrn.outputs`."""
        return {name: value.float() for name, value in self.model.outputs(noisy).items()}

    def losses(self, out: dict[str, Tensor], noisy: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """Return loss, amp_loss, phase_loss and sisnr."""
        return frcrn_loss(out["wav_l2"], out["mask_l2"], noisy, clean)


def _add_aliases(module: FrcrnObjective, state: dict, prefix: str, metadata: dict) -> None:
    state |= {f"{prefix}model.{name}": value for name, value in released_state_dict(module.model).items()}


def _remove_aliases(module: FrcrnObjective, state: dict, prefix: str, *unused) -> None:
    own = {f"{prefix}model.{name}" for name in module.model.state_dict()}
    for name in released_state_dict(module.model):
        if f"{prefix}model.{name}" not in own:
            state.pop(f"{prefix}model.{name}", None)


def build_objective(folder: str | Path) -> Objective:
    """Return the network of a model folder with its loss."""
    frcrn = read_configuration(folder)["model"].get("type") == FRCRN_TYPE
    return FrcrnObjective(folder) if frcrn else CruseObjective(folder)


class LossMetric:
    """Mean losses; each utterance has the same weight.

    `avg_loss` is the mean of `outputs["loss"]` and `avg_sisnr` that of `-outputs["sisnr"]` in dB. `total_loss` equals
    `avg_loss`, which has all terms; ModelScope's own metric adds them a second time.
    """

    def __init__(self) -> None:
        self.count = 0
        self.sums = {"loss": 0.0, "sisnr": 0.0}

    def add(self, outputs: dict[str, Any], inputs: dict[str, Any]) -> None:
        """Add the losses of a batch of (B, N) `inputs["noisy"]`."""
        count = len(inputs["noisy"])
        self.count += count
        for name in self.sums:
            self.sums[name] += count * float(outputs[name])

    def evaluate(self) -> dict[str, float]:
        """Return the means; NaN of no utterance."""
        loss, sisnr = (value / self.count if self.count else math.nan for value in self.sums.values())
        return {"total_loss": loss, "avg_sisnr": -sisnr, "avg_loss": loss}

    def merge(self, other: "LossMetric") -> None:
        """Add the sums of another process."""
        self.count += other.count
        for name, value in other.sums.items():
            self.sums[name] += value


class QualityMetric:
    """Means of PESQ, STOI (percent) and SI-SDR (dB) over utterances: wb_pesq, nb_pesq, stoi, si_sdr.

    An utterance without a value does not count. `dnsmos` adds sig, bak, ovrl and p808 and takes several times as long.

    Raises:
        ModuleNotFoundError: a package is missing. The message has the command that installs it.
    """

    def __init__(self, dnsmos: bool = False) -> None:
        self.names = metrics.SCORES if dnsmos else metrics.SCORES[:4]
        metrics.require(self.names)
        self.rows: list[dict[str, float]] = []

    def add(self, outputs: dict[str, Any], inputs: dict[str, Any]) -> None:
        """Score (B, N') `outputs["wav_l2"]` against the first N' samples of (B, N) `inputs["clean"]`."""
        signals = (outputs["wav_l2"], inputs["clean"])
        estimates, cleans = (torch.as_tensor(signal).detach().float().cpu().numpy() for signal in signals)
        if estimates.ndim != 2 or len(estimates) != len(cleans) or estimates.shape[1] > cleans.shape[1]:
            raise ValueError(f"need (B, N') and (B, N) signals, got {estimates.shape} and {cleans.shape}")
        for estimate, clean in zip(estimates, cleans[:, : estimates.shape[1]], strict=True):
            self.rows.append(metrics.scores(estimate, clean, self.names))

    def evaluate(self) -> dict[str, float]:
        """Return the means; NaN of no value."""
        means = {}
        for name in self.names:
            values = [row[name] for row in self.rows if not math.isnan(row[name])]
            means[name] = math.fsum(values) / len(values) if values else math.nan
        return means

    def merge(self, other: "QualityMetric") -> None:
        """Add the scores of another process."""
        self.rows += other.rows


METRICS = {"audio-noise-metric": LossMetric, "speech-quality": QualityMetric}


def build_metrics(names: list[str | dict]) -> list:
    """Return metrics by the names (or {"type": name, option: value}) of a configuration."""
    built = []
    for name in names:
        options = dict(name) if isinstance(name, dict) else {"type": name}
        if (kind := METRICS.get(options.pop("type", None))) is None:
            raise ValueError(f"unknown metric {name}; known are {', '.join(METRICS)}")
        built.append(kind(**options))
    return built
