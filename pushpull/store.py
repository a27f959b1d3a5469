# SPDX-License-Identifier: MIT
"""The state file: what was observed of both sides, and the base that both last agreed on.

Invariants:

- One connection, used by the thread that opened it. WAL with synchronous=FULL: a commit survives a power cut, so the
  state is never older than an APPEND that was announced in it; files are renamed into place before their row says so.
  What was only observed waits for the next such commit: a power cut takes the end of the log, never a part of it.
- No write transaction spans network I/O: callers collect a batch, then write it.
- Every row of a pair is at least as new as `pair.modseq`. Rows are upserts; seeing a fact twice is harmless.
- SQLite errors leave here as `StateUnusable` (corrupt, newer), `StateBusy` (locked) or `LocalDiskError`.
"""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from typing import Any

from pushpull import soundness
from pushpull.errors import LocalDiskError, StateBusy, StateUnusable
from pushpull.model import Identity, ModSeq, Pair, PairKey, Uid
from pushpull.private import is_open_to_all, keep_from_others, make_directories
from pushpull.schema import APPLICATION_ID, CREATE, VERSION
from pushpull.values import astuple, replace

BUSY_SECONDS = 20.0
_ID_BYTES = 8
_ID = "[0-9a-f]" * 2 * _ID_BYTES


