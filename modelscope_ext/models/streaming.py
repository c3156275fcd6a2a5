"""What causal networks share: audio in pieces of any size, through masked, overlapping windows.

Axes: audio (B, N) at the network's rate, one stream a row; spectra (B, T, F) complex.
"""

import math

from torch import Tensor, cat, nn
from torch.nn import functional

from modelscope_ext.stft import analysis, overlap_add, synthesis

__all__ = ["StreamingModel"]


class StreamingModel(nn.Module):
    """A network that masks the spectra of windows with 50 % overlap, one after the other.

    A subclass has a `window` (W,), `mask(spec, state) -> (mask, state)` and `initial_state(batch)`, a named tuple with
    at least `audio` (B, < W), the samples that wait for a whole frame, W / 2 zeros at first, and `tail` (B, W / 2).

    `forward(audio, state)` takes (B, N) audio and returns the finished samples and the new state. Every sample is
    finished when the window that begins with its own hop is, so what comes out is the input delayed by `delay`, in
    whole hops: cutting the input into chunks anywhere changes nothing but where the output is cut. An output sample
    depends on at most `latency` samples of input from itself on. `enhance(audio)` aligns a whole utterance.
    """

    sample_rate = 16000
    causal = True
    #: Whether speech should come in near -25 dBFS, as FRCRN wants it.
    reference_level = False
    #: Prefixes of the names of the first and the last layer's parameters.
    outer_layers = ("encoder.0.", "decoder.0.")
    #: What the model folder recommends to limit the attenuation to.
    attenuation_limit_db = math.inf
    #: Seconds of the beginning of an array or a file that `Denoiser` has it hear before, backwards.
    lead_in_s = 0.0

    @property
    def latency(self) -> int:
        """A window, in samples."""
        return len(self.window)

    @property
    def delay(self) -> int:
        """How far the output of `forward` lags behind its input, in samples: a hop."""
        return self.hop

    @property
    def hop(self) -> int:
        """Half a window, in samples."""
        return len(self.window) // 2

    def forward(self, audio: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        """Finished samples (B, whole hops) and the new state; see the class."""
        if audio.ndim != 2:
            raise ValueError(f"need (B, N) audio, got shape {tuple(audio.shape)}")
        state = state or self.initial_state(audio.shape[0])
        audio = cat((state.audio, audio), 1)
        hop = self.hop
        frames = max(0, audio.shape[1] // hop - 1)
        waiting = audio[:, frames * hop :]
        if not frames:
            return audio[:, :0], state._replace(audio=waiting)
        spec = analysis(audio[:, : (frames + 1) * hop], self.window)  # (B, T, F)
        mask, state = self.mask(spec, state)
        done, tail = overlap_add(synthesis(spec * mask, self.window), state.tail)
        return done, state._replace(audio=waiting, tail=tail)

    def finish(self, state: tuple) -> Tensor:
        """The finished samples of the end of a stream: those that silence would bring out."""
        return self(self.window.new_zeros(len(state.audio), self.latency), state)[0]

    def enhance(self, audio: Tensor) -> Tensor:
        """Whole (B, N) utterances, same length and no delay."""
        length = audio.shape[1]
        padded = functional.pad(audio, (0, self.delay + -length % self.hop))
        return self(padded)[0][:, self.delay : self.delay + length]
