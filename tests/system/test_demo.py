# SPDX-License-Identifier: MIT
"""The tour of contrib/demo: it tells the truth, notices when it would not, and leaves nothing behind.

What contrib/demo does before, installing, is for a fresh machine to show.
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def pushpull(tmp_path: Path) -> Path:
    """A command that runs this checkout's program, wherever the tests' environment has it from."""
    return script(tmp_path / "pushpull", f'exec "{sys.executable}" -m pushpull "$@"')


def script(path: Path, line: str) -> Path:
    path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    path.chmod(0o700)
    return path


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Where the tour puts its files."""
    path = tmp_path / "scratch"
    path.mkdir()
    return path


@pytest.fixture
def start(scratch: Path) -> Iterator[Start]:
    """`start(command, output, **environment)` starts the tour; whatever a test leaves of it is ended."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(command: Path, output: int = subprocess.PIPE, **environment: str) -> subprocess.Popen[bytes]:
        kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "DEBUG_IMAP")}
        kept |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(scratch), "TERM": "xterm"}
        tour = [sys.executable, str(ROOT / "contrib/demo_tour.py"), "--pushpull", str(command)]
        started.append(
            subprocess.Popen(
                tour,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**kept, "PYTHONUNBUFFERED": "1", **environment},
                start_new_session=True,
            )
        )
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def servers(scratch: Path) -> list[str]:
    """The processes that have a file of the tour's directory on their command line: its mail servers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if os.fsencode(scratch / "pushpull-demo-") in command:
            found.append(command.decode(errors="replace"))
    return found


def assert_nothing_left(scratch: Path) -> None:
    assert list(scratch.iterdir()) == []
    assert servers(scratch) == []


def test_it_keeps_its_promises_and_leaves_nothing(start: Start, pushpull: Path, scratch: Path) -> None:
    process = start(pushpull)
    said = process.communicate(timeout=100)[0].decode()
    assert process.returncode == 0, said
    assert "12 steps, " in said
    assert "$ pushpull -v demo.conf &" in said
    assert "11 changes went across" in said
    assert "\x1b" not in said
    assert_nothing_left(scratch)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("exit 0", "NOT true in step 2: it plans one download for each message"),
        ("exit 70", "pushpull ended with exit code 70, not 0"),
        ("case $1 in --dry-run) yes download | head -6 ;; esac", "NOT true in step 3: all are here, with their flags"),
    ],
)
def test_it_notices_what_is_not_as_told(start: Start, tmp_path: Path, scratch: Path, line: str, complaint: str) -> None:
    process = start(script(tmp_path / "impostor", line))
    said = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 1, said
    assert complaint in said
    assert_nothing_left(scratch)


def test_it_notices_when_pushpull_does_not_stay(start: Start, tmp_path: Path, scratch: Path) -> None:
    real = f'exec "{sys.executable}" -m pushpull "$@"'
    process = start(script(tmp_path / "fugitive", f"grep -q idle demo.conf && exit 0; {real}"))
    said = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 1, said
    assert "pushpull ended with exit code 0; it should stay" in said
    assert_nothing_left(scratch)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_stays_ends_with_it(start: Start, tmp_path: Path, scratch: Path, number: signal.Signals) -> None:
    pid = tmp_path / "pid"
    real = f'exec "{sys.executable}" -m pushpull "$@"'
    process = start(script(tmp_path / "noted", f'! grep -q idle demo.conf || echo $$ >"{pid}"; {real}'))
    wait_for(lambda: pid.exists() and pid.read_text().endswith("\n"), what="the live mode", seconds=60)
    staying = int(pid.read_text())
    process.send_signal(number)
    process.communicate(timeout=30)
    wait_for(lambda: not Path(f"/proc/{staying}").exists(), what="the end of pushpull")
    wait_for(lambda: servers(scratch) == [], what="the end of the server")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(start: Start, tmp_path: Path, scratch: Path, number: signal.Signals) -> None:
    process = start(script(tmp_path / "endless", "exec sleep 100"))
    wait_for(lambda: list(scratch.glob("*/demo.conf")), what="the first run of pushpull")
    process.send_signal(number)
    said = process.communicate(timeout=30)[0].decode()
    assert process.returncode == 128 + number, said
    assert_nothing_left(scratch)


def test_its_server_ends_with_it_even_when_it_is_killed(start: Start, tmp_path: Path, scratch: Path) -> None:
    process = start(script(tmp_path / "endless", "exec sleep 100"))
    wait_for(lambda: len(servers(scratch)) == 1, what="the server")
    os.killpg(process.pid, signal.SIGKILL)
    wait_for(lambda: servers(scratch) == [], what="the end of the server")


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours_are_for_a_terminal(start: Start, tmp_path: Path, no_color: str, coloured: bool) -> None:
    leader, terminal = pty.openpty()
    start(script(tmp_path / "impostor", "exit 0"), terminal, NO_COLOR=no_color)
    os.close(terminal)
    said = read_all(leader)
    assert b"Welcome aboard" in said
    assert (b"\x1b[" in said) == coloured


def read_all(terminal: int) -> bytes:
    """What is written to a terminal until nobody holds its other end."""
    said = b""
    with os.fdopen(terminal, "rb", buffering=0) as file:
        while True:
            try:
                said += file.read(4096)
            except OSError:  # EIO: Linux's way to tell the end
                return said
