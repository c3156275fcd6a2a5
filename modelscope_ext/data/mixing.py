"""Noisy and clean training pairs, made on the fly: sample `i` of a seed is always the same.

Braun & Tashev, arXiv 2008.06412, and Braun et al., ICASSP 2021, figure 4. Signals are (N,) float32 at one rate.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, fftconvolve, lfilter, sosfilt
from torch.utils.data import Dataset

from modelscope_ext.audio import resample
from modelscope_ext.data.corpus import Corpus
from modelscope_ext.data.rooms import shape_decay

__all__ = ["MixConfig", "Mixer", "active_rms", "mix_at_snr", "validation_pairs"]


@dataclass(frozen=True)
class MixConfig:
    """Distributions of the mixtures. Pairs are (mean, standard deviation) or (lowest, highest); shares are 0 … 1.

    snr_db and level_dbfs are normal distributions as in the paper, cut off at their ranges.
    """

    seconds: float = 4.0
    snr_db: tuple[float, float] = (5.0, 10.0)
    snr_range_db: tuple[float, float] = (-15.0, 40.0)
    level_dbfs: tuple[float, float] = (-28.0, 10.0)
    level_range_dbfs: tuple[float, float] = (-60.0, -3.0)
    dry_share: float = 0.2  # speech that no room is added to
    target_t60: float = 0.3  # seconds; the target's reverberation decays at least so fast
    pause_share: float = 0.5  # clips that are followed by a pause when short ones are put together
    pause_s: tuple[float, float] = (0.1, 1.0)
    speed_share: float = 0.5  # speech played faster or slower, pitch with it
    speed_range: tuple[float, float] = (0.85, 1.15)
    spectral_share: float = 1.0  # random second-order filters on speech and noise
    speech_high_pass_hz: float = 0.0  # what recordings of speech have below this is rumble; 0 leaves it
    rumble_share: float = 0.0  # low-frequency noise added, of wind, traffic, hands and machines …
    rumble_hz: tuple[float, float] = (25.0, 150.0)  # … below a corner drawn from here, evenly in octaves …
    rumble_snr_db: tuple[float, float] = (-10.0, 20.0)  # … so far below the speech
    noise_speed_share: float = 0.0  # noise played faster or slower, pitch with it …
    noise_speed_range: tuple[float, float] = (0.6, 1.6)  # … drawn evenly in octaves
    second_noise_share: float = 0.0  # noise that another one is added to …
    second_noise_db: tuple[float, float] = (-15.0, 0.0)  # … so much louder
    babble_share: float = 0.08  # noise made of several speakers
    babble_voices: tuple[int, int] = (3, 8)
    babble_room_share: float = 0.0  # babble that is heard in a room
    coloured_share: float = 0.05  # noise with a spectrum of 1 / f^a, a = 0 … 2
    clean_share: float = 0.03  # no noise at all
    silent_share: float = 0.02  # no speech at all: the target is silence
    gap_share: float = 0.0  # zeros for a while, at the beginning or later, as where a microphone was muted …
    gap_s: tuple[float, float] = (0.02, 1.0)  # … so long


def active_rms(audio: np.ndarray, frame: int = 320, range_db: float = 40.0) -> float:
    """Root mean square over the frames that are at most `range_db` below the loudest."""
    if len(audio) < frame:
        return float(np.sqrt(np.mean(np.square(audio)))) if len(audio) else 0.0
    power = np.square(audio[: len(audio) // frame * frame].reshape(-1, frame)).mean(1)
    return float(np.sqrt(power[power >= power.max() * 10 ** (-range_db / 10)].mean()))


def mix_at_snr(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """The noise scaled so that active speech is `snr_db` above active noise; silence on either side changes nothing."""
    speech_rms, noise_rms = active_rms(speech), active_rms(noise)
    if not speech_rms or not noise_rms:
        return noise
    return noise * np.float32(speech_rms / noise_rms * 10 ** (-snr_db / 20))


class Mixer(Dataset):
    """An endless data set of (noisy, target) pairs, each (N,) float32.

    Args:
        speech, noise: corpora with their weights; a clip's chance is its length times its corpus' weight.
        rooms: impulse responses that begin at the direct sound; an empty list leaves all speech dry.
        config: the distributions.
        seed: sample `i` depends on nothing but the seed, `i` and the data, so any number of workers gives the same.
        band_limits: for a speech corpus (by position) the frequency in Hz above which it has nothing; the noise that
            is mixed with it is cut off there too, or the net would learn that highs are noise.
    """

    def __init__(
        self,
        speech: list[tuple[Corpus, float]],
        noise: list[tuple[Corpus, float]],
        rooms: list[np.ndarray],
        config: MixConfig,
        seed: int,
        band_limits: dict[int, float] | None = None,
    ) -> None:
        self.speech, self.noise = _Chooser(speech), _Chooser(noise)
        self.rooms, self.config, self.seed = rooms, config, seed
        self.band_limits = band_limits or {}
        self.sample_rate = speech[0][0].sample_rate
        self.length = round(config.seconds * self.sample_rate)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self.seed, index))
        config = self.config
        kind = rng.random()
        silent = kind < config.silent_share
        clean = not silent and kind < config.silent_share + config.clean_share

        speech, corpus = self._speech(rng)
        if rng.random() < config.spectral_share:
            speech = _spectral_augmentation(rng, speech)
        if config.speech_high_pass_hz:
            speech = _high_pass(speech, config.speech_high_pass_hz, self.sample_rate)
        target = speech
        if self.rooms and rng.random() >= config.dry_share:
            room = self.rooms[rng.integers(len(self.rooms))]
            shaped = shape_decay(room, config.target_t60, self.sample_rate)
            speech, target = (self._in_room(speech, response) for response in (room, shaped))
        noise = self._noise(rng)
        if rng.random() < config.spectral_share:
            noise = _spectral_augmentation(rng, noise)
        if corpus in self.band_limits:
            noise = _low_pass(noise, self.band_limits[corpus], self.sample_rate)

        noise = mix_at_snr(speech, noise, _normal(rng, config.snr_db, config.snr_range_db))
        if config.rumble_share and rng.random() < config.rumble_share:
            rumble = _rumble(rng, self.length, config.rumble_hz, self.sample_rate)
            noise = noise + mix_at_snr(speech, rumble, rng.uniform(*config.rumble_snr_db))
        if silent:
            speech, target = np.zeros_like(speech), np.zeros_like(target)
        noisy = speech if clean else speech + noise
        if config.gap_share and rng.random() < config.gap_share:
            gap = self._gap(rng)
            noisy, target = noisy * gap, target * gap
        level = 10 ** (_normal(rng, config.level_dbfs, config.level_range_dbfs) / 20)
        gain = level / max(np.sqrt(np.mean(np.square(noisy))), 1e-9)
        gain = np.float32(min(gain, 0.99 / max(np.abs(noisy).max(), np.abs(target).max(), 1e-9)))
        return noisy * gain, target * gain

    def _speech(self, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """Speech of one corpus, short clips one after the other, each at the same level; and the corpus' position."""
        config = self.config
        corpus = self.speech.corpus(rng)
        speed = rng.uniform(*config.speed_range) if rng.random() < config.speed_share else 1.0
        out = np.zeros(self.length, np.float32)
        at = 0
        while at < self.length:
            wanted = int((self.length - at) * speed) + 64
            clip = _faster(self.speech.segment(rng, corpus, wanted), speed)[: self.length - at]
            out[at : at + len(clip)] = clip / max(active_rms(clip), 1e-4) * 0.05
            at += len(clip)
            if rng.random() < config.pause_share:
                at += int(rng.uniform(*config.pause_s) * self.sample_rate)
        return out, corpus

    def _gap(self, rng: np.random.Generator) -> np.ndarray:
        """(N,) ones, with zeros in one place: half the time at the beginning."""
        length = min(int(rng.uniform(*self.config.gap_s) * self.sample_rate), self.length)
        start = rng.integers(self.length - length + 1) if rng.random() < 0.5 else 0
        gap = np.ones(self.length, np.float32)
        gap[start : start + length] = 0
        return gap

    def _in_room(self, audio: np.ndarray, response: np.ndarray) -> np.ndarray:
        return fftconvolve(audio, response)[: self.length].astype(np.float32)

    def _noise(self, rng: np.random.Generator) -> np.ndarray:
        config = self.config
        kind = rng.random()
        if kind < config.babble_share:
            voices = rng.integers(config.babble_voices[0], config.babble_voices[1] + 1)
            babble = sum(self._speech(rng)[0] * np.float32(rng.uniform(0.5, 1)) for _ in range(voices))
            if self.rooms and config.babble_room_share and rng.random() < config.babble_room_share:
                babble = self._in_room(babble, self.rooms[rng.integers(len(self.rooms))])
            return babble
        if kind < config.babble_share + config.coloured_share:
            return _coloured(rng, self.length)
        noise = self._recorded_noise(rng)
        if config.second_noise_share and rng.random() < config.second_noise_share:
            noise = noise + mix_at_snr(noise, self._recorded_noise(rng), -rng.uniform(*config.second_noise_db))
        return noise

    def _recorded_noise(self, rng: np.random.Generator) -> np.ndarray:
        config, speed = self.config, 1.0
        if config.noise_speed_share and rng.random() < config.noise_speed_share:
            speed = round(float(np.exp(rng.uniform(*np.log(config.noise_speed_range)))), 3)
        parts, missing = [], math.ceil(self.length * speed)
        while missing > 0:
            parts.append(self.noise.segment(rng, self.noise.corpus(rng), missing))
            missing -= len(parts[-1])
        return _faster(np.concatenate(parts), speed)[: self.length]


