"""The networks as ModelScope models: dictionaries of (B, N) float32 audio at 16 kHz in and out."""

from pathlib import Path

import torch
from modelscope.models.base import TorchModel
from modelscope.models.builder import MODELS

from modelscope_ext.checkpoint import load_model
from modelscope_ext.losses import frcrn_loss
from modelscope_ext.plugin.names import CRUSE_TYPE, FRCRN_TYPE, TASK

__all__ = ["CruseModel", "FrcrnModel"]


@MODELS.register_module(TASK, module_name=CRUSE_TYPE)
class CruseModel(TorchModel):
    """A CRUSE from a model folder.

    `forward({"noisy": (B, N)})` returns `{"wav_l2": (B, N)}`, the key that FRCRN has.
    """

    def __init__(self, model_dir: str, *args, **kwargs) -> None:
        super().__init__(model_dir)
        self.model = load_model(Path(model_dir))

    def forward(self, inputs: dict, **kwargs) -> dict:
        """Enhanced waveforms of `inputs["noisy"]`."""
        return {"wav_l2": self.model.enhance(inputs["noisy"])}


@MODELS.register_module(TASK, module_name=FRCRN_TYPE, force=True)
class FrcrnModel(TorchModel):
    """An FRCRN from a model folder; one without weights begins with random ones, to be trained.

    `forward({"noisy": (B, N)})`, N >= 640, returns spec_l1, wav_l1, mask_l1, spec_l2, wav_l2, mask_l2 as
    `Frcrn.forward` describes them; with `"clean": (B, N)` also loss, amp_loss, phase_loss, sisnr (`frcrn_loss`), and
    these as numbers in log_vars.
    """

    def __init__(self, model_dir: str, *args, **kwargs) -> None:
        super().__init__(model_dir)
        self.model = load_model(Path(model_dir), need_weights=False)

    def forward(self, inputs: dict[str, torch.Tensor], **kwargs) -> dict:
        """All outputs, and the losses where there is a target."""
        out = self.model(inputs["noisy"])
        if "clean" in inputs:
            losses = frcrn_loss(out["wav_l2"], out["mask_l2"], inputs["noisy"], inputs["clean"])
            out |= losses | {"log_vars": {name: value.item() for name, value in losses.items()}}
        return out
