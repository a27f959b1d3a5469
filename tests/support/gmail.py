# SPDX-License-Identifier: MIT
"""A server like Gmail: the fault proxy in front of Dovecot, made to behave as Gmail does.

It lists Gmail's extensions and refuses others, QRESYNC among them. A mark expunges at once. Of two identical messages
it keeps one, and says its UID again. Response codes come without text, an IDLE is told of new messages and expunges but
of no flags, and folders may show their newest messages only.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from tests.support.proxy import Proxy
from tests.support.rules import Rule
from tests.support.run import Setup
from tests.support.waiting import wait_for

BEFORE = (
    "IMAP4rev1 UNSELECT IDLE NAMESPACE QUOTA ID XLIST CHILDREN X-GM-EXT-1 XYZZY SASL-IR AUTH=XOAUTH2 AUTH=PLAIN"
    " AUTH=PLAIN-CLIENTTOKEN AUTH=OAUTHBEARER"
)
AFTER = (
    "IMAP4rev1 UNSELECT IDLE NAMESPACE QUOTA ID XLIST CHILDREN X-GM-EXT-1 UIDPLUS COMPRESS=DEFLATE ENABLE MOVE"
    " CONDSTORE ESEARCH UTF8=ACCEPT LIST-EXTENDED LIST-STATUS LITERAL- SPECIAL-USE APPENDLIMIT=35651584"
)
TOO_MUCH = b"[OVERQUOTA] Account exceeded command or bandwidth limits."
"""What it says, to any command, to who asked or fetched too much that day."""


@dataclass
class Gmail:
    """Makes `proxy` Gmail for the account of `setup`, until the proxy ends.

    With `auto_expunge` off a mark is a mark; without `shows_marks` what is expunged was never shown as marked.
    `folder_limit` is how many messages a folder shows, 0: all.
    """

    proxy: Proxy
    setup: Setup
    auto_expunge: bool = True
    shows_marks: bool = True
    folder_limit: int = 0

    def __post_init__(self) -> None:
        proxy = self.proxy
        proxy.offers(AFTER, before=BEFORE)
        proxy.auto_expunge = self.auto_expunge
        proxy.on_answer(r"^(\S+ OK \[[^]]*\]) [^\r\n]+", replace=rb"\1")
        proxy.on_answer(r"^(\S+ OK [^\[][^\r\n]*)", replace=rb"\1 [THROTTLED]")
        proxy.on_answer(r"^\* \d+ FETCH", idle=True, drop=True)
        self._passed: list[bytes] = []
        if not self.shows_marks:
            proxy.on_answer(r"^\* \d+ FETCH .*\\Deleted", drop=True)
        if self.folder_limit:
            proxy.on_command(r"^SELECT", before=self._push_out)
        proxy.on_command(r"^APPEND", take=self.one_copy)

    def first(self, command: str, **options: object) -> Rule:
        """A rule for commands, before any other."""
        rule = self.proxy.on_command(command, **options)
        self.proxy.commands.insert(0, self.proxy.commands.pop())
        return rule

    def one_copy(self, _command: bytes, body: bytes) -> bytes | None:
        """Its answer to an upload, when it has the message; the UID is that of the copy it has."""
        if body in self._passed:  # the server may not be done with it, for uploads come ahead of their answers
            with suppress(AssertionError):  # or it was expunged since
                wait_for(lambda: self._answer(body), what="the first of two copies", seconds=5)
        self._passed.append(body)
        return self._answer(body)

    def _answer(self, body: bytes) -> bytes | None:
        with self.setup.client() as client:
            mailbox = self.setup.mailbox()
            for uid, message in client.snapshot(mailbox).items():
                if message.body == body:
                    return b"OK [APPENDUID %d %d] (Success)" % (client.status(mailbox)["UIDVALIDITY"], uid)
        return None

    def _push_out(self) -> None:
        """What is beyond the folder's limit is not shown any more, the oldest first. (It is in All Mail still.)"""
        with self.setup.client() as client:
            mailbox = self.setup.mailbox()
            oldest = sorted(client.snapshot(mailbox))[: -self.folder_limit]
            if oldest:
                client.expunge(mailbox, oldest)
