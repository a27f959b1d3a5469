# SPDX-License-Identifier: MIT
"""A directory that nobody changed is not read, and of one that was changed only what differs is looked at: nothing that
somebody did to the folder may stay unseen by that.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pushpull import folder, observed_local, own_changes
from pushpull.durable import shows_each_change
from pushpull.errors import LocalDiskError, MessageError
from pushpull.flags import FLAGGED, SEEN
from pushpull.maildir import Maildir
from pushpull.model import Uniquename
from pushpull.observe_local import LocalObserver
from pushpull.observed_local import KnownFiles, LocalRows
from pushpull.values import replace
from tests.support.rows import KEY, memory_store, rows
from tests.support.waiting import wait_for
from tests.sync.world import Silence

NOW = 1_800_000_000.0
DAY = 86_400.0


class Place:
    """A folder with mail in new/, cur/ and a bucket, all of it known; and looks at it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.store = root, memory_store()
        self.local = Maildir(str(root), fsync=False)
        self.local.create()
        self.report = Silence()
        self.read: list[str] = []
        really = folder.Folder._read

        def read(maildir: folder.Folder, directory: str, *rest: object) -> bool:
            self.read.append(directory)
            return really(maildir, directory, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(folder.Folder, "_read", read)
        for path in ("new/n", "cur/a:2,", "cur/b:2,S", "a3/cur/c:2,", "a3/new/d"):
            self.put(path)
        self.rest()
        self.look()
        self.rest()

    def put(self, path: str, text: str = "") -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text or f"Message-ID: <{path.partition(':')[0][-1]}@x>\n\n{path}\n")

    def rest(self) -> None:
        """Until the kernel's clock has gone on since the last change."""
        directories = [self.root, *(path for path in self.root.rglob("*") if path.is_dir())]
        newest = max(path.stat().st_ctime_ns for path in directories)
        wait_for(lambda: time.time_ns() - newest > 40_000_000, what="the clock to go on")

    def look(self, *, now: float = NOW, whole: bool = False, believe: bool = True) -> list[str]:
        """As a cycle looks; which directories were read."""
        self.read.clear()
        known = KnownFiles(self.store, 1, now=now, whole=whole)
        observer = LocalObserver(self.local, self.store, 1, known=known, boot="boot", repair=True, report=self.report)
        observer.take_in(observer.look(), believe=believe)
        return sorted(set(self.read))

    def believed(self) -> dict[str, bool]:
        """Path of each file as the state has it, and whether it is gone."""
        return {
            f"{row['directory']}/{(row['uniquename'] + row['info']).decode('latin-1')}": bool(row["gone"])
            for row in rows(self.store)
            if row["uniquename"] is not None
        }


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(folder, "_SETTLED_NS", 30_000_000)
    monkeypatch.setattr(folder, "shows_each_change", lambda _fd: True)
    made = Place(tmp_path / "folder", monkeypatch)
    yield made
    made.store.close()


ALL = ["a3/cur", "a3/new", "cur", "new"]


def test_what_nobody_changed_is_not_read(place: Place) -> None:
    before, changes = place.believed(), place.store.db.total_changes
    assert place.look() == []
    assert (
        place.believed()
        == before
        == dict.fromkeys(["new/n", "cur/a:2,", "cur/b:2,S", "a3/cur/c:2,", "a3/new/d"], False)
    )
    assert place.store.db.total_changes == changes


def swapped(root: Path) -> None:
    """Another file takes the name of one, and then that is taken away."""
    (root / "tmp/x").write_text("Message-ID: <x@x>\n\n")
    (root / "tmp/x").replace(root / "cur/a:2,")
    (root / "cur/a:2,").unlink()


def copied(root: Path) -> None:
    """The folder that was copied, less a file, is put in its place."""
    shutil.copytree(root, root.with_name("copy"))
    (root.with_name("copy") / "cur/a:2,").unlink()
    root.rename(root.with_name("old"))
    root.with_name("copy").rename(root)


def dated_back(root: Path) -> None:
    status = (root / "cur").stat()
    (root / "cur/a:2,").unlink()
    os.utime(root / "cur", ns=(status.st_atime_ns, status.st_mtime_ns))


