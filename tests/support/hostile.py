# SPDX-License-Identifier: MIT
"""A scripted IMAP server on loopback: honest by itself, over a mailbox in memory, and it lies on demand.

    with Hostile() as server:
        server.put(mail("A"))
        server.lie(rb"UID SEARCH", lambda asked: [b"* SEARCH\\r\\n", asked.tagged])

A lie is asked when a command matches (searched in the line without its tag) and gives what goes out instead of the
honest answer: octets, piece by piece, also without end. Everything the program sent is in `heard`.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from tests.support.client import Remote
from tests.support.messages import crlf
from tests.support.server import certificates

CAPABILITY = b"IMAP4rev1 SASL-IR ID ENABLE IDLE UIDPLUS LITERAL+ CONDSTORE QRESYNC ESEARCH AUTH=PLAIN"
DATE = datetime(2003, 2, 1, 1, 2, 3, tzinfo=UTC)
_SYSTEM = rb"\Answered \Flagged \Deleted \Seen \Draft"
_LITERAL = re.compile(rb"\{(\d+)(\+?)\}$")
_MESSAGE_ID = re.compile(rb"(?im)^message-id:.*\r\n")


@dataclass
class Asked:
    """One command, and what an honest server says to it."""

    tag: bytes
    text: bytes
    honest: list[bytes]  # the lines, with literals in them; the last is the tagged one

    @property
    def tagged(self) -> bytes:
        return self.honest[-1]

    @property
    def untagged(self) -> list[bytes]:
        return self.honest[:-1]


def drip(octets: Iterable[bytes]) -> Iterator[bytes]:
    """One octet now and then, sooner than a timeout: the pace of the server, for which nobody waits."""
    for octet in octets:
        yield octet
        time.sleep(0.3)


def silent() -> Iterator[None]:
    """Says nothing any more, until the program has left."""
    yield None


Lie = Callable[[Asked], Iterable[bytes | None]]


@dataclass
class Kept:
    """A message on the server."""

    body: bytes
    flags: set[bytes]
    modseq: int


@dataclass
class Rule:
    """`skip` commands that match are answered honestly first, then `count` are lied to."""

    pattern: re.Pattern[bytes]
    lie: Lie
    skip: int = 0
    count: int = 1 << 30
    hits: int = 0

    def takes(self, text: bytes) -> bool:
        if not self.pattern.search(text) or self.hits >= self.skip + self.count:
            return False
        self.hits += 1
        return self.hits > self.skip


class Hostile:
    """Context manager; `port` speaks TLS from the first octet."""

    host = "localhost"
    password = "alicepw"

    def __init__(self) -> None:
        self.users: dict[str, str] = {}
        self.port = 0
        self.uidvalidity, self.uidnext, self.modseq = 7, 1, 1
        self.kept: dict[int, Kept] = {}
        self.greeting: Iterable[bytes] = [b"* OK [CAPABILITY " + CAPABILITY + b"] at your service\r\n"]
        self.capability = CAPABILITY
        self.heard: list[bytes] = []
        self.rules: list[Rule] = []
        self.connections = 0
        self.done = threading.Event()  # for lies without end
        self._lock = threading.RLock()
        self._links: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    @property
    def ca_file(self) -> Path:
        return certificates().ca_file

    # --- what a test says and asks ------------------------------------------------------------------------------

    def put(self, message: bytes, *flags: bytes) -> int:
        """Another client's delivery; returns the UID."""
        with self._lock:
            uid, self.uidnext, self.modseq = self.uidnext, self.uidnext + 1, self.modseq + 1
            self.kept[uid] = Kept(crlf(message), set(flags), self.modseq)
            return uid

    def lie(self, pattern: bytes, lie: Lie, *, skip: int = 0, count: int = 1 << 30) -> Rule:
        rule = Rule(re.compile(pattern, re.IGNORECASE), lie, skip, count)
        self.rules.append(rule)
        return rule

    def be_honest(self) -> None:
        """From now on, with every link cut."""
        self.rules.clear()
        self.greeting = [b"* OK [CAPABILITY " + CAPABILITY + b"] at your service\r\n"]
        self.capability = CAPABILITY
        self.cut()

    def cut(self) -> None:
        self.done.set()
        for link in list(self._links):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        self.done = threading.Event()

    def snapshot(self, mailbox: str = "INBOX", *, user: str | None = None) -> Mapping[int, Remote]:
        del mailbox, user
        with self._lock:
            return {
                uid: Remote(frozenset(flag.decode() for flag in kept.flags), DATE, kept.body, kept.modseq)
                for uid, kept in self.kept.items()
            }

    def commands(self, user: str | None = None) -> list[str]:
        del user
        return [line.decode("latin-1") for line in self.heard]

    def forget_rawlog(self, user: str | None = None) -> None:
        del user
        self.heard.clear()

    def remote_name(self, mailbox: str) -> str:
        return mailbox

    # --- the server ---------------------------------------------------------------------------------------------

    def __enter__(self) -> Hostile:
        self._tls = certificates().server_context()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._accepting.join(10)
        self._server.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(link,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, link: socket.socket) -> None:
        self._links.add(link)
        with contextlib.suppress(OSError, EOFError):
            link.settimeout(60)
            with self._tls.wrap_socket(link, server_side=True) as secured:
                self._links.add(secured)
                try:
                    _Talk(self, secured).run()
                    # Whatever is under way arrives before the end.
                    with contextlib.suppress(OSError):
                        secured.unwrap()
                finally:
                    self._links.discard(secured)
        self._links.discard(link)
        link.close()

    # --- honest answers -----------------------------------------------------------------------------------------

    def answer(self, tag: bytes, text: bytes, literal: bytes) -> list[bytes]:
        words = text.split(b" ")
        verb = words[0].upper()
        if verb == b"UID":
            verb += b"_" + words[1].upper()
        method = getattr(self, "_" + verb.decode("ascii", "replace").lower(), None)
        if method is None:
            return [tag + b" BAD unknown\r\n"]
        with self._lock:
            lines = [*method(tag, text, literal)]
        if not lines or not lines[-1].startswith(tag + b" "):
            lines.append(tag + b" OK done\r\n")
        return lines

    def _capability(self, *_: bytes) -> Iterator[bytes]:
        yield b"* CAPABILITY " + self.capability + b"\r\n"

    def _login(self, tag: bytes, *_: bytes) -> Iterator[bytes]:
        yield tag + b" OK [CAPABILITY " + self.capability + b"] Logged in\r\n"

    def _id(self, *_: bytes) -> Iterator[bytes]:
        yield b'* ID ("name" "hostile")\r\n'

    def _enable(self, _: bytes, text: bytes, __: bytes) -> Iterator[bytes]:
        yield b"* ENABLED " + text.partition(b" ")[2] + b"\r\n"

    def _noop(self, *_: bytes) -> Iterator[bytes]:
        yield from ()

    def _logout(self, *_: bytes) -> Iterator[bytes]:
        yield b"* BYE bye\r\n"

    def _select(self, tag: bytes, *_: bytes) -> Iterator[bytes]:
        yield b"* FLAGS (" + _SYSTEM + b")\r\n"
        yield b"* OK [PERMANENTFLAGS (" + _SYSTEM + rb" \*)] limited" + b"\r\n"
        yield b"* %d EXISTS\r\n" % len(self.kept)
        yield b"* OK [UIDVALIDITY %d] ok\r\n" % self.uidvalidity
        yield b"* OK [UIDNEXT %d] ok\r\n" % self.uidnext
        yield b"* OK [HIGHESTMODSEQ %d] ok\r\n" % self.modseq
        yield tag + b" OK [READ-WRITE] selected\r\n"

    _examine = _select

    def _status(self, _: bytes, text: bytes, __: bytes) -> Iterator[bytes]:
        counts = (len(self.kept), self.uidnext, self.uidvalidity, len(self.kept), self.modseq)
        yield b"* STATUS INBOX (MESSAGES %d UIDNEXT %d UIDVALIDITY %d UNSEEN %d HIGHESTMODSEQ %d)\r\n" % counts

    def _uid_search(self, tag: bytes, text: bytes, _: bytes) -> Iterator[bytes]:
        uids = sorted(self.kept)
        if b"RETURN" in text.upper():
            listed = b" ALL " + b",".join(b"%d" % uid for uid in uids) if uids else b""
            yield b'* ESEARCH (TAG "' + tag + b'") UID' + listed + b"\r\n"
        else:
            yield b"* SEARCH" + b"".join(b" %d" % uid for uid in uids) + b"\r\n"

    def _uid_fetch(self, _: bytes, text: bytes, __: bytes) -> Iterator[bytes]:
        _, _, uids, rest = text.split(b" ", 3)
        since = re.search(rb"CHANGEDSINCE (\d+)", rest)
        for number, uid in enumerate(sorted(self.kept), 1):
            kept = self.kept[uid]
            if uid in self._uids(uids) and (since is None or kept.modseq > int(since[1])):
                yield self.fetch_line(number, uid, rest, since is not None)

    def fetch_line(self, number: int, uid: int, items: bytes, modseq: bool = False) -> bytes:
        """`* n FETCH (...)` with what `items` names."""
        kept = self.kept[uid]
        shown = [b"UID %d" % uid]
        if b"FLAGS" in items:
            shown.append(b"FLAGS (" + b" ".join(sorted(kept.flags)) + b")")
        if b"MODSEQ" in items or modseq:
            shown.append(b"MODSEQ (%d)" % kept.modseq)
        if b"INTERNALDATE" in items:
            shown.append(b'INTERNALDATE "01-Feb-2003 01:02:03 +0000"')
        if b"RFC822.SIZE" in items:
            shown.append(b"RFC822.SIZE %d" % len(kept.body))
        head = kept.body.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        if b"HEADER.FIELDS" in items:
            found = _MESSAGE_ID.search(head)
            fields = (found[0] if found else b"") + b"\r\n"
            shown.append(b"BODY[HEADER.FIELDS (MESSAGE-ID)] {%d}\r\n" % len(fields) + fields)
        elif b"[HEADER]" in items:
            shown.append(b"BODY[HEADER] {%d}\r\n" % len(head) + head)
        if b"PEEK[]" in items:
            shown.append(b"BODY[] {%d}\r\n" % len(kept.body) + kept.body)
        return b"* %d FETCH (" % number + b" ".join(shown) + b")\r\n"

    def _uid_store(self, _: bytes, text: bytes, __: bytes) -> Iterator[bytes]:
        _, _, uids, item, names = text.split(b" ", 4)
        flags = set(names.strip(b"()").split())
        self.modseq += 1
        for number, uid in enumerate(sorted(self.kept), 1):
            if uid in self._uids(uids):
                kept = self.kept[uid]
                kept.flags = kept.flags | flags if item.startswith(b"+") else kept.flags - flags
                kept.modseq = self.modseq
                yield self.fetch_line(number, uid, b"FLAGS MODSEQ")

    def _append(self, tag: bytes, text: bytes, literal: bytes) -> Iterator[bytes]:
        flags = re.search(rb"\(([^)]*)\)", text)
        uid = self.put(literal, *(flags[1].split() if flags else ()))
        yield tag + b" OK [APPENDUID %d %d] stored\r\n" % (self.uidvalidity, uid)

    def _uids(self, text: bytes) -> set[int]:
        found: set[int] = set()
        for piece in text.split(b","):
            lo, _, hi = piece.partition(b":")
            top = max(self.kept, default=0)
            ends = sorted(top if end == b"*" else int(end) for end in (lo, hi or lo))
            found |= {uid for uid in self.kept if ends[0] <= uid <= ends[1]}
        return found


