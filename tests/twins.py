# SPDX-License-Identifier: MIT
"""In-memory twins of both sides, strict about how they are used, and a script of what goes wrong when.

`MemoryServer` and `MemoryFolder` outlive a run; other clients and the user work on them directly. `MemoryRemote` and
`MemoryLocal` are what one run of the engine holds (`ports.Remote`, `ports.Local`). Every call is a numbered step of
the `Script`, before and after its effect, so that a fault, an edit by somebody else, or a kill can happen at any step.

The contract suites in tests/contract run against these and against the real ones.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from pushpull.dates import from_epoch
from pushpull.errors import ConnectionLost, LocalDiskError, MailboxMissing, MessageError
from pushpull.filenames import flags_of, split, with_flags
from pushpull.flags import ALL, NONE, Flags
from pushpull.message import fingerprint, message_id
from pushpull.model import (
    NEVER,
    FileStamp,
    Fingerprint,
    Identity,
    LocalFile,
    MailboxState,
    Marker,
    ModSeq,
    RemoteView,
    Scan,
    Uid,
    UidSet,
    Uniquename,
)
from pushpull.ports import Appended, Arrival, Delivery, Message, Since, Vanished


class Killed(BaseException):
    """The process is dead: nothing that it still runs has any effect."""


class Mute(Exception):
    """The server gives no usable answer to a question that may stay unanswered (`uids`, `status`)."""


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        assert 0 <= seconds < 3600
        self.now += seconds


class Script:
    """The steps of a run, numbered from 0; `events` run when their step is reached. `changes` are the effects that the
    program had on either side."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.events: dict[int, Callable[[str], None]] = {}
        self.changes: list[str] = []
        self.dead = False

    def step(self, name: str) -> None:
        """One point of the run, such as "remote.append<" (before its effect) or "local.deliver>" (after it)."""
        if self.dead:
            raise Killed
        number = len(self.steps)
        self.steps.append(name)
        event = self.events.get(number)
        if event is not None:
            event(name)

    def kill(self, _name: str = "") -> None:
        self.dead = True
        raise Killed


# --- remote ----------------------------------------------------------------------------------------------------------


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
    tells_uidnext: bool = True
    forgetful: bool = False  # VANISHED names every UID that is not there, known or not
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

    def moved(self) -> bool:
        moved, self._moved = self._moved, False
        return moved

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

    def messages(self, uids: Sequence[Uid]) -> Iterator[Message]:
        self._command("messages")
        for uid in sorted(set(uids)):
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

    def append(
        self,
        mailbox: str,
        flags: Flags,
        keywords: Sequence[str],
        internaldate: str,
        size: int,
        chunks: Iterable[bytes],
    ) -> Appended:
        assert not self._read_only
        self._command("append<")
        if mailbox != self.server.mailbox:
            raise MailboxMissing(f"no mailbox {mailbox}")
        body = b"".join(chunks)
        if len(body) != size:
            self._lost = True
            raise ConnectionLost("the literal has another length than was announced")
        assert self._attempted is None or self._attempted(body), "APPEND without a committed attempt"
        self._script.changes.append(f"append {flags}")
        uid = self.server.add(body, flags, tuple(keywords), internaldate)
        self.step("append>")
        return Appended(Uid(uid), self.server.uidvalidity) if self.server.uidplus else Appended(None)

    def close(self) -> None:
        self._closed = True


# --- local -----------------------------------------------------------------------------------------------------------


@dataclass
class MemoryFile:
    data: bytes
    mtime_ns: int
    inode: int
    unreadable: bool = False


