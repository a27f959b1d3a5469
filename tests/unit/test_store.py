# SPDX-License-Identifier: MIT
"""The state file: how it is opened, refused, kept aside; its transactions; the pairs in it."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushpull import store as store_module
from pushpull.errors import EX_DISK, LocalDiskError, StateBusy, StateUnusable
from pushpull.model import Identity, ModSeq, Pair, PairKey, Uid
from pushpull.schema import APPLICATION_ID, VERSION
from pushpull.store import Store, keep_corrupt_aside, translate
from tests.support.rows import KEY, put

OTHER = PairKey("mail.example.org", "me", "Archive", "Archive")


@pytest.fixture
def path(tmp_path) -> str:
    return str(tmp_path / "state")


@pytest.fixture
def store(path):
    opened = Store.open(path)
    yield opened
    opened.close()


def names(directory) -> list[str]:
    return sorted(os.listdir(directory))


def mode(name) -> int:
    return stat.S_IMODE(os.stat(name).st_mode)


def filled(path: str, rows: int = 1) -> str:
    """A closed state file with one pair and some rows; returns its state id."""
    store = Store.open(path)
    pair = store.add_pair(KEY)
    with store.transaction():
        for uid in range(1, rows + 1):
            put(store, pair=pair.id, uid=uid, message_id=f"message-{uid}@example.org")
    state_id = store.state_id
    store.close()
    return state_id


def uids(store) -> list[int]:
    return [uid for (uid,) in store.db.execute("SELECT uid FROM pairing ORDER BY uid")]


def write(store, numbers, error: BaseException | None = None) -> None:
    """One transaction, which ends with that error if one is given."""
    with store.transaction():
        for uid in numbers:
            put(store, uid=uid)
        if error is not None:
            raise error


def foreign(path: str, *statements: str) -> bytes:
    """Some other SQLite file; returns its bytes."""
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()
    return Path(path).read_bytes()


# --- opening ----------------------------------------------------------------------------------------------------------


def test_a_new_state_file_is_private_and_so_is_its_directory(tmp_path):
    path = str(tmp_path / "a" / "b" / "state")
    before = os.umask(0)
    try:
        store = Store.open(path)
    finally:
        os.umask(before)
    assert mode(path) == 0o600
    assert [mode(path + tail) for tail in ("-wal", "-shm")] == [0o600, 0o600]
    assert mode(tmp_path / "a" / "b") == 0o700
    store.close()


def test_it_may_stand_in_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Store.open("state").close()
    assert names(tmp_path) == ["state", "state.sound"]


def test_it_is_durable_strict_and_ours(store):
    assert [store.db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")] == ["wal", 2]
    assert store.db.execute("PRAGMA foreign_keys").fetchone() == (1,)
    assert store.db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert store.db.execute("PRAGMA user_version").fetchone() == (VERSION,)
    tables = store.db.execute(
        "SELECT name, strict FROM pragma_table_list WHERE name IN ('meta', 'pair', 'pairing', 'mark')"
    )
    assert dict(tables) == {"meta": 1, "pair": 1, "pairing": 1, "mark": 1}


def test_it_is_durable_when_it_is_opened_again_too(path):
    filled(path)
    store = Store.open(path)
    assert [store.db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")] == ["wal", 2]
    store.close()


def test_closing_folds_the_log_back(path, tmp_path):
    filled(path)
    assert names(tmp_path) == ["state", "state.sound"]


def test_opening_again_finds_what_was_there(path):
    state_id = filled(path, rows=3)
    store = Store.open(path)
    assert store.state_id == state_id
    assert store.db.execute("SELECT count(*) FROM pairing").fetchone() == (3,)
    store.close()


def test_each_state_file_has_its_own_name(tmp_path):
    first, second = filled(str(tmp_path / "1")), filled(str(tmp_path / "2"))
    assert first != second
    assert len(first) >= 16


def test_an_empty_file_becomes_a_state(path):
    Path(path).touch()
    assert filled(path)


def killed(path: str) -> None:
    """The state as a killed process left it: one row committed, another not, the log not folded back."""
    code = (
        "import os, sys; from pushpull.store import Store; from tests.support.rows import KEY, put;"
        "store = Store.open(sys.argv[1]); store.add_pair(KEY); put(store, uid=7);"
        "store.db.execute('BEGIN'); put(store, uid=8); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert os.path.getsize(path + "-wal")


def test_what_a_killed_process_committed_is_there(path):
    killed(path)
    store = Store.open(path)
    assert uids(store) == [7]
    store.close()


def test_two_that_make_it_at_once_agree(path):
    start, ids, failures = threading.Barrier(4), [], []

    def open_it():
        start.wait(20)
        try:
            store = Store.open(path)
            ids.append(store.state_id)
            store.close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert len(ids) == 4
    assert len(set(ids)) == 1


# --- refusing ---------------------------------------------------------------------------------------------------------


def test_a_newer_state_is_refused_untouched(path, tmp_path):
    filled(path)
    before = foreign(path, f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(StateUnusable, match=f"newer pushpull.*layout {VERSION + 1}") as caught:
        Store.open(path)
    assert not caught.value.corrupt
    assert caught.value.exit_code == EX_DISK
    assert "untouched" in caught.value.remedy
    assert Path(path).read_bytes() == before
    assert names(tmp_path) == ["state", "state.sound"]


def test_a_newer_state_is_refused_for_a_dry_run_too(path):
    filled(path)
    before = foreign(path, f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(StateUnusable, match="newer"):
        Store.snapshot(path)
    assert Path(path).read_bytes() == before


FOREIGN = {
    "of another program": ("CREATE TABLE messages (id INTEGER)",),
    "of the same layout number": ("CREATE TABLE messages (id INTEGER)", f"PRAGMA user_version = {VERSION}"),
    "of a higher layout number": ("CREATE TABLE messages (id INTEGER)", f"PRAGMA user_version = {VERSION + 5}"),
    "with another application's id": ("CREATE TABLE pair (id INTEGER)", "PRAGMA application_id = 77"),
}


@pytest.mark.parametrize("statements", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("how", [Store.open, Store.snapshot])
def test_an_sqlite_file_of_another_program_is_refused_untouched(path, tmp_path, statements, how):
    before = foreign(path, *statements)
    with pytest.raises(StateUnusable, match="no state of this pushpull") as caught:
        how(path)
    assert not caught.value.corrupt
    assert "local.state" in caught.value.remedy
    assert Path(path).read_bytes() == before
    assert names(tmp_path) == ["state"]


def garble(path: str, at: int, size: int) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(b"\xa5" * size)


def root_of(path: str, name: str) -> int:
    """Offset of the root page of a table or index."""
    connection = sqlite3.connect(path)
    (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    return (page - 1) * size


DAMAGE = {
    "garbage at its head": lambda path: garble(path, 0, 100),
    "garbage all over": lambda path: garble(path, 0, os.path.getsize(path)),
    "text": lambda path: Path(path).write_text("so much for my mail\n" * 500),
    "a short text": lambda path: Path(path).write_text("hello\n"),
    "cut to half": lambda path: os.truncate(path, os.path.getsize(path) // 2),
    "cut to one page": lambda path: os.truncate(path, 4096),
    "cut to its head": lambda path: os.truncate(path, 100),
    "cut within its head": lambda path: os.truncate(path, 10),
    "a garbage page of rows": lambda path: garble(path, root_of(path, "pairing"), 4096),
    "a garbage page of pairs": lambda path: garble(path, root_of(path, "pair"), 4096),
    "a garbage page of an index": lambda path: garble(path, root_of(path, "pairing_uid"), 4096),
    "a garbage page of the schema": lambda path: garble(path, 100, 3996),
    "nulls in the middle": lambda path: garble(path, os.path.getsize(path) // 2, 8192),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("how", [Store.open, Store.snapshot])
def test_a_corrupt_file_is_told_from_all_else_and_not_written_to(path, damage, how):
    filled(path, rows=300)
    damage(path)
    before = Path(path).read_bytes()
    with pytest.raises(StateUnusable, match="corrupt") as caught:
        how(path)
    assert caught.value.corrupt
    assert "--yes" in caught.value.remedy
    assert Path(path).read_bytes() == before


def test_corruption_that_shows_only_later_is_told_too(path):
    filled(path, rows=300)
    store = Store.open(path)
    offset = root_of(path, "pair")
    store.db.execute("PRAGMA cache_size = 0")
    garble(path, offset, 4096)
    with pytest.raises(StateUnusable, match="corrupt") as caught:
        store.pairs()
    assert caught.value.corrupt
    store.close()


def test_a_corrupt_file_is_kept_aside_with_its_log(path, tmp_path):
    for tail in ("", "-wal", "-shm"):
        Path(path + tail).write_text(f"damaged{tail}")
    kept = keep_corrupt_aside(path, "20260102T030405")
    assert kept == f"{path}.corrupt-20260102T030405"
    assert names(tmp_path) == sorted(f"state.corrupt-20260102T030405{tail}" for tail in ("", "-wal", "-shm"))
    assert [Path(kept + tail).read_text() for tail in ("", "-wal", "-shm")] == ["damaged", "damaged-wal", "damaged-shm"]
    assert filled(path)


def test_a_corrupt_file_without_a_log_is_kept_aside_too(path, tmp_path):
    Path(path).write_text("damaged")
    keep_corrupt_aside(path, "x")
    assert names(tmp_path) == ["state.corrupt-x"]


def test_a_corrupt_file_that_cannot_be_kept_aside_is_a_disk_error(path):
    Path(path).write_text("damaged")
    with pytest.raises(LocalDiskError, match="state file"):
        keep_corrupt_aside(path, "no/such/directory")
    assert Path(path).read_text() == "damaged"


# --- a dry run's copy -------------------------------------------------------------------------------------------------


def test_a_snapshot_writes_nothing(path, tmp_path):
    filled(path, rows=3)
    before, stamp = Path(path).read_bytes(), os.stat(path).st_mtime_ns
    store = Store.snapshot(path)
    pair = store.find_pair(KEY)
    assert store.db.execute("SELECT count(*) FROM pairing").fetchone() == (3,)
    store.update_pair(pair, uidnext=Uid(99))
    store.add_pair(OTHER)
    put(store, uid=4)
    store.close()
    assert names(tmp_path) == ["state", "state.sound"]
    assert (Path(path).read_bytes(), os.stat(path).st_mtime_ns) == (before, stamp)


def test_a_snapshot_creates_nothing(tmp_path):
    store = Store.snapshot(str(tmp_path / "no" / "state"))
    assert store.pairs() == []
    assert store.add_pair(KEY).id == 1
    assert store.state_id
    store.close()
    assert names(tmp_path) == []


def test_a_snapshot_of_an_empty_file_leaves_it_empty(path, tmp_path):
    Path(path).touch()
    Store.snapshot(path).close()
    assert names(tmp_path) == ["state"]
    assert os.path.getsize(path) == 0


def test_a_snapshot_keeps_the_name_of_the_state(path):
    state_id = filled(path)
    store = Store.snapshot(path)
    assert store.state_id == state_id
    store.close()


def test_a_snapshot_sees_what_another_process_committed_but_did_not_fold_back(path, store):
    store.add_pair(KEY)
    with store.transaction():
        put(store, uid=5)
        copy = Store.snapshot(path)
    assert copy.find_pair(KEY) == store.find_pair(KEY)
    assert copy.db.execute("SELECT count(*) FROM pairing").fetchone() == (0,)
    copy.close()


def test_a_snapshot_of_what_a_killed_process_left_changes_nothing_there(path, tmp_path):
    killed(path)
    before = {tail: Path(path + tail).read_bytes() for tail in ("", "-wal")}
    store = Store.snapshot(path)
    assert uids(store) == [7]
    store.close()
    assert {tail: Path(path + tail).read_bytes() for tail in ("", "-wal")} == before
    assert names(tmp_path) == ["state", "state-shm", "state-wal", "state.sound"]


def test_a_path_with_signs_that_mean_something_in_an_address(tmp_path):
    path = str(tmp_path / "a b?c#d%41")
    filled(path)
    store = Store.snapshot(path)
    assert store.find_pair(KEY) is not None
    store.close()
    assert all(name.startswith("a b?c#d%41") for name in names(tmp_path))


# --- errors -----------------------------------------------------------------------------------------------------------


def test_a_busy_state_is_temporary(path, monkeypatch):
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.02)
    first, second = Store.open(path), Store.open(path)
    with first.transaction(), pytest.raises(StateBusy, match="in use"), second.transaction():
        raise AssertionError("two hold the write lock")
    second.add_pair(KEY)
    assert first.find_pair(KEY) is not None
    first.close()
    second.close()


def test_a_state_that_somebody_makes_right_now_is_busy(path, monkeypatch):
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.02)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StateBusy, match="in use"):
        Store.open(path)
    other.close()
    assert filled(path)


def test_a_full_disk(store):
    store.add_pair(KEY)
    store.db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(LocalDiskError, match="full") as caught:
        write(store, range(1, 2000))
    assert caught.value.exit_code == EX_DISK
    assert store.db.execute("SELECT count(*) FROM pairing").fetchone() == (0,)
    store.db.execute("PRAGMA max_page_count = 100000")
    with store.transaction():
        put(store, uid=1)


def test_a_state_that_may_not_be_written(store):
    store.db.execute("PRAGMA query_only = ON")
    with pytest.raises(LocalDiskError, match="readonly"):
        store.add_pair(KEY)


UNOPENABLE = {
    "a directory": lambda tmp: os.mkdir(tmp / "state"),
    "a link to nowhere": lambda tmp: os.symlink(tmp / "no" / "where", tmp / "state"),
}


@pytest.mark.parametrize("obstacle", UNOPENABLE.values(), ids=UNOPENABLE)
def test_what_cannot_be_opened_is_a_disk_error(tmp_path, path, obstacle):
    obstacle(tmp_path)
    with pytest.raises(LocalDiskError, match="state file") as caught:
        Store.open(path)
    assert caught.value.remedy


def test_a_file_where_a_directory_should_be_is_a_disk_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LocalDiskError, match="state file"):
        Store.open(str(tmp_path / "file" / "state"))


FULL_DISK = """
import resource, signal, sys
from pushpull.errors import LocalDiskError
from pushpull.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    Store.open(sys.argv[1]).add_pair(__import__("tests.support.rows").support.rows.KEY)
except LocalDiskError as error:
    print("told:", error)
