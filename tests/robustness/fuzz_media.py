"""Containers as FFmpeg writes them, with a few faults: what is lost is an error or a warning.

An amr file stores no length: one that ends between two frames is whole.
"""

import functools
import io
import logging
import subprocess
import tempfile
import time
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from fuzz_common import Models, outcome
from fuzz_sounds import mutated

from modelscope_ext.audio import AudioError, open_audio

EXAMPLE = Path(__file__).parents[2] / "examples" / "noisy.wav"
#: Seconds that one file may take.
MOST_S = 10.0
#: Seconds that may be missing without a word: less than a frame of any codec.
SLACK_S = 0.1
VIDEO = ["-f", "lavfi", "-i", "testsrc=s=64x64:r=10:d=1", "-map", "1", "-map", "0", "-c:v", "mpeg4"]
KINDS = [
    ("a.m4a", "-ar", "44100"),
    ("b.m4a", "-c:a", "alac"),
    ("c.mp4", *VIDEO),
    ("d.mp4", *VIDEO, "-movflags", "+frag_keyframe+empty_moov"),
    ("e.mkv", *VIDEO, "-c:a", "aac"),
    ("f.mkv", "-c:a", "libopus"),
    ("g.mkv", "-c:a", "pcm_s16le"),
    ("h.webm", "-c:a", "libopus"),
    ("i.webm", "-c:a", "libopus", "-cluster_time_limit", "200"),
    ("j.amr", "-ar", "8000", "-b:a", "12.2k"),
    ("k.amr", "-ar", "8000", "-b:a", "4.75k"),
    ("l.mp3", "-ar", "44100", "-b:a", "64k"),
    ("m.mp3", "-q:a", "4", "-write_xing", "0"),
    ("n.mp3", "-ar", "22050", "-b:a", "24k"),
]


@functools.cache
def seed_file(kind: tuple[str, ...]) -> tuple[bytes, float]:
    """Return a file of a second and the seconds that are read of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, kind[0])
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(),
            "-v",
            "error",
            "-ss",
            "1",
            "-i",
            EXAMPLE,
            *kind[1:],
            "-t",
            "1",
            path,
        ]
        subprocess.run(command, check=True)
        content = path.read_bytes()
    seconds, warnings = read(content)
    assert not warnings
    return content, seconds


def read(content: bytes) -> tuple[float, list[str]]:
    """Return the seconds that are read of a file and the warnings."""
    warnings: list[str] = []
    handler, logger = logging.Handler(), logging.getLogger("modelscope_ext")
    handler.emit = lambda record: warnings.append(record.getMessage())
    logger.addHandler(handler)
    try:
        with open_audio(io.BytesIO(content)) as file:
            return sum(map(len, file.blocks(1.0))) / file.sample_rate, warnings
    finally:
        logger.removeHandler(handler)


def media(models: Models, rng: np.random.Generator, folder: Path) -> str:
    kind = KINDS[rng.integers(len(KINDS))]
    content, whole = seed_file(kind)
    changed = mutated(content, rng)
    start = time.monotonic()
    try:
        seconds, warnings = read(changed)
    except AudioError as error:
        return outcome(str(error))
    finally:
        assert time.monotonic() - start < MOST_S, f"{kind[0]}: {time.monotonic() - start:.1f} s"
    if warnings:
        return "done with a warning"
    if seconds >= whole - SLACK_S:
        return "done"
    parts = [content[at : at + 16] for at in range(0, 512, 16)]
    if not any(part in changed[:2048] for part in parts if len(set(part)) > 8):
        return "done: the faults left another file"
    assert kind[0].endswith(".amr"), f"{kind[0]}: {seconds:.2f} of {whole:.2f} s without a word"
    return "done: less of an amr file"
