# SPDX-License-Identifier: MIT
"""Servers that refuse, changes during a run, signals, locks, full disks, quotas, read-only mailboxes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.dovecot import STRICT, Dovecot
from tests.support.messages import mail
from tests.support.proxy import Proxy
from tests.support.run import Setup
from tests.support.server import Server
from tests.support.work import Stall, assert_done, wait_for_sync, with_work
from tests.system.conftest import MakeSetup

QUOTA = 20  # kilobytes

# --- servers that refuse ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["UNAVAILABLE", "INUSE", "LIMIT"])
@pytest.mark.parametrize("command", [r"^SELECT", r"^UID FETCH", r"^UID STORE", r"^APPEND"])
def test_not_now(behind: Setup, proxy: Proxy, command: str, code: str) -> None:
    """Refused once with a code that means 'later': the run itself tries again, and succeeds."""
    with_work(behind)
    rule = proxy.on_command(command, count=1, answer=f"NO [{code}] Try again later".encode())
    run = behind.sync()
    assert rule.hits == 1, f"nothing was refused\n{run}"
    assert "trying again" in run.err, run
    assert_done(behind)


def test_one_message_is_not_available(each_behind: Setup, proxy: Proxy) -> None:
    """The others go on, and it is not forgotten."""
    uids = each_behind.put_remotes(["A", "B", "C", "D"], "S")
    bad = rf"^UID FETCH .*\b{uids[1]}\b.*BODY\.PEEK\[\]|^UID FETCH (1:\*|\d+:\d+) .*BODY\.PEEK\[\]"
    rule = proxy.on_command(bad, answer=b"NO [UNAVAILABLE] UID FETCH Server error")
    each_behind.run()
    each_behind.assert_state(remote="A:S B:S C:S D:S")
    assert "B:S" not in each_behind.local_state()
    rule.count = 0
    wait_for_sync(each_behind, "A:S B:S C:S D:S")
    each_behind.sync_again_changes_nothing()


@pytest.mark.needs("dovecot")
def test_a_message_that_the_server_cannot_read(setup: Setup) -> None:
    """Its file is there, but the server may not open it: it drops the link, or refuses. The others come down."""
    setup.put_remotes(["A", "B", "C"], "S")
    assert isinstance(setup.server, Dovecot)
    maildir = setup.server.home(setup.user) / "Maildir"
    bad = next(
        path for path in [*maildir.glob("cur/*"), *maildir.glob("new/*")] if b"Subject: B\r" in path.read_bytes()
    )
    whole = bad.read_bytes()
    # A name that lies about the size: Dovecot ends the session in the middle of the message.
    lying = bad.with_name(bad.name.replace(f"S={len(whole)}", f"S={len(whole) + 5000}"))
    assert lying != bad
    bad.rename(lying)
    for path in maildir.glob("dovecot.index.cache*"):
        path.unlink()
    setup.run()
    assert {"A:S", "C:S"} <= set(setup.local_state())
    lying.rename(bad)
    wait_for_sync(setup, "A:S B:S C:S")
    setup.sync_again_changes_nothing()


@pytest.mark.parametrize("text", ["[OVERQUOTA] Quota exceeded", "[TOOBIG] Too big", "[CANNOT] No", "Message refused"])
def test_one_upload_is_refused_for_good(behind: Setup, proxy: Proxy, text: str) -> None:
    """Set aside with the server's words; everything else goes on; told, but no failure for ever."""
    behind.put_remote("A")
    behind.sync()
    # By its name it goes first: of a command for both the proxy sees the first message only.
    proxy.on_command(r"^APPEND .*\{\d{4,}\+?\}", answer=f"NO {text}".encode())
    behind.put_local(mail("big", body="x" * 2000), name="0big.1.host")
    behind.put_local("small")
    run = behind.run()
    assert run.code in (0, 75), run
    assert text.rpartition("] ")[2] in run.err
    behind.assert_state(remote="A small")
    assert len(behind.files()) == 3
    again = behind.sync()
    assert again.err
    assert behind.local_state() != behind.remote_state()
    behind.sync_again_changes_nothing(quiet=False)


def test_login_refused(setup: Setup) -> None:
    setup.settings = {"imap": {"login_password": "wrong"}}
    setup.put_remote("A")
    run = setup.sync(expect=77)
    assert "wrong" not in run.err
    assert not list(setup.base.glob("mail/**/*1"))


def test_bye_in_the_middle(behind: Setup, proxy: Proxy) -> None:
    with_work(behind)
    proxy.on_command(r"^UID STORE", count=1, answer=b"NO bye", untagged=b"* BYE Server shutting down\r\n")
    run = behind.run()
    assert run.code in (0, 75), run
    if run.code:
        behind.sync()
    assert_done(behind)


