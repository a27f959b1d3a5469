# SPDX-License-Identifier: MIT
"""The remote watcher with a real Dovecot: how soon it pushes, what it sends, and what it lives through."""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
import time
from collections.abc import Callable

import pytest

from pushpull import watch_link
from pushpull.connect import Account, open_session
from pushpull.triggers import Kind, Trigger
from pushpull.watch_remote import RemoteWatcher
from tests.support.dovecot import Dovecot, certificates
from tests.support.messages import mail
from tests.support.waiting import wait_for

LOOK = Trigger("p", Kind.REMOTE, full=True)
NEWS = Trigger("p", Kind.REMOTE)


class Watching:
    """A watcher in a thread; `received` holds when each line of the server came, `given` when each trigger went."""

    def __init__(self, user: str, port: int, *, disabled: tuple[str, ...] = (), idle: float = 1000.0) -> None:
        self.received: list[tuple[float, str]] = []
        self.given: list[tuple[float, Trigger]] = []
        self.told: list[tuple[int, str]] = []
        self.connections = 0
        self.password = "alicepw"
        self._account = Account(
            host="localhost", port=port, tls="implicit", ca_file=str(certificates().ca_file), pins=(), timeout=20.0,
            disabled=frozenset(disabled), login=user, auth="password", secret=self._secret, trace=self._trace,
        )  # fmt: skip
        self.watcher = RemoteWatcher(
            "p", "INBOX", lambda: open_session(self._account),
            lambda trigger: self.given.append((time.monotonic(), trigger)),
            lambda level, text: self.told.append((level, text)),
            idle_seconds=idle, sync_on_timeout=False, poll_seconds=0.1,
        )  # fmt: skip
        self.thread = threading.Thread(target=self.watcher.run)

    def _secret(self) -> str:
        self.connections += 1
        return self.password

    def _trace(self, line: str) -> None:
        self.received.append((time.monotonic(), line))

    def __enter__(self) -> Watching:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.watcher.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()

    @property
    def triggers(self) -> list[Trigger]:
        return [trigger for _, trigger in self.given]

    def wait(self, count: int) -> None:
        wait_for(lambda: len(self.given) >= count, what=f"{count} triggers", detail=self.story)

    def wait_for_idle(self) -> None:
        wait_for(lambda: self.received[-1:] and self.received[-1][1].startswith("S: +"), what="IDLE", detail=self.story)

    def pushed(self, change: Callable[[], object], word: str) -> tuple[float, float]:
        """Make a change in IDLE; seconds from its end to its trigger, and from the server's line to the trigger."""
        lines, triggers = len(self.received), len(self.given)
        change()
        changed = time.monotonic()
        self.wait(triggers + 1)
        told = next(at for at, line in self.received[lines:] if line.startswith("S: * ") and word in line)
        return self.given[triggers][0] - changed, self.given[triggers][0] - told

    def story(self) -> str:
        return f"{self.given}\n{self.told}\n{self.received}"


def test_each_change_is_pushed_at_once(dovecot, account):
    with dovecot.client(account) as client:
        uids = [client.append("INBOX", mail(f"m{number}")) for number in range(2)]
        with Watching(account, dovecot.port) as watching:
            watching.wait_for_idle()
            assert watching.triggers == [LOOK]
            changes: list[tuple[Callable[[], object], str]] = [
                (lambda: client.append("INBOX", mail("m3")), "EXISTS"),
                (lambda: client.add_flags("INBOX", uids[:1], "\\Flagged"), "FETCH"),
                (lambda: client.remove_flags("INBOX", uids[:1], "\\Flagged"), "FETCH"),
                (lambda: client.add_flags("INBOX", uids[:1], "$Word"), "FETCH"),
                (lambda: client.expunge("INBOX", uids[1:]), "VANISHED"),
            ]
            for change, word in changes:
                whole, own = watching.pushed(change, word)
                assert own < 0.05  # the watcher's share
                assert whole < 2.0  # Dovecot's is half a second
            assert set(watching.triggers[1:]) == {NEWS}
            assert watching.connections == 1
    assert dovecot.commands(account)[-4:] == ['EXAMINE "INBOX"', "IDLE", "DONE", "LOGOUT"]


