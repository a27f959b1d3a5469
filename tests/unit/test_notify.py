# SPDX-License-Identifier: MIT
"""sd_notify: what arrives at a real socket, and that nothing is ever raised. And the unit file that relies on it."""

from __future__ import annotations

import os
import re
import socket
import threading
from pathlib import Path

import pytest

from pushpull import errors, notify
from pushpull.notify import Notifier

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def manager(tmp_path):
    """A service manager's socket and its address."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(20)
        yield sock


def heard(sock: socket.socket) -> str:
    return sock.recv(65536).decode()


def notifier(sock: socket.socket) -> Notifier:
    return Notifier(sock.getsockname())


@pytest.mark.parametrize(
    ("say", "expected"),
    [
        (lambda notifier: notifier.ready(), "READY=1"),
        (lambda notifier: notifier.ready("watching 3 pairings"), "READY=1\nSTATUS=watching 3 pairings"),
        (lambda notifier: notifier.status("idle"), "STATUS=idle"),
        (lambda notifier: notifier.watchdog(), "WATCHDOG=1"),
        (lambda notifier: notifier.stopping(), "STOPPING=1"),
        (lambda notifier: notifier.stopping("SIGTERM"), "STOPPING=1\nSTATUS=SIGTERM"),
        (lambda notifier: notifier.status("späte Grüße"), "STATUS=späte Grüße"),
        (lambda notifier: notifier.status("a\nREADY=1\0\x1b[31m"), "STATUS=a\\nREADY=1\\x00\\x1b[31m"),
        (lambda notifier: notifier.status("folder \udcff"), "STATUS=folder \\xff"),
    ],
)
def test_what_is_said(manager, say, expected):
    assert say(notifier(manager)) is True
    assert heard(manager) == expected


def test_a_long_status_is_cut(manager):
    assert notifier(manager).status("x" * 100_000)
    text = heard(manager)
    assert text.endswith("x...")
    assert len(text) < 500


def test_an_abstract_socket():
    name = f"pushpull-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{name}")
        sock.settimeout(20)
        assert Notifier(f"@{name}").ready()
        assert heard(sock) == "READY=1"


def test_a_manager_that_was_restarted_is_found_again(manager):
    said = notifier(manager)
    path = manager.getsockname()
    assert said.watchdog()
    os.unlink(path)
    assert said.watchdog() is False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        other.settimeout(20)
        assert said.watchdog()
        assert heard(other) == "WATCHDOG=1"


def test_nothing_stays_open(manager):
    said = notifier(manager)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        assert said.watchdog()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_manager_that_does_not_read_holds_nobody_up(manager, monkeypatch):
    monkeypatch.setattr(notify, "_PATIENCE_SECONDS", 0.01)
    said = notifier(manager)
    assert said.watchdog()
    assert any(not said.watchdog() for _ in range(10_000))  # the queue (net.unix.max_dgram_qlen) is full


def test_one_that_is_only_slow_hears_it(manager):
    said = notifier(manager)
    manager.setblocking(False)
    while True:  # until its queue is full
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
            filler.setblocking(False)
            try:
                filler.sendto(b"X=1", manager.getsockname())
            except BlockingIOError:
                break
    results = []
    thread = threading.Thread(target=lambda: results.append(said.ready()))
    thread.start()
    manager.settimeout(20)
    while heard(manager) != "READY=1":
        pass
    thread.join(20)
    assert results == [True]


@pytest.mark.parametrize(
    "address", ["/nonexistent/notify", "/" + "x" * 300, "/dev/null", "@nobody-listens-here", "/\udcff"]
)
def test_who_does_not_listen_is_not_told(address):
    assert Notifier(address).ready() is False


def test_without_a_manager_nothing_happens():
    said = Notifier.from_environment({})
    assert said == Notifier(None, None)
    assert [said.ready(), said.status("x"), said.watchdog(), said.stopping()] == [False] * 4


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234", "@", "/"])
def test_addresses_that_are_none(address):
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}
    assert Notifier.from_environment(environ) == Notifier(None, None)
    assert environ == {}


def test_commands_that_we_run_cannot_speak_in_our_name():
    environ = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/h"}
    assert Notifier.from_environment(environ) == Notifier("/run/n", 15.0)
    assert environ == {"HOME": "/h"}


@pytest.mark.parametrize(
    ("limit", "pid", "gap"),
    [
        ("500000", "", 0.25),
        ("500000", "1", None),  # another process
        ("", "", None),
        ("0", "", None),
        ("-1", "", None),
        ("soon", "", None),
        ("²", "", None),
        ("9" * 5000, "", None),
    ],
)
def test_the_watchdog(limit, pid, gap):
    environ = {"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": limit, "WATCHDOG_PID": pid}
    assert Notifier.from_environment(environ).watchdog_seconds == gap


# --- the unit of systemd's user manager ----------------------------------------------------------------------


def unit() -> dict[str, str]:
    text = (ROOT / "contrib/systemd/user/pushpull@.service").read_text(encoding="utf-8")
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def test_the_unit_waits_for_readiness_and_watches():
    said = unit()
    assert said["Type"] == "notify"
    assert said["NotifyAccess"] == "main"
    assert re.fullmatch(r"\d+min", said["WatchdogSec"])
    assert said["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert said["ExecStart"].endswith("pushpull %h/.config/pushpull/%i.conf")


def test_the_unit_is_not_started_again_after_what_a_person_has_to_mend():
    hopeless = {errors.EX_USAGE, errors.EX_REFUSED, errors.EX_UNSUPPORTED, errors.EX_LOGIN, errors.EX_CONFIG}
    assert set(map(int, unit()["RestartPreventExitStatus"].split())) == hopeless
    assert unit()["Restart"] == "on-failure"
