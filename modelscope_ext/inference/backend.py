"""The interface of back ends: networks as numpy arrays in and out, by PyTorch, onnxruntime or OpenVINO."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Limits:
    """Delays, levels and lengths that callers of a back end take into account."""

    algorithmic_delay: int = 0  # samples of output before the first sample of the input
    latency: int = 0  # samples of input that an output sample depends on, from itself on
    hop: int = 1  # samples between frames; the output of a causal network comes in multiples of it
    attenuation_limit_db: float = float("inf")  # recommended by the model
    warmup_s: float = 0.0  # of an array or a file, fed time-reversed before it
    reference_level: bool = False  # the input must be at the level `recording.REFERENCE_RMS`
    unit_level: bool = False  # the recording must have a root mean square of 1
    chunk_s: float = 15.0  # longest chunk of a recording; the last one may be half as long again
    batch: int = 1  # number of utterances that is fastest at once
    needs_statistics: bool = False  # the output depends on averages over the whole recording
    excerpt_s: float = 45.0  # excerpts of a long recording for its statistics …
    excerpt_share: float = 0.4  # … at most this share of a shorter one


class Backend(Protocol):
    """A network. Audio is (B, n) float32 at `sample_rate`, B streams side by side.

    A causal one processes pieces of any length: `feed(audio, None)`, `feed(more, state)`, …, `flush(state)`. Each state
    is used once. Others process whole utterances or parts of a recording: `enhance`.
    """

    name: str
    sample_rate: int
    causal: bool
    limits: Limits

    def feed(self, audio: np.ndarray, state: Any = None) -> tuple[np.ndarray, Any]:
        """Return the finished samples (B, m) and the new state after (B, n) more samples, any n."""

    def flush(self, state: Any) -> np.ndarray:
        """Return the last samples (B, m), as if silence followed."""

    def enhance(
        self, audio: np.ndarray, stats: np.ndarray | None = None, more: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Denoise utterances or parts of a recording.

        Args:
            audio: (B, n).
            stats: (B, ...) statistics of the whole recording; None uses those of the audio.
            more: other parts follow, for which the back end may keep its work memory.

        Returns:
            The aligned output (B, n) and the audio's own statistics or None if these would take time.
        """

    def statistics(self, audio: np.ndarray, parts: int = 1, quick: bool = False) -> np.ndarray:
        """Return the averages (parts, B, ...) that the network takes over each of some equal parts of (B, n) audio.

        `quick` permits an estimate. A back end may return the averages over all of it for each part.
        """
