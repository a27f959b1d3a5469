# SPDX-License-Identifier: MIT
"""A server like Gmail: what a mark does there, its one copy of two, its moods; and what the user is told of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cutting import HASTE
from tests.support.dovecot import Dovecot
from tests.support.forks import Forks
from tests.support.gmail import TOO_MUCH, Gmail
from tests.support.live import Live
from tests.support.proxy import Proxy
from tests.support.run import Setup
from tests.support.work import wait_for_sync, with_work

TOLD = "Gmail expunges what is marked deleted"


FEW = HASTE + "from pushpull import observe_remote\nobserve_remote.FOLDER_LIMITS = (4,)"


@pytest.fixture(scope="module")
def forks(dovecot: Dovecot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with Forks(Setup(dovecot, "alice", tmp_path_factory.mktemp("forks")), FEW) as runs:
        yield runs


@pytest.fixture
def setup(behind: Setup, forks: Forks) -> Setup:
    behind.forks = forks
    return behind


@pytest.fixture
def gmail(setup: Setup, proxy: Proxy) -> Gmail:
    return Gmail(proxy, setup)


# --- a mark that is more than a mark ------------------------------------------------------------------------------


def test_every_kind_of_work(setup: Setup, gmail: Gmail, proxy: Proxy) -> None:
    with_work(setup)
    run = setup.sync()
    assert TOLD in run.err
    setup.assert_state(remote="A:FS B:RS N:F O:S", local="A:FS B:RS D:ST N:F O:S")
    assert not any("QRESYNC" in command for command in proxy.seen if not command.startswith("ENABLE"))
    setup.sync_again_changes_nothing()


@pytest.mark.parametrize("shows_marks", [True, False])
@pytest.mark.parametrize("how", ["flag", "file"])
def test_who_deletes_here_is_told_what_it_does_there(setup: Setup, proxy: Proxy, how: str, shows_marks: bool) -> None:
    """Mutt's letter T as well as a file that is gone: both are a mark on the server, which Gmail expunges."""
    Gmail(proxy, setup, shows_marks=shows_marks)
    setup.put_remotes(["A", "B"], "S")
    assert "Gmail" not in str(setup.sync())
    if how == "flag":
        setup.flag_local("A", "+T")
    else:
        setup.remove_local("A")
    run = setup.sync()
    assert TOLD in run.err, run
    setup.assert_state(remote="B:S", local="A:ST B:S" if how == "flag" else "B:S")
    setup.sync_again_changes_nothing()


def test_undeleted_after_the_expunge(setup: Setup, gmail: Gmail) -> None:
    """The mark is taken off here, and the message is not there any more: it goes back, once."""
    setup.put_remotes(["A", "B"], "S")
    setup.sync()
    setup.flag_local("A", "+T")
    setup.sync()
    setup.flag_local("A", "-T")
    setup.sync()
    setup.assert_both("A:S B:S")
    setup.sync_again_changes_nothing()


def test_a_file_that_is_marked_is_uploaded_once(setup: Setup, gmail: Gmail) -> None:
    """It is gone there at once. Sent again and again it would be in All Mail as often."""
    setup.put_remote("B", "S")
    setup.sync()
    setup.put_local("A", "ST")
    setup.forget_sent()
    run = setup.sync()
    assert TOLD in run.err, run
    setup.sync()
    assert setup.count_sent("APPEND") == 1
    setup.assert_state(remote="B:S", local="A:ST B:S")
    setup.sync_again_changes_nothing()


def test_with_auto_expunge_off_a_mark_is_a_mark(setup: Setup, proxy: Proxy) -> None:
    Gmail(proxy, setup, auto_expunge=False)
    with_work(setup)
    setup.sync()
    setup.assert_state(remote="A:FS B:RS C:ST N:F O:S", local="A:FS B:RS D:ST N:F O:S")
    setup.sync_again_changes_nothing()


# --- one copy of two ----------------------------------------------------------------------------------------------


