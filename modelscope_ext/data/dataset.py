"""Data set folders for training and evaluation, as `datasets.load_dataset` and `MsDataset.load` read them.

A folder has Parquet shards, `train/*.parquet` and `test/*.parquet`, and a README.md that declares the configurations
`train` and `test`. A row is a pair: `noisy` and `clean`, each a struct of `array` ((N,) float32 at 16 kHz),
`sampling_rate` and `path`, and `duration` in seconds. These are no `Audio` columns: readers need no audio decoder, and
ModelScope's own `to_segment` accepts them. Samples are multiples of 1 / 32768, which halves the files, and not clipped.
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
from pyarrow.parquet import ParquetWriter

from modelscope_ext.atomic import alone_in, atomic_write, remove_stale_temp_files
from modelscope_ext.audio import SAMPLE_RATE, ProblemsError
from modelscope_ext.text import lines_of
from modelscope_ext.threads import thread_pool

SPLITS = ("train", "test")
ROWS_PER_SHARD = 500
SAMPLES_PER_SHARD = 25_000_000  # of each column: 26 minutes, 200 MB decoded
ROWS_PER_GROUP, SAMPLES_PER_GROUP = 36, 4_000_000  # in memory at once, for writers and readers
THREADS = 2
SIGNATURE = "Written by `modelscope-ext prepare-data`."

Progress = Callable[[Iterable], Iterable]


class Row(NamedTuple):
    """A noisy and a clean signal of one length, (N,) float32 at 16 kHz; `names` are their `path` columns."""

    noisy: np.ndarray
    clean: np.ndarray
    names: tuple[str, str]


@dataclass(frozen=True)
class Plan:
    """The content of a split before it is written.

    rows: (index in the source, samples) of each row; rates: number of files by rate in Hz; skipped: problems of
    unusable files by path.
    """

    rows: list[tuple[int, int]]
    rates: dict[int, int]
    skipped: dict[str, str]


@dataclass(frozen=True)
class Summary:
    """The content of a written split, as text by `str`.

    shards_written counts those of this run; durations are in seconds.
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
            lines += lines_of(self.skipped)
        return "\n".join(lines)


class DataError(ProblemsError):
    """Unusable files: `problems` has the reason for each by path, and the message lists them all."""

    def __init__(self, problems: dict[str, str]) -> None:
        advice = "fix them, or leave these out with --skip-bad (skip_bad=True)"
        super().__init__(f"{len(problems)} problems in the data; {advice}:", problems)


def on_grid(audio: np.ndarray) -> np.ndarray:
    """Return audio rounded to multiples of 1 / 32768 without clipping."""
    return np.rint(audio * np.float32(32768)) / np.float32(32768)


