# SPDX-License-Identifier: MIT
"""Secrets and logins that several threads ask for at once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pushpull import accounts, config
from pushpull.accounts import Credentials, Door, Sessions
from pushpull.errors import CommandFailed, ConnectionLost, LoginRefused
from tests.support.waiting import wait_for

CONFIG = """
[local]
state = /s
maildir = /m
[imap]
host = h
{}
[pairing P]
local = l
remote = r
"""


class Asker:
    """Answers with what is left in `passwords`."""

    def __init__(self, *passwords: str) -> None:
        self.passwords = list(passwords)

    def confirm(self, question: str) -> bool | None:
        raise AssertionError(question)

    def password(self, prompt: str) -> str | None:
        return self.passwords.pop(0) if self.passwords else None


def imap(lines: str) -> config.Imap:
    return config.parse(CONFIG.format(lines), "c", "/home").imap


def counting(directory: Path, *, gate: Path | None = None) -> Path:
    """A command that prints `secret1`, `secret2`, ...; it waits until `gate` is there."""
    script = directory / "command"
    wait = f"while [ ! -e {gate} ]; do read -t 0.01 nothing <> {directory}/fifo; done\n" if gate else ""
    script.write_text(f"#!/bin/bash\necho >>{directory}/runs\n{wait}echo secret$(wc -l <{directory}/runs)\n")
    script.chmod(0o755)
    if gate:
        (directory / "fifo").unlink(missing_ok=True)
        os.mkfifo(directory / "fifo")
    return script


def runs(directory: Path) -> int:
    path = directory / "runs"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_those_who_wait_share_one_token(tmp_path):
    gate = tmp_path / "gate"
    command = counting(tmp_path, gate=gate)
    asked: list[float] = []

    def clock() -> float:
        asked.append(time.monotonic())
        return asked[-1]

    lines = f"oauth2_username = u\noauth2_refresh_command = {command}"
    credentials = Credentials(imap(lines), Asker(), clock=clock)
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(credentials.secret())) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(asked) == 8, what="all to have asked")
    gate.touch()
    for thread in threads:
        thread.join(20)
    assert answers == ["secret1"] * 8


def test_a_later_login_gets_a_token_of_its_own(tmp_path):
    command = counting(tmp_path)
    credentials = Credentials(imap(f"oauth2_username = u\noauth2_refresh_command = {command}"), Asker())
    assert [credentials.secret(), credentials.secret()] == ["secret1", "secret2"]


def test_a_password_of_a_command_is_kept_until_it_is_refused(tmp_path):
    command = counting(tmp_path)
    credentials = Credentials(imap(f"login_username = u\nlogin_password_command = {command}"), Asker())
    assert [credentials.secret(), credentials.secret()] == ["secret1", "secret1"]
    credentials.refused()
    assert credentials.secret() == "secret2"


def test_a_person_is_asked_once_and_a_refusal_keeps_what_was_typed():
    credentials = Credentials(imap("login_username = u"), Asker("typed"))
    assert credentials.secret() == "typed"
    credentials.refused()
    assert credentials.secret() == "typed"


def test_nobody_to_ask():
    with pytest.raises(LoginRefused, match="no password for u at h") as caught:
        Credentials(imap("login_username = u"), Asker()).secret()
    assert "login_password_command" in caught.value.remedy


# --- the door --------------------------------------------------------------------------------------------------------


@pytest.fixture
def outcomes(monkeypatch) -> list[object]:
    """What the next logins give: an error to raise, or a session."""
    left: list[object] = []

    def open_session(_account: object, _connected: object) -> object:
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(accounts, "open_session", open_session)
    return left


def door() -> Door:
    credentials = Credentials(imap("login_username = u\nlogin_password = p"), Asker())
    return Door(None, credentials)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [LoginRefused("no"), CommandFailed("no")])
def test_what_is_hopeless_shuts_the_door_until_it_is_reopened(outcomes, error):
    shared = door()
    outcomes += [error, "session"]
    for _ in range(3):
        with pytest.raises(type(error)):
            shared.open()
    assert outcomes == ["session"]
    shared.reopen()
    assert shared.open() == "session"


def test_a_link_that_fails_leaves_the_door_open(outcomes):
    shared = door()
    outcomes += [ConnectionLost("gone"), "session"]
    with pytest.raises(ConnectionLost):
        shared.open()
    assert shared.open() == "session"


class Session:
    def __init__(self) -> None:
        self.said: list[str] = []

    def close(self) -> None:
        self.said.append("closed")

    def interrupt(self) -> None:
        self.said.append("interrupted")


def test_a_session_is_kept_until_it_is_dropped(outcomes):
    first, second = Session(), Session()
    outcomes += [ConnectionLost("gone"), first, second]
    sessions = Sessions(door())
    sessions.interrupt()
    with pytest.raises(ConnectionLost):
        sessions.get()
    assert sessions.unreachable
    assert sessions.get() is sessions.get() is first
    assert not sessions.unreachable
    sessions.interrupt()
    sessions.drop()
    sessions.drop()
    assert first.said == ["interrupted", "closed"]
    assert sessions.get() is second


# --- a link made ahead -----------------------------------------------------------------------------------------------


class Link:
    def __init__(self) -> None:
        self.closed = False

    def shutdown(self) -> None:
        self.closed = True


@pytest.fixture
def links(monkeypatch) -> list[object]:
    """What connecting gives in turn; a login gives the link that it was made over."""
    left: list[object] = []

    def connect(_account: object, dialled: Callable[[], None] | None = None) -> object:
        if dialled is not None:
            dialled()
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(accounts, "connect", connect)
    monkeypatch.setattr(accounts, "open_session", lambda _account, connected: connected())
    return left


def test_a_link_made_ahead_is_used_once(links):
    first, second = Link(), Link()
    links += [first, second]
    shared, dialled = door(), []
    shared.connect_ahead(lambda: dialled.append(True))
    assert shared.open() is first
    assert shared.open() is second
    assert dialled == [True]
    assert not first.closed


def test_a_link_made_ahead_that_grew_old_is_not_used(links):
    now = [0.0]
    first, second = Link(), Link()
    links += [first, second]
    shared = Door(None, Credentials(imap("login_username = u\nlogin_password = p"), Asker()), clock=lambda: now[0])  # type: ignore[arg-type]
    shared.connect_ahead()
    now[0] = 11.0
    assert shared.open() is second
    assert first.closed


def test_a_link_that_could_not_be_made_ahead_is_told_at_the_login(links):
    link = Link()
    links += [ConnectionLost("refused"), link]
    shared = door()
    shared.connect_ahead()
    with pytest.raises(ConnectionLost, match="refused"):
        shared.open()
    assert shared.open() is link
