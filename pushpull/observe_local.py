# SPDX-License-Identifier: MIT
"""Observe the local side: which files are there, which are new, which are gone.

A readdir() that races with renames may skip a file or show it twice (measured: most first scans of a busy folder miss
one). So an absence counts only after a second scan during which no directory changed. What is absent is reported
first and believed later: the engine lets the folder's marker and the guards decide in between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from pushpull import levels
from pushpull.batched import batched
from pushpull.errors import LocalDiskError, MessageError
from pushpull.model import DirectoryStamp, FileStamp, Fingerprint, LocalFile, Scan
from pushpull.observed_local import Absent, KnownFiles, LocalRows
from pushpull.ports import Local, Report
from pushpull.store import Store
from pushpull.values import value
from pushpull.wording import printable

MAX_SCANS = 5
_AT_ONCE = 100  # files
_HELD = 5000  # files that are read and not written down


@value
class LocalSight:
    """What a folder showed: the rows whose files are missing, and how the directories looked that were read for it. Not
    `complete`: it changed all the while, so of absences nothing is known.
    """

    absent: tuple[Absent, ...]
    complete: bool
    stamps: Mapping[str, DirectoryStamp | None]


class LocalObserver:
    """Looks at one Maildir folder."""

    def __init__(
        self, local: Local, store: Store, pair_id: int, *, known: KnownFiles, boot: str, repair: bool, report: Report
    ) -> None:
        """`boot` names this boot of the machine. Without `repair` (a dry run) no file is touched."""
        self._local, self._store, self._report, self._boot = local, store, report, boot
        self._repair = repair
        self._known = known
        self._rows = LocalRows(store, pair_id)
        self.unreadable = 0
        self.missed = 0  # new names that were gone again before they were read: who knows what they are called now

    def look(self, *, older: bool = False) -> LocalSight:
        """Scan, and scan again before an absence is reported. `older`: the folder is an older copy, which may well lack
        a bucket.
        """
        complete = True
        scan = first = self._local.scan(self._known)
        files = scan.files
        self._rows.load(files, scan.missing)
        absent = self._rows.absent()
        for _ in range(MAX_SCANS):
            if not absent:
                break
            scan = self._local.scan(self._known)
            if not scan.moved:
                self._rows.load(scan.files, scan.missing)
                absent = self._rows.absent()
                break
            # What was elsewhere in the scan before, and is not now, is where it was believed to be.
            files = {name: file for name, file in files.items() if name in scan.missing} | scan.files
        else:
            self._report.line(levels.INFO, "the folder changes too fast to tell which files are gone; later")
            absent, complete = [], False
            self._rows.load(files, ())
        self._tell_strangers(first)
        if not older:
            self._refuse_missing_directories(absent)
        return LocalSight(tuple(absent), complete, scan.stamps)

    def _refuse_missing_directories(self, absent: Sequence[Absent]) -> None:
        """A bucket that is not there is not read to its end: it shows no absences."""
        for directory in sorted({row.directory for row in absent}):
            if not self._local.has(directory):
                raise LocalDiskError(
                    f"the directory {printable(directory)} is missing from the folder; nothing was changed",
                    remedy="restore it, or run with --readopt: what it held is downloaded again",
                )

    def take_in(self, sight: LocalSight, *, believe: bool) -> int:
        """Write what was seen. `believe` False: the folder is an older copy, so what is missing was never deleted and
        its flags are old news. When the folder never rested a new name may be a renamed file, so nothing is known to
        be new. Returns how many files were found under another name.
        """
        absent = sight.absent
        self.missed = self.unreadable = 0
        drafts = self._rows.drafts()  # who took the letter off may have edited it before
        with self._store.observation():
            self._rows.note_seen()
            lost = {row.id for row in absent if row.unsynced_boot not in ("", self._boot)} | self._cut_short()
            if believe:  # at once: without its letter nobody would look at it again
                self._take_edits(drafts | self._rows.drafts() | self._rows.unanswered())
            else:
                self._rows.take_local_as_base()
        kept = [row for row in absent if row.id not in lost]
        fresh = self._rows.fresh() if sight.complete else iter(())
        count = self._rows.fresh_count() if sight.complete else 0
        if not believe:  # what they hold is old news too, and may be known under another name
            edited = self._edited(None)
            self._rows.never_delivered(edited)
            fresh = chain(fresh, [file for file, _, _ in edited.values()])
            count += len(edited)
        renamed, added = self._match(fresh, count, kept)
        gone = [row.id for row in kept if row.id not in renamed]
        copies = 0
        with self._store.observation():
            for row_id, (file, stamp) in renamed.items():
                self._rows.note_renamed(row_id, file, stamp)
            self._rows.add_files(added)
            self._rows.never_delivered(lost if believe else (*lost, *gone))
            if believe:
                self._rows.note_gone(gone)
                copies = sum(self._rows.note_copy(row.id, row.digest or b"") for row in kept if row.id not in renamed)
            self._rows.note_synced(self._boot)
            whole = sight.complete and believe and not self.missed and not self.unreadable
            self._known.taken_in(sight.stamps if whole else dict.fromkeys(sight.stamps))
        return len(renamed) + copies

    def _match(
        self, fresh: Iterable[LocalFile], count: int, absent: Sequence[Absent]
    ) -> tuple[dict[int, tuple[LocalFile, FileStamp]], list[tuple[LocalFile, Fingerprint, FileStamp]]]:
        """New names with the content of a vanished file are renames, one for one; the row whose flags agree first. Of
        those that are not, many are written down on the way: a folder may hold a million, and nothing that follows
        makes one of them known.
        """
        vanished = _by_digest(absent)
        renamed: dict[int, tuple[LocalFile, FileStamp]] = {}
        added = []
        done = 0
        for some in batched(fresh, _AT_ONCE):
            read = self._read_all(some)
            done += len(some)
            earlier = _by_digest(self._rows.gone_rows_like([fingerprint.digest for _, fingerprint, _ in read]))
            for file, fingerprint, stamp in read:
                rows = vanished[fingerprint.digest] or [
                    row for row in earlier[fingerprint.digest] if row.id not in renamed
                ]
                if rows:
                    row = min(rows, key=lambda row: ((row.local_flags ^ file.flags).bit_count(), row.id))
                    rows.remove(row)
                    renamed[row.id] = (file, stamp)
                else:
                    added.append((file, fingerprint, stamp))
            if len(added) >= _HELD:
                self._rows.add_files(added)
                added.clear()
            self._report.progress("reading new files", done, count)
        return renamed, added

    def _read_all(self, files: Sequence[LocalFile]) -> list[tuple[LocalFile, Fingerprint, FileStamp]]:
        with self._local.at_hand():
            return [(file, *read) for file in files if (read := self._read(file)) is not None]

    def _read(self, file: LocalFile) -> tuple[Fingerprint, FileStamp] | None:
        try:
            read = self._local.fingerprint(file)
            self.missed += read is None
            return read
        except MessageError as error:  # this file's own fault
            self.unreadable += 1
            self._report.line(levels.WARNING, f"left alone for now: {error}")
            return None

    def _stamp(self, file: LocalFile) -> FileStamp | None:
        """None also for what is no file any more (a link or a directory took its name): the scan shows it as absent."""
        try:
            return self._local.stamp(file)
        except MessageError:
            return None

    def _take_edits(self, rows: Iterable[int]) -> None:
        edited = self._edited(sorted(rows))
        for row_id in edited:
            self._rows.note_changed_content(row_id)
        self._rows.add_files(edited.values())

    def _edited(self, ids: Sequence[int] | None) -> dict[int, tuple[LocalFile, Fingerprint, FileStamp]]:
        """Files edited in place: the same name holds another message now. In a folder that is an older copy any file
        may be what a draft was, so all are looked at (None).
        """
        edited = {}
        for row_id, file, known, digest in self._rows.known_contents(ids):
            if self._stamp(file) in (known, None):
                continue
            read = self._read(file)
            if read is None:
                continue
            if read[0].digest == digest:
                self._rows.note_stamp(row_id, read[1])
            else:
                edited[row_id] = (file, *read)
        return edited

    def _cut_short(self) -> set[int]:
        """Files that a power cut left shorter than they were delivered (`fsync = no`): kept out of the way in tmp/."""
        short: set[int] = set()
        for row_id, file, size in self._rows.unsynced(self._boot):
            stamp = self._stamp(file)
            if stamp is not None and stamp.size < size:
                if self._repair:
                    self._local.retire(file)
                self._report.line(
                    levels.WARNING,
                    f"{printable(file.path)} lost its contents in a crash; it is downloaded again",
                )
                short.add(row_id)
        return short

    def _tell_strangers(self, scan: Scan) -> None:
        for path, reason in scan.strangers:
            level = levels.WARNING if path in scan.doubles else levels.INFO
            self._report.line(level, f"left alone: {printable(path)}: {reason}")


def _by_digest(rows: Iterable[Absent]) -> dict[bytes, list[Absent]]:
    found: dict[bytes, list[Absent]] = defaultdict(list)
    for row in rows:
        if row.digest is not None:
            found[row.digest].append(row)
    return found
