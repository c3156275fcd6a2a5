"""Audio files and arrays: reading, writing, rates, channels, sample formats."""

from modelscope_ext.audio.files import *  # noqa: F403
from modelscope_ext.audio.files import __all__ as __all__