def test_two_identical_files_are_one_message_there(setup: Setup, gmail: Gmail, proxy: Proxy) -> None:
    """The second is kept here, told of, and not sent for ever."""
    setup.put_remote("B", "S")
    setup.sync()
    for _ in range(2):
        setup.put_local("A", "S")
    run = setup.run()
    assert run.code in (0, 75), run
    assert "one copy of two identical messages" in run.err
    setup.assert_state(remote="A:S B:S", local="A:S A:S B:S")
    again = setup.sync_again_changes_nothing("-v", quiet=False)
    assert "one copy of two identical messages" in again.err
    assert "held" not in again.err, "it did show up: the other is it"
    assert sum(command.startswith("APPEND") for command in proxy.seen) == 2


def test_copy_of_a_message_that_is_there(setup: Setup, gmail: Gmail) -> None:
    """A copy is made; then the original is removed. The copy is the message now: nothing is marked, or it would be
    gone there though it is here."""
    setup.put_remotes(["A", "B"], "S")
    setup.sync()
    setup.put_local("A", "S", name="1700000000.copy.host")
    setup.run()
    setup.assert_state(remote="A:S B:S", local="A:S A:S B:S")
    original = next(file for file in setup.named("A") if file.name != "1700000000.copy.host")
    original.path.unlink()
    setup.run()
    setup.assert_both("A:S B:S")
    setup.sync_again_changes_nothing()


def test_upload_of_what_another_program_put_there(setup: Setup, gmail: Gmail) -> None:
    """Between the look and the upload: the UID that comes back is that of a message not seen yet."""
    setup.put_remote("B", "S")
    setup.sync()
    setup.put_local("A", "S")
    gmail.first("^APPEND", count=1, before=lambda: setup.put_remote("A", "S"), take=gmail.one_copy)
    setup.sync()
    setup.assert_both("A:S B:S")
    setup.sync_again_changes_nothing()


# --- its moods ----------------------------------------------------------------------------------------------------

