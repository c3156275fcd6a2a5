"""The level of a recording."""

import numpy as np
import pytest

from modelscope_ext.inference.meter import level_gain

#: Name → levels of a channel in the first block and in the second one.
CHANNELS = {
    "usual": (0.05, 0.05),
    "quiet": (1e-4, 1e-4),
    "loud": (500.0, 500.0),
    "silent": (0.0, 0.0),
    "quiet at first": (1e-4, 0.05),
    "loud later": (0.05, 500.0),
    "silent at first": (0.0, 1e-4),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_the_gain_of_a_channel_does_not_depend_on_the_others(name):
    blocks = [np.ones((100, 1), np.float32) * levels for levels in np.float32(list(CHANNELS.values())).T]
    together, place = level_gain(blocks[0], lambda: blocks), list(CHANNELS).index(name)
    alone = [block[:, place : place + 1] for block in blocks]
    gain = level_gain(alone[0], lambda: alone)
    assert together[place] == pytest.approx(1.0 if gain is None else gain[0])
    expected = {"quiet": 500.0, "loud": 1e-4, "silent at first": 0.05 / (1e-4 / 2**0.5)}
    assert together[place] == pytest.approx(expected.get(name, 1.0))
