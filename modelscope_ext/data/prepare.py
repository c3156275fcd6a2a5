"""Data set folders for training and evaluation, as `datasets.load_dataset` and `MsDataset.load` read them.

A folder holds Parquet shards, `train/*.parquet` and `test/*.parquet`, and a README.md that declares the configurations
`train` and `test`. A row is a pair: `noisy` and `clean`, each a struct of `array` ((N,) float32 at 16 kHz),
`sampling_rate` and `path`, and `duration` in seconds. That is no `Audio` column: reading it needs no audio decoder, and
ModelScope's own `to_segment` takes it. Samples lie on the 16-bit grid, which halves the files, and are never clipped.

This module is imported whenever the command line starts; all that takes time to import is imported where it is used.
"""

import csv
import functools
import hashlib
import itertools
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import argparse

    import numpy as np
    import pyarrow

    from modelscope_ext.data.corpus import Corpus
    from modelscope_ext.data.mixing import MixConfig

__all__ = [
    "DataError",
    "FilePair",
    "FilePairs",
    "Mixtures",
    "Plan",
    "Row",
    "Source",
    "Summary",
    "add_command",
    "match_pairs",
    "prepare_from_dataset",
    "prepare_mixtures",
    "prepare_pairs",
    "write",
]

SAMPLE_RATE = 16000
SPLITS = ("train", "test")
ROWS_PER_SHARD = 500
SAMPLES_PER_SHARD = 25_000_000  # of each column: 26 minutes, 200 MB decoded
ROWS_PER_GROUP, SAMPLES_PER_GROUP = 36, 4_000_000  # what is in memory at once, here and in whoever reads
CHECKED_AT_ONCE = 32  # pairs; Ctrl-C waits for them
THREADS = 2

Progress = Callable[[Iterable], Iterable]


class DataError(ValueError):
    """Files that cannot be used: `problems` holds the reason for each, by name; the message lists them all."""

    def __init__(self, problems: dict[str, str]) -> None:
        lines = [f"  {name}: {reason}" for name, reason in problems.items()]
        advice = "mend them, or leave these out with --skip-bad (skip_bad=True)"
        super().__init__("\n".join((f"{len(problems)} problems in the data; {advice}:", *lines)))
        self.problems = problems


class Row(NamedTuple):
    """noisy, clean: (N,) float32 at 16 kHz, of one length; names: what `path` will say of each."""

    noisy: "np.ndarray"
    clean: "np.ndarray"
    names: tuple[str, str]


