"""Data sets from pairs of files, an earlier data set or mixtures of speech and noise."""

import csv
import functools
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from modelscope_ext.audio import SAMPLE_RATE, AudioError, audio_files, read_mono
from modelscope_ext.data.corpus import Corpus, load_corpus
from modelscope_ext.data.dataset import SPLITS, Plan, Progress, Row, SplitWriter, Summary, on_grid
from modelscope_ext.data.mixing import MixConfig, Mixer
from modelscope_ext.data.pairs import Pair, check_pairs, match_pairs
from modelscope_ext.data.rooms import load_rooms

#: The folders of mixtures by kind. `rooms` may also be an `.npz` of `save_rooms`, or None for dry speech.
Folders = dict[str, Path | None]


def prepare_pairs(
    noisy_dir: str | Path,
    clean_dir: str | Path,
    out: str | Path,
    split: str = "train",
    *,
    shortest_s: float = 1.0,
    **options: Any,
) -> Summary:
    """Write a split from folders of noisy and clean files of any rate. Channels are averaged.

    Args:
        noisy_dir: folder of noisy files.
        clean_dir: folder of their clean files; see `match_pairs`.
        out: the data set folder.
        split: `train` or `test`.
        shortest_s: shorter pairs are unusable. ModelScope's `to_segment` needs one second.
        **options: `skip_bad`, `rows_per_shard` and `progress` of `SplitWriter`.

    Raises:
        DataError: files have no partner or are unusable (`check_pairs`). The message names them all.
    """
    return _write_pairs({split: match_pairs(noisy_dir, clean_dir)}, out, shortest_s, **options)[0]


def prepare_from_dataset(
    folder: str | Path, out: str | Path, split: str | None = None, **options: Any
) -> list[Summary]:
    """Write the splits of a script-based data set folder from its files without its script.

    Tables `*.csv` or `*.tsv` (commas or tabs) with columns `noisy` and `clean` describe a split. Its name is in that of
    the table or its folder. Paths are relative to the table or to `folder`. Without tables the files of a split are in
    `train/noisy` and `train/clean` or in `test/noisy` and `test/clean`.

    Args:
        folder: the data set with its archives unpacked.
        out: another folder for the new data set.
        split: the only split to write; None for all.
        **options: `skip_bad`, `rows_per_shard` and `progress` of `SplitWriter`.

    Raises:
        ValueError: the folder has no such data set.
        DataError: files are missing or unusable. The message names them all.
    """
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if folder.resolve() == out.resolve():
        raise ValueError(f"{out}: is the data set that is read; choose another folder to write to")
    tables = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".csv", ".tsv"))
    splits = {}
    for name in SPLITS if split is None else (split,):
        pairs, problems = [], {}
        for table in tables:
            if _split_of(table, folder) == name:
                _read_table(table, folder, pairs, problems)
        if not pairs and not problems and all((folder / name / kind).is_dir() for kind in ("noisy", "clean")):
            pairs, problems = match_pairs(folder / name / "noisy", folder / name / "clean")
        if pairs or problems:
            splits[name] = list(dict.fromkeys(pairs)), problems
    if not splits:
        raise ValueError(
            f"{folder}: no data set of a known layout. Expected tables *.csv and *.tsv with columns noisy and clean"
            f" and train or test in their name, or the folders train/noisy, train/clean, test/noisy, test/clean."
            f" Found: {', '.join(sorted(p.name for p in folder.iterdir())[:20]) or 'nothing'}. Unpack archives first."
        )
    return _write_pairs(splits, out, **options)


def prepare_mixtures(
    speech: str | Path,
    noise: str | Path,
    rooms: str | Path | None,
    out: str | Path,
    split: str = "train",
    *,
    hours: float | None = None,
    count: int | None = None,
    config: MixConfig | None = None,
    **options: Any,
) -> Summary:
    """Write a split of mixtures (`modelscope_ext.data.mixing`). The same seed and files give the same bytes.

    Args:
        speech: folder of clean speech.
        noise: folder of noises.
        rooms: folder of impulse responses or an `.npz` of `save_rooms`; None for dry speech.
        out: the data set folder.
        split: `train` or `test`. Each has draws of its own.
        hours: amount in hours.
        count: number of mixtures if `hours` is None.
        config: the distributions. The default is `MixConfig` without silent targets: SI-SNR trains and evaluates FRCRN
            and is not defined for them.
        **options: `seed` of all draws [0]; `skip_bad`, `rows_per_shard` and `progress` of `SplitWriter`.

    Raises:
        DataError: files are unusable. The message names them all.
    """
    config = config or MixConfig(silent_share=0.0)
    if (hours is None) == (count is None):
        raise ValueError("the amount of mixtures is missing or doubled: give hours or count")
    if hours is not None and not math.isfinite(hours):
        raise ValueError(f"hours must be a finite number, got {hours}")
    count = round(hours * 3600 / config.seconds) if count is None else count
    if count < 1:
        raise ValueError(f"need at least one mixture of {config.seconds} s, got hours={hours}, count={count}")
    folders = {"speech": Path(speech), "noise": Path(noise), "rooms": None if rooms is None else Path(rooms)}
    cache = Path(out) / ".decoded"
    try:
        return _write_mixtures(folders, cache, split, count, config, **options)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        if cache.parent.is_dir() and not any(cache.parent.iterdir()):  # nothing was written
            cache.parent.rmdir()