"""


@pytest.mark.parametrize("limit", [0, 4096, 20_000, 40_000])
def test_a_disk_that_fills_while_the_state_is_made_is_a_disk_error(path, limit):
    """The kernel refuses each byte beyond the limit, as a full disk does."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path, str(limit)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.startswith("told: state file"), done.stderr
    assert done.returncode == 0
    assert filled(path)  # and it can be made when there is room again


def test_a_bug_of_ours_keeps_its_traceback(store):
    with pytest.raises(sqlite3.OperationalError, match="no such table"), translate("state"):
        store.db.execute("SELECT * FROM nowhere")


# --- transactions -----------------------------------------------------------------------------------------------------


def test_a_transaction_is_kept_whole(store):
    store.add_pair(KEY)
    with store.transaction():
        put(store, uid=1)
        put(store, uid=2)
    assert uids(store) == [1, 2]
    assert not store.db.in_transaction


class Stop(BaseException):
    """Not even an Exception: a signal, say."""


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, Stop])
def test_a_transaction_that_fails_leaves_nothing(store, kind):
    store.add_pair(KEY)
    with pytest.raises(kind):
        write(store, [1], kind())
    assert uids(store) == []
    with store.transaction():
        put(store, uid=2)
    assert uids(store) == [2]


def test_an_inner_transaction_joins_the_outer_one(store):
    store.add_pair(KEY)
    with store.transaction():
        put(store, uid=1)
        with store.transaction():
            put(store, uid=2)
        assert store.db.in_transaction
    assert uids(store) == [1, 2]


