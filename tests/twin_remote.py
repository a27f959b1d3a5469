# SPDX-License-Identifier: MIT
"""A server in memory, and the sessions that one run holds (`ports.Remote`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pushpull.dates import from_epoch
from pushpull.errors import ConnectionLost, MailboxMissing, PushpullError
from pushpull.flags import ALL, NONE, Flags
from pushpull.message import message_id
from pushpull.model import NEVER, Identity, MailboxState, ModSeq, RemoteView, Uid, UidSet
from pushpull.ports import Answer, Appended, Arrival, Message, Outgoing, Since, Vanished
from tests.twin_script import Clock, Mute, Script


@dataclass
class MemoryMessage:
    body: bytes  # CRLF
    flags: Flags
    keywords: tuple[str, ...]
    internaldate: str
    modseq: int


@dataclass
class MemoryServer:
    """One account with one mailbox. What `other clients` do is done by `add`, `change`, `expunge` and `renumber`."""

    clock: Clock = field(default_factory=Clock)
    mailbox: str = "INBOX"
    condstore: bool = True
    qresync: bool = True
    uidplus: bool = True
    multiappend: bool = True
    unasked: int = 1 << 18  # octets of a message that may come before anything was said to those before it
    tells_uidnext: bool = True
    forgetful: bool = False  # VANISHED names every UID that is not there, known or not
    refuses: Callable[[bytes], PushpullError | None] = lambda _body: None  # what it says to the upload of a message
    takes_some: bool = False  # of many messages in one command it keeps those before the one that it refuses
    mask: Flags = ALL
    uidvalidity: int = 1
    uidnext: int = 1
    modseq: int = 1
    messages: dict[int, MemoryMessage] = field(default_factory=dict)
    expunged: dict[int, int] = field(default_factory=dict)  # UID to MODSEQ

    def tick(self) -> int:
        self.modseq += 1
        return self.modseq

    def add(self, body: bytes, flags: Flags = NONE, keywords: tuple[str, ...] = (), internaldate: str = "") -> int:
        """A new message (CRLF line ends); returns its UID."""
        uid, self.uidnext = self.uidnext, self.uidnext + 1
        date = internaldate or from_epoch(self.clock() - 86400)
        self.messages[uid] = MemoryMessage(body, flags & self.mask, keywords, date, self.tick())
        return uid

    def change(self, uid: int, add: Flags = NONE, remove: Flags = NONE) -> None:
        message = self.messages[uid]
        flags = (message.flags & ~remove) | (add & self.mask)
        if flags != message.flags:
            message.flags, message.modseq = flags, self.tick()

    def expunge(self, uid: int) -> None:
        del self.messages[uid]
        self.expunged[uid] = self.tick()

    def renumber(self, *, lose_flags: bool = False) -> dict[int, int]:
        """A new UIDVALIDITY; returns the new UID of each old one."""
        fresh = {old: new for new, old in enumerate(sorted(self.messages), 1)}
        self.messages = {fresh[old]: self.messages[old] for old in sorted(self.messages)}
        self.uidvalidity, self.uidnext, self.expunged = self.uidvalidity + 1, len(fresh) + 1, {}
        for message in self.messages.values():
            message.modseq = self.tick()
            message.flags = NONE if lose_flags else message.flags
        return fresh

    def view(self, uid: int, *, modseq: bool) -> RemoteView:
        message = self.messages[uid]
        shown = ModSeq(message.modseq) if modseq else NEVER
        return RemoteView(Uid(uid), message.flags, message.keywords, shown)

    def identity(self, uid: int) -> Identity:
        message = self.messages[uid]
        return Identity(Uid(uid), len(message.body), message.internaldate, message_id(_header(message.body)))


def _header(body: bytes) -> bytes:
    end = body.find(b"\r\n\r\n")
    return body if end < 0 else body[: end + 4]


class MemoryOpening:
    """The answers after a SELECT, as they were then. They must be taken in their order."""

    def __init__(self, remote: MemoryRemote, state: MailboxState, since: Since | None) -> None:
        self.state = state
        self._remote, self._taken = remote, 0
        self._canary: tuple[Identity, ...] = ()
        self._arrived: list[Arrival] = []
        self._changed: list[RemoteView | Vanished] = []
        if since is not None and since.uidvalidity == state.uidvalidity:
            self._ask(remote, since)

    def _ask(self, remote: MemoryRemote, since: Since) -> None:
        server = remote.server
        self._canary = tuple(server.identity(uid) for uid in since.canary if uid in server.messages)
        self._arrived = [
            Arrival(server.view(uid, modseq=False), server.identity(uid))
            for uid in sorted(server.messages)
            if uid >= since.uidnext
        ]
        if since.modseq == NEVER or not remote.condstore:
            return
        gone = [uid for uid, modseq in server.expunged.items() if modseq > since.modseq]
        if server.forgetful:
            gone = [uid for uid in range(1, server.uidnext + 3) if uid not in server.messages]
        if remote.qresync and gone:
            self._changed.append(Vanished(UidSet.of(gone)))
        self._changed += [
            server.view(uid, modseq=True)
            for uid, message in sorted(server.messages.items())
            if message.modseq > since.modseq and (remote.qresync or uid < since.uidnext)
        ]

    def _turn(self, number: int) -> None:
        assert self._remote.opening is self, "another command was sent before this answer was taken"
        assert self._taken < number, "the answers to SELECT are taken out of their order"
        self._taken = number

    def canary(self) -> tuple[Identity, ...]:
        self._turn(1)
        self._remote.step("canary")
        return self._canary

    def arrived(self) -> Iterator[Arrival]:
        self._turn(2)
        for arrival in self._arrived:
            self._remote.step("arrived")
            yield arrival

    def changed(self) -> Iterator[RemoteView | Vanished]:
        self._turn(3)
        for change in self._changed:
            self._remote.step("changed")
            yield change


class MemoryRemote:
    """One session (`ports.Remote`). `attempted` tells whether an APPEND of these bytes was committed as attempted;
    a `strict` one is a fault of the test when it is used after the link was lost."""

    def __init__(
        self,
        server: MemoryServer,
        script: Script | None = None,
        attempted: Callable[[bytes], bool] | None = None,
        *,
        strict: bool = True,
    ) -> None:
        self.server = server
        self._strict = strict
        self.opening: MemoryOpening | None = None
        self._script = script or Script()
        self._attempted = attempted
        self._lost = self._closed = False
        self._selected = self._read_only = False
        self._known: frozenset[int] = frozenset()
        self._moved = False

    @property
    def condstore(self) -> bool:
        return self.server.condstore

    @property
    def qresync(self) -> bool:
        return self.server.condstore and self.server.qresync

    @property
    def exists(self) -> int:
        return len(self._known)

    @property
    def gmail(self) -> bool:
        return False

    def step(self, name: str) -> None:
        assert not self._closed, "used after close"
        if self._lost:
            assert not self._strict, "used after ConnectionLost"
            raise ConnectionLost("the link is lost")
        try:
            self._script.step(f"remote.{name}")
        except ConnectionLost:
            self._lost = True
            raise
        if self._selected:
            self._notice()

    def cut(self) -> None:
        self._lost, self._strict = True, False

    def _notice(self) -> None:
        """What the server tells with the answer to any command: EXISTS, VANISHED."""
        now = frozenset(self.server.messages)
        if now - self._known or self._known - now:
            self._moved = True
        self._known = now

    def _command(self, name: str) -> None:
        assert self._selected or name in ("open<", "status", "append<"), "no mailbox is selected"
        self.opening = None
        self.step(name)

    def open(self, mailbox: str, since: Since | None, *, read_only: bool = False) -> MemoryOpening:
        self._command("open<")
        server = self.server
        if mailbox != server.mailbox:
            raise MailboxMissing(f"no mailbox {mailbox}")
        self._selected, self._read_only = True, read_only
        self._known, self._moved = frozenset(server.messages), False
        state = MailboxState(
            uidvalidity=server.uidvalidity,
            uidnext=Uid(server.uidnext) if server.tells_uidnext else None,
            exists=len(server.messages),
            highestmodseq=ModSeq(server.modseq) if server.condstore else None,
            mask=server.mask,
            read_only=read_only,
        )
        self.opening = opening = MemoryOpening(self, state, since)
        self.step("open>")
        return opening

    def views(self, lo: Uid, hi: Uid | None) -> Iterator[RemoteView]:
        self._command("views")
        for uid in [uid for uid in sorted(self.server.messages) if lo <= uid and (hi is None or uid <= hi)]:
            self.step("view")
            if uid in self.server.messages:
                yield self.server.view(uid, modseq=self.condstore)

    def uids(self) -> UidSet | None:
        try:
            self._command("uids")
        except Mute:
            return None
        return UidSet.of(self.server.messages)

    def status(self, mailbox: str) -> MailboxState | None:
        try:
            self._command("status")
        except Mute:
            return None
        server = self.server
        if mailbox != server.mailbox:
            return None
        return MailboxState(server.uidvalidity, Uid(server.uidnext), len(server.messages))

    def expect(self, octets: int) -> None:
        self._command("expect")

    def moved(self) -> bool:
        moved, self._moved = self._moved, False
        return moved

    def catch_up(self) -> None:
        self._command("catch_up")

    def identities(self, uids: UidSet) -> Iterator[Identity]:
        self._command("identities")
        for uid in uids:
            if uid in self.server.messages:
                yield self.server.identity(uid)
                self.step("identity")

    def headers(self, uids: UidSet) -> Iterator[tuple[Uid, bytes]]:
        self._command("headers")
        for uid in uids:
            if uid in self.server.messages:
                yield uid, _header(self.server.messages[uid].body)
                self.step("header")

    def messages(self, uids: Sequence[Uid], more: Callable[[], Sequence[Uid]] | None = None) -> Iterator[Message]:
        self._command("messages")
        waiting = sorted(set(uids))
        while True:
            if more is not None and len(waiting) <= 1:
                waiting += sorted(set(more()))
            if not waiting:
                return
            uid = waiting.pop(0)
            message = self.server.messages.get(uid)
            if message is not None:
                view = self.server.view(uid, modseq=self.condstore)
                yield Message(view, message.internaldate, len(message.body), self._literal(message.body))
            self.step("message")

    def _literal(self, body: bytes) -> Iterator[bytes]:
        """In pieces that cut line ends in two."""
        cut = body.find(b"\r\n", len(body) // 2) + 1
        for piece in (body[:cut], body[cut:]):
            self.step("literal")
            if piece:
                yield piece

    def store(self, uids: UidSet, *, add: Flags, remove: Flags) -> dict[Uid, RemoteView]:
        assert bool(add) != bool(remove), "one of add and remove"
        assert not self._read_only
        self._command("store<")
        shown = {}
        for uid in uids:
            if uid in self.server.messages:
                self._script.changes.append(f"store {uid} +{add} -{remove}")
                self.server.change(uid, add, remove)
                shown[uid] = self.server.view(uid, modseq=self.condstore)
                self.step("store>")
        return shown

    @property
    def multiappend(self) -> bool:
        return self.server.multiappend

    def unasked(self, size: int) -> bool:
        return size <= self.server.unasked

    def append(
        self, mailbox: str, messages: Sequence[Outgoing], meanwhile: Callable[[], None] | None = None
    ) -> Iterator[Answer]:
        """All that goes unasked is on the server before anything is heard of the first."""
        ahead: list[Answer] = []
        for message in messages:
            if not self.unasked(message.size):
                yield from self._answers(ahead)
            missing = self._begin_append(mailbox)
            ahead.append(missing or self._store_appended(message))
        if meanwhile is not None:
            meanwhile()
        yield from self._answers(ahead)

    def append_all(
        self, mailbox: str, messages: Sequence[Outgoing], meanwhile: Callable[[], None] | None = None
    ) -> Sequence[Appended]:
        assert self.multiappend, "the server has no MULTIAPPEND"
        assert all(self.unasked(message.size) for message in messages), "a literal that has to wait"
        if missing := self._begin_append(mailbox):
            raise missing
        refusals = [self.server.refuses(b"".join(message.chunks)) for message in messages]
        error = next(filter(None, refusals), None)
        if error is not None and not self.server.takes_some:
            raise error
        done = []
        for message, refusal in zip(messages, refusals, strict=True):
            if refusal is not None:
                raise refusal
            answer = self._store_appended(message)
            assert isinstance(answer, Appended)
            done.append(answer)
        if meanwhile is not None:
            meanwhile()
        self.step("append>")
        return done

    def _begin_append(self, mailbox: str) -> MailboxMissing | None:
        assert not self._read_only
        self._command("append<")
        return None if mailbox == self.server.mailbox else MailboxMissing(f"no mailbox {mailbox}")

    def _store_appended(self, message: Outgoing) -> Answer:
        body = b"".join(message.chunks)
        if len(body) != message.size:
            self._lost = True
            raise ConnectionLost("the literal has another length than was announced")
        assert self._attempted is None or self._attempted(body), "APPEND without a committed attempt"
        refusal = self.server.refuses(body)
        if refusal is not None:
            return refusal
        self._script.changes.append(f"append {message.flags}")
        uid = self.server.add(body, message.flags, tuple(message.keywords), message.internaldate)
        return Appended(Uid(uid), self.server.uidvalidity) if self.server.uidplus else Appended(None)

    def _answers(self, ahead: list[Answer]) -> Iterator[Answer]:
        while ahead:
            self.step("append>")
            yield ahead.pop(0)

    def close(self) -> None:
        self._closed = True
