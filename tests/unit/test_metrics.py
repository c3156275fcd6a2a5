import sys

import numpy as np
import pytest
from processes import python

from modelscope_ext import metrics

#: In a process of its own, since a process keeps the networks that it has loaded.
DNSMOS_WITHOUT_A_PACKAGE = """
import sys, numpy
package = sys.argv[1]
sys.modules[package] = None
from modelscope_ext import metrics
for call in (lambda: metrics.require(["ovrl"]), lambda: metrics.dnsmos(numpy.zeros(16000))):
    try:
        call()
    except ModuleNotFoundError as error:
        assert f"DNSMOS needs the package {package}: pip install 'modelscope-ext[metrics]'" in str(error)
    else:
        raise AssertionError
"""


def test_si_sdr_of_known_mixtures():
    rng = np.random.default_rng(0)
    speech = rng.standard_normal(16000)
    noise = rng.standard_normal(16000)
    noise -= noise @ speech / (speech @ speech) * speech
    noise *= np.linalg.norm(speech) / np.linalg.norm(noise) / 10
    assert metrics.si_sdr(3 * (speech + noise) + 0.5, speech) == pytest.approx(20, abs=0.05)


def test_cepstral_distance_depends_on_the_spectrum_and_not_the_level():
    rng = np.random.default_rng(0)
    speech = rng.standard_normal(16000)
    assert metrics.cepstral_distance(speech * 0.1, speech) == pytest.approx(0, abs=1e-6)
    coloured = np.convolve(speech, [1, 0.5], "same")
    # ln|1 + z/2|^2 has cepstral coefficients -(-1/2)^k / k, twice the real cepstrum's
    exact = 20 / np.log(10) * np.sqrt(2 * sum((0.5**k / k / 2) ** 2 for k in range(1, 25)))
    assert metrics.cepstral_distance(coloured, speech) == pytest.approx(exact, rel=0.1)


def test_perceptual_metrics_prefer_the_cleaner_signal(noisy, clean):
    assert metrics.pesq(clean, clean) > 4.5
    assert metrics.pesq(noisy, clean) < 3
    assert metrics.stoi(clean, clean) == pytest.approx(100, abs=0.1)
    assert np.isnan(metrics.pesq(np.zeros(16000), np.zeros(16000)))


def test_the_model_selection_score():
    assert metrics.model_selection_score(3.0, 10.0, 1.5) == 3.5
    assert metrics.model_selection_score(3.0, 10.0, 2.5) < 3.5


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="of one length"):
        metrics.si_sdr(np.zeros(3), np.zeros(4))


def test_dnsmos_is_the_mean_over_every_whole_second(noisy, monkeypatch):
    """The reference is the package's own `run` on single windows; it skips the last of several."""
    import onnxruntime
    from speechmos import dnsmos as package

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # two threads spin, and wait for minutes beside other tests
    session = onnxruntime.InferenceSession
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda file, *_: session(file, options))

    def run(audio):
        return [package.run(audio, 16000)[f"{name}_mos"] for name in ("sig", "bak", "ovrl", "p808")]

    audio = np.tile(noisy, 2)[: round(10.5 * 16000)]
    windows = [run(audio[start : start + 144160]) for start in (0, 16000)]
    assert list(metrics.dnsmos(audio).values()) == pytest.approx(np.mean(windows, 0), abs=1e-5)
    assert run(audio) == pytest.approx(windows[0], abs=1e-5)


def test_dnsmos_repeats_short_audio(noisy):
    short = noisy[32000:72000]
    assert metrics.dnsmos(short) == pytest.approx(metrics.dnsmos(np.tile(short, 4)))
    assert list(metrics.dnsmos(short * 100)) == ["SIG", "BAK", "OVRL", "P808"]  # clipped without an error
    with pytest.raises(ValueError, match=r"got shape \(0,\)"):
        metrics.dnsmos(short[:0])
    with pytest.raises(ValueError, match="at 8000 Hz"):
        metrics.dnsmos(short, 8000)


def test_narrow_band_pesq(noisy, clean):
    import pesq

    assert metrics.nb_pesq(noisy, clean) == pytest.approx(pesq.pesq(16000, clean, noisy, "nb"), abs=1e-4)
    assert metrics.nb_pesq(noisy, clean) == metrics.pesq(noisy, clean, wide_band=False) > metrics.pesq(noisy, clean)


def test_a_missing_value_is_nan_and_no_error(clean):
    speech = clean[16000:48000]
    for metric, estimate, reference in (
        (metrics.si_sdr, speech * 0, speech),
        (metrics.si_sdr, speech, speech * 0),
        (metrics.pesq, speech * 0, speech),
        (metrics.pesq, speech[:3000], speech[:3000]),
        (metrics.nb_pesq, speech, speech * 0),
        (metrics.stoi, speech[:4000], speech[:4000]),
        (metrics.stoi, speech[:100], speech[:100]),
    ):
        assert np.isnan(metric(estimate, reference)), metric
    assert metrics.stoi(speech * 0, speech) == pytest.approx(0, abs=1)


def test_chosen_scores(noisy, clean, monkeypatch):
    found = metrics.scores(noisy, clean, ("stoi", "wb_pesq"))
    assert found == {"stoi": metrics.stoi(noisy, clean), "wb_pesq": metrics.pesq(noisy, clean)}
    calls = []
    monkeypatch.setattr(metrics, "dnsmos", lambda audio: calls.append(1) or {"SIG": 1, "BAK": 2, "OVRL": 3, "P808": 4})
    assert metrics.scores(noisy, clean, ("p808", "sig", "ovrl")) == {"p808": 4, "sig": 1, "ovrl": 3}
    assert len(calls) == 1  # one run of the networks


def test_missing_packages_are_errors(noisy, monkeypatch):
    for package, name, metric in (("pesq", "wb_pesq", metrics.pesq), ("pystoi", "stoi", metrics.stoi)):
        monkeypatch.setitem(sys.modules, package, None)
        message = rf"needs the package {package}.*: pip install 'modelscope-ext\[metrics\]'"
        with pytest.raises(ModuleNotFoundError, match=message):
            metrics.require(["si_sdr", name])
        with pytest.raises(ModuleNotFoundError, match=message):
            metric(noisy, noisy)
    for package in ("speechmos", "librosa"):
        python("-c", DNSMOS_WITHOUT_A_PACKAGE, package)
    metrics.require(["si_sdr"])
    with pytest.raises(ValueError, match="unknown metric 'q'; known are wb_pesq"):
        metrics.require(["q"])
