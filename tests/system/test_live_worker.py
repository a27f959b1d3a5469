# SPDX-License-Identifier: MIT
"""The live mode's own parts: the post-sync command, turns, threads that die, connections, and nothing that grows."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

from tests.support.live import Live
from tests.support.messages import mail
from tests.support.patched import patched
from tests.support.proxy import Proxy
from tests.support.run import Setup
from tests.support.waiting import wait_for
from tests.system.conftest import MakeSetup

TWO = {"inbox": ("inbox", "INBOX"), "other": ("other", "Other")}


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# --- the post-sync command ----------------------------------------------------------------------------------------


def with_hook(setup: Setup, script: str, **settings: str) -> Path:
    """The command notes each start in the file returned."""
    runs, path = setup.base / "runs", setup.base / "hook"
    path.write_text(f"#!/bin/sh\necho run >> {runs}\n{script}\n")
    path.chmod(0o755)
    setup.settings["command"] = {"post_sync_local_change": str(path), **settings}
    return runs


def test_hook_that_fails_is_told_and_tried_with_the_next_change(setup: Setup):
    runs = with_hook(setup, f"test -e {setup.base}/well")
    with Live(setup) as live:
        setup.put_remote("A")
        live.wait_log("error: inbox:")
        assert lines(runs) == ["run"]
        (setup.base / "well").touch()
        setup.put_remote("B")
        live.wait_local("A B")
        wait_for(lambda: len(lines(runs)) == 2, what="another run", detail=live.story)
    assert live.log.count("error: inbox:") == 1
    assert lines(runs) == ["run", "run"]


def test_hook_that_hangs_holds_up_no_mail(setup: Setup):
    runs = with_hook(setup, f"test -e {setup.base}/well || exec sleep 60", timeout_seconds="1")
    with Live(setup) as live:
        setup.put_remote("A")
        wait_for(lambda: lines(runs), what="the command", detail=live.story)
        setup.put_remote("B")
        live.wait_local("A B", seconds=0.9)
        (setup.base / "well").touch()
        live.wait_log("error: inbox:")
        wait_for(lambda: len(lines(runs)) == 2, what="another run", detail=live.story)


def test_changes_while_the_hook_runs_are_one_more_run(setup: Setup):
    go = setup.base / "go"
    runs = with_hook(setup, f"while ! test -e {go}; do sleep 0.02; done; echo end >> {setup.base}/ends")
    with Live(setup) as live:
        setup.put_remote("A")
        wait_for(lambda: lines(runs), what="the command", detail=live.story)
        for number in range(1, 4):
            setup.put_remote(f"B{number}")
            live.wait_local("A " + " ".join(f"B{n}" for n in range(1, number + 1)))
        assert len(lines(runs)) == 1
        go.touch()
        wait_for(lambda: len(lines(setup.base / "ends")) == 2, what="another run", detail=live.story)
        setup.put_local("up")  # which changes no local file
        live.wait_remote("A B1 B2 B3 up")
    assert len(lines(runs)) == 2


# --- turns ------------------------------------------------------------------------------------------------------------


def some(setup: Setup, count: int) -> None:
    wait_for(lambda: len(setup.files()) >= count, what="a part of the download")


BODIES = r"UID FETCH \d+:\d+ .*BODY\.PEEK\[\]"  # of a batch
TELL_TRIGGERS = """
from pushpull.triggers import TriggerQueue
put = TriggerQueue.put
def told(self, trigger):
    put(self, trigger)
    with open({path!r}, "a") as file:
        file.write(trigger.pairing + " " + trigger.kind.name + "\\n")
