"""Serve denoising over TCP: raw PCM (signed 16-bit, mono, 16 kHz) goes in and comes out denoised, live.

python examples/serve.py [PORT]
nc 127.0.0.1 7861 < noisy.pcm > denoised.pcm
"""

import socketserver
import sys

import numpy as np

from modelscope_ext import Denoiser

RATE = 16000


class Handler(socketserver.StreamRequestHandler):
    """A connection with its own stream; all connections share one Denoiser."""

    def handle(self) -> None:
        stream, rest = self.server.denoiser.stream(RATE), b""
        while data := self.request.recv(4096):
            data = rest + data
            whole = len(data) // 2 * 2
            rest = data[whole:]
            self.wfile.write(stream.feed(np.frombuffer(data[:whole], "<i2")).tobytes())
        self.wfile.write(stream.flush().tobytes())


def server(port: int, denoiser: Denoiser) -> socketserver.TCPServer:
    made = socketserver.ThreadingTCPServer(("127.0.0.1", port), Handler)
    made.daemon_threads = True
    made.denoiser = denoiser
    return made


if __name__ == "__main__":
    with server(int(sys.argv[1]) if len(sys.argv) > 1 else 7861, Denoiser()) as running:
        running.serve_forever()
