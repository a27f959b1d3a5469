# SPDX-License-Identifier: MIT
"""A line between the program and the server: so much delay, so much bandwidth; it counts bytes and turns.

TLS passes through untouched. Run as a program of its own, so that its work is nobody's processor time but its own:

    python link.py SERVER-PORT [--delay MS] [--megabits N]

It prints its port; at the end of its standard input it prints "TURNS UP DOWN" and ends. A turn is each time that the
program speaks after the server did.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from dataclasses import dataclass

CHUNK = 1 << 16


@dataclass
class Count:
    """Of all connections. `down` and `up` are bytes from and to the server."""

    turns: int = 0
    up: int = 0
    down: int = 0


class Lane:
    """One direction of one connection: what is put in comes out after `delay` seconds, at most `rate` bytes/s."""

    def __init__(self, writer: asyncio.StreamWriter, delay: float, rate: float) -> None:
        self._writer, self._delay, self._rate = writer, delay, rate
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=4096)
        self._free = 0.0  # when the line has sent all that was put in

    async def put(self, data: bytes) -> None:
        now = asyncio.get_running_loop().time()
        if self._rate:
            self._free = max(self._free, now) + len(data) / self._rate
            now = self._free
        await self._queue.put((now + self._delay, data))

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            when, data = await self._queue.get()
            if (wait := when - loop.time()) > 0:
                await asyncio.sleep(wait)
            if not data:
                self._writer.close()
                return
            self._writer.write(data)
            await self._writer.drain()


class Link:
    """Listens on a port of 127.0.0.1, and passes each connection on."""

    def __init__(self, upstream: int, delay: float, rate: float) -> None:
        self._upstream, self._delay, self._rate = upstream, delay, rate
        self.count = Count()

    async def serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        server_in, server_out = await asyncio.open_connection("127.0.0.1", self._upstream, limit=CHUNK)
        spoke = [True]  # whether the server was the last to speak
        up, down = Lane(server_out, self._delay, self._rate), Lane(client_out, self._delay, self._rate)
        tasks = [
            up.run(),
            down.run(),
            self._pump(client_in, up, spoke, upwards=True),
            self._pump(server_in, down, spoke, upwards=False),
        ]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(self, source: asyncio.StreamReader, lane: Lane, spoke: list[bool], *, upwards: bool) -> None:
        try:
            while data := await source.read(CHUNK):
                if upwards:
                    self.count.turns += spoke[0]
                    self.count.up += len(data)
                else:
                    self.count.down += len(data)
                spoke[0] = not upwards
                await lane.put(data)
        finally:
            await lane.put(b"")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("upstream", type=int)
    parser.add_argument("--delay", type=float, default=0.0, help="one way, milliseconds")
    parser.add_argument("--megabits", type=float, default=0.0)
    options = parser.parse_args()
    link = Link(options.upstream, options.delay / 1000, options.megabits * 1e6 / 8)
    server = await asyncio.start_server(link.serve, "127.0.0.1", 0, limit=CHUNK)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print(link.count.turns, link.count.up, link.count.down, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