@dataclass
class _Talk:
    """One connection."""

    server: Hostile
    sock: ssl.SSLSocket
    _rest: bytearray = field(default_factory=bytearray)

    def run(self) -> None:
        self._say(self.server.greeting)
        while True:
            tag, _, text = self._line().partition(b" ")
            literal = b""
            if found := _LITERAL.search(text):
                if not found[2]:
                    self.sock.sendall(b"+ go on\r\n")
                literal = self._octets(int(found[1]))
                self._line()
            self.server.heard.append(text)
            rule = next((rule for rule in self.server.rules if rule.takes(text)), None)
            if text.upper() == b"IDLE" and rule is None:
                self._idle(tag)
                continue
            honest = self.server.answer(tag, text, literal) if text.upper() != b"IDLE" else [tag + b" OK idled\r\n"]
            self._say(honest if rule is None else rule.lie(Asked(tag, text, honest)))
            if text.upper() == b"LOGOUT":
                return

    def _say(self, pieces: Iterable[bytes | None]) -> None:
        for piece in pieces:
            while piece is None:
                self._receive()
            self.sock.sendall(piece)

    def _idle(self, tag: bytes) -> None:
        self.sock.sendall(b"+ idling\r\n")
        if self._line().upper() == b"DONE":
            self.sock.sendall(tag + b" OK idled\r\n")

    def _line(self) -> bytes:
        while b"\r\n" not in self._rest:
            self._receive()
        line, _, rest = bytes(self._rest).partition(b"\r\n")
        self._rest[:] = rest
        return line

    def _octets(self, count: int) -> bytes:
        while len(self._rest) < count:
            self._receive()
        data = bytes(self._rest[:count])
        del self._rest[:count]
        return data

    def _receive(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError
        self._rest += data
