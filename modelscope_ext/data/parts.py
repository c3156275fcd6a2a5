"""Parts of a folder of pairs that share no speaker and no recording."""

import hashlib
import re
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from modelscope_ext.audio import SAMPLE_RATE, AudioError, ProblemsError
from modelscope_ext.data.dataset import Progress
from modelscope_ext.data.pairs import Pair, check_pairs, find_partners
from modelscope_ext.data.speakers import speaker_of

#: Share of the audio in each part that is held back, and the most of it in seconds.
HELD_BACK, MOST_HELD_BACK_S = 0.1, 600.0
#: A speaker with more of the audio than this is not held back.
MOST_OF_A_GROUP = 0.2
#: The parts by name; the first one is trained on.
PARTS = ("train", "validation", "gate")


def load_parts(
    folder: str | Path, parts: Sequence[str] = PARTS, by: str | None = None, progress: Progress = iter
) -> tuple[dict[str, list[Pair]], str]:
    """Return the checked pairs of a folder by part, and what they were split by: "speaker" or "file".

    A speaker is the first folder in the path of a clean file, or else the beginning of its name (`speaker_of`), or
    `reader_<number>` in the name of the noisy one (DNS challenge). Files with equal clean recordings are in one part.

    Args:
        folder: noisy and clean files as in `find_pairs`, of any rate.
        parts: names of the parts. Each but the first has a tenth of the audio and at most ten minutes.
        by: "speaker" or "file"; None splits by file only if there are too few speakers.
        progress: a wrapper of a list of steps such as `tqdm`.

    Raises:
        AudioError: files are unusable or without a partner, all of which the message lists, or too few to be split.
    """
    pairs, problems = find_partners(folder)
    samples = []
    for checked in check_pairs(pairs, SAMPLE_RATE, progress):
        problems |= checked.problems
        samples.append(checked.samples)
    if problems:
        raise ProblemsError(f"{folder}: {len(problems)} problem(s); nothing was trained", problems)
    contents = [hashlib.sha256(pair.clean.read_bytes()).digest() for pair in pairs]
    for rule in (by,) if by else ("speaker", "file"):
        names = [_speaker(pair) if rule == "speaker" else pair.names[1] for pair in pairs]
        chosen = _choose(np.array(samples), _groups(list(zip(names, contents, strict=True))), len(parts))
        if chosen is not None:
            found = {name: [pairs[i] for i in np.flatnonzero(chosen == n)] for n, name in enumerate(parts)}
            return found, rule
    what = "speakers" if by == "speaker" else "recordings"
    raise AudioError(f"{folder}: has too few {what} for {len(parts)} parts ({', '.join(parts)}) that share none")


def _speaker(pair: Pair) -> str:
    if reader := re.search(r"reader_(\d+)", pair.name):
        return reader[1]
    first, *inside = Path(pair.names[1]).parts
    return first if inside else speaker_of(first)


def _groups(keys: list[tuple[Hashable, ...]]) -> np.ndarray:
    """Return the group of each item: those with an equal key are in one, and so on from item to item."""
    nodes = {(-1, item): item for item in range(len(keys))}
    edges = [(item, nodes.setdefault(key, len(nodes))) for item, own in enumerate(keys) for key in enumerate(own)]
    graph = coo_array((np.ones(len(edges)), np.transpose(edges)), shape=(len(nodes), len(nodes)))
    return connected_components(graph, directed=False)[1][: len(keys)]


def _choose(samples: np.ndarray, groups: np.ndarray, parts: int) -> np.ndarray | None:
    """Return the number of the part of each pair, or None if the groups are too few or too large."""
    share = np.bincount(groups, samples) / samples.sum()
    wanted = min(HELD_BACK, MOST_HELD_BACK_S * SAMPLE_RATE / samples.sum())
    order = iter(np.random.default_rng(0).permutation(np.flatnonzero(share <= MOST_OF_A_GROUP)))
    part = np.zeros(len(share), int)
    for number in range(1, parts):
        while share[part == number].sum() < wanted:
            if (each := next(order, None)) is None:
                return None
            part[each] = number
    return part[groups] if (part == 0).any() else None
