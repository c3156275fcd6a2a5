"""Quality of enhanced speech against its clean reference: (N,) arrays to one number.

SI-SDR and the cepstral distance are computed here. PESQ, STOI and DNSMOS call the field's packages (`[metrics]`).
"""

import functools
import importlib
import importlib.util
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

__all__ = [
    "SAMPLE_RATE",
    "SCORES",
    "cepstral_distance",
    "dnsmos",
    "model_selection_score",
    "nb_pesq",
    "pesq",
    "require",
    "scores",
    "si_sdr",
    "stoi",
]

#: Rate in Hz at which every metric is defined.
SAMPLE_RATE = 16000
#: Metrics of the field's tables. The last four are DNSMOS, which needs no reference.
SCORES = ("wb_pesq", "nb_pesq", "stoi", "si_sdr", "sig", "bak", "ovrl", "p808")
HINT = "{} needs the package {}: pip install 'modelscope-ext[metrics]'"
#: Input length of the DNSMOS networks (9.01 s) and hop between their windows, in samples.
WINDOW, HOP = 144160, SAMPLE_RATE


def scores(estimate: np.ndarray, reference: np.ndarray, names: Iterable[str] = SCORES) -> dict[str, float]:
    """Return the chosen metrics of a signal (N,) at 16 kHz; NaN where a metric has no value.

    Args:
        estimate: floating point.
        reference: clean signal of the same length.
        names: metrics from `SCORES`.
    """
    found = {}
    for name in names:
        if name in _WITH_REFERENCE:
            found[name] = _WITH_REFERENCE[name](estimate, reference)
        elif name not in found:
            found |= {key.lower(): value for key, value in dnsmos(estimate).items()}
    return {name: found[name] for name in names}


