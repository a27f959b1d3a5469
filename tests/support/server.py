# SPDX-License-Identifier: MIT
"""What the tests ask of an IMAP server, whichever it is; and what starting one on loopback takes.

Another client's work goes over IMAP. What no client can do (a lost index, a quota, an administrator) is a method of
its own; a server that has no way to it, or lacks what a test is about, says so in `lacks`: the feature's name and
the reason. Tests name what they need with `@pytest.mark.needs`, and tests/support/expressed.py counts and tells them.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import pwd
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.support.certificates import Certificates, make_certificates
from tests.support.client import Client, Remote
from tests.support.rules import OWN_TAG
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
SERVERS = Path(os.environ.get("PUSHPULL_SERVERS_DIR", ROOT / ".servers"))
"""Where contrib/get-server puts what it fetches."""

_PORTS = range(20000, 32000)  # below the ephemeral range, so no outgoing connection takes one meanwhile


class Server:
    """Context manager; inside it the server answers on `port` (TLS) and `starttls_port`.

    `base` must be a directory that every user may enter (`open_directory()` makes one); None makes one.
    """

    name: ClassVar[str]
    lacks: ClassVar[Mapping[str, str]] = {}
    tells_read_only: ClassVar[bool] = True
    """SELECT says READ-ONLY when the user may write nothing."""
    poor: ClassVar[bool] = False
    """Only what has to hold on every server is played on it."""
    host = "localhost"
    user = "alice"
    password = "alicepw"

    def __init__(self, base: Path | None = None) -> None:
        self._own_base = base is None
        self.base = base or open_directory()
        self.ca_file = certificates().ca_file
        self.port = 0
        self.starttls_port = 0
        self.users: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            self.start()
            self.add_user(self.user)
        except BaseException:
            self.stop()
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            self.remove()

    # --- of each server -----------------------------------------------------------------------------------------

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def log(self) -> str:
        """What its processes said."""
        try:
            return (self.base / "log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def add_user(self, user: str, password: str | None = None) -> str:
        """Let `user` log in with `password`, and log what it sends. Returns its name."""
        raise NotImplementedError

    def client(self, user: str | None = None) -> Client:
        """A session of the tester as `user`, which does not show in `commands`."""
        raise NotImplementedError

    def sent(self, user: str | None = None) -> list[bytes]:
        """What each session of the user's programs sent after its login, since the last `forget_rawlog`."""
        raise NotImplementedError

    def forget_rawlog(self, user: str | None = None) -> None:
        """`sent`, `rawlog` and `commands` show only what is sent from now on."""
        raise NotImplementedError

    # --- what no client can do; `lacks` says what a server has no way to ----------------------------------------

    def kick(self, user: str | None = None) -> None:
        """End the sessions of a user, with a BYE where the server says one; AssertionError when there is none."""
        raise NotImplementedError

    def new_uidvalidity(self, user: str, mailbox: str = "INBOX") -> None:
        """Another UIDVALIDITY, the same UIDs where these have no gaps."""
        raise NotImplementedError

    def renumber(self, user: str) -> None:
        """The INBOX with another UIDVALIDITY, and UIDs from 1 up: what a server does that lost its index."""
        raise NotImplementedError

    def lose_modseq(self, user: str) -> None:
        """HIGHESTMODSEQ of the INBOX starts anew; its UIDVALIDITY and UIDs stay."""
        raise NotImplementedError

    def back_up(self, user: str, backup: Path) -> None:
        """Copy all that the server keeps of the user's INBOX to a new directory."""
        raise NotImplementedError

    def restore(self, user: str, backup: Path) -> None:
        raise NotImplementedError

    def set_quota(self, user: str, kilobytes: int) -> None:
        raise NotImplementedError

    def set_read_only(self, user: str, on: bool) -> None:
        """The INBOX may be read only, by access rights; or written again."""
        raise NotImplementedError

    def takes(self, body: bytes) -> bool:
        """Whether it stores such a message; it may refuse some."""
        return bool(body)

    def stored(self, body: bytes) -> bytes:
        """What it makes of a message that it takes, with LF."""
        return body

    def remote_name(self, mailbox: str) -> str:
        """How this server calls a mailbox of the tests, which know "/" as the delimiter and no prefix."""
        return mailbox

    @property
    def own_ports(self) -> tuple[int, int]:
        """Of the server itself: for TLS, and without, where STARTTLS may be offered; 0 where there is none."""
        return self.port, self.starttls_port

    # --- the same for all ---------------------------------------------------------------------------------------

    def remove(self) -> None:
        if self._own_base:
            shutil.rmtree(self.base, ignore_errors=True)

    def save(
        self,
        message: bytes,
        *,
        mailbox: str = "INBOX",
        flags: str = "",
        date: datetime | None = None,
        user: str | None = None,
    ) -> int:
        """APPEND one message (CRLF is made of LF); returns its UID."""
        with self.client(user) as client:
            return client.append(mailbox, message, flags, date)

    def snapshot(self, mailbox: str = "INBOX", *, user: str | None = None) -> Mapping[int, Remote]:
        """Every message of the mailbox by UID."""
        with self.client(user) as client:
            return client.snapshot(mailbox)

    def rawlog(self, user: str | None = None) -> list[bytes]:
        """Every line that the user's programs sent, oldest session first. Literals' lines are among them; LOGIN is
        not. Waits for the sessions to end first."""
        return [line.rstrip(b"\r") for sent in self.sent(user) for line in sent.split(b"\n") if line]

    def commands(self, user: str | None = None) -> list[str]:
        """What the user's programs sent, one string a command, without its tag and each literal as `(n bytes)`; without
        what a proxy sends by itself."""
        return [command for sent in self.sent(user) for command in _commands(sent)]

    def restart(self) -> None:
        """Stop and start again on the same ports, with the mail that is there."""
        self.stop()
        self.start()


