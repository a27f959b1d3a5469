# SPDX-License-Identifier: MIT
"""What a run of a program costs: wall time, processor time, memory, and what went over the wire."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from results import Cost, Traffic

LINK = Path(__file__).with_name("link.py")
LIMIT = 2 * 3600  # seconds: a program that hangs must not hold up a night's run


class Wire:
    """The port of a link; `traffic` is known when it has ended."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.traffic: Traffic | None = None


class Failed(Exception):
    """A program did not do what it was run for."""


# The peak RSS of a process counts from before its exec(), so the program is a child of a small shell, not of Python.
# The shell ends at once; then this process is the parent of the program and of all that the program leaves behind. The
# program waits for that: of one that is faster, the shell would be told how it ended.
_LAUNCHER = """
import ctypes, os, signal, sys, time
PR_SET_CHILD_SUBREAPER, LEFT_BEHIND = 36, 10
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
script = 'exec 3<&0; log=$1; shift; (read _ <&3; exec "$@" </dev/null >"$log" 2>&1 3<&-) & echo $!'
told, tell = os.pipe()
wait, go = os.pipe()
shell = os.posix_spawn("/bin/sh", ["sh", "-c", script, "sh", *sys.argv[1:]], os.environ, file_actions=[
    (os.POSIX_SPAWN_DUP2, wait, 0), (os.POSIX_SPAWN_DUP2, tell, 1), (os.POSIX_SPAWN_CLOSE, told)])
os.close(tell)
os.waitpid(shell, 0)
began = time.perf_counter()
os.close(go)
program = int(os.read(told, 20))
cpu = rss = code = 0
while True:
    try:
        pid, status, usage = os.wait4(-1, 0)
    except ChildProcessError:
        break
    cpu += usage.ru_utime + usage.ru_stime
    rss = max(rss, usage.ru_maxrss)
    if pid == program:
        wall = time.perf_counter() - began
        code = os.waitstatus_to_exitcode(status)
        signal.alarm(LEFT_BEHIND)
print(code, wall, cpu, rss)
"""


def measure(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Cost:
    """Run to its end, with output into `log`. Raises Failed when it does not end with 0."""
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(log), *command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(launcher, env=dict(environment), text=True, start_new_session=True, **pipes) as process:
        try:
            said, complaint = process.communicate(timeout=LIMIT)
        except BaseException as error:  # by a signal, most likely: the program must not go on
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise Failed(f"{command[0]} did not end within {LIMIT} s") from error
            raise
    if process.returncode:
        raise Failed(f"{command[0]} left processes behind, or could not be run: {complaint[-2000:]}")
    code, wall, cpu, rss = map(float, said.split())
    if code:
        raise Failed(f"{command[0]} ended with {code:g}: {log.read_text(errors='replace')[-2000:]}")
    return Cost(wall, cpu, rss / 1024)


@contextmanager
def link(upstream: int, *, delay: float = 0.0, megabits: float = 0.0) -> Iterator[Wire]:
    """A line to the server with `delay` ms one way; see `link.py`."""
    command = [sys.executable, str(LINK), str(upstream), "--delay", str(delay), "--megabits", str(megabits)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        wire = Wire(int(process.stdout.readline()))
        try:
            yield wire
        finally:
            said, _ = process.communicate(timeout=30)
        wire.traffic = Traffic(*map(int, said.split()))
