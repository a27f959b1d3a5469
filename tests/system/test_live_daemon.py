# SPDX-License-Identifier: MIT
"""The live mode as a process: detaching, start failures, signals, a service manager."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pushpull.errors import EX_CONFIG, EX_DISK, EX_LOGIN, EX_REFUSED, EX_TEMPORARY, EX_UNSUPPORTED, EX_USAGE
from tests.support.live import Live
from tests.support.patched import patched
from tests.support.proxy import Proxy
from tests.support.run import Setup
from tests.support.waiting import wait_for

# Seconds: the program has two, a loaded machine takes its own time, and what would hold it up lasts for a minute.
SOON = 15.0


@pytest.fixture
def live(setup: Setup) -> Setup:
    """Set up for the live mode."""
    setup.settings = {"imap": {"idle": "yes"}, "local": {"quiesce_seconds": "0"}}
    return setup


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def pid_of(setup: Setup) -> int:
    return int((setup.base / "state.db.pid").read_text())


@contextmanager
def daemon(setup: Setup, *args: str) -> Iterator[int]:
    """Its pid. Leaving the block ends it by SIGTERM, within two seconds."""
    run = setup.sync("--daemon", *args)
    pid = pid_of(setup)
    try:
        assert alive(pid), run
        yield pid
        sent = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not alive(pid), what="its end")
        assert time.monotonic() - sent < SOON
        assert not (setup.base / "state.db.pid").exists()
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def log(setup: Setup) -> str:
    return (setup.base / "log").read_text()


# --- a daemon ----------------------------------------------------------------------------------------------------


def test_a_daemon_detaches_works_and_ends(live: Setup):
    live.put_remote("down")
    with daemon(live) as pid:
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}
        assert os.getsid(pid) != os.getsid(0)
        assert (live.base / "state.db.1.lock").read_text() == f"{pid}\n"
        wait_for(lambda: live.local_state() == ["down"], what="the download")
        live.put_local("up")
        wait_for(lambda: live.remote_state() == ["down", "up"], what="the upload")
        umask = re.search(r"Umask:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
        assert umask
        assert umask[1] == "0077"
    assert "ended by SIGTERM" in log(live)
    assert stat.S_IMODE((live.base / "log").stat().st_mode) == 0o600


def test_no_file_of_the_foreground_is_left_open(live: Setup):
    expected = ["log", "state.db", "state.db-shm", "state.db-wal", "state.db.1.lock"]
    with daemon(live) as pid:
        # Its first cycle opens a directory for a moment.
        wait_for(
            lambda: files_open(live, pid) == expected, what=str(expected), detail=lambda: str(files_open(live, pid))
        )


def files_open(live: Setup, pid: int) -> list[str]:
    """The names of what a process has open of the files of a test."""
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.add(os.readlink(path))
    return sorted({Path(target).name for target in found if target.startswith(str(live.base))})


def test_a_second_one_is_refused_with_the_pid_of_the_first(live: Setup):
    with daemon(live) as pid:
        for args in (["--daemon"], [], ["--once"]):
            run = live.sync(*args, expect=EX_TEMPORARY)
            assert f"another pushpull (pid {pid}) is at work on this pairing" in run.err
            assert f"kill -USR1 {pid}" in run.err
        assert pid_of(live) == pid


def test_an_old_pid_file_is_not_believed(live: Setup):
    (live.base / "state.db.pid").write_text(f"{os.getpid()}\n")
    with daemon(live) as pid:
        assert pid != os.getpid()


def test_the_pid_file_is_where_it_is_configured(live: Setup):
    live.settings["daemon"] = {"pidfile": str(live.base / "here"), "umask": "027"}
    live.sync("--daemon")
    pid = int((live.base / "here").read_text())
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not alive(pid), what="its end")
    assert not (live.base / "here").exists()


def test_a_daemon_starts_though_the_server_is_away(live: Setup):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        live.port = nobody.getsockname()[1]
    live.settings["general"] = {"restart_after_error_seconds": "1"}
    run = live.sync("--daemon")
    pid = pid_of(live)
    assert "Connection refused; it is tried again and again" in run.err
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not alive(pid), what="its end")


# --- starts that fail --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [["--once"], ["--dry-run"], ["--allow-mass-delete=3"], ["--test-auth-only"]])
def test_a_daemon_does_not_end_after_one_cycle(live: Setup, args: list[str]):
    assert "--daemon: a daemon stays" in live.sync("--daemon", *args, expect=EX_USAGE).err


def test_a_daemon_needs_idle(live: Setup):
    live.settings["imap"] = {"idle": "no"}
    assert "idle = yes" in live.sync("--daemon", expect=EX_USAGE).err


@pytest.mark.parametrize("args", [["--daemon"], []])
class TestStartsThatFail:
    """With the exit code and the words that a run in the foreground would have."""

    def test_a_wrong_password(self, live: Setup, args: list[str]):
        live.settings["imap"]["login_password"] = "wrong"
        assert "refused the login" in live.sync(*args, expect=EX_LOGIN).err

    def test_no_password(self, live: Setup, args: list[str]):
        live.settings["imap"]["login_password"] = ""
        assert "no password" in live.sync(*args, expect=EX_LOGIN).err

    def test_a_certificate_of_nobody_known(self, live: Setup, args: list[str]):
        live.settings["ssl"] = {"certificate_file": ""}
        assert "certificate" in live.sync(*args, expect=EX_UNSUPPORTED).err

    def test_a_question_without_an_answer(self, live: Setup, args: list[str]):
        live.put_local("mine")
        run = live.sync(*args, expect=EX_REFUSED)
        assert "not confirmed: First synchronisation" in run.err
        assert "--yes" in run.err

    def test_a_log_that_cannot_be_written(self, live: Setup, args: list[str]):
        (live.base / "log").mkdir()
        assert "the log file" in live.sync(*args, expect=EX_DISK).err

    def test_a_wrong_configuration(self, live: Setup, args: list[str]):
        live.settings["daemon"] = {"umask": "900"}
        assert "must be octal digits" in live.sync(*args, expect=EX_CONFIG).err

    @pytest.fixture(autouse=True)
    def _none_is_left(self, live: Setup) -> Iterator[None]:
        yield
        assert not (live.base / "state.db.pid").exists()


def test_a_pid_file_that_cannot_be_written(live: Setup):
    live.settings["daemon"] = {"pidfile": str(live.base / "nowhere" / "pid")}
    run = live.sync("--daemon", expect=EX_DISK)
    assert "the pid file" in run.err


def test_yes_answers_before_the_detachment(live: Setup):
    live.put_local("mine")
    with daemon(live, "--yes"):
        wait_for(lambda: live.remote_state() == ["mine"], what="the upload")


# --- in the foreground -------------------------------------------------------------------------------------------


def test_debug_imap_stays_in_the_foreground(live: Setup):
    live.env["DEBUG_IMAP"] = "1"
    with Live(live, "--daemon") as running:
        assert re.search(r"C: \S+ LOGIN \*\*\*", running.story())
        assert "alicepw" not in running.story()
        assert not (live.base / "state.db.pid").exists()


def test_sigint_ends_it_well(live: Setup):
    with Live(live) as running:
        running.signal(signal.SIGINT)
        assert running.process.wait(20) == 0
    assert "ended by SIGINT" in log(live)


def test_a_signal_in_a_download_that_hangs_ends_it_in_two_seconds(live: Setup):
    live.put_remotes(f"m{number}" for number in range(60))
    gate = threading.Event()
    try:
        with Proxy(live.server.starttls_port) as proxy:
            live.port = proxy.port
            stalled = proxy.on_answer(r"BODY\[\]", skip=40, before=gate.wait)
            with Live(live) as running:
                wait_for(lambda: stalled.hits > 40, what="the stall", detail=running.story)
                sent = time.monotonic()
                running.signal(signal.SIGTERM)
                assert running.process.wait(20) == 0, running.story()
                assert time.monotonic() - sent < SOON
            gate.set()
    finally:
        gate.set()
    assert len(live.local_state()) >= 40  # what had arrived was kept
    live.port = 0
    live.sync("--once")
    assert len(live.local_state()) == 60
    live.sync_again_changes_nothing("--once")


def test_a_signal_while_a_command_for_the_password_runs(live: Setup):
    live.settings["imap"] |= {
        "login_password": "",
        "login_password_command": f"sh -c 'echo > {live.base}/runs; sleep 60'",
    }
    process = live.start()
    wait_for((live.base / "runs").exists, what="the command")
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    run = live.finish(process)
    assert time.monotonic() - sent < SOON
    assert run.code == EX_TEMPORARY
    assert "interrupted" in run.err


def test_a_signal_while_the_first_login_hangs(live: Setup):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        live.port = silent.getsockname()[1]
        process = live.start()
        silent.settimeout(20)
        link, _ = silent.accept()
        with link:
            sent = time.monotonic()
            process.send_signal(signal.SIGUSR1)  # too early, and harmless
            process.send_signal(signal.SIGTERM)
            run = live.finish(process)
    assert time.monotonic() - sent < SOON
    assert run.code == EX_TEMPORARY
    assert "interrupted" in run.err


@contextmanager
def waiting_for_a_server_that_is_silent_now(live: Setup) -> Iterator[Live]:
    gate = threading.Event()
    with Proxy(live.server.starttls_port) as proxy:
        live.port = proxy.port
        try:
            with Live(live) as running:
                running.wait_log("watched by IDLE")
                stalled = proxy.on_answer(r"\* FLAGS", before=gate.wait)
                live.put_local("up")
                wait_for(lambda: stalled.hits > 0, what="the stall", detail=running.story)
                yield running
        finally:
            gate.set()


def test_a_signal_while_the_worker_waits_for_a_server_that_is_silent_now(live: Setup):
    with waiting_for_a_server_that_is_silent_now(live) as running:
        sent = time.monotonic()
        running.signal(signal.SIGTERM)
        assert running.process.wait(20) == 0, running.story()
        assert time.monotonic() - sent < SOON


def test_a_signal_while_the_post_sync_command_hangs(live: Setup):
    live.settings["command"] = {"post_sync_local_change": f"sh -c 'echo $$ > {live.base}/hook; sleep 60'"}
    with Live(live) as running:
        live.put_remote("A")
        hook = live.base / "hook"
        wait_for(lambda: hook.exists() and hook.read_text().strip(), what="the command", detail=running.story)
        sent = time.monotonic()
        running.signal(signal.SIGTERM)
        assert running.process.wait(20) == 0, running.story()
        assert time.monotonic() - sent < SOON
    pid = int((live.base / "hook").read_text())
    wait_for(lambda: not alive(pid), what="the command's end")


def test_a_second_signal_ends_it_at_once(live: Setup):
    live.program = patched("from pushpull import harness\nharness.FINISH_SECONDS = 60")
    with waiting_for_a_server_that_is_silent_now(live) as running:
        running.signal(signal.SIGTERM)
        running.wait_log("ended by SIGTERM")
        running.signal(signal.SIGINT)
        assert running.process.wait(20) == 0, running.story()


SIGNALLED_IN_ANOTHER_THREAD = """
import signal, sys, threading, time
from pushpull import harness
harness.FINISH_SECONDS = 60
def second():
    main = threading.main_thread().ident
    while sys._current_frames()[main].f_code.co_name not in ("join", "_wait_for_tstate_lock"):
        time.sleep(0.01)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
