"""The networks by name. Importing this package does not import torch."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["CRUSE_TYPE", "DUAL_PATH_TYPE", "FRCRN_TYPE", "TYPES", "build", "has_bfloat16", "to_device"]

#: Model types in `configuration.json`. ModelScope's own FRCRN has the second one too.
CRUSE_TYPE = "speech_cruse_ans_16k"
DUAL_PATH_TYPE = "speech_dual_path_ans_16k"
FRCRN_TYPE = "speech_frcrn_ans_cirm_16k"
TYPES = (CRUSE_TYPE, DUAL_PATH_TYPE, FRCRN_TYPE)


def build(name: str, **config) -> "nn.Module":
    """Return a network with random weights.

    Args:
        name: `FRCRN` (which streams with `causal=True`), `DualPath-{T|B|S|M}` or
            `CRUSE{L}-{C_L}-{N}x{GRU|LSTM}{P}[-1D]` as in `CRUSE4-64-1xGRU4`.
        config: fields of `FrcrnConfig`, `DualPathConfig` or `CruseConfig`. They override the name.

    Raises:
        ValueError: the name or an option is unknown. The message lists the known ones.
    """
    from modelscope_ext.models.registry import create  # imports torch

    return create(name, config)


def to_device(net: "nn.Module", device: str) -> "nn.Module":
    """Move a network to "cpu", "cuda" or "cuda:1"; raise ValueError if the device cannot be used."""
    try:
        return net.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"cannot use the device {device!r}: {reason}") from error


def has_bfloat16() -> bool:
    """Return True if the CPU multiplies bfloat16 matrices in hardware (AVX512-BF16 or AMX)."""
    import torch

    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public names for them
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)
