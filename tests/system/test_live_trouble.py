# SPDX-License-Identifier: MIT
"""The live mode when links and servers give trouble: it stays, comes back by itself, and nothing is lost or twice."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.dovecot import Dovecot, mail_ids
from tests.support.live import Live
from tests.support.messages import mail
from tests.support.patched import patched
from tests.support.proxy import Proxy
from tests.support.run import Setup
from tests.support.server import alive
from tests.support.waiting import wait_for
from tests.system.conftest import MakeSetup

SOON = "from pushpull import engine\nengine.ANSWER_SECONDS = 1.0"  # an APPEND without an answer is sent again
IMPATIENT = {"general": {"restart_after_error_seconds": "1"}}
SHORT = {"imap": {"timeout_seconds": "1", "idle_timeout_minutes": "0.02"}, **IMPATIENT}


@pytest.fixture
def own_server() -> Iterator[Dovecot]:
    """One that may be stopped: no other test uses it."""
    with Dovecot() as own:
        yield own


def test_bursts_on_both_sides_at_once(setup: Setup):
    ups, downs = [f"up{n}" for n in range(100)], [f"down{n}" for n in range(100)]
    with Live(setup) as live:
        other = threading.Thread(target=setup.put_remotes, args=(downs,))
        other.start()
        for name in ups:
            setup.put_local(name)
        other.join(60)
        live.wait_both(" ".join(ups + downs))
    # One command may carry many.
    assert sum(command.count(" bytes)") for command in setup.sent() if command.startswith("APPEND")) == 100


# --- the server ---------------------------------------------------------------------------------------------------


def stop(setup: Setup) -> None:
    """The server, and the sessions of the user, which may outlive it by ten seconds; until they are gone the worker may
    still use the one that it keeps.
    """
    directory = setup.server.base / "rawlog" / setup.user
    pids = {int(path.name.split(".")[1]) for path in directory.glob("*.in")}
    setup.server.stop()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not any(map(alive, pids)), what="the end of the sessions")


def put_behind_its_back(setup: Setup, name: str) -> None:
    """A message that arrives while the server is down."""
    new = setup.server.home(setup.user) / "Maildir" / "new"
    path = new.parent / "tmp" / name
    path.write_bytes(setup.know(name, mail(name)))
    os.chown(path, *mail_ids())
    path.rename(new / f"1600000001.M1P1{name}.testhost")


def test_server_restarted(make_setup: MakeSetup, own_server: Dovecot):
    setup = make_setup(server=own_server, settings=IMPATIENT)
    setup.put_remotes(["A", "B"])
    with Live(setup) as live:
        live.wait_both("A B")
        stop(setup)
        live.wait_log("changes on the server are not seen")
        setup.put_local("up")
        setup.flag_local("A", "+F")
        put_behind_its_back(setup, "down")
        live.wait_log("trying again in", 2)
        own_server.restart()
        live.wait_local("A:F B up down")
        live.wait_remote("A:F B up down")
        setup.put_remote("later")
        live.wait_local("A:F B up down later", seconds=5)
    assert live.stderr.read_text().count("trying again") < 6


def test_suspended_over_a_restart_of_the_server(make_setup: MakeSetup, own_server: Dovecot):
    setup = make_setup(server=own_server, settings=IMPATIENT)
    setup.put_remotes(["A", "B"])
    with Live(setup) as live:
        live.wait_both("A B")
        live.signal(signal.SIGSTOP)
        stop(setup)
        setup.put_local("up")
        setup.flag_local("A", "+F")
        own_server.restart()
        setup.put_remote("down")
        setup.flag_remote("B", "+S")
        live.signal(signal.SIGCONT)
        live.wait_both("A:F B:S up down")


# --- the link -----------------------------------------------------------------------------------------------------


def commands(proxy: Proxy, word: str) -> int:
    return sum(command.upper().startswith(word) for command in list(proxy.seen))


def wait_command(live: Live, proxy: Proxy, word: str, count: int, *, seconds: float = 20.0) -> None:
    wait_for(lambda: commands(proxy, word) >= count, what=f"{word} {count} times", seconds=seconds, detail=live.story)


def test_links_cut(behind: Setup, proxy: Proxy):
    behind.program = patched(SOON)
    behind.settings.update(IMPATIENT)
    with Live(behind) as live:
        wait_command(live, proxy, "IDLE", 1)
        for number in range(1, 4):
            proxy.cut_all()
            live.wait_log("the server closed the connection", number)
            behind.put_local(f"up{number}")
            behind.put_remote(f"down{number}")
            live.wait_both(" ".join(f"up{n} down{n}" for n in range(1, number + 1)))
    assert behind.count_sent("APPEND") == 3


def test_half_open_links(behind: Setup, proxy: Proxy):
    """Nobody says that the links are dead: the deadlines do."""
    behind.settings.update(SHORT)
    with Live(behind) as live:
        wait_command(live, proxy, "IDLE", 1)
        proxy.stall_all()
        behind.put_remote("down")
        behind.put_local("up")
        live.wait_both("up down", seconds=12)


SLEEPER = """
import os, time
from pushpull import watch_link
from pushpull.watch_remote import RemoteWatcher
slept = os.path.join(os.getcwd(), "slept")
defaults = watch_link.LinkWatcher.__init__.__kwdefaults__, RemoteWatcher.__init__.__kwdefaults__
for found in defaults:
    found["wall"] = lambda: time.time() + 3600 * os.path.exists(slept)
