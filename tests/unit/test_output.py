# SPDX-License-Identifier: MIT
"""What is shown where: levels, the progress bar, summaries, plans, the logs, streams that fail."""

import io
import logging
import os
import re
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pushpull import system_log
from pushpull.errors import ConfigError, LocalDiskError, Refused
from pushpull.levels import NOTICE, SUMMARY
from pushpull.model import Tally
from pushpull.output import Output, summary_parts
from pushpull.progress import Progress

WIPE = "\r\x1b[K"
XTERM = {"TERM": "xterm"}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Terminal:
    """A pseudo-terminal: what the program writes to `stream` comes out of `shown`."""

    master: int
    stream: io.TextIOWrapper

    def shown(self) -> str:
        os.set_blocking(self.master, False)
        text = b""
        try:
            while part := os.read(self.master, 65536):
                text += part
        except BlockingIOError:
            pass
        return text.decode().replace("\r\n", "\n")


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    with open(slave, "w", encoding="utf-8") as stream:
        yield Terminal(master, stream)
        os.close(master)


def quiet(verbosity: int = 0) -> tuple[Output, io.StringIO]:
    """An output whose standard error is no terminal."""
    stream = io.StringIO()
    return Output(verbosity, stderr=stream, environ=XTERM), stream


# --- levels --------------------------------------------------------------------------------------------------

ALL_LEVELS = ["debug", "info", "notice", "summary", "pushpull: warning: warning", "pushpull: error"]


@pytest.mark.parametrize(("verbosity", "shown"), [(-1, 1), (0, 3), (1, 4), (2, 6), (5, 6)])
def test_levels(verbosity: int, shown: int) -> None:
    output, stream = quiet(verbosity)
    levels = (logging.DEBUG, logging.INFO, NOTICE, SUMMARY, logging.WARNING, logging.ERROR)
    for level, word in zip(levels, ("debug", "info", "notice", "summary", "warning", "error"), strict=True):
        output.line(level, word)
    assert stream.getvalue().splitlines() == ALL_LEVELS[-shown:]


def test_foreign_text_stays_on_its_line() -> None:
    output, stream = quiet()
    output.line(SUMMARY, "a\x1b[2J\nb\u202ec\udcff")
    assert stream.getvalue() == "a\\x1b[2J\\nb\\u202ec\\xff\n"


def test_an_error_says_what_and_what_to_do() -> None:
    output, stream = quiet(-1)
    output.error(Refused("60 files\nare gone", remedy="give --allow-mass-delete=60"), about="In\tbox")
    output.error(Refused("no"))
    assert stream.getvalue() == (
        "pushpull: In\\tbox: 60 files\\nare gone\n    give --allow-mass-delete=60\npushpull: no\n"
    )


def test_each_fault_of_a_configuration_has_its_line() -> None:
    output, stream = quiet()
    output.error(ConfigError("a.conf", ["line 1: x", "line 2: y"]))
    assert stream.getvalue() == "pushpull: a.conf: line 1: x\npushpull: a.conf: line 2: y\n"


def test_a_bug_shows_a_traceback_without_values() -> None:
    output, stream = quiet()

    def fails(password: str) -> None:
        raise ZeroDivisionError("told\x1b")

    try:
        fails("s3cret")
    except ZeroDivisionError as error:
        output.bug(error)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "pushpull: this is a bug in pushpull; please report it with the lines below"
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "ZeroDivisionError: told\\x1b"
    assert not any("password=" in line or "s3cret'" in line for line in lines)


def test_a_trace_is_shown_whatever_the_verbosity() -> None:
    output, stream = quiet(-1)
    output.trace("C: a1 NOOP\r\n")
    assert stream.getvalue() == "C: a1 NOOP\\r\\n\n"


# --- colours -------------------------------------------------------------------------------------------------


def test_colours_on_a_terminal(terminal: Terminal) -> None:
    output = Output(stderr=terminal.stream, environ=XTERM)
    output.line(logging.ERROR, "e")
    output.line(logging.WARNING, "w")
    output.line(SUMMARY, "s")
    assert terminal.shown() == "\x1b[31mpushpull:\x1b[0m e\n\x1b[33mpushpull: warning:\x1b[0m w\ns\n"


@pytest.mark.parametrize("environ", [XTERM | {"NO_COLOR": "1"}, {"TERM": "dumb"}, {}])
def test_no_colours(terminal: Terminal, environ: dict[str, str]) -> None:
    Output(stderr=terminal.stream, environ=environ).line(logging.ERROR, "e")
    assert terminal.shown() == "pushpull: e\n"


