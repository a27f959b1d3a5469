# SPDX-License-Identifier: MIT
"""One connection through a proxy: two pumps that pass lines and literals on, and what the rules want done with them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING

from tests.support.rules import LITERAL, OWN_TAG, Direction, How, Rule

if TYPE_CHECKING:
    from tests.support.proxy import Proxy

_UNDER_WAY = 4 << 20  # octets that a slow line holds before its sender has to wait
_TAGGED = re.compile(rb"^([^\s*+]+) (OK|NO|BAD)\b", re.IGNORECASE)
_MARKS = re.compile(rb"^(?:UID )?STORE \S+ \+?FLAGS(?:\.SILENT)? .*\\Deleted", re.IGNORECASE)
_UPLOADS_MARKED = re.compile(rb"^APPEND .*\\Deleted.*\{\d+\+?\}\r\n$", re.IGNORECASE)


class Ended(Exception):
    """The link ends here."""


class Outlet:
    """Where one direction leaves the proxy, at the pace that the proxy is told (`Proxy.slow`)."""

    def __init__(self, writer: asyncio.StreamWriter, pace: Pace) -> None:
        self._writer, self._pace = writer, pace
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._under_way = 0
        self._free_at = 0.0
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._finished = False

    async def send(self, data: bytes) -> None:
        if self._finished:
            return
        if self._task is None and not self._pace.slow:
            self._writer.write(data)
            await self._writer.drain()
            return
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())
        async with self._changed:
            await self._changed.wait_for(lambda: self._under_way < _UNDER_WAY)
            due = max(asyncio.get_running_loop().time() + self._pace.seconds, self._free_at)
            self._free_at = due + len(data) * self._pace.seconds_an_octet
            self._waiting.append((self._free_at, data))
            self._under_way += len(data)
            self._changed.notify_all()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._waiting)
            await asyncio.sleep(max(0.0, self._waiting[0][0] - loop.time()))
            due = []
            while self._waiting and self._waiting[0][0] <= loop.time():
                due.append(self._waiting.popleft()[1])
            self._writer.write(b"".join(due))
            with contextlib.suppress(OSError):
                await self._writer.drain()
            async with self._changed:
                self._under_way -= sum(map(len, due))
                self._changed.notify_all()

    async def flush(self) -> None:
        """What was let through has left."""
        if self._task is not None:
            async with self._changed:
                await self._changed.wait_for(lambda: not self._under_way)
        with contextlib.suppress(OSError):
            await self._writer.drain()

    async def finish(self) -> None:
        """FIN, behind what was let through; the other direction of this socket goes on."""
        await self.flush()
        self._finished = True
        with contextlib.suppress(OSError):
            self._writer.get_extra_info("socket").shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.flush(), 5)
        self._stop()
        self._writer.close()

    def abort(self, *, reset: bool) -> None:
        """The end, FIN or RST; what was under way is lost."""
        self._stop()
        if reset:
            with contextlib.suppress(OSError):
                now = struct.pack("ii", 1, 0)
                self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
        self._writer.transport.abort()

    def _stop(self) -> None:
        self._finished = True
        if self._task is not None:
            self._task.cancel()


class Pace:
    """Of one direction; takes effect on what is sent from now on."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.seconds_an_octet = 0.0

    @property
    def slow(self) -> bool:
        return bool(self.seconds or self.seconds_an_octet)


