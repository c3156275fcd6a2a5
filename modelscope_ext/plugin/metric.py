"""Metrics for ModelScope's trainers."""

from modelscope.metrics.base import Metric
from modelscope.metrics.builder import METRICS

from modelscope_ext.training.objectives import LossMetric, QualityMetric


@METRICS.register_module(module_name="audio-noise-metric", force=True)
class NoiseSuppressionMetric(LossMetric, Metric):
    """`LossMetric` under the name that the released configuration has."""


@METRICS.register_module(module_name="speech-quality")
class SpeechQualityMetric(QualityMetric, Metric):
    """`QualityMetric` by its name in a configuration."""
