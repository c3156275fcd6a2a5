"""Dual-path networks: recurrent over time, mixing over frequency, the same weights at every frequency."""

from modelscope_ext.models.dual_path.config import SIZES, DualPathConfig
from modelscope_ext.models.dual_path.network import DualPath

__all__ = ["SIZES", "DualPath", "DualPathConfig"]
