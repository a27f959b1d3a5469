# SPDX-License-Identifier: MIT
"""Rules that only a whole run shows: hooks after a failure, a login that is only tried, a link that stalls, Gmail."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable

import pytest

from tests.support.proxy import Proxy, Rule
from tests.support.run import Setup
from tests.support.work import Stall, with_work

# --- the post-sync command ----------------------------------------------------------------------------------------


def hook(setup: Setup, script: str = "echo ran >> $OUT") -> None:
    path = setup.base / "hook"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    setup.env["OUT"] = str(setup.base / "ran")
    setup.settings["command"] = {"post_sync_local_change": str(path)}


def times_run(setup: Setup) -> int:
    path = setup.base / "ran"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_hook_runs_after_a_cycle_that_failed_later(behind: Setup, proxy: Proxy) -> None:
    """Mail came down, then the link was cut at each mark: the mail is there, so who indexes it is to know."""
    behind.put_remote("A", "S")
    behind.sync()
    hook(behind)
    behind.put_remote("B", "S")
    behind.remove_local("A")
    rule = proxy.on_command(r"^UID STORE .*Deleted", cut=True)
    run = behind.sync(expect=75)
    assert rule.hits
    behind.assert_state(remote="A:S B:S", local="B:S")
    assert times_run(behind) == 1, run
    rule.count = 0
    behind.sync()
    behind.assert_state(remote="A:ST B:S", local="B:S")
    assert times_run(behind) == 1, "the second run changed nothing here"
    behind.sync_again_changes_nothing()


def test_hook_that_failed_stays_due(setup: Setup) -> None:
    """Until it succeeds, also in runs that have nothing else to do; then it is done."""
    hook(setup, "echo ran >> $OUT; test -e $OUT.well")
    setup.put_remote("A", "S")
    for times in (1, 2):
        run = setup.run()
        assert run.code, run
        assert (times_run(setup), setup.local_state()) == (times, ["A:S"])
        assert "hook" in run.err
    (setup.base / "ran.well").touch()
    setup.sync()
    assert times_run(setup) == 3
    setup.sync_again_changes_nothing()
    assert times_run(setup) == 3


def test_hook_of_a_run_that_was_killed_stays_due(behind: Setup, proxy: Proxy) -> None:
    """Killed after the delivery: the next run finds nothing to change here, and calls it."""
    hook(behind)
    behind.put_remote("A", "S")
    behind.put_local("B", "S")
    stall = Stall(proxy, r"^APPEND")
    process = behind.start("--yes")
    try:
        stall.wait()
        process.kill()
        behind.finish(process)
    finally:
        stall.release()
    assert (times_run(behind), "A:S" in behind.local_state()) == (0, True)
    behind.sync()
    assert times_run(behind) == 1
    behind.assert_both("A:S B:S")
    behind.sync_again_changes_nothing()


# --- a link that stalls -------------------------------------------------------------------------------------------


STALLS: dict[str, Callable[[Proxy, Callable[[], object]], Rule]] = {
    "SELECT": lambda proxy, hold: proxy.on_answer(r"EXISTS", count=1, before=hold),
    "flags": lambda proxy, hold: proxy.on_answer(r"FETCH \(UID \d+ .*FLAGS", count=1, before=hold),
    "first body": lambda proxy, hold: proxy.on_answer(r"BODY\[\] \{", count=1, before=hold),
    "between bodies": lambda proxy, hold: proxy.on_answer(r"BODY\[\] \{", skip=1, count=1, before=hold),
    "STORE": lambda proxy, hold: proxy.on_answer(r"Store completed", count=1, before=hold),
    "APPEND": lambda proxy, hold: proxy.on_answer(r"APPENDUID", count=1, before=hold),
}


@pytest.mark.parametrize("where", STALLS)
def test_a_link_that_stalls_is_retried_within_the_run(behind: Setup, proxy: Proxy, where: str) -> None:
    """The server says nothing more, and the link stays open: given up after the time that is configured, and the same
    run goes on with a new one."""
    with_work(behind)
    behind.put_remotes(["P", "Q"], "S")
    behind.settings["imap"] = {"timeout_seconds": "2"}
    over = threading.Event()
    try:
        rule = STALLS[where](proxy, lambda: over.wait(60))
        before = proxy.connections
        run = behind.sync()
    finally:
        over.set()
    assert rule.hits, f"nothing stalled\n{run}"
    assert proxy.connections == before + 2, run
    assert "trying again" in run.err, run
    behind.assert_state(remote="A:FS B:RS C:ST N:F O:S P:S Q:S", local="A:FS B:RS D:ST N:F O:S P:S Q:S")
    behind.sync_again_changes_nothing()


# --- a login that is only tried -----------------------------------------------------------------------------------


def untouched(setup: Setup) -> None:
    """Neither side, nor a state file."""
    assert not setup.state.exists()
    assert not setup.maildir.exists()
    assert setup.remote_state() == ["A:S"]
    assert not [command for command in setup.sent() if command.upper().startswith(("SELECT", "EXAMINE", "STATUS"))]


def test_a_login_is_tried(setup: Setup) -> None:
    setup.put_remote("A", "S")
    setup.forget_sent()
    run = setup.sync("--test-auth-only")
    assert setup.user in run.out + run.err
    assert setup.count_sent("LOGOUT") == 1, setup.sent()
    untouched(setup)


def test_a_login_is_tried_and_refused(setup: Setup) -> None:
    setup.settings = {"imap": {"login_password": "wrong"}}
    setup.put_remote("A", "S")
    setup.forget_sent()
    run = setup.sync("--test-auth-only", expect=77)
    assert run.err
    assert "wrong" not in run.out + run.err
    untouched(setup)


# --- Gmail --------------------------------------------------------------------------------------------------------


def test_who_marks_at_gmail_is_told(behind: Setup, proxy: Proxy) -> None:
    """A server that offers X-GM-EXT-1 may expunge what is marked; told when something was, and only then."""
    proxy.on_answer(r"IMAP4rev1", replace=b"IMAP4rev1 X-GM-EXT-1")
    behind.put_remotes(["A", "B"], "S")
    assert "Gmail" not in str(behind.sync())
    behind.remove_local("A")
    assert "Gmail" in behind.sync().err
    behind.assert_state(remote="A:ST B:S", local="B:S")
    behind.sync_again_changes_nothing()
