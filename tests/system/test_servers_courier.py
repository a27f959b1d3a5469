# SPDX-License-Identifier: MIT
"""Courier's own ways, each met by the program. `PUSHPULL_SERVER=courier`."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.courier import Courier
from tests.support.live import Live
from tests.support.messages import crlf, mail
from tests.support.proxy import Proxy
from tests.support.run import Setup
from tests.system.conftest import MakeSetup

pytestmark = pytest.mark.needs("courier")


@pytest.fixture
def work(make_setup: MakeSetup) -> Setup:
    """A, B and C on both sides of a mailbox that may be renamed."""
    setup = make_setup(pairings={"work": ("work", "Work")})
    with setup.client() as client:
        client.create("Work")
    setup.put_remotes(["A", "B", "C"], "S")
    setup.sync()
    return setup


def test_a_line_end_is_added_at_the_end(setup: Setup) -> None:
    """The message there is two bytes longer than the file: still the one that was uploaded."""
    body = setup.know("A", mail("A").rstrip(b"\n"))
    path = setup.put_local(body, "S")
    setup.know("A", body + b"\n")
    setup.sync("--yes")
    assert [message.body for message in setup.remote().values()] == [crlf(body + b"\n")]
    assert path.read_bytes() == body
    setup.sync_again_changes_nothing()
    setup.flag_remote("A", "+F")
    setup.sync()
    setup.assert_both("A:FS")


def test_an_empty_file_becomes_a_line_end(setup: Setup) -> None:
    setup.put_local(b"", "S", name="empty.1.host")
    setup.put_local("plain", "S")
    setup.sync("--yes")
    assert sorted(message.body for message in setup.remote().values())[0] == b"\r\n"
    assert len(setup.remote()) == len(setup.files()) == 2
    setup.sync_again_changes_nothing()


def test_renamed_away_and_back_it_has_another_uidvalidity(work: Setup) -> None:
    """Nothing is copied, marked or downloaded again, and what waits is not lost."""
    with work.client() as client:
        before = client.status("Work")["UIDVALIDITY"]
        client.rename("Work", "Away")
        client.rename("Away", "Work")
        assert client.status("Work")["UIDVALIDITY"] != before
    work.flag_local("A", "+F")
    work.remove_local("B")
    work.forget_sent()
    run = work.sync()
    assert "anew" in run.err
    assert work.downloads() == []
    assert work.count_sent("APPEND") == 0
    work.assert_state(remote="A:FS B:ST C:S", local="A:FS C:S")
    work.sync_again_changes_nothing()


def test_renamed_under_another_name_in_the_pairing(work: Setup) -> None:
    """The user follows the rename in the configuration: a first meeting with the same folder, asked about."""
    with work.client() as client:
        client.rename("Work", "Old Work")
    work.sync(expect=78)
    work.pairings = {"work": ("work", "Old Work")}
    work.forget_sent()
    run = work.run("--readopt", "--yes")
    assert run.code == 0, run
    assert work.downloads() == []
    assert work.count_sent("APPEND") == 0
    work.assert_both("A:S B:S C:S")


def test_no_literal_is_sent_unasked(setup: Setup) -> None:
    """It has no LITERAL+: the program waits for its leave each time."""
    with setup.client() as client:
        assert not {"LITERAL+", "LITERAL-"} & client.capabilities
    setup.put_local("A", "S")
    setup.sync("--yes")
    lines = [line for line in setup.server.rawlog(setup.user) if b"APPEND" in line]
    assert len(lines) == 1
    assert lines[0].endswith(b"}")
    assert not lines[0].endswith(b"+}")


def test_idle_that_is_a_poll(setup: Setup) -> None:
    """What is new comes at the server's own pace, here a second; from the other side at once."""
    setup.put_remote("old", "S")
    with Live(setup) as live:
        live.wait_log("watched by IDLE")
        setup.put_remote("new")
        live.wait_local("old:S new")
        setup.flag_remote("old", "+F")
        live.wait_local("old:FS new")
        setup.put_local("up", "F")
        live.wait_both("old:FS new up:F")
        setup.expunge_remote("new")
        live.wait_local("old:FS new:T up:F")


def test_new_and_flagged_within_one_poll(setup: Setup) -> None:
    """Only EXISTS is told: flags of a new message are asked for, not waited for."""
    setup.put_remote("old", "S")
    with Live(setup) as live:
        live.wait_log("watched by IDLE")
        setup.put_remote("new")
        setup.flag_remote("new", "+F")
        live.wait_local("old:S new:F")


def test_unknown_commands_are_answered_no_and_several_end_the_session(behind: Setup, proxy: Proxy) -> None:
    """What it lacks is never sent to it, so its patience with unknown commands is never tried."""
    for round_number in range(3):
        behind.put_local(f"L{round_number}", "S")
        behind.put_remote(f"R{round_number}", "S")
        behind.sync("--yes")
    unknown = ("ID", "COMPRESS", "UNSELECT", "UID MOVE", "UID EXPUNGE", "NOTIFY", "GETMETADATA")
    assert not [command for command in proxy.seen if command.upper().startswith(unknown)]
    assert not [command for command in proxy.seen if "CONDSTORE" in command or "RETURN (" in command]


def test_deleted_elsewhere_during_a_run(make_setup: MakeSetup, proxy: Proxy) -> None:
    """Who has the mailbox open goes on with a stale view; the next run says that it is missing."""
    setup = make_setup(pairings={"work": ("work", "Work")}, port=proxy.port)
    with setup.client() as client:
        client.create("Work")
    setup.put_remotes(["A", "B"], "S")
    setup.sync()
    setup.flag_local("A", "+F")
    proxy.on_command("^UID STORE", count=1, before=lambda: delete(setup))
    setup.run()
    setup.sync(expect=78)
    assert [word[0] for word in setup.local_state()] == ["A", "B"]
    assert not [word for word in setup.local_state() if "T" in word]


def delete(setup: Setup) -> None:
    with setup.client() as client:
        client.delete_mailbox("Work")


@pytest.fixture(scope="module")
def narrow() -> Iterator[Courier]:
    """Two connections from one address."""
    with Courier(per_address=2) as server:
        yield server


def test_one_connection_too_many_is_closed_without_a_greeting(make_setup: MakeSetup, narrow: Courier) -> None:
    setup = make_setup(server=narrow)
    setup.put_remote("A")
    address = ("127.0.0.1", narrow.plain_port)
    with socket.create_connection(address), socket.create_connection(address):
        run = setup.sync(expect=75)
    assert "trying again" in run.err
    setup.sync()
    setup.assert_both("A")