@dataclass
class MemoryFolder:
    """One Maildir folder; paths are relative to it. What the user does is done by `put`, `remove` and `rename`."""

    clock: Clock = field(default_factory=Clock)
    directories: set[bytes] = field(default_factory=set)
    files: dict[bytes, MemoryFile] = field(default_factory=dict)  # tmp/ too
    marker: Marker | None = None
    busy_scans: int = 0  # so many scans show that a directory changed meanwhile
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def put(self, path: bytes, data: bytes) -> None:
        old = self.files.get(path)
        directory = path.rpartition(b"/")[0]
        while directory:
            self.directories.add(directory)
            directory = directory.rpartition(b"/")[0]
        number = next(self.numbers)
        inode = number if old is None else old.inode
        self.files[path] = MemoryFile(data, int(self.clock() * 1000) * 1_000_000 + number, inode)

    def remove(self, path: bytes) -> None:
        del self.files[path]

    def rename(self, old: bytes, new: bytes) -> None:
        self.files[new] = self.files.pop(old)

    def copy(self) -> MemoryFolder:
        files = {path: replace(file) for path, file in self.files.items()}
        return replace(self, directories=set(self.directories), files=files)

    def restore(self, older: MemoryFolder) -> None:
        copy = older.copy()
        self.directories, self.files, self.marker = copy.directories, copy.files, copy.marker


def local_file(path: bytes) -> LocalFile:
    directory, _, name = path.rpartition(b"/")
    uniquename, info = split(name)
    return LocalFile(uniquename, directory.decode(), info, flags_of(info))


def _mail_directory(directory: bytes) -> bool:
    bucket, _, leaf = directory.rpartition(b"/")
    return leaf in (b"new", b"cur") and (not bucket or (len(bucket) == 2 and set(bucket) <= set(b"0123456789abcdef")))


class MemoryStaged:
    """A message in tmp/ (`ports.StagedFile`)."""

    def __init__(self, local: MemoryLocal, path: bytes, shown: Fingerprint) -> None:
        self.path, self.fingerprint, self.delivered = path, shown, False
        self._local = local

    def chunks(self) -> Iterator[bytes]:
        yield self._local.folder.files[self.path].data

    def discard(self) -> None:
        if not self.delivered and not self._local.script.dead:
            self._local.folder.files.pop(self.path, None)


