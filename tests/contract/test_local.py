# SPDX-License-Identifier: MIT
"""What every `ports.Local` does: one suite for the real folder and for any twin of it.

A twin joins by a factory in `FACTORIES`, whose harness plays the other programs that work on the folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from pushpull.errors import ConnectionLost, LocalDiskError, MessageError
from pushpull.flags import ANSWERED, DELETED, DRAFT, FLAGGED, NONE, SEEN
from pushpull.maildir import Maildir
from pushpull.message import fingerprint
from pushpull.model import LocalFile, Marker, Uniquename
from pushpull.ports import Delivery, Local

WIRE = b"From: a@b\r\nMessage-ID: <one@x>\r\n\r\nHello\r\nthere\r\n"
FILE = WIRE.replace(b"\r\n", b"\n")
MARKER = Marker("state-1", 4, 17)


class Harness(Protocol):
    """The folder as others see and change it; paths are relative to it."""

    @property
    def local(self) -> Local: ...
    def reopened(self) -> Local:
        """As a new process would see the folder."""

    def put(self, path: bytes, data: bytes = FILE) -> None: ...
    def remove(self, path: bytes) -> None: ...
    def rename(self, old: bytes, new: bytes) -> None: ...
    def remove_directory(self, path: bytes) -> None: ...
    def files(self) -> dict[bytes, bytes]:
        """Every file in cur/, new/ and tmp/ with its contents."""


class RealFolder:
    def __init__(self, path: Path) -> None:
        self._path = os.fsencode(path)
        self.local = self.reopened()

    def reopened(self) -> Maildir:
        return Maildir(os.fsdecode(self._path), fsync=False, host="host")

    def _at(self, path: bytes) -> bytes:
        return self._path + b"/" + path

    def put(self, path: bytes, data: bytes = FILE) -> None:
        os.makedirs(os.path.dirname(self._at(path)), exist_ok=True)
        with open(self._at(path), "wb") as file:
            file.write(data)

    def remove(self, path: bytes) -> None:
        os.unlink(self._at(path))

    def rename(self, old: bytes, new: bytes) -> None:
        os.rename(self._at(old), self._at(new))

    def remove_directory(self, path: bytes) -> None:
        os.rmdir(self._at(path))

    def files(self) -> dict[bytes, bytes]:
        found = {}
        for directory, _, names in os.walk(self._path):
            for name in names:
                path = directory + b"/" + name
                relative = path.removeprefix(self._path + b"/")
                if b"/" in relative:
                    with open(path, "rb") as file:
                        found[relative] = file.read()
        return found


FACTORIES: dict[str, Callable[[Path], Harness]] = {"maildir": RealFolder}


@pytest.fixture(params=FACTORIES)
def harness(request, tmp_path) -> Harness:
    return FACTORIES[request.param](tmp_path / "folder")


def deliver(local: Local, flags: int = NONE, wire: bytes = WIRE, mtime: float = 1_000_000_000.0) -> LocalFile:
    [file] = local.deliver([Delivery(local.stage([wire], mtime), flags)])
    return file


def contents(local: Local, file: LocalFile) -> bytes | None:
    opened = local.open_message(file)
    if opened is None:
        return None
    with opened[0] as stream:
        return stream.read()


class TestFolder:
    def test_a_folder_is_there_once_it_was_made(self, harness):
        assert not harness.local.exists()
        harness.local.create()
        assert harness.local.exists()
        assert harness.reopened().exists()
        assert harness.local.scan().files == {}

    def test_making_it_again_changes_nothing(self, harness):
        harness.local.create()
        deliver(harness.local)
        before = harness.files()
        harness.local.create()
        assert harness.files() == before

    def test_a_folder_without_cur_or_new_gives_no_absences(self, harness):
        harness.local.create()
        harness.put(b"cur/a:2,S")
        harness.remove_directory(b"new")
        with pytest.raises(LocalDiskError, match="new"):
            harness.local.scan()

    def test_a_missing_folder_cannot_be_scanned(self, harness):
        with pytest.raises(LocalDiskError):
            harness.local.scan()


class TestMarker:
    def test_there_is_none_at_first(self, harness):
        assert harness.local.read_marker() is None
        harness.local.create()
        assert harness.local.read_marker() is None

    def test_a_marker_stays(self, harness):
        harness.local.create()
        harness.local.write_marker(MARKER)
        assert harness.local.read_marker() == MARKER
        assert harness.reopened().read_marker() == MARKER

    def test_a_later_marker_takes_its_place_and_leaves_nothing_behind(self, harness):
        harness.local.create()
        harness.local.write_marker(MARKER)
        later = Marker("state-1", 4, 18)
        harness.local.write_marker(later)
        assert harness.reopened().read_marker() == later
        assert harness.files() == {}
        assert harness.local.scan().files == {}

    def test_there_is_no_marker_without_a_folder(self, harness):
        with pytest.raises(LocalDiskError):
            harness.local.write_marker(MARKER)
        assert not harness.local.exists()


NAMES = [
    (b"new/a", b"a", "new", b"", NONE),
    (b"new/a:2,", b"a", "new", b":2,", NONE),
    (b"new/a:2,F", b"a", "new", b":2,F", FLAGGED),
    (b"cur/a", b"a", "cur", b"", NONE),
    (b"cur/a:2,FS", b"a", "cur", b":2,FS", FLAGGED | SEEN),
    (b"cur/a:2,SF", b"a", "cur", b":2,SF", FLAGGED | SEEN),
    (b"cur/a:2,zSa,rest", b"a", "cur", b":2,zSa,rest", SEEN),
    (b"cur/a:1,x", b"a", "cur", b":1,x", NONE),
    (b"cur/a:2,S:2,T", b"a", "cur", b":2,S:2,T", SEEN),
    (b"cur/\xff\xfe\n:2,S", b"\xff\xfe\n", "cur", b":2,S", SEEN),
    (b"cur/1.host,S=12,W=13:2,S", b"1.host,S=12,W=13", "cur", b":2,S", SEEN),
    (b"00/cur/a:2,S", b"a", "00/cur", b":2,S", SEEN),
    (b"ff/new/a", b"a", "ff/new", b"", NONE),
]


class TestScan:
    @pytest.mark.parametrize(("path", "uniquename", "directory", "info", "flags"), NAMES)
    def test_any_name_is_read(self, harness, path, uniquename, directory, info, flags):
        harness.local.create()
        harness.put(path)
        scan = harness.local.scan()
        assert scan.files == {uniquename: LocalFile(uniquename, directory, info, flags)}
        assert scan.files[uniquename].path == path
        assert not scan.moved
        assert scan.strangers == ()
        assert harness.local.find(uniquename) == scan.files[uniquename]

    def test_names_may_be_prefixes_of_others(self, harness):
        harness.local.create()
        for path in (b"cur/1:2,S", b"cur/1.a:2,F", b"new/1.a.b", b"cur/1.:2,"):
            harness.put(path)
        assert {file.path for file in harness.local.scan().files.values()} == {
            b"cur/1:2,S",
            b"cur/1.a:2,F",
            b"new/1.a.b",
            b"cur/1.:2,",
        }
        for uniquename, path in [(b"1", b"cur/1:2,S"), (b"1.a", b"cur/1.a:2,F"), (b"1.", b"cur/1.:2,")]:
            assert harness.local.find(Uniquename(uniquename)).path == path

    def test_dot_files_and_other_directories_are_no_mail(self, harness):
        harness.local.create()
        for path in (b"cur/.hidden", b"new/.a:2,S", b"tmp/b", b"AB/cur/c", b"abc/cur/d", b".Sub/cur/e", b"x", b"a1"):
            harness.put(path)
        scan = harness.local.scan()
        assert scan.files == {}
        assert scan.strangers == ()

    def test_what_is_no_file_is_reported_and_left_alone(self, harness):
        harness.local.create()
        harness.put(b"cur/sub/x:2,S")
        harness.put(b"cur/:2,S")
        harness.put(b"cur/good:2,S")
        scan = harness.local.scan()
        assert set(scan.files) == {b"good"}
        assert {path for path, _ in scan.strangers} == {b"cur/sub", b"cur/:2,S"}
        assert all(reason for _, reason in scan.strangers)
        assert set(harness.files()) == {b"cur/sub/x:2,S", b"cur/:2,S", b"cur/good:2,S"}

    def test_two_files_of_one_name_are_both_left_alone_and_one_is_reported(self, harness):
        harness.local.create()
        harness.put(b"new/a", b"one\n")
        harness.put(b"cur/a:2,S", b"two\n")
        for _ in range(2):
            scan = harness.local.scan()
            assert {file.path for file in scan.files.values()} == {b"cur/a:2,S"}
            assert [path for path, _ in scan.strangers] == [b"new/a"]
        assert harness.files() == {b"new/a": b"one\n", b"cur/a:2,S": b"two\n"}

    def test_scanning_changes_nothing(self, harness):
        harness.local.create()
        for path, *_ in NAMES:
            harness.put(path)
        before = harness.files()
        harness.local.scan()
        assert harness.files() == before


class TestReading:
    def test_a_message_is_read_as_it_is(self, harness):
        harness.local.create()
        harness.put(b"cur/a:2,S", b"A: b\n\n\0\xff\r\n\r")
        file = harness.local.find(Uniquename(b"a"))
        assert contents(harness.local, file) == b"A: b\n\n\0\xff\r\n\r"
        found, stamp = harness.local.fingerprint(file)
        assert found == fingerprint([b"A: b\n\n\0\xff\r\n\r"])
        assert stamp.size == 11
        assert stamp == harness.local.stamp(file)

    def test_a_file_is_followed_to_its_new_name(self, harness):
        harness.local.create()
        harness.put(b"new/a")
        file = harness.local.find(Uniquename(b"a"))
        stamp = harness.local.stamp(file)
        harness.rename(b"new/a", b"cur/a:2,RS")
        assert harness.local.stamp(file) == stamp
        assert harness.local.fingerprint(file) == (fingerprint([FILE]), stamp)
        assert contents(harness.local, file) == FILE

    def test_a_file_that_is_gone_is_none(self, harness):
        harness.local.create()
        harness.put(b"cur/a:2,S")
        harness.put(b"cur/ab:2,S")
        file = harness.local.find(Uniquename(b"a"))
        harness.remove(b"cur/a:2,S")
        assert harness.local.stamp(file) is None
        assert harness.local.fingerprint(file) is None
        assert harness.local.open_message(file) is None
        assert harness.local.find(Uniquename(b"a")) is None

    def test_the_stamp_of_changed_contents_differs(self, harness):
        harness.local.create()
        harness.put(b"cur/a:2,D", b"first\n")
        file = harness.local.find(Uniquename(b"a"))
        before = harness.local.stamp(file)
        harness.put(b"cur/a:2,D", b"second\n")
        assert harness.local.stamp(file) != before


class TestDelivery:
    @pytest.mark.parametrize(
        ("flags", "directory", "info"),
        [
            (NONE, "new", b""),
            (SEEN, "cur", b":2,S"),
            (FLAGGED, "cur", b":2,F"),
            (DELETED | DRAFT | ANSWERED, "cur", b":2,DRT"),
        ],
    )
    def test_new_mail_goes_to_new_only_without_a_letter(self, harness, flags, directory, info):
        harness.local.create()
        file = deliver(harness.local, flags)
        assert (file.directory, file.info, file.flags) == (directory, info, flags)
        assert harness.files() == {file.path: FILE}
        assert harness.local.scan().files == {file.uniquename: file}

    def test_what_is_staged_is_no_mail_yet(self, harness):
        harness.local.create()
        staged = harness.local.stage([WIRE[:20], WIRE[20:]], 0.0)
        assert staged.fingerprint == fingerprint([WIRE])
        assert b"".join(staged.chunks()) == FILE
        assert harness.local.scan().files == {}
        staged.discard()
        assert harness.files() == {}
        staged.discard()

    def test_mail_stays_though_its_stage_is_discarded(self, harness):
        harness.local.create()
        staged = harness.local.stage([WIRE], 0.0)
        [file] = harness.local.deliver([Delivery(staged, SEEN)])
        staged.discard()
        assert harness.files() == {file.path: FILE}

    def test_a_batch_comes_out_in_its_order(self, harness):
        harness.local.create()
        wires = [b"Message-ID: <%d@x>\r\n\r\n" % number for number in range(20)]
        deliveries = [Delivery(harness.local.stage([wire], 1.0), SEEN) for wire in wires]
        files = harness.local.deliver(deliveries)
        assert [contents(harness.local, file) for file in files] == [wire.replace(b"\r\n", b"\n") for wire in wires]
        assert len({file.uniquename for file in files}) == 20
        assert harness.local.deliver([]) == []

    def test_what_is_written_ahead_is_no_mail_before_it_is_delivered(self, harness):
        harness.local.create()
        deliveries = [Delivery(harness.local.stage([WIRE], 1.0), SEEN)]
        harness.local.write(deliveries)
        assert harness.local.scan().files == {}
        [file] = harness.local.deliver(deliveries)
        assert harness.files() == {file.path: FILE}

    def test_what_was_written_ahead_is_discarded(self, harness):
        harness.local.create()
        deliveries = [Delivery(harness.local.stage([WIRE], 1.0), SEEN)]
        harness.local.write(deliveries)
        deliveries[0].staged.discard()
        assert harness.files() == {}

    def test_the_file_is_dated_as_the_message(self, harness):
        harness.local.create()
        file = deliver(harness.local, mtime=1_234_567_890.0)
        assert harness.local.stamp(file).mtime_ns == 1_234_567_890 * 10**9

    @pytest.mark.parametrize("mtime", [-1e18, 1e300, float("inf"), float("nan"), -86400.5])
    def test_no_date_is_too_odd(self, harness, mtime):
        harness.local.create()
        file = deliver(harness.local, mtime=mtime)
        assert contents(harness.local, file) == FILE

    def test_a_cut_download_leaves_nothing(self, harness):
        harness.local.create()

        def cut():
            yield WIRE[:30]
            raise ConnectionLost("cut")

        with pytest.raises(ConnectionLost):
            harness.local.stage(cut(), 0.0)
        assert harness.files() == {}

    @pytest.mark.parametrize("wire", [b"", b"\0", b"\r", b"\n", b"no header", b"A: b\r\r\n\r\n\rx\ny"])
    def test_any_bytes_are_mail(self, harness, wire):
        harness.local.create()
        file = deliver(harness.local, SEEN, wire)
        assert contents(harness.local, file) == wire.replace(b"\r\n", b"\n")

    def test_nothing_is_delivered_into_a_folder_that_is_gone(self, harness):
        with pytest.raises(LocalDiskError):
            harness.local.deliver([Delivery(harness.local.stage([WIRE], 0.0), SEEN)])
        assert not harness.local.exists()


class TestFlags:
    @pytest.mark.parametrize(
        ("path", "add", "remove", "result"),
        [
            (b"new/a", SEEN, NONE, b"cur/a:2,S"),
            (b"cur/a", DELETED, NONE, b"cur/a:2,T"),
            (b"cur/a:2,FS", DELETED, FLAGGED, b"cur/a:2,ST"),
            (b"cur/a:2,zS,rest", FLAGGED, NONE, b"cur/a:2,FSz,rest"),
            (b"cur/a:1,x", SEEN, NONE, b"cur/a:2,S,1,x"),
            (b"b7/new/a", SEEN, NONE, b"b7/cur/a:2,S"),
            (b"cur/\xff:2,", SEEN, NONE, b"cur/\xff:2,S"),
        ],
    )
    def test_flags_are_shown_by_a_rename_into_cur(self, harness, path, add, remove, result):
        harness.local.create()
        harness.put(b"b7/cur/.keep")
        harness.put(path)
        [file] = harness.local.scan().files.values()
        renamed = harness.local.set_flags(file, add, remove)
        harness.local.sync_renames()
        assert renamed.path == result
        assert harness.local.scan().files == {renamed.uniquename: renamed}
        assert harness.files()[result] == FILE

    @pytest.mark.parametrize("path", [b"new/a", b"cur/a:2,SF", b"cur/a:1,x", b"new/a:2,FS"])
    def test_a_file_that_shows_the_flags_is_not_renamed(self, harness, path):
        harness.local.create()
        harness.put(path)
        [file] = harness.local.scan().files.values()
        assert harness.local.set_flags(file, file.flags, DELETED) == file
        assert set(harness.files()) == {path}

    def test_flags_that_somebody_set_meanwhile_stay(self, harness):
        harness.local.create()
        harness.put(b"new/a")
        file = harness.local.find(Uniquename(b"a"))
        harness.rename(b"new/a", b"cur/a:2,FSz")
        renamed = harness.local.set_flags(file, ANSWERED, SEEN)
        assert renamed.path == b"cur/a:2,FRz"
        assert set(harness.files()) == {b"cur/a:2,FRz"}

    def test_a_file_that_moved_and_shows_the_flags_is_told_where_it_is(self, harness):
        harness.local.create()
        harness.put(b"new/a")
        file = harness.local.find(Uniquename(b"a"))
        harness.rename(b"new/a", b"cur/a:2,S")
        assert harness.local.set_flags(file, SEEN, NONE).path == b"cur/a:2,S"
        assert harness.local.set_flags(file, NONE, NONE).path == b"cur/a:2,S"

    def test_a_file_that_is_gone_is_none(self, harness):
        harness.local.create()
        harness.put(b"cur/a:2,")
        file = harness.local.find(Uniquename(b"a"))
        harness.remove(b"cur/a:2,")
        assert harness.local.set_flags(file, SEEN, NONE) is None
        assert harness.local.set_flags(file, NONE, NONE) is None

    def test_nothing_is_overwritten(self, harness):
        harness.local.create()
        harness.put(b"new/a", b"one\n")
        harness.put(b"cur/a:2,S", b"two\n")
        with pytest.raises(MessageError, match="two files of one name"):
            harness.local.set_flags(LocalFile(Uniquename(b"a"), "new", b"", NONE), SEEN, NONE)
        assert harness.files() == {b"new/a": b"one\n", b"cur/a:2,S": b"two\n"}

    def test_contents_and_date_survive_a_rename(self, harness):
        harness.local.create()
        file = deliver(harness.local, NONE)
        before = harness.local.stamp(file)
        assert harness.local.stamp(harness.local.set_flags(file, DELETED, NONE)) == before
