"""The mixtures by kind that benchmarks score."""

import sys

import numpy as np
import pytest
from conftest import ROOT, SHARED

from modelscope_ext.data.mixing import active_rms

sys.path.append(str(ROOT / "benchmarks"))

from mixtures import ALONE, KINDS, mixtures

pytestmark = pytest.mark.shared


def test_every_kind_is_made_from_held_back_files(tmp_path):
    made = mixtures(SHARED / "data", tmp_path, count=2, seconds=3.0)
    assert list(made) == [*KINDS, *(f"{name} alone" for name in ALONE)]
    again = mixtures(SHARED / "data", tmp_path, count=2, seconds=3.0)
    for kind, pairs in made.items():
        for (noisy, clean), (same, _) in zip(pairs, again[kind], strict=True):
            assert noisy.dtype == clean.dtype == np.float32
            assert noisy.shape == clean.shape
            assert np.array_equal(noisy, same)
            assert np.abs(noisy).max() <= 0.99 + 1e-6
            assert np.array_equal(noisy, clean) == (kind == "clean")
            assert clean.any() != kind.endswith("alone")
        assert not np.array_equal(pairs[0][0], pairs[1][0])
    for kind in ("music", "clicks", "machines", "babble", "white"):
        for noisy, clean in made[kind]:
            assert 20 * np.log10(active_rms(clean) / active_rms(noisy - clean)) == pytest.approx(5, abs=0.01)
    for noisy, _ in made["-50 dBFS"]:
        assert 20 * np.log10(np.std(noisy)) == pytest.approx(-50, abs=0.01)
