"""Networks from their names."""

from typing import Any

from torch import nn

from modelscope_ext.models.cruse.network import Cruse, CruseConfig
from modelscope_ext.models.dual_path.config import DualPathConfig
from modelscope_ext.models.dual_path.network import DualPath
from modelscope_ext.models.frcrn.config import FrcrnConfig
from modelscope_ext.models.frcrn.network import CausalFrcrn, Frcrn
from modelscope_ext.models.options import check_names


def create(name: str, options: dict[str, Any]) -> nn.Module:
    """Return a network with random weights; see `models.build`."""
    kinds = {"FRCRN": FrcrnConfig, "DualPath": DualPathConfig, "CRUSE": CruseConfig}
    kind = next((kind for kind in kinds if str(name).startswith(kind)), "CRUSE")
    check_names(kind, kinds[kind], options)
    if name == "FRCRN":
        config = FrcrnConfig(**options)
        return CausalFrcrn(config) if config.causal else Frcrn(config)
    if kind == "DualPath":
        return DualPath(DualPathConfig.from_name(name, **options))
    return Cruse(CruseConfig.from_name(name, **options))
