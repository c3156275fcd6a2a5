"""The networks, by name."""

from torch import nn

from modelscope_ext.models.cruse import Cruse, CruseConfig
from modelscope_ext.models.frcrn import Frcrn, FrcrnConfig

__all__ = ["build"]


def build(name: str, **config) -> nn.Module:
    """A network with random weights from its published name.

    Args:
        name: `FRCRN`, or `CRUSE{L}-{C_L}-{N}x{GRU|LSTM}{P}[-1D]`, as in `CRUSE4-64-1xGRU4`.
        config: fields of `FrcrnConfig`, or those of `CruseConfig` that differ from what the name says.

    Raises:
        ValueError: the name or an option is unknown; the message lists what is known.
    """
    if name == "FRCRN":
        return Frcrn(FrcrnConfig.from_options(**config))
    return Cruse(CruseConfig.from_name(name, **config))
