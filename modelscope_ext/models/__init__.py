"""The networks, by name."""

from torch import nn

from modelscope_ext.models.cruse.network import Cruse, CruseConfig
from modelscope_ext.models.frcrn.network import CausalFrcrn, Frcrn, FrcrnConfig

__all__ = ["build", "to_device"]


def build(name: str, **config) -> nn.Module:
    """A network with random weights from its published name.

    Args:
        name: `FRCRN` (one that streams with `causal=True`), or
            `CRUSE{L}-{C_L}-{N}x{GRU|LSTM}{P}[-1D]`, as in `CRUSE4-64-1xGRU4`.
        config: fields of `FrcrnConfig`, or those of `CruseConfig` that differ from what the name says.

    Raises:
        ValueError: the name or an option is unknown; the message lists what is known.
    """
    if name == "FRCRN":
        options = FrcrnConfig.from_options(**config)
        return CausalFrcrn(options) if options.causal else Frcrn(options)
    return Cruse(CruseConfig.from_name(name, **config))


def to_device(net: nn.Module, device: str) -> nn.Module:
    """The network on "cpu", "cuda", "cuda:1" …; a device that is not there is a ValueError that says so."""
    try:
        return net.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"cannot use the device {device!r}: {reason}") from error