watch_link._SLICE = 0.1
"""


def test_links_that_died_in_the_sleep_of_the_machine(behind: Setup, proxy: Proxy):
    """The clocks tell it to the watcher; the worker does not wait out the whole deadline of its own link either."""
    behind.program = patched(SLEEPER)
    behind.put_remote("A")
    with Live(behind) as live:
        live.wait_both("A")
        wait_command(live, proxy, "IDLE", 1)
        settle(live, proxy)
        proxy.stall_all()
        behind.put_remote("down")
        (behind.base / "slept").touch()
        live.wait_log("the clocks say")
        live.wait_local("A down", seconds=12)


def test_server_that_does_not_answer(behind: Setup, proxy: Proxy):
    behind.settings.update(SHORT)
    with Live(behind) as live:
        wait_command(live, proxy, "IDLE", 1)
        stall = proxy.on_answer(r"", drop=True)
        connections = proxy.connections
        behind.put_local("up")
        wait_for(lambda: proxy.connections >= connections + 4, what="new attempts", detail=live.story)
        stall.count = 0
        behind.put_remote("down")
        live.wait_both("up down", seconds=12)


def test_kept_link_that_died_costs_no_pause(behind: Setup, proxy: Proxy):
    """Servers end a session that was quiet for long; the next change finds out, and is on the other side at once."""
    behind.put_remote("A")
    with Live(behind) as live:
        live.wait_both("A")
        wait_command(live, proxy, "IDLE", 1)
        settle(live, proxy)
        proxy.on_command(r"^(?!IDLE|DONE)", count=1, cut=True)
        behind.put_local("up")
        wait_command(live, proxy, "APPEND", 1)
        live.wait_both("A up")
    assert "trying again" not in live.log


def settle(live: Live, proxy: Proxy) -> None:
    """Until a SIGUSR1 was answered and the echo of what was done before is over."""
    count = len(proxy.seen)
    live.signal(signal.SIGUSR1)
    wait_for(lambda: len(proxy.seen) > count, what="a cycle", detail=live.story)
    quiet_since, seen = time.monotonic(), len(proxy.seen)

    def quiet() -> bool:
        nonlocal quiet_since, seen
        if seen != len(proxy.seen):
            quiet_since, seen = time.monotonic(), len(proxy.seen)
        return time.monotonic() - quiet_since > 0.3

    wait_for(quiet, what="quiet", detail=live.story)


def test_watcher_of_a_link_that_was_away_for_long(behind: Setup, proxy: Proxy):
    """Its gap grows to restart_after_error_seconds, and not beyond."""
    behind.settings.update(IMPATIENT)
    with Live(behind) as live:
        wait_command(live, proxy, "IDLE", 1)
        settle(live, proxy)
        proxy.refuse = True
        connections = proxy.connections
        proxy.cut_all()
        wait_for(lambda: proxy.connections >= connections + 4, what="new attempts", detail=live.story)
        behind.put_remote("down")
        proxy.refuse = False
        live.wait_local("down", seconds=2.5)


def test_worker_that_gets_through_calls_the_watchers(behind: Setup, proxy: Proxy):
    """Though it never noticed that the server was away."""
    with Live(behind) as live:
        wait_command(live, proxy, "IDLE", 1)
        settle(live, proxy)
        proxy.refuse = True
        connections = proxy.connections
        proxy.cut_all()
        wait_for(lambda: proxy.connections >= connections + 3, what="new attempts", detail=live.story)
        proxy.refuse = False
        behind.put_local("up")
        live.wait_remote("up", seconds=2.5)
        wait_command(live, proxy, "IDLE", 2, seconds=1.5)


def test_server_without_idle_is_polled(behind: Setup, proxy: Proxy):
    proxy.lack("IDLE")
    behind.settings["imap"] = {"poll_seconds": "1"}
    with Live(behind) as live:
        for name in ("A", "A B"):
            behind.put_remote(name[-1])
            live.wait_local(name, seconds=8)
        behind.put_local("up")
        live.wait_remote("A B up")
        behind.flag_remote("A", "+F")
        live.wait_local("A:F B up", seconds=8)
    assert commands(proxy, "IDLE") == 0


# --- an APPEND without an answer ------------------------------------------------------------------------------------


def test_unanswered_append_holds_nobody_up(make_setup: MakeSetup, proxy: Proxy):
    """It is ten seconds until it may be sent again; other mail does not wait for them."""
    setup = make_setup(port=proxy.port, pairings={"inbox": ("inbox", "INBOX"), "other": ("other", "Other")})
    setup.server.doveadm("mailbox", "create", "-u", setup.user, "Other")
    with Live(setup) as live:
        wait_command(live, proxy, "IDLE", 2)
        proxy.on_answer(r"APPENDUID", count=1, cut=True)
        began = time.monotonic()
        setup.put_local("up")
        wait_command(live, proxy, "APPEND", 1)
        setup.put_local("else", pairing="other")
        setup.put_remote("down")
        live.wait_remote("else", "other", seconds=6)
        live.wait_local("up down", seconds=6)
        assert time.monotonic() - began < 9
        live.wait_remote("up down")
        settle(live, proxy)
    assert setup.count_sent("APPEND") == 2


def test_append_that_never_arrived_is_sent_again(behind: Setup, proxy: Proxy):
    behind.program = patched(SOON)
    with Live(behind) as live:
        wait_command(live, proxy, "IDLE", 1)
        proxy.on_command(r"^APPEND", count=1, cut=True)
        behind.put_local("up")
        live.wait_both("up", seconds=20)
    assert behind.count_sent("APPEND") == 1


# --- the login is refused later ---------------------------------------------------------------------------------------


def refused_logins(setup: Setup) -> int:
    return sum("auth failed" in line and f"<{setup.user}>" in line for line in setup.server.log().splitlines())


def accepted(setup: Setup, password: str) -> bool:
    try:
        setup.server.doveadm("auth", "test", setup.user, password)
    except AssertionError:
        return False
    return True


def test_login_refused_later(make_setup: MakeSetup, own_server: Dovecot):
    """One thread tries for all, at long intervals, and with SIGUSR1 at once; told once."""
    setup = make_setup(
        server=own_server, settings=IMPATIENT, pairings={"inbox": ("inbox", "INBOX"), "other": ("other", "Other")}
    )
    own_server.doveadm("mailbox", "create", "-u", setup.user, "Other")
    own_server.add_user(setup.user, "right")
    with Live(setup) as live:
        live.wait_log("watched by IDLE", 2)
        own_server.add_user(setup.user, "wrong")
        stop(setup)
        own_server.restart()
        setup.put_local("up")
        live.wait_log("error: inbox: changes on the server are not seen")
        live.wait_log("error: other: changes on the server are not seen")
        live.wait_log("error: localhost")  # the worker
        first = refused_logins(setup)
        assert 1 <= first <= 3
        live.signal(signal.SIGUSR1)
        wait_for(lambda: refused_logins(setup) > first, what="another attempt", detail=live.story)
        live.wait_log("refused the login", 5)
        assert refused_logins(setup) == first + 1, live.story()
        assert live.stderr.read_text().count("refused the login") == 3, live.story()
        own_server.add_user(setup.user, "right")
        wait_for(lambda: accepted(setup, "right"), what="the new password")  # which is read once a second
        live.signal(signal.SIGUSR1)
        live.wait_both("up")
        live.wait_log("watched by IDLE", 4)
        setup.put_remote("down", pairing="other")
        live.wait_local("down", "other", seconds=5)


def test_watcher_refused_while_the_worker_is_logged_in(behind: Setup, proxy: Proxy):
    """Too many connections, say: that passes, and SIGUSR1 tries at once."""
    behind.put_remote("A")
    with Live(behind) as live:
        live.wait_both("A")
        wait_command(live, proxy, "IDLE", 1)
        settle(live, proxy)
        proxy.on_command(r"^(LOGIN|AUTHENTICATE)", count=1, answer=b"NO [AUTHENTICATIONFAILED] Too many connections")
        proxy.on_answer(r"^\S+ OK .*Idle completed", count=1, cut=True)
        proxy.on_answer(r"^\* 2 EXISTS", count=1, cut=True)
        behind.put_remote("down")
        live.wait_log("changes on the server are not seen")
        live.wait_log("Too many connections")
        live.signal(signal.SIGUSR1)
        wait_command(live, proxy, "IDLE", 2, seconds=5)
        live.wait_both("A down")
        behind.put_remote("later")
        live.wait_local("A down later", seconds=5)
