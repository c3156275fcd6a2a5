import numpy as np
import pytest
import torch
from scipy import signal

from modelscope_ext import metrics
from modelscope_ext.losses import CompressedSpectralLoss, LoudnessLoss, active_std


def equation_one(estimate, target, c=0.3, share=0.3):
    """Compute the paper's equation in float64 with scipy's STFT over complete frames."""
    level = target.std()  # white noise: every frame is active
    window = np.sqrt(signal.get_window("hann", 320))
    stft = signal.ShortTimeFFT(window, 160, 16000)
    e, s = (stft.stft(x / level, p0=0, p1=len(x) // 160 + 1) for x in (estimate, target))
    e_mag, s_mag = np.abs(e) ** c, np.abs(s) ** c
    magnitude = np.square(s_mag - e_mag).mean()
    compressed = np.abs(s_mag * np.exp(1j * np.angle(s)) - e_mag * np.exp(1j * np.angle(e))) ** 2
    return (1 - share) * magnitude + share * compressed.mean()


def test_equals_equation_one():
    rng = np.random.default_rng(0)
    target = rng.standard_normal(16000) * 0.1
    estimate = target * 0.5 + rng.standard_normal(16000) * 0.03
    loss = CompressedSpectralLoss()(*(torch.tensor(x, dtype=torch.float32)[None] for x in (estimate, target)))
    assert float(loss) == pytest.approx(equation_one(estimate, target), rel=1e-2)


def test_the_loss_ignores_the_level_and_is_zero_at_the_target():
    torch.manual_seed(0)
    loss = CompressedSpectralLoss()
    target, estimate = torch.randn(2, 1, 8000) * 0.1
    assert float(loss(target, target)) == 0
    assert torch.allclose(loss(estimate, target), loss(estimate * 0.1, target * 0.1), rtol=1e-3)


@pytest.mark.parametrize("estimate", ["zeros", "noise"])
@pytest.mark.parametrize("target", ["zeros", "noise"])
def test_loss_and_gradients_are_finite_on_silence(estimate, target):
    make = {"zeros": torch.zeros, "noise": torch.randn}
    e, s = make[estimate](2, 3200).requires_grad_(), make[target](2, 3200)
    loss = CompressedSpectralLoss()(e, s)
    (gradient,) = torch.autograd.grad(loss, e)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_active_level_ignores_pauses():
    speech = torch.randn(1, 16000) * 0.1
    with_pause = torch.cat((speech, torch.zeros(1, 48000)), 1)
    assert float(active_std(with_pause)) == pytest.approx(float(active_std(speech)), rel=0.01)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"need two \(B, N\) signals"):
        CompressedSpectralLoss()(torch.zeros(1, 100), torch.zeros(1, 101))


def test_the_noise_level_bounds_the_weight_of_a_quiet_target():
    """Without the noisy signal the divisor is the target's level, and one utterance dominates the batch.

    With c = 0.5 the loss is proportional to 1 / level: a quarter of the noise level gives a 25th of the loss.
    """
    torch.manual_seed(0)
    loss = CompressedSpectralLoss(0.5, 0.5)
    target = torch.randn(1, 16000) / 1000
    noisy = target + torch.randn(1, 16000) / 10
    alone, bounded = loss(noisy, target), loss(noisy, target, noisy)
    assert float(alone / bounded) == pytest.approx(25, rel=0.1)
    easy = target * 100 + torch.randn(1, 16000) / 100
    assert loss(easy, target * 100, easy) == loss(easy, target * 100)


def test_the_snr_term_is_the_power_of_the_error_up_to_30_db():
    """The target has constant power; errors are 10, 20 and 60 dB below it."""
    torch.manual_seed(1)
    target = torch.sign(torch.randn(2, 16000)) * 0.2
    with_term, without = CompressedSpectralLoss(snr_weight=0.5), CompressedSpectralLoss()
    for error_db, expected in ((-20, -20), (-10, -10), (-60, -30)):
        estimate = target * (1 + 10 ** (error_db / 20))
        term = (with_term(estimate, target) - without(estimate, target)) / 0.5
        assert float(term) == pytest.approx(expected / 10, abs=0.05)
    silent = torch.zeros(2, 16000, requires_grad=True)
    (gradient,) = torch.autograd.grad(with_term(silent, target * 0), silent)
    assert torch.isfinite(gradient).all()


def test_loudness_follows_pesq(noisy, clean):
    """With rising noise the loss rises about as much as raw PESQ falls."""
    rng = np.random.default_rng(0)
    audio = clean[:48000]
    level = active_std(torch.from_numpy(audio[None])).unsqueeze(1)
    lost, raw = [], []
    for snr_db in (30, 20, 10, 0):
        noise = rng.standard_normal(len(audio)) * audio.std() * 10 ** (-snr_db / 20)
        mixture = (audio + noise).astype(np.float32)
        lost.append(
            float(LoudnessLoss()(torch.from_numpy(mixture[None]) / level, torch.from_numpy(audio[None]) / level))
        )
        mos = metrics.pesq(mixture, audio)
        raw.append((3.8224 - np.log((4.999 - mos) / (mos - 0.999))) / 1.3669)  # inverse of P.862.2
    assert np.all(np.diff(lost) > 0.2)
    assert np.polyfit(lost, raw, 1)[0] == pytest.approx(-0.8, abs=0.4)
    assert np.corrcoef(lost, raw)[0, 1] < -0.95


def test_loudness_is_zero_for_equal_signals():
    torch.manual_seed(0)
    audio = torch.randn(2, 16000) * torch.tensor([[1.0], [0.0]])
    points = LoudnessLoss()(audio, audio)
    assert points.shape == (2,)
    assert points.max() < 0.01
    for estimate, target in ((audio, audio * 0.5), (audio * 0, audio), (audio, audio * 0), (audio * 0, audio * 0)):
        estimate = estimate.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(LoudnessLoss()(estimate, target).sum(), estimate)
        assert torch.isfinite(gradient).all()
    weighted = CompressedSpectralLoss(loudness_weight=0.5)(audio[:1] * 0.5, audio[:1])
    level = active_std(audio[:1]).unsqueeze(1)
    term = 0.5 * LoudnessLoss()(audio[:1] * 0.5 / level, audio[:1] / level).mean()
    assert float(weighted - CompressedSpectralLoss()(audio[:1] * 0.5, audio[:1])) == pytest.approx(
        float(term), rel=1e-4
    )


def test_an_estimate_that_is_too_weak_costs_more_by_the_weight():
    target = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 16000), np.float32)) * 0.1
    plain, weighted = (CompressedSpectralLoss(0.3, complex_weight=0.0, under_weight=w) for w in (1.0, 1.5))
    assert weighted(0.5 * target, target) == pytest.approx(1.5 * float(plain(0.5 * target, target)), rel=1e-4)
    assert weighted(2 * target, target) == pytest.approx(float(plain(2 * target, target)), rel=1e-4)


def test_noise_that_is_left_alone_costs_by_the_decade():
    noisy = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 16000), np.float32)) * 0.1
    target = torch.stack((torch.zeros(16000), noisy[1]))
    plain, weighted = (CompressedSpectralLoss(0.3, silent_weight=w) for w in (0.0, 0.2))

    def extra(gain: float) -> float:
        estimate = torch.stack((gain * noisy[0], noisy[1]))
        return float(weighted(estimate, target, noisy) - plain(estimate, target, noisy))

    assert extra(0.1) == pytest.approx(0.2 * -2 / 2, rel=1e-2)  # -20 dB in one of two rows
    assert extra(0.01) == pytest.approx(0.2 * -4 / 2, rel=2e-2)
    assert weighted(0.1 * noisy, target) == plain(0.1 * noisy, target)  # without the input there is no such term
