"""FRCRN: a complex U-net with recurrence along frequency, twice, that estimates a complex ratio mask.

Zhao et al., "FRCRN: Boosting feature representation using frequency recurrence for monaural speech enhancement",
ICASSP 2022; layers, sizes and parameter names are those of modelscope's `speech_frcrn_ans_cirm_16k`.
16 kHz audio (B, N); inside, (B, 2C, F, T): C real and C imaginary parts, frequencies, 20-ms frames.
"""

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from modelscope_ext.models.frcrn.complex_conv import ComplexBatchNorm2d, ComplexConv2d, ComplexConvTranspose2d
from modelscope_ext.models.frcrn.cpu import Buffers, FastUNet, has_amx
from modelscope_ext.models.frcrn.fsmn import ComplexFsmn
from modelscope_ext.models.frcrn.squeeze import ComplexSqueezeExcitation
from modelscope_ext.models.streaming import StreamingModel
from modelscope_ext.stft import analysis, overlap_add, sqrt_hann, stft, synthesis

__all__ = ["CausalFrcrn", "Frcrn", "FrcrnConfig", "FrcrnState", "UNet", "UNetState", "dft_matrices"]

WIDTH = 128
STRIDE, PADDING = (2, 1), (0, 1)
#: Kernels over (F, T). F: 321 → 159 → 78 → 37 → 17 → 7 → 2 → 1 and back; T grows by one a layer, then shrinks.
ENCODER_KERNELS = [(5, 2)] * 6 + [(2, 2)]
DECODER_KERNELS = [(2, 2), (5, 2), (5, 2), (5, 2), (6, 2), (5, 2), (5, 2)]
DEPTH = len(ENCODER_KERNELS)
FREQS = [321, 159, 78, 37, 17, 7, 2, 1]
SLOPE = 0.01


@dataclass(frozen=True)
class FrcrnConfig:
    """The keys of the released configuration's "model" section, and `causal`.

    Of all but the last, the released values are the only ones supported.
    """

    complex: bool = True
    model_complexity: int = 45
    model_depth: int = 14
    log_amp: bool = False
    padding_mode: str = "zeros"
    win_len: int = 640
    win_inc: int = 320
    fft_len: int = 640
    win_type: str = "hann"
    causal: bool = False

    @classmethod
    def from_options(cls, **options) -> "FrcrnConfig":
        """The configuration with these values; a key that is not a field is a ValueError."""
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(options) - set(known)):
            raise ValueError(f"unknown FRCRN options {', '.join(unknown)}; known are {', '.join(known)}")
        return cls(**options)

    def __post_init__(self) -> None:
        if not isinstance(self.causal, bool):
            raise ValueError(f"FRCRN: causal must be true or false, got {self.causal!r}")
        values = [(field.name, getattr(self, field.name), field.default) for field in fields(self)[:-1]]
        if wrong := [f"{name} must be {only!r}, got {value!r}" for name, value, only in values if value != only]:
            raise ValueError(f"FRCRN: {'; '.join(wrong)}")


class UNetState(NamedTuple):
    """What a causal U-net remembers between two calls; all tensors."""

    encoders: tuple[Tensor, ...]  # last input frame of each, (B, 2C, F, 1)
    decoders: tuple[Tensor, ...]
    memory: tuple[Tensor, ...]  # of the FSMN along time, (B, 19, 1, 2C) each
    means: tuple[Tensor, ...]  # what each squeeze and excitation has averaged, (B, 2C)


class _Encoder(nn.Module):
    def __init__(self, in_channels: int, kernel: tuple[int, int], causal: bool) -> None:
        super().__init__()
        self.conv = ComplexConv2d(in_channels, WIDTH, kernel, STRIDE, (0, 0) if causal else PADDING)
        self.bn = ComplexBatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu_(self.conv(x, self.bn), SLOPE)


