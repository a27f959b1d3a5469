# SPDX-License-Identifier: MIT
"""strace from outside: which calls a run makes on the Maildir, the state and the socket, and a run that dies, or is
refused something, at one of them.

strace counts the calls of each name in each thread, those of Python's own start too. So a run is recorded first; what
is of interest has its number there, and the same run makes the same calls again: one thread (the connection is made
when it is needed, not ahead), no random hashes, byte code written before. What a run really died at is read from the
log of that run.

The signal arrives as the call is entered, and the kernel then leaves the call undone: SIGKILL at a call is the moment
before it. The moment after it is the one before the next, since every call that has an effect is among the points.
(strace 6.1 loses the signal under --seccomp-bpf, which is why it is not used.)
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.patched import patched
from tests.support.run import Run, Setup

FLUSHES = ("fsync", "fdatasync", "syncfs")
_NAMES = ("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "mkdir", "mkdirat")
_CONTENTS = ("write", "writev", "pwrite64", "ftruncate", "fallocate", "utimensat", "chmod", "fchmod")
TRACED = (*_NAMES, *FLUSHES, *_CONTENTS, "openat", "read", "sendto", "recvfrom")
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": ""}

_ONE_THREAD = patched("""
from pushpull import aside
class Later:
    def __init__(self, call):
        self.result = call
aside.Aside = Later
""")

_CALL = re.compile(r"(?P<pid>\d+) +(?P<call>(?P<name>\w+)\(.*)")
_SOCKET = re.compile(r"<TCP[^>]*>")
_KILLED = "+++ killed by SIGKILL +++"


@dataclass(frozen=True)
class Call:
    """One system call of a run; `number` counts those of its name, from 1. `text` says what it was about, without what
    differs from run to run."""

    name: str
    number: int
    text: str
    socket: bool = False
    failed: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        return f"{self.name} {self.number}: {self.text}"


@dataclass(frozen=True)
class Injected:
    """A run that something was done to; `where` is the call that it was done to, "" when the run never came there."""

    run: Run
    where: str


def why_not() -> str:
    """Why nothing can be traced here; "" when all is well."""
    if shutil.which("strace") is None:
        return "strace is missing: contrib/test installs it, or apt-get install strace"
    done = subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        return (
            f"strace may not trace here: {done.stderr.strip()}. In a container, allow it by"
            " --cap-add=SYS_PTRACE; else see /proc/sys/kernel/yama/ptrace_scope"
        )
    return ""


def record(setup: Setup, *args: str, also: Sequence[str] = ()) -> tuple[Run, list[Call]]:
    """A run left alone, and every call of it that something could be done to, in order. `also`: calls that only look
    at our files."""
    run, lines = _strace(setup, args, f"trace={','.join((*TRACED, *also))}")
    return run, list(_calls(lines, setup))


def kill_at(setup: Setup, call: Call, *args: str) -> Injected:
    """A run that gets SIGKILL as it enters the call."""
    run, lines = _strace(setup, args, f"trace={call.name}", f"inject={call.name}:signal=SIGKILL:when={call.number}")
    if run.code != -signal.SIGKILL:
        return Injected(run, "")
    assert any(_KILLED in line for line in lines), f"killed by somebody else\n{run}"
    return Injected(run, _text([line for line in lines if _CALL.match(line)][-1], setup))


def fail_at(setup: Setup, call: Call, error: str, *args: str, on: bool = False) -> Injected:
    """A run whose call fails with the error, such as ENOSPC; with `on` all later ones of that name fail too."""
    when = f"{call.number}{'+' if on else ''}"
    run, lines = _strace(setup, args, f"trace={call.name}", f"inject={call.name}:error={error}:when={when}")
    return Injected(run, next((_text(line, setup) for line in lines if "(INJECTED)" in line), ""))


def _strace(setup: Setup, args: tuple[str, ...], *expressions: str) -> tuple[Run, list[str]]:
    """One run under strace, and the log's lines. strace ends as its program does."""
    log = setup.base / "strace"
    # Data is left out (-s 0), descriptors are told with their paths (-y) and what sockets they are (-yy).
    tracer = ["strace", "-f", "-yy", "-s", "0", "-o", str(log)]
    setup.tracer = (*tracer, *(word for expression in expressions for word in ("-e", expression)))
    program, setup.program = setup.program, _ONE_THREAD
    try:
        run = setup.run(*args)
    finally:
        setup.tracer, setup.program = (), program
    return run, log.read_text(errors="backslashreplace").splitlines()


def _calls(lines: list[str], setup: Setup) -> list[Call]:
    """What is of interest: changes of files of ours, what is sent, and the first read after that."""
    counts: Counter[str] = Counter()
    found: list[Call] = []
    pids = {match["pid"] for line in lines if (match := _CALL.match(line))}
    assert len(pids) == 1, f"one process with one thread was expected, not {pids}"
    sent = False
    for line in lines:
        match = _CALL.match(line)
        if match is None:
            continue
        name = match["name"]
        counts[name] += 1
        socket = bool(_SOCKET.search(line))
        if name in ("read", "recvfrom"):
            wanted, sent = socket and sent, sent and not socket
        else:
            wanted = socket or _changes(name, line, setup.base)
            sent = sent or socket
        if wanted:
            found.append(Call(name, counts[name], _text(line, setup), socket, " = -1 " in line))
    return found


def _changes(name: str, line: str, base: Path) -> bool:
    """The call could change a file of ours. SQLite's index of its log (-shm) is made anew by who finds it."""
    if name == "openat" and "O_CREAT" not in line:
        return False
    if f"{base}/state.db-shm" in line or f'"{base}/strace' in line:
        return False
    return any(f"{base}/{ours}" in line for ours in ("mail", "state.db", "log")) or (
        name in FLUSHES and f"<{base}>" in line
    )


def _text(line: str, setup: Setup) -> str:
    match = _CALL.match(line)
    assert match, line
    call = re.sub(r"\)?\s+(= .*|<unfinished.*)$", "", match["call"]).replace(str(setup.base), "")
    call = _SOCKET.sub("<socket>", call)
    call = re.sub(r"\[\{tv_sec.*?\]", "[...]", call)
    call = re.sub(r"\b\d+(?=<)", "", call)
    return re.sub(r"\d+", "#", call)
