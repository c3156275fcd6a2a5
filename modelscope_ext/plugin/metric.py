"""Metrics for ModelScope's trainers; each adds up batches, merges over processes, and can be pickled."""

import math
from typing import Any

import torch
from modelscope.metrics.base import Metric
from modelscope.metrics.builder import METRICS, MetricKeys

from modelscope_ext import metrics

__all__ = ["NoiseSuppressionMetric", "SpeechQualityMetric"]


@METRICS.register_module(module_name="audio-noise-metric", force=True)
class NoiseSuppressionMetric(Metric):
    """Losses over the utterances of all batches, each utterance counting as much as any other.

    `avg_loss` is the mean of `outputs["loss"]` and `avg_sisnr` that of `-outputs["sisnr"]`, in dB; both are means over
    a batch. `total_loss` is `avg_loss`, which holds all terms; modelscope's own metric of this name adds them again.
    """

    def __init__(self) -> None:
        self.count = 0
        self.sums = {"loss": 0.0, "sisnr": 0.0}

    def add(self, outputs: dict[str, Any], inputs: dict[str, Any]) -> None:
        """Takes the losses of a batch of (B, N) `inputs["noisy"]`."""
        count = len(inputs["noisy"])
        self.count += count
        for name in self.sums:
            self.sums[name] += count * float(outputs[name])

    def evaluate(self) -> dict[str, float]:
        """The means; NaN of nothing."""
        loss, sisnr = (value / self.count if self.count else math.nan for value in self.sums.values())
        return {"total_loss": loss, "avg_sisnr": -sisnr, MetricKeys.AVERAGE_LOSS: loss}

    def merge(self, other: "NoiseSuppressionMetric") -> None:
        """Takes in what another process has added."""
        self.count += other.count
        for name, value in other.sums.items():
            self.sums[name] += value


@METRICS.register_module(module_name="speech-quality")
class SpeechQualityMetric(Metric):
    """PESQ, STOI (percent) and SI-SDR (dB) of whole utterances at 16 kHz: wb_pesq, nb_pesq, stoi, si_sdr.

    Args:
        dnsmos: also sig, bak, ovrl and p808, which take several times as long as the rest.

    Means over the utterances that have a value; NaN where none has.

    Raises:
        ModuleNotFoundError: a package is missing; the message says how to install it.
    """

    def __init__(self, dnsmos: bool = False) -> None:
        self.names = metrics.SCORES if dnsmos else metrics.SCORES[:4]
        metrics.require(self.names)
        self.rows: list[dict[str, float]] = []

    def add(self, outputs: dict[str, Any], inputs: dict[str, Any]) -> None:
        """Scores (B, N') `outputs["wav_l2"]` against (B, N) `inputs["clean"]`, N' <= N, up to N'."""
        estimates, cleans = (_array(signal) for signal in (outputs["wav_l2"], inputs["clean"]))
        if estimates.ndim != 2 or len(estimates) != len(cleans) or estimates.shape[1] > cleans.shape[1]:
            raise ValueError(f"need (B, N') and (B, N) signals, got {estimates.shape} and {cleans.shape}")
        for estimate, clean in zip(estimates, cleans[:, : estimates.shape[1]], strict=True):
            self.rows.append(metrics.scores(estimate, clean, self.names))

    def evaluate(self) -> dict[str, float]:
        """The means."""
        means = {}
        for name in self.names:
            values = [row[name] for row in self.rows if not math.isnan(row[name])]
            means[name] = math.fsum(values) / len(values) if values else math.nan
        return means

    def merge(self, other: "SpeechQualityMetric") -> None:
        """Takes in what another process has added."""
        self.rows += other.rows


def _array(signal: Any) -> Any:
    return torch.as_tensor(signal).detach().float().cpu().numpy()