def durability(store) -> int:
    """2: each commit is flushed; 1: it waits for the next one that is."""
    return store.db.execute("PRAGMA synchronous").fetchone()[0]


def test_what_is_observed_waits_for_the_next_durable_step(store):
    pair = store.add_pair(KEY)
    with store.observation():
        put(store, uid=1)
        pair = store.note_pair(pair, modseq=ModSeq(7))
        assert durability(store) == 1
    with store.transaction():
        with store.observation():
            put(store, uid=2)
        pair = store.update_pair(pair, uidnext=Uid(3))
        assert durability(store) == 2
    assert uids(store) == [1, 2]
    assert store.pair(pair.id) == pair


def test_a_durable_step_is_not_hidden_in_one_that_is_not(store):
    pair = store.add_pair(KEY)

    def hidden():
        with store.observation():
            put(store, uid=1)
            store.update_pair(pair, uidnext=Uid(3))

    with pytest.raises(RuntimeError):
        hidden()
    assert uids(store) == []


def test_an_outer_transaction_that_fails_takes_the_inner_one_along(store):
    store.add_pair(KEY)

    def outer():
        with store.transaction():
            write(store, [1])
            raise ValueError("outer")

    with pytest.raises(ValueError, match="outer"):
        outer()
    assert uids(store) == []


