"""The model inside the package: a model folder like any other."""

from pathlib import Path

__all__ = ["DEFAULT"]

#: Weights that this project trained; the card is the `README.md` beside them.
DEFAULT = Path(__file__).parent / "speech_cruse_ans_16k"
