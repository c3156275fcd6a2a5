"""Inputs of ModelScope's pipeline: files, bytes, arrays, rows and nonsense."""

import contextlib
import io
from pathlib import Path

import numpy as np
from fuzz_commands import NAMES, place
from fuzz_common import Models, outcome
from fuzz_sounds import ODD_FLOATS, a_file, counted, mutated

from modelscope_ext.audio import AudioError, read_mono

NONSENSE = [None, 0, 1.5, True, {}, {"noisy": None}, {"array": [[1], [1, 2]]}, {"array": "x", "sampling_rate": 16000}]
NONSENSE += [
    {"array": [0.0] * 9, "sampling_rate": None},
    {"audio": {"array": [0.0] * 9, "sampling_rate": float("inf")}},
]
NONSENSE += [
    "",
    "\0",
    "nothing.wav",
    "ftp://x/y",
    "a://b://c",
    "local://x",
    "oss://b/x.wav",
    "http://127.0.0.1:9/x",
    "://",
]
NONSENSE += [
    "/",
    "/dev/zero",
    "http://[",
    "x" * 300,
    "\udcff",
    b"",
    {"audio": {"bytes": None, "path": None}},
    io.BytesIO(b"x"),
]
NONSENSE += [
    {"audio": 7},
    {"audio": {"noisy": {"noisy": 1}}},
    Path("nothing"),
    {"path": "/"},
    object,
    {"array": 1 + 2j},
]


def pipeline(models: Models, rng: np.random.Generator, folder: Path) -> str:
    wanted, options, kind = None, {}, rng.integers(8)
    if kind <= 2:  # a file: its path, its bytes, a row with them
        suffix, content = a_file(rng)
        path = folder / f"{NAMES[rng.integers(len(NAMES))]}.{suffix}"
        with contextlib.suppress(OSError):
            path.write_bytes(mutated(content, rng))
        given = [str(path), path, path.read_bytes() if path.exists() else b"", {"audio": {"path": str(path)}}][
            rng.integers(4)
        ]
        with contextlib.suppress(AudioError, ValueError):
            wanted = len(read_mono(path, 16000))
    elif kind <= 5:  # an array, or a row with one
        dtype = rng.choice(["f4", "f8", "i2", ">i2", "u1", "f2", "?", "c8", "i8"])
        tail = [(), (), (2,), (0,), (2000,), (2, 2)][rng.integers(6)]
        given = (0.1 * rng.standard_normal((int(rng.integers(960)), *tail))).astype(dtype)
        if given.dtype.kind == "f" and given.size and rng.random() < 0.3:
            with np.errstate(over="ignore"):
                given.flat[rng.integers(given.size)] = ODD_FLOATS[rng.integers(len(ODD_FLOATS))]
        rate = [16000, 16000, 48000, 8000, 44100, 0, -1, 1, 10**7, 16000.5, float("nan"), None, "x"][rng.integers(13)]
        wanted = len(given) if rate == 16000 else None
        if rng.random() < 0.3:
            # The longer axis of a cell is that of the samples.
            wanted = wanted if given.ndim == 1 or not given.size else max(given.shape) if rate == 16000 else None
            given = {"audio": {"array": given, "sampling_rate": rate}}
        else:
            options["sample_rate"] = rate
    elif kind == 6:
        place(rng, folder, rng.choice(["pipe", "socket", "link", "folder"]))
        given = str(next(folder.iterdir(), folder))
    else:
        given = NONSENSE[rng.integers(len(NONSENSE))]
    if rng.random() < 0.2:
        options["output_path"] = str(folder / "new" / rng.choice(["x.wav", "a b\n.wav", "语.wav"]))
    try:
        pcm = models.pipeline(given, **options)["output_pcm"]
    except (ValueError, OSError) as error:
        reason = str(error)
        assert reason
        assert "output_path" not in options or not Path(options["output_path"]).exists()
        return outcome(reason, given if isinstance(given, (str, Path)) and str(given) else folder)
    assert len(pcm) % 2 == 0
    assert wanted is None or len(pcm) // 2 == wanted, (len(pcm) // 2, wanted)
    if "output_path" in options:
        assert counted(Path(options["output_path"])) == len(pcm) // 2
    return "done"