def test_an_empty_no_color_asks_for_nothing(terminal: Terminal) -> None:
    Output(stderr=terminal.stream, environ=XTERM | {"NO_COLOR": ""}).line(logging.ERROR, "e")
    assert "\x1b[31m" in terminal.shown()


# --- progress ------------------------------------------------------------------------------------------------


def test_a_bar_with_rate_and_time_left(terminal: Terminal) -> None:
    clock = Clock()
    output = Output(stderr=terminal.stream, environ=XTERM, clock=clock)
    output.progress("downloading", 0, 10_000)
    clock.now += 0.9
    output.progress("downloading", 900, 10_000, 900_000)
    assert terminal.shown() == "", "what is done in a second gets no bar"
    clock.now += 1.1
    output.progress("downloading", 2_000, 10_000, 6_800_000)
    bar = "downloading  [####----------------]  2,000/10,000  3.4 MB/s  8 s left"
    assert terminal.shown() == WIPE + bar
    clock.now += 0.05
    output.progress("downloading", 2_050, 10_000, 6_900_000)
    assert terminal.shown() == "", "not redrawn at once"
    output.line(SUMMARY, "hello")
    assert terminal.shown() == WIPE + "hello\n", "the bar is wiped before a line"
    clock.now += 0.1
    output.progress("downloading", 2_100, 10_000, 7_000_000)
    assert terminal.shown().startswith(WIPE + "downloading  [####")
    output.progress("downloading", 10_000, 10_000, 34_000_000)
    assert terminal.shown() == WIPE
    output.line(SUMMARY, "done")
    assert terminal.shown() == "done\n"


def test_a_bar_is_wiped_at_the_end_and_before_a_plan(terminal: Terminal) -> None:
    clock = Clock()
    output = Output(stderr=terminal.stream, stdout=io.StringIO(), environ=XTERM, clock=clock)
    for leave in (output.close, lambda: output.print_plan([]), lambda: output.question("Well?")):
        output.progress("reading", 1, 3)
        clock.now += 2
        output.progress("reading", 2, 3)
        assert terminal.shown().startswith(WIPE + "reading")
        leave()
        assert terminal.shown() in (WIPE, WIPE + "Well? ")
        output.progress("reading", 3, 3)


def test_a_bar_fits_a_narrow_terminal() -> None:
    clock = Clock()
    progress = Progress(clock, lambda: 20)
    progress.advance("downloading", 0, 10, 0)
    clock.now += 2
    assert progress.advance("downloading", 5, 10, 0) == "downloading  [#####"


def test_a_phase_that_goes_on_counts_its_speed_from_there() -> None:
    clock = Clock()
    progress = Progress(clock, lambda: 80)
    assert progress.advance("a\n", 500, 1000, 10**9) is None
    clock.now += 10
    bar = "a\\n  [##########----------]  510/1,000  100 bytes/s  8 min 10 s left"
    assert progress.advance("a\n", 510, 1000, 10**9 + 1000) == bar
    assert progress.advance("b", 1, 2, 0) is None, "another phase has a second of its own"
    clock.now += 2
    assert progress.advance("b", 1, 2, 0) == "b  [##########----------]  1/2", "nothing is known of its speed"
    assert progress.advance("b", 0, 0, 0) is None


@pytest.mark.parametrize(("verbosity", "environ"), [(-1, XTERM), (0, {"TERM": "dumb"})])
def test_no_bar(terminal: Terminal, verbosity: int, environ: dict[str, str]) -> None:
    clock = Clock()
    output = Output(verbosity, stderr=terminal.stream, environ=environ, clock=clock)
    for done in range(5):
        output.progress("downloading", done, 5)
        clock.now += 2
    assert terminal.shown() == ""


def test_no_bar_without_a_terminal() -> None:
    output, stream = quiet(2)
    output.progress("downloading", 0, 5)
    output.progress("downloading", 5, 5)
    assert stream.getvalue() == ""
    assert not output.on_terminal


def test_the_width_is_the_terminals(terminal: Terminal) -> None:
    termios.tcsetwinsize(terminal.stream.fileno(), (24, 30))
    clock = Clock()
    output = Output(stderr=terminal.stream, environ=XTERM, clock=clock)
    output.progress("downloading", 0, 10)
    clock.now += 2
    output.progress("downloading", 5, 10)
    assert terminal.shown() == WIPE + "downloading  [##########-----"


# --- summaries -----------------------------------------------------------------------------------------------


