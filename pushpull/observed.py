# SPDX-License-Identifier: MIT
"""Rows as observed: writes facts of either side into the state, and asks it what an observation changed.

Absences are asked for first and believed later, by the caller, after a second look: nothing here decides that a
message is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pushpull.flags import DELETED
from pushpull.model import FileStamp, Fingerprint, Identity, LocalFile, RemoteView, Uid, UidSet, Uniquename
from pushpull.schema import SEEKER
from pushpull.store import Store, translate
from pushpull.values import value


@value
class Absent:
    """A row whose file a scan did not show."""

    id: int
    uniquename: Uniquename
    digest: bytes | None
    local_flags: int
    unsynced_boot: str
    directory: str


class RemoteRows:
    """What the server showed of one pair."""

    def __init__(self, store: Store, pair_id: int) -> None:
        self._store, self._pair = store, pair_id

    def note_views(self, views: Iterable[RemoteView]) -> None:
        """Flags as shown. A UID that is shown is alive, whatever was believed of it."""
        with self._store.transaction() as db:
            db.executemany(
                "INSERT INTO pairing (pair, uid, remote_flags, keywords) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (pair, uid) WHERE uid IS NOT NULL DO UPDATE SET"
                " remote_flags = excluded.remote_flags, keywords = excluded.keywords, expunged = 0,"
                f" base_flags = {_unmark('expunged', 'remote')}"
                " WHERE remote_flags <> excluded.remote_flags OR keywords <> excluded.keywords OR expunged",
                ((self._pair, view.uid, view.flags, " ".join(view.keywords)) for view in views),
            )

    def note_identities(self, identities: Iterable[Identity]) -> None:
        """Size and Message-ID of UIDs that have no file yet."""
        with self._store.transaction() as db:
            db.executemany(
                "UPDATE pairing SET message_id = ?, size = ? WHERE pair = ? AND uid = ? AND uniquename IS NULL",
                ((seen.message_id, seen.size, self._pair, seen.uid) for seen in identities),
            )

    def alive(self, below: Uid | None) -> int:
        """How many UIDs (below `below`, if given) are believed to exist."""
        with translate(self._store.path):
            (count,) = self._store.db.execute(
                "SELECT count(*) FROM pairing WHERE pair = ? AND uid IS NOT NULL AND NOT expunged AND uid < ?",
                (self._pair, below or 1 << 32),
            ).fetchone()
        return int(count)

    def absent_from(self, listed: UidSet, below: Uid | None) -> UidSet:
        """UIDs (below `below`) that are believed to exist and that the server does not list."""
        return self._difference(listed, below, "NOT expunged", listed_wanted=False)

    def revived_by(self, listed: UidSet) -> UidSet:
        """UIDs that were believed to be expunged and that the server lists."""
        return self._difference(listed, None, "expunged", listed_wanted=True)

    def alive_in(self, named: UidSet) -> UidSet:
        """Those of the named UIDs that are believed to exist."""
        with translate(self._store.path):
            return UidSet.of(
                uid
                for lo, hi in named.ranges
                for (uid,) in self._store.db.execute(
                    "SELECT uid FROM pairing WHERE pair = ? AND uid BETWEEN ? AND ? AND NOT expunged",
                    (self._pair, lo, hi),
                )
            )

    def _difference(self, listed: UidSet, below: Uid | None, condition: str, *, listed_wanted: bool) -> UidSet:
        with translate(self._store.path):
            rows = self._store.db.execute(
                f"SELECT uid FROM pairing WHERE pair = ? AND uid IS NOT NULL AND uid < ? AND {condition} ORDER BY uid",
                (self._pair, below or 1 << 32),
            )
            return UidSet.of(uid for (uid,) in rows if (uid in listed) == listed_wanted)

    def unknown_in(self, listed: UidSet) -> UidSet:
        """UIDs that the server lists and that no row has."""
        with translate(self._store.path):
            rows = self._store.db.execute(
                "SELECT uid FROM pairing WHERE pair = ? AND uid IS NOT NULL ORDER BY uid", (self._pair,)
            )
            known = UidSet.of(uid for (uid,) in rows)
        return subtract(listed, known)

    def note_expunged(self, uids: UidSet) -> None:
        """Believe that these UIDs are gone: the remote side gains DELETED (see `model.Pairing`)."""
        with self._store.transaction() as db:
            db.executemany(
                f"UPDATE pairing SET expunged = 1, remote_flags = remote_flags | {DELETED}"
                " WHERE pair = ? AND uid BETWEEN ? AND ? AND NOT expunged",
                ((self._pair, lo, hi) for lo, hi in uids.ranges),
            )

    def highest(self, count: int) -> tuple[Uid, ...]:
        """The highest UIDs that are believed to exist."""
        with translate(self._store.path):
            rows = self._store.db.execute(
                "SELECT uid FROM pairing WHERE pair = ? AND uid IS NOT NULL AND NOT expunged ORDER BY uid DESC LIMIT ?",
                (self._pair, count),
            ).fetchall()
        return tuple(Uid(uid) for (uid,) in rows)

    def unidentified(self) -> UidSet:
        """UIDs without a file whose Message-ID was not looked at, if any row seeks a UID; else empty."""
        with translate(self._store.path):
            if not has_seekers(self._store, self._pair):
                return UidSet()
            rows = self._store.db.execute(
                "SELECT uid FROM pairing WHERE pair = ? AND uid IS NOT NULL AND NOT expunged"
                " AND uniquename IS NULL AND NOT gone AND message_id IS NULL",
                (self._pair,),
            )
            return UidSet.of(uid for (uid,) in rows)

    def contradicted(self, identities: Iterable[Identity]) -> Uid | None:
        """A UID of these that a file of another Message-ID is paired with: the UIDs mean other messages now. One that
        is not ASCII is no evidence: Cyrus writes X for such bytes of a header.
        """
        with translate(self._store.path):
            for seen in identities:
                known = self._store.db.execute(
                    "SELECT message_id FROM pairing WHERE pair = ? AND uid = ? AND uniquename IS NOT NULL",
                    (self._pair, seen.uid),
                ).fetchone()
                if known and known[0] and known[0].isascii() and known[0] != seen.message_id:
                    return seen.uid
        return None

    def detach(self, uidvalidity: int) -> int:
        """A UIDVALIDITY died: every UID of it means nothing any more. Rows with a local past keep it and wait for the
        partner that a content match finds; the others go. Returns how many wait.
        """
        with self._store.transaction() as db:
            db.execute(
                "DELETE FROM pairing WHERE pair = ? AND uniquename IS NULL AND NOT gone AND append_outcome = ''",
                (self._pair,),
            )
            db.execute("UPDATE pairing SET uid = NULL WHERE pair = ? AND expunged", (self._pair,))
            found = db.execute(
                "UPDATE pairing SET uid = NULL, remote_flags = 0, refused_flags = 0, old_uidvalidity = ?"
                " WHERE pair = ? AND uid IS NOT NULL",
                (max(uidvalidity, 1), self._pair),
            )
            db.execute("UPDATE pairing SET append_uidnext = 1 WHERE pair = ? AND append_outcome <> ''", (self._pair,))
            return found.rowcount

    def let_go(self, uids: UidSet, uidvalidity: int) -> UidSet:
        """Those of the UIDs that have a file: they lose it, and the file waits for a partner as after a change of the
        UIDVALIDITY. Returns them.
        """
        with self._store.transaction() as db:
            found = UidSet.of(
                uid
                for lo, hi in uids.ranges
                for (uid,) in db.execute(
                    "SELECT uid FROM pairing WHERE pair = ? AND uid BETWEEN ? AND ? AND NOT expunged"
                    " AND uniquename IS NOT NULL AND NOT gone",
                    (self._pair, lo, hi),
                )
            )
            db.executemany(
                "UPDATE pairing SET uid = NULL, remote_flags = 0, refused_flags = 0, old_uidvalidity = ?"
                " WHERE pair = ? AND uid = ?",
                ((max(uidvalidity, 1), self._pair, uid) for uid in found),
            )
            return found


class LocalRows:
    """What a folder showed of one pair."""

    def __init__(self, store: Store, pair_id: int) -> None:
        self._store, self._pair = store, pair_id

    def load(self, files: Mapping[Uniquename, LocalFile]) -> None:
        """Put a scan beside the rows, for the questions below."""
        with self._store.transaction() as db:
            db.execute("DROP TABLE IF EXISTS temp.seen")
            db.execute(
                "CREATE TEMP TABLE seen (uniquename BLOB PRIMARY KEY, directory TEXT, info BLOB, flags INTEGER)"
                " WITHOUT ROWID"
            )
            db.executemany(
                "INSERT INTO temp.seen VALUES (?, ?, ?, ?)",
                ((file.uniquename, file.directory, file.info, file.flags) for file in files.values()),
            )

    def absent(self) -> list[Absent]:
        """Rows whose file the loaded scan did not show."""
        with translate(self._store.path):
            rows = self._store.db.execute(
                "SELECT id, uniquename, digest, local_flags, unsynced_boot, directory FROM pairing"
                " WHERE pair = ? AND uniquename IS NOT NULL AND NOT gone"
                " AND uniquename NOT IN (SELECT uniquename FROM temp.seen) ORDER BY id",
                (self._pair,),
            ).fetchall()
        return [Absent(number, Uniquename(name), *rest) for number, name, *rest in rows]

    def fresh(self) -> Iterator[LocalFile]:
        """Files that no row has."""
        with translate(self._store.path):
            rows = self._store.db.execute(
                "SELECT uniquename, directory, info, flags FROM temp.seen WHERE uniquename NOT IN"
                " (SELECT uniquename FROM pairing WHERE pair = ? AND uniquename IS NOT NULL) ORDER BY uniquename",
                (self._pair,),
            ).fetchall()
        return (LocalFile(Uniquename(name), directory, info, flags) for name, directory, info, flags in rows)

    def note_seen(self) -> int:
        """Where the known files are now, and their flags; a file that came back is no longer gone. A flag that the
        server refused once is tried again after the user changed it. Returns how many rows changed.
        """
        with self._store.transaction() as db:
            changed = db.execute(
                "UPDATE pairing SET directory = seen.directory, info = seen.info, gone = 0, local_flags = seen.flags,"
                f" base_flags = {_unmark('gone', 'local')},"
                " refused_flags = CASE WHEN local_flags = seen.flags THEN refused_flags ELSE 0 END"
                " FROM temp.seen AS seen WHERE pair = ? AND pairing.uniquename = seen.uniquename"
                " AND (pairing.directory <> seen.directory OR pairing.info <> seen.info"
                " OR local_flags <> seen.flags OR gone)",
                (self._pair,),
            )
            return changed.rowcount

    def note_gone(self, ids: Iterable[int]) -> None:
        """Believe that these files are gone: the local side gains DELETED (see `model.Pairing`)."""
        with self._store.transaction() as db:
            db.executemany(
                f"UPDATE pairing SET gone = 1, local_flags = local_flags | {DELETED} WHERE id = ?",
                ((number,) for number in ids),
            )

    def note_changed_content(self, row_id: int) -> None:
        """The file of that name holds another message now: the old one is gone, the name is free."""
        with self._store.transaction() as db:
            db.execute(
                f"UPDATE pairing SET gone = 1, local_flags = local_flags | {DELETED}, uniquename = NULL WHERE id = ?",
                (row_id,),
            )

    def never_delivered(self, ids: Iterable[int]) -> None:
        """Files that a crash took before they were on disk (`fsync = no`), or that a restored folder lacks: to be
        fetched again, never a deletion.
        """
        with self._store.transaction() as db:
            db.executemany(
                "UPDATE pairing SET uniquename = NULL, directory = '', info = x'', local_flags = 0, base_flags = 0,"
                " gone = 0, unsynced_boot = '' WHERE id = ?",
                ((number,) for number in ids),
            )

    def take_local_as_base(self) -> None:
        """A folder restored from an older copy shows old flags: they count as agreed, so the server's win."""
        with self._store.transaction() as db:
            db.execute(
                "UPDATE pairing SET base_flags = local_flags WHERE pair = ? AND uniquename IS NOT NULL AND NOT gone"
                " AND uid IS NOT NULL",
                (self._pair,),
            )

    def add_file(self, file: LocalFile, fingerprint: Fingerprint, stamp: FileStamp) -> None:
        """A file that is on no other row: a message known only locally."""
        with self._store.transaction() as db:
            db.execute(
                "INSERT INTO pairing (pair, uniquename, directory, info, local_flags, message_id, size, header_digest,"
                " digest, received, stamp_size, stamp_mtime, stamp_inode)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    self._pair,
                    file.uniquename,
                    file.directory,
                    file.info,
                    file.flags,
                    *content(fingerprint, stamp),
                ),
            )

    def note_renamed(self, row_id: int, file: LocalFile, stamp: FileStamp) -> None:
        """The row's file goes by another unique name now (moved away and back, renamed by a mail reader)."""
        with self._store.transaction() as db:
            db.execute(
                f"UPDATE pairing SET base_flags = {_unmark('gone', 'local')}, uniquename = ?, directory = ?, info = ?,"
                " local_flags = ?, gone = 0, stamp_size = ?, stamp_mtime = ?, stamp_inode = ? WHERE id = ?",
                (
                    file.uniquename,
                    file.directory,
                    file.info,
                    file.flags,
                    stamp.size,
                    stamp.mtime_ns,
                    stamp.inode,
                    row_id,
                ),
            )

    def note_copy(self, row_id: int, digest: bytes) -> bool:
        """A gone file has a copy here, of which the server keeps no second one: the UID is that copy's now. To mark it
        would delete a message there that is here. Returns whether there is such a copy.
        """
        with self._store.transaction() as db:
            copy = db.execute(
                "SELECT id, uniquename, directory, info, local_flags, stamp_size, stamp_mtime, stamp_inode FROM pairing"
                " WHERE pair = ? AND digest = ? AND uid IS NULL AND append_outcome = 'accepted' AND problem <> ''"
                " AND uniquename IS NOT NULL AND NOT gone"
                " AND EXISTS (SELECT 1 FROM pairing WHERE id = ? AND uid IS NOT NULL AND NOT expunged) ORDER BY id",
                (self._pair, digest, row_id),
            ).fetchone()
            if copy is None:
                return False
            number, name, directory, info, flags, *stamp = copy
            db.execute("DELETE FROM pairing WHERE id = ?", (number,))
            self.note_renamed(row_id, LocalFile(Uniquename(name), directory, info, flags), FileStamp(*stamp))
            return True

    def note_stamp(self, row_id: int, stamp: FileStamp) -> None:
        """The file was touched, its content is the same."""
        with self._store.transaction() as db:
            db.execute(
                "UPDATE pairing SET stamp_size = ?, stamp_mtime = ?, stamp_inode = ? WHERE id = ?",
                (stamp.size, stamp.mtime_ns, stamp.inode, row_id),
            )

    def gone_rows_like(self, digest: bytes) -> list[Absent]:
        """Rows gone earlier, with a live UID and that content: a file that comes back may be theirs."""
        with translate(self._store.path):
            rows = self._store.db.execute(
                "SELECT id, coalesce(uniquename, x''), digest, local_flags, unsynced_boot, directory FROM pairing"
                " WHERE pair = ? AND digest = ? AND gone AND uid IS NOT NULL AND NOT expunged ORDER BY id",
                (self._pair, digest),
            ).fetchall()
        return [Absent(number, Uniquename(name), *rest) for number, name, *rest in rows]

    def known_contents(self, *, drafts_only: bool) -> list[tuple[int, LocalFile, FileStamp, bytes]]:
        """Known files (or drafts, which some mail readers edit in place): row, file, stamp when last read, digest."""
        drafts = "AND local_flags & 1" if drafts_only else ""
        with translate(self._store.path):
            rows = self._store.db.execute(
                "SELECT id, uniquename, directory, info, local_flags, stamp_size, stamp_mtime, stamp_inode, digest"
                f" FROM pairing WHERE pair = ? {drafts} AND NOT gone AND +uniquename IS NOT NULL",
                (self._pair,),
            ).fetchall()
        return [
            (number, LocalFile(Uniquename(name), directory, info, flags), FileStamp(*stamp), digest)
            for number, name, directory, info, flags, *stamp, digest in rows
        ]

    def unsynced(self, boot: str) -> list[tuple[int, LocalFile, int]]:
        """Files delivered without a sync to disk before this boot: row, file, size on disk when delivered."""
        with translate(self._store.path):
            rows = self._store.db.execute(
                "SELECT id, uniquename, directory, info, local_flags, stamp_size FROM pairing"
                " WHERE pair = ? AND unsynced_boot <> '' AND unsynced_boot <> ? AND +uniquename IS NOT NULL"
                " AND NOT gone",
                (self._pair, boot),
            ).fetchall()
        return [
            (number, LocalFile(Uniquename(name), directory, info, flags), size)
            for number, name, directory, info, flags, size in rows
        ]

    def note_synced(self, boot: str) -> None:
        """What an earlier boot delivered was found whole: it is on disk."""
        with self._store.transaction() as db:
            db.execute(
                "UPDATE pairing SET unsynced_boot = '' WHERE pair = ? AND unsynced_boot <> '' AND unsynced_boot <> ?",
                (self._pair, boot),
            )

    def known(self) -> int:
        """How many files are believed to exist."""
        with translate(self._store.path):
            (count,) = self._store.db.execute(
                "SELECT count(*) FROM pairing WHERE pair = ? AND uniquename IS NOT NULL AND NOT gone", (self._pair,)
            ).fetchone()
        return int(count)


