"""Data sets of mixtures of speech and noise, drawn once and written."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelscope_ext.audio import AudioError, audio_files, read_mono
from modelscope_ext.data.corpus import Corpus, load_corpus
from modelscope_ext.data.mixing import MixConfig, Mixer
from modelscope_ext.data.rooms import align, load_rooms
from modelscope_ext.data.rows import SAMPLE_RATE, Row, on_grid
from modelscope_ext.data.shards import Plan, Progress, Summary, file_facts, write

__all__ = ["Mixtures", "prepare_mixtures"]


@dataclass(frozen=True)
class Mixtures:
    """Rows mixed from folders of speech and noise (`modelscope_ext.data.mixing`): row i of a seed is always the same.

    speech, noise: folders; rooms: a folder of impulse responses or an `.npz` of `save_rooms`, None leaves the speech
    as dry as it is; count: of rows; cache: folder for the decoded corpora.
    """

    speech: Path
    noise: Path
    rooms: Path | None
    count: int
    seed: int
    config: MixConfig
    cache: Path

    def facts(self) -> dict[str, Any]:
        """See `Source`."""
        files = {}
        for kind in ("speech", "noise", "rooms"):
            folder = getattr(self, kind)
            if folder is not None and not folder.is_dir() and not (kind == "rooms" and folder.is_file()):
                raise AudioError(f"{folder}: no such folder")
            inside = [] if folder is None else [folder] if folder.is_file() else audio_files(folder)
            files[kind] = file_facts((path.relative_to(folder).as_posix(), path) for path in inside)
        return {"count": self.count, "seed": self.seed, "config": asdict(self.config), "files": files}

    def plan(self, progress: Progress) -> Plan:
        """Decodes the corpora; see `Source`."""
        skipped = {
            str(folder / name): reason
            for folder in (self.speech, self.noise)
            for name, reason in self._corpus(folder, progress).left_out.items()
        }
        self._rooms(skipped)
        samples = round(self.config.seconds * SAMPLE_RATE)
        return Plan([(index, samples) for index in range(self.count)], {}, skipped)

    def reader(self) -> Callable[[int], Row]:
        """See `Source`."""
        speech, noise = ([(self._corpus(folder), 1.0)] for folder in (self.speech, self.noise))
        mixer = Mixer(speech, noise, self._rooms({}), self.config, self.seed)

        def read(index: int) -> Row:
            noisy, clean = map(on_grid, mixer[index])
            name = f"mixture_{self.seed}_{index:07d}"
            return Row(noisy, clean, (name, name))

        return read

    def _corpus(self, folder: Path, progress: Progress = iter) -> Corpus:
        return load_corpus(folder, self.cache, SAMPLE_RATE, progress)

    def _rooms(self, skipped: dict[str, str]) -> list[np.ndarray]:
        """The impulse responses; those that are none are added to `skipped`."""
        if self.rooms is None:
            return []
        if self.rooms.is_file():
            return load_rooms(self.rooms, SAMPLE_RATE)
        responses = []
        for path in audio_files(self.rooms):
            try:
                responses.append(align(read_mono(path, SAMPLE_RATE)))
            except AudioError as error:
                skipped[str(path)] = str(error).removeprefix(f"{path}: ")
        if not responses:
            raise AudioError(f"{self.rooms}: no impulse response in this folder")
        return responses


def prepare_mixtures(
    speech: str | Path,
    noise: str | Path,
    rooms: str | Path | None,
    out: str | Path,
    split: str = "train",
    *,
    hours: float | None = None,
    count: int | None = None,
    seed: int = 0,
    config: MixConfig | None = None,
    **options: Any,
) -> Summary:
    """Writes a split of mixtures; see `Mixtures` and `write`. The same seed and files give the same bytes.

    Args:
        speech: folder of clean speech.
        noise: folder of noises.
        rooms: impulse responses, see `Mixtures`, or None.
        out: see `write`.
        split: see `write`.
        hours: how much; or else
        count: how many.
        seed: of all draws; take another one for each split.
        config: the distributions. By default those of `MixConfig`, but no target is silence: SI-SNR, on which the
            recipe trains and by which it is judged, is not defined there.
        **options: see `write`.
    """
    config = config or MixConfig(silent_share=0.0)
    if (hours is None) == (count is None):
        raise ValueError("how much is to be written: give hours or count, one of them")
    count = round(hours * 3600 / config.seconds) if count is None else count
    if count < 1:
        raise ValueError(f"need at least one mixture of {config.seconds} s, got hours={hours}, count={count}")
    folders = Path(speech), Path(noise), None if rooms is None else Path(rooms)
    cache = Path(out) / ".decoded"
    try:
        return write({split: Mixtures(*folders, count, seed, config, cache)}, out, **options)[0]
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        if cache.parent.is_dir() and not any(cache.parent.iterdir()):  # nothing was written
            cache.parent.rmdir()
