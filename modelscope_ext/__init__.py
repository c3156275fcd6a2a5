"""Speech denoising that plugs into ModelScope: CRUSE and FRCRN networks, files, streams, training.

>>> from modelscope_ext import Denoiser
>>> denoiser = Denoiser()
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from modelscope_ext.plugin import plug_in

if TYPE_CHECKING:
    from modelscope_ext.data.segments import to_segment
    from modelscope_ext.inference.denoiser import Denoiser
    from modelscope_ext.models import build

__version__ = "0.1.0"
__all__ = ["Denoiser", "build", "to_segment"]

#: Name → its module, imported at the first use: the command line starts without numpy and torch.
_HOMES = {
    "Denoiser": "modelscope_ext.inference.denoiser",
    "build": "modelscope_ext.models",
    "to_segment": "modelscope_ext.data.segments",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# Torch's threads spin while they wait for each other. With other work on the same cores, that made denoising ten to
# twenty times slower. A short spin costs little there, and nothing on idle cores. No spin at all was four times slower
# on idle cores. It takes effect if torch is imported after this package.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# onnxruntime 1.32 sends usage data to its maker and writes to the user's cache, unless this is set before its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
plug_in()