def test_summary_of_everything() -> None:
    output, stream = quiet()
    tally = Tally(12, 1, 2, 3, 1, 1, 4, 4, 5, 0, 6, 2, 1200, bytes_down=3_400_000, bytes_up=10, notes=["a note"])
    output.summary("INBOX", tally)
    assert stream.getvalue() == (
        "INBOX: 12 downloaded (3.4 MB), 1 uploaded (10 bytes), 2 matched, 4 flags changed, 1 marked deleted here,"
        " 4 marked deleted on the server, 5 renamed, 6 failed, 2 set aside, 1,200 held\nINBOX: a note\n"
    )


@pytest.mark.parametrize(
    ("tally", "parts"),
    [
        (Tally(), []),
        (Tally(remote_flags=1), ["1 flag changed"]),
        (Tally(uploaded=1000, bytes_up=1000), ["1,000 uploaded (1.0 kB)"]),
    ],
)
def test_summary_parts(tally: Tally, parts: list[str]) -> None:
    assert summary_parts(tally) == parts


def test_nothing_done_is_told_on_a_terminal_alone(terminal: Terminal) -> None:
    output, stream = quiet(2)
    output.summary("INBOX", Tally())
    output.summary("INBOX", Tally(set_aside=2, held=1))
    assert stream.getvalue() == ""
    output = Output(stderr=terminal.stream, environ=XTERM)
    output.summary("In\nbox", Tally())
    output.summary("INBOX", Tally(set_aside=2))
    assert terminal.shown() == "In\\nbox: nothing to do\nINBOX: 2 set aside\n"
    Output(-1, stderr=terminal.stream, environ=XTERM).summary("INBOX", Tally())
    assert terminal.shown() == ""


def test_a_failure_is_told_everywhere() -> None:
    output, stream = quiet()
    output.summary("INBOX", Tally(failed=1))
    assert stream.getvalue() == "INBOX: 1 failed\n"


# --- plans ---------------------------------------------------------------------------------------------------


def test_a_plan_goes_to_standard_output() -> None:
    stdout, stderr = io.StringIO(), io.StringIO()
    Output(-1, stderr=stderr, stdout=stdout).print_plan(["download 1", "mark a\nb"])
    assert (stdout.getvalue(), stderr.getvalue()) == ("download 1\nmark a\\nb\n", "")


def test_a_reader_that_has_seen_enough_of_a_plan_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        Output(stderr=io.StringIO(), stdout=stream).print_plan(["line"] * 10_000)
        stream.write("more")  # and closing the file does not fail either


def test_a_plan_that_cannot_be_written() -> None:
    with open("/dev/full", "w", encoding="utf-8") as stream:
        output = Output(stderr=io.StringIO(), stdout=stream)
        with pytest.raises(LocalDiskError, match=r"^standard output cannot be written: No space left on device$"):
            output.print_plan(["line"])


# --- streams that fail, narrow encodings ---------------------------------------------------------------------


def test_a_broken_pipe_on_standard_error_is_harmless(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        output = Output(stderr=stream)
        output.open_log(str(tmp_path / "log"), "info")
        output.line(logging.WARNING, "one")
        output.line(logging.WARNING, "two")
        output.progress("downloading", 1, 2)
        output.close()
    assert (tmp_path / "log").read_text().count("warning:") == 2


def test_a_closed_standard_error_is_harmless() -> None:
    stream = io.StringIO()
    stream.close()
    Output(stderr=stream).line(logging.ERROR, "one")


def test_no_standard_error_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    output = Output()
    output.line(logging.ERROR, "one")
    output.print_plan(["two"])
    assert not output.on_terminal


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:strict"}]
)
def test_any_locale(locale: dict[str, str]) -> None:
    code = "from pushpull.output import *\no = Output()\no.line(27, 'caf\\xe9 \\u4e0b')\no.print_plan(['caf\\xe9'])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | locale, capture_output=True, check=True, timeout=60
    )
    if "PYTHONIOENCODING" in locale:
        assert (done.stderr, done.stdout) == (b"caf\\xe9 \\u4e0b\n", b"caf\\xe9\n")
    else:
        assert (done.stderr.decode(), done.stdout.decode()) == ("café 下\n", "café\n")


def test_lines_from_many_threads_stay_whole() -> None:
    output, stream = quiet()
    threads = [
        threading.Thread(target=lambda word=word: [output.line(SUMMARY, word * 50) for _ in range(50)])
        for word in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(set(stream.getvalue().splitlines())) == [word * 50 for word in "abcd"]
    assert len(stream.getvalue().splitlines()) == 200


# --- the log file --------------------------------------------------------------------------------------------

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}"


