"""Pairs of noisy and clean files: matched by name, and checked before they are scored or trained on."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from modelscope_ext.audio import AudioError, ProblemsError, audio_files, find_problem, read_native, resample
from modelscope_ext.threads import thread_pool

THREADS = 2
CHECKED_AT_ONCE = 32  # pairs; Ctrl-C waits for them
_FILE_ID = re.compile(r"(?:^|_)fileid_(\d+)$")
#: Audio files of a folder by their path in it.
Names = Mapping[Path, Path]


@dataclass(frozen=True)
class Pair:
    """A noisy file and its clean file; `names` are their names in the two folders or in a table."""

    noisy: Path
    clean: Path
    names: tuple[str, str]

    @property
    def name(self) -> str:
        """Return the name of the noisy file."""
        return self.names[0]


class CheckedPair(NamedTuple):
    """The samples of a checked pair, the rates of its files in Hz and its problems by path."""

    samples: int
    rates: tuple[int, ...]
    problems: dict[str, str]


def match_pairs(noisy_dir: str | Path, clean_dir: str | Path) -> tuple[list[Pair], dict[str, str]]:
    """Return the pairs of two folders, sorted by clean file, and the problems of other files by path.

    Partners are in the same subfolder. Their names differ only in the suffix (VoiceBank+DEMAND) or end with the same
    `fileid_<number>` (DNS challenge).

    Raises:
        AudioError: a folder is missing or has no audio.
    """
    folders, unreadable = (Path(noisy_dir), Path(clean_dir)), {}
    noisy, clean = files = [_names(folder, unreadable) for folder in folders]
    for folder, names in zip(folders, files, strict=True):
        if not names:
            reason = f"{folder}: no audio files in this folder"
            raise AudioError("; ".join([reason, *map(": ".join, unreadable.items())]))
    pairs, problems = _match(noisy, clean, *folders)
    return sorted(pairs, key=lambda pair: Path(pair.names[1])), dict(sorted((unreadable | problems).items()))


def find_partners(folder: str | Path) -> tuple[list[Pair], dict[str, str]]:
    """Return the pairs of a folder as in `find_pairs`, not checked, and the problems of other files by path.

    Raises:
        AudioError: the folder is missing or holds no pairs.
    """
    unreadable: dict[str, str] = {}
    pairs, problems = _match(*_layout(Path(folder), unreadable))
    return pairs, unreadable | problems


def find_pairs(
    folder: str | Path, enhanced: str | Path | None = None, problems: dict[str, str] | None = None
) -> list[Pair]:
    """Return the checked pairs of a folder for scoring.

    Args:
        folder: contains the folders `noisy` and `clean` for `match_pairs`. Or all files are in it and are named as in
            the DNS challenge: `…fileid_7.wav` belongs to `clean_fileid_7.wav`.
        enhanced: a folder of enhanced files with the names of the noisy ones. They replace `Pair.noisy`.
        problems: gets the reason for each file that is unusable (`check_pairs`) or has no partner, by its path; its
            pair is left out. None raises.

    Raises:
        AudioError: there is such a file and no `problems`, or no pair is left. The message lists all problems.
    """
    folder = Path(folder)
    pairs, found = find_partners(folder)
    pairs = _usable(pairs, found)
    if enhanced is not None:
        noisy = {Path(pair.name): pair.noisy for pair in pairs}
        matched, missing, _ = _partners(noisy, _names(Path(enhanced), found), "enhanced", Path(enhanced))
        found |= missing
        by_name = {Path(pair.name): pair for pair in pairs}
        pairs = _usable([replace(by_name[name], noisy=Path(enhanced, other)) for name, other in matched], found)
    if found and (problems is None or not pairs):
        raise ProblemsError(f"{folder}: {len(found)} problem(s); nothing was computed", found)
    if problems is not None:
        problems |= found
    return pairs


def _usable(pairs: list[Pair], problems: dict[str, str]) -> list[Pair]:
    """Return the pairs without problems; the others' are added to `problems`."""
    good = []
    for pair, checked in zip(pairs, check_pairs(pairs), strict=True):
        problems |= checked.problems
        good += [] if checked.problems else [pair]
    return good


def check_pairs(
    pairs: Sequence[Pair], sample_rate: int | None = None, progress: Callable[[Iterable], Iterable] = iter
) -> Iterator[CheckedPair]:
    """Decode all pairs and yield the result of each check.

    Files must be readable and finite and both of one length. The clean one must not be empty or silent.

    Args:
        pairs: pairs to check.
        sample_rate: None for scoring: both files must have one rate. In Hz for training: the signals are compared at
            this rate and the noisy file must not be empty or silent either.
        progress: a wrapper of the list of steps such as `tqdm`.
    """
    with thread_pool(THREADS) as pool:
        for start in progress(range(0, len(pairs), CHECKED_AT_ONCE)):
            chosen = pairs[start : start + CHECKED_AT_ONCE]
            yield from pool.map(_check, chosen, [sample_rate] * len(chosen))


