"""Room impulse responses: simulated once and kept in a file, or read from a folder; and the target's shaping.

An impulse response is (N,) float32 that begins at its direct sound.
"""

import logging
from pathlib import Path

import numpy as np

from modelscope_ext.atomic import atomic_write
from modelscope_ext.audio import AudioError, audio_files, read_mono

__all__ = ["align", "decay", "load_rooms", "save_rooms", "shape_decay", "simulate_rooms"]

logger = logging.getLogger(__name__)


def simulate_rooms(
    rng: np.random.Generator, rooms: int, positions: int = 4, sample_rate: int = 16000, max_order: int = 40
) -> list[np.ndarray]:
    """Image-method responses of `rooms` random shoebox rooms, `positions` sources in each (pyroomacoustics).

    Sides are 3-10 x 3-8 x 2.4-4 m, reverberation times 0.15-0.9 s, distances from 0.3 m.

    Raises:
        ModuleNotFoundError: pyroomacoustics is missing; it comes with `pip install 'modelscope-ext[train]'`.
    """
    try:
        import pyroomacoustics
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "simulating rooms needs pyroomacoustics: pip install 'modelscope-ext[train]'"
        ) from error
    responses = []
    while len(responses) < rooms * positions:
        sides = rng.uniform((3, 3, 2.4), (10, 8, 4))
        t60 = rng.uniform(0.15, 0.9)
        try:
            absorption, order = pyroomacoustics.inverse_sabine(t60, sides)
        except ValueError:  # no wall absorbs enough for so short a reverberation in so large a room
            continue
        room = pyroomacoustics.ShoeBox(
            sides, fs=sample_rate, materials=pyroomacoustics.Material(absorption), max_order=min(order, max_order)
        )
        microphone = rng.uniform(0.3, sides - 0.3)
        room.add_microphone(microphone)
        placed = 0
        while placed < positions:
            source = rng.uniform(0.3, sides - 0.3)
            if np.linalg.norm(source - microphone) >= 0.3:
                room.add_source(source)
                placed += 1
        room.compute_rir()
        responses += [align(np.asarray(response, np.float32)) for response in room.rir[0]]
    return responses


def align(response: np.ndarray) -> np.ndarray:
    """The response from its direct sound on, up to where it has fallen by 60 dB, its direct sound scaled to one.

    The direct sound is the first peak within 12 dB of the strongest: in real rooms a reflection may be stronger.
    """
    strength = np.abs(response)
    if not strength.any():
        raise AudioError("the impulse response is silent")
    onset = int(np.argmax(strength >= strength.max() / 4))
    onset += int(np.argmax(strength[onset : onset + 16]))
    response = response[onset:]
    tail = np.cumsum(np.square(response[::-1], dtype=np.float64))[::-1]
    end = int(np.searchsorted(-tail, -tail[0] * 1e-6))
    return (response[: max(end, 1)] / response[0]).astype(np.float32)


def decay(length: int, t60: float = 0.3, sample_rate: int = 16000) -> np.ndarray:
    """An envelope that falls by 60 dB in `t60` seconds: exp(-3 ln 10 t / T60) on amplitude.

    Braun & Tashev write 6 ln 10, which on amplitude is 120 dB; 60 dB in T60 is what the name means.
    """
    return np.exp(-3 * np.log(10) / t60 * np.arange(length) / sample_rate).astype(np.float32)


def shape_decay(response: np.ndarray, t60: float = 0.3, sample_rate: int = 16000) -> np.ndarray:
    """The response of the same place in a room that decays within `t60`: what the training target has."""
    return response * decay(len(response), t60, sample_rate)


def load_rooms(source: str | Path, sample_rate: int = 16000) -> list[np.ndarray]:
    """Responses of a folder of audio files (mono each), or of an `.npz` file that `save_rooms` wrote."""
    source = Path(source)
    if source.is_file():
        with np.load(source) as data:
            samples, ends = data["samples"].astype(np.float32), data["ends"]
        return np.split(samples, ends[:-1])
    responses = []
    for path in audio_files(source):
        try:
            responses.append(align(read_mono(path, sample_rate)))
        except AudioError as error:
            logger.warning("left out %s", error)
    if not responses:
        raise AudioError(f"{source}: no impulse response in this folder")
    return responses


def save_rooms(path: str | Path, responses: list[np.ndarray]) -> None:
    """Writes responses to an `.npz` file, 16-bit floats, whole or not at all."""
    ends = np.cumsum([len(response) for response in responses])
    with atomic_write(path) as half, half.open("wb") as file:
        np.savez(file, samples=np.concatenate(responses).astype(np.float16), ends=ends)
