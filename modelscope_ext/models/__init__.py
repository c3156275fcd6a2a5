"""The networks, by name."""

import torch
from torch import nn

from modelscope_ext.models.cruse.network import Cruse, CruseConfig
from modelscope_ext.models.dual_path import DualPath, DualPathConfig
from modelscope_ext.models.frcrn.network import CausalFrcrn, Frcrn, FrcrnConfig

__all__ = ["build", "has_bfloat16", "to_device"]


def build(name: str, **config) -> nn.Module:
    """A network with random weights from its published name.

    Args:
        name: `FRCRN` (one that streams with `causal=True`), `DualPath-{T|B|S|M}`, or
            `CRUSE{L}-{C_L}-{N}x{GRU|LSTM}{P}[-1D]`, as in `CRUSE4-64-1xGRU4`.
        config: fields of `FrcrnConfig`, or those of `CruseConfig` and `DualPathConfig` that differ from the name's.

    Raises:
        ValueError: the name or an option is unknown; the message lists what is known.
    """
    if name == "FRCRN":
        options = FrcrnConfig.from_options(**config)
        return CausalFrcrn(options) if options.causal else Frcrn(options)
    if str(name).startswith("DualPath"):
        return DualPath(DualPathConfig.from_name(name, **config))
    return Cruse(CruseConfig.from_name(name, **config))


def to_device(net: nn.Module, device: str) -> nn.Module:
    """The network on "cpu", "cuda", "cuda:1" …; a device that is not there is a ValueError that says so."""
    try:
        return net.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"cannot use the device {device!r}: {reason}") from error


def has_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 matrices in hardware (AVX512-BF16 or AMX)."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public names for them
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)
