# SPDX-License-Identifier: MIT
"""What the benchmarks stand on: a raw IMAP connection, the moments when something became visible, a process's costs."""

from __future__ import annotations

import os
import platform
import re
import select
import socket
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from inotify_simple import INotify, flags

DEADLINE = 30.0  # seconds for anything that is waited for


class Late(Exception):
    """What was waited for did not happen."""


class Wire:
    """A plain IMAP connection, so that what the benchmark itself costs is next to nothing."""

    def __init__(self, port: int, user: str, password: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), DEADLINE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self._tags = 0
        self._line()
        self.command(f"LOGIN {user} {password}")

    def close(self) -> None:
        self.socket.close()

    def command(self, text: str, literal: bytes | None = None) -> list[bytes]:
        """What the server says, up to the end of the command, which has to be OK."""
        self._tags += 1
        tag = b"b%d" % self._tags
        line = tag + b" " + text.encode()
        if literal is not None:
            line += b" {%d+}\r\n" % len(literal) + literal
        self.socket.sendall(line + b"\r\n")
        said = []
        while not (answer := self._line()).startswith(tag + b" "):
            said.append(answer)
        if not answer.startswith(tag + b" OK"):
            raise RuntimeError(f"{text}: the server says {answer!r}")
        return said

    def append_all(self, mailbox: str, messages: Iterable[tuple[bytes, str, int]]) -> None:
        """MULTIAPPEND (RFC 3502): bodies with CRLF, their flags as a list of words, their dates in seconds."""
        self._tags += 1
        tag = b"b%d" % self._tags
        parts = [b"%b APPEND %b" % (tag, mailbox.encode())]
        for body, words, date in messages:
            when = time.strftime("%d-%b-%Y %H:%M:%S +0000", time.gmtime(date))
            parts.append(b' (%b) "%b" {%d+}\r\n%b' % (words.encode(), when.encode(), len(body), body))
        self.socket.sendall(b"".join(parts) + b"\r\n")
        while not (answer := self._line()).startswith(tag + b" "):
            pass
        if not answer.startswith(tag + b" OK"):
            raise RuntimeError(f"APPEND: the server says {answer!r}")

    def idle(self, mailbox: str) -> None:
        """From here on only `announced` is of use."""
        self.command(f'EXAMINE "{mailbox}"')
        self.socket.sendall(b"idle IDLE\r\n")
        while not self._line().startswith(b"+"):
            pass
        self.socket.setblocking(False)

    def announced(self) -> list[bytes]:
        """The lines that have arrived; does not wait."""
        try:
            while data := self.socket.recv(1 << 16):
                self._rest += data
        except BlockingIOError:
            pass
        *lines, self._rest = self._rest.split(b"\r\n")
        return lines

    def _line(self) -> bytes:
        while b"\r\n" not in self._rest:
            data = self.socket.recv(1 << 16)
            if not data:
                raise RuntimeError("the server closed the connection")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\r\n")
        return line


class Eyes:
    """Watches one folder by inotify and its mailbox by IDLE, in one thread, each woken by the kernel."""

    def __init__(self, folder: Path, idle: Wire) -> None:
        self._idle = idle
        self._inotify = INotify()
        for name in ("new", "cur"):
            self._inotify.add_watch(folder / name, flags.MOVED_TO | flags.CREATE)
        self._poll = select.poll()
        self._poll.register(self._inotify.fileno(), select.POLLIN)
        self._poll.register(idle.socket, select.POLLIN)

    def close(self) -> None:
        self._inotify.close()
        self._idle.close()

    def rest(self, seconds: float) -> None:
        """Let what follows from the last change come to its end, and forget it."""
        time.sleep(seconds)
        self._inotify.read(timeout=0)
        self._idle.announced()

    def both(self, announcement: re.Pattern[bytes], name: re.Pattern[str]) -> tuple[float, float]:
        """The moments (`time.perf_counter`) when the server announced it and when a file of such a name came, in
        whatever order.
        """
        announced = file = 0.0
        deadline = time.perf_counter() + DEADLINE
        while not announced or not file:
            ready = {descriptor for descriptor, _ in self._poll.poll(1000)}
            now = time.perf_counter()
            if self._idle.socket.fileno() in ready and any(map(announcement.search, self._idle.announced())):
                announced = announced or now
            if self._inotify.fileno() in ready and any(name.search(event.name) for event in self._inotify.read(0)):
                file = file or now
            if now > deadline:
                missing = [what for what, when in (("announcement", announced), ("file", file)) if not when]
                raise Late(f"no {' and no '.join(missing)} within {DEADLINE:.0f} s")
        return announced, file


