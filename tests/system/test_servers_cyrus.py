# SPDX-License-Identifier: MIT
"""Cyrus's own ways, each met by the program. `PUSHPULL_SERVER=cyrus`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cyrus import Cyrus
from tests.support.live import Live
from tests.support.messages import mail
from tests.support.proxy import Proxy
from tests.support.run import Setup
from tests.system.conftest import MakeSetup

pytestmark = [pytest.mark.needs("cyrus"), pytest.mark.every_server]

REFUSED = {
    "header-less": b"this is not a header field\nnor is this\n\nbody\n",
    "without-a-blank-line": b"Subject: x",
    "one-byte": b"x",
    "nul": b"Subject: x\n\nbefore\0after\n",
    "empty": b"",
}


def test_what_it_refuses_is_set_aside_and_told(setup: Setup) -> None:
    """The others go on; a later run does not send it again, says so, and does not fail."""
    for name, body in REFUSED.items():
        setup.put_local(body, "S", name=f"{name}.1.host")
    setup.put_local("plain", "S")
    run = setup.run("--yes")
    assert run.code == 75, run
    assert [name for name in REFUSED if name not in run.err] == []
    assert [word for word in ("invalid header", "NUL", "Zero-length") if word not in run.err] == []
    setup.assert_state(remote="plain:S")
    assert len(setup.files()) == len(REFUSED) + 1
    setup.sync_again_changes_nothing(quiet=False)


def test_a_bare_line_end_is_sent_as_crlf(setup: Setup) -> None:
    """Cyrus takes no bare LF, and says so; files have nothing else."""
    setup.put_local("A", "S")
    setup.put_local(setup.know("mixed", b"Subject: mixed\r\n\nall\r\nkinds\n"), "S", name="mixed.1.host")
    setup.sync("--yes")
    assert len(setup.remote()) == 2
    setup.sync_again_changes_nothing()


def test_a_message_whose_header_it_rewrites(setup: Setup) -> None:
    """8-bit bytes of the header become X, also in the Message-ID: still the message that was uploaded."""
    setup.put_remote("old", "S")
    setup.sync()
    body = "Subject: Grüße\nMessage-ID: <ü@example.org>\n\nHéllo\n".encode()
    path = setup.put_local(setup.know("8-bit", body), "S")
    setup.know("8-bit", setup.server.stored(body))
    setup.sync()
    setup.assert_both("old:S 8-bit:S")
    run = setup.sync_again_changes_nothing()
    assert "anew" not in run.err
    setup.flag_remote("8-bit", "+F")
    setup.put_remote("new", "S")
    setup.sync()
    setup.assert_both("old:S 8-bit:FS new:S")
    assert body in [file.body for file in setup.files()], path
    setup.sync_again_changes_nothing()


@pytest.mark.parametrize(("message_id", "copies"), [("a", 1), ("ä", 2)], ids=["ASCII Message-ID", "8-bit Message-ID"])
def test_a_rewritten_header_after_a_lost_state(setup: Setup, message_id: str, copies: int) -> None:
    """One message still, unless its Message-ID is another one now: then each side gets the other's."""
    body = f"Subject: Grüße\nMessage-ID: <{message_id}@example.org>\n\nHéllo\n".encode()
    setup.put_local(setup.know("8-bit", body), "S")
    setup.know("8-bit", setup.server.stored(body))
    setup.sync("--yes")
    for path in setup.base.glob("state.db*"):
        path.unlink()
    setup.sync("--yes")
    assert (len(setup.files()), len(setup.remote())) == (copies, copies)
    setup.sync_again_changes_nothing()


def test_logindisabled_after_the_login(setup: Setup) -> None:
    with setup.client() as client:
        assert "LOGINDISABLED" in client.capabilities
    setup.put_remote("A")
    setup.sync()
    setup.assert_both("A")


# --- a mailbox that is deleted elsewhere --------------------------------------------------------------------------
#
# Whoever has it open is told that every message was expunged, also in IDLE, and no BYE.


@pytest.fixture
def work(make_setup: MakeSetup, proxy: Proxy) -> Setup:
    """A, B and C on both sides of a mailbox that may be deleted; through the proxy."""
    setup = make_setup(pairings={"work": ("work", "Work")}, port=proxy.port)
    with setup.client() as client:
        client.create("Work")
    setup.put_remotes(["A", "B", "C"], "S")
    setup.sync()
    return setup


def delete(setup: Setup) -> None:
    with setup.client() as client:
        client.delete_mailbox("Work")


@pytest.mark.parametrize("moment", ["^UID FETCH", "^UID SEARCH", "^UID STORE", "^APPEND", "^LOGOUT"])
def test_deleted_during_a_run(work: Setup, proxy: Proxy, moment: str) -> None:
    work.put_local("D", "S")
    work.flag_local("A", "+F")
    if moment == "^UID SEARCH":  # asked for when the count does not come out
        work.expunge_remote("C")
        work.strategy = "condstore"
    rule = proxy.on_command(moment, count=1, before=lambda: delete(work))
    run = work.run()
    assert rule.hits, run
    assert [word for word in work.local_state() if "T" in word] in ([], ["C:ST"]), run
    work.sync(expect=78)
    assert {word[0] for word in work.local_state()} == set("ABCD")
    assert [word for word in work.local_state() if "T" in word] in ([], ["C:ST"])


def test_deleted_while_it_is_watched(work: Setup) -> None:
    with Live(work) as live:
        live.wait_log("watched by IDLE")
        delete(work)
        live.wait_log("cannot be opened")
        assert work.local_state() == ["A:S", "B:S", "C:S"], live.story()


def test_deleted_and_made_again_while_it_is_watched(work: Setup) -> None:
    """Another mailbox of the same name: nothing is marked, what it holds comes down, what it lacks is held."""
    with Live(work) as live:
        live.wait_log("watched by IDLE")
        with work.client() as client:
            client.delete_mailbox("Work")
            client.create("Work")
        work.put_remote("N", "F")
        live.wait_local("A:S B:S C:S N:F")
    work.assert_state(remote="N:F")


# --- limits -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def limited() -> Iterator[Cyrus]:
    """Two sessions for each user, and no message above 100 kB."""
    with Cyrus(settings="maxlogins_per_user: 2\nmaxmessagesize: 100000") as server:
        yield server


def test_a_message_above_its_limit(make_setup: MakeSetup, limited: Cyrus) -> None:
    """APPENDLIMIT: refused before or after it was sent, set aside, and the others go up over a link that holds."""
    setup = make_setup(server=limited)
    setup.put_local(setup.know("big", mail("big", body="0123456789abcde\n" * 20_000)), "S", name="big.1.host")
    setup.put_local("small", "S")
    run = setup.run("--yes")
    assert run.code in (0, 75), run
    assert "big.1.host" in run.err
    setup.assert_state(remote="small:S", local="big:S small:S")
    setup.sync_again_changes_nothing(quiet=False)


def test_no_more_sessions_than_it_allows(make_setup: MakeSetup, limited: Cyrus) -> None:
    """A login that is refused for their number is tried again later, and says so."""
    setup = make_setup(server=limited)
    setup.put_remote("A")
    with setup.client(), setup.client():
        run = setup.sync(expect=75)
    assert "Too many open connections" in run.err
    setup.sync()
    setup.assert_both("A")