class MemoryLocal:
    """One run's hold on a folder (`ports.Local`)."""

    def __init__(self, folder: MemoryFolder, script: Script | None = None) -> None:
        self.folder = folder
        self.script = script or Script()
        self._unsynced = False

    def _step(self, name: str) -> None:
        self.script.step(f"local.{name}")

    # --- the folder ----------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        return bool({b"new", b"cur"} & self.folder.directories)

    def has(self, directory: str) -> bool:
        return directory.encode() in self.folder.directories

    def create(self) -> None:
        missing = {b"tmp", b"new", b"cur"} - self.folder.directories
        if missing:
            self._step("create<")
            self.script.changes.append("create")
            self.folder.directories |= missing

    def _demand(self) -> None:
        if not self.folder.directories:
            raise LocalDiskError("the folder is missing")

    def read_marker(self) -> Marker | None:
        self._step("read_marker")
        return self.folder.marker

    def write_marker(self, marker: Marker) -> None:
        self._step("write_marker<")
        self._demand()
        self.script.changes.append(f"marker {marker.generation}")
        self.folder.marker = marker
        self._step("write_marker>")

    def scan(self) -> Scan:
        self._step("scan")
        for name in (b"new", b"cur"):
            if name not in self.folder.directories:
                raise LocalDiskError(f"{name.decode()}: is missing")
        moved, self.folder.busy_scans = self.folder.busy_scans > 0, max(0, self.folder.busy_scans - 1)
        files: dict[Uniquename, LocalFile] = {}
        strangers: dict[bytes, str] = {}
        for path in sorted(self.folder.files, key=lambda path: (b"new/" in path, path)):
            self._meet(path, files, strangers)
        return Scan(files, moved, tuple(strangers.items()))

    def _meet(self, path: bytes, files: dict[Uniquename, LocalFile], strangers: dict[bytes, str]) -> None:
        directory, _, name = path.rpartition(b"/")
        above = directory.rpartition(b"/")[0]
        if _mail_directory(above):
            strangers[directory] = "a directory"
        elif _mail_directory(directory) and not name.startswith(b"."):
            file = local_file(path)
            if not file.uniquename:
                strangers[path] = "nothing before the ':' of its name"
            elif file.uniquename in files:
                strangers[path] = "a second name with that uniquename"
            else:
                files[file.uniquename] = file

    def find(self, uniquename: Uniquename) -> LocalFile | None:
        self._step("find")
        return self._where(uniquename)

    def _where(self, uniquename: Uniquename) -> LocalFile | None:
        files: dict[Uniquename, LocalFile] = {}
        for path in sorted(self.folder.files, key=lambda path: (b"new/" in path, path)):
            self._meet(path, files, {})
        return files.get(uniquename)

    # --- reading -------------------------------------------------------------------------------------------------

    def _chase(self, file: LocalFile) -> LocalFile | None:
        return file if file.path in self.folder.files else self._where(file.uniquename)

    def open_message(self, file: LocalFile) -> tuple[io.BytesIO, FileStamp] | None:
        self._step("open_message")
        current = self._chase(file)
        if current is None:
            return None
        held = self.folder.files[current.path]
        if held.unreadable:
            raise MessageError("permission denied")
        return io.BytesIO(held.data), _stamp(held)

    def fingerprint(self, file: LocalFile) -> tuple[Fingerprint, FileStamp] | None:
        opened = self.open_message(file)
        return None if opened is None else (fingerprint([opened[0].read()]), opened[1])

    def stamp(self, file: LocalFile) -> FileStamp | None:
        self._step("stamp")
        current = self._chase(file)
        return None if current is None else _stamp(self.folder.files[current.path])

    # --- delivering ----------------------------------------------------------------------------------------------

    def stage(self, chunks: Iterable[bytes]) -> MemoryStaged:
        self._step("stage<")
        self._demand()
        wire = b"".join(chunks)
        path = b"tmp/pushpull-%d" % next(self.folder.numbers)
        self.folder.put(path, wire.replace(b"\r\n", b"\n"))
        self._step("stage>")
        return MemoryStaged(self, path, fingerprint([wire]))

    def deliver(self, deliveries: Sequence[Delivery]) -> list[LocalFile]:
        placed = []
        try:
            self._step("deliver<")
            for delivery in deliveries:
                placed.append(self._place(delivery))
                self._step("deliver>")
        except BaseException:
            for delivery in deliveries:
                delivery.staged.discard()
            raise
        return placed

    def _place(self, delivery: Delivery) -> LocalFile:
        staged = delivery.staged
        assert isinstance(staged, MemoryStaged), "a folder delivers what it staged"
        assert not staged.delivered, "delivered twice"
        info = with_flags(b"", delivery.flags, NONE)
        path = (b"cur/" if info else b"new/") + b"%d.twin" % next(self.folder.numbers) + info
        self.script.changes.append(f"deliver {path.decode()}")
        self.folder.rename(staged.path, path)
        staged.delivered = True
        file = self.folder.files[path]
        if math.isfinite(delivery.mtime) and abs(delivery.mtime) < 1e12:
            file.mtime_ns = int(delivery.mtime * 1000) * 1_000_000
        return local_file(path)

    # --- renaming ------------------------------------------------------------------------------------------------

    def set_flags(self, file: LocalFile, add: Flags, remove: Flags) -> LocalFile | None:
        self._step("set_flags<")
        current = self._chase(file)
        if current is None:
            return None
        info = with_flags(current.info, add, remove)
        if info == current.info:
            return current
        directory = current.directory.removesuffix("new").removesuffix("cur") + "cur"
        renamed = LocalFile(current.uniquename, directory, info, flags_of(info))
        if renamed.path in self.folder.files:
            raise MessageError("two files of one name")
        self.script.changes.append(f"rename {current.path!r} {renamed.path!r}")
        self.folder.rename(current.path, renamed.path)
        self._unsynced = True
        self._step("set_flags>")
        return renamed

    def sync_renames(self) -> None:
        self._step("sync_renames")
        self._unsynced = False

    def assert_renames_are_durable(self) -> None:
        """For the store to ask before each commit."""
        assert not self._unsynced, "committed before the renames were made durable"

    def retire(self, file: LocalFile) -> None:
        raise AssertionError("nothing is retired from a folder that is synced to disk")


def _stamp(file: MemoryFile) -> FileStamp:
    return FileStamp(len(file.data), file.mtime_ns, file.inode)
