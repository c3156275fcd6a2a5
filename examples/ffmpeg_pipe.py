"""Denoise between two FFmpeg processes, live: a capture device, a file or a network stream in, any format out.

python examples/ffmpeg_pipe.py SOURCE TARGET [INPUT OPTIONS …]
python examples/ffmpeg_pipe.py default talk.flac -f alsa             # a microphone
python examples/ffmpeg_pipe.py rtsp://camera/live rtmp://host/app    # a stream to a stream
"""

import subprocess
import sys

import numpy as np

from modelscope_ext import Denoiser

RATE, BLOCK = 48000, 480
PCM = ["-f", "s16le", "-ar", str(RATE), "-ac", "1"]
CONTAINERS = {"rtmp": ["-f", "flv"], "srt": ["-f", "mpegts"]}


def main(source: str, target: str, *options: str) -> None:
    stream = Denoiser().stream(RATE)
    quiet = ["ffmpeg", "-v", "error", "-nostdin"]
    decode = [*quiet, *options, "-i", source, *PCM, "-"]
    encode = [*quiet, *PCM, "-i", "-", *CONTAINERS.get(target.partition(":")[0], []), "-y", target]
    with (
        subprocess.Popen(decode, stdout=subprocess.PIPE) as reader,
        subprocess.Popen(encode, stdin=subprocess.PIPE) as writer,
    ):
        while data := reader.stdout.read(2 * BLOCK):
            writer.stdin.write(stream.feed(np.frombuffer(data, "<i2")).tobytes())
            writer.stdin.flush()
        writer.stdin.write(stream.flush().tobytes())
        writer.stdin.close()
    if reader.returncode or writer.returncode:
        raise SystemExit("ffmpeg failed; its message is above")


if __name__ == "__main__":
    main(*sys.argv[1:])
