# SPDX-License-Identifier: MIT
"""Rows that a plan is made from: all that are not settled, or a part of them where they are many."""

from __future__ import annotations

from pushpull.flags import DELETED, Flags
from pushpull.model import Counts, FileStamp, Pairing, Uniquename
from pushpull.observed import has_seekers
from pushpull.plan import MAX_UNIDENTIFIED
from pushpull.schema import ARRIVAL, DIFFERING, LACKS_A_SIDE, SEEKER, TODO, VANISHED
from pushpull.store import Store, translate

AT_ONCE = 5000
"""How many arrivals, or new files, are planned at once."""

# Minutes until a message that failed is tried again; the last one for ever after.
GAPS = (1, 5, 30, 120, 480, 1440, 4320, 10080)
# The gap that a row was given. A time further off was written by a clock that was ahead.
_CASES = " ".join(f"WHEN {count} THEN {60 * gap}" for count, gap in enumerate(GAPS, 1))
_GAP = f"CASE problem_count {_CASES} ELSE {60 * GAPS[-1]} END"
DAY = 86_400.0
_DUE = f"next_try NOT BETWEEN :now AND :now + {_GAP}"

_TWINS = (
    "FROM pairing AS twin WHERE twin.pair = :pair AND twin.digest = pairing.digest AND twin.id <> pairing.id"
    " AND twin.uid IS NOT NULL AND NOT twin.expunged AND twin.uniquename IS NOT NULL AND NOT twin.gone"
)
COLUMNS = (
    "id, uid, remote_flags, keywords, expunged, uniquename, directory, info, local_flags, gone, base_flags,"
    " refused_flags, message_id, size, header_digest, digest, received, old_uidvalidity, append_attempts,"
    " append_uidnext, append_outcome, append_at, problem, problem_count,"
    f" {_DUE},"
    " stamp_size, stamp_mtime, stamp_inode,"
    f" CASE WHEN uid IS NULL AND digest IS NOT NULL THEN (SELECT count(*) {_TWINS}) ELSE 0 END"
)
"""What `pairing` takes; :pair and :now (seconds since the epoch) are bound."""

SEEKS = (
    "(uid IS NULL OR expunged)"
    " AND ((uniquename IS NOT NULL AND NOT gone) OR old_uidvalidity <> 0 OR append_outcome <> '')"
)
"""Of a row with content (`plan.seeks_uid`)."""

_BOTH = "uid IS NOT NULL AND uniquename IS NOT NULL AND NOT expunged AND NOT gone"
# It differs only in what the server does not store.
_LEFT_OUT = (
    f"{_BOTH} AND remote_flags = base_flags"
    " AND ((local_flags | base_flags) & ~(local_flags & base_flags)) & :mask & ~refused_flags = 0"
)
_FLAGS = (
    f"SELECT {COLUMNS} FROM pairing INDEXED BY pairing_differing"
    f" WHERE pair = :pair AND {DIFFERING} AND {_BOTH} AND NOT ({_LEFT_OUT})"
)

_ARRIVALS = f"FROM pairing INDEXED BY pairing_arrivals WHERE pair = :pair AND {ARRIVAL}"
_DUE_ARRIVALS = f"{_ARRIVALS} AND {_DUE}"

_NEW_FILES = (
    f"pair = :pair AND {SEEKER} AND uid IS NULL AND NOT expunged AND uniquename IS NOT NULL AND NOT gone"
    f" AND old_uidvalidity = 0 AND append_outcome = '' AND {_DUE}"
)
# Those that may be uploaded without a look at anything else: no UID that is left could be one of them (while one of
# those is to be identified yet, its Message-ID is NULL, and this is true of no file), none is a copy of what is paired.
_FREE_FILES = (
    f"{_NEW_FILES} AND id > :after AND message_id NOT IN"
    f" (SELECT message_id {_ARRIVALS} AND (message_id IS NOT NULL OR problem_count < {MAX_UNIDENTIFIED} OR {_DUE}))"
    f" AND NOT EXISTS (SELECT 1 {_TWINS})"
)
_DUE_FREE_FILES = f"FROM pairing INDEXED BY pairing_seekers WHERE {_FREE_FILES}"