def require(names: Iterable[str]) -> None:
    """Raise an error if the package of a metric is missing.

    Raises:
        ValueError: a name is not in `SCORES`.
        ModuleNotFoundError: a package is missing.
    """
    for name in names:
        if name not in SCORES:
            raise ValueError(f"unknown metric {name!r}; known are {', '.join(SCORES)}")
        title, *packages = {
            "wb_pesq": ("PESQ", "pesq"),
            "nb_pesq": ("PESQ", "pesq"),
            "stoi": ("STOI", "pystoi"),
            "si_sdr": ("SI-SDR",),
        }.get(name, ("DNSMOS", "speechmos", "librosa", "onnxruntime"))
        for package in packages:
            if importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(HINT.format(title, package))


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Return the scale-invariant signal-to-distortion ratio in dB; NaN if a signal is silent.

    Means are removed first. Source: Le Roux et al., ICASSP 2019.

    >>> speech = np.array([1.0, -1.0, 1.0, -1.0])
    >>> round(si_sdr(speech + np.array([0.1, 0.1, -0.1, -0.1]), speech), 2)
    20.0
    """
    estimate, reference = _pair(estimate, reference)
    if not (estimate.any() and reference.any()):
        return float("nan")
    estimate, reference = estimate - estimate.mean(), reference - reference.mean()
    target = reference * (estimate @ reference) / max(reference @ reference, 1e-20)
    error = estimate - target
    return float(10 * np.log10(max(target @ target, 1e-20) / max(error @ error, 1e-20)))


def cepstral_distance(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Return the mean distance of real cepstra of two (N,) signals over the reference's active frames in dB.

    A frame of 512 samples has the distance 10 / ln 10 * sqrt(2 * sum_{k = 1 … 24} (c_k - c'_k)^2) and at most 10 dB.
    Source: Kubichek 1993.
    """
    window, coefficients = 512, 24
    estimate, reference = _pair(estimate, reference)
    cepstra = []
    for signal in (estimate, reference):
        padded = np.pad(signal, (0, max(0, window - len(signal))))
        frames = np.lib.stride_tricks.sliding_window_view(padded, window)[:: window // 2] * np.hanning(window)
        power = np.abs(np.fft.rfft(frames)) ** 2
        cepstra.append(np.fft.irfft(np.log(np.maximum(power, 1e-10)))[:, 1 : coefficients + 1] / 2)
    energy = power.sum(1)
    difference = np.square(cepstra[0] - cepstra[1]).sum(1)[energy >= energy.max() * 1e-4]
    return float(np.minimum(20 / np.log(10) * np.sqrt(2 * difference), 10).mean())


def pesq(estimate: np.ndarray, reference: np.ndarray, sample_rate: int = SAMPLE_RATE, wide_band: bool = True) -> float:
    """Return PESQ by ITU-T P.862 (P.862.2 if `wide_band`): about 1 … 4.64.

    It is NaN if the reference has no speech, the estimate is silent, or the signals are shorter than 0.25 s.
    """
    package = _package("PESQ", "pesq")
    estimate, reference = _pair(estimate, reference)
    if not estimate.any():  # the package would fail on a division
        return float("nan")
    try:
        return float(package.pesq(sample_rate, reference, estimate, "wb" if wide_band else "nb"))
    except package.PesqError:
        return float("nan")


def nb_pesq(estimate: np.ndarray, reference: np.ndarray, sample_rate: int = SAMPLE_RATE) -> float:
    """Return narrow-band PESQ: about 1 … 4.55. See `pesq`."""
    return pesq(estimate, reference, sample_rate, wide_band=False)


def stoi(estimate: np.ndarray, reference: np.ndarray, sample_rate: int = SAMPLE_RATE) -> float:
    """Return the short-time objective intelligibility in percent (Taal et al. 2011).

    It is NaN if the reference has less than 0.4 s of speech: the length of one comparison.
    """
    package = _package("STOI", "pystoi")
    estimate, reference = _pair(estimate, reference)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
        try:
            return 100 * float(package.stoi(reference, estimate, sample_rate))
        except (RuntimeWarning, np.exceptions.AxisError):  # AxisError below one frame
            return float("nan")


def dnsmos(audio: np.ndarray, sample_rate: int = SAMPLE_RATE) -> dict[str, float]:
    """Return DNSMOS: SIG, BAK, OVRL (P.835) and P808 of about 1 … 5 (Reddy et al., ICASSP 2022).

    They are means over all windows of 9.01 s that begin at whole seconds as in published figures. Shorter audio is
    doubled until it fills a window. speechmos' own `run` skips the last window and some after the seventh.

    Args:
        audio: (N,) in -1 … 1 with N > 0; values beyond are clipped.
        sample_rate: 16000 Hz.
    """
    if sample_rate != SAMPLE_RATE or audio.ndim != 1 or not len(audio):
        raise ValueError(f"DNSMOS needs (N,) audio at 16000 Hz, got shape {audio.shape} at {sample_rate} Hz")
    networks = _dnsmos_networks()
    audio = np.clip(audio, -1, 1).astype(np.float32)
    while len(audio) < WINDOW:
        audio = np.concatenate((audio, audio))
    starts = range(0, len(audio) - WINDOW + 1, HOP)
    windows = [networks(audio[start : start + WINDOW], sample_rate, False) for start in starts]
    names = ("sig", "bak", "ovrl", "p808")
    return {name.upper(): float(np.mean([window[f"{name}_mos"] for window in windows])) for name in names}


def model_selection_score(pesq: float, si_sdr: float, cepstral_distance: float) -> float:
    """Return Q = PESQ + 0.2 SI-SDR - CD (Braun et al., ICASSP 2021); higher is better."""
    return pesq + 0.2 * si_sdr - cepstral_distance


def _pair(estimate: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if estimate.shape != reference.shape or estimate.ndim != 1:
        raise ValueError(f"need two (N,) signals of one length, got {estimate.shape} and {reference.shape}")
    return np.asarray(estimate, np.float64), np.asarray(reference, np.float64)


def _package(title: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(HINT.format(title, (error.name or name).partition(".")[0])) from error


@functools.cache
def _dnsmos_networks() -> Any:
    """Return the networks of speechmos on one thread each; by default each would use and wait on every core."""
    package, onnxruntime = _package("DNSMOS", "speechmos.dnsmos"), _package("DNSMOS", "onnxruntime")
    folder = Path(package.__file__).parent / "dnsmos_models"
    files = [str(folder / name) for name in ("sig_bak_ovr.onnx", "model_v8.onnx")]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    networks = package.DNSMOS(*files)
    networks.onnx_sess, networks.p808_onnx_sess = (onnxruntime.InferenceSession(file, options) for file in files)
    return networks


_WITH_REFERENCE = {"wb_pesq": pesq, "nb_pesq": nb_pesq, "stoi": stoi, "si_sdr": si_sdr}
