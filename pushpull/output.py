# SPDX-License-Identifier: MIT
"""What a person sees: lines and a progress bar on standard error, the logs, plans on standard output.

Every text is made printable here, on one line; nobody else has to escape. A terminal or pipe that has gone away
never disturbs the program. One lock covers the terminal: lines may come from any thread.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import IO, TYPE_CHECKING

from pushpull import levels
from pushpull.errors import ConfigError, LocalDiskError, PushpullError
from pushpull.private import make_directories, open_to_append
from pushpull.progress import Progress
from pushpull.system_log import ADDRESS, SystemLog
from pushpull.wording import human_size, printable

if TYPE_CHECKING:
    from pushpull.config import Log
    from pushpull.model import Tally

_LEVELS = {
    "error": levels.ERROR,
    "warning": levels.WARNING,
    "notice": levels.NOTICE,
    "info": levels.INFO,
    "debug": levels.DEBUG,
}
_PREFIX = {levels.ERROR: "pushpull: ", levels.WARNING: "pushpull: warning: "}
_COLOUR = {levels.ERROR: "\x1b[31m", levels.WARNING: "\x1b[33m"}
_WIPE = "\r\x1b[K"
_INDENT = "    "
_USUAL_WIDTH = 80


def _name(level: int) -> str:
    """Of a level as `[log] level` has them; SUMMARY is a notice."""
    return next((name for name, number in _LEVELS.items() if level >= number), "debug")


def threshold(verbosity: int) -> int:
    """The lowest level that the terminal shows: -1 for `-q`, 0, 1 for `-v`, 2 for `-vv`."""
    return {-1: levels.ERROR, 0: levels.SUMMARY, 1: levels.NOTICE}.get(verbosity, levels.DEBUG)


class Output:
    """`ports.Report`, and the words around it. Made before the configuration is read; `open_log` and `open_syslog`
    follow.
    """

    def __init__(
        self,
        verbosity: int = 0,
        stderr: IO[str] | None = None,
        stdout: IO[str] | None = None,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stderr = _tolerant(stderr or sys.stderr)
        self._stdout = _tolerant(stdout or sys.stdout)
        self._threshold = threshold(verbosity)
        self._lock = threading.RLock()
        self.on_terminal = self._stderr is not None and _is_terminal(self._stderr)
        able = self.on_terminal and environ.get("TERM", "dumb") != "dumb"
        self._colour = able and not environ.get("NO_COLOR")
        self._progress: Progress | None = None
        if able and verbosity >= 0:
            self._progress = Progress(clock, self._columns)
        self._bar_shown = False
        self._log: _LogFile | None = None
        self._syslog: SystemLog | None = None

    # --- Report

    def line(self, level: int, text: str) -> None:
        """One line for the terminal and for each log that is to show the level."""
        shown = printable(text)
        if level >= self._threshold:
            self._show(level, [shown])
        self._write_log(level, shown)

    def progress(self, what: str, done: int, total: int, done_bytes: int = 0) -> None:
        """Draws the bar of a long phase on a terminal; `done == total` ends it."""
        if self._progress is None:
            return
        with self._lock:
            bar = self._progress.advance(what, done, total, done_bytes)
            if bar is not None:
                self._write(_WIPE + bar)
                self._bar_shown = True
            elif done >= total:
                self.wipe()

    # --- the rest of the program

    def error(self, error: PushpullError, about: str = "") -> None:
        """An error and, indented below it, what to do. `about` names the pairing that it befell."""
        texts = [f"{error.path}: {problem}" for problem in error.problems] if isinstance(error, ConfigError) else []
        for text in texts or [str(error)]:
            lines = [printable(f"{about}: {text}" if about else text)]
            if error.remedy:
                lines.append(_INDENT + printable(error.remedy))
            self._show(levels.ERROR, lines)
            for line in lines:
                self._write_log(levels.ERROR, line.strip())

    def bug(self, error: BaseException) -> None:
        """A traceback, without the values of variables: they may be secret."""
        import traceback

        self.line(levels.ERROR, "this is a bug in pushpull; please report it with the lines below")
        for part in traceback.format_exception(error):
            for line in part.splitlines():
                self._show(levels.ERROR, [printable(line)], bare=True)
                self._write_log(levels.ERROR, printable(line))

    def summary(self, pairing: str, tally: Tally, *, always: bool = True) -> None:
        """One line of what was done; of nothing done only a person at a terminal is told, and, with `always`, the log
        at its usual level.
        """
        text = f"{pairing}: {', '.join(summary_parts(tally)) or 'nothing to do'}"
        if tally.anything or tally.failed:
            self.line(levels.SUMMARY, text)
        else:
            if always and self.on_terminal and self._threshold <= levels.SUMMARY:
                self._show(levels.SUMMARY, [printable(text)])
            self._write_log(levels.INFO if always else levels.DEBUG, printable(text))
        for note in tally.notes:
            self.line(levels.SUMMARY, f"{pairing}: {note}")

    def print_plan(self, lines: Iterable[str]) -> None:
        """The lines of a plan on standard output; LocalDiskError when that cannot be written."""
        self.wipe()
        if self._stdout is None:
            return
        try:
            for line in lines:
                self._stdout.write(printable(line) + "\n")
            self._stdout.flush()
        except BrokenPipeError:  # whoever reads it has seen enough, such as `head`
            _silence(self._stdout)
        except OSError as error:
            _silence(self._stdout)
            raise LocalDiskError(f"standard output cannot be written: {error.strerror}") from error

    def wipe(self) -> None:
        """Take the progress bar off the terminal, before something else is written there."""
        with self._lock:
            if self._bar_shown:
                self._write(_WIPE)
                self._bar_shown = False

    def question(self, text: str) -> None:
        """A prompt on the terminal; the cursor stays behind it."""
        with self._lock:
            self.wipe()
            self._write(printable(text) + " ")

    def trace(self, text: str) -> None:
        """One line of the IMAP trace, on standard error alone whatever the verbosity."""
        self._show(levels.DEBUG, [printable(text)])

    # --- the logs

    def open_logs(self, log: Log) -> None:
        """What the configuration asks for. LocalDiskError when one of them cannot be opened."""
        if log.file:
            self.open_log(log.file, log.level)
        if log.syslog:
            self.open_syslog(log.level)

    def open_log(self, path: str, level: str) -> None:
        """LocalDiskError when the file cannot be opened; `level` is a name of `[log] level`."""
        self._log = _LogFile(path, _LEVELS[level])

    def open_syslog(self, level: str, address: str = ADDRESS) -> None:
        """Log to the system log, beside a log file. LocalDiskError when nobody listens there."""
        self._syslog = SystemLog(address, level)

    def reopen_log(self) -> None:
        """After the file was moved away (SIGHUP)."""
        if self._log is not None:
            self._log.reopen()

    def detach(self) -> None:
        """There is no terminal any more, only the log."""
        with self._lock:
            self._stderr, self._stdout, self.on_terminal, self._progress = None, None, False, None

    def close(self) -> None:
        self.wipe()
        if self._log is not None:
            self._log.close()
        self._log = self._syslog = None

    def _write_log(self, level: int, text: str) -> None:
        log, syslog = self._log, self._syslog  # another thread may close them
        if log is not None and (fault := log.write(level, text)):
            self._show(levels.WARNING, [printable(f"the log file cannot be written: {fault}")])
        if syslog is not None and (fault := syslog.write(_name(level), text)):
            self._show(levels.WARNING, [printable(f"the system log cannot be reached: {fault}")])

    # --- the terminal

    def _show(self, level: int, lines: list[str], *, bare: bool = False) -> None:
        prefix = "" if bare else _PREFIX.get(level, "")
        if self._colour and prefix:
            prefix = f"{_COLOUR[level]}{prefix.rstrip()}\x1b[0m "
        with self._lock:
            self.wipe()
            self._write("".join(f"{prefix if number == 0 else ''}{line}\n" for number, line in enumerate(lines)))

    def _write(self, text: str) -> None:
        if self._stderr is None:
            return
        try:
            self._stderr.write(text)
            self._stderr.flush()
        except (OSError, ValueError):  # a pipe without a reader, a terminal that hung up, a closed file
            _silence(self._stderr)
            self._stderr, self.on_terminal, self._progress = None, False, None

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stderr.fileno() if self._stderr else -1).columns or _USUAL_WIDTH
        except (OSError, ValueError):
            return _USUAL_WIDTH


class _LogFile:
    """Appends `2026-03-01T12:00:00+01:00 level: text`, in local time with its offset."""

    def __init__(self, path: str, level: int) -> None:
        from datetime import datetime

        self._path = path
        self._level = level
        self._now = datetime.now
        self._lock = threading.Lock()
        self._broken = False
        self._file = self._open()

    def _open(self) -> IO[str]:
        try:
            # The names of mailboxes and senders are in it: for the user alone.
            make_directories(os.path.dirname(self._path))
            descriptor = open_to_append(self._path)
        except OSError as error:
            raise LocalDiskError(
                f"the log file {printable(self._path)} cannot be opened: {error.strerror}",
                remedy="Correct [log] file, or make its directory writable.",
            ) from error
        return open(descriptor, "a", encoding="utf-8", errors="backslashreplace")

    def write(self, level: int, text: str) -> str:
        """The fault when it could not be written, told once; else ""."""
        if level < self._level:
            return ""
        with self._lock:
            try:
                now = self._now().astimezone().isoformat(timespec="milliseconds")
                self._file.write(f"{now} {_name(level)}: {text}\n")
                self._file.flush()
            except (OSError, ValueError) as error:
                told, self._broken = self._broken, True
                return "" if told else getattr(error, "strerror", None) or str(error)
            self._broken = False
            return ""

    def reopen(self) -> None:
        with self._lock:
            new = self._open()
            _close(self._file)
            self._file = new

    def close(self) -> None:
        with self._lock:
            _close(self._file)


def summary_parts(tally: Tally) -> list[str]:
    """`12 downloaded (3.4 MB)`, `4 flags changed`, ...: what is not zero, most welcome first."""
    flags = tally.local_flags + tally.remote_flags
    counted = (
        (tally.downloaded, f"downloaded ({human_size(tally.bytes_down)})"),
        (tally.uploaded, f"uploaded ({human_size(tally.bytes_up)})"),
        (tally.adopted, "matched"),
        (flags, "flag changed" if flags == 1 else "flags changed"),
        (tally.local_marked, "marked deleted here"),
        (tally.remote_marked, "marked deleted on the server"),
        (tally.renamed, "renamed"),
        (tally.failed, "failed"),
        (tally.set_aside, "set aside"),
        (tally.held, "held"),
    )
    return [f"{count:,} {words}" for count, words in counted if count]


def _tolerant(stream: IO[str] | None) -> IO[str] | None:
    """A stream that writes what its encoding lacks as `\\xe9`, also under LC_ALL=C."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
    return stream


def _is_terminal(stream: IO[str]) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def _silence(stream: IO[str]) -> None:
    """Point the stream's descriptor at /dev/null: else Python fails to flush it at the end, and exits with 120."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):  # no descriptor behind it
        return


def _close(file: IO[str]) -> None:
    try:
        file.close()
    except OSError:  # a full disk: told when it was written
        return
