# SPDX-License-Identifier: MIT
"""The watcher of many mailboxes with a real Dovecot: what it asks, and that each change is of its mailbox."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from pushpull.connect import Account, open_session
from pushpull.triggers import Kind, Trigger
from pushpull.watch_status import StatusWatcher
from tests.support.dovecot import certificates
from tests.support.messages import mail
from tests.support.waiting import wait_for
from tests.support.watching import Running

ODD = ["INBOX", "Entwürfe", 'say "no\\yes"', "100% (old)"]
TWENTY = {f"p{number}": name for number, name in enumerate([*ODD, *(f"Lists/list{at}" for at in range(16))])}


def look(pairing: str) -> Trigger:
    return Trigger(pairing, Kind.REMOTE, full=True)


def news(pairing: str) -> Trigger:
    return Trigger(pairing, Kind.REMOTE)


class Watching(Running):
    """A watcher in a thread; `received` holds each line of the server, `connections` counts logins."""

    def __init__(self, user: str, port: int, mailboxes: Mapping[str, str]) -> None:
        self.received: list[str] = []
        self.connections = 0
        account = Account(
            host="localhost", port=port, tls="implicit", ca_file=str(certificates().ca_file), pins=(), timeout=20.0,
            disabled=frozenset(), login=user, auth="password", secret=self._secret, trace=self.received.append,
        )  # fmt: skip
        super().__init__(
            lambda give, tell: StatusWatcher(
                mailboxes, lambda: open_session(account), give, tell,
                poll_seconds=0.1, idle_seconds=1000.0, sync_on_timeout=False,
            )
        )  # fmt: skip
        self._count = len(mailboxes)

    def _secret(self) -> str:
        self.connections += 1
        return "alicepw"

    def rounds(self, count: int) -> None:
        """Wait until all were asked so many times more from beginning to end, and what was said was heeded."""
        goal = self._asked() + (count + 2) * self._count
        wait_for(lambda: self._asked() >= goal, what=f"{count} rounds", detail=self.story)

    def _asked(self) -> int:
        return sum(line.startswith("C: P") and " STATUS " in line for line in self.received)

    def gives(self, change: Callable[[], object], *expected: Trigger) -> None:
        """Make a change that gives exactly these triggers."""
        before = len(self.triggers)
        change()
        self.rounds(2)
        assert self.triggers[before:] == list(expected), self.story()


def test_mail_into_one_of_twenty_gives_its_trigger_over_one_connection(dovecot, account):
    with dovecot.client(account) as client:
        for name in TWENTY.values():
            if name != "INBOX":
                client.create(name)
        uid = client.append("INBOX", mail("m0"))
        with Watching(account, dovecot.port, TWENTY) as watching:
            watching.wait(*map(look, TWENTY))
            watching.gives(lambda: None)
            for pairing in ("p0", "p1", "p2", "p3", "p19"):
                watching.gives(lambda of=pairing: client.append(TWENTY[of], mail(f"for {of}")), news(pairing))
            watching.gives(lambda: client.add_flags("INBOX", [uid], "\\Flagged"), news("p0"))
            before = len(watching.triggers)
            client.expunge("INBOX", [uid])  # marks first: one change, or two when a question comes between
            watching.rounds(2)
            assert set(watching.triggers[before:]) == {news("p0")}, watching.story()
            assert watching.connections == 1
    commands = [command for command in dovecot.commands(account) if command.startswith("STATUS ")]
    assert len(set(commands)) == 20
    assert all(command.endswith("(MESSAGES UIDNEXT UIDVALIDITY UNSEEN HIGHESTMODSEQ)") for command in commands)
    others = [command for command in dovecot.commands(account) if not command.startswith("STATUS ")]
    assert not [command for command in others if command.startswith(("SELECT", "EXAMINE", "IDLE"))]


def test_one_that_is_missing_does_not_hold_up_the_others(dovecot, account):
    mailboxes = {"here": "INBOX", "missing": "Nowhere"}
    with dovecot.client(account) as client, Watching(account, dovecot.port, mailboxes) as watching:
        watching.wait(look("here"), look("missing"))
        client.append("INBOX", mail("m1"))
        watching.rounds(2)
        assert watching.triggers.count(news("here")) == 1
        assert watching.triggers.count(news("missing")) >= 2
        (told,) = watching.lines(logging.INFO)
        assert told.startswith("2 polled mailboxes: missing: looked at each time, for STATUS was refused: ")
        # Not created at once: a STATUS that comes amid that makes Dovecot say that the mailbox exists already.
        client.create("Ready")
        client.rename("Ready", "Nowhere")
        watching.rounds(2)
        watching.gives(lambda: client.append("Nowhere", mail("m2")), news("missing"))
        assert watching.connections == 1


def test_a_session_that_is_kicked_is_made_again(dovecot, account):
    mailboxes = {"p": "INBOX", "q": "Lists"}
    with dovecot.client(account) as client:
        client.create("Lists")
    with Watching(account, dovecot.port, mailboxes) as watching:
        wait_for(lambda: len(watching.triggers) >= 2, what="looks", detail=watching.story)
        before = len(watching.triggers)
        dovecot.kick(account)
        wait_for(lambda: len(watching.triggers) >= before + 2, what="looks", detail=watching.story)
        assert watching.triggers[before:] == [look("p"), look("q")]
        assert watching.connections == 2
