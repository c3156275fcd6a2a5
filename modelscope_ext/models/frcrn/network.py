"""FRCRN: two complex U-nets with recurrence along frequency that estimate a complex ratio mask.

Zhao et al., "FRCRN: Boosting feature representation using frequency recurrence for monaural speech enhancement",
ICASSP 2022. Layers, sizes and parameter names are those of ModelScope's `speech_frcrn_ans_cirm_16k`.
16 kHz audio (B, N). Spectra and masks (B, 2, F, T): real and imaginary part, frequencies, frames of 20 ms.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from modelscope_ext.models.frcrn.config import HOP, WINDOW, FrcrnConfig
from modelscope_ext.models.frcrn.cpu import FastUNet, Pool, has_amx
from modelscope_ext.models.frcrn.unet import UNet, UNetState
from modelscope_ext.models.streaming import StreamingModel
from modelscope_ext.stft import analysis, overlap_add, sqrt_hann, stft, synthesis


class FrcrnBase(nn.Module):
    """The two U-nets, from audio to the outputs that training uses. Without a configuration it is the released one."""

    sample_rate = StreamingModel.sample_rate
    #: The attenuation limit that the model folder recommends.
    attenuation_limit_db = math.inf
    #: Seconds of warm-up that `Denoiser` runs before an array or a file.
    warmup_s = 0.0

    def __init__(self, config: FrcrnConfig | None = None) -> None:
        super().__init__()
        self.config = config or FrcrnConfig()
        self.unet = UNet(self.config.causal)
        self.unet2 = UNet(self.config.causal)
        self.register_buffer("window", sqrt_hann(WINDOW), persistent=False)
        self.to(memory_format=torch.channels_last)
        #: False computes inference as training does, for comparisons.
        self.fast = True
        self._prepared: dict[tuple, tuple] = {}  # (name, type) → versions of the parameters, FastUNet

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        """Return `outputs(audio)`."""
        return self.outputs(audio)

    def outputs(self, audio: Tensor) -> dict[str, Tensor]:
        """Return the outputs of the first U-net (`*_l1`) and of both (`*_l2`) for audio (B, N) with N >= 640.

        Returns:
            wav_l1 and wav_l2 (B, N'): the 640 + 320 (T - 1) samples of the T whole frames.
            spec_l1 and spec_l2 (B, 2F, T): F = 321 real parts and then the imaginary ones.
            mask_l1 and mask_l2 (B, 2F, T): `spec` divided by the spectrum of the input. The final mask is a sum of two.
        """
        if audio.ndim != 2 or audio.shape[1] < WINDOW:
            raise ValueError(f"need (B, N) audio, N >= {WINDOW}, got shape {tuple(audio.shape)}")
        noisy = _real(analysis(audio, self.window))
        out = {}
        for layer, mask in enumerate(self._masks(noisy), 1):
            spec = _product(noisy, mask)
            out |= {
                f"wav_l{layer}": self._wav(spec),
                f"spec_l{layer}": spec.flatten(1, 2),
                f"mask_l{layer}": mask.flatten(1, 2),
            }
        return out

    def _masks(self, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first and the final mask for (B, 2, F, T) spectra."""
        raise NotImplementedError

    def _both(self, noisy: Tensor, *options: dict, pool: Pool | None = None) -> tuple[Tensor, Tensor, tuple]:
        """Return both masks for (B, 2, F, T) spectra and what the two U-nets return with their options."""
        first, of_first = self._unet("unet", noisy, pool, options[0])
        mask = torch.tanh(first)
        second, of_second = self._unet("unet2", first, pool, options[1])
        return mask, torch.tanh(second) + mask, (of_first, of_second)

    def _unet(self, name: str, x: Tensor, pool: Pool | None, options: dict) -> tuple[Tensor, UNetState | Tensor]:
        """Run one of the two U-nets in the fastest way there is."""
        if self._use_fast(x):
            return self._prepare(name)(x, pool=pool, **options)
        return getattr(self, name)(x, **options)

    def _use_fast(self, x: Tensor) -> bool:
        plain = self.training or torch.is_grad_enabled() or torch.compiler.is_compiling()  # breaks at views as results
        return self.fast and not plain and x.device.type == "cpu"

    def _prepare(self, name: str, dtype: torch.dtype | None = None) -> FastUNet:
        """Return a U-net prepared for inference; it is kept until a parameter changes."""
        net = getattr(self, name)
        tensors = (*net.parameters(), *net.buffers())
        # Inference tensors have no version.
        key = None if any(t.is_inference() for t in tensors) else [(t.data_ptr(), t._version) for t in tensors]
        known, fast = self._prepared.get((name, dtype), (None, None))
        if key is None or key != known:
            fast = FastUNet(net, dtype)
            self._prepared[name, dtype] = key, fast
        return fast

    def _wav(self, spec: Tensor) -> Tensor:
        """Return the audio (B, 320 (T + 1)) of (B, 2, F, T) by the least-squares inverse of the analysis."""
        frames = synthesis(torch.complex(spec[:, 0], spec[:, 1]).transpose(1, 2), self.window)
        power = self.window.square()
        audio, tail = overlap_add(frames, frames.new_zeros(frames.shape[0], HOP))
        # Squared windows add up to one except in the first and the last hop, where there is one window only.
        gain = torch.cat((power[:HOP], power.new_ones(audio.shape[1] - HOP), power[HOP:]))
        return torch.cat((audio, tail), 1) / (gain + 1e-8)


class Frcrn(FrcrnBase):
    """FRCRN as released. Every output sample depends on the whole input, because squeezes average over time."""

    causal = False
    reference_level = True

    def __init__(self, config: FrcrnConfig | None = None) -> None:
        super().__init__(config)
        self._pool: Pool = []

    def enhance(self, audio: Tensor) -> Tensor:
        """Denoise whole utterances (B, N) of any N; the output has the same shape and is aligned.

        A hop of zeros goes before the signal: its first samples then lie under two windows like all others.
        """
        return self.enhance_part(audio)[0]

    def enhance_part(
        self, audio: Tensor, squeeze_means: Tensor | None = None, keep_memory: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Denoise a part of a recording as `enhance` does.

        Args:
            audio: (B, N).
            squeeze_means: (B, 22, 2C) of the whole recording. None uses the part's own.
            keep_memory: keep the work memory for the next part. This saves time.

        Returns:
            (B, N) and the part's own squeeze means (B, 22, 2C).
        """
        if not keep_memory:
            self._pool.clear()  # before the work: a last part may be longer
        noisy = self._spectra(audio)
        halves = (None, None) if squeeze_means is None else squeeze_means.chunk(2, 1)
        given = ({"means": half} for half in halves)
        _, mask, own = self._both(noisy, *given, pool=self._pool if keep_memory else [])
        return self._wav(_product(noisy, mask))[:, HOP : HOP + audio.shape[1]], torch.cat(own, 2)[0]

    @property
    def quick_means(self) -> bool:
        """True if bfloat16 makes `squeeze_means` fast here: a third of the time of `enhance` instead of five sixths."""
        return self.window.device.type == "cpu" and has_amx()

    def squeeze_means(self, audio: Tensor, parts: int = 1, quick: bool = False) -> Tensor:
        """Return the means that the squeezes of both U-nets take over time: (parts, B, 22, 2C).

        Args:
            audio: (B, N).
            parts: number of equal parts of the audio.
            quick: compute in bfloat16 if `quick_means`. The means then have an error of -53 dB.
        """
        noisy = self._spectra(audio)
        if not self._use_fast(noisy):
            first, means = self.unet(noisy, parts=parts)
            return torch.cat((means, self.unet2(first, parts=parts)[1]), 2)
        dtype = torch.bfloat16 if quick and self.quick_means else None
        first, means = self._prepare("unet", dtype)(noisy, parts=parts)
        return torch.cat((means, self._prepare("unet2", dtype)(first, parts=parts, only_means=True)[1]), 2)

    def _spectra(self, audio: Tensor) -> Tensor:
        if audio.ndim != 2:
            raise ValueError(f"need (B, N) audio, got shape {tuple(audio.shape)}")
        return _real(stft(audio, self.window))

    def _masks(self, noisy: Tensor) -> tuple[Tensor, Tensor]:
        return self._both(noisy, {}, {}, pool=[])[:2]


class FrcrnState(NamedTuple):
    """State of streams through a `CausalFrcrn`; B streams run side by side. All tensors."""

    audio: Tensor  # (B, < 640) input samples that wait for a whole frame
    tail: Tensor  # (B, 320) second half of the last output frame
    unet: UNetState
    unet2: UNetState
    count: Tensor  # (1,) frames so far


class CausalFrcrn(StreamingModel, FrcrnBase):
    """An FRCRN whose output depends on no later input than its own window of 40 ms.

    The released weights fit but were trained with later frames: they need fine-tuning.
    """

    def initial_state(self, batch: int = 1) -> FrcrnState:
        """Return the state before the first sample: silence."""
        zeros = self.window.new_zeros
        unets = (net.initial_state(batch) for net in (self.unet, self.unet2))
        return FrcrnState(zeros(batch, HOP), zeros(batch, HOP), *unets, zeros(1, dtype=torch.int64))

    def mask(self, spec: Tensor, state: FrcrnState) -> tuple[Tensor, FrcrnState]:
        """Return complex factors in the shape of the spectra (B, T, F) and the new state."""
        _, mask, state = self._next_masks(_real(spec), state)
        return torch.view_as_complex(mask.permute(0, 3, 2, 1).contiguous()), state

    def _masks(self, noisy: Tensor) -> tuple[Tensor, Tensor]:
        return self._next_masks(noisy, self.initial_state(noisy.shape[0]))[:2]

    def _next_masks(self, noisy: Tensor, state: FrcrnState) -> tuple[Tensor, Tensor, FrcrnState]:
        count = state.count + torch.arange(1, noisy.shape[3] + 1, device=noisy.device)
        before = ({"state": unet, "count": count} for unet in (state.unet, state.unet2))
        first, mask, (unet, unet2) = self._both(noisy, *before)
        return first, mask, state._replace(unet=unet, unet2=unet2, count=count[-1:])


def _real(spec: Tensor) -> Tensor:
    """Return (B, T, F) complex as (B, 2, F, T) real in channels_last memory."""
    return torch.view_as_real(spec).permute(0, 3, 2, 1).contiguous(memory_format=torch.channels_last)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Return the complex product of two (B, 2, F, T) in real numbers."""
    (ar, ai), (br, bi) = a.unbind(1), b.unbind(1)
    return torch.stack((ar * br - ai * bi, ar * bi + ai * br), 1)
