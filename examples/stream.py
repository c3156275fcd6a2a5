"""Denoise a file as if it came from a microphone: 10 ms at a time, with state.

python examples/stream.py examples/noisy.wav streamed.wav
"""

import sys

import soundfile

from modelscope_ext import Denoiser


def main(source: str, target: str) -> None:
    with soundfile.SoundFile(source) as file:
        rate, channels = file.samplerate, file.channels
        stream = Denoiser().stream(rate, channels)
        with soundfile.SoundFile(target, "w", rate, channels, format="WAV") as out:
            for chunk in file.blocks(rate // 100, dtype="float32"):
                out.write(stream.feed(chunk))
            out.write(stream.flush())
    print(f"latency {stream.latency_ms:.1f} ms")


if __name__ == "__main__":
    main(*sys.argv[1:])