@dataclass(frozen=True)
class Plan:
    """What a split will hold, known before a byte is written.

    rows: (index in the source, samples) of each row; rates: how many files have which rate, in Hz;
    skipped: what was found unusable, and why.
    """

    rows: list[tuple[int, int]]
    rates: dict[int, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


class Source(Protocol):
    """Where rows come from."""

    def facts(self) -> dict[str, Any]:
        """All that the rows depend on, for JSON: settings; names, sizes and times of files."""

    def plan(self, progress: Progress) -> Plan:
        """Looks at all of the data."""

    def reader(self) -> Callable[[int], Row]:
        """A function from an index of the plan to its row; called from several threads."""


@dataclass(frozen=True)
class Summary:
    """What a split holds; `str` of it is for people.

    shards_written counts those of this run, the others were there; durations are in seconds.
    """

    folder: Path
    rows: int
    hours: float
    shortest_s: float
    longest_s: float
    shards: int
    shards_written: int
    rates: dict[int, int]
    skipped: dict[str, str]

    def __str__(self) -> str:
        lines = [
            f"{self.folder}: {self.rows} rows of {self.shortest_s:.1f} … {self.longest_s:.1f} s, {self.hours:.2f} h,"
            f" in {self.shards} shards, {self.shards_written} of them written now"
        ]
        others = [f"{count} files of {rate} Hz" for rate, count in sorted(self.rates.items()) if rate != SAMPLE_RATE]
        if others:
            lines.append(f"resampled to {SAMPLE_RATE} Hz: {', '.join(others)}")
        if self.skipped:
            lines.append(f"left out {len(self.skipped)}:")
            lines += [f"  {name}: {reason}" for name, reason in self.skipped.items()]
        return "\n".join(lines)


# Writing -------------------------------------------------------------------------------------------------------------


def write(
    source: Source,
    out: str | Path,
    split: str = "train",
    *,
    skip_bad: bool = False,
    rows_per_shard: int = ROWS_PER_SHARD,
    progress: Progress = iter,
) -> Summary:
    """Writes a split of a data set folder, or what an earlier run left of it.

    Shards grow in `out/.<split>.half`, each whole or not at all; the folder gets its name when all are there. Killed
    and started again, it goes on after the last whole shard and ends with the same bytes.

    Args:
        source: of the rows.
        out: the data set folder; may hold the other split already.
        split: `train` or `test`.
        skip_bad: leave unusable data out and say so in the summary; else they are an error and nothing is written.
        rows_per_shard: at most; a shard also ends after 26 minutes.
        progress: wraps the list of what is done one by one, `tqdm` for example.

    Raises:
        DataError: something is unusable; all of it is named.
        ValueError: the split was written from other data or with other settings, or `out` is no data set folder.
    """
    key, plan = _look(source, out, split, skip_bad, rows_per_shard, progress)
    return _write(source, out, split, key, plan, rows_per_shard, progress)


def _look(
    source: Source, out: str | Path, split: str, skip_bad: bool, rows_per_shard: int, progress: Progress
) -> tuple[str, Plan]:
    """What is to be written, and the digest of all that it depends on."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if rows_per_shard < 1:
        raise ValueError(f"rows_per_shard must be at least 1, got {rows_per_shard}")
    readme = Path(out, "README.md")
    if readme.exists() and _SIGNATURE not in readme.read_text("utf-8", "replace"):
        raise ValueError(f"{readme}: was not written by prepare-data; choose another folder")
    key = hashlib.sha256(json.dumps([source.facts(), rows_per_shard]).encode()).hexdigest()[:32]
    plan = _earlier_plan(Path(out, split), key) or _earlier_plan(_unfinished(out, split), key)
    if plan is None:
        plan = source.plan(progress)
    if plan.skipped and not skip_bad:
        raise DataError(plan.skipped)
    if not plan.rows:
        raise DataError(plan.skipped or {str(out): "there is not one pair to write"})
    return key, plan


def _unfinished(out: str | Path, split: str) -> Path:
    return Path(out, f".{split}.half")


def _write(
    source: Source, out: str | Path, split: str, key: str, plan: Plan, rows_per_shard: int, progress: Progress
) -> Summary:
    done, half = Path(out, split), _unfinished(out, split)
    shards = list(_cut(plan.rows, rows_per_shard, SAMPLES_PER_SHARD))
    written = 0
    if not done.exists():
        half.mkdir(parents=True, exist_ok=True)
        _write_whole(half / "plan.json", json.dumps({"key": key, **asdict(plan)}))
        written = _write_shards(shards, half, split, source, progress)
        for left in half.glob("*.part"):  # of a run that was killed
            left.unlink()
        half.replace(done)
    _write_whole(Path(out, "README.md"), _readme(Path(out)))
    seconds = [samples / SAMPLE_RATE for _, samples in plan.rows]
    numbers = (len(seconds), sum(seconds) / 3600, min(seconds), max(seconds), len(shards), written)
    return Summary(done, *numbers, plan.rates, plan.skipped)


def _earlier_plan(folder: Path, key: str) -> Plan | None:
    if not folder.exists():
        return None
    advice = "delete this folder, or choose another one to write to"
    if not (folder / "plan.json").exists():
        if any(folder.glob("*.parquet")) or not folder.name.startswith("."):
            raise ValueError(f"{folder}: was not written by prepare-data; {advice}")
        return None
    stored = json.loads((folder / "plan.json").read_text())
    if stored["key"] != key:
        raise ValueError(f"{folder}: was written with other settings, or its source files have changed; {advice}")
    rates = {int(rate): count for rate, count in stored["rates"].items()}
    return Plan([tuple(row) for row in stored["rows"]], rates, stored["skipped"])


def _cut(rows: list[tuple[int, int]], most_rows: int, most_samples: int) -> Iterator[list[tuple[int, int]]]:
    """The rows in runs of at most so many rows and, unless one row alone has more, samples."""
    run: list[tuple[int, int]] = []
    samples = 0
    for row in rows:
        if run and (len(run) == most_rows or samples + row[1] > most_samples):
            yield run
            run, samples = [], 0
        run.append(row)
        samples += row[1]
    yield run


def _write_shards(shards: list, folder: Path, split: str, source: Source, progress: Progress) -> int:
    """Writes the shards that are not there, and returns how many."""
    names = (folder / f"{split}-{number:05d}-of-{len(shards):05d}.parquet" for number in range(len(shards)))
    missing = [(path, shard) for path, shard in zip(names, shards, strict=True) if not path.exists()]
    work = [(path, rows) for path, shard in missing for rows in _cut(shard, ROWS_PER_GROUP, SAMPLES_PER_GROUP)]
    if not work:
        return 0
    with ThreadPoolExecutor(THREADS) as pool:
        read = functools.partial(_read_row, source.reader())
        for path, groups in itertools.groupby(progress(work), key=lambda item: item[0]):
            _write_shard(path, (list(pool.map(read, rows)) for _, rows in groups))
    return len(missing)


def _read_row(reader: Callable[[int], Row], planned: tuple[int, int]) -> Row:
    row = reader(planned[0])
    if not len(row.noisy) == len(row.clean) == planned[1]:
        raise ValueError(f"{row.names[0]}: changed while the data set was written; start again")
    return row


def _write_shard(path: Path, groups: Iterable[list[Row]]) -> None:
    """A Parquet file; `path` appears when it is on the disk, whole."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    clip = pyarrow.struct(
        {"array": pyarrow.list_(pyarrow.float32()), "sampling_rate": pyarrow.int32(), "path": pyarrow.string()}
    )
    schema = pyarrow.schema({"noisy": clip, "clean": clip, "duration": pyarrow.float64()})
    # The bytes of 16-bit samples as floats are half zeros; put beside each other they compress to nothing.
    layout = {
        "compression": "zstd",
        "use_dictionary": False,
        "use_byte_stream_split": [f"{name}.array.list.element" for name in ("noisy", "clean")],
    }
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            with ParquetWriter(file, schema, **layout) as parquet:
                for rows in groups:
                    columns = [
                        _clips([row.noisy for row in rows], [row.names[0] for row in rows], clip),
                        _clips([row.clean for row in rows], [row.names[1] for row in rows], clip),
                        pyarrow.array([len(row.noisy) / SAMPLE_RATE for row in rows]),
                    ]
                    parquet.write_table(pyarrow.table(columns, schema=schema))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _clips(audio: list["np.ndarray"], names: list[str], type: "pyarrow.StructType") -> "pyarrow.StructArray":
    import numpy as np
    import pyarrow

    ends = np.cumsum([0, *map(len, audio)], dtype=np.int32)
    arrays = pyarrow.ListArray.from_arrays(ends, np.concatenate(audio).astype(np.float32, copy=False))
    rates = pyarrow.array([SAMPLE_RATE] * len(names), pyarrow.int32())
    return pyarrow.StructArray.from_arrays([arrays, rates, pyarrow.array(names, pyarrow.string())], fields=list(type))