class Link:
    """`run` lasts until the connection ends."""

    def __init__(
        self,
        proxy: Proxy,
        source: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        server: asyncio.StreamWriter,
    ) -> None:
        self._proxy, self._source, self._answers = proxy, source, answers
        for writer in (client, server):
            # So drain() waits until all has left. Not 0: TLS would be paused for ever.
            writer.transport.set_write_buffer_limits(1, 0)
        self._client, self._server = Outlet(client, proxy.pace_down), Outlet(server, proxy.pace_up)
        self._mute: set[Direction] = set()
        self._open: set[bytes] = set()  # tags whose answer has not come
        self._held: dict[bytes, asyncio.Future[bytes]] = {}  # tagged answers that a pump waits for
        self._lost: dict[bytes, How] = {}  # tags whose answer ends the link
        self._idling = False
        self._own = 0
        self.stalled = False

    async def run(self) -> None:
        pumps = (self._raw("up"), self._raw("down")) if self._proxy.raw else (self._up(), self._down())
        try:
            await _until_one_ends(*pumps)
        except (OSError, Ended, asyncio.IncompleteReadError):
            pass
        finally:
            # Not abort: what was let through is to arrive, also the first bytes of a literal that is cut.
            await asyncio.gather(self._client.close(), self._server.close())

    def abort(self, *, reset: bool) -> None:
        """Both sides, at once."""
        self._client.abort(reset=reset)
        self._server.abort(reset=reset)

    # --- passing on -------------------------------------------------------------------------------------------

    def _outlet(self, direction: Direction) -> Outlet:
        return self._server if direction == "up" else self._client

    async def _pass(self, direction: Direction, data: bytes) -> None:
        """Pass on what the proxy lets through, up to a cut."""
        if direction in self._mute:
            return
        for cut in self._proxy.cuts:
            passes = cut.within(direction, data)
            if passes is not None:
                await self._put(direction, data[:passes])
                await self._end(direction, cut.how)
                return
        await self._put(direction, data)

    async def _put(self, direction: Direction, data: bytes) -> None:
        self._proxy.traffic.octets_passed(direction, len(data))
        await self._outlet(direction).send(data)

    async def _line(self, direction: Direction, line: bytes) -> None:
        """Pass a line on; it is counted for the cuts."""
        if direction in self._mute:
            return
        self._proxy.traffic.line_passed(direction)
        cut = next((cut for cut in self._proxy.cuts if cut.at(direction, line)), None)
        if cut and not cut.after:
            await self._end(direction, cut.how)
        await self._pass(direction, line)
        if cut and cut.after:
            await self._end(direction, cut.how)

    async def _literal(self, direction: Direction, size: int, rule: Rule | None) -> None:
        """Pass a literal's bytes on; a rule may end the link after some of them."""
        limit = rule.cuts_literal if rule else None
        source = self._source if direction == "up" else self._answers
        left, passing = size, size if limit is None else min(size, limit)
        while left:
            if rule and limit is not None and not passing:
                await self._end(direction, rule.how)
                limit = None
                passing = left
            data = await source.read(min(passing, 65536))
            if not data:
                raise Ended
            await self._pass(direction, data)
            left, passing = left - len(data), passing - len(data)

    async def _end(self, direction: Direction, how: How) -> None:
        """End the link, or this direction of it: then nothing passes there any more."""
        if how == "half":
            await self._outlet(direction).finish()
            self._mute.add(direction)
            return
        if how == "reset":
            self.abort(reset=True)
        raise Ended

    async def _raw(self, direction: Direction) -> None:
        """Bytes as they come, for throughput: no rules, no lines, no turns."""
        source = self._source if direction == "up" else self._answers
        while data := await source.read(1 << 18):
            await self._pass(direction, data)

    # --- the program's commands -------------------------------------------------------------------------------

    async def _up(self) -> None:
        """A literal that waits for the server's "+" is just the next bytes."""
        continued = False
        while line := await self._source.readline():
            if self.stalled or "up" in self._mute:
                continue
            rule = None
            if continued:
                await self._line("up", line)
            else:
                line, rule = await self._command(line)
                if not line:
                    continue
            literal = LITERAL.search(line)
            continued = literal is not None
            if literal:
                self._proxy.traffic.turns += not literal[2]
                await self._literal("up", int(literal[1]), rule)

    async def _command(self, line: bytes) -> tuple[bytes, Rule | None]:
        """Pass the first line of a command on. Returns it, empty when the server does not get it."""
        tag, _, command = line.partition(b" ")
        proxy = self._proxy
        proxy.seen.append(command.strip().decode("utf-8", "backslashreplace"))
        proxy.traffic.turns += bool(command) and not self._open
        rule = next((rule for rule in proxy.commands if rule.takes(command)), None)
        if rule and rule.before:
            await asyncio.get_running_loop().run_in_executor(None, rule.before)
        if rule and rule.stall:
            self.stalled = True
            return b"", rule
        if rule and await self._answered(line, rule):
            return b"", rule
        if rule and rule.cuts_line and not rule.lost and not rule.after:
            await self._end("up", rule.how)
        if proxy.offer.refuses(command):
            await self._refuse(line, b"", proxy.offer.refusal)
            return b"", rule
        if rule and rule.lost:
            self._lost[tag] = rule.how
            self._mute.add("down")
        line = await self._forward(proxy.offer.edit_command(line))
        if rule and rule.cuts_line and rule.after:
            await self._end("up", rule.how)
        return line, rule

    async def _forward(self, line: bytes, rest: bytes = b"") -> bytes:
        """Pass a command on, `rest` being its literal and its end if they were read already. Returns the line, whose
        literal is to follow, or nothing."""
        tag, _, command = line.partition(b" ")
        if command:
            self._open.add(tag)
        self._idling = command.upper().startswith(b"IDLE") or (self._idling and bool(command))
        if self._proxy.auto_expunge and (_MARKS.match(command) or _UPLOADS_MARKED.match(command)):
            literal = LITERAL.search(line)
            if literal and not rest:
                rest = b"".join(await self._read_literal(literal))
            await self._marking(tag, line, rest)
            return b""
        await self._line("up", LITERAL.sub(rb"{\1+}\r\n", line) if rest else line)
        await self._pass("up", rest)
        return b"" if rest else line

    async def _read_literal(self, literal: re.Match[bytes]) -> tuple[bytes, bytes]:
        """Of a command: its literal, and what is behind it. The program gets the proxy's permission for it; to the
        server it then goes as one that needs none."""
        if not literal[2]:
            await self._client.send(b"+ Go on\r\n")
        return await self._source.readexactly(int(literal[1])), await self._source.readline()

    async def _answered(self, line: bytes, rule: Rule) -> bool:
        """Whether the rule gave the answer instead of the server, or passed the command on itself."""
        answer, literal = rule.answer, LITERAL.search(line)
        if rule.take:
            body, end = await self._read_literal(literal) if literal else (b"", b"")
            command = line.partition(b" ")[2]
            taken = await asyncio.get_running_loop().run_in_executor(None, rule.take, command, body)
            if taken is None:
                await self._forward(line, body + end)
                return True
            await self._say(line, rule.untagged, taken)
        elif answer or rule.untagged:
            await self._refuse(line, rule.untagged, answer)
        else:
            return False
        if rule.cut:
            await self._end("down", rule.how)
        return True

    async def _refuse(self, line: bytes, untagged: bytes, answer: bytes) -> None:
        """Answer in the server's place; literals that come unasked are swallowed."""
        first = line
        while (literal := LITERAL.search(line)) and literal[2]:
            await self._source.readexactly(int(literal[1]))
            line = await self._source.readline()
        await self._say(first, untagged, answer)

    async def _say(self, line: bytes, untagged: bytes, answer: bytes) -> None:
        tagged = line.partition(b" ")[0] + b" " + answer + b"\r\n" if answer else b""
        await self._client.send(untagged + tagged)

    # --- marks that expunge -----------------------------------------------------------------------------------

    async def _marking(self, tag: bytes, line: bytes, rest: bytes) -> None:
        """A mark expunges at once: EXPUNGE goes right behind it, and its answers come before the OK to the mark."""
        held = self._hold(tag)
        await self._line("up", LITERAL.sub(rb"{\1+}\r\n", line))
        await self._pass("up", rest)
        answer = await held
        if b" OK" in answer[: len(tag) + 4]:
            self._own += 1
            own = OWN_TAG + b"%d" % self._own
            expunged = self._hold(own)
            await self._pass("up", own + b" EXPUNGE\r\n")
            await expunged
        await self._line("down", answer)

    def _hold(self, tag: bytes) -> asyncio.Future[bytes]:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._held[tag] = future
        return future

    # --- the server's answers ---------------------------------------------------------------------------------

    async def _down(self) -> None:
        while line := await self._answers.readline():
            tagged = _TAGGED.match(line)
            tag = tagged[1] if tagged else b""
            self._open.discard(tag)
            if tag in self._lost:
                self._mute.discard("down")
                await self._end("down", self._lost.pop(tag))
            if self.stalled or "down" in self._mute:
                continue
            literal = LITERAL.search(line)
            line, rule = await self._judge(self._proxy.offer.edit(line))
            if rule and rule.stall:
                self.stalled = True
                continue
            if rule and rule.cuts_line and not rule.after:
                await self._end("down", rule.how)
            if not line or (rule and rule.drop):
                continue
            if tag in self._held:
                self._held.pop(tag).set_result(line)
                continue
            await self._line("down", line)
            if rule and rule.cuts_line and rule.after:
                await self._end("down", rule.how)
            if literal:
                await self._literal("down", int(literal[1]), rule)

    async def _judge(self, line: bytes) -> tuple[bytes, Rule | None]:
        """The line after all replacements, and the first other rule that takes it."""
        for rule in self._proxy.answers:
            if (not rule.idle or self._idling) and rule.takes(line):
                if rule.before:
                    await asyncio.get_running_loop().run_in_executor(None, rule.before)
                if rule.replace is None:
                    return line, rule
                line = rule.pattern.sub(rule.replace, line)
        return line, None


async def _until_one_ends(*pumps: Coroutine[None, None, None]) -> None:
    """Until one direction ends; then the other is ended too."""
    tasks = [asyncio.ensure_future(pump) for pump in pumps]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
