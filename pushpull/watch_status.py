# SPDX-License-Identifier: MIT
"""Watches many mailboxes of an account over one connection, by asking for their STATUS now and then.

**Nothing falls between a cycle and a question.** The trigger 'look' is given after the first answers: what happened
before them a cycle finds, and what happens after them makes the next answers differ.

**Each for itself.** A mailbox of which the server tells nothing is looked at by a cycle each time; the others do not
notice. No mailbox is opened, since the server need not tell the STATUS of one that is (RFC 3501 section 6.3.10).
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TypeAlias

from pushpull import levels, refusal, wire
from pushpull.errors import ConnectionLost, MailboxMissing, ServerBusy
from pushpull.framing import Command, Response
from pushpull.remote import Session, mailbox_name
from pushpull.triggers import Kind, Trigger
from pushpull.values import field, struct
from pushpull.watch_link import LINK_GAPS, LONGEST_IDLE, Chance, LinkWatcher, patience
from pushpull.wording import plural

_STRANGERS, _STRANGER = 100, 1000  # answers under names that nobody asked for; octets of one
_WINDOW = 16  # questions under way: both sides' buffers hold them

_Answer: TypeAlias = dict[str, int] | list[bytes]


def ask_status(session: Session, name: bytes) -> Command:
    """Begin to ask for all that STATUS tells of a change; `name` as `mailbox_name` gives it."""
    modseq = b" HIGHESTMODSEQ" if session.condstore else b""
    return session.client.start(b"STATUS %b (MESSAGES UIDNEXT UIDVALIDITY UNSEEN%b)" % (name, modseq))


@struct
class _Round:
    """What the server said when it was asked for every mailbox: answers by `_key`, refusals by name."""

    answers: dict[bytes, dict[str, int]] = field(default_factory=dict)
    strangers: list[bytes] = field(default_factory=list)
    refused: dict[bytes, str] = field(default_factory=dict)
    later: ServerBusy | None = None

    def note(self, response: Response, keys: frozenset[bytes]) -> None:
        """Keep an answer under its own name: the server may give it sooner or later than its turn."""
        try:
            name, found = wire.named_status(response.parts, response.rest)
        except ConnectionLost:
            name, found = b"", {}
        key = _folded(name)
        if key in keys:
            self.answers[key] = found
        elif len(self.strangers) < _STRANGERS:
            self.strangers.append(b"".join(response.parts)[:_STRANGER])

    def of(self, name: bytes) -> _Answer:
        """The answer; empty when there is none. A server that spells a name in its own way answers to a stranger: each
        mailbox without an answer has the answers to all strangers, so that a change of one concerns them all.
        """
        if name in self.refused:
            return {}
        return self.answers.get(_key(name)) or sorted(self.strangers)


class StatusWatcher(LinkWatcher):
    """Run and stopped as a LinkWatcher; `connect`, `tell`, `longest_gap` and the clocks as there.

    `mailboxes`: the mailbox of each pairing, at least one. `give` takes triggers. `poll_seconds` is the gap between
    two questions for all of them (at most LONGEST_IDLE); every `idle_seconds` (at most LONGEST_IDLE), at the next
    question, `sync_on_timeout` gives a TIMER trigger for each.
    """

    def __init__(
        self,
        mailboxes: Mapping[str, str],
        connect: Callable[[], Session],
        give: Callable[[Trigger], None],
        tell: Callable[[int, str], None],
        *,
        poll_seconds: float,
        idle_seconds: float,
        sync_on_timeout: bool,
        longest_gap: float = LINK_GAPS[1],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        rng: Chance = random,
    ) -> None:
        name = plural(len(mailboxes), "polled mailbox", "polled mailboxes")
        super().__init__(name, connect, tell, longest_gap=longest_gap, clock=clock, wall=wall, rng=rng)
        self._names = {pairing: _wire_name(mailbox) for pairing, mailbox in mailboxes.items()}
        self._asked = list(dict.fromkeys(name for name in self._names.values() if name))
        self._give = give
        self._poll_seconds, self._idle_seconds = min(poll_seconds, LONGEST_IDLE), min(idle_seconds, LONGEST_IDLE)
        self._sync_on_timeout = sync_on_timeout
        self._window = _WINDOW
        self._refused: dict[bytes, str] = {}  # told already

    def _follow(self, session: Session) -> None:
        known = self._ask(session)
        self._watching("watched by STATUS")
        self._give_all(Kind.REMOTE, full=True)
        timer = self._clock() + self._idle_seconds
        while True:
            self._listen(session.client, self._clock() + self._poll_seconds)
            found = self._ask(session)
            for pairing, answer in found.items():
                if not answer or answer != known[pairing]:
                    self._give(Trigger(pairing, Kind.REMOTE))
            known = found
            if self._sync_on_timeout and self._clock() >= timer:
                self._give_all(Kind.TIMER)
                timer = self._clock() + self._idle_seconds

    def _news(self) -> None:
        """Nothing: it is of no mailbox, for none is open."""

    def _give_all(self, kind: Kind, *, full: bool = False) -> None:
        for pairing in self._names:
            self._give(Trigger(pairing, kind, full))

    # --- asking --------------------------------------------------------------------------------------------------

    def _ask(self, session: Session) -> dict[str, _Answer]:
        """What STATUS says of the mailbox of each pairing, empty where it says nothing. ServerBusy when it is 'later'
        that it says, of all.
        """
        began, limit = self._clock(), patience(session.client)
        try:
            heard = self._round(session)
        except ConnectionLost:
            # Servers hold answers back until all that came with the question is answered: fewer at a time.
            if self._clock() - began >= limit:
                self._window = max(1, self._window // 2)
            raise
        if heard.later and len(heard.refused) == len(self._asked):
            raise heard.later
        for name, text in heard.refused.items():
            if self._refused.get(name) != text:
                pairings = ", ".join(pairing for pairing, of in self._names.items() if of == name)
                self._tell(levels.INFO, f"{pairings}: looked at each time, for STATUS was refused: {text}")
        self._refused = heard.refused
        return {pairing: heard.of(name) if name else {} for pairing, name in self._names.items()}

    def _round(self, session: Session) -> _Round:
        client, heard = session.client, _Round()
        keys = frozenset(map(_key, self._asked))
        waiting, ahead = deque(self._asked), deque[tuple[bytes, Command]]()
        while waiting or ahead:
            while waiting and len(ahead) < self._window:
                name = waiting.popleft()
                ahead.append((name, ask_status(session, name)))
            name, command = ahead.popleft()
            for response in self._answers(client, command):
                if response.kind == "STATUS":
                    heard.note(response, keys)
                else:
                    self._is_news(client, response)  # which tells what a user must be shown
            if command.status != "OK":
                heard.refused[name] = command.answer
                heard.later = heard.later or refusal.busy(command, client.peer)
        return heard


def _wire_name(mailbox: str) -> bytes:
    """As `mailbox_name`; empty for what no mailbox is called, which a cycle tells."""
    try:
        return mailbox_name(mailbox)
    except MailboxMissing:
        return b""


def _key(name: bytes) -> bytes:
    """What the answer for a name is found by."""
    return _folded(wire.unquoted(name))


def _folded(name: bytes) -> bytes:
    """INBOX is the one name whose case does not matter (RFC 3501 section 5.1)."""
    return b"INBOX" if name.upper() == b"INBOX" else name
