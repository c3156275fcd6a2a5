"""libFuzzer's sound files through `Denoiser.file`, guided by which lines of the package and of soundfile they reach.

    pip install -e '.[test,fuzz]' && python tests/robustness/fuzz_files.py CORPUS -runs=10000 -seed=1

CORPUS is a folder that grows; when it is new it begins with files as libsndfile writes them. A broken promise leaves
the input behind as `crash-…`; `python tests/robustness/fuzz_files.py crash-…` repeats it. libsndfile itself is not
instrumented.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["modelscope_ext", "soundfile"]):
    import soundfile  # noqa: F401

    import modelscope_ext.inference.denoiser  # noqa: F401

import numpy as np
import torch
from fuzz_common import Models
from fuzz_sounds import KINDS, SUFFIX, check_file, mutated, seed_file

torch.set_num_threads(1)
SUFFIXES = sorted({SUFFIX.get(name, name.lower()) for name, _ in KINDS})
work = Path(tempfile.mkdtemp())
models = Models(work)


def begin(corpus: Path) -> None:
    """Fill a corpus: a byte for the suffix, then the file."""
    corpus.mkdir(parents=True, exist_ok=True)
    for number, kind in enumerate(KINDS if not any(corpus.iterdir()) else ()):
        for length in (0, 1, 161, 960):
            if content := seed_file(kind, 16000, 1 + number % 2, length):
                suffix = SUFFIXES.index(SUFFIX.get(kind[0], kind[0].lower()))
                (corpus / f"{number}-{length}").write_bytes(bytes([suffix]) + content)


def mutate(data: bytes, longest: int, seed: int) -> bytes:
    """Half the time as sound files are spoilt, half the time as libFuzzer does."""
    if seed % 2:
        return atheris.Mutate(data, longest)
    return (data[:1] + mutated(data[1:], np.random.default_rng(seed)))[:longest]


def one(data: bytes) -> None:
    if data:
        suffix = SUFFIXES[data[0] % len(SUFFIXES)]
        with tempfile.TemporaryDirectory(dir=work) as folder:
            source = Path(folder, f"in.{suffix}")
            source.write_bytes(data[1:])
            check_file(models.denoiser.file, source, Path(folder, f"out.{suffix if data[0] < 128 else 'wav'}"))


if __name__ == "__main__":
    folders = [Path(given) for given in sys.argv[1:] if not given.startswith("-")]
    if folders and not folders[0].is_file():
        begin(folders[0])
    atheris.Setup([*sys.argv, "-max_len=20000", "-timeout=120", "-rss_limit_mb=4096"], one, custom_mutator=mutate)
    atheris.Fuzz()