class Store:
    """An open state file. Queries on rows live in `observed`, `observed_local`, `candidates` and `outcomes`; this
    class owns the connection, the transactions, the file's identity and the pairs.
    """

    def __init__(self, connection: sqlite3.Connection, path: str, *, kept: bool = False) -> None:
        """`kept`: what is written ends up in the file."""
        self.db = connection
        self.path = path
        self._kept = kept
        self._depth = 0
        self._durable = True  # what the next or present transaction is

    @classmethod
    def open(cls, path: str) -> Store:
        """Open or create the state file (0600, its directory 0700).

        Raises StateUnusable when the file is corrupt, no state of pushpull's, or newer than this program.
        """
        with translate(path), _translate_file(path), _readable(path):
            _make_file(path)
            vouched = soundness.is_vouched_for(path)
            connection = _connect(path)
            try:
                _prepare(connection, path, vouched=vouched)
                for tail in ("", "-wal", "-shm"):  # it may have been restored or copied with more permissions
                    keep_from_others(path + tail)
            except BaseException:
                connection.close()
                raise
            if not vouched:
                soundness.found_sound(path)
        return cls(connection, path, kept=True)

    @classmethod
    def snapshot(cls, path: str) -> Store:
        """A copy in memory, for a dry run: nothing is written to the file, nor is it created."""
        memory = _configure(sqlite3.connect(":memory:", isolation_level=None))
        try:
            with translate(path), _translate_file(path), _readable(path):
                vouched = soundness.is_vouched_for(path)
                if os.path.exists(path) and os.path.getsize(path):
                    _copy(path, memory)
                _prepare(memory, path, vouched=vouched)
        except BaseException:
            memory.close()
            raise
        return cls(memory, path)

    def close(self) -> None:
        """Fold the write-ahead log back into the file, when nobody else uses it, and close."""
        if self.db.total_changes:
            with suppress(sqlite3.Error):  # the log is folded in by the next open
                self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.db.close()
        if self._kept:
            soundness.closed(self.path)

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """One atomic, durable step; an inner one joins the outer one, which must be durable too."""
        return self._step(durable=True)

    def observation(self) -> AbstractContextManager[sqlite3.Connection]:
        """One atomic step that is durable once a later one that changes anything is: for what is seen again if a power
        cut takes it. Not flushed, so it costs no wait for the disk.
        """
        return self._step(durable=False)

    @contextmanager
    def _step(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        if self._depth:
            if durable and not self._durable:
                raise RuntimeError("a durable step within one that is not")
            yield self.db
            return
        with translate(self.path):
            if durable is not self._durable:
                self.db.execute("PRAGMA synchronous = FULL" if durable else "PRAGMA synchronous = NORMAL")
                self._durable = durable
            self.db.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield self.db
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0

    @property
    def state_id(self) -> str:
        """Names this state file; a marker in a Maildir folder carries it."""
        with translate(self.path):
            (value,) = self.db.execute("SELECT value FROM meta WHERE key = 'state_id'").fetchone()
        return str(value)

    # --- pairs ---------------------------------------------------------------------------------------------------

    def pairs(self) -> list[Pair]:
        """Every pair that the state knows."""
        return self._pairs("ORDER BY id", ())

    def find_pair(self, key: PairKey) -> Pair | None:
        """The pair of that name, or None when it was never synchronised."""
        found = self._pairs("WHERE host = ? AND login = ? AND local = ? AND remote = ?", astuple(key))
        return found[0] if found else None

    def pair(self, pair_id: int) -> Pair:
        """The pair with that number; it must exist."""
        [pair] = self._pairs("WHERE id = ?", (pair_id,))
        return pair

    def _pairs(self, which: str, values: tuple[object, ...]) -> list[Pair]:
        with translate(self.path):
            return [_pair(row) for row in self.db.execute(f"SELECT {_PAIR_COLUMNS} FROM pair {which}", values)]

    def add_pair(self, key: PairKey) -> Pair:
        """Make a pair known. Nothing was observed of it yet."""
        with self.transaction() as db:
            db.execute("INSERT OR IGNORE INTO pair (host, login, local, remote) VALUES (?, ?, ?, ?)", astuple(key))
        found = self.find_pair(key)
        assert found is not None  # noqa: S101 - just made
        return found

    def update_pair(self, pair: Pair, **changes: Any) -> Pair:
        """Write the changed columns; returns the pair as it now is."""
        with self.transaction():
            return self.note_pair(pair, **changes)

    def note_pair(self, pair: Pair, **changes: Any) -> Pair:
        """As `update_pair`, of what was observed."""
        changed = replace(pair, **changes)
        values = {name: getattr(changed, name) for name in changes}
        if "canary" in values:
            values["canary"] = json.dumps([astuple(identity) for identity in changed.canary])
        columns = ", ".join(f"{name} = :{name}" for name in values)
        with self.observation() as db:
            db.execute(f"UPDATE pair SET {columns} WHERE id = :id", values | {"id": pair.id})
        return changed

    def forget_pair(self, pair: Pair) -> Pair:
        """`--readopt`: forget what was agreed; both sides will be matched by content anew."""
        with self.transaction() as db:
            db.execute("DELETE FROM pairing WHERE pair = ?", (pair.id,))
            db.execute("DELETE FROM directory WHERE pair = ?", (pair.id,))
            return self.update_pair(
                pair, uidvalidity=0, uidnext=Uid(1), modseq=ModSeq(0), scan_modseq=ModSeq(0), scan_uid=Uid(0), canary=()
            )


_PAIR_COLUMNS = (
    "id, host, login, local, remote, uidvalidity, uidnext, modseq, choked_modseq, scan_modseq, scan_uid, generation,"
    " marker_generation, canary, compared_at, hook_due"
)


def _pair(row: tuple[Any, ...]) -> Pair:
    number, host, login, local, remote, uidvalidity, uidnext, modseq, choked_modseq, scan_modseq, scan_uid, *rest = row
    generation, marker_generation, canary, compared_at, hook_due = rest
    return Pair(
        id=number,
        key=PairKey(host, login, local, remote),
        uidvalidity=uidvalidity,
        uidnext=Uid(uidnext),
        modseq=ModSeq(modseq),
        choked_modseq=ModSeq(choked_modseq),
        scan_modseq=ModSeq(scan_modseq),
        scan_uid=Uid(scan_uid),
        generation=generation,
        marker_generation=marker_generation,
        canary=tuple(Identity(Uid(uid), size, date, mid) for uid, size, date, mid in json.loads(canary)),
        compared_at=compared_at,
        hook_due=bool(hook_due),
    )


def placeholders(values: Sequence[object]) -> str:
    """What stands within IN (...) for so many values that are bound."""
    return ", ".join("?" * len(values))


@contextmanager
def translate(path: str) -> Iterator[None]:
    """The one place where SQLite's errors become ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translated(error, path) from error


@contextmanager
def _translate_file(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LocalDiskError(
            f"state file {path}: {error.strerror}", remedy="check the path, its permissions, and the free space"
        ) from error


@contextmanager
def _readable(path: str) -> Iterator[None]:
    """While it is opened. SQLite tells of a damaged schema by quoting it, whatever its bytes."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise _corrupt(path, "its schema is damaged") from error


def _translated(error: sqlite3.Error, path: str) -> Exception:
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return _corrupt(path, error)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StateBusy(f"state file {path} is in use by another process", remedy="try again")
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return LocalDiskError(f"state file {path}: {error}", remedy="check the free space and the permissions")
    return error  # a bug of ours: it keeps its traceback


def _corrupt(path: str, detail: object) -> StateUnusable:
    soundness.found_damaged(path)
    return StateUnusable(
        f"state file {path} is corrupt ({detail})",
        remedy="restore it from a backup, or run with --yes: it is kept aside and rebuilt by comparing both sides;"
        " nothing is deleted by that",
        corrupt=True,
    )


def _make_file(path: str) -> None:
    directory = os.path.dirname(path) or "."
    make_directories(directory)
    if is_open_to_all(directory):  # whoever puts a write-ahead log beside it writes the state
        raise LocalDiskError(
            f"state file {path}: everybody can write to its directory",
            remedy=f"set local.state to a directory of your own, or: chmod o-w {directory}",
        )
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        return _configure(connection)
    except BaseException:
        connection.close()
        raise


def _configure(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.text_factory = _text
    for pragma in ("synchronous = FULL", "foreign_keys = ON", "temp_store = MEMORY", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _text(value: bytes) -> str:
    """A text that is damaged is another text, which is compared with what was observed; not the end of each run."""
    return value.decode("utf-8", "replace")


def _copy(path: str, memory: sqlite3.Connection) -> None:
    # Without a write-ahead log beside it the file is whole, and reading it need not make one.
    from pathlib import Path

    mode = "mode=ro" if os.path.exists(f"{path}-wal") else "mode=ro&immutable=1"
    source = sqlite3.connect(f"{Path(path).absolute().as_uri()}?{mode}", uri=True, timeout=BUSY_SECONDS)
    try:
        _check_version(source, path)
        source.backup(memory)
    finally:
        source.close()


def _check_version(connection: sqlite3.Connection, path: str) -> int:
    # One statement, so one snapshot: another process may be making the tables just now.
    application, version, tables = connection.execute(
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)"
        " FROM pragma_application_id, pragma_user_version"
    ).fetchone()
    if tables and application != APPLICATION_ID:
        raise StateUnusable(
            f"{path} is an SQLite file, but no state of this pushpull",
            remedy="set local.state to another path; a state of the original pushpull cannot be read, it is rebuilt",
        )
    if version > VERSION:
        raise StateUnusable(
            f"state file {path} was written by a newer pushpull (layout {version}, this one knows {VERSION})",
            remedy="use the newer pushpull; the file was left untouched",
        )
    return int(version)


def _prepare(connection: sqlite3.Connection, path: str, *, vouched: bool) -> None:
    if _check_version(connection, path) == VERSION:
        _check_layout(connection, path)
        if not vouched:
            _check_sound(connection, path)
        _check_content(connection, path)
        return
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _check_version(connection, path) != VERSION:  # another process may have been first
            for statement in filter(str.strip, CREATE.split(";")):
                connection.execute(statement)
            connection.execute("INSERT INTO meta VALUES ('state_id', ?)", (os.urandom(_ID_BYTES).hex(),))
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk ends it by itself
            connection.execute("ROLLBACK")
        raise


def _check_layout(connection: sqlite3.Connection, path: str) -> None:
    if _schema(connection) != _made_schema():
        raise _corrupt(path, "its schema is damaged")


def _check_sound(connection: sqlite3.Connection, path: str) -> None:
    """Damage that is met in the middle of a run is met too late: an index that lacks rows makes every file a new one.

    quick_check does not compare the indexes with the rows, and a page of another table is sound in itself.
    """
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise _corrupt(path, verdict)


def _check_content(connection: sqlite3.Connection, path: str) -> None:
    try:
        for row in connection.execute(f"SELECT {_PAIR_COLUMNS} FROM pair"):
            _pair(row)
    except (ValueError, TypeError) as error:
        raise _corrupt(path, f"what it says of a pairing cannot be read: {error}") from error
    if connection.execute(f"SELECT count(*) FROM meta WHERE key = 'state_id' AND value GLOB '{_ID}'").fetchone() != (
        1,
    ):
        raise _corrupt(path, "it has lost its name")


def _schema(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """What SQLite itself adds (statistics, counters) is left out."""
    return connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY name"
    ).fetchall()


@cache
def _made_schema() -> list[tuple[str, str]]:
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(CREATE)
        return _schema(connection)
    finally:
        connection.close()


def keep_corrupt_aside(path: str, suffix: str) -> str:
    """Move a corrupt state file, with its log, out of the way; returns its new name, which nothing had before."""
    first = kept = f"{path}.corrupt-{suffix}"
    tails = ("", "-wal", "-shm")
    for number in itertools.count(2):
        if not any(os.path.lexists(kept + tail) for tail in tails):
            break
        kept = f"{first}-{number}"
    with _translate_file(path):
        for tail in tails:
            if os.path.exists(path + tail):
                os.rename(path + tail, kept + tail)
                keep_from_others(kept + tail)
    return kept
