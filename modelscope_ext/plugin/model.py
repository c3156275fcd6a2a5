"""CRUSE as a ModelScope model."""

from pathlib import Path

from modelscope.models.base import TorchModel
from modelscope.models.builder import MODELS

from modelscope_ext.checkpoint import load_model
from modelscope_ext.plugin.names import CRUSE_TYPE, TASK

__all__ = ["CruseModel"]


@MODELS.register_module(TASK, module_name=CRUSE_TYPE)
class CruseModel(TorchModel):
    """A CRUSE from a model folder.

    `forward({"noisy": (B, N) float32 at 16 kHz})` returns `{"wav_l2": (B, N)}`, the key that FRCRN has.
    """

    def __init__(self, model_dir: str, *args, **kwargs) -> None:
        super().__init__(model_dir)
        self.model = load_model(Path(model_dir))

    def forward(self, inputs: dict, **kwargs) -> dict:
        """Enhanced waveforms of `inputs["noisy"]`."""
        return {"wav_l2": self.model.enhance(inputs["noisy"])}
