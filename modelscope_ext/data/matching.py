"""Which noisy file belongs to which clean one, by their names; and a look at each pair before it is scored.

The command line imports this when it starts: what reads audio is imported where it is used.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

__all__ = ["FilePair", "Pair", "find_pairs", "match_pairs"]


class FilePair(NamedTuple):
    """Two files that belong together; names: what a data set calls them."""

    noisy: Path
    clean: Path
    names: tuple[str, str]


@dataclass(frozen=True)
class Pair:
    """A recording to be scored, and its clean reference; `name` is that of the noisy file in its folder."""

    name: str
    noisy: Path
    clean: Path


def match_pairs(noisy_dir: str | Path, clean_dir: str | Path) -> tuple[list[FilePair], dict[str, str]]:
    """The pairs of two folders in the order of their clean files, and what is wrong with the other files, by name.

    Files belong together when their names are the same but for the suffix, as those of VoiceBank+DEMAND are, or end
    with the same `fileid_<number>`, as those of the DNS challenge do; and when they lie in the same subfolder.

    Raises:
        AudioError: a folder is missing or holds no audio.
    """
    noisy_dir, clean_dir = Path(noisy_dir), Path(clean_dir)
    noisy, clean = _names(noisy_dir), _names(clean_dir)
    for folder, found in ((noisy_dir, noisy), (clean_dir, clean)):
        if not found:
            from modelscope_ext.audio import AudioError

            raise AudioError(f"{folder}: no audio files in this folder")
    matched, problems, alone = _match(noisy, clean, "clean", clean_dir)
    pairs = [
        FilePair(noisy_dir / a, clean_dir / b, (a.as_posix(), b.as_posix()))
        for a, b in sorted(matched, key=lambda names: names[1])
    ]
    return pairs, dict(sorted((problems | _alone(alone, noisy_dir)).items()))


def find_pairs(folder: str | Path, enhanced: str | Path | None = None) -> list[Pair]:
    """The pairs of a folder, all of them looked through.

    Args:
        folder: holds `noisy` and `clean`, paired as `match_pairs` does it, or is in DNS layout: `…fileid_7.wav` belongs
            to `clean_fileid_7.wav`, in these two folders or all in one.
        enhanced: a folder of enhanced files, named as the noisy ones; each takes the place of its `Pair.noisy`.

    Raises:
        AudioError: anything is wrong with any file: no partner, unreadable, empty, NaN, a silent reference, lengths or
            rates that differ within a pair. The message tells all of it.
    """
    from modelscope_ext.audio import AudioError

    folder = Path(folder)
    noisy_dir, clean_dir, noisy, clean = _layout(folder)
    matched, problems, alone = _match(noisy, clean, "clean", clean_dir)
    problems |= _alone(alone, noisy_dir)
    pairs = [Pair(name.as_posix(), noisy[name], clean[reference]) for name, reference in matched]
    told = [f"{path}: {reason}" for path, reason in problems.items()]
    for pair in pairs:
        told += _compare(pair.noisy, pair.clean)
    if enhanced is not None:
        files = _names(Path(enhanced))
        by_name = {Path(pair.name): pair for pair in pairs}
        names = {name: pair.noisy for name, pair in by_name.items()}
        matched, problems, _ = _match(names, files, "enhanced", Path(enhanced))
        told += [f"{path}: {reason}" for path, reason in problems.items()]
        pairs = [replace(by_name[name], noisy=files[other]) for name, other in matched]
        for pair in pairs:
            told += _compare(pair.noisy, pair.clean, clean_too=False)
    if told:
        raise AudioError("\n  ".join([f"{folder}: {len(told)} problem(s); nothing was computed", *told]))
    return pairs


def _layout(folder: Path) -> tuple[Path, Path, dict[Path, Path], dict[Path, Path]]:
    """Where the noisy and the clean files of a folder lie, and both by their names there."""
    from modelscope_ext.audio import AudioError

    noisy_dir, clean_dir = folder / "noisy", folder / "clean"
    if noisy_dir.is_dir() and clean_dir.is_dir():
        noisy, clean = _names(noisy_dir), _names(clean_dir)
    else:
        noisy_dir = clean_dir = folder
        found = _names(folder) if folder.is_dir() else {}
        with_id = {name: path for name, path in found.items() if _FILE_ID.search(name.stem)}
        clean = {name: path for name, path in with_id.items() if name.stem.startswith("clean_")}
        parts = re.compile(r"(clean|noise)_fileid_\d+")
        noisy = {name: path for name, path in with_id.items() if not parts.fullmatch(name.stem)}
    if not noisy or not clean:
        raise AudioError(
            f"{folder}: holds no pairs: neither audio in noisy/ and clean/, nor noisy_fileid_N and clean_fileid_N"
        )
    return noisy_dir, clean_dir, noisy, clean


def _names(folder: Path) -> dict[Path, Path]:
    """The audio files of a folder by their path in it."""
    from modelscope_ext.audio import AudioError, audio_files

    if not folder.is_dir():
        raise AudioError(f"{folder}: no such folder")
    return {path.relative_to(folder): path for path in audio_files(folder)}


_FILE_ID = re.compile(r"(?:^|_)fileid_(\d+)$")


def _keys(name: Path) -> list[Path]:
    """What a file goes by: its name without a suffix, then its DNS file id."""
    number = _FILE_ID.search(name.stem)
    return [name.with_suffix(""), *([name.parent / f"*fileid_{int(number[1])}"] if number else [])]


def _match(
    noisy: Mapping[Path, Path], others: Mapping[Path, Path], kind: str, folder: Path
) -> tuple[list[tuple[Path, Path]], dict[str, str], list[Path]]:
    """Pairs of names, what is wrong with the other noisy files, and the paths of `others` that none could belong to."""
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
    return pairs, problems, [others[name] for name in alone]


def _alone(paths: list[Path], noisy_dir: Path) -> dict[str, str]:
    return {str(path): f"has no noisy file in {noisy_dir}" for path in paths}


def _compare(noisy: Path, clean: Path, clean_too: bool = True) -> list[str]:
    """What is wrong with a pair; what is wrong with its reference alone only if `clean_too`."""
    from modelscope_ext.audio import AudioError

    problems, seen = [], []
    for path in (noisy, clean):
        try:
            seen.append(_look(path))
        except AudioError as error:
            if path is noisy or clean_too:
                problems.append(str(error))
    if len(seen) < 2:
        return problems
    (rate, frames, _), (clean_rate, clean_frames, height) = seen
    if not clean_frames and clean_too:
        problems.append(f"{clean}: has no samples")
    elif height <= 2**-14 and clean_too:  # two steps of 16 bits
        problems.append(f"{clean}: the clean file is silent")
    if rate != clean_rate:
        problems.append(f"{noisy}: {rate} Hz, but {clean} {clean_rate} Hz")
    elif frames != clean_frames:
        problems.append(f"{noisy}: {frames} samples, but {clean} {clean_frames}")
    return problems


def _look(path: Path) -> tuple[int, int, float]:
    """The rate in Hz of a whole and sound file, its samples, and from its lowest to its highest value."""
    from modelscope_ext.audio import open_audio, read_blocks

    frames, low, high = 0, math.inf, -math.inf
    with open_audio(path) as file:
        for block in read_blocks(file, 60.0):
            mono = block.mean(1)
            frames, low, high = frames + len(mono), min(low, float(mono.min())), max(high, float(mono.max()))
        return file.samplerate, frames, high - low
