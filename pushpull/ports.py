# SPDX-License-Identifier: MIT
"""What the engine asks of the two sides, as protocols: the consumer owns them.

`remote.Session` and `maildir.Maildir` are the real ones; `tests/twins.py` holds strict in-memory twins, kept honest
by running one contract suite against both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol, TypeAlias

from pushpull.errors import PushpullError
from pushpull.flags import Flags
from pushpull.model import (
    DirectoryStamp,
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
from pushpull.values import value


@value
class Since:
    """From where a mailbox is opened: what was known of it when it was left."""

    uidvalidity: int
    uidnext: Uid
    modseq: ModSeq  # NEVER: no delta is asked for
    canary: tuple[Uid, ...] = ()


@value
class Arrival:
    """A UID at or above the saved UIDNEXT, with its identity."""

    view: RemoteView
    identity: Identity


@value
class Vanished:
    """UIDs that VANISHED (RFC 7162 section 3.2.10) names; the set may hold UIDs that never existed."""

    uids: UidSet


class Opening(Protocol):
    """The answers that follow a SELECT, in the order they must be taken: `canary`, `arrived`, `changed`.

    All were asked for in one round trip. When the UIDVALIDITY is not the known one, or nothing was known, all
    three are empty.
    """

    @property
    def state(self) -> MailboxState: ...
    def canary(self) -> tuple[Identity, ...]:
        """Identities of those canary UIDs that still exist."""

    def arrived(self) -> Iterator[Arrival]:
        """Every UID from the saved UIDNEXT up, whatever its MODSEQ."""

    def changed(self) -> Iterator[RemoteView | Vanished]:
        """The delta since `Since.modseq`; raises ResyncNeeded when the server chokes on it."""


@value
class Message:
    """A message on its way down. `body` yields the literal's bytes as they come off the wire (CRLF line ends);
    it must be read to its end before the next message is asked for (or the rest is skipped)."""

    view: RemoteView
    internaldate: str
    size: int
    body: Iterator[bytes]


@value
class Outgoing:
    """A message on its way up, of `size` octets (CRLF line ends). Without `internaldate` the server's clock counts."""

    flags: Flags
    keywords: Sequence[str]
    internaldate: str
    size: int
    chunks: Iterable[bytes]


@value
class Appended:
    """The server took a message; `uid` is None without APPENDUID (RFC 4315)."""

    uid: Uid | None
    uidvalidity: int | None = None


Answer: TypeAlias = Appended | PushpullError
"""What became of an upload: the error is a MessageError, ServerBusy or MailboxMissing, and nothing is there."""


class Remote(Protocol):
    """One logged-in IMAP session. Every method raises ConnectionLost when the link is unusable, and ServerBusy
    for a NO that means 'later'. After ConnectionLost only `close` may be called."""

    @property
    def condstore(self) -> bool:
        """CONDSTORE is offered, and not disabled."""

    @property
    def qresync(self) -> bool:
        """QRESYNC is offered, enabled, and not disabled."""

    @property
    def exists(self) -> int:
        """How many messages the open mailbox holds, by all that the server said so far."""

    @property
    def gmail(self) -> bool:
        """X-GM-EXT-1 is offered: by default such a server expunges what is marked deleted."""

    def open(self, mailbox: str, since: Since | None, *, read_only: bool = False) -> Opening:
        """SELECT (EXAMINE with `read_only`). MailboxMissing when the server says NO for good."""

    def views(self, lo: Uid, hi: Uid | None) -> Iterator[RemoteView]:
        """Flags of all UIDs from lo to hi (None: to the end); in the order the server likes."""

    def uids(self) -> UidSet | None:
        """Every UID of the mailbox; None when the answer was missing or not for our tag: no knowledge."""

    def status(self, mailbox: str) -> MailboxState | None:
        """A fresh STATUS (MESSAGES, UIDNEXT, UIDVALIDITY); None when the server gives no usable answer."""

    def expect(self, octets: int) -> None:
        """So many are about to come, or to go: the link may be compressed for them, where that pays."""

    def moved(self) -> bool:
        """EXISTS rose, or an EXPUNGE or VANISHED was seen, since this was last asked."""

    def catch_up(self) -> None:
        """NOOP: the server may say what it kept to itself, such as our own APPENDs."""

    def identities(self, uids: UidSet) -> Iterator[Identity]: ...
    def headers(self, uids: UidSet) -> Iterator[tuple[Uid, bytes]]:
        """The whole header of each UID, as sent."""

    def messages(self, uids: Sequence[Uid], more: Callable[[], Sequence[Uid]] | None = None) -> Iterator[Message]:
        """Bodies with BODY.PEEK[]; UIDs that the server does not show, or shows without a body, are left out.
        MessageError when the server refuses a command for good: the caller narrows it down. `more` is asked for
        further UIDs before the last ones have come, so that the server never waits; nothing ends it."""

    def store(self, uids: UidSet, *, add: Flags, remove: Flags) -> dict[Uid, RemoteView]:
        """±FLAGS, never .SILENT, one of add and remove; the flags as the server showed them afterwards. UIDs that it
        did not show are absent. MessageError on NO."""

    @property
    def multiappend(self) -> bool:
        """One command may carry several messages, and the server takes all of them or none (RFC 3502)."""

    def unasked(self, size: int) -> bool:
        """A message of that size may be sent before anything is heard of those before it."""

    def append(
        self, mailbox: str, messages: Sequence[Outgoing], meanwhile: Callable[[], None] | None = None
    ) -> Iterator[Answer]:
        """An APPEND for each message, as many at once as go `unasked`; their answers in order. ConnectionLost when no
        more answers come: the messages without one may or may not be there. `meanwhile` is called when all are sent,
        before the last answers are waited for; what it raises leaves the answers unknown."""

    def append_all(
        self, mailbox: str, messages: Sequence[Outgoing], meanwhile: Callable[[], None] | None = None
    ) -> Sequence[Appended]:
        """All of them in one command, each of a size that goes `unasked`. MessageError, ServerBusy, MailboxMissing:
        the server says that it took none. ConnectionLost when it said nothing: any of them may be there. `meanwhile`
        as above."""

    def close(self) -> None:
        """LOGOUT if the link still works, then close; never raises."""


