"""The functions behind the command `prepare-data`, which write data set folders."""

from modelscope_ext.data.mixtures import prepare_mixtures
from modelscope_ext.data.pairs import prepare_from_dataset, prepare_pairs

__all__ = ["prepare_from_dataset", "prepare_mixtures", "prepare_pairs"]