@pytest.mark.needs("kick")
def test_kicked_by_the_administrator(behind: Setup, proxy: Proxy) -> None:
    with_work(behind)
    rule = proxy.on_command(r"^UID STORE|^APPEND", count=1, before=lambda: behind.server.kick(behind.user))
    behind.sync()
    assert rule.hits
    assert_done(behind)


# --- what changes during a run ------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["^SELECT", "^UID FETCH", "^UID STORE", "^APPEND", "^LOGOUT"])
def test_mail_program_renames_during_the_run(behind: Setup, proxy: Proxy, moment: str) -> None:
    """new/ -> cur/ with a flag, at any moment of a run: no copy, no deletion, and the flag goes up in the end."""
    with_work(behind)
    behind.put_local("moved", directory="new")

    def rename() -> None:
        for file in [*behind.named("moved"), *behind.named("A")]:
            letters = "".join(sorted({*file.letters, "S"}))
            file.path.rename(behind.maildir / "cur" / f"{file.name}:2,{letters}")

    rule = proxy.on_command(moment, count=1, before=rename)
    behind.sync()
    assert rule.hits
    behind.sync()
    behind.assert_state(remote="A:FS B:RS C:ST N:F O:S moved:S", local="A:FS B:RS D:ST N:F O:S moved:S")
    behind.sync_again_changes_nothing()


@pytest.mark.parametrize("moment", ["^SELECT", "^UID FETCH", "^UID STORE", "^APPEND", "^LOGOUT"])
def test_file_removed_during_the_run(behind: Setup, proxy: Proxy, moment: str) -> None:
    with_work(behind)
    behind.put_local("gone")
    proxy.on_command(moment, count=1, before=lambda: behind.remove_local("gone", "A"))
    run = behind.run()
    assert run.code in (0, 75), run
    behind.sync()
    words = [word for word in behind.remote_state() if not word.startswith("gone")]
    assert words == sorted(["A:FST", "B:RS", "C:ST", "N:F", "O:S"])
    assert all(word == "gone:T" for word in behind.remote_state() if word.startswith("gone"))
    behind.assert_state(local="B:RS D:ST N:F O:S")
    behind.sync_again_changes_nothing()


@pytest.mark.parametrize("moment", ["^UID FETCH", "^UID STORE", "^APPEND", "^LOGOUT"])
def test_mailbox_changes_during_the_run(each_behind: Setup, proxy: Proxy, moment: str) -> None:
    """New mail, a flag and an expunge by another client in the middle of a run: seen in this run or the next."""
    with_work(each_behind)

    def change() -> None:
        each_behind.put_remote("late", "F")
        each_behind.flag_remote("B", "+F")
        each_behind.expunge_remote("A")

    proxy.on_command(moment, count=1, before=change)
    each_behind.sync()
    each_behind.sync()
    each_behind.assert_state(remote="B:FRS C:ST N:F O:S late:F")
    # Its last flags were seen or not, before it went.
    assert each_behind.local_state() in (
        sorted([expunged, "B:FRS", "D:ST", "N:F", "O:S", "late:F"]) for expunged in ("A:FST", "A:ST")
    )
    each_behind.sync_again_changes_nothing()


# --- two processes, signals ---------------------------------------------------------------------------------------


def test_two_processes_on_one_pairing(behind: Setup, proxy: Proxy) -> None:
    """The second one ends with 75 and names the first, which is not disturbed."""
    with_work(behind)
    stall = Stall(proxy, "^SELECT")
    first = behind.start()
    try:
        stall.wait()
        second = behind.run()
    finally:
        stall.release()
    assert second.code == 75, second
    assert str(first.pid) in second.err
    assert behind.finish(first).code == 0
    assert_done(behind)


def test_lock_of_a_killed_process_is_no_lock(behind: Setup, proxy: Proxy) -> None:
    with_work(behind)
    stall = Stall(proxy, "^SELECT")
    first = behind.start()
    try:
        stall.wait()
        first.kill()
        behind.finish(first)
    finally:
        stall.release()
    behind.sync()
    assert_done(behind)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["^SELECT", "^UID FETCH .*BODY", "^APPEND"])
def test_ended_by_a_signal(behind: Setup, proxy: Proxy, number: signal.Signals, command: str) -> None:
    """A one-shot run that is cut short ends soon, with 75, and the next one goes on."""
    with_work(behind)
    stall = Stall(proxy, command)
    process = behind.start()
    try:
        stall.wait()
        process.send_signal(number)
    finally:
        stall.release()
    run = behind.finish(process, timeout=20)
    assert run.code == 75, run
    assert "Traceback" not in run.err
    behind.sync()
    assert_done(behind)


