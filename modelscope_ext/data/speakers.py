"""Speakers of a corpus, and weights that keep every one of them below a share."""

import re
from pathlib import Path

import numpy as np

from modelscope_ext.data.corpus import Corpus


def speaker_of(name: str | Path) -> str:
    """Return the speaker that a file name begins with: up to the first `-`, `_` or `.`."""
    return re.split("[-_.]", Path(name).name)[0]


def speaker_names(corpus: Corpus, rule: str | int, position: int = 0) -> list[str]:
    """Return the speaker of each clip by its file name.

    The rule "name" takes the file name up to the first `-` or `_`: the same speaker in all corpora. With "file" every
    file has its own. With "one" or a number of unknown speakers the whole corpus has one name. `position` distinguishes
    the corpora. Another rule is a ValueError.
    """
    if rule == "name":
        return [speaker_of(name) for name in corpus.names]
    if rule == "file":
        return [f"{position}/{name}" for name in corpus.names]
    if rule == "one" or (isinstance(rule, int) and rule > 0):
        return [f"{position}/"] * len(corpus)
    raise ValueError(f'speaker must be "name", "file", "one" or a number of speakers, not {rule!r}')


def cap_speakers(
    corpora: list[tuple[Corpus, float]], rules: list[str | int], most: float
) -> list[tuple[Corpus, np.ndarray]]:
    """Return weights for each clip that give no speaker more than `most` of the speech.

    The excess of a speaker goes to all that are below in proportion to their shares.

    Args:
        corpora: speech with its weights. A clip's share is its length times its corpus' weight.
        rules: `speaker_names`' rule of each corpus.
        most: share of one speaker in 0 … 1.

    Raises:
        ValueError: there are too few speakers.
    """
    named = [speaker_names(corpus, rule, i) for i, ((corpus, _), rule) in enumerate(zip(corpora, rules, strict=True))]
    people: dict[str, int] = {}
    for names, rule in zip(named, rules, strict=True):
        people |= dict.fromkeys(names, rule if isinstance(rule, int) else 1)
    index = {name: i for i, name in enumerate(people)}
    share = np.zeros(len(people))
    for names, (corpus, weight) in zip(named, corpora, strict=True):
        np.add.at(share, [index[name] for name in names], corpus.lengths * weight)
    share /= share.sum()
    limit = most * np.array(list(people.values())) * (share > 0)
    if limit.sum() < 1:
        count = round(limit.sum() / most)
        raise ValueError(
            f"{count} speakers cannot fill the speech at {most:.1%} each (max_speaker_share): "
            f"at least {int(np.ceil(1 / most))} are needed"
        )
    factor = _fill_up(share, limit) / np.where(share > 0, share, 1)
    return [
        (corpus, weight * factor[[index[name] for name in names]])
        for names, (corpus, weight) in zip(named, corpora, strict=True)
    ]


def _fill_up(share: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Return the shares (in sum one) scaled by one factor and cut off at their limits."""
    full = share == 0
    while not full.all():
        scaled = share * (1 - limit[full].sum()) / share[~full].sum()
        over = ~full & (scaled > limit)
        if not over.any():
            return np.where(full, limit, scaled)
        full |= over
    return limit
