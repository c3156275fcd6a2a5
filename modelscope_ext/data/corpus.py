"""Folders of audio, decoded once into one file that all data workers share, and random draws from them.

Clips are 16-bit mono at one rate, end to end in `<name>.pcm`, with `<name>.json` beside it.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modelscope_ext.atomic import atomic_write
from modelscope_ext.audio import AudioError, audio_files, find_problem, read_mono
from modelscope_ext.threads import thread_pool

logger = logging.getLogger(__name__)
SHORTEST_S = 0.1


@dataclass(frozen=True)
class Corpus:
    """Clips of one folder.

    pcm: all samples, int16; starts: where each clip begins, and the end, (clips + 1,); names: relative paths;
    left_out: file name and reason of each file that could not be used.
    """

    pcm: np.ndarray
    starts: np.ndarray
    names: list[str]
    left_out: dict[str, str]
    sample_rate: int

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return clip `index` as (N,) float32."""
        return self.pcm[self.starts[index] : self.starts[index + 1]].astype(np.float32) / 32768

    @property
    def lengths(self) -> np.ndarray:
        """Return the samples (clips,) of each clip."""
        return np.diff(self.starts)

    @property
    def seconds(self) -> float:
        """Return the duration of all clips together."""
        return float(self.starts[-1]) / self.sample_rate


def load_corpus(
    folder: str | Path,
    cache: str | Path,
    sample_rate: int = 16000,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Corpus:
    """Load the corpus of a folder. It is decoded into `cache` if it is not there or a file has changed.

    Args:
        folder: searched for audio files of any rate. Channels are averaged.
        cache: folder for the decoded samples of 2 bytes each.
        sample_rate: rate of the corpus in Hz.
        progress: a wrapper of the list of files such as `tqdm`.

    Raises:
        AudioError: no file in the folder is usable.
    """
    folder, cache = Path(folder), Path(cache)
    if not folder.is_dir():
        raise AudioError(f"{folder}: no such folder")
    unreadable: dict[str, str] = {}
    files = audio_files(folder, unreadable)
    facts = [(str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    key = hashlib.sha256(json.dumps([str(folder.resolve()), sample_rate, facts]).encode()).hexdigest()[:16]
    index = cache / f"{folder.name}-{key}.json"
    if not index.exists():
        _decode(folder, files, index, sample_rate, progress)
    found = json.loads(index.read_text())
    left_out = {os.path.relpath(path, folder): reason for path, reason in unreadable.items()} | found["left_out"]
    for name, reason in left_out.items():
        logger.warning("left out %s: %s", folder / name, reason)
    if not found["names"]:
        raise AudioError(f"{folder}: none of its {len(files)} audio files is usable")
    pcm = np.memmap(index.with_suffix(".pcm"), np.int16, "r")
    return Corpus(pcm, np.array(found["starts"]), found["names"], left_out, sample_rate)


def _decode(folder: Path, files: list[Path], index: Path, sample_rate: int, progress: Callable) -> None:
    starts, names, left_out = [0], [], {}
    with atomic_write(index.with_suffix(".pcm")) as half, half.open("wb") as out, thread_pool(2) as pool:
        decoded = pool.map(lambda path: _clip(path, sample_rate), files)
        for path, clip in zip(progress(files), decoded, strict=True):
            name = str(path.relative_to(folder))
            if isinstance(clip, str):
                left_out[name] = clip
                continue
            out.write(clip.tobytes())
            starts.append(starts[-1] + len(clip))
            names.append(name)
    # The index is written last: where it exists, the samples are complete.
    with atomic_write(index) as half:
        half.write_text(json.dumps({"starts": starts, "names": names, "left_out": left_out}))


def _clip(path: Path, sample_rate: int) -> np.ndarray | str:
    """Return the clip as int16 or why it is left out."""
    try:
        audio = read_mono(path, sample_rate)
    except AudioError as error:
        return str(error).removeprefix(f"{path}: ")
    if 0 < len(audio) < SHORTEST_S * sample_rate:
        return f"shorter than {SHORTEST_S} s"
    if problem := find_problem(audio, whole=True):
        return problem
    return np.rint(audio.clip(-1, 32767 / 32768) * 32768).astype(np.int16)


class Chooser:
    """A random choice of clips by length and weight.

    corpora: each with its weight, or with weights of its clips, (clips,).
    """

    def __init__(self, corpora: list[tuple[Corpus, float | np.ndarray]]) -> None:
        self.corpora = [corpus for corpus, _ in corpora]
        clips = [corpus.lengths * np.asarray(weight, float) for corpus, weight in corpora]
        share = np.array([each.sum() for each in clips])
        self.share = np.cumsum(share / share.sum())
        self.clips = [np.cumsum(each / max(each.sum(), 1e-9)) for each in clips]

    def corpus(self, rng: np.random.Generator) -> int:
        """Return the position of a random corpus."""
        return min(int(np.searchsorted(self.share, rng.random())), len(self.corpora) - 1)

    def segment(self, rng: np.random.Generator, corpus: int, length: int) -> np.ndarray:
        """Return a random clip of the corpus or a random part of it when it is longer than `length` samples."""
        chosen = self.corpora[corpus]
        index = min(int(np.searchsorted(self.clips[corpus], rng.random())), len(chosen) - 1)
        start, end = chosen.starts[index], chosen.starts[index + 1]
        if end - start > length:
            start = int(rng.integers(start, end - length + 1))
            end = start + length
        return chosen.pcm[start:end].astype(np.float32) / 32768
