# SPDX-License-Identifier: MIT
"""The tester's own IMAP client: what another mail program does, and a look at everything a mailbox holds."""

from __future__ import annotations

import base64
import imaplib
import re
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

_UID = re.compile(rb"\bUID (\d+)")
_FLAGS = re.compile(rb"\bFLAGS \(([^)]*)\)")
_DATE = re.compile(rb'INTERNALDATE "([^"]*)"')
_MODSEQ = re.compile(rb"MODSEQ \((\d+)\)")


@dataclass(frozen=True)
class Remote:
    """One message as the server shows it; `flags` without \\Recent, `date` aware, `body` with CRLF."""

    flags: frozenset[str]
    date: datetime
    body: bytes
    modseq: int


class Client:
    """A logged-in session; a context manager. Errors of the server are AssertionErrors with its words."""

    def __init__(
        self,
        port: int,
        ca_file: Path | None,
        user: str,
        password: str,
        remote_name: Callable[[str], str] = str,
    ) -> None:
        """Over TLS if there is a `ca_file`. `remote_name` gives a mailbox of the tests the name it has here."""
        self._imap = _connect(port, ca_file)
        self._name = remote_name
        self._imap.login(user, password)
        # After the login it may be another one.
        self.capabilities = frozenset(self._do(self._imap.capability())[-1].decode().upper().split())
        self._condstore = "CONDSTORE" in self.capabilities
        if self._condstore:
            self._imap.enable("CONDSTORE")

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._imap.logout()

    def create(self, mailbox: str) -> None:
        self._do(self._imap.create(self._quoted(mailbox)))

    def delete_mailbox(self, mailbox: str) -> None:
        self._do(self._imap.delete(self._quoted(mailbox)))

    def rename(self, old: str, new: str) -> None:
        self._do(self._imap.rename(self._quoted(old), self._quoted(new)))

    def append(self, mailbox: str, message: bytes, flags: str = "", date: datetime | None = None) -> int:
        """APPEND; bare LF becomes CRLF. Returns the UID."""
        uidnext = 0 if "UIDPLUS" in self.capabilities else self.status(mailbox)["UIDNEXT"]
        when = imaplib.Time2Internaldate(date or datetime.now(UTC))
        data = re.sub(rb"(?<!\r)\n", b"\r\n", message)
        # imaplib's append() rewrites every line end, also the stray ones that some tests are about.
        self._imap.literal = data  # type: ignore[assignment]
        tag = self._imap._command("APPEND", self._quoted(mailbox), f"({flags})", when)
        answer = self._do(self._imap._command_complete("APPEND", tag))
        if uidnext:
            if flags:  # such servers forget them
                self.add_flags(mailbox, [uidnext], flags)
            return uidnext
        found = re.search(rb"APPENDUID \d+ (\d+)", answer[0])
        assert found, f"no APPENDUID: {answer!r}"
        return int(found[1])

    def add_flags(self, mailbox: str, uids: Iterable[int], flags: str) -> None:
        self._store(mailbox, uids, "+FLAGS", flags)

    def remove_flags(self, mailbox: str, uids: Iterable[int], flags: str) -> None:
        self._store(mailbox, uids, "-FLAGS", flags)

    def expunge(self, mailbox: str, uids: Iterable[int]) -> None:
        """Delete messages for good, as another client's user would."""
        wanted = ",".join(map(str, uids))
        self._store(mailbox, wanted.split(","), "+FLAGS", "\\Deleted")
        self._do(self._imap.uid("EXPUNGE", wanted) if "UIDPLUS" in self.capabilities else self._imap.expunge())

    def status(self, mailbox: str) -> dict[str, int]:
        """MESSAGES, UIDNEXT, UIDVALIDITY and, with CONDSTORE, HIGHESTMODSEQ of a mailbox."""
        items = "MESSAGES UIDNEXT UIDVALIDITY" + " HIGHESTMODSEQ" * self._condstore
        answer = self._do(self._imap.status(self._quoted(mailbox), f"({items})"))
        words = answer[0].rpartition(b"(")[2].rstrip(b")").split()
        return {words[at].decode(): int(words[at + 1]) for at in range(0, len(words), 2)}

    def snapshot(self, mailbox: str) -> dict[int, Remote]:
        """Every message by UID. EXAMINE and PEEK: looking changes nothing."""
        self._select(mailbox, readonly=True)
        found: dict[int, Remote] = {}
        modseq = "MODSEQ " * self._condstore
        answer = self._do(self._imap.uid("FETCH", "1:*", f"(UID FLAGS INTERNALDATE {modseq}BODY.PEEK[])"))
        for at, part in enumerate(answer):
            if not isinstance(part, tuple):
                continue
            # Servers have their own order; some of it comes after the body.
            body = part[1]
            items = part[0] + (answer[at + 1] if isinstance(answer[at + 1], bytes) else b"")
            found[int(_need(_UID, items)[0])] = Remote(
                frozenset(name for name in _need(_FLAGS, items)[0].decode().split() if name != "\\Recent"),
                datetime.strptime(_need(_DATE, items)[0].decode().strip(), "%d-%b-%Y %H:%M:%S %z"),
                body,
                int(_need(_MODSEQ, items)[0]) if self._condstore else 0,
            )
        return found

    def command(self, name: str, *args: str) -> None:
        """Any other command of one line; must be answered OK."""
        tag = self._imap._command(name, *args)
        self._do(self._imap._command_complete(name, tag))

    def _store(self, mailbox: str, uids: Iterable[object], item: str, flags: str) -> None:
        self._select(mailbox)
        self._do(self._imap.uid("STORE", ",".join(str(uid) for uid in uids), item, f"({flags})"))

    def _select(self, mailbox: str, *, readonly: bool = False) -> None:
        # imaplib's own readonly flag raises on any later READ-ONLY code; the command names are enough here.
        self._imap.is_readonly = readonly
        self._do(self._imap.select(self._quoted(mailbox), readonly=readonly))

    def _quoted(self, mailbox: str) -> str:
        return _quoted(self._name(mailbox))

    @staticmethod
    def _do(answer: tuple[str, list[Any]]) -> list[Any]:
        assert answer[0] == "OK", f"the server says {answer}"
        return answer[1]


def _connect(port: int, ca_file: Path | None) -> imaplib.IMAP4:
    if not ca_file:
        return imaplib.IMAP4("localhost", port, timeout=30)
    context = ssl.create_default_context(cafile=str(ca_file))
    return imaplib.IMAP4_SSL("localhost", port, ssl_context=context, timeout=30)


def _quoted(name: str) -> str:
    """A mailbox name for the wire: modified UTF-7 (RFC 3501 section 5.1.3), quoted."""
    out: list[str] = []
    for run in re.findall(r"[\x20-\x7e]+|[^\x20-\x7e]+", name):
        if run.isascii() and run.isprintable():
            out.append(run.replace("&", "&-"))
        else:
            coded = run.encode("utf-16be")
            out.append("&" + base64.b64encode(coded, b"+,").decode().rstrip("=") + "-")
    text = "".join(out).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _need(pattern: re.Pattern[bytes], data: bytes) -> tuple[bytes, ...]:
    found = pattern.search(data)
    assert found, f"{pattern.pattern!r} not in {data!r}"
    return found.groups()
