"""A minute of `benchmarks/soak.py`."""

import sys

import pytest
from conftest import ROOT

from modelscope_ext import Denoiser

sys.path.append(str(ROOT / "benchmarks"))
from soak import soak


@pytest.mark.slow
def test_a_minute_of_a_stream_neither_grows_nor_drifts():
    run = soak(Denoiser("stream"), 48000, 1.0)
    assert run.samples_out == run.samples_in == 60 * 48000
    assert run.lag == 0
    assert run.difference < 1e-4  # a sample's drift would be a thousand times as much
    # 480 floats kept of each chunk by mistake would be 8.6 MiB in the last three quarters.
    assert run.memory[-1] - run.memory[1] < 4
    assert len(run.milliseconds) == 6000
