"""Denoise a microphone to a loudspeaker in the callback of an audio program, by the package sounddevice.

python examples/callback.py [SECONDS]
Needs `pip install 'modelscope-ext[live]'`. Use headphones.
"""

import contextlib
import sys
import time

import numpy as np
import sounddevice

from modelscope_ext import Denoiser

RATE, BLOCK = 48000, 480


def main(seconds: float = float("inf")) -> None:
    stream = Denoiser().stream(RATE, block=BLOCK)

    def callback(indata: np.ndarray, outdata: np.ndarray, frames: int, when: object, status: object) -> None:
        if status:
            print(status, file=sys.stderr)  # the computer was too slow once
        outdata[:, 0] = stream.feed(indata[:, 0])

    with sounddevice.Stream(RATE, BLOCK, dtype="float32", channels=1, callback=callback) as device:
        total = stream.latency_ms + 1000 * sum(device.latency)
        print(f"latency {total:.0f} ms, of which {stream.latency_ms:.0f} ms to denoise; Ctrl-C ends it")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.1)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*map(float, sys.argv[1:]))
