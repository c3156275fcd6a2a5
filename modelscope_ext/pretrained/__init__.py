"""The model in the package, a model folder like others."""

from pathlib import Path

__all__ = ["DEFAULT"]

#: Weights that this project trained; the `README.md` beside them is the card.
DEFAULT = Path(__file__).parent / "speech_cruse_ans_16k"