join = harness._join
def joined(parts, seconds):
    threading.Thread(target=second, daemon=True).start()
    join(parts, seconds)
harness._join = joined
"""


def test_a_second_signal_ends_it_at_once_whatever_thread_gets_it(live: Setup):
    """Or, as rare, the main thread a moment before it waits: it hears of neither while it waits."""
    live.program = patched(SIGNALLED_IN_ANOTHER_THREAD)
    with waiting_for_a_server_that_is_silent_now(live) as running:
        running.signal(signal.SIGTERM)
        assert running.process.wait(10) == 0, running.story()


def test_sighup_opens_the_log_anew(live: Setup):
    with Live(live) as running:
        (live.base / "log").rename(live.base / "log.1")
        running.signal(signal.SIGHUP)
        running.signal(signal.SIGUSR1)
        running.wait_log("synchronising now, as SIGUSR1 asks for")


# --- under a service manager -------------------------------------------------------------------------------------


def test_a_service_manager_is_told(live: Setup, tmp_path: Path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(20)
        live.env |= {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"}
        told: list[str] = []

        def hear(word: str) -> None:
            while not any(word in text for text in told):
                told.append(manager.recv(4096).decode())

        with Live(live):
            hear("READY=1")
            hear("WATCHDOG=1")
            hear("STATUS=")
        hear("STOPPING=1")