_LITERAL = re.compile(rb"\{(\d+)\+?\}\r\n")


def _commands(sent: bytes) -> Iterator[str]:
    """Whole ones: a link that was cut leaves a part of a line, which no server acts on."""
    line, at = b"", 0
    while end := sent.find(b"\n", at) + 1:
        line += sent[at:end]
        at = end
        literal = _LITERAL.search(line, max(0, len(line) - 24))
        if literal and literal.end() == len(line):
            line = line[: literal.start()] + b"(" + literal[1] + b" bytes)"
            at += int(literal[1])
            continue
        tag, _, rest = line.strip().partition(b" ")
        if not tag.startswith(OWN_TAG):
            yield (rest or tag).decode("utf-8", "backslashreplace")
        line = b""


# --- starting one -------------------------------------------------------------------------------------------------


def certificates() -> Certificates:
    """The certificates of this test session; made once, also when a server and a client ask at the same time."""
    with _CERTIFICATES_LOCK:
        return _certificates()


@cache
def _certificates() -> Certificates:
    directory = open_directory("pushpull-certs-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return make_certificates(directory)


_CERTIFICATES_LOCK = threading.Lock()


def unpacked(name: str) -> Path:
    """The tree that contrib/get-server made of a server's packages."""
    tree = SERVERS / name
    if not (tree / "release").exists():
        raise RuntimeError(f"{tree} is not there; run: contrib/get-server {name}")
    return tree


def version(name: str) -> str:
    return (unpacked(name) / "version").read_text().strip()


def open_directory(prefix: str = "pushpull-") -> Path:
    """A fresh temporary directory that a server's users may enter (pytest's own are 0700)."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    path.chmod(0o755)
    return path


def mail_ids() -> tuple[int, int]:
    """uid and gid of the server's mail files."""
    if os.getuid() == 0:
        entry = pwd.getpwnam("mail")
        return entry.pw_uid, entry.pw_gid
    return os.getuid(), os.getgid()


def alive(pid: int) -> bool:
    """Running, and not just waiting for its parent to notice its end."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def started(pid: int) -> float:
    """When the process began, seconds since the epoch; never, if it is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return math.inf
    ticks = int(stat.rpartition(")")[2].split()[19])
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + ticks / os.sysconf("SC_CLK_TCK")


def end_session(leader: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session of its own, then what is left of the session."""
    leader.terminate()
    try:
        leader.wait(20)
    except subprocess.TimeoutExpired:
        leader.kill()
        leader.wait(20)
    left = [pid for pid in processes() if _session(pid) == leader.pid]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        try:
            wait_for(lambda: not any(alive(pid) for pid in left), what=f"the end of {left}", seconds=5)
        except AssertionError:
            continue
        return


def processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def free_ports(count: int) -> list[int]:
    ports: list[int] = []
    while len(ports) < count:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


def greets(port: int, *, tls: bool) -> bool:
    """A server answers there with an IMAP greeting."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as plain:
            if not tls:
                return plain.recv(1024).startswith(b"* OK")
            with context.wrap_socket(plain) as wrapped:
                return wrapped.recv(1024).startswith(b"* OK")
    except OSError:
        return False


def wait_for_greetings(*, tls_port: int, plain_port: int, what: str, detail: Callable[[], str]) -> None:
    wait_for(
        lambda: greets(plain_port, tls=False) and (not tls_port or greets(tls_port, tls=True)),
        what=f"{what}'s greeting",
        detail=detail,
    )
