# SPDX-License-Identifier: MIT
"""Rows as observed on the server: writes what it showed into the state, and asks it what an observation changed.

Absences are asked for first and believed later, by the caller, after a second look: nothing here decides that a
message is gone.
"""

from __future__ import annotations

from collections.abc import Iterable

from pushpull.flags import DELETED
from pushpull.model import Identity, RemoteView, Uid, UidSet
from pushpull.schema import SEEKER
from pushpull.store import Store, translate


class RemoteRows:
    """What the server showed of one pair."""

    def __init__(self, store: Store, pair_id: int) -> None:
        self._store, self._pair = store, pair_id

    def note_views(self, views: Iterable[RemoteView]) -> None:
        """Flags as shown. A UID that is shown is alive, whatever was believed of it."""
        with self._store.observation() as db:
            db.executemany(
                "INSERT INTO pairing (pair, uid, remote_flags, keywords) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (pair, uid) WHERE uid IS NOT NULL DO UPDATE SET"
                " remote_flags = excluded.remote_flags, keywords = excluded.keywords, expunged = 0,"
                f" base_flags = {unmark('expunged', 'remote')}"
                " WHERE remote_flags <> excluded.remote_flags OR keywords <> excluded.keywords OR expunged",
                ((self._pair, view.uid, view.flags, " ".join(view.keywords)) for view in views),
            )

    def note_identities(self, identities: Iterable[Identity]) -> None:
        """Size and Message-ID of UIDs that have no file yet."""
        with self._store.observation() as db:
            db.executemany(
                "UPDATE pairing SET message_id = ?, size = ? WHERE pair = ? AND uid = ? AND uniquename IS NULL",
                ((seen.message_id, seen.size, self._pair, seen.uid) for seen in identities),
            )

    def alive(self, below: Uid | None) -> int:
        """How many UIDs (below `below`, if given) are believed to exist. The difference of two numbers that indexes
        give, so no row is read.
        """
        with translate(self._store.path):
            (known, expunged) = self._store.db.execute(
                "SELECT (SELECT count(*) FROM pairing INDEXED BY pairing_uid WHERE pair = :pair AND uid < :below),"
                " (SELECT count(*) FROM pairing INDEXED BY pairing_expunged WHERE pair = :pair AND expunged"
                "  AND uid < :below)",
                {"pair": self._pair, "below": below or 1 << 32},
            ).fetchone()
        return int(known) - int(expunged)

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
        with self._store.observation() as db:
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
        with self._store.observation() as db:
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


def unmark(vanished: str, side: str) -> str:
    """The base of a row whose message may have come back. A mark that we set for it, or were about to set when we
    died, is ours to take off: with DELETED in the base its absence here reads as taken off, not as never seen.
    """
    return (
        f"CASE WHEN {vanished} AND EXISTS (SELECT 1 FROM mark WHERE mark.pair = pairing.pair AND mark.side = '{side}'"
        f" AND mark.pairing = pairing.id) THEN base_flags | {DELETED} ELSE base_flags END"
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
