"""Serve denoising to browsers and programs over WebSockets, by asyncio and the package websockets.

python examples/websocket.py [PORT]
A client connects to ws://127.0.0.1:7862/48000, the path being its rate, and sends messages of signed 16-bit mono PCM,
whole samples of any number. It gets the finished samples back, and the rest after an empty message.
"""

import asyncio
import contextlib
import functools
import sys

import numpy as np
from websockets.asyncio.server import ServerConnection, serve

from modelscope_ext import Denoiser


async def converse(denoiser: Denoiser, client: ServerConnection) -> None:
    """Denoise one connection: its own stream, in a thread so that other connections go on."""
    try:
        stream = denoiser.stream(int(client.request.path.strip("/")))
        async for message in client:
            if message:
                out = await asyncio.to_thread(stream.feed, np.frombuffer(message, "<i2"))
            else:
                out = await asyncio.to_thread(stream.flush)
            await client.send(out.tobytes())
            if not message:
                break
    except (TypeError, ValueError) as error:  # not PCM, or not a rate
        await client.close(1003, str(error)[:100])


async def main(port: int = 7862) -> None:
    async with serve(functools.partial(converse, Denoiser()), "127.0.0.1", port) as server:
        print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/48000", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*map(int, sys.argv[1:])))