class Candidates:
    """Those of one pair."""

    def __init__(self, store: Store, pair_id: int) -> None:
        self._store, self._pair = store, pair_id

    def all(self, mask: Flags, now: float, *, whole: bool = False) -> list[Pairing]:
        """Rows whose observation differs from the base or that lack a side; flags that only differ in what the server
        does not store are left out. Without rows that seek a UID each arrival stands for itself, so a first download
        is planned in slices, newest first (`whole`: all at once, for a printed plan).
        """
        seekers = whole or has_seekers(self._store, self._pair)
        query = (
            f"SELECT {COLUMNS} FROM pairing WHERE pair = :pair AND {TODO} AND NOT ({_LEFT_OUT})"
            " UNION ALL SELECT * FROM"
            f" (SELECT {COLUMNS} {_ARRIVALS} AND (:seekers OR {_DUE}) ORDER BY uid DESC LIMIT :limit)"
            f" UNION ALL SELECT {COLUMNS} FROM pairing WHERE pair = :pair AND expunged AND NOT {TODO}"
            f" AND +uniquename IS NOT NULL AND NOT gone AND message_id IN (SELECT message_id {_ARRIVALS})"
        )
        return self._rows(query, now, mask=mask, seekers=seekers, limit=-1 if seekers else AT_ONCE)

    def meetings(self, mask: Flags, now: float) -> list[Pairing]:
        """Where more arrivals are due, or more new files, than are planned at once, and rows seek a UID: the newest
        arrivals, every row that may be the same message as one of those (they have one Message-ID, or have none), and
        flags that differ. Else nothing.
        """
        due = self.arrivals(now, most=AT_ONCE + 1)
        many = due > AT_ONCE or (due and self._many_free(now, 0))
        if not many or self._vanished() or not has_seekers(self._store, self._pair):
            return []
        return self._rows(
            f"WITH newest (number, name) AS (SELECT id, message_id {_DUE_ARRIVALS} ORDER BY uid DESC LIMIT :limit),"
            " wanted (name) AS (SELECT DISTINCT name FROM newest WHERE name IS NOT NULL)"
            f" SELECT {COLUMNS} FROM wanted CROSS JOIN pairing INDEXED BY pairing_message_id"
            f" WHERE pair = :pair AND message_id = wanted.name AND {LACKS_A_SIDE} AND ({ARRIVAL} OR {SEEKS})"
            f" UNION ALL SELECT {COLUMNS} FROM pairing WHERE id IN (SELECT number FROM newest WHERE name IS NULL)"
            f" UNION ALL {_FLAGS}",
            now,
            mask=mask,
            limit=AT_ONCE,
        )

    def new_files(self, mask: Flags, now: float, after: int) -> list[Pairing]:
        """Where more new files are due than are planned at once: some of them, beyond row `after`, with all copies of
        each, and flags that differ. Else nothing.
        """
        if not self._many_free(now, after) or self._vanished():
            return []
        return self._rows(
            "WITH wanted (content) AS"
            f" (SELECT DISTINCT digest FROM (SELECT digest {_DUE_FREE_FILES} ORDER BY id LIMIT :limit))"
            f" SELECT {COLUMNS} FROM wanted CROSS JOIN pairing INDEXED BY pairing_digest"
            f" WHERE digest = wanted.content AND {_FREE_FILES} UNION ALL {_FLAGS}",
            now,
            mask=mask,
            after=after,
            limit=AT_ONCE,
        )

    def _rows(self, query: str, now: float, **values: object) -> list[Pairing]:
        with translate(self._store.path):
            found = self._store.db.execute(query, {"pair": self._pair, "now": now, **values})
            return [pairing(row) for row in found]

    def _vanished(self) -> bool:
        """Then nothing is planned in parts: the guards see all that vanished before anything is changed."""
        with translate(self._store.path):
            found = self._store.db.execute(
                f"SELECT 1 FROM pairing INDEXED BY pairing_vanished WHERE pair = ? AND {VANISHED} LIMIT 1",
                (self._pair,),
            ).fetchone()
        return found is not None

    def arrivals(self, now: float, *, most: int = -1) -> int:
        """How many UIDs have no file yet and are due; counted up to `most`, if that is not below 0."""
        return self._count(_DUE_ARRIVALS, now, 0, most)

    def uploads(self, now: float) -> int:
        """How many new files are due."""
        return self._count(f"FROM pairing INDEXED BY pairing_seekers WHERE {_NEW_FILES}", now, 0, -1)

    def _many_free(self, now: float, after: int) -> bool:
        return self._count(_DUE_FREE_FILES, now, after, AT_ONCE + 1) > AT_ONCE

    def _count(self, which: str, now: float, after: int, most: int) -> int:
        with translate(self._store.path):
            (count,) = self._store.db.execute(
                f"SELECT count(*) FROM (SELECT 1 {which} LIMIT :limit)",
                {"pair": self._pair, "now": now, "after": after, "limit": most},
            ).fetchone()
        return int(count)

    def counts(self, since: float, now: float, *, expunged: int = 0, limit: int = 0) -> Counts:
        """Numbers of the whole pair; marks made from `since` to `now` (seconds since the epoch), less those that the
        plan counts itself because their effect is still to come. What is `paired` (every row is read for it) is asked
        for only when `expunged`, and those lately, are more than `limit`: no other guard needs it.
        """
        with translate(self._store.path):
            recent = dict(
                self._store.db.execute(
                    "SELECT side, count(*) FROM mark LEFT JOIN pairing ON pairing.id = mark.pairing"
                    " WHERE mark.pair = :pair"
                    " AND counted AND at <= :now AND at > CASE side WHEN 'twin' THEN :yesterday ELSE :since END"
                    " AND NOT coalesce(CASE side"
                    f"  WHEN 'local' THEN gone AND NOT expunged AND NOT remote_flags & {DELETED}"
                    f"  WHEN 'remote' THEN expunged AND NOT gone AND NOT local_flags & {DELETED}"
                    "  ELSE uid IS NULL END, 0) GROUP BY side",
                    {"pair": self._pair, "now": now, "yesterday": now - DAY, "since": since},
                ).fetchall()
            )
        recent_remote = recent.get("remote", 0)
        return Counts(
            paired=self._paired() if expunged and expunged + recent_remote > limit else 0,
            recent_local=recent.get("local", 0),
            recent_remote=recent_remote,
            recent_twins=recent.get("twin", 0),
        )

    def _paired(self) -> int:
        with translate(self._store.path):
            (paired,) = self._store.db.execute(
                f"SELECT count(*) FROM pairing WHERE pair = ? AND {_BOTH}", (self._pair,)
            ).fetchone()
        return int(paired)


def pairing(row: tuple[object, ...]) -> Pairing:
    """A row of COLUMNS."""
    values = list(row)
    values[3] = tuple(str(values[3]).split())
    for flag in (4, 9, 16, 24):
        values[flag] = bool(values[flag])
    if values[5] is not None:
        values[5] = Uniquename(values[5])  # type: ignore[arg-type]
    values[25:28] = [FileStamp(*values[25:28])]  # type: ignore[arg-type]
    return Pairing(*values)  # type: ignore[arg-type]
