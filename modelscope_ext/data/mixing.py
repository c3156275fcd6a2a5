"""Noisy and clean training pairs, made on the fly: sample `i` of a seed is always the same.

Braun & Tashev, arXiv 2008.06412, and Braun et al., ICASSP 2021, figure 4. Signals are (N,) float32 at one rate.
"""

import math

import numpy as np
from scipy.signal import fftconvolve
from torch.utils.data import Dataset

from modelscope_ext.audio import resample
from modelscope_ext.data import degrade
from modelscope_ext.data.corpus import Chooser, Corpus
from modelscope_ext.data.mix_config import MixConfig
from modelscope_ext.data.noises import click_train, coloured, rumble
from modelscope_ext.data.rooms import shape_decay

NOISE_KINDS = ("music", "impact")


def active_rms(audio: np.ndarray, frame: int = 320, range_db: float = 40.0) -> float:
    """Return the root mean square over the frames that are at most `range_db` below the loudest."""
    if len(audio) < frame:
        return float(np.sqrt(np.mean(np.square(audio)))) if len(audio) else 0.0
    power = np.square(audio[: len(audio) // frame * frame].reshape(-1, frame)).mean(1)
    return float(np.sqrt(power[power >= power.max() * 10 ** (-range_db / 10)].mean()))


def mix_at_snr(speech: np.ndarray, noise: np.ndarray, snr_db: float, noise_range_db: float = 40.0) -> np.ndarray:
    """Return the noise scaled so that active speech is `snr_db` above active noise; silence scales nothing.

    Noise is active in the frames that are at most `noise_range_db` below its loudest.
    """
    speech_rms, noise_rms = active_rms(speech), active_rms(noise, range_db=noise_range_db)
    if not speech_rms or not noise_rms:
        return noise
    return noise * np.float32(speech_rms / noise_rms * 10 ** (-snr_db / 20))


class Mixer(Dataset):
    """An endless data set of (noisy, target) pairs, each (N,) float32.

    Speech and noise meet in a room; then come level, offset, clipping, band and codec, in a device's order.

    Args:
        speech, noise: corpora with their weights, or with weights of their clips, (clips,); a clip's chance is its
            length times its weight.
        rooms: rooms of several impulse responses each, or responses, each of a room of its own, that begin at the
            direct sound; an empty list leaves all speech dry.
        config: the distributions.
        seed: sample `i` depends on nothing but the seed, `i` and the data, so any number of workers gives the same.
        band_limits: for a speech corpus (by position) the frequency in Hz above which it has nothing; the noise that
            is mixed with it is cut off there too, or the net would learn that highs are noise.
        noise_kinds: for a noise corpus (by position) "music" or "impact"; only `music_share` and `impact_share` draw
            from these.

    Raises:
        ValueError: a kind is unknown, its share has no corpus, or the shares of noises exceed one.
    """

    def __init__(
        self,
        speech: list[tuple[Corpus, float | np.ndarray]],
        noise: list[tuple[Corpus, float | np.ndarray]],
        rooms: list[np.ndarray] | list[list[np.ndarray]],
        config: MixConfig,
        seed: int,
        band_limits: dict[int, float] | None = None,
        noise_kinds: dict[int, str] | None = None,
    ) -> None:
        self.speech, self.config, self.seed = Chooser(speech), config, seed
        self.noise, self.special = _by_kind(noise, noise_kinds or {}, config)
        grouped = [room if isinstance(room, list) else [room] for room in rooms]
        self.responses = [response for room in grouped for response in room]
        self.room = np.repeat(np.arange(len(grouped)), [len(room) for room in grouped])
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
            speech = degrade.spectral_augmentation(rng, speech)
        if config.speech_high_pass_hz:
            speech = degrade.high_pass(speech, config.speech_high_pass_hz, self.sample_rate)
        target, position = speech, None
        if self.responses and rng.random() >= config.dry_share:
            position = int(rng.integers(len(self.responses)))
            room = self.responses[position]
            shaped = shape_decay(room, config.target_t60, self.sample_rate)
            speech, target = self._in_room(speech, np.stack((room, shaped)))
        noise = self._scaled_noise(rng, speech, corpus, position)
        if silent:
            speech, target = np.zeros_like(speech), np.zeros_like(target)
        noisy = speech if clean else speech + noise
        if _happens(rng, config.gap_share):
            gap = self._gap(rng)
            noisy, target = noisy * gap, target * gap
        if config.level_uniform:
            level = rng.uniform(*config.level_range_dbfs)
        else:
            level = _normal(rng, config.level_dbfs, config.level_range_dbfs)
        gain = 10 ** (level / 20) / max(np.sqrt(np.mean(np.square(noisy))), 1e-9)
        gain = np.float32(min(gain, _headroom(noisy, target)))
        return self._device(rng, noisy * gain, target * gain)

    def _speech(self, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """Return speech of one corpus and the corpus' position. Short clips come in turn at the same level."""
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
        """Return (N,) ones with zeros in one place: half the time at the beginning."""
        length = min(int(rng.uniform(*self.config.gap_s) * self.sample_rate), self.length)
        start = rng.integers(self.length - length + 1) if rng.random() < 0.5 else 0
        gap = np.ones(self.length, np.float32)
        gap[start : start + length] = 0
        return gap

    def _device(self, rng: np.random.Generator, noisy: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the pair as a device records it: offset, clipping, then band and codec."""
        config, recorded = self.config, noisy
        if _happens(rng, config.dc_share):
            noisy = noisy + degrade.dc_offset(rng, config.dc_range)
        if _happens(rng, config.clip_share):
            noisy = degrade.clip_peaks(noisy, rng.uniform(*config.clip_db))
        if _happens(rng, config.telephone_share):
            noisy, target = degrade.telephone(rng, noisy, target, self.sample_rate)
        else:
            if _happens(rng, config.low_pass_share):
                cutoff, order = round(rng.uniform(*config.low_pass_hz), -2), int(rng.integers(2, 17))
                noisy, target = (degrade.low_pass(each, cutoff, self.sample_rate, order) for each in (noisy, target))
            if _happens(rng, config.codec_share):
                noisy = degrade.code(rng, noisy, self.sample_rate, config.mp3_kbps, config.opus_kbps)
        if noisy is recorded:
            return noisy, target
        gain = np.float32(min(1.0, _headroom(noisy, target)))
        return noisy * gain, target * gain

    def _in_room(self, audio: np.ndarray, responses: np.ndarray) -> np.ndarray:
        """Return the audio (P, N) of a source (N,) at positions (P, M) of a room."""
        return fftconvolve(audio[None], responses, axes=1)[:, : self.length].astype(np.float32)

    def _scaled_noise(
        self, rng: np.random.Generator, speech: np.ndarray, corpus: int, position: int | None
    ) -> np.ndarray:
        """Return all noise at its level below the speech at a position in a room (None: dry)."""
        config = self.config
        noise, impacts = self._noise(rng, position)
        if rng.random() < config.spectral_share:
            noise = degrade.spectral_augmentation(rng, noise)
        if corpus in self.band_limits:
            noise = degrade.low_pass(noise, self.band_limits[corpus], self.sample_rate)
        if impacts:  # their frames within 20 dB: neither pauses nor a recording's background count
            noise = mix_at_snr(speech, noise, rng.uniform(*config.impact_snr_db), noise_range_db=20)
        else:
            noise = mix_at_snr(speech, noise, _normal(rng, config.snr_db, config.snr_range_db))
        if _happens(rng, config.rumble_share):
            low = rumble(rng, self.length, config.rumble_hz, self.sample_rate)
            noise = noise + mix_at_snr(speech, low, rng.uniform(*config.rumble_snr_db))
        return noise

    def _noise(self, rng: np.random.Generator, position: int | None) -> tuple[np.ndarray, bool]:
        """Return noise of a random kind and if it is a train of impacts."""
        config = self.config
        kind = rng.random() - config.babble_share
        if kind < 0:
            return self._babble(rng, position), False
        if (kind := kind - config.coloured_share) < 0:
            return coloured(rng, self.length, config.coloured_exponent), False
        if (kind := kind - config.music_share) < 0:
            return self._placed_noise(rng, position, "music"), False
        if kind - config.impact_share < 0:
            return self._placed_noise(rng, position, "impact"), True
        noise = self._placed_noise(rng, position)
        if _happens(rng, config.second_noise_share):
            second = self._placed_noise(rng, position)
            noise = noise + mix_at_snr(noise, second, -rng.uniform(*config.second_noise_db))
        return noise, False

    def _babble(self, rng: np.random.Generator, position: int | None) -> np.ndarray:
        config = self.config
        voices = rng.integers(config.babble_voices[0], config.babble_voices[1] + 1)
        babble = sum(self._speech(rng)[0] * np.float32(rng.uniform(0.5, 1)) for _ in range(voices))
        if self.responses and _happens(rng, config.babble_room_share):
            return self._in_room(babble, self._response_for_noise(rng, position)[None])[0]
        return babble

    def _response_for_noise(self, rng: np.random.Generator, position: int | None) -> np.ndarray:
        """Return a response of another position in the speech's room or of another room or, at last, any."""
        candidates: np.ndarray = np.empty(0)
        if position is not None and self.config.same_room_share:
            near = self.room == self.room[position]
            if rng.random() < self.config.same_room_share:
                near[position] = False
                candidates = np.flatnonzero(near)
            if not len(candidates):
                candidates = np.flatnonzero(self.room != self.room[position])
        if len(candidates):
            return self.responses[candidates[rng.integers(len(candidates))]]
        return self.responses[rng.integers(len(self.responses))]

    def _placed_noise(self, rng: np.random.Generator, position: int | None, kind: str | None = None) -> np.ndarray:
        """Return recorded noise or music or impacts. In a room they began before the mixture."""
        config = self.config
        response = np.ones(1, np.float32)
        if self.responses and _happens(rng, config.noise_room_share):
            response = self._response_for_noise(rng, position)
        before = min(len(response) - 1, self.sample_rate)  # of later reverberation there is little
        length = self.length + before
        corpora = self.special.get(kind, self.noise)
        if kind == "impact" and (kind not in self.special or rng.random() < config.synthetic_impact_share):
            noise = click_train(rng, length, self.sample_rate)
        else:
            noise = self._recorded_noise(rng, corpora, length)
        if not before:
            return noise
        return fftconvolve(noise, response[:length])[before:length].astype(np.float32)

    def _recorded_noise(self, rng: np.random.Generator, corpora: Chooser, length: int) -> np.ndarray:
        config, speed = self.config, 1.0
        if _happens(rng, config.noise_speed_share):
            speed = round(float(np.exp(rng.uniform(*np.log(config.noise_speed_range)))), 3)
        parts, missing = [], math.ceil(length * speed)
        while missing > 0:
            parts.append(corpora.segment(rng, corpora.corpus(rng), missing))
            missing -= len(parts[-1])
        return _faster(np.concatenate(parts), speed)[:length]


def _by_kind(noise: list, kinds: dict[int, str], config: MixConfig) -> tuple[Chooser, dict[str, Chooser]]:
    """Return the choosers of the noise without a kind and of each kind."""
    if unknown := sorted(set(kinds.values()) - set(NOISE_KINDS)):
        raise ValueError(f"unknown kind of noise {unknown[0]!r}; known are {', '.join(NOISE_KINDS)}")
    special = config.music_share + config.impact_share
    if special and config.babble_share + config.coloured_share + special > 1 + 1e-9:
        raise ValueError("babble_share, coloured_share, music_share and impact_share exceed 1 together")
    sorted_out: dict[str | None, list] = {}
    for i, each in enumerate(noise):
        sorted_out.setdefault(kinds.get(i), []).append(each)
    if None not in sorted_out:
        raise ValueError("all noise corpora are music or impacts; one without a kind is needed")
    if config.music_share and "music" not in sorted_out:
        raise ValueError('music_share needs a noise corpus of kind "music"')
    choosers = {kind: Chooser(corpora) for kind, corpora in sorted_out.items()}
    return choosers.pop(None), choosers


def _happens(rng: np.random.Generator, share: float) -> bool:
    """Return true in `share` of all calls; a share of zero draws nothing."""
    return share > 0 and rng.random() < share


def _headroom(noisy: np.ndarray, target: np.ndarray) -> float:
    """Return the gain that takes the higher peak to 0.99."""
    return 0.99 / max(np.abs(noisy).max(), np.abs(target).max(), 1e-9)


def _normal(rng: np.random.Generator, mean_std: tuple[float, float], limits: tuple[float, float]) -> float:
    return float(np.clip(rng.normal(*mean_std), *limits))


def _faster(audio: np.ndarray, speed: float) -> np.ndarray:
    return audio if speed == 1 else resample(audio, round(speed * 1000), 1000)


def validation_pairs(
    speech: Corpus, noise: Corpus, count: int, seed: int, seconds: float = 6.0, snr_db: tuple[float, float] = (-5, 15)
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return `count` fixed (noisy, clean) pairs of dry speech at -26 dBFS with an SNR drawn evenly from `snr_db`.

    Clips are taken in turn: all speakers and all noises come once before one comes again.
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
