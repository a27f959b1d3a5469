# SPDX-License-Identifier: MIT
"""The live mode when folders are moved, replaced, emptied or changed faster than inotify can tell; and its own echo."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.support.live import Live, cpu_seconds
from tests.support.patched import patched
from tests.support.proxy import Proxy
from tests.support.run import Setup
from tests.support.waiting import wait_for
from tests.system.conftest import MakeSetup

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")
TWO = {"inbox": ("inbox", "INBOX"), "other": ("other", "Other")}


def words(*names: str) -> str:
    return " ".join(names)


def many(count: int) -> list[str]:
    return [f"m{number}" for number in range(count)]


def test_more_events_than_the_queue_holds(setup: Setup):
    setup.put_remotes(["A", "B"])
    with Live(setup) as live:
        live.wait_both("A B")
        live.signal(signal.SIGSTOP)
        one = setup.maildir / "cur" / "0000.noise:2,D"
        other = one.with_name("0000.noise:2,DF")
        one.touch()
        for _ in range(int(QUEUE.read_text()) // 2):
            one.rename(other)
            other.rename(one)
        one.unlink()
        setup.put_local("up")
        setup.flag_local("A", "+F")
        setup.remove_local("B")
        live.signal(signal.SIGCONT)
        live.wait_remote("A:F B:T up")
        live.wait_log("more changes to the folders than inotify could hold")


# --- a folder that is away, or another one ---------------------------------------------------------------------------


def test_folder_moved_away_and_back(setup: Setup):
    setup.put_remotes(["A", "B"])
    away = setup.base / "elsewhere"
    with Live(setup) as live:
        live.wait_both("A B")
        setup.maildir.rename(away)
        live.wait_log("is missing")
        setup.put_remote("down")
        live.signal(signal.SIGUSR1)
        live.wait_log("is missing; nothing was changed; trying again", 1)  # which is told no more
        assert setup.remote_state() == ["A", "B", "down"]
        # A cycle that was under way when it went tells of the directory that it looked for.
        assert live.stderr.read_text().count("inbox is missing") == 1, live.story()
        away.rename(setup.maildir)
        live.wait_both("A B down")
        live.wait_log("inbox: goes on")
        setup.put_local("up")
        live.wait_remote("A B down up")


def test_folder_replaced_by_an_empty_one(setup: Setup):
    setup.put_remotes(["A", "B"])
    away = setup.base / "elsewhere"
    with Live(setup) as live:
        live.wait_both("A B")
        setup.maildir.rename(away)
        setup.make_folder()
        live.wait_log("nothing was changed")
        setup.put_remote("down")
        live.signal(signal.SIGUSR1)
        live.wait_log("as SIGUSR1 asks")
        live.wait_log("; trying again in")
        assert setup.remote_state() == ["A", "B", "down"], live.story()
        assert setup.local_state() == []
        assert f"pid {live.pid}" in live.stderr.read_text()
        setup.maildir.rename(setup.base / "empty")
        away.rename(setup.maildir)
        live.wait_both("A B down")
        setup.flag_local("A", "+F")
        live.wait_remote("A:F B down")


def test_cur_moved_away_and_back(setup: Setup):
    setup.put_remotes(["A", "B"], "S")
    away = setup.base / "elsewhere"
    with Live(setup) as live:
        live.wait_both("A:S B:S")
        (setup.maildir / "cur").rename(away)
        live.wait_log("/cur: No such file or directory")
        setup.put_remote("down")
        live.signal(signal.SIGUSR1)
        live.wait_log("as SIGUSR1 asks")
        live.wait_log("error: inbox:")
        assert setup.remote_state() == ["A:S", "B:S", "down"]
        away.rename(setup.maildir / "cur")
        live.wait_both("A:S B:S down")
        setup.flag_local("A", "+F")
        live.wait_remote("A:FS B:S down")


def test_cur_replaced(setup: Setup):
    """It is as if all were deleted: the guard. The directory that is watched is another one from then on."""
    names = many(60)
    setup.put_remotes(names, "S")
    cur, away = setup.maildir / "cur", setup.base / "elsewhere"
    with Live(setup) as live:
        live.wait_both(words(*(f"{name}:S" for name in names)))
        cur.rename(away)
        cur.mkdir()
        live.wait_log("error: inbox:")
        assert setup.remote_state() == sorted(f"{name}:S" for name in names), live.story()
        cur.rmdir()
        away.rename(cur)
        live.wait_log("inbox: goes on")
        setup.flag_local("m0", "+F")
        live.wait_both(words("m0:FS", *(f"{name}:S" for name in names[1:])))


# --- the guard --------------------------------------------------------------------------------


def test_guard_holds_one_pairing_until_the_files_are_back(make_setup: MakeSetup):
    setup = make_setup(pairings=TWO)
    setup.server.doveadm("mailbox", "create", "-u", setup.user, "Other")
    names = many(60)
    setup.put_remotes(names)
    with Live(setup) as live:
        live.wait_local(words(*names))
        live.wait_log("inbox: 60 downloaded")
        away = setup.base / "elsewhere"
        away.mkdir()
        live.signal(signal.SIGSTOP)  # else it may look while there are few of them
        moved = [(file.path, away / file.path.name) for file in setup.files()]
        for path, target in moved:
            path.rename(target)
        live.signal(signal.SIGCONT)
        live.wait_log("error: inbox:")
        told = live.stderr.read_text()
        assert "60" in told
        assert f"pid {live.pid}" in told
        assert "--allow-mass-delete" in told
        setup.put_local("up", pairing="other")
        setup.put_remote("down", pairing="other")
        live.wait_both("up down", "other")
        live.signal(signal.SIGUSR1)
        live.wait_log("; trying again in")  # it was looked at again
        assert live.stderr.read_text().count("--allow-mass-delete") == 1
        assert setup.remote_state() == sorted(names)
        for path, target in moved:
            target.rename(path)
        live.wait_log("inbox: goes on")
        setup.put_local("up")
        live.wait_both(words(*names, "up"))


# --- its own echo --------------------------------------------------------------------------------


def test_idle_is_idle(behind: Setup, proxy: Proxy):
    """After a delivery, an upload and a flag: no work, no line, no processor time."""
    behind.settings["imap"] = {"idle_timeout_minutes": "0.02"}
    with Live(behind) as live:
        behind.put_remote("down")
        behind.put_local("up")
        live.wait_both("down up")
        behind.flag_local("down", "+S")
        live.wait_remote("down:S up")
        renewals(live, proxy, 2)
        seen, log = len(proxy.seen), live.log
        used, began = cpu_seconds(live.pid), time.monotonic()
        renewals(live, proxy, 4)
        used, took = cpu_seconds(live.pid) - used, time.monotonic() - began
        working = [line for line in proxy.seen[seen:] if not re.match(r"(IDLE|DONE)?$", line)]
        assert not working, live.story()
        assert live.log == log, live.log[len(log) :]
        assert used <= 0.02 + 0.005 * took, f"{used:.2f} s of {took:.1f} s"


def renewals(live: Live, proxy: Proxy, count: int) -> None:
    wanted = list(proxy.seen).count("IDLE") + count
    wait_for(lambda: list(proxy.seen).count("IDLE") >= wanted, what=f"{count} renewals", detail=live.story)


def test_folder_of_a_first_start_is_watched_from_the_start(setup: Setup):
    with Live(setup) as live:
        setup.put_remote("A")
        live.wait_local("A")
    assert "No such file" not in live.stderr.read_text()
    assert os.path.isdir(setup.maildir)


FULL_DISK = """
import os, sqlite3
from pushpull import store

update_pair = store.Store.update_pair

def full(self, pair, **changes):
    if os.path.exists("full") and (changes == {"hook_due": False} or open("full").read() == "at once"):
        with store.translate(self.path):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorname = "SQLITE_FULL"
            raise error
    return update_pair(self, pair, **changes)

store.Store.update_pair = full
"""


@pytest.mark.parametrize("when", ["at once", "after the delivery"])
def test_a_full_disk_under_the_state_ends_nothing(setup: Setup, when: str):
    """SQLite says that it is full; what was held up goes on when it no longer is."""
    setup.program = patched(FULL_DISK)
    setup.settings["general"] = {"restart_after_error_seconds": "1"}
    with Live(setup) as live:
        setup.put_remote("A")
        live.wait_both("A")
        (setup.base / "full").write_text(when)
        setup.put_remote("B")
        live.wait_log("database or disk is full")
        (setup.base / "full").unlink()
        live.wait_both("A B")