# What is done, which directories are read then, and what the state has to believe.
CHANGES: dict[str, tuple[Callable[[Path], object], list[str], dict[str, bool], list[str]]] = {
    "flagged": (
        lambda root: (root / "cur/a:2,").rename(root / "cur/a:2,F"),
        ["cur"],
        {"cur/a:2,F": False},
        ["cur/a:2,"],
    ),
    "removed": (lambda root: (root / "cur/a:2,").unlink(), ["cur"], {"cur/a:2,": True}, []),
    "added": (lambda root: (root / "new/e").write_text("e\n"), ["new"], {"new/e": False}, []),
    "read": (lambda root: (root / "new/n").rename(root / "cur/n:2,S"), ["cur", "new"], {"cur/n:2,S": False}, ["new/n"]),
    "back to new": (
        lambda root: (root / "cur/a:2,").rename(root / "new/a"),
        ["cur", "new"],
        {"new/a": False},
        ["cur/a:2,"],
    ),
    "into a bucket": (
        lambda root: (root / "cur/a:2,").rename(root / "a3/cur/a:2,"),
        ["a3/cur", "cur"],
        {"a3/cur/a:2,": False},
        ["cur/a:2,"],
    ),
    "another uniquename": (
        lambda root: (root / "cur/a:2,").rename(root / "cur/z:2,"),
        ["cur"],
        {"cur/z:2,": False},
        ["cur/a:2,"],
    ),
    "swapped": (swapped, ["cur"], {"cur/a:2,": True}, []),
    "mtime put back": (dated_back, ["cur"], {"cur/a:2,": True}, []),
    "a copy": (copied, ALL, {"cur/a:2,": True, "new/n": False, "a3/new/d": False}, []),
    "a bucket": (
        lambda root: (
            (root / "b4/cur").mkdir(parents=True),
            (root / "b4/new").mkdir(),
            (root / "b4/cur/e:2,").write_text("e\n"),
        ),
        ["b4/cur", "b4/new"],
        {"b4/cur/e:2,": False},
        [],
    ),
}


@pytest.mark.parametrize(("act", "read", "believed", "not_any_more"), CHANGES.values(), ids=CHANGES)
def test_what_somebody_did_is_seen(
    place: Place,
    act: Callable[[Path], object],
    read: list[str],
    believed: dict[str, bool],
    not_any_more: list[str],
) -> None:
    act(place.root)
    assert place.look() == read
    assert place.believed().items() >= believed.items()
    assert not place.believed().keys() & set(not_any_more)
    place.rest()
    before = place.believed()
    place.look()
    assert place.look() == []
    assert place.believed() == before


def test_a_bucket_that_is_away_shows_no_absences(place: Place) -> None:
    shutil.rmtree(place.root / "a3")
    with pytest.raises(LocalDiskError, match="a3/"):
        place.look()


@pytest.mark.parametrize("seconds", [-1.0, DAY + 1])
def test_once_a_day_all_of_it_is_read(place: Place, seconds: float) -> None:
    """Or when the clock was ahead then."""
    assert place.look(now=NOW + seconds) == ALL


def test_what_we_changed_ourselves_is_not_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody else changes afterwards is, and once a day all of it."""
    monkeypatch.setattr(own_changes, "LARGE", 0)
    known = KnownFiles(place.store, 1, now=NOW + 1, whole=False)
    file = place.local.find(Uniquename(b"a"))
    with place.local.own_changes(known.stamps()) as own:
        assert place.local.set_flags(file, FLAGGED, 0)
        known.moved_on(own.settle())
    assert place.look(now=NOW + 2) == []
    (place.root / "cur/e:2,").write_text("Message-ID: <e@x>\n\n")
    assert place.look(now=NOW + 3) == ["cur"]
    assert place.look(now=NOW + DAY + 1) == ALL


def test_all_of_it_is_read_when_asked_for(place: Place) -> None:
    assert place.look(whole=True) == ALL


def test_a_directory_that_changed_just_now_is_read_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows in the same tick of the clock would give it the same time."""
    monkeypatch.setattr(folder, "_SETTLED_NS", 3600 * 1_000_000_000)
    assert place.look(whole=True) == ALL
    assert place.look() == ALL