class StagedFile(Protocol):
    """A message that came whole, not yet delivered."""

    @property
    def fingerprint(self) -> Fingerprint: ...
    @property
    def stamp(self) -> FileStamp:
        """Of the file as it was written: once it is delivered."""

    def chunks(self) -> Iterator[bytes]:
        """Its bytes as they are written (LF)."""

    def discard(self) -> None:
        """Leave nothing of it; never raises."""


@value
class Delivery:
    """A staged file and how it is to be delivered."""

    staged: StagedFile
    flags: Flags


class Known(Protocol):
    """Where each file of a folder is believed to be."""

    def directories(self) -> Mapping[str, DirectoryStamp | None]:
        """Those with files, or known to be without; how each looked when all that was in it was taken in, if it may be
        relied on."""

    def names(self, directory: str) -> set[bytes]:
        """Of the files in it; the caller's to change."""

    def file(self, uniquename: Uniquename) -> LocalFile | None: ...


class Settled(Protocol):
    """What became of directories whose names were all known."""

    def settle(self) -> Mapping[str, DirectoryStamp]:
        """Those in which nobody else changed a name meanwhile, and how they look now."""


class Local(Protocol):
    """One Maildir folder. Every method raises LocalDiskError when the disk fails."""

    def exists(self) -> bool: ...
    def has(self, directory: str) -> bool:
        """There is a directory of that name in the folder."""

    def create(self) -> None:
        """Make the folder with cur/, new/ and tmp/ (0700), parents too."""

    def read_marker(self) -> Marker | None: ...
    def write_marker(self, marker: Marker) -> None:
        """Durably, by a rename."""

    def scan(self, known: Known | None = None) -> Scan:
        """new/ before cur/, buckets likewise; LocalDiskError when a directory cannot be read to its end. A directory
        that still looks as `known` says is not read: what is known to be in it is there."""

    def at_hand(self) -> AbstractContextManager[None]:
        """Within it to read many files is cheaper: directories stay open. Not for long: one that is put in the place of
        another is not looked at before the end."""

    def fingerprint(self, file: LocalFile) -> tuple[Fingerprint, FileStamp] | None:
        """None when the file is gone (also under another info part)."""

    def stamp(self, file: LocalFile) -> FileStamp | None: ...
    def stage(self, chunks: Iterable[bytes], mtime: float) -> StagedFile:
        """Take wire bytes (CRLF), which will be LF; what is large is in tmp/ then, no message is in the folder.
        `mtime` is seconds since the epoch (INTERNALDATE)."""

    def own_changes(self, known: Mapping[str, DirectoryStamp]) -> AbstractContextManager[Settled]:
        """Within it our changes of names are told from those of others. `known`: how each directory looked when the
        state held all that is in it."""

    def write(self, deliveries: Sequence[Delivery]) -> None:
        """Write what is staged, ahead of `deliver`: not durable, and no mail yet. After an error all are discarded."""

    def deliver(self, deliveries: Sequence[Delivery]) -> list[LocalFile]:
        """Write what is not written yet, make it durable, rename them into place, make the directories durable; in
        order."""

    def set_flags(self, file: LocalFile, add: Flags, remove: Flags) -> LocalFile | None:
        """Rename; None when the file is gone. Looked up again by uniquename when it was renamed meanwhile; the
        flags that it then has are kept but for the change. Never overwrites."""

    def sync_renames(self) -> None:
        """Make the renames of `set_flags` durable."""

    def open_message(self, file: LocalFile) -> tuple[BinaryIO, FileStamp] | None:
        """For reading its raw bytes (LF); None when it is gone."""

    def retire(self, file: LocalFile) -> None:
        """Move a damaged file of our own delivery to tmp/ (`fsync = no`, after a crash); never overwrites."""

    def find(self, uniquename: Uniquename) -> LocalFile | None:
        """Where the file is now, by a look at the directories."""


class Report(Protocol):
    """Where the engine tells what it does. Words for people; escaping and layout are the implementation's."""

    def line(self, level: int, text: str) -> None:
        """One line at a level of `levels` (NOTICE for what was done to one message)."""

    def progress(self, what: str, done: int, total: int, done_bytes: int = 0) -> None:
        """How far a long phase is, such as ("downloading", 120, 10000, 1440000); done == total ends it."""