def test_a_burst_is_one_trigger_or_two(dovecot, account):
    with Watching(account, dovecot.port) as watching:
        watching.wait_for_idle()
        with dovecot.client(account) as client:
            for number in range(100):
                client.append("INBOX", mail(f"m{number}"))
        wait_for(lambda: any("100 EXISTS" in line for _, line in watching.received), what="the last one")
        watching.wait(2)
        # Dovecot tells what gathered in half a second each time.
        assert len(watching.triggers) <= 12


def test_mail_during_renewals_is_never_missed(dovecot, account):
    """IDLE that is renewed without a pause; a message comes at any moment, and after each a trigger must come."""
    chance = random.Random(11)
    with Watching(account, dovecot.port, idle=0.02) as watching, dovecot.client(account) as client:
        watching.wait(1)
        for number in range(15):
            before, moment = len(watching.given), time.monotonic() + chance.uniform(0, 0.1)
            wait_for(lambda moment=moment: time.monotonic() > moment, what="a moment")
            client.append("INBOX", mail(f"m{number}"))
            watching.wait(before + 1)
    assert dovecot.commands(account).count("IDLE") > 30
    assert watching.connections == 1


def test_without_idle_the_mailbox_is_polled(dovecot, account):
    with Watching(account, dovecot.port, disabled=("IDLE",)) as watching, dovecot.client(account) as client:
        watching.wait(1)
        uid = client.append("INBOX", mail("m1"))
        watching.wait(2)
        client.add_flags("INBOX", [uid], "\\Flagged")
        wait_for(lambda: len(watching.given) >= 3, what="the flag", detail=watching.story)
    commands = set(dovecot.commands(account))
    assert not any(command.startswith(("EXAMINE", "SELECT", "IDLE")) for command in commands)
    assert 'STATUS "INBOX" (MESSAGES UIDNEXT UIDVALIDITY UNSEEN HIGHESTMODSEQ)' in commands


def test_a_session_that_is_kicked_is_made_again(dovecot, account):
    with Watching(account, dovecot.port) as watching:
        for number in (1, 2):
            watching.wait_for_idle()
            dovecot.kick(account)
            watching.wait(number + 1)
        assert watching.triggers == [LOOK] * 3
        assert watching.connections == 3


def test_a_link_that_is_cut_is_made_again(dovecot, account, proxy):
    with Watching(account, proxy.port) as watching:
        watching.wait_for_idle()
        proxy.cut_all()
        watching.wait(2)
        assert watching.triggers == [LOOK] * 2
        watching.wait_for_idle()
        dovecot.save(mail("m1"), user=account)
        watching.wait(3)


def test_kill_and_restart_of_the_server(monkeypatch):
    monkeypatch.setattr(watch_link, "LINK_GAPS", (0.05, 0.2))
    with Dovecot() as server, Watching("alice", server.port) as watching:
        watching.wait_for_idle()
        server.stop()
        (session,) = (server.base / "rawlog" / "alice").glob("*.in")
        os.kill(int(session.name.split(".")[1]), signal.SIGKILL)  # it would live on for ten seconds
        wait_for(
            lambda: any("cannot connect" in text for _, text in watching.told), what="failures", detail=watching.story
        )
        assert server._run_master()
        watching.wait(2)
        watching.wait_for_idle()
        server.save(mail("m1"))
        watching.wait(3)
        assert watching.triggers == [LOOK, LOOK, NEWS]
        assert watching.told[-2:] == [
            (logging.INFO, "p: changes on the server are seen again"),
            (logging.DEBUG, "p: watched by IDLE"),
        ]


def test_a_password_that_is_corrected_is_taken_at_the_next_attempt(dovecot, account):
    watching = Watching(account, dovecot.port)
    watching.password = "wrong"
    with watching:
        wait_for(lambda: watching.told, what="the refusal", detail=watching.story)
        ((level, text),) = watching.told
        assert level == logging.ERROR
        assert "refused the login" in text
        watching.password = "alicepw"
        assert watching.given == []
        watching.watcher.kick()
        watching.wait(1)
        assert watching.connections == 2


@pytest.mark.parametrize("extension", ["QRESYNC", "CONDSTORE"])
def test_an_expunge_is_pushed_whatever_it_is_called(dovecot, account, extension):
    with dovecot.client(account) as client:
        uid = client.append("INBOX", mail("m1"))
        with Watching(account, dovecot.port, disabled=(extension,)) as watching:
            watching.wait_for_idle()
            watching.pushed(lambda: client.expunge("INBOX", [uid]), "EXPUNGE")
