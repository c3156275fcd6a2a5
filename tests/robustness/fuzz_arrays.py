"""Arrays by Hypothesis: most are audio with a few odd samples, some are not audio at all."""

import numpy as np
from fuzz_common import WINDOW, outcome
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from modelscope_ext import Denoiser
from modelscope_ext.audio import AudioError
from modelscope_ext.audio.pcm import MAX_CHANNELS

RATES = (16000, 8000, 11025, 22050, 44100, 48000, 96000, 192000, 1000, 1_000_000)
LENGTHS = st.integers(0, 3 * WINDOW)
FLOATS = st.one_of(
    st.floats(-1, 1, width=32),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1e-45, 1e-39, 1e9, -1e15, 3e38, np.inf, -np.inf, np.nan]),
)
TYPES = st.one_of(
    arrays.integer_dtypes(endianness="?"),
    arrays.unsigned_integer_dtypes(endianness="?"),
    arrays.floating_dtypes(endianness="?"),
    st.sampled_from([np.dtype(name) for name in ("bool", "complex64", "O", "U3", "M8[s]", "longdouble", "V4")]),
)
LAYOUTS = {
    "as it is": lambda a: a,
    "backwards": lambda a: a[::-1],
    "every second": lambda a: np.repeat(a, 2, 0)[::2],
    "by column": lambda a: np.asfortranarray(a),
    "read-only": lambda a: (
        np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) if a.size and a.dtype.kind != "O" else a
    ),
    "one for all": lambda a: np.broadcast_to(a[:1], a.shape) if len(a) else a,
}


@st.composite
def audio(draw) -> np.ndarray:
    """Draw an array."""
    dtype, length = draw(TYPES), draw(LENGTHS)
    tail = draw(st.sampled_from([()] * 12 + [(2,)] * 4 + [(1,), (3,), (0,), (9,), (MAX_CHANNELS + 1,), (2, 2)]))
    length = min(length, 20) if tail and tail[0] > 9 else length
    base = np.random.default_rng(draw(st.integers(0, 2**32))).standard_normal((length, *tail))
    with np.errstate(all="ignore"):
        try:
            if dtype.kind == "f":
                values = (base * draw(st.sampled_from([0, 1e-42, 1e-6, 0.1, 1, 1e4, 1e12]))).astype(dtype)
                if values.size:
                    for place, value in draw(st.lists(st.tuples(st.integers(0, 2**32), FLOATS), max_size=3)):
                        values.flat[place % values.size] = value
            elif dtype.kind in "iu":
                limits = np.iinfo(dtype)
                values = np.clip(base * draw(st.sampled_from([0, 0.2, 2])) * limits.max, limits.min, limits.max)
                values = values.clip(limits.min, np.nextafter(float(limits.max), 0)).astype(dtype)
            else:
                values = np.zeros(base.shape, dtype)
        except (TypeError, ValueError):
            values = np.zeros(base.shape, dtype)
    return LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](values)


ODD_RATES = st.sampled_from([0, -1, 999, 1_000_001, 999_983, 2**70, 16000.0, np.nan, None, "16000", True])
RATE = st.integers(0, 9).flatmap(
    lambda n: (
        ODD_RATES if n == 9 else st.integers(1000, 60_000) if n == 8 else st.sampled_from([*RATES, np.int32(16000)])
    )
)


def check_array(denoiser: Denoiser, given: np.ndarray, rate: object) -> str:
    """Check the shape, type and samples of the output, and that the input is unchanged."""
    before = given.tobytes()
    try:
        out = denoiser(given, rate)
    except AudioError as error:
        reason = str(error)
        assert reason
        return outcome(reason, given.shape, repr(rate))
    assert given.dtype.kind in "fiu", "taken for audio"
    assert (out.shape, out.dtype) == (given.shape, given.dtype), (out.shape, out.dtype)
    assert np.isfinite(out.astype(np.float64)).all(), "NaN or infinite"
    assert given.tobytes() == before, "the input was changed"
    return "done"
