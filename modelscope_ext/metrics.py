"""Quality of enhanced speech against its clean reference: (N,) arrays in, one number out.

SI-SDR and the cepstral distance are our own; PESQ, STOI and DNSMOS are the field's packages (`[metrics]`).
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

#: What `scores` gives: the columns of the field's tables. The last four are DNSMOS, which needs no reference.
SCORES = ("wb_pesq", "nb_pesq", "stoi", "si_sdr", "sig", "bak", "ovrl", "p808")
HINT = "{} needs the package {}: pip install 'modelscope-ext[metrics]'"
#: What DNSMOS' networks hear at a time, 9.01 s, and from one such window to the next; in samples.
WINDOW, HOP = 144160, 16000


def scores(estimate: np.ndarray, reference: np.ndarray, names: Iterable[str] = SCORES) -> dict[str, float]:
    """The chosen ones of `SCORES` for a (N,) floating-point signal at 16 kHz; NaN for what it has no value of."""
    found = {}
    for name in names:
        if name in _WITH_REFERENCE:
            found[name] = _WITH_REFERENCE[name](estimate, reference)
        elif name not in found:
            found |= {key.lower(): value for key, value in dnsmos(estimate).items()}
    return {name: found[name] for name in names}


def require(names: Iterable[str]) -> None:
    """Looks whether what these of `SCORES` are computed with is installed.

    Raises:
        ValueError: a name is none of `SCORES`; the message lists them.
        ModuleNotFoundError: a package is missing; the message says how to install it.
    """
    for name in names:
        if name not in SCORES:
            raise ValueError(f"unknown metric {name!r}; known are {', '.join(SCORES)}")
        title, *packages = {
            "wb_pesq": ("PESQ", "pesq"),
            "nb_pesq": ("PESQ", "pesq"),
            "stoi": ("STOI", "pystoi"),
            "si_sdr": ("SI-SDR",),
        }.get(name, ("DNSMOS", "speechmos", "onnxruntime"))
        for package in packages:
            if importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(HINT.format(title, package))


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB after removing means (Le Roux et al., ICASSP 2019).

    NaN where either signal is silent.
    """
    estimate, reference = _pair(estimate, reference)
    if not (estimate.any() and reference.any()):
        return float("nan")
    estimate, reference = estimate - estimate.mean(), reference - reference.mean()
    target = reference * (estimate @ reference) / max(reference @ reference, 1e-20)
    error = estimate - target
    return float(10 * np.log10(max(target @ target, 1e-20) / max(error @ error, 1e-20)))


def cepstral_distance(estimate: np.ndarray, reference: np.ndarray, window: int = 512, coefficients: int = 24) -> float:
    """Mean distance of the real cepstra over the reference's active frames, in dB, each frame limited to 10.

    10 / ln 10 * sqrt(2 * sum_{k = 1 …} (c_k - c'_k)^2), as in Kubichek 1993; frames of 32 ms at 16 kHz, hop of half.
    The level of a frame (c_0) does not count.
    """
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


def pesq(estimate: np.ndarray, reference: np.ndarray, sample_rate: int = 16000, wide_band: bool = True) -> float:
    """PESQ, ITU-T P.862 (P.862.2 when wide-band): about 1 … 4.64.

    NaN where it has no value: there is no speech in the reference, the estimate is silent, or less than 0.25 s long.
    """
    package = _package("PESQ", "pesq")
    estimate, reference = _pair(estimate, reference)
    if not estimate.any():  # the package would fail with a message on integers
        return float("nan")
    try:
        return float(package.pesq(sample_rate, reference, estimate, "wb" if wide_band else "nb"))
    except package.PesqError:
        return float("nan")


def nb_pesq(estimate: np.ndarray, reference: np.ndarray, sample_rate: int = 16000) -> float:
    """Narrow-band PESQ: about 1 … 4.55; see `pesq`."""
    return pesq(estimate, reference, sample_rate, wide_band=False)


def stoi(estimate: np.ndarray, reference: np.ndarray, sample_rate: int = 16000) -> float:
    """Short-time objective intelligibility in percent (Taal et al. 2011).

    NaN where the reference's speech is shorter than the 0.4 s that it compares at a time.
    """
    package = _package("STOI", "pystoi")
    estimate, reference = _pair(estimate, reference)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
        try:
            return 100 * float(package.stoi(reference, estimate, sample_rate))
        except (RuntimeWarning, np.exceptions.AxisError):  # the latter for less than one frame
            return float("nan")


def dnsmos(audio: np.ndarray, sample_rate: int = 16000) -> dict[str, float]:
    """DNSMOS without a reference: SIG, BAK, OVRL (P.835) and P808, each about 1 … 5 (Reddy et al., ICASSP 2022).

    Means over all windows of 9.01 s that begin at whole seconds, as published figures are made; audio below 9.01 s is
    doubled until it is longer. speechmos' own `run` leaves out the last of these windows, and some after the seventh.

    Args:
        audio: (N,) in -1 … 1 (what is beyond is clipped), N > 0.
        sample_rate: 16000.
    """
    if sample_rate != 16000 or audio.ndim != 1 or not len(audio):
        raise ValueError(f"DNSMOS needs (N,) audio at 16000 Hz, got shape {audio.shape} at {sample_rate} Hz")
    networks = _dnsmos_networks()
    audio = np.clip(audio, -1, 1).astype(np.float32)
    while len(audio) < WINDOW:
        audio = np.concatenate((audio, audio))
    starts = range(0, len(audio) - WINDOW + 1, HOP)
    windows = [networks(audio[start : start + WINDOW], sample_rate, False) for start in starts]
    names = ("sig", "bak", "ovrl", "p808")
    return {name.upper(): float(np.mean([window[f"{name}_mos"] for window in windows])) for name in names}


def model_selection_score(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Q = PESQ + 0.2 SI-SDR - CD of Braun et al. 2021: the higher, the better."""
    return pesq(estimate, reference) + 0.2 * si_sdr(estimate, reference) - cepstral_distance(estimate, reference)


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
    """The networks that speechmos carries, on one thread each: left alone they take, and wait on, every core."""
    package, onnxruntime = _package("DNSMOS", "speechmos.dnsmos"), _package("DNSMOS", "onnxruntime")
    folder = Path(package.__file__).parent / "dnsmos_models"
    files = [str(folder / name) for name in ("sig_bak_ovr.onnx", "model_v8.onnx")]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    networks = package.DNSMOS(*files)
    networks.onnx_sess, networks.p808_onnx_sess = (onnxruntime.InferenceSession(file, options) for file in files)
    return networks


_WITH_REFERENCE = {"wb_pesq": pesq, "nb_pesq": nb_pesq, "stoi": stoi, "si_sdr": si_sdr}