def _check(pair: Pair, sample_rate: int | None) -> CheckedPair:
    lengths, rates, problems = [], [], {}
    for path in (pair.noisy, pair.clean):
        try:
            audio, rate = read_native(path)
        except AudioError as error:
            problems[str(path)] = str(error).removeprefix(f"{path}: ")
            continue
        if sample_rate:
            audio = resample(audio, rate, sample_rate)
        lengths.append(len(audio))
        rates.append(rate)
        if (sample_rate or path == pair.clean) and (problem := find_problem(audio, whole=True)):
            problems[str(path)] = problem
    if len(rates) == 2:
        if rates[0] != rates[1] and not sample_rate:
            problems.setdefault(str(pair.noisy), f"{rates[0]} Hz, but {pair.clean} {rates[1]} Hz")
        elif abs(lengths[0] - lengths[1]) > (rates[0] != rates[1]):  # resampling may round the length
            reason = f"{lengths[0]} samples, but {pair.clean} {lengths[1]}"
            if sample_rate:
                seconds = [f"{length / sample_rate:.4f} s" for length in lengths]
                reason = f"is {seconds[0]} long, its clean file {pair.clean} is {seconds[1]}"
            problems.setdefault(str(pair.noisy), reason)
    return CheckedPair(min(lengths, default=0), tuple(rates), problems)


def _layout(folder: Path, unreadable: dict[str, str]) -> tuple[Names, Names, Path, Path]:
    """Return the noisy and the clean files of a folder and where they are."""
    if not folder.is_dir():
        raise AudioError(f"{folder}: no such folder")
    noisy_dir, clean_dir = folder / "noisy", folder / "clean"
    if noisy_dir.is_dir() and clean_dir.is_dir():
        noisy, clean = (_names(each, unreadable) for each in (noisy_dir, clean_dir))
    else:
        noisy_dir = clean_dir = folder
        names = _names(folder, unreadable)
        with_id = {name: path for name, path in names.items() if _FILE_ID.search(name.stem)}
        clean = {name: path for name, path in with_id.items() if name.stem.startswith("clean_")}
        parts = re.compile(r"(clean|noise)_fileid_\d+")
        noisy = {name: path for name, path in with_id.items() if not parts.fullmatch(name.stem)}
    if not noisy or not clean:
        reason = f"{folder}: holds no pairs: neither audio in noisy/ and clean/, nor noisy_fileid_N and clean_fileid_N"
        raise AudioError("; ".join([reason, *map(": ".join, unreadable.items())]))
    return noisy, clean, noisy_dir, clean_dir


def _names(folder: Path, unreadable: dict[str, str]) -> dict[Path, Path]:
    if not folder.is_dir():
        raise AudioError(f"{folder}: no such folder")
    return {path.relative_to(folder): path for path in audio_files(folder, unreadable)}


def _match(noisy: Names, clean: Names, noisy_dir: Path, clean_dir: Path) -> tuple[list[Pair], dict[str, str]]:
    matched, problems, alone = _partners(noisy, clean, "clean", clean_dir)
    problems |= {str(clean[name]): f"has no noisy file in {noisy_dir}" for name in alone}
    return [Pair(noisy[a], clean[b], (a.as_posix(), b.as_posix())) for a, b in matched], problems


def _partners(
    noisy: Names, others: Names, kind: str, folder: Path
) -> tuple[list[tuple[Path, Path]], dict[str, str], list[Path]]:
    """Return pairs of names, the problems of other noisy files and the unused names of `others`."""
    index: dict[Path, list[Path]] = {}
    for name in others:
        for key in _keys(name):
            index.setdefault(key, []).append(name)
    pairs, problems, taken = [], {}, {}
    alone = dict.fromkeys(others)
    for name, path in noisy.items():
        candidates = next((index[key] for key in _keys(name) if key in index), [])
        for candidate in candidates:
            alone.pop(candidate, None)
        if not candidates:
            problems[str(path)] = f"has no {kind} file in {folder}"
        elif len(candidates) > 1:
            problems[str(path)] = f"has several {kind} files: {', '.join(str(others[each]) for each in candidates)}"
        elif candidates[0] in taken:
            problems[str(path)] = f"is named like {taken[candidates[0]]}; which one is meant?"
        else:
            taken[candidates[0]] = path
            pairs.append((name, candidates[0]))
    return pairs, problems, list(alone)


def _keys(name: Path) -> list[Path]:
    """Return the keys of a file for matching: its name without a suffix and its DNS file id."""
    number = _FILE_ID.search(name.stem)
    return [name.with_suffix(""), *([name.parent / f"*fileid_{int(number[1])}"] if number else [])]
