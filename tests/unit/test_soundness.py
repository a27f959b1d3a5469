# SPDX-License-Identifier: MIT
"""A state file is read whole when it is opened, unless it is exactly what pushpull left after it had found it sound."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pushpull import soundness, store
from pushpull.errors import StateUnusable
from pushpull.store import Store
from tests.support.rows import KEY, put


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A state file with rows, closed well by the pushpull that made it."""
    path = str(tmp_path / "state")
    made = Store.open(path)
    fill(made)
    made.close()
    return path


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read whole."""
    seen: list[str] = []
    really = store._check_sound

    def check(connection: sqlite3.Connection, path: str) -> None:
        seen.append(path)
        really(connection, path)

    monkeypatch.setattr(store, "_check_sound", check)
    return seen


def fill(made: Store) -> None:
    pair = made.find_pair(KEY) or made.add_pair(KEY)
    with made.transaction():
        for _ in range(50):
            put(made, pair=pair.id, message_id="x" * 100)


def beside(path: str) -> Path:
    return Path(f"{path}.sound")


def opened(path: str, looks: list[str]) -> bool:
    """Whether it was read whole."""
    looks.clear()
    Store.open(path).close()
    return bool(looks)


def test_what_was_left_sound_is_not_read_again(path: str, looks: list[str]) -> None:
    assert not opened(path, looks)
    assert not opened(path, looks)


def test_nor_what_pushpull_wrote_since(path: str, looks: list[str]) -> None:
    again = Store.open(path)
    fill(again)
    again.close()
    assert not opened(path, looks)


def test_nor_for_a_dry_run_which_writes_nothing(path: str, looks: list[str], tmp_path: Path) -> None:
    before = {each.name: each.stat() for each in tmp_path.iterdir()}
    Store.snapshot(path).close()
    assert not looks
    assert {each.name: each.stat() for each in tmp_path.iterdir()}.keys() == before.keys()
    assert beside(path).stat().st_mtime_ns == before["state.sound"].st_mtime_ns


def test_a_run_that_changes_nothing_writes_nothing(path: str) -> None:
    stamps = [os.stat(name).st_ctime_ns for name in (path, beside(path))]
    Store.open(path).close()
    assert [os.stat(name).st_ctime_ns for name in (path, beside(path))] == stamps


def test_it_is_private_and_says_nothing_of_mail(path: str) -> None:
    assert beside(path).stat().st_mode & 0o777 == 0o600
    assert len(beside(path).read_bytes().split()) == 7


def rewritten(path: str) -> None:
    """In its place, with its time put back."""
    status = os.stat(path)
    data = Path(path).read_bytes()
    Path(path).write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replaced(path: str) -> None:
    shutil.copy2(path, f"{path}.copy")
    os.replace(f"{path}.copy", path)


def crashed(path: str) -> None:
    """With a log that was not folded back."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE pair SET hook_due = 1")
    shutil.copy2(f"{path}-wal", f"{path}-kept")
    status = os.stat(path)
    connection.close()
    os.replace(f"{path}-kept", f"{path}-wal")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def changed_line(change: Callable[[list[bytes]], object]) -> Callable[[str], None]:
    def act(path: str) -> None:
        line = beside(path).read_bytes().split()
        change(line)
        beside(path).write_bytes(b" ".join(line) + b"\n")

    return act


def times(path: str) -> list[bytes]:
    status = os.stat(path)
    return [b"%d" % each for each in (status.st_size, status.st_mtime_ns, status.st_ctime_ns)]


def aged(seconds: float) -> Callable[[str], None]:
    return changed_line(lambda line: line.__setitem__(-1, b"%d" % (time.time() - seconds)))


DOUBTS = {
    "written to": rewritten,
    "restored": replaced,
    "permissions": lambda path: os.chmod(path, 0o640),
    "crashed": crashed,
    "no line": lambda path: beside(path).unlink(),
    "empty": lambda path: beside(path).write_bytes(b""),
    "no text": lambda path: beside(path).write_bytes(os.urandom(80)),
    "a link": lambda path: (beside(path).rename(f"{path}.other"), beside(path).symlink_to(f"{path}.other")),
    "a directory": lambda path: (beside(path).unlink(), beside(path).mkdir()),
    "a day old": aged(86_401),
    "ahead": aged(-3600),
    "another boot": changed_line(lambda line: line.__setitem__(0, b"another")),
    "too short": changed_line(lambda line: line.pop(3)),
    "too long": changed_line(lambda line: line.append(line[-1])),
}


@pytest.mark.parametrize("doubt", DOUBTS.values(), ids=DOUBTS)
def test_anything_else_is_read(path: str, looks: list[str], doubt: Callable[[str], object]) -> None:
    doubt(path)
    assert opened(path, looks)


def test_a_line_cut_anywhere_is_none(path: str, looks: list[str]) -> None:
    line = beside(path).read_bytes()
    for end in range(len(line)):
        beside(path).write_bytes(line[:end])
        assert not soundness.is_vouched_for(path)


def test_a_copy_with_its_line_is_read(path: str, looks: list[str], tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    copy = str(tmp_path / "copy" / "state")
    shutil.copy2(path, copy)
    shutil.copy2(beside(path), beside(copy))
    assert opened(copy, looks)


def test_it_is_read_while_another_has_it_open(path: str, looks: list[str]) -> None:
    """Its log may end before it is folded back, and the file alone be half of two states."""
    first = Store.open(path)
    fill(first)
    assert opened(path, looks)
    first.close()
    assert not opened(path, looks)


def test_a_file_without_the_log_it_was_read_with_is_read(path: str, looks: list[str]) -> None:
    beside(path).unlink()
    writing = Store.open(path)
    fill(writing)
    Store.open(path).close()  # finds it sound, with the log
    shutil.copy2(beside(path), f"{path}.kept")
    left = Path(path).read_bytes()
    writing.close()
    Path(path).write_bytes(left)
    os.replace(f"{path}.kept", beside(path))
    changed_line(lambda line: line.__setitem__(slice(3, 6), times(path) if line[3] != b"-" else line[3:6]))(path)
    assert opened(path, looks)


def test_another_file_under_its_name_is_not_vouched_for(path: str, looks: list[str]) -> None:
    first = Store.open(path)
    shutil.copy2(path, f"{path}.copy")
    os.replace(f"{path}.copy", path)
    first.close()
    assert opened(path, looks)


def test_damage_that_shows_only_later_is_looked_for_at_the_next_start(path: str) -> None:
    damaged = Store.open(path)
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorname = "SQLITE_CORRUPT"
    with pytest.raises(StateUnusable), store.translate(path):
        raise error
    damaged.close()
    assert not soundness.is_vouched_for(path)
