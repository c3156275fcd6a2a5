"""What computes a network: numpy arrays in and out, PyTorch (`pytorch`) or onnxruntime (`onnx`) behind them.

Importing this package imports neither.
"""

from typing import Any, Protocol

import numpy as np

__all__ = ["Backend"]


class Backend(Protocol):
    """A network; audio is (B, n) float32 at `sample_rate`, B streams side by side.

    A causal one is fed: `feed(audio, None)`, then `feed(more, state)`, at the end `finish(state)`. A state serves one
    call; what is returned takes its place. One that is not causal has `enhance` instead.
    """

    name: str
    sample_rate: int
    causal: bool
    delay: int  # samples that come out before the first sample of the input
    latency: int  # samples of input that an output sample depends on, from itself on
    reference_level: bool  # whether it wants its input at the level of `utterances.REFERENCE_RMS`
    attenuation_limit_db: float  # what the model recommends
    lead_in_s: float  # seconds that it should hear before an array or a file
    batch: int  # utterances that it does best at once
    chunk_s: float  # seconds of a long recording that it is to hear at once; 1.5 times as many are the most
    averages: bool  # whether what it does to a part depends on means over the whole: it has `means`, then
    digest_s: float  # seconds of a long recording that are worth hearing for its means
    digest_share: float  # and what share of a shorter one, at most

    def feed(self, audio: np.ndarray, state: Any = None) -> tuple[np.ndarray, Any]:
        """Takes any number of samples; returns the (B, m) that are finished, and the new state."""

    def finish(self, state: Any) -> np.ndarray:
        """The (B, m) samples that silence would still bring out."""

    def enhance(self, audio: np.ndarray) -> np.ndarray:
        """Whole utterances, same shape, aligned."""

    def enhance_part(
        self, audio: np.ndarray, means: np.ndarray | None, scratch: list
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Parts of a recording, `means` (B, ...) those of the whole of it: what comes out, and the part's own means.

        Own means are None where they would cost time. `scratch`, [] before the first of several calls one after the
        other, is memory that they share.
        """

    def means(self, audio: np.ndarray, parts: int = 1, quick: bool = False) -> np.ndarray:
        """What the network averages over the (B, n) audio, for each of so many equal parts of it: (parts, B, ...).

        `quick`: an estimate will do. Engines that give no own means of parts may give those of all of it for each.
        """