def until_said(wire: Wire, pattern: re.Pattern[bytes], *, quiet: float) -> float:
    """The moment when the server shows what matches to a client that asks all the time. For `quiet` seconds, when there
    is nothing to be seen yet, it asks less often, since two busy processes would share the machine.
    """
    quiet_until = time.perf_counter() + quiet - 0.05
    while True:
        said = wire.command("NOOP")
        now = time.perf_counter()
        if any(map(pattern.search, said)):
            return now
        if now > quiet_until + DEADLINE:
            raise Late(f"the server shows nothing like {pattern.pattern!r} within {DEADLINE:.0f} s")
        time.sleep(0.001 if now > quiet_until else 0.02)


# --- what a process costs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Costs:
    """Of a process now. `connections` are established TCP connections to a port, `watches` those of inotify."""

    cpu: float
    rss_kib: int
    threads: int
    descriptors: int
    connections: int
    watches: int


def costs(pid: int, ports: Iterable[int]) -> Costs:
    """Read from /proc."""
    base = Path(f"/proc/{pid}")
    stat = (base / "stat").read_text().rpartition(")")[2].split()
    status = dict(re.findall(r"(\w+):\s+(\d+)", (base / "status").read_text()))
    targets, watches = [], 0
    for path in base.glob("fd/*"):
        try:
            targets.append(os.readlink(path))
            watches += (base / "fdinfo" / path.name).read_text().count("inotify wd:")
        except FileNotFoundError:  # closed meanwhile
            continue
    return Costs(
        cpu=(int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK"),
        rss_kib=int(status["VmRSS"]),
        threads=int(status["Threads"]),
        descriptors=len(targets),
        connections=len(_sockets_to(ports) & set(targets)),
        watches=watches,
    )


def _sockets_to(ports: Iterable[int]) -> set[str]:
    """The established connections to a port, as /proc/PID/fd shows them."""
    wanted = set(ports)
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "01" and int(fields[2].rpartition(":")[2], 16) in wanted:
                found.add(f"socket:[{fields[9]}]")
    return found


def calm(pid: int, *, seconds: float = 2.0, limit: float = 120.0) -> None:
    """Until the process has used no processor time for so long."""
    used = -1.0
    since = start = time.monotonic()
    while time.monotonic() - since < seconds:
        if (now := costs(pid, ()).cpu) != used:
            used, since = now, time.monotonic()
        if time.monotonic() > start + limit:
            raise Late(f"process {pid} does not come to rest")
        time.sleep(0.1)


# --- figures -----------------------------------------------------------------------------------------------------


def quantile(values: Iterable[float], share: float) -> float:
    """Of the values as they are, none made up between two of them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def machine() -> str:
    """What the figures were measured with, in a line."""
    dovecot = subprocess.run(["dovecot", "--version"], capture_output=True, text=True, check=False).stdout.split()
    parts = [
        f"Python {platform.python_version()}",
        f"Dovecot {dovecot[0] if dovecot else '?'}",
        f"Linux {platform.release().partition('-')[0]}",
        f"{len(os.sched_getaffinity(0))} cores",
    ]
    return ", ".join(parts)


def file_system(path: Path) -> str:
    """The type of the file system that a directory is on, such as ext4."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    holders = [(len(place), kind) for place, kind in mounts if path.resolve().is_relative_to(place)]
    return max(holders)[1]
