"""Networks from their names."""

from typing import Any

from torch import nn

from modelscope_ext.models.cruse.network import Cruse, CruseConfig
from modelscope_ext.models.dual_path.config import DualPathConfig
from modelscope_ext.models.dual_path.network import DualPath
from modelscope_ext.models.frcrn.config import FrcrnConfig
from modelscope_ext.models.frcrn.network import CausalFrcrn, Frcrn


def create(name: str, options: dict[str, Any]) -> nn.Module:
    """Return a network with random weights; see `models.build`."""
    if name == "FRCRN":
        config = FrcrnConfig.from_options(**options)
        return CausalFrcrn(config) if config.causal else Frcrn(config)
    if str(name).startswith("DualPath"):
        return DualPath(DualPathConfig.from_name(name, **options))
    return Cruse(CruseConfig.from_name(name, **options))
