# SPDX-License-Identifier: MIT
"""The test bed itself: what the other tests lean on must be able to fail."""

from __future__ import annotations

import imaplib
import os
import re
import ssl

import pytest

from tests.support.dovecot import Dovecot
from tests.support.proxy import Proxy
from tests.support.run import LONG_AGO, Setup
from tests.support.table import check, play, row


def program(setup: Setup, port: int = 0) -> imaplib.IMAP4_SSL:
    """A session as the program's: it logs in as the user and shows on the wire."""
    context = ssl.create_default_context(cafile=str(setup.server.ca_file))
    imap = imaplib.IMAP4_SSL("localhost", port or setup.server.port, ssl_context=context, timeout=20)
    imap.login(setup.user, setup.server.password)
    return imap


@pytest.mark.parametrize("command", ["EXPUNGE", "CLOSE", "UID EXPUNGE 1", "UID MOVE 1 Trash", "DELETE Trash"])
def test_destruction_on_the_wire_is_caught(setup: Setup, dovecot: Dovecot, command: str) -> None:
    server, user = dovecot, dovecot.add_user("destroyer-" + re.sub(r"\W", "", command))
    watched = Setup(server, user, setup.base)
    watched.put_remote("A", "T")
    imap = program(watched)
    imap.create("Trash")
    imap.select()
    name, _, rest = command.partition(" ")
    imap._command_complete(name, imap._command(name, rest) if rest else imap._command(name))
    imap.logout()
    with pytest.raises(AssertionError, match=re.escape(command)):
        watched.assert_nothing_destroyed()


def test_own_sessions_do_not_show_on_the_wire(setup: Setup) -> None:
    setup.put_remote("A")
    setup.expunge_remote("A")
    setup.assert_state(remote="")
    assert setup.sent() == []


def ended_long_ago(dovecot: Dovecot, user: str, said: bytes) -> str:
    """A new user of whom a session is left that said this; its process has a number that is ours now."""
    user = dovecot.add_user(user)
    log = dovecot.base / "rawlog" / user / f"20260101-000000.{os.getpid()}.1.in"
    log.write_bytes(said)
    os.utime(log, (LONG_AGO, LONG_AGO))
    return user


def test_the_number_of_an_ended_session_may_be_another_process_now(dovecot: Dovecot) -> None:
    """Process numbers come round within the hour of a long campaign; nobody else's end is waited for."""
    user = ended_long_ago(dovecot, "long-gone", b"1.000000 a NOOP\r\n")
    assert dovecot.commands(user) == ["NOOP"]


def test_half_a_line_is_no_command(dovecot: Dovecot) -> None:
    """The link was cut within it; `RFC822.SI` would look like a way to set \\Seen."""
    user = ended_long_ago(dovecot, "cut-off", b"1.000000 a NOOP\r\n2.000000 b UID FETCH 4:6 (UID RFC822.SI")
    assert dovecot.commands(user) == ["NOOP"]


def test_literals_are_no_commands(setup: Setup) -> None:
    imap = program(setup)
    imap.append("INBOX", "", "", b"Subject: x\r\n\r\na EXPUNGE\r\nb CLOSE\r\n")
    imap.logout()
    assert setup.sent() == ["APPEND INBOX (34 bytes)", "LOGOUT"]
    assert b"a EXPUNGE" in setup.server.rawlog(setup.user)


def test_freeze_sees_every_change(setup: Setup) -> None:
    setup.put_remote("A")
    path = setup.put_local("B")
    frozen = setup.freeze()
    assert setup.freeze() == frozen
    setup.flag_remote("A", "+F")
    setup.flag_remote("A", "-F")
    assert setup.freeze() != frozen, "a flag set and taken off again leaves its MODSEQ"
    frozen = setup.freeze()
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    assert setup.freeze() != frozen, "the same bytes in a new file"


def test_words(setup: Setup) -> None:
    setup.put_remotes(["A", "A", "B"], "S")
    setup.flag_remote("B", "+FT")
    setup.put_local("B", "FST")
    setup.put_local("A", directory="new")
    setup.assert_state(remote="A:S A:S B:FST", local="A B:FST")
    with pytest.raises(AssertionError):
        setup.assert_both("A:S A:S B:FST")
    setup.flag_local("A", "+R")
    setup.remove_local("B")
    setup.expunge_remote("A")
    setup.assert_state(remote="B:FST", local="A:R")


def test_a_row_that_does_not_come_out_fails(setup: Setup) -> None:
    good, bad = row("good", "A", ("remote A+F", "A:F | A")), row("bad", "A", ("remote A+F", "A:F"))
    copied = [*setup.put_remotes(["A0", "A1"])]
    assert len(copied) == 2
    # A program that does nothing at all but what the rows' start asks for.
    setup.sync = lambda *_: [setup.put_local(name) for name in ("A0", "A1") if not setup.named(name)]  # type: ignore[assignment,method-assign,func-returns-value]
    setup.sync_again_changes_nothing = lambda: None  # type: ignore[assignment,method-assign,return-value]
    setup.put_remote = lambda *_: 0  # type: ignore[assignment,method-assign,misc]
    outcomes = play([good, bad], setup).outcomes
    check(good, outcomes["good"])
    with pytest.raises(AssertionError, match="bad"):
        check(bad, outcomes["bad"])


def test_proxy_lacks_refuses_and_cuts(setup: Setup) -> None:
    setup.put_remote(b"Subject: big\n\n" + b"x" * 100_000)
    with Proxy(setup.server.starttls_port) as proxy:
        proxy.lack("UIDPLUS", "MOVE")
        proxy.on_command("NOOP", count=1, answer=b"NO [UNAVAILABLE] later")
        imap = program(setup, proxy.port)
        assert not {"UIDPLUS", "MOVE", "STARTTLS"} & set(imap.capability()[1][0].decode().split())
        assert [imap.noop()[0] for _ in range(2)] == ["NO", "OK"]
        imap.select()
        proxy.on_answer("BODY", cut=True, literal=1000, count=1)
        with pytest.raises(imaplib.IMAP4.abort):
            imap.uid("FETCH", "1", "(BODY.PEEK[])")
        imap.shutdown()
        imap = program(setup, proxy.port)
        proxy.on_command("APPEND", cut=True, literal=10, count=1)
        with pytest.raises(imaplib.IMAP4.abort):
            imap.append("INBOX", "", "", b"x" * 1000)
        imap.shutdown()
        assert proxy.connections == 2
    assert len(setup.remote()) == 1


def test_restart_keeps_ports_and_mail(setup: Setup) -> None:
    with Dovecot() as server:
        server.save(b"Subject: x\n\nx\n", flags="\\Seen")
        before, ports = server.snapshot(), (server.port, server.starttls_port)
        server.restart()
        assert (server.snapshot(), (server.port, server.starttls_port)) == (before, ports)
        run = server.base
    assert not run.exists()
