# SPDX-License-Identifier: MIT
"""Rows as observed in the folder: writes what a scan showed into the state, and says what a scan would show if nothing
had changed.

Absences are asked for first and believed later, by the caller, after a second look: nothing here decides that a
message is gone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pushpull.flags import DELETED
from pushpull.model import DirectoryStamp, FileStamp, Fingerprint, LocalFile, Uniquename
from pushpull.observed import unmark
from pushpull.schema import SEEKER
from pushpull.store import Store, placeholders, translate
from pushpull.values import value

LIST_SECONDS = 86_400.0
_SLICE, _FRESH = 20_000, 1000
_FILES = "FROM pairing INDEXED BY pairing_files WHERE pair = :pair AND uniquename IS NOT NULL AND NOT gone"
_THERE = "pair = ? AND NOT gone AND +uniquename IS NOT NULL"
# Two ranges: '<>' would look at each row that this boot has delivered.
_OF_OTHER_BOOTS = " UNION ALL ".join(
    f"SELECT id FROM pairing WHERE pair = :pair AND unsynced_boot <> '' AND unsynced_boot {other} :boot"
    for other in "<>"
)


@value
class Absent:
    """A row whose file a scan did not show."""

    id: int
    uniquename: Uniquename
    digest: bytes | None
    local_flags: int
    unsynced_boot: str
    directory: str


class LocalRows:
    """What a folder showed of one pair."""

    def __init__(self, store: Store, pair_id: int) -> None:
        self._store, self._pair = store, pair_id

    def load(self, files: Mapping[Uniquename, LocalFile], missing: Iterable[Uniquename]) -> None:
        """Put what a scan found otherwise than believed beside the rows, for the questions below."""
        with self._store.observation() as db:
            db.execute("DROP TABLE IF EXISTS temp.seen")
            db.execute("DROP TABLE IF EXISTS temp.missing")
            db.execute(
                "CREATE TEMP TABLE seen (id INTEGER, uniquename BLOB, directory TEXT, info BLOB, flags INTEGER) STRICT"
            )
            db.execute("CREATE TEMP TABLE missing (uniquename BLOB) STRICT")
            row = "SELECT id FROM pairing INDEXED BY pairing_uniquename WHERE pair = ? AND uniquename = ?"
            db.executemany(
                f"INSERT INTO temp.seen VALUES (({row}), ?, ?, ?, ?)",
                (
                    (self._pair, file.uniquename, file.uniquename, file.directory, file.info, file.flags)
                    for _, file in sorted(files.items())
                ),
            )
            db.executemany("INSERT INTO temp.missing VALUES (?)", ((name,) for name in missing))

    def absent(self) -> list[Absent]:
        """Rows whose file is missing, as loaded."""
        with translate(self._store.path):
            rows = self._store.db.execute(
                "SELECT id, missing.uniquename, digest, local_flags, unsynced_boot, directory FROM temp.missing"
                " CROSS JOIN pairing INDEXED BY pairing_uniquename"
                " WHERE pair = ? AND pairing.uniquename = missing.uniquename AND NOT gone ORDER BY id",
                (self._pair,),
            ).fetchall()
        return [Absent(number, Uniquename(name), *rest) for number, name, *rest in rows]

    def fresh_count(self) -> int:
        """How many files no row had when they were loaded."""
        with translate(self._store.path):
            (count,) = self._store.db.execute("SELECT count(*) FROM temp.seen WHERE id IS NULL").fetchone()
        return int(count)

    def fresh(self) -> Iterator[LocalFile]:
        """Those files, by name."""
        after = 0
        while True:
            with translate(self._store.path):
                rows = self._store.db.execute(
                    "SELECT rowid, uniquename, directory, info, flags FROM temp.seen WHERE id IS NULL AND rowid > ?"
                    f" ORDER BY rowid LIMIT {_FRESH}",
                    (after,),
                ).fetchall()
            if not rows:
                return
            after = rows[-1][0]
            for _, name, directory, info, flags in rows:
                yield LocalFile(Uniquename(name), directory, info, flags)

    def note_seen(self) -> int:
        """Where the known files are now, and their flags; a file that came back is no longer gone. A flag that the
        server refused once is tried again after the user changed it. Returns how many rows changed.
        """
        with self._store.observation() as db:
            changed = db.execute(
                "UPDATE pairing SET directory = seen.directory, info = seen.info, gone = 0, local_flags = seen.flags,"
                f" base_flags = {unmark('gone', 'local')},"
                " refused_flags = CASE WHEN local_flags = seen.flags THEN refused_flags ELSE 0 END"
                " FROM temp.seen AS seen WHERE pairing.id = seen.id"
                " AND (pairing.directory <> seen.directory OR pairing.info <> seen.info"
                " OR local_flags <> seen.flags OR gone)"
            )
            return changed.rowcount

    def note_gone(self, ids: Iterable[int]) -> None:
        """Believe that these files are gone: the local side gains DELETED (see `model.Pairing`)."""
        with self._store.observation() as db:
            db.executemany(
                f"UPDATE pairing SET gone = 1, local_flags = local_flags | {DELETED} WHERE id = ?",
                ((number,) for number in ids),
            )

    def note_changed_content(self, row_id: int) -> None:
        """The file of that name holds another message now: the old one is gone, the name is free."""
        with self._store.observation() as db:
            self._look_again()
            db.execute(
                f"UPDATE pairing SET gone = 1, local_flags = local_flags | {DELETED}, uniquename = NULL WHERE id = ?",
                (row_id,),
            )

    def never_delivered(self, ids: Iterable[int]) -> None:
        """Files that a crash took before they were on disk (`fsync = no`), or that a restored folder lacks: to be
        fetched again, never a deletion.
        """
        rows = [(number,) for number in ids]
        with self._store.observation() as db:
            if rows:
                self._look_again()
            db.executemany(
                "UPDATE pairing SET uniquename = NULL, directory = '', info = x'', local_flags = 0, base_flags = 0,"
                " gone = 0, unsynced_boot = '' WHERE id = ?",
                rows,
            )

    def take_local_as_base(self) -> None:
        """A folder restored from an older copy shows old flags: they count as agreed, so the server's win."""
        with self._store.observation() as db:
            db.execute(
                "UPDATE pairing SET base_flags = local_flags WHERE pair = ? AND uniquename IS NOT NULL AND NOT gone"
                " AND uid IS NOT NULL",
                (self._pair,),
            )

    def add_files(self, files: Iterable[tuple[LocalFile, Fingerprint, FileStamp]]) -> None:
        """Files that are on no other row: messages known only locally."""
        with self._store.observation() as db:
            db.executemany(
                "INSERT INTO pairing (pair, uniquename, directory, info, local_flags, message_id, size, header_digest,"
                " digest, received, stamp_size, stamp_mtime, stamp_inode)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        self._pair,
                        file.uniquename,
                        file.directory,
                        file.info,
                        file.flags,
                        *content(fingerprint, stamp),
                    )
                    for file, fingerprint, stamp in files
                ),
            )

    def note_renamed(self, row_id: int, file: LocalFile, stamp: FileStamp) -> None:
        """The row's file goes by another unique name now (moved away and back, renamed by a mail reader)."""
        with self._store.observation() as db:
            db.execute(
                f"UPDATE pairing SET base_flags = {unmark('gone', 'local')}, uniquename = ?, directory = ?, info = ?,"
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
        with self._store.observation() as db:
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
        with self._store.observation() as db:
            db.execute(
                "UPDATE pairing SET stamp_size = ?, stamp_mtime = ?, stamp_inode = ? WHERE id = ?",
                (stamp.size, stamp.mtime_ns, stamp.inode, row_id),
            )

    def gone_rows_like(self, digests: Sequence[bytes]) -> list[Absent]:
        """Rows gone earlier, with a live UID and such content: a file that comes back may be theirs."""
        if not digests:
            return []
        among = placeholders(digests)
        with translate(self._store.path):
            rows = self._store.db.execute(
                "SELECT id, coalesce(uniquename, x''), digest, local_flags, unsynced_boot, directory FROM pairing"
                f" INDEXED BY pairing_digest WHERE pair = ? AND digest IN ({among}) AND gone AND uid IS NOT NULL"
                " AND NOT expunged ORDER BY id",
                (self._pair, *digests),
            ).fetchall()
        return [Absent(number, Uniquename(name), *rest) for number, name, *rest in rows]

    def drafts(self) -> set[int]:
        """Rows of drafts, which some mail readers edit in place."""
        with translate(self._store.path):
            rows = self._store.db.execute(f"SELECT id FROM pairing WHERE local_flags & 1 AND {_THERE}", (self._pair,))
            return {number for (number,) in rows}

    def unanswered(self) -> set[int]:
        """Rows of uploads that nobody heard the end of, whose file may have been written to meanwhile."""
        with translate(self._store.path):
            rows = self._store.db.execute(
                f"SELECT id FROM pairing INDEXED BY pairing_seekers WHERE {SEEKER}"
                f" AND append_outcome <> '' AND {_THERE}",
                (self._pair,),
            )
            return {number for (number,) in rows}

    def known_contents(self, ids: Iterable[int] | None) -> list[tuple[int, LocalFile, FileStamp, bytes]]:
        """Known files (None: all of them): row, file, stamp when last read, digest."""
        which, values = ("pair = ?", (self._pair,)) if ids is None else ("id = ?", ids)
        with translate(self._store.path):
            rows = [
                row
                for value in values
                for row in self._store.db.execute(
                    "SELECT id, uniquename, directory, info, local_flags, stamp_size, stamp_mtime, stamp_inode, digest"
                    f" FROM pairing WHERE {which} AND NOT gone AND +uniquename IS NOT NULL",
                    (value,),
                )
            ]
        return [
            (number, LocalFile(Uniquename(name), directory, info, flags), FileStamp(*stamp), digest)
            for number, name, directory, info, flags, *stamp, digest in rows
        ]

    def unsynced(self, boot: str) -> list[tuple[int, LocalFile, int]]:
        """Files delivered without a sync to disk before this boot: row, file, size on disk when delivered."""
        with translate(self._store.path):
            rows = self._store.db.execute(
                "SELECT id, uniquename, directory, info, local_flags, stamp_size FROM pairing"
                f" WHERE id IN ({_OF_OTHER_BOOTS}) AND +uniquename IS NOT NULL AND NOT gone ORDER BY id",
                {"pair": self._pair, "boot": boot},
            ).fetchall()
        return [
            (number, LocalFile(Uniquename(name), directory, info, flags), size)
            for number, name, directory, info, flags, size in rows
        ]

    def note_synced(self, boot: str) -> None:
        """What an earlier boot delivered was found whole: it is on disk."""
        with self._store.observation() as db:
            db.execute(
                f"UPDATE pairing SET unsynced_boot = '' WHERE id IN ({_OF_OTHER_BOOTS})",
                {"pair": self._pair, "boot": boot},
            )

    def _look_again(self) -> None:
        """A name is about to be freed whose file is still there: only a listing shows that it is new."""
        self._store.db.execute("DELETE FROM directory WHERE pair = ?", (self._pair,))


class KnownFiles:
    """Where each file of a pair is believed to be (`ports.Known`).

    A directory that was taken in whole is remembered by its device, inode and ctime: each name that comes, goes or
    changes in it gives it a new ctime, which nobody can set. Not when it was that young that a change may follow in the
    same tick of the kernel's clock; and for a day at most, whatever the file system promises.
    """

    def __init__(self, store: Store, pair_id: int, *, now: float, whole: bool) -> None:
        """`whole`: every directory is to be read, however it looks."""
        self._store, self._pair, self._now, self._whole = store, pair_id, now, whole

    def directories(self) -> dict[str, DirectoryStamp | None]:
        with translate(self._store.path):
            directories = self._store.db.execute(
                f"WITH RECURSIVE found (name) AS (SELECT min(directory) {_FILES}"
                f" UNION ALL SELECT (SELECT min(directory) {_FILES} AND directory > name) FROM found"
                " WHERE name IS NOT NULL) SELECT name FROM found WHERE name IS NOT NULL",
                {"pair": self._pair},
            ).fetchall()
        relied_on = {} if self._whole else self._stamps(self._now - LIST_SECONDS, self._now)
        return {name: None for (name,) in directories} | relied_on

    def names(self, directory: str) -> set[bytes]:
        """In slices, each joined by SQLite and split by '/', which no name holds: half the time of a row each."""
        names: set[bytes] = set()
        after: int | None = 0
        with translate(self._store.path):
            while after is not None:
                after, joined = self._store.db.execute(
                    f"SELECT max(id), CAST(group_concat(name, '/') AS BLOB) FROM (SELECT id, uniquename || info AS name"
                    f" {_FILES} AND directory = :directory AND id > :after ORDER BY id LIMIT {_SLICE})",
                    {"pair": self._pair, "directory": directory, "after": after},
                ).fetchone()
                names.update(joined.split(b"/") if joined else ())
        return names

    def file(self, uniquename: Uniquename) -> LocalFile | None:
        with translate(self._store.path):
            found = self._store.db.execute(
                "SELECT directory, info, local_flags FROM pairing WHERE pair = ? AND uniquename = ? AND NOT gone",
                (self._pair, uniquename),
            ).fetchone()
        return LocalFile(uniquename, *found) if found else None

    def stamps(self) -> dict[str, DirectoryStamp]:
        """How each directory looked when all that it held was in the state."""
        return self._stamps(-math.inf, math.inf)

    def _stamps(self, since: float, until: float) -> dict[str, DirectoryStamp]:
        """Of those that were read then, in seconds since the epoch."""
        with translate(self._store.path):
            rows = self._store.db.execute(
                "SELECT name, device, inode, ctime FROM directory WHERE pair = ? AND read_at BETWEEN ? AND ?",
                (self._pair, since, until),
            ).fetchall()
        return {name: (*stamp,) for name, *stamp in rows}

    def moved_on(self, stamps: Mapping[str, DirectoryStamp]) -> None:
        """So these look after changes of ours, all of which are in the state. When they were read last stays."""
        if stamps:
            with self._store.observation() as db:
                db.executemany(
                    "UPDATE directory SET device = ?, inode = ?, ctime = ? WHERE pair = ? AND name = ?",
                    ((*stamp, self._pair, name) for name, stamp in stamps.items()),
                )

    def taken_in(self, stamps: Mapping[str, DirectoryStamp | None]) -> None:
        """All that these directories held, when they looked so, is in the state. None: or some of it is not."""
        with self._store.observation() as db:
            db.executemany("DELETE FROM directory WHERE pair = ? AND name = ?", ((self._pair, name) for name in stamps))
            db.executemany(
                "INSERT INTO directory (pair, name, device, inode, ctime, read_at) VALUES (?, ?, ?, ?, ?, ?)",
                ((self._pair, name, *stamp, self._now) for name, stamp in stamps.items() if stamp is not None),
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
