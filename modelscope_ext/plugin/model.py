"""The networks as ModelScope models: dictionaries of (B, N) float32 audio at 16 kHz in and out."""

from modelscope.models.base import TorchModel
from modelscope.models.builder import MODELS

from modelscope_ext.models import CRUSE_TYPE, DUAL_PATH_TYPE, FRCRN_TYPE
from modelscope_ext.plugin.names import TASK
from modelscope_ext.training.objectives import CruseObjective, FrcrnObjective


@MODELS.register_module(TASK, module_name=CRUSE_TYPE)
@MODELS.register_module(TASK, module_name=DUAL_PATH_TYPE)
class CruseModel(CruseObjective, TorchModel):
    """A `CruseObjective` that ModelScope can build."""

    def __init__(self, model_dir: str, *args, **kwargs) -> None:
        TorchModel.__init__(self, model_dir)
        self.load(model_dir)


@MODELS.register_module(TASK, module_name=FRCRN_TYPE, force=True)
class FrcrnModel(FrcrnObjective, TorchModel):
    """An `FrcrnObjective` that ModelScope can build."""

    def __init__(self, model_dir: str, *args, **kwargs) -> None:
        TorchModel.__init__(self, model_dir)
        self.load(model_dir)
