"""The networks as ModelScope models: dictionaries of (B, N) float32 audio at 16 kHz in and out."""

from pathlib import Path

import torch
from modelscope.models.base import TorchModel
from modelscope.models.builder import MODELS

from modelscope_ext.checkpoint import load_model, read_configuration, released_state_dict
from modelscope_ext.losses import CompressedSpectralLoss, frcrn_loss, si_snr
from modelscope_ext.plugin.names import CRUSE_TYPE, FRCRN_TYPE, TASK

__all__ = ["CruseModel", "FrcrnModel"]


@MODELS.register_module(TASK, module_name=CRUSE_TYPE)
class CruseModel(TorchModel):
    """A CRUSE from a model folder; one without weights begins with random ones, to be trained.

    `forward({"noisy": (B, N)})` returns `{"wav_l2": (B, N)}`, the key that FRCRN has; with `"clean": (B, N)` also loss
    (`CompressedSpectralLoss` with the options in `train.loss` of the configuration), sisnr (the SI-SNR with its sign
    changed), and these as numbers in log_vars.
    """

    def __init__(self, model_dir: str, *args, **kwargs) -> None:
        super().__init__(model_dir)
        self.model = load_model(Path(model_dir), need_weights=False)
        self.loss = CompressedSpectralLoss(**read_configuration(model_dir).get("train", {}).get("loss", {}))

    def forward(self, inputs: dict[str, torch.Tensor], **kwargs) -> dict:
        """The enhanced waveforms, and the losses where there is a target."""
        out = {"wav_l2": self.model.enhance(inputs["noisy"])}
        if "clean" in inputs:
            estimate, clean = out["wav_l2"].float(), inputs["clean"]
            losses = {"loss": self.loss(estimate, clean, inputs["noisy"]), "sisnr": -si_snr(estimate, clean).mean()}
            out |= losses | {"log_vars": {name: value.item() for name, value in losses.items()}}
        return out


@MODELS.register_module(TASK, module_name=FRCRN_TYPE, force=True)
class FrcrnModel(TorchModel):
    """An FRCRN from a model folder; one without weights begins with random ones, to be trained.

    `forward({"noisy": (B, N)})`, N >= 640, returns spec_l1, wav_l1, mask_l1, spec_l2, wav_l2, mask_l2 as
    `Frcrn.outputs` describes them; with `"clean": (B, N)` also loss, amp_loss, phase_loss, sisnr (`frcrn_loss`), and
    these as numbers in log_vars. Its state dict is that of the stock class, every layer by two names.
    """

    def __init__(self, model_dir: str, *args, **kwargs) -> None:
        super().__init__(model_dir)
        self.model = load_model(Path(model_dir), need_weights=False)
        self.register_state_dict_post_hook(_with_both_names)
        self.register_load_state_dict_pre_hook(_with_one_name)

    def forward(self, inputs: dict[str, torch.Tensor], **kwargs) -> dict:
        """All outputs, and the losses where there is a target."""
        out = {name: value.float() for name, value in self.model.outputs(inputs["noisy"]).items()}
        if "clean" in inputs:
            losses = frcrn_loss(out["wav_l2"], out["mask_l2"], inputs["noisy"], inputs["clean"])
            out |= losses | {"log_vars": {name: value.item() for name, value in losses.items()}}
        return out


def _with_both_names(module: FrcrnModel, state: dict, prefix: str, metadata: dict) -> None:
    state |= {f"{prefix}model.{name}": value for name, value in released_state_dict(module.model).items()}


def _with_one_name(module: FrcrnModel, state: dict, prefix: str, *unused) -> None:
    own = {f"{prefix}model.{name}" for name in module.model.state_dict()}
    for name in released_state_dict(module.model):
        if f"{prefix}model.{name}" not in own:
            state.pop(f"{prefix}model.{name}", None)