def _write_whole(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text)
    part.replace(path)


_SIGNATURE = "Written by `modelscope-ext prepare-data`."


def _readme(out: Path) -> str:
    """The card of a data set folder: its configurations for machines, then a few words for people."""
    splits = [split for split in SPLITS if (out / split / "plan.json").exists()]
    lines = ["---", "configs:"]
    for split in splits:
        lines += [f"- config_name: {split}"]
        # What is loaded when no configuration is named: `MsDataset.load(folder, split="test")` names none.
        lines += ["  default: true"] * (split == splits[-1])
        lines += ["  data_files:", f"  - split: {split}", f"    path: {split}/*.parquet"]
    lines += ["---", "", "# Noisy and clean speech", "", _SIGNATURE, "", "| split | rows | hours |", "|---|---|---|"]
    for split in splits:
        samples = [samples for _, samples in json.loads((out / split / "plan.json").read_text())["rows"]]
        lines.append(f"| {split} | {len(samples)} | {sum(samples) / SAMPLE_RATE / 3600:.2f} |")
    lines += [
        "",
        "`noisy` and `clean` hold `array` (float32, 16 kHz, mono), `sampling_rate`, `path`; `duration` is in seconds.",
        "",
        "```python",
        "from datasets import load_dataset",
        "from modelscope_ext import to_segment",
        "",
        *(f'{split} = load_dataset("FOLDER", "{split}", split="{split}")' for split in splits),
        f'segments = {splits[0]}.map(to_segment, remove_columns=["duration"], num_proc=8, batched=True, batch_size=36)',
        "```",
        "",
    ]
    return "\n".join(lines)


