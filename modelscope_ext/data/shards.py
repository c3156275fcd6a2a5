"""Data set folders for training and evaluation, as `datasets.load_dataset` and `MsDataset.load` read them.

A folder holds Parquet shards, `train/*.parquet` and `test/*.parquet`, and a README.md that declares the configurations
`train` and `test`. A row is a pair: `noisy` and `clean`, each a struct of `array` ((N,) float32 at 16 kHz),
`sampling_rate` and `path`, and `duration` in seconds. That is no `Audio` column: reading it needs no audio decoder, and
ModelScope's own `to_segment` takes it. Samples lie on the 16-bit grid, which halves the files, and are never clipped.
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from modelscope_ext.atomic import atomic_write, remove_stale_temp_files
from modelscope_ext.data.rows import SAMPLE_RATE, Row, write_rows

__all__ = ["SPLITS", "THREADS", "DataError", "Plan", "Progress", "Source", "Summary", "file_facts", "write"]

SPLITS = ("train", "test")
ROWS_PER_SHARD = 500
SAMPLES_PER_SHARD = 25_000_000  # of each column: 26 minutes, 200 MB decoded
ROWS_PER_GROUP, SAMPLES_PER_GROUP = 36, 4_000_000  # what is in memory at once, here and in whoever reads
THREADS = 2
SIGNATURE = "Written by `modelscope-ext prepare-data`."

Progress = Callable[[Iterable], Iterable]


class DataError(ValueError):
    """Files that cannot be used: `problems` holds the reason for each, by name; the message lists them all."""

    def __init__(self, problems: dict[str, str]) -> None:
        lines = [f"  {name}: {reason}" for name, reason in problems.items()]
        advice = "mend them, or leave these out with --skip-bad (skip_bad=True)"
        super().__init__("\n".join((f"{len(problems)} problems in the data; {advice}:", *lines)))
        self.problems = problems


@dataclass(frozen=True)
class Plan:
    """What a split will hold, known before a byte is written.

    rows: (index in the source, samples) of each row; rates: how many files have which rate, in Hz;
    skipped: what was found unusable, and why.
    """

    rows: list[tuple[int, int]]
    rates: dict[int, int]
    skipped: dict[str, str]


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


def file_facts(names: Iterable[tuple[str, Path]]) -> list[tuple[str, int, int]]:
    """Name, size and time of files, given as (name, path); for `Source.facts`."""
    stats = ((name, path.stat()) for name, path in names)
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def write(
    sources: dict[str, Source],
    out: str | Path,
    *,
    skip_bad: bool = False,
    rows_per_shard: int = ROWS_PER_SHARD,
    progress: Progress = iter,
) -> list[Summary]:
    """Writes splits of a data set folder, or what an earlier run left of them.

    All splits are looked at before one is written. Shards grow in `out/.<split>.half`, each whole or not at all; the
    folder gets its name when all are there. Killed and started again, it goes on after the last whole shard and ends
    with the same bytes.

    Args:
        sources: of the rows of each split, `train` or `test`.
        out: the data set folder; may hold the other split already.
        skip_bad: leave unusable data out and say so in the summary; else they are an error and nothing is written.
        rows_per_shard: at most; a shard also ends after 26 minutes.
        progress: wraps the list of what is done one by one, `tqdm` for example.

    Raises:
        DataError: something is unusable; all of it is named.
        ValueError: a split was written from other data or with other settings, or `out` is no data set folder.
        OSError: the folder cannot be written to.
    """
    out = Path(out)
    looks = {split: _look(source, out, split, skip_bad, rows_per_shard, progress) for split, source in sources.items()}
    return [_write(sources[split], out, split, *look, rows_per_shard, progress) for split, look in looks.items()]


def _look(
    source: Source, out: Path, split: str, skip_bad: bool, rows_per_shard: int, progress: Progress
) -> tuple[str, Plan]:
    """What is to be written, and the digest of all that it depends on."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if rows_per_shard < 1:
        raise ValueError(f"rows_per_shard must be at least 1, got {rows_per_shard}")
    readme = out / "README.md"
    if readme.exists() and SIGNATURE not in readme.read_text("utf-8", "replace"):
        raise ValueError(f"{readme}: was not written by prepare-data; choose another folder")
    key = hashlib.sha256(json.dumps([source.facts(), rows_per_shard]).encode()).hexdigest()[:32]
    plan = _earlier_plan(out / split, key) or _earlier_plan(_unfinished(out, split), key)
    if plan is None:
        plan = source.plan(progress)
    if plan.skipped and not skip_bad:
        raise DataError(plan.skipped)
    if not plan.rows:
        raise DataError(plan.skipped or {str(out): "there is not one pair to write"})
    return key, plan


def _unfinished(out: Path, split: str) -> Path:
    return out / f".{split}.half"


def _write(
    source: Source, out: Path, split: str, key: str, plan: Plan, rows_per_shard: int, progress: Progress
) -> Summary:
    done, half = out / split, _unfinished(out, split)
    shards = list(_cut(plan.rows, rows_per_shard, SAMPLES_PER_SHARD))
    written = 0
    try:
        if not done.exists():
            half.mkdir(parents=True, exist_ok=True)
            with atomic_write(half / "plan.json") as temp:
                temp.write_text(json.dumps({"key": key, **asdict(plan)}))
            remove_stale_temp_files(half)
            written = _write_shards(shards, half, split, source, progress)
            half.replace(done)
        with atomic_write(out / "README.md") as temp:
            temp.write_text(_readme(out))
    except OSError as error:
        reason = getattr(error.__cause__, "strerror", None) or error.strerror or error
        raise OSError(f"{done}: cannot be written ({reason}); started again, it goes on") from error
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
            write_rows(path, (list(pool.map(read, rows)) for _, rows in groups))
    return len(missing)


def _read_row(reader: Callable[[int], Row], planned: tuple[int, int]) -> Row:
    row = reader(planned[0])
    if not len(row.noisy) == len(row.clean) == planned[1]:
        raise ValueError(f"{row.names[0]}: changed while the data set was written; start again")
    return row


def _readme(out: Path) -> str:
    """The card of a data set folder: its configurations for machines, then a few words for people."""
    splits = [split for split in SPLITS if (out / split / "plan.json").exists()]
    lines = ["---", "configs:"]
    for split in splits:
        lines += [f"- config_name: {split}"]
        # What is loaded when no configuration is named: `MsDataset.load(folder, split="test")` names none.
        lines += ["  default: true"] * (split == splits[-1])
        lines += ["  data_files:", f"  - split: {split}", f"    path: {split}/*.parquet"]
    lines += ["---", "", "# Noisy and clean speech", "", SIGNATURE, "", "| split | rows | hours |", "|---|---|---|"]
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