def test_an_inner_transaction_that_fails_takes_the_outer_one_along(store):
    store.add_pair(KEY)

    def outer():
        with store.transaction():
            put(store, uid=1)
            write(store, [2], ValueError("inner"))

    with pytest.raises(ValueError, match="inner"):
        outer()
    assert uids(store) == []


def test_a_commit_is_seen_by_others_and_nothing_before_it(path, store):
    other = Store.open(path)
    with store.transaction():
        store.add_pair(KEY)
        assert other.find_pair(KEY) is None
    assert other.find_pair(KEY) is not None
    other.close()


def test_nothing_is_held_after_a_transaction_could_not_begin(path, store, monkeypatch):
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.02)
    other = Store.open(path)
    with store.transaction(), pytest.raises(StateBusy):
        other.add_pair(KEY)
    with other.transaction():
        other.add_pair(KEY)
    assert store.find_pair(KEY) is not None
    other.close()


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_a_new_pair_knows_nothing(store):
    assert store.find_pair(KEY) is None
    pair = store.add_pair(KEY)
    assert pair == Pair(id=1, key=KEY)
    assert store.pairs() == [pair] == [store.find_pair(KEY)]
    assert store.pair(1) == pair


@pytest.mark.parametrize("field", ["host", "login", "local", "remote"])
def test_a_pair_is_its_account_its_folder_and_its_mailbox(store, field):
    changed = PairKey(**{name: getattr(KEY, name) + "x" * (name == field) for name in KEY.__slots__})
    first, second = store.add_pair(KEY), store.add_pair(changed)
    assert first.id != second.id
    assert (store.find_pair(KEY), store.find_pair(changed)) == (first, second)


