# SPDX-License-Identifier: MIT
"""The vocabulary: plain values that every layer shares. No I/O, no clock.

Two sides, asymmetric on purpose: *local* is a Maildir folder, *remote* an IMAP mailbox. A *pair* is one folder
and one mailbox of one account; a *pairing* is one row: a message known on one or both sides. *gone* is a local
file that vanished, *expunged* a UID that vanished. "deleted" always means the flag (`T`, `\\Deleted`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import NewType, TypeAlias

from pushpull.flags import ALL, NONE, Flags
from pushpull.values import field, struct, value

Uid = NewType("Uid", int)
ModSeq = NewType("ModSeq", int)
Uniquename = NewType("Uniquename", bytes)
"""A file's name before the first ':' (Maildir), the identity of a file across flag changes. Opaque bytes."""

NEVER = ModSeq(0)


class UidSet:
    """An immutable set of UIDs as sorted, disjoint, non-adjacent ranges: small whatever the mailbox."""

    __slots__ = ("_los", "ranges")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        merged: list[tuple[int, int]] = []
        for lo, hi in sorted(ranges):
            if lo > hi:
                raise ValueError(f"range {lo}:{hi} runs backwards")
            if merged and lo <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(hi, merged[-1][1]))
            else:
                merged.append((lo, hi))
        self.ranges = tuple(merged)
        self._los = [lo for lo, _ in merged]

    @classmethod
    def of(cls, uids: Iterable[int]) -> UidSet:
        return cls((uid, uid) for uid in uids)

    def __contains__(self, uid: object) -> bool:
        if not isinstance(uid, int):
            return False
        at = bisect_right(self._los, uid) - 1
        return at >= 0 and uid <= self.ranges[at][1]

    def __iter__(self) -> Iterator[Uid]:
        return (Uid(uid) for lo, hi in self.ranges for uid in range(lo, hi + 1))

    def __len__(self) -> int:
        return sum(hi - lo + 1 for lo, hi in self.ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UidSet) and self.ranges == other.ranges

    def __hash__(self) -> int:
        return hash(self.ranges)

    def __repr__(self) -> str:
        return f"UidSet({','.join(str(lo) if lo == hi else f'{lo}:{hi}' for lo, hi in self.ranges)})"


# --- what the remote side shows ------------------------------------------------------------------------------


@value
class MailboxState:
    """What one SELECT or EXAMINE showed (RFC 9051 section 6.3.2, RFC 7162 section 3.1.2)."""

    uidvalidity: int
    uidnext: Uid | None
    exists: int
    highestmodseq: ModSeq | None = None  # None: NOMODSEQ, or the server does not do CONDSTORE
    mask: Flags = ALL  # flags that may be stored
    keywords: frozenset[str] = frozenset()  # keywords that may be stored, lower case
    any_keyword: bool = True  # PERMANENTFLAGS lists \*, or is absent
    read_only: bool = False


@value
class RemoteView:
    """Flags of one UID as the server showed them."""

    uid: Uid
    flags: Flags
    keywords: tuple[str, ...] = ()
    modseq: ModSeq = NEVER


@value
class Identity:
    """What tells one message from another without its body. `size` is RFC822.SIZE, `internaldate` the server's
    text stripped of spaces, `message_id` is without brackets, "" when the message has none."""

    uid: Uid
    size: int
    internaldate: str
    message_id: str


@value
class Fingerprint:
    """What a message's bytes say of it; computed the same for a file and for a literal.

    `size` is the size on the wire (CRLF). The digests are SHA-256 over the bytes with every line end (any number
    of CR before an LF) made LF, so a file and what a server made of it agree. `received` tells whether the header
    has a Received field: mail that no relay has touched (drafts, sent copies) is not told apart by its header.
    """

    message_id: str
    size: int
    header_digest: bytes
    digest: bytes
    received: bool


# --- what the local side shows -------------------------------------------------------------------------------


@value
class LocalFile:
    """One message file as a directory scan showed it."""

    uniquename: Uniquename
    directory: str  # relative to the folder: "cur", "new", "a3/cur"
    info: bytes  # what follows the uniquename: b":2,FS", b""
    flags: Flags

    @property
    def path(self) -> bytes:
        """Relative to the Maildir folder."""
        return self.directory.encode() + b"/" + self.uniquename + self.info


@value
class FileStamp:
    """Tells whether a file's contents may have changed: size in bytes, mtime in ns, inode."""

    size: int
    mtime_ns: int
    inode: int


DirectoryStamp: TypeAlias = tuple[int, int, int]
"""Tells whether a name may have come, gone or changed in a directory: device, inode, ctime in ns."""


@value
class Scan:
    """One scan of a Maildir folder: the files that were not where they were believed to be, and the names of those that
    are `missing`. `moved`: a directory changed while it was read, so an absence proves nothing. `strangers`: what is
    not mail and is left alone, each with the reason (relative path, reason). `stamps`: of each directory
    that was read, how it looked before; None where it may look the same after a change."""

    files: dict[Uniquename, LocalFile]
    moved: bool
    strangers: tuple[tuple[bytes, str], ...] = ()
    doubles: frozenset[bytes] = frozenset()  # strangers that are mail: another file has their uniquename
    missing: frozenset[Uniquename] = frozenset()
    stamps: Mapping[str, DirectoryStamp | None] = field(default_factory=dict)


