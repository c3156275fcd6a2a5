"""Speech denoising that plugs into ModelScope: CRUSE (and FRCRN) networks, files, streams, training.

>>> from modelscope_ext import Denoiser
>>> denoiser = Denoiser()
"""

import importlib
import os
from typing import Any

from modelscope_ext.plugin import plug_in

__version__ = "0.1.0"
__all__ = ["Denoiser", "build", "to_segment"]

_HOMES = {
    "Denoiser": "modelscope_ext.inference.denoiser",
    "build": "modelscope_ext.models",
    "to_segment": "modelscope_ext.data.segments",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# Torch's threads spin while they wait for each other. Beside other work on the same cores that made denoising ten to
# twenty times slower; with a short spin it is hardly slower there, and as fast on idle cores (asleep at once, it took
# four times as long there). Heard by a torch that is imported later.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
plug_in()
