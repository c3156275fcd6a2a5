"""Room impulse responses, simulated and stored or read from a folder, and the shaping of the target's response.

An impulse response is (N,) float32 that begins at its direct sound; a room is a list of responses at its positions.
"""

import itertools
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modelscope_ext.atomic import atomic_write
from modelscope_ext.audio import SAMPLE_RATE, AudioError, audio_files, read_mono

logger = logging.getLogger(__name__)


def simulate_rooms(rng: np.random.Generator, rooms: int, positions: int = 4) -> list[list[np.ndarray]]:
    """Simulate `rooms` random shoebox rooms by the image method with `positions` sources each (pyroomacoustics).

    Sides are 3-10 x 3-8 x 2.4-4 m. Reverberation times are 0.15-0.9 s and distances at least 0.3 m.

    Raises:
        ModuleNotFoundError: pyroomacoustics is missing; it comes with `pip install 'modelscope-ext[train]'`.
    """
    try:
        import pyroomacoustics
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "simulating rooms needs pyroomacoustics: pip install 'modelscope-ext[train]'"
        ) from error
    simulated: list[list[np.ndarray]] = []
    while len(simulated) < rooms:
        sides = rng.uniform((3, 3, 2.4), (10, 8, 4))
        t60 = rng.uniform(0.15, 0.9)
        try:
            absorption, order = pyroomacoustics.inverse_sabine(t60, sides)
        except ValueError:  # no wall absorbs enough for so short a reverberation in so large a room
            continue
        room = pyroomacoustics.ShoeBox(
            sides, fs=SAMPLE_RATE, materials=pyroomacoustics.Material(absorption), max_order=min(order, 40)
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
        simulated.append([align(np.asarray(response, np.float32)) for response in room.rir[0]])
    return simulated


def align(response: np.ndarray) -> np.ndarray:
    """Return the response from its direct sound to where it has fallen by 60 dB. The direct sound becomes one.

    It is the first peak within 12 dB of the strongest: in real rooms a reflection may be stronger.

    Raises:
        AudioError: the response is silent.
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
    """Return an envelope that falls by 60 dB in `t60` seconds: exp(-3 ln 10 t / T60) on amplitude.

    Braun & Tashev write 6 ln 10: 120 dB on amplitude. T60 is by its name the time of 60 dB.
    """
    return np.exp(-3 * np.log(10) / t60 * np.arange(length) / sample_rate).astype(np.float32)


def shape_decay(response: np.ndarray, t60: float = 0.3, sample_rate: int = 16000) -> np.ndarray:
    """Return the response of the same position in a room that decays within `t60` as in the training target."""
    return response * decay(len(response), t60, sample_rate)


def room_name(path: Path) -> str:
    """Return the name of a response's room: its folder and the first two parts of the file name between `_`.

    Channel (`ch0`) and position (`Position2`) and reverberation time (`t165`) are no parts.
    """
    stem = re.sub(r"(_ch\d+|_t\d+|[-_]?pos(ition)?\d+)(?=_|$)", "", path.stem, flags=re.IGNORECASE)
    return (path.parent / "_".join(stem.split("_")[:2])).as_posix()


def load_rooms(
    source: str | Path,
    sample_rate: int = 16000,
    leave_out: Sequence[str] = (),
    problems: dict[str, str] | None = None,
) -> list[list[np.ndarray]]:
    """Load rooms from a folder of audio files (mono each) or from an `.npz` file of `save_rooms`.

    Args:
        source: neighbours in a folder with one `room_name` are one room.
        sample_rate: of the returned responses in Hz.
        leave_out: patterns of paths in the folder as of `Path.match`. These files are not loaded.
        problems: receives the reason for each unusable file by path. None logs them.

    Raises:
        AudioError: the folder has no usable response.
    """
    source = Path(source)
    if source.is_file():
        return _stored_rooms(source)
    rooms, left_out = [], {}
    found = audio_files(source, left_out)
    files = [path for path in found if not any(map(path.relative_to(source).match, leave_out))]
    for _, paths in itertools.groupby(files, room_name):
        responses = []
        for path in paths:
            try:
                responses.append(align(read_mono(path, sample_rate)))
            except AudioError as error:
                left_out[str(path)] = str(error).removeprefix(f"{path}: ")
        rooms += [responses] if responses else []
    if problems is not None:
        problems |= left_out
    for path, reason in left_out.items() if problems is None else ():
        logger.warning("left out %s: %s", path, reason)
    if not rooms:
        raise AudioError(f"{source}: no impulse response in this folder")
    return rooms


def _stored_rooms(path: Path) -> list[list[np.ndarray]]:
    with np.load(path) as data:
        samples, ends = data["samples"].astype(np.float32), data["ends"]
        # Files of older versions have no rooms: there each response is one.
        positions = data["positions"] if "positions" in data else np.ones(len(ends), int)
    responses = iter(np.split(samples, ends[:-1]))
    return [list(itertools.islice(responses, int(count))) for count in positions]


def save_rooms(path: str | Path, rooms: list[list[np.ndarray]]) -> None:
    """Write rooms as 16-bit floats to an `.npz` file that is complete or absent."""
    responses = [response for room in rooms for response in room]
    ends = np.cumsum([len(response) for response in responses])
    positions = [len(room) for room in rooms]
    with atomic_write(path) as half, half.open("wb") as file:
        np.savez(file, samples=np.concatenate(responses).astype(np.float16), ends=ends, positions=positions)