COMMANDS = ["^(LOGIN|AUTHENTICATE)", "^SELECT", r"^UID FETCH .*BODY\.PEEK\[\]", "^UID STORE", "^APPEND"]
TOO_MUCH_TODAY = [
    b"NO [THROTTLED]",
    b"NO " + TOO_MUCH,
    b"NO [ALERT] Account exceeded command or bandwidth limits. (Failure)",
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("answer", TOO_MUCH_TODAY)
def test_too_much_today(setup: Setup, gmail: Gmail, command: str, answer: bytes) -> None:
    """It is about none of the messages, nor the mailbox, nor the password: a run asks a few times and gives up with 75;
    the next one does it all, at once."""
    setup.put_remotes(["A", "B"], "S")
    setup.sync()
    setup.flag_local("A", "+F")
    setup.put_remotes(["N1", "N2", "N3"])
    setup.put_local("O")
    rule = gmail.first(command, answer=answer)
    run = setup.sync(expect=75)
    assert rule.hits <= 5, "it is asked a few times, not once for each message"
    assert answer.decode()[3:14] in run.err, run
    rule.count = 0
    setup.sync()
    setup.assert_both("A:FS B:S N1 N2 N3 O")
    setup.sync_again_changes_nothing()


@pytest.mark.parametrize("command", COMMANDS)
def test_no_room(setup: Setup, gmail: Gmail, command: str) -> None:
    """The bare code. To an upload it means that there is no room: that message waits, the others go on."""
    setup.put_remotes(["A", "B"], "S")
    setup.sync()
    setup.flag_local("A", "+F")
    setup.put_remote("N")
    setup.put_local("O")
    rule = gmail.first(command, answer=b"NO [OVERQUOTA]")
    setup.sync(expect=75)
    if command == "^APPEND":
        setup.assert_state(remote="A:FS B:S N", local="A:FS B:S N O")
    rule.count = 0
    wait_for_sync(setup, "A:FS B:S N O")
    setup.sync_again_changes_nothing()


def test_farewell_to_who_asked_too_much(setup: Setup, gmail: Gmail) -> None:
    setup.put_remotes(["A", "B"], "S")
    rule = gmail.first("^UID FETCH", untagged=b"* BYE " + TOO_MUCH + b"\r\n", cut=True)
    run = setup.sync(expect=75)
    assert "bandwidth limits" in run.err
    rule.count = 0
    setup.sync()
    setup.assert_both("A:S B:S")


def test_a_delta_that_it_never_gives(setup: Setup, gmail: Gmail) -> None:
    """BYE to one MODSEQ, each time it is asked for changes since then: everything is compared instead, by itself, and
    that MODSEQ is not asked for again."""
    setup.put_remotes(["A", "B"], "S")
    setup.sync()
    bad = gmail.first(_since(setup), untagged=b"* BYE System Error\r\n", cut=True)
    setup.sync()
    assert bad.hits == 1
    setup.sync_again_changes_nothing()
    setup.sync_again_changes_nothing()
    assert bad.hits == 1, "asked for it again"
    setup.flag_remote("A", "+F")
    setup.put_remote("C", "S")
    setup.sync()
    setup.assert_both("A:FS B:S C:S")
    setup.sync_again_changes_nothing()


def test_a_delta_that_is_never_possible_now(setup: Setup, gmail: Gmail) -> None:
    """A NO that says 'later', for ever, to one MODSEQ: it would keep the mailbox from being synchronised for ever."""
    setup.put_remotes(["A", "B"], "S")
    setup.sync()
    bad = gmail.first(_since(setup), answer=b"NO [UNAVAILABLE] Temporary System Problem (Failure)")
    setup.put_remote("C", "S")
    setup.sync()
    assert bad.hits == 1
    setup.assert_both("A:S B:S C:S")


def _since(setup: Setup) -> str:
    with setup.client() as client:
        return rf"CHANGEDSINCE {client.status('INBOX')['HIGHESTMODSEQ']}\b"


def test_flags_come_though_it_tells_of_none(behind: Setup, proxy: Proxy) -> None:
    """With what is told, and with each renewal of the wait if the user asks for that."""
    Gmail(proxy, behind)
    behind.settings["imap"] = {"idle_timeout_minutes": "0.02", "sync_on_idle_timeout": "yes"}
    behind.put_remote("A", "S")
    with Live(behind) as live:
        live.wait_both("A:S")
        behind.flag_remote("A", "+F")
        live.wait_both("A:FS")
    behind.settings["imap"] = {}
    with Live(behind) as live:
        behind.flag_remote("A", "+R")
        behind.put_remote("B")
        live.wait_both("A:FRS B")


# --- a folder that shows its newest messages only -----------------------------------------------------------------


def test_what_a_folder_limit_pushes_out_was_not_deleted(setup: Setup, proxy: Proxy) -> None:
    """Each new message pushes out the oldest. Its file stays as it is, and the user is told why."""
    gmail = Gmail(proxy, setup, folder_limit=4)
    setup.put_remotes(["A", "B", "C", "D"], "S")
    setup.sync()
    setup.assert_both("A:S B:S C:S D:S")
    setup.put_remotes(["E", "F"], "S")
    run = setup.sync()
    assert "newest 4 messages" in run.err, run
    setup.assert_state(remote="C:S D:S E:S F:S", local="A:S B:S C:S D:S E:S F:S")
    again = setup.sync_again_changes_nothing(quiet=False)
    assert "held: 2 messages" in again.err
    setup.flag_local("A", "+F")
    gmail.folder_limit = 6
    setup.put_remotes(["A", "B"], "S")  # the limit is another one, and they show again
    setup.sync()
    setup.assert_both("A:FS B:S C:S D:S E:S F:S")
    setup.sync_again_changes_nothing()


def test_deletions_in_a_full_folder_are_deletions(setup: Setup, proxy: Proxy) -> None:
    """What is not older than all that is shown was not pushed out."""
    Gmail(proxy, setup)
    setup.put_remotes(["A", "B", "C", "D", "E"], "S")
    setup.sync()
    setup.expunge_remote("C")
    setup.sync()
    setup.assert_state(remote="A:S B:S D:S E:S", local="A:S B:S C:ST D:S E:S")
    setup.sync_again_changes_nothing()
