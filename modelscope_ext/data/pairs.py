"""Data sets from pairs of audio files: two folders, or an earlier data set with tables or folders of them."""

import csv
import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelscope_ext.audio import AudioError, open_audio, read_mono
from modelscope_ext.data.matching import FilePair, match_pairs
from modelscope_ext.data.rows import SAMPLE_RATE, Row, on_grid
from modelscope_ext.data.shards import SPLITS, THREADS, Plan, Progress, Summary, file_facts, write

__all__ = ["FilePairs", "prepare_from_dataset", "prepare_pairs"]

CHECKED_AT_ONCE = 32  # pairs; Ctrl-C waits for them


@dataclass(frozen=True)
class FilePairs:
    """Rows from pairs of audio files of any rate, channels averaged.

    problems: what was wrong before any file was opened, by name; shortest_s: a shorter pair is unusable. One second is
    what ModelScope's `to_segment` needs.
    """

    pairs: list[FilePair]
    problems: dict[str, str]
    shortest_s: float = 1.0

    def facts(self) -> dict[str, Any]:
        """See `Source`."""
        files = [(name, path) for pair in self.pairs for name, path in zip(pair.names, pair[:2], strict=True)]
        return {"shortest_s": self.shortest_s, "problems": len(self.problems), "files": file_facts(files)}

    def plan(self, progress: Progress) -> Plan:
        """Decodes every file; see `Source`."""
        rows, rates, skipped = [], Counter(), dict(self.problems)
        with ThreadPoolExecutor(THREADS) as pool:
            for start in progress(range(0, len(self.pairs), CHECKED_AT_ONCE)):
                checked = pool.map(self._check, self.pairs[start : start + CHECKED_AT_ONCE])
                for index, (samples, found, problems) in enumerate(checked, start):
                    if problems:
                        skipped.update(problems)
                    else:
                        rows.append((index, samples))
                        rates.update(found)
        return Plan(rows, dict(rates), skipped)

    def _check(self, pair: FilePair) -> tuple[int, list[int], dict[str, str]]:
        """Samples of the row, rates of the files, and what is wrong with them."""
        lengths, rates, problems = [], [], {}
        for path in pair[:2]:
            try:
                audio, rate = _read(path)
            except AudioError as error:
                problems[str(path)] = str(error).removeprefix(f"{path}: ")
                continue
            lengths.append(len(audio))
            rates.append(rate)
            if not len(audio):
                problems[str(path)] = "empty"
            elif audio.min() == audio.max():
                problems[str(path)] = "silent"
        if problems:
            return 0, rates, problems
        if abs(lengths[0] - lengths[1]) > (rates[0] != rates[1]):  # a resampler may round the length
            seconds = [f"{length / SAMPLE_RATE:.4f} s" for length in lengths]
            problems[str(pair.noisy)] = f"is {seconds[0]} long, its clean file {pair.clean} is {seconds[1]}"
        elif min(lengths) < self.shortest_s * SAMPLE_RATE:
            problems[str(pair.noisy)] = f"is {min(lengths) / SAMPLE_RATE:.2f} s long, shorter than {self.shortest_s} s"
        return min(lengths), rates, problems

    def reader(self) -> Callable[[int], Row]:
        """See `Source`."""

        def read(index: int) -> Row:
            pair = self.pairs[index]
            noisy, clean = _read(pair.noisy)[0], _read(pair.clean)[0]
            length = min(len(noisy), len(clean))
            return Row(noisy[:length], clean[:length], pair.names)

        return read


def _read(path: Path) -> tuple[np.ndarray, int]:
    """(N,) float32 at 16 kHz, and the rate of the file."""
    with open_audio(path) as file:
        rate = file.samplerate
    return on_grid(read_mono(path, SAMPLE_RATE)), rate


