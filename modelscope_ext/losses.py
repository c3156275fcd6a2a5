"""Training losses on (B, N) waveforms: one number, or named terms and their sum.

Compressed spectral loss of CRUSE: Braun et al., ICASSP 2021, equation 1; Braun & Tashev, arXiv 2008.06412.
Loss of FRCRN: Zhao et al., ICASSP 2022, with the constants of ModelScope's `speech_frcrn_ans_cirm_16k`.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from modelscope_ext.stft import analysis, sqrt_hann, stft

__all__ = ["CompressedSpectralLoss", "LoudnessLoss", "active_std", "frcrn_loss", "si_snr"]


def active_std(audio: Tensor, frame: int = 320, range_db: float = 40.0) -> Tensor:
    """Return the root mean square (B,) of audio (B, N) over its active frames.

    A frame of `frame` samples is active if its level is at most `range_db` below the loudest frame's.
    """
    padded = functional.pad(audio, (0, -audio.shape[1] % frame))
    power = padded.unflatten(1, (-1, frame)).square().mean(2)  # (B, T)
    active = power >= power.amax(1, keepdim=True) * 10 ** (-range_db / 10)
    return ((power * active).sum(1) / active.sum(1).clamp_min(1)).sqrt()


class CompressedSpectralLoss(nn.Module):
    """Mean over bins of (1 - w) (|S|^c - |E|^c)^2 + w | |S|^c e^{j arg S} - |E|^c e^{j arg E} |^2.

    S and E are spectra of the waveforms, so the loss does not reward an inconsistent spectrum. Both signals are
    divided by the target's level over its active frames: loud and quiet utterances have the same weight. The divisor
    is at least `floor` and, with a noisy signal given, at least a quarter of its level. Otherwise a few utterances
    with very low SNR would dominate the gradient.

    Args:
        compression: c.
        complex_weight: w, called lambda in the paper.
        window: STFT window in samples; square-root Hann with a hop of half a window.
        floor: lowest amplitude that is normalised to one.
        snr_weight: weight of a second term: the mean of log10(error power / target power), constant beyond 30 dB.
            Compression alone leaves the strong low bins too faint.
        loudness_weight: weight of `LoudnessLoss` as a third term.
        under_weight: factor on the magnitude error where the estimate is too weak: above 1 it protects speech.
        silent_weight: weight of log10(output energy / input energy) where the target is silent; needs `noisy`. The
            other terms hardly reward more than 30 dB of attenuation there.
    """

    def __init__(
        self,
        compression: float = 0.3,
        complex_weight: float = 0.3,
        window: int = 320,
        floor: float = 1e-3,
        snr_weight: float = 0.0,
        loudness_weight: float = 0.0,
        under_weight: float = 1.0,
        silent_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.compression, self.complex_weight = compression, complex_weight
        self.floor, self.snr_weight, self.loudness_weight = floor, snr_weight, loudness_weight
        self.under_weight, self.silent_weight = under_weight, silent_weight
        self.loudness = LoudnessLoss()
        self.register_buffer("window", sqrt_hann(window), persistent=False)

    def forward(self, estimate: Tensor, target: Tensor, noisy: Tensor | None = None) -> Tensor:
        """Return the scalar loss of `estimate` (B, N); it and its gradients are finite on silence."""
        if estimate.shape != target.shape or estimate.ndim != 2:
            raise ValueError(f"need two (B, N) signals, got {tuple(estimate.shape)} and {tuple(target.shape)}")
        level = active_std(target).clamp_min(self.floor)
        if noisy is not None:
            level = torch.maximum(level, active_std(noisy) / 4)
        level = level.unsqueeze(1)
        e_mag, e = self._compress(estimate / level)
        s_mag, s = self._compress(target / level)
        magnitude = (s_mag - e_mag).square()
        if self.under_weight != 1:
            magnitude = torch.where(s_mag > e_mag, self.under_weight * magnitude, magnitude)
        magnitude = magnitude.mean()
        phase_aware = (s - e).square().mean() * 2  # the mean includes real and imaginary parts
        loss = (1 - self.complex_weight) * magnitude + self.complex_weight * phase_aware
        if self.snr_weight:
            error = ((estimate - target) / level).square().mean(1)
            loss = loss + self.snr_weight * torch.log10(error + 1e-3).mean()
        if self.loudness_weight:
            loss = loss + self.loudness_weight * self.loudness(estimate / level, target / level).mean()
        if self.silent_weight and noisy is not None:
            silent = target.abs().amax(1) == 0
            left = estimate.square().sum(1) / noisy.square().sum(1).clamp_min(1e-10)
            loss = loss + self.silent_weight * (silent * torch.log10(left + 1e-5)).mean()
        return loss

    def _compress(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        spec = torch.view_as_real(stft(audio, self.window))  # (B, T, F, 2)
        power = spec.square().sum(-1) + 1e-8  # |x|^c has an infinite slope at zero
        return power ** (self.compression / 2), spec * power.unsqueeze(-1) ** ((self.compression - 1) / 2)


class LoudnessLoss(nn.Module):
    """Differentiable approximation of the PESQ disturbance, in raw PESQ points.

    It follows ITU-T P.862: powers in 49 critical bands, hearing threshold, loudness, masking, a larger weight for added
    components, and emphasis on the worst moments. Band borders and threshold come from formulas (Zwicker and Terhardt
    1980, Terhardt 1979). The alignment of time, level and spectrum is omitted because the loss must penalise these.
    Source: Martin-Donas et al., "A deep learning loss function based on the perceptual evaluation of the speech
    quality", IEEE SPL 2018.
    """

    WINDOW = 512  # samples at 16 kHz
    BANDS = 49

    def __init__(self) -> None:
        super().__init__()
        borders = torch.linspace(0, float(_bark(torch.tensor(8000.0))), self.BANDS + 1)
        step = 16000 / self.WINDOW
        bins = torch.arange(self.WINDOW // 2 + 1) * step
        low, high = (_bark((bins + side * step / 2).clamp(0, 8000)) for side in (-1, 1))
        overlap = torch.minimum(high[:, None], borders[1:]) - torch.maximum(low[:, None], borders[:-1])
        centres = (borders[1:] + borders[:-1]) / 2
        khz = torch.from_numpy(np.interp(centres, _bark(bins), bins / 1000)).float().clamp_min(0.02)
        threshold = 3.64 * khz**-0.8 - 6.5 * (-0.6 * (khz - 3.3) ** 2).exp() + 1e-3 * khz**4  # dB
        exponent = 0.23 * (6 / (centres + 2)).clamp(1, 2) ** 0.15
        self.width = float(borders[1])
        # Scale from bin power to threshold power: the best correlation with PESQ among six powers of four.
        scale = 7000.0
        for name, value in {
            "window": torch.hann_window(self.WINDOW),
            "to_bands": overlap.clamp_min(0) / (high - low)[:, None] * scale,
            "threshold": 10 ** (threshold / 10),
            "exponent": exponent,
        }.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """Return the loss in points (B,) of `estimate` (B, N); active speech has a level of 1."""
        power = self._bands(torch.stack((estimate, target)))  # (2, B, T, bands)
        audible = (0.5 + 0.5 * power / self.threshold).clamp_min(1) ** self.exponent - 1
        loudness = 0.1866055 * (self.threshold / 0.5) ** self.exponent * audible
        difference = (loudness[0] - loudness[1]).abs()
        disturbance = (difference - 0.25 * loudness.amin(0)).clamp_min(0) * self.width
        added = ((power[0] + 50) / (power[1] + 50)) ** 1.2
        added = torch.where(added < 3, 0.0, added.clamp_max(12.0)).detach()
        total = self.width * self.BANDS
        frames = torch.stack(  # (2, B, T)
            ((disturbance.square().sum(-1) / total + 1e-8).sqrt() * total, (disturbance * added).sum(-1))
        )
        frames = (frames / ((power[1].sum(-1) + 1e5) / 1e7) ** 0.04).clamp_max(45)
        parts = frames.unfold(2, min(20, frames.shape[2]), 10)  # a third of a second each
        parts = (parts.pow(6).mean(-1) + 1e-12).pow(1 / 6)
        symmetric, asymmetric = (parts.square().mean(-1)).sqrt()
        return 0.1 * symmetric + 0.0309 * asymmetric

    def _bands(self, audio: Tensor) -> Tensor:
        frames = audio.unfold(-1, self.WINDOW, self.WINDOW // 2) * self.window
        spec = torch.view_as_real(torch.fft.rfft(frames))
        return spec.square().sum(-1) @ self.to_bands


def _bark(hz: Tensor) -> Tensor:
    return 13 * torch.atan(0.76e-3 * hz) + 3.5 * torch.atan((hz / 7500) ** 2)


def si_snr(estimate: Tensor, target: Tensor, eps: float = 1e-8) -> Tensor:
    """Return the scale-invariant SNR (B,) of (B, N) signals in dB. Means stay as in FRCRN."""
    gain = (estimate * target).sum(1, keepdim=True) / (target.square().sum(1, keepdim=True) + eps)
    wanted = gain * target
    noise = (estimate - wanted).square().sum(1)
    return 10 * torch.log10(wanted.square().sum(1) / (noise + eps) + eps)


def _ideal_ratio_mask(noisy: Tensor, clean: Tensor, window: Tensor) -> Tensor:
    """Return the complex mask (B, 2F, T) from `noisy` to `clean` (B, N) with the real parts first.

    The ideal mask is unbounded where noise cancels speech: parts above 2 become 1 and parts below -2 become -1.
    """
    y, s = analysis(noisy, window), analysis(clean, window)  # (B, T, F)
    mask = s * y.conj() / (y.real.square() + y.imag.square() + 1e-8)
    parts = torch.cat((mask.real, mask.imag), 2).transpose(1, 2)
    return torch.where(parts.abs() > 2, parts.sign(), parts)


def frcrn_loss(estimate: Tensor, mask: Tensor, noisy: Tensor, clean: Tensor) -> dict[str, Tensor]:
    """Return the training loss of FRCRN: errors of the mask and the SI-SNR of the signal.

    Args:
        estimate: `wav_l2` of the network (B, N'). N' may lack the samples of an incomplete last frame.
        mask: `mask_l2` of the network (B, 2F, T).
        noisy: input of the network (B, N).
        clean: (B, N).

    Returns:
        Scalars: "amp_loss" and "phase_loss" are 2F times the mean squared errors of the mask's real and imaginary
            parts. "sisnr" is the negative mean SI-SNR. "loss" is the sum of the three.

    Raises:
        ValueError: `noisy` and `clean` differ in shape.
    """
    if noisy.shape != clean.shape or noisy.ndim != 2:
        raise ValueError(f"need two (B, N) signals, got {tuple(noisy.shape)} and {tuple(clean.shape)}")
    width = mask.shape[1]
    with torch.no_grad():
        ideal = _ideal_ratio_mask(noisy, clean, sqrt_hann(width - 2).to(noisy))
    amp, phase = ((mask - ideal).square() * width).unflatten(1, (2, -1)).mean((0, 2, 3))
    negative = -si_snr(estimate, clean[:, : estimate.shape[1]]).mean()
    return {"loss": amp + phase + negative, "amp_loss": amp, "phase_loss": phase, "sisnr": negative}