# --- the local disk -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(setup: Setup) -> Iterator[Setup]:
    """The Maildir on a disk of 1 MB. Who may not mount has a limit on a file's size instead."""
    top = setup.base / "mail"
    top.mkdir()
    if os.getuid() == 0:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(top)], check=True)
        yield setup
        subprocess.run(["umount", "-l", str(top)], check=True)
    else:
        yield setup


def grow(setup: Setup) -> None:
    if os.getuid() == 0:
        subprocess.run(["mount", "-o", "remount,size=50m", str(setup.base / "mail")], check=True)


def test_disk_full(small_disk: Setup) -> None:
    """What fits comes down, nothing is marked anywhere, and the rest comes when there is room."""
    setup = small_disk
    setup.put_remotes(["A", "B"], "S")
    setup.sync()
    big = setup.know("big", mail("big", body="0123456789abcde\n" * 200_000))
    setup.put_remote(big, "S")
    setup.put_remote("C", "S")
    setup.flag_local("A", "+F")
    if os.getuid() == 0:
        run = setup.sync(expect=74)
    else:
        # Raised for the program only; SQLite's files stay far below it.
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
        try:
            process = setup.start()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        run = setup.finish(process)
        assert run.code in (74, 75), run
    assert run.err
    assert not [word for word in setup.remote_state() if "T" in word.partition(":")[2]]
    assert {"A:FS", "B:S"} <= set(setup.local_state())
    assert "big:S" not in setup.local_state()
    assert not [word for word in setup.local_state() if word.startswith("?")], "half a message was delivered"
    grow(setup)
    wait_for_sync(setup, "A:FS B:S C:S big:S")
    setup.sync_again_changes_nothing()


def test_one_file_cannot_be_read(setup: Setup) -> None:
    """A symbolic link to nowhere, or a file of somebody else: the others go up."""
    folder = setup.make_folder()
    setup.put_local("A")
    bad = folder / "cur" / "unreadable.1.host:2,S"
    if os.getuid() == 0:
        bad.symlink_to("/nowhere/at/all")
    else:
        bad.write_bytes(mail("B"))
        bad.chmod(0)
    setup.put_local("C")
    run = setup.run("--yes")
    assert run.code in (0, 75), run
    assert setup.remote_state() == ["A", "C"]
    assert os.path.lexists(bad)


# --- special mailboxes --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict_server(server: Server) -> Iterator[Server]:
    """A server with quotas and access rights: Dovecot has them with other settings only."""
    if isinstance(server, Dovecot):
        with Dovecot(settings=STRICT.format(kilobytes=QUOTA)) as strict:
            yield strict
    else:
        yield server


@pytest.mark.needs("set_quota")
def test_quota_exceeded(make_setup: MakeSetup, strict_server: Server, strategy: str) -> None:
    """The big one is set aside and told; smaller ones go up; when there is room it is still not forgotten."""
    setup = make_setup(server=strict_server, strategy=strategy)
    setup.put_remote("A")
    strict_server.set_quota(setup.user, QUOTA)
    setup.sync()
    big = setup.know("big", mail("big", body="0123456789abcde\n" * 2000))
    setup.put_local(big, "S", name="big.1.host")
    setup.put_local("small", "S")
    run = setup.run()
    assert run.code in (0, 75), run
    assert "uota" in run.err
    setup.assert_state(remote="A small:S", local="A big:S small:S")
    assert setup.sync().err, "told each time"
    again = setup.sync("-v")
    assert "uota" in again.err
    assert "big.1.host" in again.err
    setup.sync_again_changes_nothing(quiet=False)
    setup.flag_remote("A", "+F")
    setup.sync()
    setup.assert_state(remote="A:F small:S", local="A:F big:S small:S")


@pytest.mark.needs("set_read_only")
def test_read_only_mailbox(make_setup: MakeSetup, strict_server: Server, strategy: str) -> None:
    """Mail and flags come down; nothing is sent up, nothing is lost, and it is told."""
    setup = make_setup(server=strict_server, strategy=strategy)
    setup.put_remotes(["A", "B", "C"], "S")
    setup.sync()
    setup.flag_remote("A", "+F")
    setup.put_remote("N")
    setup.flag_local("B", "+R")
    setup.remove_local("C")
    setup.put_local("O")
    strict_server.set_read_only(setup.user, True)
    setup.run()
    assert {"A:FS", "N", "O"} <= set(setup.local_state())
    assert setup.count_sent("UID STORE") == 0
    assert setup.count_sent("APPEND") == 0 or not strict_server.tells_read_only
    strict_server.set_read_only(setup.user, False)
    wait_for_sync(setup, "A:FS B:RS N O", remote="A:FS B:RS C:ST N O")
    setup.sync_again_changes_nothing()