class _Chooser:
    """Draws clips by length and weight."""

    def __init__(self, corpora: list[tuple[Corpus, float]]) -> None:
        self.corpora = [corpus for corpus, _ in corpora]
        share = np.array([corpus.seconds * weight for corpus, weight in corpora])
        self.share = np.cumsum(share / share.sum())
        self.clips = [np.cumsum(corpus.lengths / corpus.starts[-1]) for corpus in self.corpora]

    def corpus(self, rng: np.random.Generator) -> int:
        return min(int(np.searchsorted(self.share, rng.random())), len(self.corpora) - 1)

    def segment(self, rng: np.random.Generator, corpus: int, length: int) -> np.ndarray:
        """A random clip of the corpus, or a random part of it when it is longer than `length` samples."""
        chosen = self.corpora[corpus]
        index = min(int(np.searchsorted(self.clips[corpus], rng.random())), len(chosen) - 1)
        start, end = chosen.starts[index], chosen.starts[index + 1]
        if end - start > length:
            start = int(rng.integers(start, end - length + 1))
            end = start + length
        return chosen.pcm[start:end].astype(np.float32) / 32768


def _normal(rng: np.random.Generator, mean_std: tuple[float, float], limits: tuple[float, float]) -> float:
    return float(np.clip(rng.normal(*mean_std), *limits))