def _file_facts(names: Iterable[tuple[str, Path]]) -> list[tuple[str, int, int]]:
    stats = ((name, path.stat()) for name, path in names)
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _on_grid(audio: "np.ndarray") -> "np.ndarray":
    """Rounded to steps of 1 / 32768; beyond full scale too."""
    import numpy as np

    return np.rint(audio * np.float32(32768)) / np.float32(32768)


# Pairs of files ------------------------------------------------------------------------------------------------------


class FilePair(NamedTuple):
    """Two files that belong together; names: what the data set calls them."""

    noisy: Path
    clean: Path
    names: tuple[str, str]


@dataclass(frozen=True)
class FilePairs:
    """Rows from pairs of audio files of any rate, channels averaged.

    problems: what was wrong before any file was opened, by name; shortest_s: a shorter pair is unusable. One second is
    what ModelScope's `to_segment` needs.
    """

    pairs: list[FilePair]
    problems: dict[str, str] = field(default_factory=dict)
    shortest_s: float = 1.0

    def facts(self) -> dict[str, Any]:
        """See `Source`."""
        files = [(name, path) for pair in self.pairs for name, path in zip(pair.names, pair[:2], strict=True)]
        return {"shortest_s": self.shortest_s, "problems": len(self.problems), "files": _file_facts(files)}

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
        from modelscope_ext.audio import AudioError

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


def _read(path: Path) -> tuple["np.ndarray", int]:
    """(N,) float32 at 16 kHz, and the rate of the file."""
    from modelscope_ext.audio import open_audio, read_mono

    with open_audio(path) as file:
        rate = file.samplerate
    return _on_grid(read_mono(path, SAMPLE_RATE)), rate


def match_pairs(noisy_dir: str | Path, clean_dir: str | Path) -> tuple[list[FilePair], dict[str, str]]:
    """The pairs of two folders, and the files without a partner.

    Files belong together when their names end with the same `fileid_<number>`, as those of the DNS challenge do, or
    are the same but for the suffix, as those of VoiceBank+DEMAND are; and when they lie in the same subfolder.
    """
    noisy_dir, clean_dir = Path(noisy_dir), Path(clean_dir)
    problems: dict[str, str] = {}
    noisy, clean = (_by_name(folder, problems) for folder in (noisy_dir, clean_dir))
    for ours, theirs, other, kind in ((noisy, clean, clean_dir, "clean"), (clean, noisy, noisy_dir, "noisy")):
        for key in ours.keys() - theirs.keys():
            problems[str(ours[key])] = f"has no {kind} file: nothing in {other} is named {key}"
    pairs = [
        FilePair(noisy[key], clean[key], (_name(noisy[key], noisy_dir), _name(clean[key], clean_dir)))
        for key in sorted(noisy.keys() & clean.keys())
    ]
    return pairs, dict(sorted(problems.items()))