def _unmark(vanished: str, side: str) -> str:
    """The base of a row whose message may have come back. A mark that we set for it, or were about to set when we
    died, is ours to take off: with DELETED in the base its absence here reads as taken off, not as never seen.
    """
    return (
        f"CASE WHEN {vanished} AND EXISTS (SELECT 1 FROM mark WHERE mark.pair = pairing.pair AND mark.side = '{side}'"
        f" AND mark.pairing = pairing.id) THEN base_flags | {DELETED} ELSE base_flags END"
    )


def content(fingerprint: Fingerprint, stamp: FileStamp) -> tuple[object, ...]:
    """Values of the columns that tell a file's content, in the order of the schema: message_id to stamp_inode."""
    return (
        fingerprint.message_id,
        fingerprint.size,
        fingerprint.header_digest,
        fingerprint.digest,
        fingerprint.received,
        stamp.size,
        stamp.mtime_ns,
        stamp.inode,
    )


def has_seekers(store: Store, pair_id: int) -> bool:
    """Whether any row lacks a live UID that a new one may turn out to be. Settled expunged rows do not count: they
    would for ever; what comes back under a new UID is told by its content on delivery.
    """
    with translate(store.path):
        found = store.db.execute(
            f"SELECT 1 FROM pairing INDEXED BY pairing_seekers WHERE pair = ? AND {SEEKER} LIMIT 1",
            (pair_id,),
        ).fetchone()
    return found is not None


def subtract(left: UidSet, right: UidSet) -> UidSet:
    """The UIDs of `left` that `right` lacks."""
    ranges = []
    blocks = iter((*right.ranges, (1 << 62, 1 << 62)))
    lo_block, hi_block = next(blocks)
    for lo, hi in left.ranges:
        while hi_block < lo:
            lo_block, hi_block = next(blocks)
        while lo <= hi:
            if lo_block > hi:
                ranges.append((lo, hi))
                break
            if lo < lo_block:
                ranges.append((lo, lo_block - 1))
            lo = hi_block + 1
            if hi_block <= hi:
                lo_block, hi_block = next(blocks)
    return UidSet(ranges)
