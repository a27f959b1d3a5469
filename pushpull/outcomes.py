# SPDX-License-Identifier: MIT
"""Rows as acted on: the outcome of each effect.

An outcome and the base it settles are written in one transaction, after the effect. The base only ever takes what
both sides showed (`settle`), so a crash between effect and outcome costs a repeated look, never a wrong decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TypeAlias

from pushpull.candidates import COLUMNS, DAY, GAPS, SEEKS, pairing
from pushpull.flags import DELETED, Flags, first_base, migrated_base
from pushpull.model import FileStamp, Fingerprint, LocalFile, Pairing, RemoteView, Uid
from pushpull.observed_local import content
from pushpull.schema import DIFFERING
from pushpull.store import Store, placeholders, translate

_ACCEPTED = "UPDATE pairing SET append_outcome = 'accepted' WHERE id = ?"
_APPENDED = (
    "UPDATE pairing SET uid = ?, append_attempts = 0, append_uidnext = NULL, append_outcome = '',"
    " problem = '', problem_count = 0, next_try = 0 WHERE id = ?"
)

SET_ASIDE_AFTER = 3


Delivered: TypeAlias = tuple[Pairing, LocalFile, Fingerprint, FileStamp, RemoteView]


class Outcomes:
    """What became of the actions of one pair's plans."""

    def __init__(self, store: Store, pair_id: int) -> None:
        self._store, self._pair = store, pair_id

    def transaction(self) -> AbstractContextManager[object]:
        """Several outcomes in one commit."""
        return self._store.transaction()

    def settle(self) -> None:
        """Let the base take what both sides show the same. On a side that vanished only the mark matters; once both
        sides carry it, the survivor's other flags count as agreed.
        """
        with self._store.transaction() as db:
            where = f"WHERE pair = ? AND {DIFFERING} AND "
            db.execute(
                f"UPDATE pairing INDEXED BY pairing_differing SET local_flags = remote_flags {where}"
                f"gone AND uid IS NOT NULL AND NOT expunged AND remote_flags & {DELETED} AND local_flags & {DELETED}",
                (self._pair,),
            )
            db.execute(
                f"UPDATE pairing INDEXED BY pairing_differing SET remote_flags = local_flags {where}"
                f"expunged AND uniquename IS NOT NULL AND NOT gone AND local_flags & {DELETED}",
                (self._pair,),
            )
            differing = "((local_flags | remote_flags) & ~(local_flags & remote_flags))"
            db.execute(
                "UPDATE pairing INDEXED BY pairing_differing SET"
                f" base_flags = (base_flags & {differing}) | (local_flags & remote_flags) {where}"
                "(uid IS NOT NULL OR expunged) AND (uniquename IS NOT NULL OR gone)",
                (self._pair,),
            )

    def earlier_problems(self) -> list[tuple[Pairing, float]]:
        """Rows set aside, and when each is tried again (seconds since the epoch)."""
        with translate(self._store.path):
            rows = self._store.db.execute(
                f"SELECT {COLUMNS}, next_try FROM pairing INDEXED BY pairing_problems"
                " WHERE pair = :pair AND problem <> '' ORDER BY id",
                {"pair": self._pair, "now": 0.0},
            ).fetchall()
        return [(pairing(row[:-1]), row[-1]) for row in rows]

    # --- downloads -----------------------------------------------------------------------------------------------

    def delivered(self, messages: Iterable[Delivered], boot: str) -> None:
        """These bodies are files now. `boot` is "" when they were synced to disk."""
        with self._store.transaction() as db:
            db.executemany(
                "UPDATE pairing SET uniquename = ?, directory = ?, info = ?, local_flags = ?, gone = 0,"
                " remote_flags = ?, keywords = ?, base_flags = ? & ?, message_id = ?, size = ?, header_digest = ?,"
                " digest = ?, received = ?, stamp_size = ?, stamp_mtime = ?, stamp_inode = ?, unsynced_boot = ?,"
                " problem = '', problem_count = 0, next_try = 0 WHERE id = ?",
                (
                    (
                        file.uniquename,
                        file.directory,
                        file.info,
                        file.flags,
                        view.flags,
                        " ".join(view.keywords),
                        file.flags,
                        view.flags,
                        *content(fingerprint, stamp),
                        boot,
                        row.id,
                    )
                    for row, file, fingerprint, stamp, view in messages
                ),
            )

    def adopt(self, row: Pairing, partner: Pairing, view: RemoteView) -> bool:
        """The UID of `row` and the file (or the memory of one) of `partner` are one message. Returns whether it is a
        first meeting with a deletion mark on one side only, which will be taken off.
        """
        first = not (partner.old_uidvalidity or partner.append_outcome or partner.expunged)
        if partner.old_uidvalidity:
            base = migrated_base(partner.base_flags, partner.local_flags, gone=partner.gone)
        elif partner.append_outcome:
            base = 0  # what the upload asked for and the server does not show is asked for once more
        elif partner.expunged:
            base = partner.base_flags
        else:
            base = first_base(partner.local_flags, view.flags)
        with self._store.transaction() as db:
            db.execute("DELETE FROM pairing WHERE id = ?", (row.id,))
            db.execute(
                "UPDATE pairing SET uid = ?, remote_flags = ?, keywords = ?, expunged = 0, base_flags = ?,"
                " refused_flags = 0, old_uidvalidity = 0, append_attempts = 0, append_uidnext = NULL,"
                " append_outcome = '', problem = '', problem_count = 0, next_try = 0 WHERE id = ?",
                (row.uid, view.flags, " ".join(view.keywords), base, partner.id),
            )
        return first and bool(base & DELETED)

    def sought(self, digests: Iterable[bytes]) -> frozenset[bytes]:
        """Those of the digests that `seekers_like` finds a row for."""
        wanted = list(digests)
        among = placeholders(wanted)
        with translate(self._store.path):
            rows = self._store.db.execute(
                f"SELECT digest FROM pairing WHERE pair = ? AND digest IN ({among}) AND {SEEKS}",
                (self._pair, *wanted),
            )
            return frozenset(digest for (digest,) in rows)

    def seekers_like(self, digest: bytes) -> list[Pairing]:
        """Rows without a live UID that hold exactly this content (`plan.seeks_uid`)."""
        with translate(self._store.path):
            rows = self._store.db.execute(
                f"SELECT {COLUMNS} FROM pairing WHERE pair = :pair AND digest = :digest AND {SEEKS} ORDER BY id",
                {"pair": self._pair, "digest": digest, "now": 0.0},
            )
            return [pairing(row) for row in rows]

    def still_seeks(self, row: Pairing) -> bool:
        """Whether the row still lacks a live UID: another UID of this batch may have adopted it."""
        with translate(self._store.path):
            found = self._store.db.execute(
                "SELECT 1 FROM pairing WHERE id = ? AND (uid IS NULL OR expunged)", (row.id,)
            ).fetchone()
        return found is not None

    def note_header(self, row: Pairing, digest: bytes) -> None:
        """The header of a UID was read and did not decide."""
        with self._store.transaction() as db:
            db.execute("UPDATE pairing SET header_digest = ? WHERE id = ?", (digest, row.id))

    # --- flags ---------------------------------------------------------------------------------------------------

    def set_local(self, row: Pairing, file: LocalFile) -> None:
        """The file was renamed; these are its flags now."""
        with self._store.transaction() as db:
            db.execute(
                f"UPDATE pairing SET directory = ?, info = ?, local_flags = ?, base_flags = {_agreed('remote_flags')},"
                " problem = '', problem_count = 0, next_try = 0 WHERE id = ?",
                (file.directory, file.info, file.flags, *[file.flags] * 3, row.id),
            )

    def set_remote(self, rows: Iterable[Pairing], add: Flags, remove: Flags, shown: Mapping[Uid, RemoteView]) -> int:
        """What the server showed after a STORE it acknowledged. A flag that it did not take is remembered and left
        alone. Returns how many rows it took.
        """
        taken = 0
        with self._store.transaction() as db:
            for row in rows:
                view = shown.get(row.uid) if row.uid is not None else None
                if view is None:
                    continue
                refused = (add & ~view.flags) | (remove & view.flags)
                taken += not refused
                db.execute(
                    "UPDATE pairing SET remote_flags = ?, keywords = ?, refused_flags = refused_flags | ?,"
                    f" base_flags = {_agreed('local_flags')}, problem = '', problem_count = 0, next_try = 0"
                    " WHERE id = ?",
                    (view.flags, " ".join(view.keywords), refused, *[view.flags] * 3, row.id),
                )
        return taken

    def marking(self, side: str, rows: Iterable[Pairing], now: float, *, counted: bool = True) -> None:
        """Remember what is about to be marked; `side` is where the message vanished ("twin": what is about to be
        uploaded though its content is paired). Before the effect: a cut link must not hide marks from the guards
        (unless not `counted`: the user allowed them), and a mark of our own must not be taken for a user's when the
        message comes back. A row counts once, however often it is tried.
        """
        with self._store.transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO mark (pair, side, pairing, at, counted) VALUES (?, ?, ?, ?, ?)",
                ((self._pair, side, row.id, now, counted) for row in rows),
            )
            db.execute("DELETE FROM mark WHERE pair = ? AND (at < ? OR at > ?)", (self._pair, now - DAY, now))

    # --- uploads -------------------------------------------------------------------------------------------------

    def append_begins(self, rows: Iterable[Pairing], uidnext: Uid, now: float) -> None:
        """Commit the attempts before anything is sent: an APPEND does not repeat harmlessly."""
        with self._store.transaction() as db:
            db.executemany(
                "UPDATE pairing SET append_attempts = append_attempts + 1, append_uidnext = ?, append_outcome = 'open',"
                " append_at = ?, uid = NULL, expunged = 0, remote_flags = 0, base_flags = 0, refused_flags = 0"
                " WHERE id = ?",
                ((uidnext, now, row.id) for row in rows),
            )

    def append_unanswered(self, rows: Iterable[Pairing], now: float) -> None:
        """The link was lost now: what was on its way may surface from now on, however long it took to send."""
        with self._store.transaction() as db:
            db.executemany(
                "UPDATE pairing SET append_at = ? WHERE id = ? AND append_outcome = 'open'",
                ((now, row.id) for row in rows),
            )

    def appended(self, taken: Sequence[tuple[Pairing, Uid | None]]) -> list[bool]:
        """The server took these. Without a UID a message is never sent again, its UID is awaited. False for one whose
        UID is another row's: the server keeps one copy of two.
        """
        uids = [uid for _, uid in taken if uid is not None]
        among = placeholders(uids)
        with self._store.transaction() as db:
            known = db.execute(f"SELECT id FROM pairing WHERE pair = ? AND uid IN ({among})", (self._pair, *uids))
            if known.fetchone() is not None or len(set(uids)) < len(uids):
                return [self._appended_beside(row, uid) for row, uid in taken]
            db.executemany(_ACCEPTED, ((row.id,) for row, uid in taken if uid is None))
            db.executemany(_APPENDED, ((uid, row.id) for row, uid in taken if uid is not None))
        return [True] * len(taken)

    def _appended_beside(self, row: Pairing, uid: Uid | None) -> bool:
        """One whose UID another row may have."""
        with self._store.transaction() as db:
            found = db.execute(
                "SELECT id, uniquename, gone FROM pairing WHERE pair = ? AND uid = ?", (self._pair, uid)
            ).fetchone()
            another = found is not None and (found[1] is not None or bool(found[2]))
            if uid is None or another:
                db.execute(_ACCEPTED, (row.id,))
                return not another
            if found:
                db.execute("DELETE FROM pairing WHERE id = ?", (found[0],))
            db.execute(_APPENDED, (uid, row.id))
            return True

    def append_refused(self, rows: Iterable[Pairing]) -> None:
        """The server said no: nothing is there, the attempts are closed."""
        with self._store.transaction() as db:
            db.executemany(
                "UPDATE pairing SET append_attempts = 0, append_uidnext = NULL, append_outcome = '' WHERE id = ?",
                ((row.id,) for row in rows),
            )

    def content_changed(self, row: Pairing, fingerprint: Fingerprint, stamp: FileStamp) -> None:
        """A file that is not uploaded yet was written to since it was read."""
        with self._store.transaction() as db:
            db.execute(
                "UPDATE pairing SET message_id = ?, size = ?, header_digest = ?, digest = ?, received = ?,"
                " stamp_size = ?, stamp_mtime = ?, stamp_inode = ?, problem = '', problem_count = 0, next_try = 0"
                " WHERE id = ?",
                (
                    *content(fingerprint, stamp),
                    row.id,
                ),
            )

    # --- ends ----------------------------------------------------------------------------------------------------

    def failed(self, row: Pairing, reason: str, now: float, *, count: int = 0) -> int:
        """Remember why this message failed and when it is tried again; returns how often it failed so far."""
        failures = max(row.problem_count + 1, count)
        gap = 60 * GAPS[min(failures, len(GAPS)) - 1]
        with self._store.transaction() as db:
            db.execute(
                "UPDATE pairing SET problem = ?, problem_count = ?, next_try = ? WHERE id = ?",
                (reason, failures, now + gap, row.id),
            )
        return failures

    def forget(self, rows: Iterable[Pairing]) -> None:
        """Drop rows that have nothing left on either side."""
        with self._store.transaction() as db:
            db.executemany("DELETE FROM pairing WHERE id = ?", ((row.id,) for row in rows))


def _agreed(other: str) -> str:
    """`flags.agree` in SQL, of the other side's column and a value that is bound three times."""
    return f"(base_flags & (({other} | ?) & ~({other} & ?))) | ({other} & ?)"
