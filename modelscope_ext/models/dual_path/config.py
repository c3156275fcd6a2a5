"""The sizes of dual-path networks, by name."""

import re
from dataclasses import dataclass, replace

from modelscope_ext.models.options import check_values

#: (channels, layers, inner_channels, inner_bands, blocks) of each named size.
SIZES = {"T": (24, 2, 24, 16, 2), "B": (48, 2, 36, 24, 3), "S": (64, 3, 48, 36, 3), "M": (80, 3, 64, 48, 4)}
_ALLOWED = {
    "channels": range(1, 513),
    "layers": range(9),
    "inner_channels": range(1, 513),
    "inner_bands": range(1, 257),
    "blocks": range(1, 17),
    "heads": range(1, 65),
    "mixer": ("matrix", "attention"),
}


@dataclass(frozen=True)
class DualPathConfig:
    """Architecture of a dual-path network; `DualPathConfig.from_name` reads the names.

    channels, layers: of the convolutions over 64 bands, on each side.
    inner_channels, inner_bands, blocks: of the dual-path blocks between them.
    mixer: how a block combines frequencies: a learned "matrix" or "attention".
    heads: groups of channels with a matrix or an attention map of their own.
    norm: layer normalisation before each half of a block.
    bidirectional: recurrent layers in both directions; the network then needs the whole recording.
    """

    channels: int = 64
    layers: int = 3
    inner_channels: int = 48
    inner_bands: int = 36
    blocks: int = 3
    mixer: str = "matrix"
    heads: int = 1
    norm: bool = False
    bidirectional: bool = False

    @classmethod
    def from_name(cls, name: str, /, **options) -> "DualPathConfig":
        """Return the configuration of `DualPath-{T|B|S|M}`; `options` replace single fields.

        Raises:
            ValueError: the name or an option is unknown.
        """
        match = re.fullmatch(rf"DualPath-([{''.join(SIZES)}])", str(name))
        if not match:
            raise ValueError(
                f"no dual-path network is called {name!r:.100}; names are DualPath-{', DualPath-'.join(SIZES)}"
            )
        return replace(cls(*SIZES[match[1]]), **options)

    @property
    def name(self) -> str:
        """Return the size's name or "DualPath" for other sizes."""
        size = (self.channels, self.layers, self.inner_channels, self.inner_bands, self.blocks)
        return next((f"DualPath-{name}" for name, values in SIZES.items() if values == size), "DualPath")

    def __post_init__(self) -> None:
        check_values("DualPath", self, _ALLOWED)
        if self.inner_channels % self.heads:
            raise ValueError(f"DualPath: {self.inner_channels} inner_channels cannot be split into {self.heads} heads")
