"""Mixtures of held-back speakers, noises and rooms by kind, the same for the same seed.

`mixtures(data_dir, cache)` returns pairs (noisy, clean) of every kind; other benchmarks score them. Training must not
use `valid_speech*`, `valid_noise*` and the responses in `HELD_BACK_ROOMS` (`rooms_left_out` of a configuration).
"""

from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from scipy.signal import fftconvolve

from modelscope_ext.audio import read_mono
from modelscope_ext.data.corpus import load_corpus
from modelscope_ext.data.degrade import clip_peaks, telephone
from modelscope_ext.data.mixing import active_rms, mix_at_snr
from modelscope_ext.data.noises import coloured
from modelscope_ext.data.rooms import align, room_name, shape_decay
from modelscope_ext.data.speakers import speaker_names

RATE = 16000
SNR_DB = 5.0
HELD_BACK_ROOMS = ("StPatricks*", "TerrysTypingRoom*", "EmptyApartmentBedroom*")  # T60 1.4 to 2.1 s
#: Patterns of the files in valid_noise and valid_noise48.
FILES = {
    "music": ("singularity_music/*", "teeworlds_sfx/audio_music_menu*", "sonicpi_samples/samples_loop_mika*"),
    "clicks": ("moodist/things_keyboard*", "teeworlds_sfx/seq_*"),
    "machines": (
        "speech_commands/exercise_bike*",
        "unknown_horizons_sfx/sounds_windmill*",
        "redeclipse_ambience/*machine*",
        "moodist/things_windshield_wipers*",
    ),
    "traffic": ("redeclipse_ambience/ambience_distant_cars*",),
}
ALONE = ("hiss", "machines", "traffic", "music")
KINDS = ("music", "clicks", "machines", "babble", "white", "room", "telephone", "clipped", "-50 dBFS", "clean")


def mixtures(
    data_dir: str | Path, cache: str | Path, count: int = 20, seed: int = 2027, seconds: float = 5.0
) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Return `count` pairs of each of `KINDS`, and of "hiss alone" … with silence as the clean side.

    Noise is 5 dB below the speech, both by `active_rms`. Speech and noise of "room" are at two positions of one room
    and the clean side has the room's first 0.3 s. Clips are taken in turn, so that all speakers and noises occur.
    """
    source = _Source(Path(data_dir), Path(cache), round(seconds * RATE))
    made = {}
    for number, kind in enumerate((*KINDS, *(f"{name} alone" for name in ALONE))):
        rng = np.random.default_rng((seed, number))
        made[kind] = [source.pair(rng, kind, i) for i in range(count)]
    return made


class _Source:
    """Held-back clips and rooms."""

    def __init__(self, data_dir: Path, cache: Path, length: int) -> None:
        self.length = length
        by_speaker: dict[str, list[np.ndarray]] = {}
        for folder in ("valid_speech", "valid_speech48"):
            corpus = load_corpus(data_dir / folder, cache, RATE)
            for i, name in enumerate(speaker_names(corpus, "name")):
                by_speaker.setdefault(name, []).append(corpus[i][:length])
        turns = chain.from_iterable(zip_longest(*by_speaker.values()))
        self.speech = [clip for clip in turns if clip is not None and len(clip) >= 2 * RATE]
        self.noise: dict[str, list[np.ndarray]] = {name: [] for name in (*FILES, "any")}
        for folder in ("valid_noise", "valid_noise48"):
            corpus = load_corpus(data_dir / folder, cache, RATE)
            for i, name in enumerate(map(Path, corpus.names)):
                self.noise["any"].append(corpus[i])
                for kind, patterns in FILES.items():
                    if any(map(name.match, patterns)):
                        self.noise[kind].append(corpus[i])
        rooms: dict[str, list[np.ndarray]] = {}
        for path in sorted((data_dir / "rir").rglob("*.flac")):
            if any(map(path.match, HELD_BACK_ROOMS)):
                rooms.setdefault(room_name(path), []).append(align(read_mono(path, RATE)))
        self.rooms = list(rooms.values())

    def pair(self, rng: np.random.Generator, kind: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        if kind.endswith(" alone"):
            noise = self.noise_of(rng, kind.removesuffix(" alone"), number, self.length)
            return _safe(noise * np.float32(0.03 / active_rms(noise)), np.zeros_like(noise))
        clean = self.speech[number % len(self.speech)]
        clean = clean * np.float32(0.05 / active_rms(clean))
        if kind == "clean":
            return _safe(clean, clean)
        if kind == "room":
            speech, clean, noise = self.in_room(rng, clean, number)
        else:
            speech, noise = clean, self.noise_of(rng, kind, number, len(clean))
        noisy = speech + mix_at_snr(speech, noise, SNR_DB)
        if kind == "telephone":
            noisy, clean = telephone(rng, noisy, clean, RATE)
        elif kind == "clipped":
            noisy = clip_peaks(noisy, 9.0)
        elif kind == "-50 dBFS":
            gain = np.float32(10 ** (-50 / 20) / np.std(noisy))
            noisy, clean = noisy * gain, clean * gain
        return _safe(noisy, clean)

    def noise_of(self, rng: np.random.Generator, kind: str, number: int, length: int) -> np.ndarray:
        """Return noise of a kind; one without files of its own takes all files in turn."""
        if kind == "white":
            return coloured(rng, length, (0.0, 0.0))
        if kind == "hiss":
            return coloured(rng, length, (-0.5, 1.0))
        if kind == "babble":
            return sum(self.voices(rng, number, length))
        clips = self.noise.get(kind, self.noise["any"])
        clip = clips[(number * 7 + 3) % len(clips)] if kind not in self.noise else clips[number % len(clips)]
        start = int(rng.integers(max(1, len(clip) - length + 1)))
        return np.resize(clip[start : start + length], length)

    def voices(self, rng: np.random.Generator, number: int, length: int) -> Iterator[np.ndarray]:
        for other in rng.choice(np.arange(1, 20), int(rng.integers(4, 8)), replace=False):
            voice = self.speech[(number + other) % len(self.speech)]
            yield np.roll(np.resize(voice, length), rng.integers(length)) / np.float32(active_rms(voice))

    def in_room(self, rng: np.random.Generator, clean: np.ndarray, number: int) -> tuple[np.ndarray, ...]:
        room = self.rooms[number % len(self.rooms)]
        here, there = (room[i] for i in rng.choice(len(room), 2, replace=False))
        before = len(there)
        noise = self.noise_of(rng, "room", number, len(clean) + before)
        noise = fftconvolve(noise, there)[before : before + len(clean)].astype(np.float32)
        speech, target = (
            fftconvolve(clean, response)[: len(clean)].astype(np.float32) for response in (here, shape_decay(here))
        )
        gain = np.float32(0.05 / active_rms(speech))
        return speech * gain, target * gain, noise


def _safe(noisy: np.ndarray, clean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both with peaks of at most 0.99."""
    gain = np.float32(min(1, 0.99 / max(np.abs(noisy).max(), np.abs(clean).max())))
    return noisy * gain, clean * gain