@value
class Marker:
    """Contents of `.pushpull` in a Maildir folder: which state file, which pairing, and how new."""

    state_id: str
    pair: int
    generation: int


# --- what is remembered --------------------------------------------------------------------------------------


@value
class PairKey:
    """Names a pair: an account's mailbox and a folder. The pair belongs to host and login, since UIDVALIDITY is
    often a small number that another account shares."""

    host: str
    login: str
    local: str
    remote: str


@value
class Pair:
    """A pair as the state file knows it. Every row of it is at least as new as `modseq`."""

    id: int
    key: PairKey
    uidvalidity: int = 0  # 0: never selected
    uidnext: Uid = Uid(1)  # every UID below was observed
    modseq: ModSeq = NEVER
    choked_modseq: ModSeq = NEVER  # the delta since it was not given; it is not asked for again
    scan_modseq: ModSeq = NEVER  # target of an unfinished first scan
    scan_uid: Uid = Uid(0)  # it is complete up to here
    generation: int = 0
    marker_generation: int = 0  # the generation that the marker is known to have
    canary: tuple[Identity, ...] = ()  # of the highest known UIDs, as last shown
    compared_at: float = 0.0  # last full compare, seconds since the epoch
    hook_due: bool = False  # local files changed and the post-sync command has not run since


@value
class Pairing:
    """One row. `uid`/`uniquename` None and not expunged/gone: never existed on that side.

    A vanished side counts as one that gained DELETED: expunged rows have it in `remote_flags`, gone rows in
    `local_flags`, so one three-way merge decides about deletions and undeletions too.
    """

    id: int
    uid: Uid | None = None
    remote_flags: Flags = NONE
    keywords: tuple[str, ...] = ()
    expunged: bool = False
    uniquename: Uniquename | None = None
    directory: str = ""
    info: bytes = b""
    local_flags: Flags = NONE
    gone: bool = False
    base_flags: Flags = NONE
    refused_flags: Flags = NONE  # acknowledged by the server but not shown: left alone
    message_id: str | None = None  # None: not looked at yet
    size: int | None = None
    header_digest: bytes | None = None
    digest: bytes | None = None
    received: bool = False
    old_uidvalidity: int = 0  # not 0: its UID died with that UIDVALIDITY and awaits its partner
    append_attempts: int = 0
    append_uidnext: Uid | None = None
    append_outcome: str = ""  # "", "open" (sent, unanswered), "accepted" (OK without a UID)
    append_at: float = 0.0
    problem: str = ""
    problem_count: int = 0
    due: bool = True  # False: it failed lately; seen by a plan, but not acted on
    stamp: FileStamp = FileStamp(0, 0, 0)  # of the file when its content was last read
    twins: int = 0  # other rows of this pair, alive on both sides, with the same content

    @property
    def has_remote(self) -> bool:
        return self.uid is not None and not self.expunged

    @property
    def has_local(self) -> bool:
        return self.uniquename is not None and not self.gone


@value
class Policy:
    """What the configuration and the command line allow in one cycle."""

    local_delete_limit: int = 50
    remote_delete_limit: int = 50
    remote_delete_percent: int = 33
    allowed: int | None = None  # --allow-mass-delete: replaces all three
    readopt: bool = False  # nothing is deleted or marked in this run
    mask: Flags = ALL  # flags that the server stores
    read_only: bool = False

    @property
    def sendable(self) -> Flags:
        """Flags that may be sent: a read-only mailbox may well announce no PERMANENTFLAGS at all."""
        return NONE if self.read_only else self.mask


@value
class Counts:
    """Whole-pair numbers that a plan needs beside its candidates."""

    paired: int = 0  # rows alive on both sides
    recent_local: int = 0  # marks on the server because files were gone, within the window
    recent_remote: int = 0  # T set on files because UIDs were expunged, within the window
    recent_twins: int = 0  # uploads of content that was paired already, within a day
    done_local: int = 0  # as recent_local, by this cycle
    done_remote: int = 0


@struct
class Tally:
    """What a cycle did, for the summary line and the exit code."""

    downloaded: int = 0
    uploaded: int = 0
    adopted: int = 0
    local_flags: int = 0
    remote_flags: int = 0
    local_marked: int = 0
    remote_marked: int = 0
    remote_deleted: int = 0  # marks that were sent, whoever made them here
    renamed: int = 0
    unmarked: int = 0  # first meetings with a deletion mark on one side only
    failed: int = 0
    set_aside: int = 0
    held: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def changed_local(self) -> bool:
        return bool(self.downloaded or self.local_flags or self.local_marked)

    @property
    def anything(self) -> bool:
        return bool(
            self.changed_local
            or self.uploaded
            or self.adopted
            or self.remote_flags
            or self.remote_marked
            or self.renamed
        )
