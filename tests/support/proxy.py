# SPDX-License-Identifier: MIT
"""A man in the middle between the program and Dovecot: servers that lack things, refuse, stall, or vanish.

TLS towards the program, plain towards Dovecot, all on loopback. Literals pass untouched in both directions and never
look like commands. A `Rule` sees whole lines:

    proxy.on_command(r"UID STORE", count=1, answer=b"NO [UNAVAILABLE] later")
    proxy.on_answer(r"APPENDUID", cut="reset")          # the server acted, its answer is lost
    proxy.on_command(r"APPEND", lost=True, cut="half")  # so too, whatever the answer looks like
    proxy.on_answer(r"FETCH", skip=3, count=1, cut="half", after=True)

Rules are tried in order; the first that matches acts. Without a rule a line passes. What is counted, not matched:

    proxy.cut_at("down", line=17, how="reset")
    proxy.cut_at("up", octets=1000, how="half")
    proxy.slow(delay_ms=25, kilobytes=200); proxy.traffic.turns

And another server's extensions, where what is not listed is truly refused:

    proxy.offers("IMAP4rev1 UIDPLUS IDLE", refusal=b"NO Error in IMAP command received by server.")
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

from tests.support.dovecot import certificates
from tests.support.link import Link, Pace
from tests.support.loop import LoopThread
from tests.support.rules import Cut, Direction, How, Offer, Rule, Traffic

_LINE = 1 << 22


@dataclass
class Proxy(LoopThread):
    """Context manager; `port` is where the program connects to (implicit TLS)."""

    upstream: int  # Dovecot's port without TLS
    port: int = 0
    commands: list[Rule] = field(default_factory=list)
    answers: list[Rule] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)  # commands of all sessions, without tags
    traffic: Traffic = field(default_factory=Traffic)
    offer: Offer = field(default_factory=Offer)
    connections: int = 0
    refuse: bool = False  # new connections are closed without a greeting
    auto_expunge: bool = False  # what is marked deleted, or uploaded so, is expunged at once
    raw: bool = False  # new connections pass as bytes: only `slow`, octets and cuts by octets work on them
    pace_up: Pace = field(default_factory=Pace)
    pace_down: Pace = field(default_factory=Pace)

    async def begin(self) -> None:
        context = certificates().server_context()
        self._links: set[Link] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=context, limit=_LINE)
        self.port = self._server.sockets[0].getsockname()[1]

    async def end(self) -> None:
        self._server.close()
        self._abort()

    # --- what it is told --------------------------------------------------------------------------------------

    def on_command(self, pattern: str, **options: object) -> Rule:
        """Act on the program's commands."""
        return self._add(self.commands, pattern, options)

    def on_answer(self, pattern: str, **options: object) -> Rule:
        """Act on the server's lines."""
        return self._add(self.answers, pattern, options)

    def cut_at(
        self,
        direction: Direction,
        *,
        line: int = 0,
        octets: int = -1,
        how: How = "close",
        after: bool = False,
        gone: bool = False,
    ) -> Cut:
        """End the link at the `line`-th line of a direction from now on, or after so many `octets` of it; `gone`: and
        take no other."""
        cut = Cut(direction, how, line, octets, after, gone)
        self.cuts.append(cut)
        return cut

    def offers(self, words: str, *, before: str | None = None, refusal: bytes = b"BAD Unknown command") -> None:
        """Replace every list of capabilities (`before` the login by another) and refuse what is not in it."""
        ahead = None if before is None else tuple(before.split())
        self.offer = Offer(tuple(words.split()), ahead, refusal, self.offer.lacking)

    def lack(self, *extensions: str) -> None:
        """Take extensions out of every list of capabilities, and refuse what belongs to them."""
        self.offer.lacking |= {name.upper() for name in extensions}

    def slow(self, delay_ms: float = 0, kilobytes: float = 0, *, direction: Direction | None = None) -> None:
        """A delay for each direction (a round trip takes two), and a bandwidth in kB/s (0: without bounds)."""
        for name, pace in (("up", self.pace_up), ("down", self.pace_down)):
            if direction in (None, name):
                pace.seconds = delay_ms / 1000
                pace.seconds_an_octet = 1 / (kilobytes * 1000) if kilobytes else 0.0

    def forget(self) -> None:
        """Without rules and cuts from now on, and counted anew; lists of extensions and the pace stay."""
        for what in (self.commands, self.answers, self.cuts, self.seen):
            what.clear()
        self.traffic = Traffic()

    def cut_all(self) -> None:
        """Close every link, without a word."""
        self._loop.call_soon_threadsafe(self._abort)

    def stall_all(self) -> None:
        """Nothing passes on the links that there are, which stay open: half-open ones, for both sides."""
        self._loop.call_soon_threadsafe(self._stall)

    # --- its thread -------------------------------------------------------------------------------------------

    def _add(self, rules: list[Rule], pattern: str, options: dict[str, object]) -> Rule:
        rule = Rule(re.compile(pattern.encode(), re.IGNORECASE), **options)  # type: ignore[arg-type]
        rules.append(rule)
        return rule

    def _abort(self) -> None:
        for link in self._links:
            link.abort(reset=False)

    def _stall(self) -> None:
        for link in self._links:
            link.stalled = True

    async def _serve(self, source: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refuse or any(cut.done and cut.gone for cut in self.cuts):
            client.close()
            return
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self.upstream, limit=_LINE)
        except OSError:
            client.close()
            return
        link = Link(self, source, client, answers, server)
        self._links.add(link)
        try:
            await link.run()
        except asyncio.CancelledError:
            pass  # the end of the proxy; asyncio's streams would log it
        finally:
            self._links.discard(link)