def test_the_log_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: Terminal) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    path = tmp_path / "a" / "b" / "log"
    try:
        output = Output(-1, stderr=terminal.stream, environ=XTERM)
        output.open_log(str(path), "info")
        output.line(logging.DEBUG, "left out")
        output.line(logging.INFO, "caf\xe9\n\x1b[31m")
        output.line(NOTICE, "n")
        output.line(logging.WARNING, "w")
        output.error(Refused("no", remedy="do"), about="INBOX")
        output.summary("INBOX", Tally(uploaded=1))
        output.summary("INBOX", Tally())
        output.close()
        output.line(logging.ERROR, "left out")
    finally:
        monkeypatch.undo()
        time.tzset()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert all(re.match(STAMP + r"\+05:30 ", line) for line in lines)
    assert [line.split(" ", 1)[1] for line in lines] == [
        "info: café\\n\\x1b[31m",
        "notice: n",
        "warning: w",
        "error: INBOX: no",
        "error: do",
        "notice: INBOX: 1 uploaded (0 bytes)",
        "info: INBOX: nothing to do",
    ]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_the_log_file_is_appended_to_and_reopened(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    output, _ = quiet()
    output.reopen_log()  # none is open yet
    output.open_log(str(path), "debug")
    output.line(logging.DEBUG, "one")
    path.rename(tmp_path / "old")
    output.line(logging.DEBUG, "two")
    output.reopen_log()
    output.line(logging.DEBUG, "three")
    output.close()
    assert [line.split()[-1] for line in (tmp_path / "old").read_text().splitlines()] == ["before", "one", "two"]
    assert [line.split()[-1] for line in path.read_text().splitlines()] == ["three"]


def test_a_log_file_that_cannot_be_opened(tmp_path: Path) -> None:
    output, _ = quiet()
    with pytest.raises(LocalDiskError, match="cannot be opened: Is a directory") as caught:
        output.open_log(str(tmp_path), "info")
    assert caught.value.remedy


def test_a_full_disk_under_the_log_is_told_once() -> None:
    output, stream = quiet()
    output.open_log("/dev/full", "info")
    for _ in range(3):
        output.line(logging.INFO, "lost")
    output.close()
    assert stream.getvalue() == ("pushpull: warning: the log file cannot be written: No space left on device\n")


# --- the system log ------------------------------------------------------------------------------------------


def listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    sock.settimeout(20)
    return sock


@pytest.fixture
def syslogd(tmp_path: Path) -> Iterator[socket.socket]:
    with listen(tmp_path / "dev-log") as sock:
        yield sock


def fill(sock: socket.socket) -> int:
    """Sends datagrams until the queue is full; their number."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        filler.setblocking(False)
        for count in range(100_000):
            try:
                filler.sendto(b"x", sock.getsockname())
            except BlockingIOError:
                return count
    raise AssertionError("a queue without an end")


def lines(sock: socket.socket) -> list[str]:
    """What has arrived, without the pid, which is this process's."""
    sock.setblocking(False)
    arrived = []
    try:
        while True:
            arrived.append(sock.recv(65536).decode())
    except BlockingIOError:
        pass
    name = f"pushpull[{os.getpid()}]: "
    assert all(name in line for line in arrived)
    return [line.replace(name, "") for line in arrived]


def test_the_system_log(syslogd: socket.socket) -> None:
    output, stream = quiet(-1)
    output.open_syslog("debug", syslogd.getsockname())
    output.line(logging.DEBUG, "d")
    output.line(logging.INFO, "caf\xe9\n\x1b[31m\udcff<0>")
    output.line(NOTICE, "n")
    output.summary("INBOX", Tally(uploaded=1))
    output.line(logging.WARNING, "w")
    output.error(Refused("no", remedy="do"), about="INBOX")
    output.close()
    output.line(logging.ERROR, "left out")
    assert lines(syslogd) == [  # facility mail: 16
        "<23>d",
        "<22>caf\xe9\\n\\x1b[31m\\xff<0>",
        "<21>n",
        "<21>INBOX: 1 uploaded (0 bytes)",
        "<20>w",
        "<19>INBOX: no",
        "<19>do",
    ]
    assert stream.getvalue() == "pushpull: INBOX: no\n    do\npushpull: left out\n"


@pytest.mark.parametrize(("level", "heard"), [("error", 1), ("warning", 2), ("notice", 4), ("info", 5), ("debug", 6)])
def test_levels_of_the_system_log(syslogd: socket.socket, level: str, heard: int) -> None:
    output, _ = quiet(-1)
    output.open_syslog(level, syslogd.getsockname())
    for number in (logging.ERROR, logging.WARNING, SUMMARY, NOTICE, logging.INFO, logging.DEBUG):
        output.line(number, str(number))
    assert [int(line.partition(">")[2]) for line in lines(syslogd)] == [40, 30, 27, 25, 20, 10][:heard]


def test_both_logs_with_a_level_each(tmp_path: Path, syslogd: socket.socket) -> None:
    output, _ = quiet(-1)
    output.open_log(str(tmp_path / "log"), "info")
    output.open_syslog("warning", syslogd.getsockname())
    output.line(logging.INFO, "one")
    output.line(logging.WARNING, "two")
    output.reopen_log()
    output.line(logging.WARNING, "three")
    output.close()
    assert [line.split()[-1] for line in (tmp_path / "log").read_text().splitlines()] == ["one", "two", "three"]
    assert lines(syslogd) == ["<20>two", "<20>three"]


def test_a_long_line_is_cut_for_the_system_log(syslogd: socket.socket) -> None:
    output, _ = quiet(-1)
    output.open_syslog("info", syslogd.getsockname())
    output.line(logging.INFO, "\u4e0b" * 100_000)
    (line,) = lines(syslogd)
    assert line.endswith("\u4e0b...")
    assert len(line.encode()) < 8000


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none", "No such file or directory"),
        ("file", "Connection refused"),
        ("stream", "Protocol wrong type for socket"),
        ("x" * 200, "AF_UNIX path too long"),
    ],
)
def test_a_system_log_that_cannot_be_opened(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").touch()
    output, stream = quiet()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(tmp_path / "stream"))
        other.listen()
        with pytest.raises(LocalDiskError, match=f"^the system log at .* cannot be reached: {reason}$") as caught:
            output.open_syslog("info", str(tmp_path / name))
    assert "[log] file" in caught.value.remedy
    output.line(SUMMARY, "goes on")
    assert stream.getvalue() == "goes on\n"