class _Decoder(nn.Module):
    def __init__(self, parts: int, out_channels: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.transconv = ComplexConvTranspose2d(parts * WIDTH, out_channels, kernel, STRIDE, PADDING, parts)
        self.bn = ComplexBatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu_(self.transconv(x, self.bn), SLOPE)


class UNet(nn.Module):
    """(B, 2, F, T) → (B, 2, F, T).

    Args:
        causal: every frame depends on itself and on those before it. Squeeze and excitation averages over these; the
            transposed convolutions lose their last frame instead of their first and their last.

    The released net also holds `fsmn_enc.0`, `fsmn_dec.6`, `se_layers_enc.6` and `se_layers_dec.5`, whose results go
    nowhere: here they are loaded, saved, and never computed.
    """

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        last = DEPTH - 1
        self.causal = causal
        self.encoders = nn.ModuleList(
            _Encoder(WIDTH if i else 1, kernel, causal) for i, kernel in enumerate(ENCODER_KERNELS)
        )
        self.fsmn_enc = nn.ModuleList(ComplexFsmn(WIDTH) for _ in range(DEPTH))
        self.se_layers_enc = nn.ModuleList(ComplexSqueezeExcitation(WIDTH) for _ in range(DEPTH))
        self.fsmn = ComplexFsmn(WIDTH, layers=2)
        self.decoders = nn.ModuleList(
            _Decoder(2 if i else 1, WIDTH if i < last else 1, kernel) for i, kernel in enumerate(DECODER_KERNELS)
        )
        self.fsmn_dec = nn.ModuleList(ComplexFsmn(WIDTH) for _ in range(DEPTH))
        self.se_layers_dec = nn.ModuleList(ComplexSqueezeExcitation(WIDTH) for _ in range(last))
        self.linear = ComplexConv2d(1, 1, 1)

    def initial_state(self, batch: int) -> UNetState:
        """The state before the first frame, of a causal one."""
        zeros = self.linear.conv_re.weight.new_zeros
        frame = [zeros(batch, 2 * (WIDTH if i else 1), f, 1) for i, f in enumerate(FREQS)]
        wide = [zeros(batch, 2 * WIDTH * (2 if i < DEPTH else 1), FREQS[i], 1) for i in range(DEPTH, 0, -1)]
        means = tuple(zeros(batch, 2 * WIDTH) for _ in range(2 * DEPTH - 3))
        return UNetState(tuple(frame[:DEPTH]), tuple(wide), self.fsmn.initial_state(batch, 1), means)

    def forward(
        self,
        x: Tensor,
        state: UNetState | None = None,
        count: Tensor | None = None,
        means: Tensor | None = None,
        parts: int = 1,
    ):
        """The output and, of a causal net, the new state; of one that is not, `x`'s own means, (parts, B, 11, 2C).

        Args:
            x: (B, 2, F, T).
            state: of a causal net, from before `x`; None of one that is not.
            count: (T,), how many frames a causal net has seen with each of `x`.
            means: (B, 11, 2C), what squeeze and excitation is to take instead of the means of `x`, a part of something
                longer.
            parts: of how many equal parts of `x` its own means are told.
        """
        new: dict[str, list[Tensor]] = {"encoders": [], "decoders": [], "means": []}

        def after_last(x: Tensor, name: str) -> Tensor:
            """`x` behind the last frame of the call before, whose own is put by."""
            if state is None:
                return x
            x = torch.cat((getattr(state, name)[len(new[name])], x), 3)
            new[name].append(x[..., -1:])
            return x

        def excited(se: ComplexSqueezeExcitation, x: Tensor) -> Tensor:
            layer = len(new["means"])
            if state is None:
                x, mean = se(x, None if means is None else means[:, layer], parts)
            else:
                x, mean = se.stream(x, state.means[layer], count)
            new["means"].append(mean)
            return x

        skips = []
        for i, encoder in enumerate(self.encoders):
            x = encoder(after_last(self.fsmn_enc[i](x) if i else x, "encoders"))
            if i < DEPTH - 1:
                skips.append(excited(self.se_layers_enc[i], x))
        # One frequency is left; this memory runs along time. A transpose would leave strides that hide channels_last.
        x = x.squeeze(2).unsqueeze(3)
        x, memory = (self.fsmn(x), ()) if state is None else self.fsmn.stream(x, state.memory)
        x = self.decoders[0](after_last(x.squeeze(3).unsqueeze(2), "decoders"))
        for i, decoder in enumerate(self.decoders[1:]):
            x = self.fsmn_dec[i](x)
            if i < DEPTH - 2:
                x = excited(self.se_layers_dec[i], x)
            x = decoder(after_last(torch.cat((x, skips.pop()), 1), "decoders"))
        if state is None:
            return self.linear(x), torch.stack(new["means"], 2)
        remembered = {name: tuple(tensors) for name, tensors in new.items()}
        return self.linear(x), UNetState(**remembered, memory=memory)


def _parts(spec: Tensor) -> Tensor:
    """(B, T, F) complex → (B, 2, F, T) real, in channels_last memory."""
    return torch.view_as_real(spec).permute(0, 3, 2, 1).contiguous(memory_format=torch.channels_last)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Complex product of two (B, 2, F, T), in real numbers."""
    (ar, ai), (br, bi) = a.unbind(1), b.unbind(1)
    return torch.stack((ar * br - ai * bi, ar * bi + ai * br), 1)


class Frcrn(nn.Module):
    """FRCRN from audio to audio.

    Args:
        config: the released architecture; None is the same.

    `outputs(audio)` gives all that training looks at, `enhance(audio)` an aligned, denoised utterance. Every output
    sample depends on the whole input, since squeeze and excitation averages over time; `CausalFrcrn` is otherwise.
    """

    sample_rate = 16000
    causal = False
    #: What the model folder recommends to limit the attenuation to.
    attenuation_limit_db = math.inf
    lead_in_s = 0.0

    def __init__(self, config: FrcrnConfig | None = None) -> None:
        super().__init__()
        self.config = config or FrcrnConfig()
        self.unet = UNet(self.config.causal)
        self.unet2 = UNet(self.config.causal)
        self.register_buffer("window", sqrt_hann(self.config.win_len), persistent=False)
        self.to(memory_format=torch.channels_last)
        self._prepared: dict[tuple, tuple] = {}  # by name and type: of which parameters, and what

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        """`outputs`."""
        return self.outputs(audio)

    def outputs(self, audio: Tensor) -> dict[str, Tensor]:
        """All outputs for (B, N) audio, N >= 640: those of the first U-net, `*_l1`, and of both, `*_l2`.

        Returns:
            wav_l1, wav_l2: (B, N'), the N' = 640 + 320 (T - 1) samples of the T whole frames.
            spec_l1, spec_l2: (B, 2F, T), F = 321 real parts, then the imaginary ones.
            mask_l1, mask_l2: (B, 2F, T), what `spec` is the input's spectrum times of; the final mask is a sum of two.
        """
        if audio.ndim != 2 or audio.shape[1] < self.config.win_len:
            raise ValueError(f"need (B, N) audio, N >= {self.config.win_len}, got shape {tuple(audio.shape)}")
        noisy = _parts(analysis(audio, self.window))
        out = {}
        for layer, mask in enumerate(self._masks(noisy)[:2], 1):
            spec = _product(noisy, mask)
            out |= {
                f"wav_l{layer}": self._wav(spec),
                f"spec_l{layer}": spec.flatten(1, 2),
                f"mask_l{layer}": mask.flatten(1, 2),
            }
        return out

    def enhance(self, audio: Tensor) -> Tensor:
        """Whole (B, N) utterances of any N, denoised; same length, aligned.

        A hop of zeros goes before the signal, so that its first samples lie under two windows as all others do.
        """
        return self.enhance_part(audio)[0]

    def enhance_part(
        self, audio: Tensor, means: Tensor | None = None, buffers: Buffers | None = None
    ) -> tuple[Tensor, Tensor]:
        """A part of something longer, denoised as `enhance` does, and what it would have averaged itself.

        Args:
            audio: (B, N).
            means: (B, 22, 2C), what to take for averages: those of the whole, or of what stands for it.
            buffers: [] at first; calls one after the other share memory by it, which saves time.

        Returns:
            (B, N), and the part's own means, (B, 22, 2C).
        """
        noisy = self._spectra(audio)
        hop = self.config.win_inc
        _, mask, own = self._masks(noisy, means, buffers)
        return self._wav(_product(noisy, mask))[:, hop : hop + audio.shape[1]], own[0]

    @property
    def quick_means(self) -> bool:
        """Whether quick `means` take a third of the time that `enhance` takes, by bfloat16, or five sixths."""
        return self.window.device.type == "cpu" and has_amx()

    def means(self, audio: Tensor, parts: int = 1, quick: bool = False) -> Tensor:
        """What the layers of squeeze and excitation, of one U-net and the other, average.

        Args:
            audio: (B, N).
            parts: of how many equal parts of it means are told.
            quick: take bfloat16 where `quick_means` says that it pays; they are -53 dB from the exact ones, then.

        Returns:
            (parts, B, 22, 2C).
        """
        noisy = self._spectra(audio)
        if self.causal or not self._fast(noisy):
            return self._masks(noisy, parts=parts)[2]
        dtype = torch.bfloat16 if quick and self.quick_means else None
        first, means = self._prepare("unet", dtype)(noisy, parts=parts)
        return torch.cat((means, self._prepare("unet2", dtype)(first, parts=parts, only_means=True)[1]), 2)

    def _spectra(self, audio: Tensor) -> Tensor:
        if audio.ndim != 2:
            raise ValueError(f"need (B, N) audio, got shape {tuple(audio.shape)}")
        return _parts(stft(audio, self.window))

    def _masks(
        self, noisy: Tensor, means: Tensor | None = None, buffers: Buffers | None = None, parts: int = 1
    ) -> tuple[Tensor, ...]:
        """First and final mask of (B, 2, F, T) spectra, same shape, and the means of so many parts of them."""
        halves = (None, None) if means is None else means.chunk(2, 1)
        buffers = [] if buffers is None else buffers
        first, means = self._unet("unet", noisy, means=halves[0], buffers=buffers, parts=parts)
        mask = torch.tanh(first)
        second, means2 = self._unet("unet2", first, means=halves[1], buffers=buffers, parts=parts)
        return mask, torch.tanh(second) + mask, torch.cat((means, means2), 2)

    def _unet(
        self,
        name: str,
        x: Tensor,
        state: UNetState | None = None,
        count: Tensor | None = None,
        means: Tensor | None = None,
        buffers: Buffers | None = None,
        parts: int = 1,
    ):
        """One of the two U-nets, by the fastest way there is."""
        if not self._fast(x):
            return getattr(self, name)(x, state, count, means, parts)
        return self._prepare(name)(x, state, count, means, buffers, parts)

    def _fast(self, x: Tensor) -> bool:
        return not (self.training or torch.is_grad_enabled() or x.device.type != "cpu" or torch.jit.is_tracing())

    def _prepare(self, name: str, dtype: torch.dtype | None = None) -> FastUNet:
        """A U-net prepared for inference, kept for as long as no parameter is changed."""
        net = getattr(self, name)
        tensors = (*net.parameters(), *net.buffers())
        # Inference tensors cannot tell.
        key = None if any(t.is_inference() for t in tensors) else [(t.data_ptr(), t._version) for t in tensors]
        known, fast = self._prepared.get((name, dtype), (None, None))
        if key is None or key != known:
            fast = FastUNet(net, dtype)
            self._prepared[name, dtype] = key, fast
        return fast

    def _wav(self, spec: Tensor) -> Tensor:
        """(B, 2, F, T) → (B, 320 (T + 1)): the least-squares inverse of the analysis."""
        frames = synthesis(torch.complex(spec[:, 0], spec[:, 1]).transpose(1, 2), self.window)
        hop, power = self.config.win_inc, self.window.square()
        audio, tail = overlap_add(frames, frames.new_zeros(frames.shape[0], hop))
        # Squared windows add up to one but for the first and the last hop, where there is one window only.
        gain = torch.cat((power[:hop], power.new_ones(audio.shape[1] - hop), power[hop:]))
        return torch.cat((audio, tail), 1) / (gain + 1e-8)


class FrcrnState(NamedTuple):
    """What a stream through a `CausalFrcrn` remembers; B streams run side by side. All tensors."""

    audio: Tensor  # (B, < 640) input samples that wait for a whole frame
    tail: Tensor  # (B, 320) second half of the last output frame
    unet: UNetState
    unet2: UNetState
    count: Tensor  # (1,) frames so far


class CausalFrcrn(StreamingModel, Frcrn):
    """An FRCRN whose output waits for no later input than that of its own window of 40 ms.

    The released weights fit, but were trained to hear later frames, too: they need fine-tuning.
    """

    def initial_state(self, batch: int = 1) -> FrcrnState:
        """The state before the first sample: everything was silent."""
        zeros, hop = self.window.new_zeros, self.delay
        unets = (net.initial_state(batch) for net in (self.unet, self.unet2))
        return FrcrnState(zeros(batch, hop), zeros(batch, hop), *unets, zeros(1, dtype=torch.int64))

    def mask(self, spec: Tensor, state: FrcrnState) -> tuple[Tensor, FrcrnState]:
        """Complex factors for (B, T, F) spectra, same shape."""
        mask, unet, unet2, count = self._causal_masks(_parts(spec), state)[1:]
        return torch.view_as_complex(mask.permute(0, 3, 2, 1).contiguous()), state._replace(
            unet=unet, unet2=unet2, count=count
        )

    def _masks(self, noisy: Tensor, *_: None, **__: int) -> tuple[Tensor, ...]:
        first, final, unet, unet2, _ = self._causal_masks(noisy, self.initial_state(noisy.shape[0]))
        return first, final, torch.stack((*unet.means, *unet2.means), 1)[None]

    def _causal_masks(self, noisy: Tensor, state: FrcrnState):
        count = state.count + torch.arange(1, noisy.shape[3] + 1, device=noisy.device)
        first, unet = self._unet("unet", noisy, state.unet, count)
        mask = torch.tanh(first)
        second, unet2 = self._unet("unet2", first, state.unet2, count)
        return mask, torch.tanh(second) + mask, unet, unet2, count[-1:]


def dft_matrices(window: Tensor) -> dict[str, Tensor]:
    """What a released checkpoint holds besides the network: analysis and synthesis as matrices, float64.

    A window of W samples gives `stft.weight` and `istft.weight`, (2F, 1, W), F rows for the real parts and F for the
    imaginary ones; `istft.window`, (1, W, 1); `istft.enframe`, a unit matrix (W, 1, W).
    """
    size = len(window)
    window = window.double()
    spec = analysis(torch.eye(size, dtype=window.dtype), window)[:, 0]  # (W, F): the answer to one impulse a row
    bins = torch.eye(size // 2 + 1, dtype=spec.dtype)
    return {
        "stft.weight": torch.cat((spec.real, spec.imag), 1).T.unsqueeze(1),
        "istft.weight": torch.cat((synthesis(bins, window), synthesis(1j * bins, window))).unsqueeze(1),
        "istft.window": window[None, :, None],
        "istft.enframe": torch.eye(size, dtype=window.dtype).unsqueeze(1),
    }
