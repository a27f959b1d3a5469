# SPDX-License-Identifier: MIT
"""A man in the middle between the program and Dovecot: servers that lack things, refuse, stall, or vanish.

TLS towards the program, plain towards Dovecot, all on loopback. Literals pass untouched in both directions and never
look like commands. A `Rule` sees whole lines:

    proxy.on_command(r"UID STORE", count=1, answer=b"NO [UNAVAILABLE] later")
    proxy.on_answer(r"APPENDUID", cut=True)

Rules are tried in order; the first that matches acts. Without a rule a line passes.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType

from tests.support.dovecot import certificates

_LITERAL = re.compile(rb"\{(\d+)(\+?)\}\r\n$")


_LINE = 1 << 22


class _Cut(Exception):
    """The link ends here."""


@dataclass
class Rule:
    """What to do with a line that `pattern` matches (searched, without its tag, any case).

    `skip` lines that match are let through first, then `count` lines are acted upon. Commands: `answer` is sent back
    in place of the server's (its tag before it; `untagged` goes before that). Answers: `replace` is what the match
    becomes; `drop` swallows the line. Both: `cut` closes both links at once, `before` is called first. With
    `literal` set, a cut comes after so many bytes of the line's literal.
    """

    pattern: re.Pattern[bytes]
    skip: int = 0
    count: int = 1 << 30
    answer: bytes = b""
    untagged: bytes = b""
    replace: bytes | None = None
    drop: bool = False
    cut: bool = False
    literal: int | None = None
    before: Callable[[], object] | None = None
    hits: int = field(default=0, init=False)

    def takes(self, line: bytes) -> bool:
        if not self.pattern.search(line) or self.skip + self.count <= self.hits:
            return False
        self.hits += 1
        return self.hits > self.skip


@dataclass
class Proxy:
    """Context manager; `port` is where the program connects to (implicit TLS)."""

    upstream: int  # Dovecot's port without TLS
    port: int = 0
    commands: list[Rule] = field(default_factory=list)
    answers: list[Rule] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)  # commands of all sessions, without tags
    connections: int = 0
    refuse: bool = False  # new connections are closed without a greeting

    def __enter__(self) -> Proxy:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates().pem("good"), certificates().key("good"))
        self._writers: set[asyncio.StreamWriter] = set()
        self._stalled: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=context, limit=_LINE)
        )
        self.port = self._server.sockets[0].getsockname()[1]
        # Dovecot offers it on this port, and the proxy does not speak it.
        self.on_answer(r" STARTTLS", replace=b"")
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def on_command(self, pattern: str, **options: object) -> Rule:
        """Act on the program's commands."""
        return self._add(self.commands, pattern, options)

    def on_answer(self, pattern: str, **options: object) -> Rule:
        """Act on the server's lines."""
        return self._add(self.answers, pattern, options)

    def lack(self, *extensions: str) -> None:
        """Take extensions out of every list of capabilities."""
        for name in extensions:
            self.on_answer(rf" {re.escape(name)}\b(?!=)", replace=b"")

    def cut_all(self) -> None:
        """Close every link, without a word."""
        self._loop.call_soon_threadsafe(self._abort)

    def stall_all(self) -> None:
        """Nothing passes on the links that there are, which stay open: half-open ones, for both sides."""
        self._loop.call_soon_threadsafe(lambda: self._stalled.update(self._writers))

    def _add(self, rules: list[Rule], pattern: str, options: dict[str, object]) -> Rule:
        rule = Rule(re.compile(pattern.encode(), re.IGNORECASE), **options)  # type: ignore[arg-type]
        rules.append(rule)
        return rule

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _end(self) -> None:
        self._server.close()
        self._abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, source: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.connections += 1
        writers = {client}
        try:
            if not self.refuse:
                answers, server = await asyncio.open_connection("127.0.0.1", self.upstream, limit=_LINE)
                writers.add(server)
                self._writers |= writers
                await self._both(self._up(source, client, server), self._down(answers, client))
        except (OSError, _Cut, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers -= writers
            # Not abort: what was let through is to arrive, also the first bytes of a literal that is cut.
            for writer in writers:
                writer.close()

    @staticmethod
    async def _both(*pumps: Coroutine[None, None, None]) -> None:
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

    async def _up(
        self, source: asyncio.StreamReader, client: asyncio.StreamWriter, server: asyncio.StreamWriter
    ) -> None:
        """The program's commands. A literal that waits for the server's "+" is just the next bytes."""
        continued = False
        while line := await source.readline():
            if client in self._stalled:
                continue
            tag, _, command = line.partition(b" ")
            rule = None
            if not continued:
                self.seen.append(command.strip().decode("utf-8", "backslashreplace"))
                rule = next((rule for rule in self.commands if rule.takes(command)), None)
            if rule and rule.before:
                await self._loop.run_in_executor(None, rule.before)
            literal = _LITERAL.search(line)
            if rule and rule.cut and rule.literal is None:
                raise _Cut
            if rule and rule.answer:
                if literal and literal[2]:
                    await source.readexactly(int(literal[1]) + 2)
                client.write(rule.untagged + tag + b" " + rule.answer + b"\r\n")
                continue
            server.write(line)
            continued = literal is not None
            if literal:
                await _copy(source, server, int(literal[1]), rule.literal if rule and rule.cut else None)
            await server.drain()

    async def _down(self, answers: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while line := await answers.readline():
            if client in self._stalled:
                continue
            literal = _LITERAL.search(line)
            line, rule = await self._judge(line)
            if rule and rule.cut and rule.literal is None:
                raise _Cut
            if rule and rule.drop:
                continue
            client.write(line)
            if literal:
                await _copy(answers, client, int(literal[1]), rule.literal if rule and rule.cut else None)
            await client.drain()

    async def _judge(self, line: bytes) -> tuple[bytes, Rule | None]:
        """The line after all replacements, and the first other rule that takes it."""
        for rule in self.answers:
            if rule.takes(line):
                if rule.before:
                    await self._loop.run_in_executor(None, rule.before)
                if rule.replace is None:
                    return line, rule
                line = rule.pattern.sub(rule.replace, line)
        return line, None


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, size: int, limit: int | None) -> None:
    """Pass `size` bytes on; end the link after `limit` of them."""
    left = size if limit is None else min(size, limit)
    while left:
        data = await source.read(min(left, 65536))
        if not data:
            raise _Cut
        target.write(data)
        await target.drain()
        left -= len(data)
    if limit is not None and limit < size:
        raise _Cut
