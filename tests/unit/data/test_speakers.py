"""Speakers by file names, and the most that one of them may have of the speech."""

import numpy as np
import pytest

from modelscope_ext.data.corpus import Corpus
from modelscope_ext.data.mixing import MixConfig, Mixer
from modelscope_ext.data.speakers import cap_speakers, speaker_names

RATE = 16000


def corpus(seconds):
    """Return a corpus in memory: file name → seconds; the samples count the files."""
    lengths = [round(length * RATE) for length in seconds.values()]
    samples = np.repeat(np.arange(1, len(lengths) + 1, dtype=np.int16), lengths)
    return Corpus(samples, np.cumsum([0, *lengths]), list(seconds), {}, RATE)


def shares(capped, names):
    """Return the share of the speech of each speaker."""
    held = {}
    for (corpus, weights), of_clips in zip(capped, names, strict=True):
        for name, amount in zip(of_clips, corpus.lengths * weights, strict=True):
            held[name] = held.get(name, 0) + amount
    total = sum(held.values())
    return {name: amount / total for name, amount in held.items()}


def test_speakers_are_named_by_their_rule():
    files = corpus({"a/26_495_0.ogg": 1, "a/26-7.ogg": 1, "Stella_M-en_000.ogg": 1, "x.wav": 1})
    assert speaker_names(files, "name") == ["26", "26", "Stella", "x"]
    assert len(set(speaker_names(files, "file"))) == 4
    assert len(set(speaker_names(files, "one"))) == len(set(speaker_names(files, 7))) == 1
    assert not set(speaker_names(files, "one", 0)) & set(speaker_names(files, "one", 1))
    for rule in ("names", 0, -1, 1.5, None):
        with pytest.raises(ValueError, match='must be "name", "file", "one" or a number'):
            speaker_names(files, rule)


def test_no_speaker_is_above_the_limit_and_the_others_keep_their_proportions():
    read = corpus({f"{name}_{i}.ogg": 2 for name in "abcdefghij" for i in range(3)} | {"loud_1.ogg": 60, "a_9.ogg": 4})
    joined, alone = corpus({"a_1.ogg": 5}), corpus({"1.ogg": 30, "2.ogg": 50})
    corpora, rules = [(read, 1.0), (joined, 2.0), (alone, 1.0)], ["name", "name", 3]
    names = [speaker_names(each, rule, i) for i, ((each, _), rule) in enumerate(zip(corpora, rules, strict=True))]
    held = shares(cap_speakers(corpora, rules, 0.1), names)
    assert sum(held.values()) == pytest.approx(1)
    assert held["loud"] == pytest.approx(0.1)
    assert held[names[2][0]] == pytest.approx(0.3)  # three unknown speakers
    assert held["a"] == pytest.approx(0.1)  # 20 of the other 74 s in two corpora, one of which counts twice
    assert [held[name] for name in "bcdefghij"] == pytest.approx([0.5 / 9] * 9)


def test_a_limit_that_none_reaches_changes_nothing():
    read = corpus({f"{i}.ogg": 1 + i for i in range(10)})
    ((_, weights),) = cap_speakers([(read, 3.0)], ["file"], 0.5)
    assert weights == pytest.approx(np.full(10, 3.0))


def test_too_few_speakers_are_an_error():
    read = corpus({"a_1.ogg": 1, "b_1.ogg": 1, "c_1.ogg": 1})
    with pytest.raises(ValueError, match=r"4 speakers cannot fill the speech at 20\.0% each .* at least 5 are needed"):
        cap_speakers([(read, 1.0), (corpus({"1.ogg": 1}), 1.0)], ["name", "one"], 0.2)
    with pytest.raises(ValueError, match="3 speakers"):  # a corpus without weight does not count
        cap_speakers([(read, 1.0), (corpus({"1.ogg": 1}), 0.0)], ["name", 10], 0.2)


def test_the_mixer_draws_by_the_weights_of_clips():
    read = corpus({"a_1.ogg": 30, "b_1.ogg": 3, "c_1.ogg": 3})
    capped = cap_speakers([(read, 1.0)], ["name"], 0.4)
    noise = [(corpus({"n.ogg": 3}), 1.0)]
    mixer = Mixer(capped, noise, [], MixConfig(seconds=0.1, speed_share=0), 1)
    rng = np.random.default_rng(0)
    drawn = [int(mixer.speech.segment(rng, 0, 10)[0] * 32768) for _ in range(1000)]
    assert [drawn.count(clip) / 1000 for clip in (1, 2, 3)] == pytest.approx([0.4, 0.3, 0.3], abs=0.06)