def test_a_directory_from_the_future_is_read_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clock was put back, and may come by this time again."""
    status = (place.root / "cur").stat()
    really = time.time_ns
    monkeypatch.setattr(folder.time, "time_ns", lambda: min(really(), status.st_ctime_ns - 1_000_000_000))
    place.look(whole=True)
    assert place.look() == ALL


def test_a_directory_that_others_may_write_to_is_read_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "shows_each_change", lambda _fd: False)
    assert place.look(whole=True) == ALL
    assert place.look() == ALL


def test_which_file_systems_are_of_this_machine_alone() -> None:
    for path, expected in (("/dev/shm", True), ("/proc", False), ("/sys", False)):
        fd = os.open(path, os.O_RDONLY)
        try:
            assert shows_each_change(fd) is expected
        finally:
            os.close(fd)


def test_a_scan_that_something_moved_in_is_made_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder.Folder, "_moved", lambda _self, _before: True)
    place.look(whole=True)
    monkeypatch.undo()
    assert KnownFiles(place.store, 1, now=NOW, whole=False).directories() == dict.fromkeys(ALL)


@pytest.mark.parametrize("act", [lambda path: path.mkdir(), lambda path: path.symlink_to("b:2,S")])
def test_a_stranger_is_told_of_again(place: Place, act: Callable[[Path], object]) -> None:
    act(place.root / "cur/stranger")
    for _ in range(3):
        place.rest()
        place.report.lines.clear()
        assert "cur" in place.look()
        assert any("stranger" in line for line in place.report.lines)


def test_a_file_that_cannot_be_read_is_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MessageError("a bad sector")

    place.put("new/e")
    place.rest()
    with monkeypatch.context() as patched:
        patched.setattr(Maildir, "fingerprint", fail)
        assert place.look() == ["new"]
        assert place.look() == ["new"]
    assert place.look() == ["new"]
    assert place.believed()["new/e"] is False
    assert place.look() == []


def test_a_file_that_was_missed_is_looked_for_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put("new/e")
    place.rest()
    with monkeypatch.context() as patched:
        patched.setattr(Maildir, "fingerprint", lambda *_: None)
        place.look()
    assert place.look() == ["new"]
    assert place.believed()["new/e"] is False


def test_a_name_that_was_freed_is_found_again(place: Place) -> None:
    """Its file was written to while it was uploaded: no directory shows that."""
    [number] = [row["id"] for row in rows(place.store) if row["uniquename"] == b"a"]
    LocalRows(place.store, 1).note_changed_content(number)
    assert place.look() == ALL
    assert place.believed()["cur/a:2,"] is False


def test_a_file_that_was_never_delivered_is_found_if_it_is_there_after_all(place: Place) -> None:
    [number] = [row["id"] for row in rows(place.store) if row["uniquename"] == b"a"]
    LocalRows(place.store, 1).never_delivered([number])
    assert place.look() == ALL
    assert place.believed()["cur/a:2,"] is False


def test_a_folder_that_is_matched_anew_is_read(place: Place) -> None:
    place.store.forget_pair(place.store.pair(1))
    assert place.look() == ALL
    assert len(place.believed()) == 5


def test_an_older_copy_is_not_taken_for_what_it_was(place: Place) -> None:
    place.look(whole=True, believe=False)
    assert place.look() == ALL


@pytest.mark.parametrize("target", ["cur/a:2,D", "cur/a:2,S", "cur/a:2,"])
def test_a_draft_that_was_edited_in_place(place: Place, target: str) -> None:
    """Also when it lost its letter since: its old message is gone, what it holds now is new."""
    (place.root / "cur/a:2,").rename(place.root / "cur/a:2,D")
    place.look()
    (place.root / "cur/a:2,D").write_text("Message-ID: <edited@x>\n\n")
    (place.root / "cur/a:2,D").rename(place.root / target)
    place.look()
    [row] = [row for row in rows(place.store) if row["uniquename"] == b"a"]
    assert (row["message_id"], row["gone"], f"cur/a{row['info'].decode()}") == ("edited@x", 0, target)
    [old] = [row for row in rows(place.store) if row["message_id"] == "a@x"]
    assert (old["gone"], old["uniquename"]) == (1, None)


def test_a_second_name_beside_a_directory_that_is_not_read(place: Place) -> None:
    place.put("new/a", "another\n")
    place.rest()
    for _ in range(2):
        place.report.lines.clear()
        assert place.look() == ["new"]
        assert place.believed()["cur/a:2,"] is False
        assert "new/a" not in place.believed()
        assert any("new/a" in line for line in place.report.lines)


def test_a_link_in_the_place_of_a_file_is_none(place: Place) -> None:
    (place.root / "cur/a:2,").rename(place.root / "elsewhere")
    (place.root / "cur/a:2,").symlink_to(place.root / "elsewhere")
    place.look()
    assert place.believed()["cur/a:2,"] is True


def test_any_name_in_slices_of_any_size(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observed_local, "_SLICE", 2)
    monkeypatch.setattr(folder, "_AT_ONCE", 2)
    names = [b"\xff\xfe:2,S", b"a b", b"1,2", b"'\"", "grüße:2,F".encode(), b"x:1,y", b"\n"]
    for name in names:
        Path(os.fsdecode(os.fsencode(place.root) + b"/cur/" + name)).write_bytes(b"m " + name)
    place.rest()
    assert place.look() == ["cur"]
    assert KnownFiles(place.store, 1, now=NOW, whole=False).names("cur") == {*names, b"a:2,", b"b:2,S"}
    assert place.look() == []
    before = place.believed()
    place.look(whole=True)
    assert place.believed() == before
    assert {row["local_flags"] for row in rows(place.store)} == {0, SEEN, FLAGGED}


def test_another_pairs_files_are_not_known(place: Place) -> None:
    other = place.store.add_pair(replace(KEY, local="other"))
    known = KnownFiles(place.store, other.id, now=NOW, whole=False)
    assert known.directories() == {}
    assert known.names("cur") == set()