class SplitWriter:
    """A split of a data set folder that is planned first and written then.

    Shards grow in `out/.<split>.half`, each whole or not at all. The folder gets its name when all are there. After an
    interruption the next run continues with the first missing shard and ends with the same bytes.

    Args:
        out: the data set folder; it may have the other split already.
        split: `train` or `test`.
        facts: all that the rows depend on, for JSON: settings, and names, sizes and times of files.
        skip_bad: leave unusable files out and list them in the summary. Else they are an error.
        rows_per_shard: the most rows of a shard. A shard also ends after 26 minutes.
        progress: a wrapper of a list of steps, for example `tqdm`.

    Raises:
        ValueError: `out` has files of others or the split was written from other data or with other settings.
    """

    def __init__(
        self,
        out: str | Path,
        split: str,
        facts: dict[str, Any],
        *,
        skip_bad: bool = False,
        rows_per_shard: int = ROWS_PER_SHARD,
        progress: Progress = iter,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if rows_per_shard < 1:
            raise ValueError(f"rows_per_shard must be at least 1, got {rows_per_shard}")
        self.out, self.split = Path(out), split
        self.skip_bad, self.rows_per_shard, self.progress = skip_bad, rows_per_shard, progress
        self.done, self.unfinished = self.out / split, self.out / f".{split}.half"
        readme = self.out / "README.md"
        if readme.exists() and SIGNATURE not in readme.read_text("utf-8", "replace"):
            raise ValueError(f"{readme}: was not written by prepare-data; choose another folder")
        self.key = hashlib.sha256(json.dumps([facts, rows_per_shard]).encode()).hexdigest()[:32]

    def plan(self, make: Callable[[Progress], Plan]) -> None:
        """Load the plan of an earlier run or make it.

        Raises:
            DataError: there are unusable files and no `skip_bad` or there is nothing to write.
        """
        self.planned = self._earlier_plan(self.done) or self._earlier_plan(self.unfinished) or make(self.progress)
        if self.planned.skipped and not self.skip_bad:
            raise DataError(self.planned.skipped)
        if not self.planned.rows:
            raise DataError(self.planned.skipped or {str(self.out): "there is no pair to write"})

    def write(self, open_reader: Callable[[], Callable[[int], Row]]) -> Summary:
        """Write all missing shards; `open_reader` makes a function from index to row for two threads.

        Raises:
            OSError: the folder cannot be written.
            ValueError: a file has changed since it was planned.
        """
        shards = list(_cut(self.planned.rows, self.rows_per_shard, SAMPLES_PER_SHARD))
        written = 0
        try:
            if not self.done.exists():
                self.unfinished.mkdir(parents=True, exist_ok=True)
                with alone_in(self.unfinished):
                    written = self._finish(shards, open_reader)
            with atomic_write(self.out / "README.md") as temp:
                temp.write_text(_readme(self.out))
        except OSError as error:
            reason = getattr(error.__cause__, "strerror", None) or error.strerror or error
            raise OSError(f"{self.done}: cannot be written ({reason}); run it again to continue") from error
        seconds = [samples / SAMPLE_RATE for _, samples in self.planned.rows]
        numbers = (len(seconds), sum(seconds) / 3600, min(seconds), max(seconds), len(shards), written)
        return Summary(self.done, *numbers, self.planned.rates, self.planned.skipped)

    def _finish(self, shards: list, open_reader: Callable) -> int:
        """Write the missing shards unless another process has just done it; return their number."""
        if self.done.exists():
            with suppress(OSError):  # it is renamed, or made for this process's turn
                self.unfinished.rmdir()
            return 0
        with atomic_write(self.unfinished / "plan.json") as temp:
            temp.write_text(json.dumps({"key": self.key, **asdict(self.planned)}))
        remove_stale_temp_files(self.unfinished)
        written = self._write_shards(shards, open_reader)
        self.unfinished.replace(self.done)
        return written

    def _earlier_plan(self, folder: Path) -> Plan | None:
        if not folder.exists():
            return None
        advice = "delete this folder, or choose another one to write to"
        if not (folder / "plan.json").exists():
            if any(folder.glob("*.parquet")) or folder == self.done:
                raise ValueError(f"{folder}: was not written by prepare-data; {advice}")
            return None
        stored = json.loads((folder / "plan.json").read_text())
        if stored["key"] != self.key:
            raise ValueError(f"{folder}: was written with other settings, or its source files have changed; {advice}")
        rates = {int(rate): count for rate, count in stored["rates"].items()}
        return Plan([tuple(row) for row in stored["rows"]], rates, stored["skipped"])

    def _write_shards(self, shards: list, open_reader: Callable) -> int:
        """Write the missing shards and return their number."""
        names = (f"{self.split}-{number:05d}-of-{len(shards):05d}.parquet" for number in range(len(shards)))
        shards_by_path = {self.unfinished / name: rows for name, rows in zip(names, shards, strict=True)}
        missing = {path: rows for path, rows in shards_by_path.items() if not path.exists()}
        work = [
            (path, group) for path, rows in missing.items() for group in _cut(rows, ROWS_PER_GROUP, SAMPLES_PER_GROUP)
        ]
        if not work:
            return 0
        with thread_pool(THREADS) as pool:
            read = functools.partial(_read_row, open_reader())
            for path, groups in itertools.groupby(self.progress(work), key=lambda item: item[0]):
                _write_rows(path, (list(pool.map(read, group)) for _, group in groups))
        return len(missing)


def _cut(rows: list[tuple[int, int]], most_rows: int, most_samples: int) -> Iterator[list[tuple[int, int]]]:
    """Yield runs of at most `most_rows` rows and `most_samples` samples. One row alone may have more samples."""
    run: list[tuple[int, int]] = []
    samples = 0
    for row in rows:
        if run and (len(run) == most_rows or samples + row[1] > most_samples):
            yield run
            run, samples = [], 0
        run.append(row)
        samples += row[1]
    yield run


def _read_row(read: Callable[[int], Row], planned: tuple[int, int]) -> Row:
    row = read(planned[0])
    if not len(row.noisy) == len(row.clean) == planned[1]:
        raise ValueError(f"{row.names[0]}: changed while the data set was written; start again")
    return row


def _write_rows(path: Path, groups: Iterable[list[Row]]) -> None:
    """Write a Parquet file with a row group for each list."""
    clip = pyarrow.struct(
        {"array": pyarrow.list_(pyarrow.float32()), "sampling_rate": pyarrow.int32(), "path": pyarrow.string()}
    )
    schema = pyarrow.schema({"noisy": clip, "clean": clip, "duration": pyarrow.float64()})
    # Half of the bytes of 16-bit samples as floats are zero; side by side they compress to nothing.
    layout = {
        "compression": "zstd",
        "use_dictionary": False,
        "use_byte_stream_split": [f"{name}.array.list.element" for name in ("noisy", "clean")],
    }
    with atomic_write(path) as temp, temp.open("wb") as file, ParquetWriter(file, schema, **layout) as parquet:
        for rows in groups:
            columns = [
                _clips([row.noisy for row in rows], [row.names[0] for row in rows], clip),
                _clips([row.clean for row in rows], [row.names[1] for row in rows], clip),
                pyarrow.array([len(row.noisy) / SAMPLE_RATE for row in rows]),
            ]
            parquet.write_table(pyarrow.table(columns, schema=schema))


def _clips(audio: list[np.ndarray], names: list[str], type: pyarrow.StructType) -> pyarrow.StructArray:
    ends = np.cumsum([0, *map(len, audio)], dtype=np.int32)
    arrays = pyarrow.ListArray.from_arrays(ends, np.concatenate(audio).astype(np.float32, copy=False))
    rates = pyarrow.array([SAMPLE_RATE] * len(names), pyarrow.int32())
    names = [name.encode(errors="backslashreplace").decode() for name in names]  # those outside UTF-8
    return pyarrow.StructArray.from_arrays([arrays, rates, pyarrow.array(names, pyarrow.string())], fields=list(type))


def _readme(out: Path) -> str:
    """Return the card of a data set folder: its configurations for programs and some lines for people."""
    splits = [split for split in SPLITS if (out / split / "plan.json").exists()]
    lines = ["---", "configs:"]
    for split in splits:
        lines += [f"- config_name: {split}"]
        # The default when no configuration is named, as in `MsDataset.load(folder, split="test")`.
        lines += ["  default: true"] * (split == splits[-1])
        # `datasets` would take another folder of this name, or earlier content, from its cache.
        content = hashlib.sha256((out / split / "plan.json").read_bytes()).hexdigest()
        lines += [
            f"  description: content {content[:32]}",
            "  data_files:",
            f"  - split: {split}",
            f"    path: {split}/*.parquet",
        ]
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