def test_a_pair_is_there_once(store):
    first = store.update_pair(store.add_pair(KEY), uidnext=Uid(5))
    assert store.add_pair(KEY) == first
    assert store.pairs() == [first]


NUMBERS = st.integers(0, (1 << 63) - 1)
IDENTITIES = st.builds(
    Identity,
    uid=st.integers(1, (1 << 32) - 1).map(Uid),
    size=NUMBERS,
    internaldate=st.text(max_size=30),
    message_id=st.text(max_size=30) | st.just("\udcff'\"\\\0"),
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "uidvalidity": st.integers(0, (1 << 32) - 1),
        "uidnext": st.integers(1, 1 << 32).map(Uid),
        "modseq": NUMBERS.map(ModSeq),
        "scan_modseq": NUMBERS.map(ModSeq),
        "scan_uid": st.integers(0, 1 << 32).map(Uid),
        "generation": NUMBERS,
        "marker_generation": NUMBERS,
        "canary": st.lists(IDENTITIES, max_size=4).map(tuple),
        "compared_at": st.floats(0, 1e10),
        "hook_due": st.booleans(),
    },
).filter(bool)


@given(changes=CHANGES)
def test_what_is_written_of_a_pair_is_read_back(changes):
    store = Store.snapshot("/nonexistent/state")
    pair, other = store.add_pair(KEY), store.add_pair(OTHER)
    changed = store.update_pair(pair, **changes)
    assert changed == store.pair(pair.id) == store.find_pair(KEY)
    assert {name: getattr(changed, name) for name in changes} == changes
    assert store.pair(other.id) == other
    store.close()


def test_forgetting_a_pair_keeps_its_name_and_its_generation(store):
    pair, other = store.add_pair(KEY), store.add_pair(OTHER)
    canary = (Identity(Uid(4), 5, "1-Jan-2026 00:00:00 +0000", "m"),)
    pair = store.update_pair(
        pair, uidvalidity=9, uidnext=Uid(5), modseq=ModSeq(8), scan_modseq=ModSeq(7), scan_uid=Uid(3), canary=canary
    )
    pair = store.update_pair(pair, generation=4, marker_generation=4, hook_due=True)
    put(store, pair=pair.id, uid=1)
    put(store, pair=other.id, uid=1)
    forgotten = store.forget_pair(pair)
    assert forgotten == Pair(id=pair.id, key=KEY, generation=4, marker_generation=4, hook_due=True)
    assert store.pair(pair.id) == forgotten
    assert store.db.execute("SELECT pair FROM pairing").fetchall() == [(other.id,)]


def test_a_row_belongs_to_a_pair(store):
    with pytest.raises(sqlite3.IntegrityError):
        put(store, pair=77, uid=1)


@pytest.mark.parametrize("columns", [{"uid": 5}, {"uniquename": b"u"}])
def test_a_uid_and_a_uniquename_are_there_once_in_a_pair(store, columns):
    first, second = store.add_pair(KEY), store.add_pair(OTHER)
    put(store, pair=first.id, **columns)
    put(store, pair=second.id, **columns)
    with pytest.raises(sqlite3.IntegrityError):
        put(store, pair=first.id, **columns)