def prepare_pairs(
    noisy_dir: str | Path,
    clean_dir: str | Path,
    out: str | Path,
    split: str = "train",
    *,
    shortest_s: float = 1.0,
    **options: Any,
) -> Summary:
    """Writes a split from a folder of noisy and one of clean files; see `match_pairs`, `FilePairs` and `write`.

    Unusable is what has no partner, cannot be read, has NaN or infinite samples, is silent, shorter than `shortest_s`
    or not as long as its partner. Any rate will do.
    """
    pairs, problems = match_pairs(noisy_dir, clean_dir)
    return write({split: FilePairs(pairs, problems, shortest_s)}, out, **options)[0]


def prepare_from_dataset(
    folder: str | Path, out: str | Path, split: str | None = None, **options: Any
) -> list[Summary]:
    """Writes the splits of a script-based data set folder anew, from its files; the script is not run.

    Understood are, for each split: tables `*.csv` or `*.tsv` (commas or tabs) with columns `noisy` and `clean`, and
    `train` or `test` in their name or as their folder, whose paths are relative to the table or to `folder`; or the
    folders `train/noisy` and `train/clean`, `test/noisy` and `test/clean`, paired by `match_pairs`.

    Args:
        folder: the data set, its archives unpacked.
        out: another folder; see `write`.
        split: write only this one; None for all that are found.
        **options: see `write`.

    Raises:
        ValueError: nothing of this kind is there; and the errors of `write`.
    """
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if folder.resolve() == out.resolve():
        raise ValueError(f"{out}: is the data set that is read; choose another folder to write to")
    tables = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".csv", ".tsv"))
    sources = {}
    for name in SPLITS if split is None else (split,):
        pairs, problems = [], {}
        for table in tables:
            if _split_of(table, folder) == name:
                _read_table(table, folder, pairs, problems)
        if not pairs and not problems and all((folder / name / kind).is_dir() for kind in ("noisy", "clean")):
            pairs, problems = match_pairs(folder / name / "noisy", folder / name / "clean")
        if pairs or problems:
            sources[name] = FilePairs(list(dict.fromkeys(pairs)), problems)
    if not sources:
        raise ValueError(
            f"{folder}: no data set that is understood. Looked for tables *.csv and *.tsv with columns noisy and clean"
            f" and train or test in their name, and for the folders train/noisy, train/clean, test/noisy, test/clean."
            f" Found: {', '.join(sorted(p.name for p in folder.iterdir())[:20]) or 'nothing'}. Unpack archives first."
        )
    return write(sources, out, **options)


def _split_of(table: Path, folder: Path) -> str | None:
    """The split that the name of a table tells, or else the folder it lies in."""
    for part in reversed(table.relative_to(folder).with_suffix("").parts):
        told = [split for split in SPLITS if re.search(rf"(?<![a-z]){split}(?![a-z])", part.lower())]
        if len(told) == 1:
            return told[0]
    return None


def _read_table(table: Path, folder: Path, pairs: list[FilePair], problems: dict[str, str]) -> None:
    """Adds the pairs of a table, if it has any."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        header = file.readline()
        separator = "\t" if "\t" in header else ","
        # ModelScope's tables tell the type in the header too: noisy:FILE.
        columns = [name.split(":")[0].strip().lower() for name in next(csv.reader([header], delimiter=separator), [])]
        if not {"noisy", "clean"} <= set(columns):
            return
        for number, cells in enumerate(csv.reader(file, delimiter=separator), 2):
            if not cells:
                continue
            row = dict(zip(columns, cells, strict=False))
            names = [row.get(kind, "").strip() for kind in ("noisy", "clean")]
            paths = [_existing(name, table.parent, folder) for name in names]
            missing = [name or "(no name)" for name, path in zip(names, paths, strict=True) if path is None]
            if missing:
                problems[f"{table}, line {number}"] = f"no such file: {', '.join(missing)}"
            else:
                pairs.append(FilePair(*paths, tuple(Path(n).name if Path(n).is_absolute() else n for n in names)))


def _existing(name: str, *folders: Path) -> Path | None:
    return next((folder / name for folder in folders if name and (folder / name).is_file()), None)
