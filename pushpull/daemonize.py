# SPDX-License-Identifier: MIT
"""Going into the background, told from the front: who starts a daemon learns whether it is ready, or why not.

    foreground                        daemon
    start_daemon: pipe, fork  ──────> detached: python-daemon's double fork, /dev/null, pid file
    waits for the verdict     <────── body: readiness.ready(), or an error's code and words
    returns 0 or that code            body goes on; os._exit with what it returns

Nothing is open across the detachment but the pipe and what is named in `preserve`: descriptors with a flock on them,
which belongs to the open file and not to a process. A log, a database or a socket opened before would be closed, and
its number given to another file. What a body writes goes nowhere; its log is its own.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType
from typing import IO, NoReturn

from daemon import DaemonContext
from daemon.daemon import DaemonError

from pushpull.errors import EX_BUG, EX_OK, EX_TEMPORARY, Interrupted, LocalDiskError, PushpullError, Temporary
from pushpull.wording import printable

DEFAULT_UMASK = 0o077

Handler = Callable[[int, FrameType | None], None] | signal.Handlers

_END = b"\0"  # of a verdict: what has none was cut off by a death
_DIED = "the daemon died during start-up"
_INDENT = "    "


class Readiness:
    """The verdict of a start, given once; a later one is ignored. `descriptor` is None in the foreground, where nobody
    waits for it.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor

    def ready(self) -> None:
        """The one who started us may go on. Interrupted when that one is gone: a start that was given up must not
        leave a daemon behind.
        """
        if not self._send(EX_OK, ""):
            raise Interrupted("the command that started the daemon was ended before the daemon was ready")

    def failed(self, exit_code: int, text: str) -> None:
        """The one who started us shows the text, of one or more lines, and exits with the code (1 to 255)."""
        self._send(exit_code if 0 < exit_code < 256 else EX_BUG, text)

    def _send(self, exit_code: int, text: str) -> bool:
        """False when nobody waits for it any more."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return True
        left = b"%d\n" % exit_code + text.encode("utf-8", "backslashreplace").replace(_END, b"") + _END
        try:
            while left:
                left = left[os.write(descriptor, left) :]
        except OSError:  # EPIPE
            return False
        finally:
            os.close(descriptor)
        return True


class PidFile:
    """Holds our pid from entering to leaving, readable by whom the umask leaves that. For people and scripts: whatever
    an earlier one says is overwritten. LocalDiskError when it cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._pid = 0

    def __enter__(self) -> PidFile:
        self._pid = os.getpid()
        beside = f"{self._path}.{self._pid}"
        try:
            with suppress(FileNotFoundError):
                os.unlink(beside)  # of a killed process with our number
            try:
                _write_new(beside, b"%d\n" % self._pid)
                os.rename(beside, self._path)  # no reader sees half a number, no link is followed
            except OSError:
                with suppress(OSError):
                    os.unlink(beside)
                raise
        except OSError as error:
            raise LocalDiskError(
                f"the pid file {self._path} cannot be written: {error.strerror}",
                remedy="correct [daemon] pidfile, or make its directory writable",
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        """Removes it if it is still ours. Best effort: a stale one does no harm."""
        if self._pid != os.getpid():  # a child of ours
            return
        with suppress(OSError):
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                ours = os.read(descriptor, 32) == b"%d\n" % self._pid
            finally:
                os.close(descriptor)
            if ours:
                os.unlink(self._path)


def start_daemon(
    body: Callable[[Readiness], int],
    *,
    umask: int = DEFAULT_UMASK,
    preserve: Sequence[int] = (),
    pidfile: str | None = None,
    signals: Mapping[signal.Signals, Handler] | None = None,
    tell: Callable[[str], None] | None = None,
) -> int:
    """Run `body` in a daemon; return, in the foreground, the exit code as soon as the daemon gave its verdict.

    0: it is ready. Else it failed; why was given to `tell` (by default to standard error), in one text of one or more
    lines. EX_BUG: it died without a word.
    In the daemon this never returns: no `finally` or `with` of the caller is left there. A PushpullError that `body`
    raises before the verdict is the verdict; afterwards it sets the exit code alone, so the body logs what it raises.

    umask: of the daemon. preserve: descriptors (above 2) that stay open. pidfile: its path. signals: handlers that the
    daemon has from its first moment; other signals are left as they are, none stays blocked.
    To be called with one thread, and with no file, socket or database open: in the daemon its number would be another
    file's. Temporary when there is no process or descriptor left. An exception out of a signal handler (Interrupted)
    ends the wait, and the daemon with its `ready()`.
    """
    if threading.active_count() > 1:
        raise RuntimeError("threads do not survive a fork")
    if any(descriptor <= 2 for descriptor in preserve):
        raise ValueError("descriptors 0 to 2 become /dev/null")
    _open_standard_descriptors()
    reader, writer = _pipe()
    try:
        child = os.fork()
    except OSError as error:
        os.close(reader)
        os.close(writer)
        raise _no_room(error) from error
    if child == 0:
        os.close(reader)
        context = detached(umask=umask, preserve=[*preserve, writer], pidfile=pidfile, signals=signals)
        _live(context, body, Readiness(writer))
    os.close(writer)
    try:
        verdict = _read_verdict(reader)
    finally:
        os.close(reader)
    with suppress(ChildProcessError):  # SIGCHLD is ignored
        os.waitpid(child, 0)  # the first of three: it ended when the second was born
    exit_code, text = verdict or (EX_BUG, _DIED)
    if exit_code:
        (tell or _tell)(text)
    return exit_code


@contextmanager
def detached(
    *,
    umask: int = DEFAULT_UMASK,
    preserve: Sequence[int] = (),
    pidfile: str | None = None,
    signals: Mapping[signal.Signals, Handler] | None = None,
) -> Iterator[None]:
    """Go on as a daemon: this process ends with 0, and a grandchild enters the block, with `/` as its directory, no
    terminal, no core dumps, and nothing open but /dev/null as 0 to 2 and what is in `preserve`. User and groups stay.

    LocalDiskError for the pid file, Temporary when there is no process left; in whichever process it was.
    """
    null = _open_null()
    context = DaemonContext(
        detach_process=True,  # its own guess is no in containers, and fails on a closed stdin
        working_directory="/",
        umask=umask,
        initgroups=False,
        prevent_core=True,  # passwords are in memory
        files_preserve=list(preserve),  # it adds to the list
        pidfile=None if pidfile is None else PidFile(pidfile),
        signal_map=dict(signals or {}),  # its own has SIGTERM raise SystemExit
        # A file of ours: the three that it would open itself stay open.
        stdin=null,
        stdout=null,
        stderr=null,
    )
    try:
        _attach_standard_streams()
        context.open()
    except DaemonError as error:
        raise Temporary(f"the daemon cannot be detached: {error}", remedy="try again later") from error
    finally:
        null.close()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # who started us may have blocked SIGTERM
    try:
        yield
    finally:
        context.close()


def _live(context: AbstractContextManager[None], body: Callable[[Readiness], int], readiness: Readiness) -> NoReturn:
    """The life of the daemon. The pid file is gone before the verdict on a failed start is given."""
    exit_code = EX_BUG
    try:
        with context:
            exit_code = body(readiness)
        readiness.failed(exit_code or EX_TEMPORARY, "the daemon ended before it was ready")
    except (PushpullError, KeyboardInterrupt) as caught:
        error = caught if isinstance(caught, PushpullError) else Interrupted("interrupted")
        exit_code = error.exit_code
        readiness.failed(exit_code, f"{error}\n{_INDENT}{error.remedy}" if error.remedy else str(error))
    except BaseException:
        readiness.failed(EX_BUG, f"this is a bug in pushpull; please report it\n{traceback.format_exc()}")
    finally:
        os._exit(exit_code)


def _read_verdict(reader: int) -> tuple[int, str] | None:
    """The exit code and the words of a failure; None when the daemon died before it was through with them."""
    told = b""
    while not told.endswith(_END):
        part = os.read(reader, 65536)
        if not part:
            return None
        told += part
    exit_code, _, text = told.removesuffix(_END).decode().partition("\n")
    return int(exit_code), text


def _tell(text: str) -> None:
    lines = [printable(line) for line in text.splitlines()]
    with suppress(OSError, ValueError, AttributeError):  # closed, gone, None
        sys.stderr.write("pushpull: " + "\n".join(lines) + "\n")
        sys.stderr.flush()


def _write_new(path: str, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o644)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def _pipe() -> tuple[int, int]:
    try:
        return os.pipe()
    except OSError as error:
        raise _no_room(error) from error


def _no_room(error: OSError) -> Temporary:
    return Temporary(f"the daemon cannot be started: {error.strerror}", remedy="try again later")


def _open_null() -> IO[bytes]:
    try:
        return open(os.devnull, "r+b", buffering=0)
    except OSError as error:
        raise LocalDiskError(f"{os.devnull}: {error.strerror}", remedy="a daemon needs it") from error


def _open_standard_descriptors() -> None:
    """Else the pipe could get the number of a closed one, and become /dev/null when the daemon detaches."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _attach_standard_streams() -> None:
    """Put streams that are None or elsewhere (closed at our start, replaced) back on 0, 1 and 2, in this process."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            attached = getattr(sys, name).fileno() == number
        except (OSError, ValueError, AttributeError):
            attached = False
        if not attached:
            stream = open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