TriggerQueue.put = told
"""


def test_interrupted_download_goes_behind_others_though_its_own_folder_changed(make_setup: MakeSetup, proxy: Proxy):
    setup = make_setup(port=proxy.port, pairings=TWO)
    setup.server.doveadm("mailbox", "create", "-u", setup.user, "Other")
    setup.put_remotes([f"m{number}" for number in range(600)])
    triggers, held, release = setup.base / "triggers", threading.Event(), threading.Event()
    setup.program = patched(TELL_TRIGGERS.format(path=str(triggers)))

    def hold() -> None:
        if 'SELECT "Other"' in proxy.seen:
            held.set()
            release.wait(20)

    proxy.on_command(BODIES, before=hold)
    with Live(setup) as live:
        assert held.wait(20), live.story()
        before, told = len(proxy.seen), lines(triggers)
        setup.put_remote("down", pairing="other")
        setup.put_local("up")
        for expected in ("other REMOTE", "inbox LOCAL"):
            wait_for(lambda word=expected: lines(triggers).count(word) > told.count(word), what=expected)
        release.set()
        live.wait_local("down", "other")
    turn = proxy.seen[before : proxy.seen.index('SELECT "Other"', before)]
    assert not [seen for seen in turn if re.match(BODIES, seen) or seen.startswith("SELECT")], turn


def test_big_download_delays_nobody(make_setup: MakeSetup, proxy: Proxy):
    setup = make_setup(port=proxy.port, pairings=TWO)
    setup.server.doveadm("mailbox", "create", "-u", setup.user, "Other")
    names = [f"m{number}" for number in range(1500)]
    setup.put_remotes(names)
    pause = threading.Event()
    slow = proxy.on_command(BODIES, before=lambda: pause.wait(1.0))
    with Live(setup) as live:
        for number in range(1, 3):
            some(setup, 100 * number)
            setup.put_remote(f"down{number}", pairing="other")
            setup.put_local(f"up{number}", pairing="other")
            live.wait_both(" ".join(f"down{n} up{n}" for n in range(1, number + 1)), "other", seconds=5)
        assert len(setup.files()) < 1500, "the download was over"
        pause.set()
        slow.count = 0
        live.wait_local(" ".join(names), seconds=40)
    assert "Yielded" not in live.log


# --- threads that die -------------------------------------------------------------------------------------------------

DIE_ONCE = """
from pushpull import harness
from pushpull.{module} import {name}
whole, dead = {name}.{method}, []
def once(self, *args):
    dead.append(1)
    if len(dead) == {at}:
        raise ValueError("killed by the test")
    return whole(self, *args)
{name}.{method} = once
harness.RESTART_GAPS = (0.2, 0.2)
"""


def dying(setup: Setup, module: str, name: str, method: str = "run", at: int = 1) -> None:
    setup.program = patched(DIE_ONCE.format(module=module, name=name, method=method, at=at))


def test_thread_of_the_folders_dies(setup: Setup):
    dying(setup, "watch_local", "LocalWatcher")
    with Live(setup, bugs=True) as live:
        live.wait_log("the thread 'folders' died")
        setup.put_local("up")
        live.wait_remote("up")
    assert "killed by the test" in live.log


def test_thread_of_a_mailbox_dies(setup: Setup):
    dying(setup, "watch_remote", "RemoteWatcher", "_follow")
    with Live(setup, bugs=True) as live:
        live.wait_log("the thread 'remote 1' died")
        live.wait_log("watched by IDLE")
        setup.put_remote("down")
        live.wait_local("down")
    assert "killed by the test" in live.log


def test_thread_of_the_hooks_dies(setup: Setup):
    runs = with_hook(setup, "true")
    dying(setup, "hooks", "HookRunner", "_next", at=2)
    with Live(setup, bugs=True) as live:
        setup.put_remote("A")
        live.wait_log("the thread 'hooks' died")
        setup.put_remote("B")
        wait_for(lambda: len(lines(runs)) == 2, what="another run", detail=live.story)
    assert "killed by the test" in live.log


def test_worker_dies(setup: Setup):
    dying(setup, "worker", "Worker", "_cycle", at=2)
    with Live(setup, code=70, bugs=True) as live:
        setup.put_remote("A")
        wait_for(lambda: live.process.poll() is not None, what="its end", detail=live.story)
    assert "killed by the test" in live.log
    assert "Traceback" in live.stderr.read_text()


# --- connections, and what must not grow ------------------------------------------------------------------------------


def test_no_more_connections_than_allowed(make_setup: MakeSetup):
    names = [f"M{number}" for number in range(20)]
    setup = make_setup(pairings={name: (name, name) for name in names})
    setup.settings["imap"] = {"max_connections": "4", "poll_seconds": "1"}
    doveadm = setup.server.doveadm
    for name in names:
        doveadm("mailbox", "create", "-u", setup.user, name)
    with Live(setup) as live:
        live.wait_log("watched by", 3)
        most = 0

        def everywhere() -> bool:
            nonlocal most
            who = doveadm("-f", "tab", "who", "-1", setup.user)
            most = max(most, len(who.splitlines()) - 1)
            return all(setup.local_state(name) == ["mail" + name] for name in names)

        for name in names:  # over no connection
            doveadm("save", "-u", setup.user, "-m", name, input=setup.know("mail" + name, mail("mail" + name)))
        wait_for(everywhere, what="all mail", detail=live.story)
    assert 2 <= most <= 4


FAST = """
from pushpull.config import Imap
Imap.idle_timeout_seconds = property(lambda self: 0.02)
"""


def test_renewals_leave_nothing_behind(behind: Setup, proxy: Proxy):
    """As many as in a week; each with a cycle that finds nothing to do."""
    behind.program = patched(FAST)
    behind.settings["imap"] = {"sync_on_idle_timeout": "yes"}
    behind.put_remotes(["A", "B"])
    with Live(behind) as live:
        live.wait_both("A B")
        idles(live, proxy, 50)
        before = sizes(live.pid)
        idles(live, proxy, 400)
        # A cycle has a few descriptors more while it looks.
        wait_for(lambda: sizes(live.pid)[:2] <= before[:2], what=f"no more threads and descriptors than {before}")
        after = sizes(live.pid)
    assert after[2] - before[2] < 2048, (before, after)


def idles(live: Live, proxy: Proxy, count: int) -> None:
    wait_for(lambda: list(proxy.seen).count("IDLE") >= count, what=f"{count} renewals", detail=live.story)


def sizes(pid: int) -> tuple[int, int, int]:
    """Threads, descriptors, kB of memory."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    found: Callable[[str], int] = lambda name: int(status[name].split()[0])  # noqa: E731
    return found("Threads"), len(os.listdir(f"/proc/{pid}/fd")), found("VmRSS")
