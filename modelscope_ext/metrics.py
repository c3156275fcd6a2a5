"""Quality of enhanced speech against its clean reference: (N,) arrays in, one number out.

SI-SDR and the cepstral distance are our own; PESQ, STOI and DNSMOS are the field's packages (`[metrics]`).
"""

import numpy as np

__all__ = ["cepstral_distance", "dnsmos", "model_selection_score", "pesq", "si_sdr", "stoi"]

HINT = "needs the package {}: pip install 'modelscope-ext[metrics]'"


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB after removing means (Le Roux et al., ICASSP 2019)."""
    estimate, reference = _pair(estimate, reference)
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
    """PESQ, ITU-T P.862 (P.862.2 when wide-band): about 1 … 4.64. NaN where the reference has no speech in it."""
    try:
        import pesq as package
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"PESQ {HINT.format('pesq')}") from error
    estimate, reference = _pair(estimate, reference)
    try:
        return float(package.pesq(sample_rate, reference, estimate, "wb" if wide_band else "nb"))
    except (package.NoUtterancesError, package.BufferTooShortError):
        return float("nan")


def stoi(estimate: np.ndarray, reference: np.ndarray, sample_rate: int = 16000) -> float:
    """Short-time objective intelligibility in percent (Taal et al. 2011)."""
    try:
        import pystoi
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"STOI {HINT.format('pystoi')}") from error
    estimate, reference = _pair(estimate, reference)
    return 100 * float(pystoi.stoi(reference, estimate, sample_rate))


def dnsmos(audio: np.ndarray, sample_rate: int = 16000) -> dict[str, float]:
    """DNSMOS without a reference: SIG, BAK, OVRL (P.835) and P808, each about 1 … 5."""
    try:
        from speechmos import dnsmos as package
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"DNSMOS {HINT.format('speechmos')}") from error
    scores = package.run(np.clip(audio, -1, 1).astype(np.float32), sr=sample_rate)
    return {name.upper(): float(scores[f"{name}_mos"]) for name in ("sig", "bak", "ovrl", "p808")}


def model_selection_score(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Q = PESQ + 0.2 SI-SDR - CD of Braun et al. 2021: the higher, the better."""
    return pesq(estimate, reference) + 0.2 * si_sdr(estimate, reference) - cepstral_distance(estimate, reference)


def _pair(estimate: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if estimate.shape != reference.shape or estimate.ndim != 1:
        raise ValueError(f"need two (N,) signals of one length, got {estimate.shape} and {reference.shape}")
    return np.asarray(estimate, np.float64), np.asarray(reference, np.float64)
