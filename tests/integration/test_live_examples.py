"""The examples of live audio without hardware: a stand-in for a sound card, a local client, files through FFmpeg."""

import asyncio
import contextlib
import functools
import os
import runpy
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from conftest import EXAMPLES, ROOT, streamed


def load(name):
    return runpy.run_path(str(EXAMPLES / name))


class Sounds:
    """A sound card that plays `audio` to the callback when it is opened, and keeps what it gives back."""

    latency = (0.01, 0.02)

    def __init__(self, audio):
        self.audio, self.heard = audio, []

    def open(self, rate, block, dtype, channels, callback):
        assert (rate, dtype, channels) == (48000, "float32", 1)
        for start in range(0, len(self.audio), block):
            out = np.full((block, 1), np.nan, np.float32)
            callback(self.audio[start : start + block, None], out, block, None, None)
            self.heard.append(out[:, 0])
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_the_callback_of_a_sound_card(denoiser, noisy, monkeypatch, capsys):
    sounds = Sounds(noisy[:9600])
    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(Stream=sounds.open))
    load("callback.py")["main"](0)
    stream = denoiser.stream(48000, block=480)
    expected = [stream.feed(noisy[start : start + 480]) for start in range(0, 9600, 480)]
    assert np.allclose(sounds.heard, expected, atol=1e-6)
    assert "latency 64 ms, of which 34 ms to denoise" in capsys.readouterr().out


def test_a_websocket_server(denoiser, noisy):
    client = pytest.importorskip("websockets.asyncio.client")
    closed = pytest.importorskip("websockets.exceptions").ConnectionClosedError
    serve = pytest.importorskip("websockets.asyncio.server").serve
    converse = functools.partial(load("websocket.py")["converse"], denoiser)
    pcm = (noisy[:24000] * 32767).astype("<i2")

    async def send(place, parts):
        async with client.connect(place) as connection:
            for part in parts:
                await connection.send(part)
            received = []
            with contextlib.suppress(closed):
                async for part in connection:
                    received.append(part)
            return b"".join(received), connection.close_reason

    async def talk():
        async with serve(converse, "127.0.0.1", 0) as server:
            place = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            parts = [pcm[start : start + 1000].tobytes() for start in range(0, len(pcm), 1000)]
            both = await asyncio.gather(*(send(f"{place}/48000", [*parts, b""]) for _ in range(2)))
            return both, await send(f"{place}/48000", [b"odd"]), await send(f"{place}/loud", [])

    both, odd, no_rate = asyncio.run(talk())
    expected = streamed(denoiser, pcm, 48000)
    for heard, _ in both:
        assert np.abs(np.frombuffer(heard, "<i2").astype(int) - expected).max() <= 1
    assert "multiple of element size" in odd[1]
    assert "invalid literal" in no_rate[1]


@pytest.mark.slow
def test_a_pipe_between_two_ffmpeg_processes(denoiser, noisy, tmp_path):
    program = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    (tmp_path / "ffmpeg").symlink_to(program)
    soundfile.write(tmp_path / "in.wav", noisy[:24000], 48000, "PCM_16")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    def run(source, target):
        command = [sys.executable, str(EXAMPLES / "ffmpeg_pipe.py"), source, target]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    done = run("in.wav", "out.flac")
    assert done.returncode == 0, done.stderr
    out, rate = soundfile.read(tmp_path / "out.flac", dtype="float32")
    assert rate == 48000
    assert np.abs(out - streamed(denoiser, noisy[:24000], 48000)).max() < 1e-3
    failed = run("none.wav", "other.flac")
    assert failed.returncode == 1
    assert "No such file" in failed.stderr
    assert "ffmpeg failed" in failed.stderr
