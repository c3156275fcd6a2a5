"""The base of causal networks: audio in pieces of any size through masked, overlapping windows.

Axes: audio (B, N) at the network's rate, one stream a row; spectra (B, T, F) complex.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from modelscope_ext.stft import analysis, istft, overlap_add, stft, synthesis


class StreamingModel(nn.Module):
    """A network that masks the spectra of successive windows with 50 % overlap.

    A subclass has a `window` (W,), `mask(spec, state) -> (mask, state)` and `initial_state(batch)`. The state is a
    named tuple with at least `audio` (B, < W), the samples that wait for a whole frame (W / 2 zeros at first), and
    `tail` (B, W / 2).

    `forward(audio, state)` takes (B, N) audio and returns the finished samples and the new state. The output is delayed
    by `algorithmic_delay` and comes in whole hops. Cutting the input into other chunks only cuts the output elsewhere.
    An output sample depends on at most `latency` samples of input from itself on. `enhance(audio)` aligns an utterance.
    Networks that are not `causal` have only `enhance`.
    """

    sample_rate = 16000
    causal = True
    #: True if the input must be at the level of FRCRN's training, -25 dBFS.
    reference_level = False
    #: Prefixes of the parameter names of the first and the last layer.
    outer_layers = ("encoder.0.", "decoder.0.")
    #: The attenuation limit that the model folder recommends.
    attenuation_limit_db = math.inf
    #: Seconds of an array or a file that `Denoiser` feeds before it, time-reversed; that output is discarded.
    warmup_s = 0.0

    @property
    def latency(self) -> int:
        """Return a window in samples."""
        return len(self.window)

    @property
    def algorithmic_delay(self) -> int:
        """Return the lag of the output of `forward` behind its input in samples: a hop."""
        return self.hop

    @property
    def hop(self) -> int:
        """Return half a window in samples."""
        return len(self.window) // 2

    def forward(self, audio: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        """Return the finished samples (B, whole hops) and the new state.

        Raises:
            ValueError: the audio has another shape or the network is bidirectional and cannot stream.
        """
        if not self.causal:
            raise ValueError("a bidirectional network needs the whole recording: use enhance")
        if audio.ndim != 2:
            raise ValueError(f"need (B, N) audio, got shape {tuple(audio.shape)}")
        state = state or self.initial_state(audio.shape[0])
        audio = torch.cat((state.audio, audio), 1)
        hop = self.hop
        frames = max(0, audio.shape[1] // hop - 1)
        waiting = audio[:, frames * hop :]
        if not frames:
            return audio[:, :0], state._replace(audio=waiting)
        spec = analysis(audio[:, : (frames + 1) * hop], self.window)  # (B, T, F)
        mask, state = self.mask(spec, state)
        done, tail = overlap_add(synthesis(spec * mask, self.window), state.tail)
        return done, state._replace(audio=waiting, tail=tail)

    def flush(self, state: tuple) -> Tensor:
        """Return the last samples of a stream as if silence followed."""
        return self(self.window.new_zeros(len(state.audio), self.latency), state)[0]

    def enhance(self, audio: Tensor) -> Tensor:
        """Denoise whole (B, N) utterances; the output has the same length and no delay."""
        length = audio.shape[1]
        if not self.causal:
            spec = stft(audio, self.window)
            return istft(spec * self.mask(spec, self.initial_state(len(audio)))[0], self.window, length)
        padded = functional.pad(audio, (0, self.algorithmic_delay + -length % self.hop))
        return self(padded)[0][:, self.algorithmic_delay : self.algorithmic_delay + length]


def bounded_mask(x: Tensor) -> Tensor:
    """Return real and imaginary parts (…, 2) as complex factors of magnitude below 1.

    The magnitude goes through tanh and the phase stays. Source: Hu et al., "DCCRN", Interspeech 2020 (variant E).
    """
    magnitude = (x.square().sum(-1, keepdim=True) + 1e-8).sqrt()
    return torch.view_as_complex((x * (torch.tanh(magnitude) / magnitude)).contiguous())