def _by_name(folder: Path, problems: dict[str, str]) -> dict[str, Path]:
    """The audio files of a folder by what pairs go by."""
    from modelscope_ext.audio import AudioError, audio_files

    if not folder.is_dir():
        raise AudioError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in audio_files(folder):
        name = path.relative_to(folder).with_suffix("")
        number = re.search(r"fileid_(\d+)$", name.name)
        key = (name.with_name(f"*fileid_{int(number[1])}") if number else name).as_posix()
        if key in found:
            problems[str(path)] = f"is named like {found[key]}; which one is meant?"
        else:
            found[key] = path
    if not found:
        raise AudioError(f"{folder}: no audio files in this folder")
    return found


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


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
    return write(FilePairs(pairs, problems, shortest_s), out, split, **options)


# Mixtures ------------------------------------------------------------------------------------------------------------


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
    config: "MixConfig"
    cache: Path

    def facts(self) -> dict[str, Any]:
        """See `Source`."""
        from modelscope_ext.audio import AudioError, audio_files

        files = {}
        for kind in ("speech", "noise", "rooms"):
            folder = getattr(self, kind)
            if folder is not None and not folder.is_dir() and not (kind == "rooms" and folder.is_file()):
                raise AudioError(f"{folder}: no such folder")
            inside = [] if folder is None else [folder] if folder.is_file() else audio_files(folder)
            files[kind] = _file_facts((_name(path, folder), path) for path in inside)
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
        from modelscope_ext.data.mixing import Mixer

        speech, noise = ([(self._corpus(folder), 1.0)] for folder in (self.speech, self.noise))
        mixer = Mixer(speech, noise, self._rooms({}), self.config, self.seed)

        def read(index: int) -> Row:
            noisy, clean = map(_on_grid, mixer[index])
            name = f"mixture_{self.seed}_{index:07d}"
            return Row(noisy, clean, (name, name))

        return read

    def _corpus(self, folder: Path, progress: Progress = iter) -> "Corpus":
        from modelscope_ext.data.corpus import load_corpus

        return load_corpus(folder, self.cache, SAMPLE_RATE, progress)

    def _rooms(self, skipped: dict[str, str]) -> list["np.ndarray"]:
        """The impulse responses; those that are none are added to `skipped`."""
        from modelscope_ext.audio import AudioError, audio_files, read_mono
        from modelscope_ext.data.rooms import align, load_rooms

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
    config: "MixConfig | None" = None,
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
    from modelscope_ext.data.mixing import MixConfig

    config = config or MixConfig(silent_share=0.0)
    if (hours is None) == (count is None):
        raise ValueError("how much is to be written: give hours or count, one of them")
    count = round(hours * 3600 / config.seconds) if count is None else count
    if count < 1:
        raise ValueError(f"need at least one mixture of {config.seconds} s, got hours={hours}, count={count}")
    folders = Path(speech), Path(noise), None if rooms is None else Path(rooms)
    cache = Path(out) / ".decoded"
    try:
        return write(Mixtures(*folders, count, seed, config, cache), out, split, **options)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        if cache.parent.is_dir() and not any(cache.parent.iterdir()):  # nothing was written
            cache.parent.rmdir()


# An earlier data set -------------------------------------------------------------------------------------------------


