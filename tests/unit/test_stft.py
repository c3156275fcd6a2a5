import numpy as np
import pytest
import torch
from scipy import signal

from modelscope_ext.stft import istft, sqrt_hann, stft

HOP, WINDOW = 160, 320


@pytest.mark.parametrize("length", [1, 159, 160, 161, 4000])
def test_the_inverse_is_exact(length):
    audio = torch.randn(2, length)
    window = sqrt_hann(WINDOW)
    assert torch.allclose(istft(stft(audio, window), window, length), audio, atol=1e-6)


def test_agrees_with_scipy():
    audio = np.random.default_rng(0).standard_normal(3200)
    window = np.sqrt(signal.get_window("hann", WINDOW))
    spec = stft(torch.from_numpy(audio)[None], torch.from_numpy(window))[0]
    expected = signal.ShortTimeFFT(window, HOP, 1).stft(np.pad(audio, (HOP, HOP)), p0=1, p1=len(spec) + 1, k_offset=0)
    assert np.allclose(np.abs(spec), np.abs(expected.T), atol=1e-9)