def _faster(audio: np.ndarray, speed: float) -> np.ndarray:
    return audio if speed == 1 else resample(audio, round(speed * 1000), 1000)


def _spectral_augmentation(rng: np.random.Generator, audio: np.ndarray) -> np.ndarray:
    """H(z) = (1 + r1 z^-1 + r2 z^-2) / (1 + r3 z^-1 + r4 z^-2), r uniform in -3/8 … 3/8 (arXiv 2008.06412)."""
    r = rng.uniform(-3 / 8, 3 / 8, 4)
    return lfilter([1, r[0], r[1]], [1, r[2], r[3]], audio).astype(np.float32)


def _low_pass(audio: np.ndarray, cutoff_hz: float, sample_rate: int) -> np.ndarray:
    return sosfilt(butter(12, cutoff_hz, fs=sample_rate, output="sos"), audio).astype(np.float32)


def _high_pass(audio: np.ndarray, cutoff_hz: float, sample_rate: int) -> np.ndarray:
    return sosfilt(butter(4, cutoff_hz, "highpass", fs=sample_rate, output="sos"), audio).astype(np.float32)


def _rumble(rng: np.random.Generator, length: int, corner_hz: tuple[float, float], sample_rate: int) -> np.ndarray:
    """Noise that falls by 6 to 24 dB an octave above a corner, and swells and fades by some dB within seconds."""
    corner = np.exp(rng.uniform(*np.log(corner_hz)))
    shape = butter(int(rng.integers(1, 5)), corner, fs=sample_rate, output="sos")
    noise = sosfilt(shape, rng.standard_normal(length))
    turns = np.arange(0, length + 8000, 8000)  # one draw each half second
    swell_db = np.interp(np.arange(length), turns, rng.normal(0, rng.uniform(0, 8), len(turns)))
    return (noise * 10 ** (swell_db / 20)).astype(np.float32)


def _coloured(rng: np.random.Generator, length: int) -> np.ndarray:
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum *= np.arange(1, len(spectrum) + 1) ** (-rng.uniform(0, 2) / 2)  # amplitude: half the power's exponent
    noise = np.fft.irfft(spectrum, length)
    return (noise / noise.std() * 0.05).astype(np.float32)


def validation_pairs(
    speech: Corpus, noise: Corpus, count: int, seed: int, seconds: float = 6.0, snr_db: tuple[float, float] = (-5, 15)
) -> list[tuple[np.ndarray, np.ndarray]]:
    """`count` fixed (noisy, clean) pairs: dry speech at -26 dBFS, noise at an SNR drawn evenly from `snr_db`.

    Clips are taken in turn, so that all speakers and all noises are heard before one comes again.
    """
    rng = np.random.default_rng(seed)
    length = round(seconds * speech.sample_rate)
    spoken, noises = rng.permutation(len(speech)), rng.permutation(len(noise))
    pairs = []
    for i in range(count):
        clean = speech[spoken[i % len(speech)]][:length]
        clean = clean * np.float32(0.05 / active_rms(clean))
        clip = noise[noises[i % len(noise)]]
        start = int(rng.integers(max(1, len(clip) - len(clean) + 1)))
        added = mix_at_snr(clean, np.resize(clip[start:], len(clean)), rng.uniform(*snr_db))
        gain = np.float32(min(1, 0.99 / np.abs(clean + added).max()))
        pairs.append(((clean + added) * gain, clean * gain))
    return pairs
