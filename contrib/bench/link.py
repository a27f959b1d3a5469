# SPDX-License-Identifier: MIT
"""A line between the program and the server: so much delay, so much bandwidth; it counts bytes and turns.

TLS passes through untouched. Run as a program of its own, so that its work is nobody's processor time but its own:

    python link.py SERVER-PORT [--delay MS] [--megabits N]

It prints its port; at the end of its standard input it prints "TURNS UP DOWN" and ends. A turn is each time that the
program speaks after it has heard from the server. All connections share the bandwidth, and a connection takes one
round trip to be made. Not modelled: loss, and TCP's slow start.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

CHUNK = 1 << 14  # 1.3 ms at 100 Mbit/s: what comes in a chunk is late by no more than that
UNDER_WAY = 1 << 20  # octets of a connection that one direction holds before their sender has to wait


@dataclass
class Count:
    """Of all connections. `down` and `up` are bytes from and to the server."""

    turns: int = 0
    up: int = 0
    down: int = 0


class Direction:
    """Of all connections together: at most `rate` bytes/s, one after another (0: no limit)."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free = 0.0

    def sent(self, size: int, now: float) -> float:
        """When the last of so many bytes is on its way, if they are put in now."""
        if not self._rate:
            return now
        self._free = max(self._free, now) + size / self._rate
        return self._free


class Lane:
    """One direction of one connection: what is put in comes out `delay` seconds after it was sent.

    `heard` is called with each chunk as it comes out.
    """

    def __init__(
        self, direction: Direction, delay: float, writer: asyncio.StreamWriter, heard: Callable[[int], None]
    ) -> None:
        self._direction, self._delay, self._writer, self._heard = direction, delay, writer, heard
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self._under_way = 0
        self._less = asyncio.Event()

    async def put(self, data: bytes) -> None:
        """The end is the empty chunk."""
        while self._under_way >= UNDER_WAY:
            self._less.clear()
            await self._less.wait()
        sent = self._direction.sent(len(data), asyncio.get_running_loop().time())
        self._under_way += len(data)
        self._queue.put_nowait((sent + self._delay, data))

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            when, data = await self._queue.get()
            if (wait := when - loop.time()) > 0:
                await asyncio.sleep(wait)
            if not data:
                self._writer.close()
                return
            self._heard(len(data))
            self._writer.write(data)
            await self._writer.drain()
            self._under_way -= len(data)
            self._less.set()


class Link:
    """Listens on a port of 127.0.0.1, and passes each connection on."""

    def __init__(self, upstream: int, delay: float, rate: float) -> None:
        self._upstream, self._delay = upstream, delay
        self._up, self._down = Direction(rate), Direction(rate)
        self.count = Count()

    async def serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        # The kernel has answered the program already; over a real line its SYN would be under way still.
        await asyncio.sleep(2 * self._delay)
        server_in, server_out = await asyncio.open_connection("127.0.0.1", self._upstream, limit=CHUNK)
        turn = Turn(self.count)
        up = Lane(self._up, self._delay, server_out, lambda _: None)
        down = Lane(self._down, self._delay, client_out, turn.heard)
        tasks = [up.run(), down.run(), pump(client_in, up, turn.spoke), pump(server_in, down, lambda _: None)]
        with suppress(asyncio.CancelledError):  # the benchmark has seen enough
            await asyncio.gather(*tasks, return_exceptions=True)


class Turn:
    """Whose turn it is to speak on one connection."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._heard = True  # nothing yet; but the first to speak is the program

    def heard(self, size: int) -> None:
        """The server, by the program."""
        self._count.down += size
        self._heard = True

    def spoke(self, size: int) -> None:
        """The program."""
        self._count.up += size
        self._count.turns += self._heard
        self._heard = False


async def pump(source: asyncio.StreamReader, lane: Lane, read: Callable[[int], None]) -> None:
    try:
        while data := await source.read(CHUNK):
            read(len(data))
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
