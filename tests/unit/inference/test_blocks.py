"""Streams of blocks, as the callbacks of audio programs need them; and what a `Denoiser` leaves alone."""

import gc
import random
import shutil
import tracemalloc

import numpy as np
import pytest
import torch
from conftest import streamed

from modelscope_ext import Denoiser
from modelscope_ext.audio import AudioError
from modelscope_ext.pretrained import DEFAULT

FORMATS = [(16000, 256), (16000, 160), (48000, 480), (44100, 512), (8000, 64), (44100, 7)]


def in_blocks(stream, audio, block):
    return [stream.feed(audio[start : start + block]) for start in range(0, len(audio), block)]


@pytest.mark.parametrize(("rate", "block"), FORMATS)
def test_every_block_gives_a_block_from_the_first_one_on(denoiser, noisy, rate, block):
    audio = noisy[16000 : 16000 + max(20, 6000 // block) * block]
    stream = denoiser.stream(rate, block=block)
    parts = in_blocks(stream, audio, block)
    assert {len(part) for part in parts} == {block}
    out = np.concatenate([*parts, stream.flush()])
    late = round(stream.latency_ms * rate / 1000)
    assert late == stream.delay
    assert len(out) == len(audio) + late
    assert not out[:late].any()
    assert np.allclose(out[late:], streamed(denoiser, audio, rate), atol=1e-5)


@pytest.mark.parametrize(("rate", "block"), FORMATS)
def test_the_delay_is_as_short_as_it_can_be(denoiser, rate, block):
    """A stream without blocks once lacks so many samples; at 44.1 kHz only after many seconds."""
    free, lag, lacking = denoiser.stream(rate), 0, 0
    for _ in range(6000 // block):
        lag += block - len(free.feed(np.zeros(block, np.float32)))
        lacking = max(lacking, lag)
    assert 0 <= denoiser.stream(rate, block=block).delay - lacking <= (rate == 44100) * 353


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float64])
@pytest.mark.parametrize("channels", [1, 2])
def test_blocks_keep_their_type_and_shape(denoiser, dtype, channels):
    silence = np.full((480, channels) if channels > 1 else 480, 128 if dtype == np.uint8 else 0, dtype)
    stream = denoiser.stream(48000, channels, block=480)
    for out in (stream.feed(silence), stream.feed(silence)):
        assert out.dtype == dtype
        assert np.array_equal(out, silence)


def test_blocks_of_another_size_are_refused(denoiser):
    with pytest.raises(AudioError, match="takes blocks of 480 samples, got 512"):
        denoiser.stream(48000, block=480).feed(np.zeros(512, np.float32))
    for block in (0, -1, 1.5, 10**9):
        with pytest.raises(ValueError, match="block must be 1 … 480000 samples"):
            denoiser.stream(48000, block=block)


def test_memory_does_not_grow_with_the_blocks(denoiser, noisy):
    stream, block = denoiser.stream(48000, block=480), noisy[:480]
    held = []
    tracemalloc.start()
    for _ in range(2):
        for _ in range(200):
            stream.feed(block)
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held[1] < held[0] + 100 * block.nbytes  # Python keeps some small objects for later


@pytest.fixture
def by_torch(tmp_path):
    """Return a copy of the model in this package without its graph, which torch runs."""
    for name in ("configuration.json", "model.safetensors"):
        shutil.copy(DEFAULT / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_type_of_torch_does_not_matter(by_torch, noisy, dtype):
    expected = Denoiser(by_torch)(noisy[:8000], 16000)
    torch.set_default_dtype(dtype)
    try:
        found = Denoiser(by_torch)(noisy[:8000], 16000)
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.abs(found - expected).max() < 1e-6


def test_autocast_of_the_caller_does_not_matter(by_torch, noisy):
    denoiser = Denoiser(by_torch)
    expected = denoiser(noisy[:8000], 16000)
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(denoiser(noisy[:8000], 16000), expected)


def global_state():
    state = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    return [*state, torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), np.geterr()]


def test_a_denoiser_changes_no_global_state(by_torch, noisy):
    before = global_state()
    for model in (None, by_torch):
        denoiser = Denoiser(model)
        denoiser(noisy[:8000], 44100)
        denoiser.stream(48000, block=480).feed(noisy[:480])
    assert global_state() == before
