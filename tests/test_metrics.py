import numpy as np
import pytest
import soundfile
from conftest import SHARED

from modelscope_ext import metrics


def test_si_sdr_of_known_mixtures():
    rng = np.random.default_rng(0)
    speech = rng.standard_normal(16000)
    noise = rng.standard_normal(16000)
    noise -= noise @ speech / (speech @ speech) * speech
    noise *= np.linalg.norm(speech) / np.linalg.norm(noise) / 10
    assert metrics.si_sdr(3 * (speech + noise) + 0.5, speech) == pytest.approx(20, abs=0.05)


def test_cepstral_distance_ignores_level_and_hears_colour():
    rng = np.random.default_rng(0)
    speech = rng.standard_normal(16000)
    assert metrics.cepstral_distance(speech * 0.1, speech) == pytest.approx(0, abs=1e-6)
    coloured = np.convolve(speech, [1, 0.5], "same")
    # ln|1 + z/2|^2 has cepstral coefficients -(-1/2)^k / k, twice the real cepstrum's
    exact = 20 / np.log(10) * np.sqrt(2 * sum((0.5**k / k / 2) ** 2 for k in range(1, 25)))
    assert metrics.cepstral_distance(coloured, speech) == pytest.approx(exact, rel=0.1)


def test_perceptual_metrics_prefer_the_cleaner(noisy, clean):
    assert metrics.pesq(clean, clean) > 4.5
    assert metrics.pesq(noisy, clean) < 3
    assert metrics.stoi(clean, clean) == pytest.approx(100, abs=0.1)
    assert metrics.model_selection_score(clean, clean) > metrics.model_selection_score(noisy, clean)
    assert np.isnan(metrics.pesq(np.zeros(16000), np.zeros(16000)))


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="of one length"):
        metrics.si_sdr(np.zeros(3), np.zeros(4))


@pytest.mark.shared
def test_published_outputs_score_what_was_published():
    rows = []
    for path in sorted((SHARED / "data" / "pairs" / "clean").glob("*.flac")):
        clean, enhanced = (
            soundfile.read(SHARED / "data" / "pairs" / folder / path.name)[0] for folder in ("clean", "frcrn_published")
        )
        length = min(len(clean), len(enhanced))
        clean, enhanced = clean[:length], enhanced[:length]
        rows.append(
            [
                metrics.pesq(enhanced, clean),
                metrics.pesq(enhanced, clean, wide_band=False),
                metrics.stoi(enhanced, clean),
                metrics.si_sdr(enhanced, clean),
            ]
        )
    assert np.mean(rows, 0) == pytest.approx([2.81, 3.35, 94.4, 17.76], abs=0.06)