def prepare_from_dataset(
    folder: str | Path,
    out: str | Path,
    split: str | None = None,
    *,
    shortest_s: float = 1.0,
    skip_bad: bool = False,
    rows_per_shard: int = ROWS_PER_SHARD,
    progress: Progress = iter,
) -> list[Summary]:
    """Writes the splits of a script-based data set folder anew, from its files; the script is not run.

    Understood are, for each split: tables `*.csv` or `*.tsv` (commas or tabs) with columns `noisy` and `clean`, and
    `train` or `test` in their name or as their folder, whose paths are relative to the table or to `folder`; or the
    folders `train/noisy` and `train/clean`, `test/noisy` and `test/clean`, paired by `match_pairs`.

    Args:
        folder: the data set, its archives unpacked.
        out: another folder; see `write`.
        split: write only this one; None for all that are found.
        shortest_s: see `FilePairs`.
        skip_bad: see `write`.
        rows_per_shard: see `write`.
        progress: see `write`.

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
            sources[name] = FilePairs(list(dict.fromkeys(pairs)), problems, shortest_s)
    if not sources:
        raise ValueError(
            f"{folder}: no data set that is understood. Looked for tables *.csv and *.tsv with columns noisy and clean"
            f" and train or test in their name, and for the folders train/noisy, train/clean, test/noisy, test/clean."
            f" Found: {', '.join(sorted(p.name for p in folder.iterdir())[:20]) or 'nothing'}. Unpack archives first."
        )
    # All splits are looked at before one is written.
    looks = {name: _look(source, out, name, skip_bad, rows_per_shard, progress) for name, source in sources.items()}
    return [_write(sources[name], out, name, *look, rows_per_shard, progress) for name, look in looks.items()]


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


# The command ---------------------------------------------------------------------------------------------------------


def add_command(commands: "argparse._SubParsersAction", common: "argparse.ArgumentParser") -> None:
    """Adds `prepare-data` to the commands; `common` has `--quiet`."""
    parser = commands.add_parser(
        "prepare-data",
        parents=[common],
        help="write a data set folder that load_dataset and MsDataset.load read",
        description="Writes noisy and clean pairs as a data set folder with the configurations train and test. All data"
        " are checked before anything is written. Killed and started again, it goes on after the last whole shard.",
    )
    add = functools.partial(parser.add_argument, metavar="DIR", type=Path)
    add("--noisy", help="noisy files; partners have the same name or the same ..fileid_N, as in the DNS challenge")
    add("--clean", help="their clean files")
    add("--speech", help="clean speech to make mixtures of")
    add("--noise", help="noise for the mixtures")
    add("--rooms", help="room impulse responses for the mixtures")
    add("--from-dataset", help="a copy of a script-based data set, unpacked")
    add("-o", "--output", required=True, metavar="OUT", help="the data set folder")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--hours", type=float, metavar="H", help="of mixtures")
    amount.add_argument("--count", type=int, metavar="N", help="of mixtures, instead of hours")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of a mixture [4]")
    parser.add_argument("--seed", type=int, metavar="N", help="of the mixtures; another one for each split [0]")
    parser.add_argument("--split", choices=SPLITS, help="what to write [train; with --from-dataset all there is]")
    parser.add_argument("--skip-bad", action="store_true", help="leave unusable files out instead of stopping")
    parser.set_defaults(run=functools.partial(_run, parser))


def _run(parser: "argparse.ArgumentParser", args: "argparse.Namespace") -> int:
    given = {name for name, value in vars(args).items() if value is not None}
    kinds = [("noisy", "clean"), ("speech", "noise"), ("from_dataset",)]
    chosen = [kind for kind in kinds if given & set(kind)]
    if len(chosen) != 1 or not given >= set(chosen[0]):
        parser.error("give --noisy and --clean, or --speech and --noise, or --from-dataset")
    of_mixtures = given & {"rooms", "hours", "count", "seconds", "seed"}
    if chosen[0] != ("speech", "noise") and of_mixtures:
        parser.error(f"--{min(of_mixtures)} is for mixtures: it goes with --speech and --noise")
    if chosen[0] == ("speech", "noise") and not given & {"hours", "count"}:
        parser.error("say how much to mix: --hours or --count")

    from tqdm import tqdm

    bar = functools.partial(tqdm, disable=True if args.quiet else None)
    options = {"skip_bad": args.skip_bad, "progress": bar}
    if args.noisy:
        done = [prepare_pairs(args.noisy, args.clean, args.output, args.split or "train", **options)]
    elif args.speech:
        from modelscope_ext.data.mixing import MixConfig

        config = MixConfig(silent_share=0.0, **({} if args.seconds is None else {"seconds": args.seconds}))
        amount = {"hours": args.hours, "count": args.count, "seed": args.seed or 0, "config": config}
        folders = (args.speech, args.noise, args.rooms, args.output, args.split or "train")
        done = [prepare_mixtures(*folders, **amount, **options)]
    else:
        done = prepare_from_dataset(args.from_dataset, args.output, args.split, **options)
    print(*done, sep="\n")
    return 0
