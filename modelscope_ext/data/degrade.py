"""Filters, microphones, converters, telephones and codecs. Signals are (N,) float32."""

import functools
import io

import numpy as np
import soundfile
from scipy.signal import butter, lfilter, sosfilt

from modelscope_ext.audio import resample

MP3_DELAY = 1105  # samples: LAME's 576 and a decoder's 529; its own header undoes it where a frame has room for one
CODECS = {"mp3": 0.35, "opus": 0.2, "mu-law": 0.45}  # shares; Opus takes most time


def spectral_augmentation(rng: np.random.Generator, audio: np.ndarray) -> np.ndarray:
    """Filter by H(z) = (1 + r1 z^-1 + r2 z^-2) / (1 + r3 z^-1 + r4 z^-2) with r from ±3/8 (arXiv 2008.06412)."""
    r = rng.uniform(-3 / 8, 3 / 8, 4)
    return lfilter([1, r[0], r[1]], [1, r[2], r[3]], audio).astype(np.float32)


def low_pass(audio: np.ndarray, cutoff_hz: float, sample_rate: int, order: int = 12) -> np.ndarray:
    """Remove the content above `cutoff_hz` by 6 dB an octave and order."""
    return sosfilt(_design(order, cutoff_hz, "lowpass", sample_rate), audio).astype(np.float32)


def high_pass(audio: np.ndarray, cutoff_hz: float, sample_rate: int) -> np.ndarray:
    """Remove the content below `cutoff_hz` by 24 dB an octave."""
    return sosfilt(_design(4, cutoff_hz, "highpass", sample_rate), audio).astype(np.float32)


@functools.lru_cache(1024)  # a design takes longer than its use
def _design(order: int, cutoff_hz: float | tuple[float, float], kind: str, sample_rate: int) -> np.ndarray:
    return butter(order, cutoff_hz, kind, fs=sample_rate, output="sos")


def dc_offset(rng: np.random.Generator, size: tuple[float, float]) -> np.float32:
    """Return an offset of either sign. Its size is drawn evenly in octaves; full scale is 1."""
    return np.float32(np.exp(rng.uniform(*np.log(size))) * rng.choice((-1, 1)))


def clip_peaks(audio: np.ndarray, over_db: float) -> np.ndarray:
    """Clip at `over_db` below the highest peak."""
    limit = np.abs(audio).max() * np.float32(10 ** (-over_db / 20))
    return audio.clip(-limit, limit)


def telephone(
    rng: np.random.Generator, noisy: np.ndarray, target: np.ndarray, sample_rate: int
) -> tuple[np.ndarray, np.ndarray]:
    """Keep 300 to 3400 Hz of both signals.

    Half the time both are also resampled to 8 kHz. Half the time `noisy` is also coded by mu-law.
    """
    band = _design(int(rng.integers(2, 7)), (300, 3400), "bandpass", sample_rate)
    noisy, target = (sosfilt(band, audio).astype(np.float32) for audio in (noisy, target))
    if rng.random() < 0.5:
        noisy, target = (_narrow(audio, sample_rate) for audio in (noisy, target))
    return _coded(noisy, sample_rate, "WAV", "ULAW") if rng.random() < 0.5 else noisy, target


def _narrow(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Resample to 8 kHz and back."""
    wide = resample(resample(audio, sample_rate, 8000), 8000, sample_rate)
    return np.pad(wide, (0, max(0, len(audio) - len(wide))))[: len(audio)]


def code(
    rng: np.random.Generator,
    audio: np.ndarray,
    sample_rate: int,
    mp3_kbps: tuple[float, float] = (32.0, 96.0),
    opus_kbps: tuple[float, float] = (8.0, 32.0),
) -> np.ndarray:
    """Code and decode by MP3, Opus or 8-bit mu-law, aligned with `audio` to the sample.

    Rates are drawn evenly in octaves.
    """
    codec = rng.choice(list(CODECS), p=list(CODECS.values()))
    if codec == "mu-law":
        return _coded(audio, sample_rate, "WAV", "ULAW")
    kbps = np.exp(rng.uniform(*np.log(mp3_kbps if codec == "mp3" else opus_kbps)))
    if codec == "opus":  # libsndfile's range of rates for one channel
        return _coded(audio, sample_rate, "OGG", "OPUS", compression_level=(256 - kbps) / 250)
    least, most = (32, 320) if sample_rate >= 32000 else (8, 160)  # MPEG-1 and MPEG-2
    level = (most - kbps) / (most - least)
    return _coded(
        audio, sample_rate, "MP3", "MPEG_LAYER_III", compression_level=max(level, 0.0), bitrate_mode="CONSTANT"
    )


def _coded(audio: np.ndarray, sample_rate: int, format: str, subtype: str, **options) -> np.ndarray:
    file = io.BytesIO()
    soundfile.write(file, audio, sample_rate, subtype, format=format, **options)
    file.seek(0)
    decoded = soundfile.read(file, dtype="float32")[0]
    # A decoder cuts off a codec's delay where the file records it; otherwise the decoded signal is longer.
    start = MP3_DELAY if len(decoded) > len(audio) else 0
    return decoded[start : start + len(audio)]
