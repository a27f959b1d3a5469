# SPDX-License-Identifier: MIT
"""What a run of a program costs: wall time, processor time, memory, and what went over the wire."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LINK = Path(__file__).with_name("link.py")


@dataclass(frozen=True)
class Cost:
    """Seconds of wall time and of processor time (with its children), peak RSS in MiB."""

    wall: float
    cpu: float
    rss: float


@dataclass
class Wire:
    """What a `Link` saw: turns, kilobytes from the server, kilobytes to it. Known when the link has ended."""

    port: int
    turns: int = 0
    kb_up: float = 0.0
    kb_down: float = 0.0


class Failed(Exception):
    """A program did not do what it was run for."""


# The peak RSS of a process counts from before its exec(): it must not be started from a process that is large.
_LAUNCHER = """
import os, sys, time
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
null = os.open(os.devnull, os.O_RDONLY)
began = time.perf_counter()
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ, file_actions=[
    (os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)])
_, status, usage = os.wait4(pid, 0)
wall = time.perf_counter() - began
print(os.waitstatus_to_exitcode(status), wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
"""


def measure(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Cost:
    """Run to its end, with output into `log`. Raises Failed when it does not end with 0."""
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(log), *command]
    done = subprocess.run(launcher, env=dict(environment), capture_output=True, text=True, check=True)
    code, wall, cpu, rss = map(float, done.stdout.split())
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
        yield wire
        said, _ = process.communicate(timeout=30)
        turns, up, down = map(int, said.split())
        wire.turns, wire.kb_up, wire.kb_down = turns, up / 1000, down / 1000