def test_a_system_log_that_ends_is_told_once_and_found_again(tmp_path: Path) -> None:
    output, stream = quiet()
    path = tmp_path / "dev-log"
    fault = "pushpull: warning: the system log cannot be reached: {}\n"
    with listen(path):
        output.open_syslog("info", str(path))
    for _ in range(3):
        output.line(logging.INFO, "lost")
    path.unlink()
    output.line(logging.INFO, "lost")
    assert stream.getvalue() == fault.format("Connection refused")
    with listen(path) as restarted:
        output.line(logging.INFO, "one")
        assert lines(restarted) == ["<22>one"]
    path.unlink()
    output.line(logging.INFO, "lost")
    assert stream.getvalue() == fault.format("Connection refused") + fault.format("No such file or directory")


def test_a_system_log_that_hangs_holds_up_one_line(syslogd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    output, stream = quiet()
    output.open_syslog("info", syslogd.getsockname())
    waiting = fill(syslogd)
    monkeypatch.setattr(system_log, "_PATIENCE_SECONDS", 0.01)
    output.line(logging.INFO, "lost")
    monkeypatch.setattr(system_log, "_PATIENCE_SECONDS", 1_000_000)
    output.line(logging.INFO, "lost without a wait")
    assert stream.getvalue() == "pushpull: warning: the system log cannot be reached: timed out\n"
    for _ in range(waiting):
        assert syslogd.recv(10) == b"x"
    output.line(logging.INFO, "one")
    assert lines(syslogd) == ["<22>one"]


def test_a_system_log_that_is_busy_hears_everything(syslogd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_log, "_PATIENCE_SECONDS", 1_000_000)
    output, stream = quiet()
    output.open_syslog("info", syslogd.getsockname())
    waiting = fill(syslogd)
    threads = [threading.Thread(target=output.line, args=(logging.INFO, word)) for word in "abcd"]
    for thread in threads:
        thread.start()
    for _ in range(waiting):
        assert syslogd.recv(10) == b"x"
    for thread in threads:
        thread.join(20)
    assert sorted(lines(syslogd)) == ["<22>a", "<22>b", "<22>c", "<22>d"]
    assert stream.getvalue() == ""


def test_no_socket_to_the_system_log_stays_open(syslogd: socket.socket) -> None:
    output, _ = quiet()
    before = len(os.listdir("/proc/self/fd"))
    output.open_syslog("info", syslogd.getsockname())
    output.line(logging.INFO, "one")
    assert len(os.listdir("/proc/self/fd")) == before