def _write_pairs(
    splits: dict[str, tuple[list[Pair], dict[str, str]]], out: str | Path, shortest_s: float = 1.0, **options: Any
) -> list[Summary]:
    """Write splits from pairs and problems. All splits are checked before one is written."""
    writers = {}
    for split, (pairs, problems) in splits.items():
        files = [file for pair in pairs for file in zip(pair.names, (pair.noisy, pair.clean), strict=True)]
        facts = {"shortest_s": shortest_s, "problems": len(problems), "files": _file_facts(files)}
        writers[split] = SplitWriter(out, split, facts, **options)
        writers[split].plan(lambda progress, split=split: _plan_pairs(*splits[split], shortest_s, progress))

    return [
        writer.write(lambda pairs=splits[split][0]: functools.partial(_read_pair, pairs))
        for split, writer in writers.items()
    ]


def _read_pair(pairs: list[Pair], index: int) -> Row:
    pair = pairs[index]
    noisy, clean = (on_grid(read_mono(path, SAMPLE_RATE)) for path in (pair.noisy, pair.clean))
    length = min(len(noisy), len(clean))
    return Row(noisy[:length], clean[:length], pair.names)


def _plan_pairs(pairs: list[Pair], problems: dict[str, str], shortest_s: float, progress: Progress) -> Plan:
    rows, rates, skipped = [], Counter(), dict(problems)
    for index, checked in enumerate(check_pairs(pairs, SAMPLE_RATE, progress)):
        seconds = checked.samples / SAMPLE_RATE
        if checked.problems:
            skipped |= checked.problems
        elif seconds < shortest_s:
            skipped[str(pairs[index].noisy)] = f"is {seconds:.2f} s long, shorter than {shortest_s} s"
        else:
            rows.append((index, checked.samples))
            rates.update(checked.rates)
    return Plan(rows, dict(rates), skipped)


def _write_mixtures(
    folders: Folders, cache: Path, split: str, count: int, config: MixConfig, seed: int = 0, **options: Any
) -> Summary:
    files = {}
    for kind, folder in folders.items():
        if folder is not None and not folder.is_dir() and not (kind == "rooms" and folder.is_file()):
            raise AudioError(f"{folder}: no such folder")
        inside = [] if folder is None else [folder] if folder.is_file() else audio_files(folder, {})
        files[kind] = _file_facts((path.relative_to(folder).as_posix(), path) for path in inside)
    facts = {"count": count, "seed": seed, "config": asdict(config), "files": files}

    def corpora(progress: Progress = iter) -> list[Corpus]:
        return [load_corpus(folders[kind], cache, SAMPLE_RATE, progress) for kind in ("speech", "noise")]

    def rooms(problems: dict[str, str]) -> list[list[np.ndarray]]:
        return load_rooms(folders["rooms"], SAMPLE_RATE, problems=problems) if folders["rooms"] else []

    def plan(progress: Progress) -> Plan:
        skipped = {
            str(folders[kind] / name): reason
            for kind, corpus in zip(("speech", "noise"), corpora(progress), strict=True)
            for name, reason in corpus.left_out.items()
        }
        rooms(skipped)
        samples = round(config.seconds * SAMPLE_RATE)
        return Plan([(index, samples) for index in range(count)], {}, skipped)

    def reader() -> Callable[[int], Row]:
        speech, noise = ([(corpus, 1.0)] for corpus in corpora())
        mixer = Mixer(speech, noise, rooms({}), config, seed)

        def read(index: int) -> Row:
            noisy, clean = map(on_grid, mixer[index])
            return Row(noisy, clean, (f"mixture_{seed}_{index:07d}",) * 2)

        return read

    writer = SplitWriter(cache.parent, split, facts, **options)
    writer.plan(plan)
    return writer.write(reader)


def _file_facts(names: Iterable[tuple[str, Path]]) -> list[tuple[str, int, int]]:
    """Return name, size and time of files (name, path)."""
    stats = ((name, path.stat()) for name, path in names)
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _split_of(table: Path, folder: Path) -> str | None:
    """Return the split in the name of a table or else in the name of its folder."""
    for part in reversed(table.relative_to(folder).with_suffix("").parts):
        named = [split for split in SPLITS if re.search(rf"(?<![a-z]){split}(?![a-z])", part.lower())]
        if len(named) == 1:
            return named[0]
    return None


def _read_table(table: Path, folder: Path, pairs: list[Pair], problems: dict[str, str]) -> None:
    """Add the pairs of a table and its lines with missing files."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        separator = "\t" if "\t" in file.readline() else ","
        file.seek(0)
        rows = csv.DictReader(file, delimiter=separator, restval="")
        # The headers of ModelScope's tables include the type: noisy:FILE.
        columns = {name.split(":")[0].strip().lower(): name for name in rows.fieldnames or ()}
        if not {"noisy", "clean"} <= columns.keys():
            return
        for row in rows:
            names = [row[columns[kind]].strip() for kind in ("noisy", "clean")]
            paths = [_existing(name, table.parent, folder) for name in names]
            missing = [name or "(no name)" for name, path in zip(names, paths, strict=True) if path is None]
            if missing:
                problems[f"{table}, line {rows.line_num}"] = f"no such file: {', '.join(missing)}"
            else:
                pairs.append(Pair(*paths, tuple(Path(n).name if Path(n).is_absolute() else n for n in names)))


def _existing(name: str, *folders: Path) -> Path | None:
    return next((folder / name for folder in folders if name and (folder / name).is_file()), None)
