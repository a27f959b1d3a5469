# SPDX-License-Identifier: MIT
"""The server of all examples, and another client that stays connected to it.

Everything is in memory (/dev/shm), which keeps the semantics of renames and flushes and costs no disk. Each example has
a mailbox of its own. Sessions of the program are processes of Dovecot's that end with their link, so one can wait until
nothing that a cut link left behind is still at work.
"""

from __future__ import annotations

import imaplib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from pushpull.flags import Flags, from_imap
from tests.support.client import Client
from tests.support.dovecot import Dovecot
from tests.support.waiting import wait_for

T = TypeVar("T")

USER = "model"
LABEL = "$Label1"
_SETTINGS = """
mail_max_userip_connections = 200
service imap {
  process_limit = 200
}
"""


@dataclass(frozen=True)
class Shown:
    """One message as the server shows it."""

    flags: Flags
    keywords: tuple[str, ...]
    body: bytes


class Other(Client):
    """Another mail program. It keeps its connection, and selects a mailbox for each thing that it does."""

    def __init__(self, port: int, user: str, password: str) -> None:
        """Without TLS: one thing less that a thread or a fork could disturb."""
        super().__init__(port, None, user, password)
        self._login = port, user, password

    def reconnect(self) -> None:
        """Dovecot remembers in a session what a mailbox was before it was made anew."""
        self.logout()
        self.__init__(*self._login)  # type: ignore[misc]

    def messages(self, mailbox: str) -> dict[int, Shown]:
        return self._afresh_if_broken(lambda: self._messages(mailbox))

    def append(self, mailbox: str, message: bytes, flags: str = "", date: datetime | None = None) -> int:
        return self._afresh_if_broken(lambda: super(Other, self).append(mailbox, message, flags, date))

    def _afresh_if_broken(self, act: Callable[[], T]) -> T:
        """Again in a new session when this one stumbles over a mailbox that was made anew; it was refused then."""
        try:
            return act()
        except AssertionError as error:
            if not re.search("SERVERBUG|deleted under us", str(error)):
                raise
            self.reconnect()
            return act()

    def _messages(self, mailbox: str) -> dict[int, Shown]:
        found = {}
        for uid, message in self.snapshot(mailbox).items():
            flags, keywords = from_imap(message.flags)
            found[uid] = Shown(flags, keywords, message.body)
        return found

    def move(self, source: str, uid: int, target: str) -> None:
        self._select(source)
        self._do(self._imap.uid("MOVE", str(uid), f'"{target}"'))

    def copy(self, source: str, uids: str, target: str) -> None:
        self._select(source)
        self._do(self._imap.uid("COPY", uids, f'"{target}"'))

    def strip(self, mailbox: str) -> None:
        """Take all flags off all messages."""
        self._select(mailbox)
        self._do(self._imap.uid("STORE", "1:*", "FLAGS.SILENT", "()"))

    def leave(self) -> None:
        """No mailbox is selected: what is deleted or renumbered must not be."""
        if self._imap.state == "SELECTED":
            self._do(self._imap.unselect())

    def logout(self) -> None:
        with suppress(OSError, imaplib.IMAP4.error):  # the server may have ended it
            self._imap.logout()


@dataclass
class Place:
    """Context manager: a Dovecot in memory, and the other client."""

    base: Path = field(init=False)
    server: Dovecot = field(init=False)
    other: Other = field(init=False)
    examples: int = 0
    renumberings: int = 0
    _no_sessions: set[str] = field(default_factory=set)  # pids of Dovecot's that are other kinds of processes

    def __enter__(self) -> Place:
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.base = Path(tempfile.mkdtemp(prefix="pushpull-model-", dir=memory))
        self.base.chmod(0o755)
        mail = self.base / "server"
        mail.mkdir(mode=0o755)
        self.server = Dovecot(mail, _SETTINGS)
        try:
            self.server.__enter__()
            self.other = Other(self.server.starttls_port, f"{USER}*tester", self.server.password)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.other.logout()
        self.server.__exit__(kind, error, trace)
        self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.base, ignore_errors=True)

    def wait_for_sessions(self) -> None:
        """Until no session is left whose link is not whole: what a cut link had sent is done, or never will be."""
        wait_for(
            lambda: self._sessions() <= 1 or self._sessions() <= _links_to(self.server.starttls_port),
            what="the end of the program's sessions",
            detail=self.server.log,
        )

    def _sessions(self) -> int:
        master = self.server._master_pid()
        children = set(Path(f"/proc/{master}/task/{master}/children").read_text("ascii").split())
        self._no_sessions &= children
        return sum(self._is_session(pid) for pid in children - self._no_sessions)

    def _is_session(self, pid: str) -> bool:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
        except (FileNotFoundError, ProcessLookupError):
            return False
        name, _, rest = stat.partition("(")[2].rpartition(")")
        if name not in ("imap", "dovecot"):  # what it will be does not change after its exec
            self._no_sessions.add(pid)
        return name == "imap" and rest.split()[0] != "Z"


def _links_to(port: int) -> int:
    """How many established connections to a port of this machine there are."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        entries = [line.split()[1:4] for line in file]
    return sum(remote.endswith(f":{port:04X}") and state == "01" for _, remote, state in entries[1:])
