# SPDX-License-Identifier: MIT
"""Directories that hold what was known and what we changed are told, and no others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from inotify_simple import INotify

from pushpull import own_changes
from pushpull.flags import FLAGGED, SEEN
from pushpull.maildir import Maildir
from pushpull.model import DirectoryStamp, LocalFile, Uniquename
from pushpull.ports import Delivery
from tests.support.waiting import wait_for

WIRE = b"Message-ID: <one@x>\r\n\r\nHello\r\n"


@pytest.fixture(autouse=True)
def every_directory_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_changes, "LARGE", 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "INBOX"


@pytest.fixture
def local(path: Path) -> Maildir:
    local = Maildir(str(path), host="host")
    local.create()
    for name in ("a:2,S", "b:2,S"):
        (path / "cur" / name).write_bytes(b"\n")
    return local


def stamp(path: Path, directory: str) -> DirectoryStamp:
    status = os.stat(path / directory)
    return (status.st_dev, status.st_ino, status.st_ctime_ns)


def stamps(path: Path) -> dict[str, DirectoryStamp]:
    return {directory: stamp(path, directory) for directory in ("new", "cur")}


def file(name: str) -> LocalFile:
    return LocalFile(Uniquename(name.encode()), "cur", b":2,S", SEEN)


def deliver(local: Maildir, flags: int = 0) -> None:
    local.deliver([Delivery(local.stage([WIRE], 1e9), flags)])


def flag(local: Maildir, name: str = "a") -> None:
    assert local.set_flags(file(name), FLAGGED, 0) is not None


def test_our_own_changes_alone(local, path):
    with local.own_changes(stamps(path)) as own:
        deliver(local)
        deliver(local, SEEN)
        flag(local)
        flag(local, "b")
        assert own.settle() == stamps(path)


def test_only_what_we_changed_is_told(local, path):
    with local.own_changes(stamps(path)) as own:
        flag(local)
        assert own.settle() == {"cur": stamp(path, "cur")}


def test_mail_that_moves_from_new_to_cur(local, path):
    (path / "new" / "c").write_bytes(b"\n")
    with local.own_changes(stamps(path)) as own:
        assert local.set_flags(LocalFile(Uniquename(b"c"), "new", b"", 0), SEEN, 0) is not None
        assert own.settle() == stamps(path)


def test_a_directory_that_was_not_known(local, path):
    known = stamps(path)
    del known["cur"]
    with local.own_changes(known) as own:
        flag(local)
        deliver(local)
        assert own.settle() == {"new": stamp(path, "new")}


FOREIGN: dict[str, Callable[[Path], object]] = {
    "delivered": lambda cur: (cur / "new mail").write_bytes(b"\n"),
    "renamed": lambda cur: (cur / "b:2,S").rename(cur / "b:2,FS"),
    "renamed and back": lambda cur: (cur / "b:2,S").rename(cur / "x").rename(cur / "b:2,S"),
    "removed": lambda cur: (cur / "b:2,S").unlink(),
    "a directory": lambda cur: (cur / "directory").mkdir(),
    "moved away": lambda cur: cur.rename(cur.with_name("elsewhere")),
    "replaced": lambda cur: (cur.rename(cur.with_name("elsewhere")), cur.mkdir()),
    "the folder replaced": lambda cur: (
        cur.parent.rename(cur.parent.with_name("elsewhere")),
        [(cur.parent / name).mkdir(parents=True) for name in ("cur", "new")],
    ),
    "our file renamed": lambda cur: next(cur.glob("a:*")).rename(cur / "a:2,R"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_somebody_else_changed_is_not_told(local, path, what):
    with local.own_changes(stamps(path)) as own:
        flag(local)
        FOREIGN[what](path / "cur")
        assert own.settle() == {}


def test_what_somebody_else_changed_before_the_first_of_ours(local, path):
    with local.own_changes(stamps(path)) as own:
        (path / "cur" / "b:2,S").unlink()
        flag(local)
        assert own.settle() == {}


def test_what_somebody_else_changed_between_two_of_ours(local, path):
    with local.own_changes(stamps(path)) as own:
        flag(local)
        (path / "cur" / "c").write_bytes(b"\n")
        (path / "cur" / "c").unlink()
        flag(local, "b")
        assert own.settle() == {}


def test_a_rename_in_two_steps_is_not_told(local, path, monkeypatch):
    """Where the file system cannot rename without overwriting."""
    monkeypatch.setattr("pushpull.durable._LIBC", object())
    with local.own_changes(stamps(path)) as own:
        flag(local)
        assert own.settle() == {}
    assert (path / "cur" / "a:2,FS").exists()


def test_a_change_that_failed_half_way(local, path, monkeypatch):
    """The first of two is in place, which its caller does not know."""
    real, left = own_changes.OwnChanges.begin, [1]

    def begin(self, directory):
        real(self, directory)
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(own_changes.OwnChanges, "begin", begin)
    with local.own_changes(stamps(path)) as own:
        with pytest.raises(KeyboardInterrupt):
            local.deliver([Delivery(local.stage([WIRE], 1e9), 0) for _ in range(2)])
        assert own.settle() == {}
    assert len(list((path / "new").iterdir())) == 1


def test_events_that_were_lost(local, path, monkeypatch):
    read = INotify.read

    class Event:
        wd, mask, name = -1, 0x4000, ""

    monkeypatch.setattr(INotify, "read", lambda self, timeout: [*read(self, timeout=timeout), Event()])
    with local.own_changes(stamps(path)) as own:
        flag(local)
        assert own.settle() == {}


@pytest.mark.parametrize("where", ["__init__", "add_watch"])
def test_without_inotify_nothing_is_told(local, path, monkeypatch, where):
    def refuse(*args, **kwargs):
        raise OSError(24, "too many")

    monkeypatch.setattr(INotify, where, refuse)
    with local.own_changes(stamps(path)) as own:
        flag(local)
        assert own.settle() == {}


def test_more_changes_than_are_counted(local, path, monkeypatch):
    monkeypatch.setattr(own_changes, "_MOST", 2)
    with local.own_changes(stamps(path)) as own:
        deliver(local)
        flag(local)
        flag(local, "b")
        assert own.settle() == {"new": stamp(path, "new")}


def test_the_time_that_is_told_is_over(local, path):
    """A change that comes next has another one."""
    with local.own_changes(stamps(path)) as own:
        flag(local)
        told = own.settle()["cur"]
        assert time.time_ns() - told[2] >= 20_000_000
    (path / "cur" / "c").write_bytes(b"\n")
    assert stamp(path, "cur") != told


@pytest.mark.parametrize("shown", [lambda ns: ns // 10**9 * 10**9, lambda ns: ns + 10**12], ids=["seconds", "future"])
def test_times_that_tell_nothing(local, path, monkeypatch, shown):
    known = {name: (device, inode, shown(ctime)) for name, (device, inode, ctime) in stamps(path).items()}
    real = own_changes.stamp_of
    at = known["cur"][2]

    def look(path):
        device, inode, _ = real(path)
        return (device, inode, at)

    monkeypatch.setattr(own_changes, "stamp_of", look)
    with local.own_changes(known) as own:
        flag(local)
        assert own.settle() == {}


def test_a_small_directory_is_read_sooner_than_watched(local, path, monkeypatch):
    monkeypatch.setattr(own_changes, "LARGE", 1 << 18)
    monkeypatch.setattr(INotify, "__init__", None)
    with local.own_changes(stamps(path)) as own:
        flag(local)
        assert own.settle() == {}


def watches() -> list[str]:
    """Descriptors of inotify."""
    links = Path("/proc/self/fd").iterdir()
    return [link.name for link in links if link.is_symlink() and os.path.realpath(link).endswith("inotify")]


def test_nothing_is_watched_after_the_end(local, path):
    with local.own_changes(stamps(path)) as own:
        flag(local)
        assert watches()
    flag(local, "b")
    assert own.settle() == {}
    wait_for(lambda: not watches(), what="the end of the watch")
    before = os.listdir("/proc/self/fd")
    deliver(local)
    assert os.listdir("/proc/self/fd") == before
