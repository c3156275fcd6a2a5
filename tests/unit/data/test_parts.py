"""Pairs divided into parts that share no speaker and no recording."""

from itertools import combinations

import numpy as np
import pytest
import soundfile
from conftest import RATE

from modelscope_ext.audio import AudioError
from modelscope_ext.data.parts import PARTS, load_parts


@pytest.fixture
def folder(tmp_path):
    """Return a function that writes pairs by their names: (noisy, clean, number of the recording)."""

    def write(files, seconds=0.2):
        for noisy, clean, number in files:
            audio = np.random.default_rng(number).standard_normal(round(seconds * RATE)) * 0.1
            for kind, name in (("noisy", noisy), ("clean", clean)):
                path = tmp_path / "pairs" / kind / name
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, audio, RATE)
        return tmp_path / "pairs"

    return write


def same(names):
    return [(name, name, number) for number, name in enumerate(names)]


@pytest.mark.parametrize(
    ("files", "speaker"),
    [
        (same(f"p{i // 3}_{i}.wav" for i in range(36)), lambda pair: pair.name.split("_")[0]),
        (same(f"{i // 3}/{i % 3}.wav" for i in range(36)), lambda pair: pair.noisy.parent.name),
        (
            [(f"book_reader_{i // 3}_snr5_fileid_{i}.wav", f"clean_fileid_{i}.wav", i) for i in range(36)],
            lambda pair: pair.name.split("_")[2],
        ),
    ],
)
def test_parts_share_no_speaker(folder, files, speaker):
    parts, rule = load_parts(folder(files))
    assert (list(parts), rule) == (list(PARTS), "speaker")
    assert sorted(pair.name for pairs in parts.values() for pair in pairs) == sorted(noisy for noisy, *_ in files)
    for one, other in combinations(parts.values(), 2):
        assert not set(map(speaker, one)) & set(map(speaker, other))
    sizes = [len(pairs) for pairs in parts.values()]
    assert sizes[0] >= 24
    assert min(sizes) >= 3
    assert load_parts(folder(files))[0] == parts


def test_one_speaker_is_divided_by_files(folder):
    parts, rule = load_parts(folder(same(f"me_{i}.wav" for i in range(20))))
    assert rule == "file"
    assert [len(pairs) for pairs in parts.values()] == [16, 2, 2]
    with pytest.raises(AudioError, match="too few speakers for 3 parts"):
        load_parts(folder([]), by="speaker")
    assert [len(pairs) for pairs in load_parts(folder([]), PARTS[:2])[0].values()] == [18, 2]


def test_a_recording_in_several_noises_is_in_one_part(folder):
    files = [(f"{noise}_{i}.wav", f"{noise}_{i}.wav", i) for noise in ("car", "bar", "rain") for i in range(12)]
    parts, rule = load_parts(folder(files))
    assert rule == "file"  # the three noises are no speakers: each voice is in all of them
    for one, other in combinations(parts.values(), 2):
        assert not {pair.name.split("_")[1] for pair in one} & {pair.name.split("_")[1] for pair in other}


def test_what_cannot_be_divided_is_an_error(folder):
    with pytest.raises(AudioError, match="too few recordings for 3 parts"):
        load_parts(folder(same(["a.wav", "b.wav"])))
    root = folder(same(f"{i}.wav" for i in range(20)))
    (root / "noisy" / "7.wav").write_text("text")
    (root / "clean" / "3.wav").unlink()
    with pytest.raises(AudioError) as caught:
        load_parts(root)
    assert "noisy/7.wav: not readable" in str(caught.value)
    assert "noisy/3.wav: has no clean file" in str(caught.value)
