# SPDX-License-Identifier: MIT
"""Watches one mailbox over a connection of its own and gives triggers: by IDLE (RFC 2177), or by asking now and then.

**Nothing falls between a cycle and IDLE.** The trigger 'look' is given after the answer to EXAMINE: what happened
before it a cycle finds, and what happens after it the server says in this session, be it before IDLE, with the `+`,
or after DONE; every line is read.

**Never deaf.** IDLE is ended and begun anew, and has a deadline for each answer. Whatever ends a connection, the next
one begins with 'look at everything'.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

from pushpull import refusal, wire
from pushpull.errors import ConnectionLost
from pushpull.framing import Command
from pushpull.remote import Session, mailbox_name
from pushpull.transport import Client
from pushpull.triggers import Kind, Trigger
from pushpull.watch_link import LINK_GAPS, LONGEST_IDLE, Chance, LinkWatcher, patience
from pushpull.watch_status import ask_status

_MOMENT = 1.0  # an IDLE that the server ends within it is none
_IDLE_AGAIN = 3600.0  # a refusal may have been a passing one


class RemoteWatcher(LinkWatcher):
    """Run and stopped as a LinkWatcher; `connect`, `tell`, `longest_gap` and the clocks as there.

    `give` takes triggers. `idle_seconds` is how long an IDLE lasts (at most LONGEST_IDLE), after which
    `sync_on_timeout` gives a TIMER trigger; `poll_seconds` is the gap between two questions to a server without IDLE.
    """

    def __init__(
        self,
        pairing: str,
        mailbox: str,
        connect: Callable[[], Session],
        give: Callable[[Trigger], None],
        tell: Callable[[int, str], None],
        *,
        idle_seconds: float,
        sync_on_timeout: bool,
        poll_seconds: float,
        longest_gap: float = LINK_GAPS[1],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        rng: Chance = random,
    ) -> None:
        super().__init__(pairing, connect, tell, longest_gap=longest_gap, clock=clock, wall=wall, rng=rng)
        self._pairing, self._mailbox, self._give = pairing, mailbox, give
        self._idle_seconds = min(idle_seconds, LONGEST_IDLE)
        self._sync_on_timeout, self._poll_seconds = sync_on_timeout, poll_seconds
        self._opened = False  # whether the mailbox was opened in this connection

    def _follow(self, session: Session) -> None:
        self._opened = False
        offered = "IDLE" in session.extensions.offered
        full = True
        while True:
            if offered:
                self._open(session)
                self._look("watched by IDLE", full=full)
                self._idle(session.client)
                full = False
            self._poll(session, self._clock() + (_IDLE_AGAIN if offered else math.inf), full=full)

    def _open(self, session: Session) -> None:
        session.open(self._mailbox, None, read_only=True)
        self._opened = True

    def _look(self, how: str, *, full: bool) -> None:
        self._watching(how)
        self._give(Trigger(self._pairing, Kind.REMOTE, full))

    def _news(self) -> None:
        self._give(Trigger(self._pairing, Kind.REMOTE))

    # --- IDLE ----------------------------------------------------------------------------------------------------

    def _idle(self, client: Client) -> None:
        """IDLE again and again, until the server will not have it."""
        while True:
            began = self._clock()
            command = client.start(b"IDLE")
            if not self._heed(client, command, patience(client), granted=True):
                self._demand(client, command)
                return
            self._heed(client, command, self._idle_seconds)
            if command.answered() and (command.status != "OK" or self._clock() - began < _MOMENT):
                return
            if not command.answered():
                client.done(command)
                self._heed(client, command, patience(client))
                self._demand(client, command)
                if command.status != "OK":
                    return
            if self._sync_on_timeout:
                self._give(Trigger(self._pairing, Kind.TIMER))

    def _heed(self, client: Client, command: Command, seconds: float, *, granted: bool = False) -> bool:
        """Give triggers for what the server says, until it ends the command or the time is over, or (with `granted`)
        grants what was asked. Whether it did.
        """
        until = self._clock() + seconds
        while not command.answered() and self._clock() < until:
            if self._wait(until, client) and self._burst(client) and granted:
                return True
        return False

    # --- asking, where there is no IDLE --------------------------------------------------------------------------

    def _poll(self, session: Session, until: float, *, full: bool) -> None:
        """Ask every `poll_seconds`; what differs from the last answer gives a trigger. The first look is one too."""
        client = session.client
        known, _ = self._ask(session)
        self._look("watched by STATUS", full=full)
        timer = self._clock() + self._idle_seconds
        while self._clock() < until:
            self._listen(client, self._clock() + self._poll_seconds)
            found, news = self._ask(session)
            if news or (found and found != known):
                self._news()
            known = found or known
            if self._sync_on_timeout and self._clock() >= timer:
                self._give(Trigger(self._pairing, Kind.TIMER))
                timer = self._clock() + self._idle_seconds

    def _ask(self, session: Session) -> tuple[dict[str, int], bool]:
        """What STATUS says ({} when it is refused), and whether the server had news of the open mailbox. One that
        gives no STATUS is made to open it: then NOOP brings the news.
        """
        client, news = session.client, False
        found: dict[str, int] = {}
        noop = client.start(b"NOOP")
        status = ask_status(session, mailbox_name(self._mailbox))
        for command in (noop, status):
            for response in self._answers(client, command):
                if response.kind == "STATUS":
                    try:
                        found = wire.status(response.parts, response.rest)
                    except ConnectionLost as error:
                        client.fail(f"{client.peer}: {error}", error)
                else:
                    news = self._is_news(client, response) or news
        if later := refusal.busy(status, client.peer):
            raise later
        if not found and not self._opened:
            self._open(session)
            news = True
        return found, news
