# SPDX-License-Identifier: MIT
"""The real folder: races with other programs, links, faults of the disk, crashes, and the order of flushes.

What holds for any local side is in tests/contract/test_local.py.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import resource
import stat
import threading
import time
from pathlib import Path

import pytest

from pushpull import durable, folder, maildir
from pushpull.errors import LocalDiskError, MessageError
from pushpull.filenames import bucket
from pushpull.flags import DELETED, FLAGGED, NONE, SEEN
from pushpull.folder import Folder
from pushpull.maildir import Maildir
from pushpull.message import fingerprint
from pushpull.model import LocalFile, Marker, Uniquename
from pushpull.ports import Delivery
from pushpull.staging import HELD

WIRE = b"Message-ID: <one@x>\r\n\r\nHello\r\n"
FILE = WIRE.replace(b"\r\n", b"\n")
LARGE = WIRE + b"x" * HELD
HOUR = 3600


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "mail" / "INBOX"


@pytest.fixture
def local(path) -> Maildir:
    made = Maildir(str(path), host="host")
    made.create()
    return made


def put(path: Path, name: str, data: bytes = FILE) -> Path:
    target = path / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return target


def names(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir() or file.is_symlink()}


def stage(local: Maildir, count: int = 1, flags: int = SEEN) -> list[Delivery]:
    return [Delivery(local.stage([WIRE, b"%d\r\n" % number], 1e9), flags) for number in range(count)]


def raiser(number: int):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


# --- the folder ----------------------------------------------------------------------------------------------


def test_a_folder_is_private_and_its_parents_are_made(path):
    Maildir(str(path)).create()
    for directory in (path.parent, path, path / "cur", path / "new", path / "tmp"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_path_need_not_be_utf_8(tmp_path):
    local = Maildir(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xfc\xdfe/in"), host="host")
    local.create()
    local.write_marker(Marker("a", 1, 2))
    [file] = local.deliver(stage(local))
    assert local.scan().files == {file.uniquename: file}
    assert local.read_marker() == Marker("a", 1, 2)


def test_a_relative_path_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    local = Maildir("in/box")
    local.create()
    local.deliver(stage(local))
    assert len(local.scan().files) == 1
    assert (tmp_path / "in/box/cur").is_dir()


def test_an_empty_directory_is_no_folder(path):
    path.mkdir(parents=True)
    assert not Maildir(str(path)).exists()
    (path / "cur").mkdir()
    assert Maildir(str(path)).exists()


def test_a_dangling_cur_is_a_folder_that_cannot_be_read(local, path):
    (path / "cur").rmdir()
    (path / "cur").symlink_to("nowhere")
    assert local.exists()
    with pytest.raises(LocalDiskError, match=r"cur: a symbolic link"):
        local.scan()


def test_a_file_in_the_place_of_the_folder(path):
    put(path.parent, path.name)
    local = Maildir(str(path))
    assert not local.exists()
    assert local.read_marker() is None
    with pytest.raises(LocalDiskError, match="INBOX"):
        local.create()
    assert path.read_bytes() == FILE


def test_the_folder_itself_may_be_reached_by_a_link(local, path, tmp_path):
    (tmp_path / "link").symlink_to(path)
    linked = Maildir(str(tmp_path / "link"))
    [file] = linked.deliver(stage(linked))
    assert linked.scan().files == local.scan().files == {file.uniquename: file}


@pytest.mark.parametrize("directory", ["cur", "new", "tmp", "a3", "a3/cur"])
def test_no_link_inside_is_followed(local, path, tmp_path, directory):
    outside = tmp_path / "outside"
    outside.mkdir()
    (path / "a3" / "new").mkdir(parents=True)
    (path / "a3" / "cur").mkdir()
    target = path / directory
    target.rename(outside / "moved")
    target.symlink_to(outside / "moved")
    if directory == "tmp":
        with pytest.raises(LocalDiskError, match="symbolic link"):
            local.stage([LARGE], 0.0)
        with pytest.raises(LocalDiskError, match="symbolic link"):
            local.deliver(stage(local))
    else:
        with pytest.raises(LocalDiskError, match="symbolic link"):
            local.scan()
    assert not [found for found in outside.rglob("*") if found.is_file()]


def test_no_bucket_is_made_behind_a_link(local, path, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (path / bucket("one@x")).symlink_to(outside)
    bucketed = Maildir(str(path), buckets=True)
    with pytest.raises(LocalDiskError, match="symbolic link"):
        bucketed.deliver(stage(bucketed))
    assert list(outside.iterdir()) == []
    assert list((path / "tmp").iterdir()) == []


def test_the_probe_leaves_nothing(local, path):
    local.probe()
    assert names(path) == set()


def test_the_probe_finds_a_file_system_that_refuses_colons(local, monkeypatch):
    real = os.open

    def smb(name, *args, **kwargs):
        if isinstance(name, bytes) and b":" in name:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(os, "open", smb)
    with pytest.raises(LocalDiskError, match='":" in names'):
        local.probe()


def test_the_probe_finds_a_file_system_that_takes_colons_for_something_else(local, path, monkeypatch):
    """On NTFS `a:b` is a stream of the file `a`."""
    monkeypatch.setattr(os, "listdir", lambda _: ["pushpull"])
    with pytest.raises(LocalDiskError, match='":" in names'):
        local.probe()
    assert names(path) == set()


def test_the_probe_does_not_mistake_a_full_disk(local, monkeypatch):
    real = os.open

    def full(name, flags, *args, **kwargs):
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(name, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(LocalDiskError, match="No space left") as caught:
        local.probe()
    assert "free some space" in caught.value.remedy


def test_a_folder_that_is_a_link_to_nowhere(tmp_path):
    (tmp_path / "folder").symlink_to(tmp_path / "not" / "mounted")
    with pytest.raises(LocalDiskError, match="No such file or directory") as caught:
        Maildir(str(tmp_path / "folder")).create()
    assert "leads nowhere" in caught.value.remedy
    assert not (tmp_path / "not").exists()


# --- scans and races -----------------------------------------------------------------------------------------


@pytest.fixture
def between(monkeypatch):
    """Runs a function once, right after the named directory was read."""

    def arrange(directory: str, act) -> None:
        real = Folder._read
        waiting = [act]

        def read(self, name, seen, known):
            result = real(self, name, seen, known)
            if name == directory and waiting:
                waiting.pop()()
            return result

        monkeypatch.setattr(Folder, "_read", read)

    return arrange


def test_a_file_read_meanwhile_is_seen_once_in_cur(local, path, between):
    put(path, "new/a")
    between("new", lambda: (path / "new/a").rename(path / "cur/a:2,S"))
    scan = local.scan()
    assert [file.path for file in scan.files.values()] == [b"cur/a:2,S"]
    assert scan.moved
    assert scan.strangers == ()


def test_a_file_renamed_after_it_was_read_makes_the_scan_moved(local, path, between):
    put(path, "cur/a:2,")
    between("cur", lambda: (path / "cur/a:2,").rename(path / "cur/a:2,S"))
    assert local.scan().moved
    assert not local.scan().moved


@pytest.mark.parametrize(
    ("source", "target", "after"),
    [
        ("cur/a:2,S", "new/a", "new"),  # some readers mark mail as new so
        ("b0/cur/a:2,S", "cur/a:2,S", "cur"),
        ("b0/cur/a:2,S", "00/cur/a:2,S", "00/cur"),
    ],
)
def test_a_file_that_moves_behind_the_scan_proves_no_absence(local, path, between, source, target, after):
    put(path, "00/cur/other")
    put(path, source)
    between(after, lambda: (path / source).rename(path / target))
    scan = local.scan()
    assert b"a" not in scan.files
    assert scan.moved
    assert local.scan().files[Uniquename(b"a")].path == target.encode()


def test_a_file_that_vanishes_during_the_scan(local, path, between):
    put(path, "new/a")
    put(path, "new/b")
    between("new", (path / "new/a").unlink)
    assert local.scan().moved
    scan = local.scan()
    assert set(scan.files) == {b"b"}
    assert not scan.moved


def test_a_bucket_that_comes_or_goes_makes_the_scan_moved(local, path, between):
    between("cur", lambda: put(path, "c0/cur/a"))
    assert local.scan().moved
    between("cur", lambda: (path / "c0").rename(path / "c1"))
    scan = local.scan()
    assert scan.moved
    assert b"a" not in scan.files
    assert set(local.scan().files) == {b"a"}


def test_a_swapped_directory_makes_the_scan_moved(local, path, between):
    put(path, "cur/a")

    def swap():
        (path / "cur").rename(path / "old")
        (path / "cur").mkdir()

    between("new", swap)
    scan = local.scan()
    assert scan.files == {}
    assert scan.moved


def test_a_file_moved_once_more_before_it_is_settled(local, path, between, monkeypatch):
    put(path, "new/a")
    between("new", lambda: (path / "new/a").rename(path / "cur/a:2,S"))
    real = Folder._settle_doubles

    def settle(self, seen):
        (path / "cur/a:2,S").rename(path / "cur/a:2,RS")
        real(self, seen)

    monkeypatch.setattr(Folder, "_settle_doubles", settle)
    scan = local.scan()
    assert [file.path for file in scan.files.values()] == [b"cur/a:2,S"]
    assert scan.moved


def test_the_choice_between_two_files_of_one_name_outlasts_a_rename(local, path):
    older = put(path, "cur/a:2,S", b"one\n")
    put(path, "cur/a:2,T", b"two\n")
    os.utime(older, (1, 1))
    for name in ("a:2,S", "a:2,ZZ", "a"):
        older = older.rename(path / "cur" / name)
        scan = local.scan()
        assert scan.files[Uniquename(b"a")].path == f"cur/{name}".encode()
        [(stranger, reason)] = scan.strangers
        assert stranger == b"cur/a:2,T"
        assert "another file" in reason


def test_two_names_of_one_file_are_told_as_such(local, path):
    os.link(put(path, "cur/a:2,S"), path / "cur/a:2,FS")
    [(_, reason)] = local.scan().strangers
    assert "the same file" in reason


def test_links_pipes_and_directories_are_strangers(local, path, tmp_path):
    (path / "cur/link:2,S").symlink_to(put(tmp_path, "elsewhere"))
    (path / "cur/dangling").symlink_to("nowhere")
    (path / "new/directory").mkdir()
    os.mkfifo(path / "cur/pipe")
    scan = local.scan()
    assert scan.files == {}
    assert dict(scan.strangers) == {
        b"cur/link:2,S": "a symbolic link",
        b"cur/dangling": "a symbolic link",
        b"new/directory": "a directory",
        b"cur/pipe": "not a regular file",
    }


def test_a_bucket_without_cur_has_no_mail(local, path):
    (path / "aa").mkdir()
    put(path, "bb/new/b")
    put(path, "cc", b"a file with a bucket's name")
    scan = local.scan()
    assert set(scan.files) == {b"b"}
    assert not scan.moved


@pytest.mark.parametrize("directory", ["cur", "new"])
def test_a_file_in_the_place_of_a_directory(local, path, directory):
    (path / directory).rmdir()
    put(path, directory)
    with pytest.raises(LocalDiskError, match=rf"{directory}: no directory"):
        local.scan()


class Failing:
    """A directory that breaks after its first entry."""

    def __init__(self, entries, number: int) -> None:
        self._entries, self._number = entries, number

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._entries.close()

    def __iter__(self):
        yield next(self._entries)
        raise OSError(self._number, os.strerror(self._number))


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("directory", ["", "new", "cur", "a0/cur"])
def test_a_directory_that_breaks_midway_gives_no_scan(local, path, monkeypatch, number, directory):
    for name in ("new/a", "new/b", "cur/c", "cur/d", "a0/new/e", "a0/cur/f", "a0/cur/g"):
        put(path, name)
    broken = os.stat(path / directory).st_ino
    real = os.scandir
    monkeypatch.setattr(
        os, "scandir", lambda at: Failing(real(at), number) if os.stat(at).st_ino == broken else real(at)
    )
    with pytest.raises(LocalDiskError) as caught:
        local.scan()
    assert str(path / directory) in str(caught.value)
    assert caught.value.remedy


def test_a_directory_that_may_not_be_opened_gives_no_scan(local, path, monkeypatch):
    real = os.open

    def denied(name, *args, **kwargs):
        if name.endswith(b"/new"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(LocalDiskError, match="Permission denied"):
        local.scan()


def test_a_scan_waits_for_the_tick_of_the_clock(local, path, monkeypatch):
    """A stamp of this very tick could hide a change of the same tick."""
    slept = []
    later = [time.time_ns() + 10**9]
    monkeypatch.setattr(folder.time, "sleep", slept.append)
    monkeypatch.setattr(folder.time, "time_ns", lambda: later[0])
    put(path, "cur/a")
    assert not local.scan().moved
    assert slept == []
    later[0] = (path / "cur").stat().st_ctime_ns + 5_000_000
    assert local.scan().moved  # no time passed: the folder is as busy as before
    assert slept == [0.015]
    later[0] = 0  # a network server's clock, ahead of ours
    assert not local.scan().moved


def test_a_stamp_of_the_future_does_not_hide_one_of_this_tick(local, path, monkeypatch):
    """The clock was put back: new/ was changed before that, cur/ just now."""
    now = [0]
    monkeypatch.setattr(folder.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(folder.time, "time_ns", lambda: now[0])
    put(path, "cur/a")
    now[0] = (path / "cur").stat().st_ctime_ns + 5_000_000
    while (path / "new").stat().st_ctime_ns <= now[0]:
        put(path, "new/b")
        (path / "new/b").unlink()
    assert local.scan().moved


def test_a_scan_beside_a_busy_reader_that_missed_a_file_says_so(local, path):
    for number in range(400):
        put(path, f"cur/{number}.x:2,")
    stop = threading.Event()

    def rename_flat_out():
        for old, new in itertools.cycle([("", "S"), ("S", "")]):
            for number in range(400):
                if stop.is_set():
                    return
                with contextlib.suppress(FileNotFoundError):
                    (path / f"cur/{number}.x:2,{old}").rename(path / f"cur/{number}.x:2,{new}")

    reader = threading.Thread(target=rename_flat_out)
    reader.start()
    try:
        scans = [local.scan() for _ in range(30)]
    finally:
        stop.set()
        reader.join()
    assert all(scan.moved or len(scan.files) == 400 for scan in scans)
    assert any(scan.moved for scan in scans)
    settled = local.scan()
    assert len(settled.files) == 400
    assert not settled.moved


# --- looking for one, reading one ----------------------------------------------------------------------------


def test_find_looks_again_when_a_directory_moved_meanwhile(local, path, monkeypatch):
    put(path, "cur/a:2,S")
    real, waiting = Folder._look, [lambda: (path / "cur/a:2,S").rename(path / "new/a")]

    def look(self, directory, uniquename):
        found = list(real(self, directory, uniquename))
        if directory == "new" and waiting:
            waiting.pop()()
        return iter(found)

    monkeypatch.setattr(Folder, "_look", look)
    assert local.find(Uniquename(b"a")).path == b"new/a"


def test_find_prefers_cur(local, path):
    put(path, "new/a")
    put(path, "cur/a:2,S")
    assert local.find(Uniquename(b"a")).path == b"cur/a:2,S"


def test_a_file_that_never_stands_still_is_set_aside(local, path, monkeypatch):
    put(path, "cur/a:2,S")
    stale = LocalFile(Uniquename(b"a"), "cur", b":2,", NONE)
    monkeypatch.setattr(local, "find", lambda uniquename: stale)
    with pytest.raises(MessageError, match="again and again"):
        local.stamp(stale)


def test_reading_does_not_follow_a_link_that_took_the_files_place(local, path, tmp_path):
    put(path, "cur/a:2,S")
    file = local.find(Uniquename(b"a"))
    (path / "cur/a:2,S").unlink()
    (path / "cur/a:2,S").symlink_to(put(tmp_path, "secret"))
    with pytest.raises(MessageError, match="symbolic link"):
        local.open_message(file)
    with pytest.raises(MessageError, match="no regular file"):
        local.stamp(file)


def test_reading_does_not_hang_on_a_pipe_that_took_the_files_place(local, path):
    put(path, "cur/a:2,S")
    file = local.find(Uniquename(b"a"))
    (path / "cur/a:2,S").unlink()
    os.mkfifo(path / "cur/a:2,S")
    with pytest.raises(MessageError, match="no regular file"):
        local.fingerprint(file)


def test_a_message_that_may_not_be_read_does_not_stop_the_others(local, path, monkeypatch):
    put(path, "cur/a:2,S")
    put(path, "cur/b:2,S")
    files = local.scan().files
    real = os.open

    def denied(name, *args, **kwargs):
        if name == b"a:2,S":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(MessageError, match=r"cur/a:2,S: Permission denied"):
        local.fingerprint(files[Uniquename(b"a")])
    assert local.fingerprint(files[Uniquename(b"b")])[0] == fingerprint([FILE])


@pytest.mark.parametrize(("number", "error"), [(errno.EIO, MessageError), (errno.ESTALE, LocalDiskError)])
def test_a_read_error_midway_is_told_as_ours(local, path, monkeypatch, number, error):
    put(path, "cur/a:2,S")
    stream, _ = local.open_message(local.find(Uniquename(b"a")))
    with stream:
        monkeypatch.setattr(os, "read", raiser(number))
        with pytest.raises(error, match="cur/a:2,S"):
            stream.read()
        with pytest.raises(error, match="cur/a:2,S"):
            stream.read(10)


# --- delivering ----------------------------------------------------------------------------------------------


def test_mail_is_private_and_dated(local, path):
    [file] = local.deliver([Delivery(local.stage([WIRE], 1e9 + 0.25), SEEN)])
    status = os.stat(os.fsencode(path) + b"/" + file.path)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_mtime_ns == 1_000_000_000_250_000_000
    assert file.uniquename.endswith(b".host")


def test_names_differ_though_the_clock_stands_still(path):
    local = Maildir(str(path), clock=lambda: 1_700_000_000.5, host="host", pid=7)
    local.create()
    files = local.deliver(stage(local, 3))
    assert [file.uniquename for file in files] == [
        b"1700000000.M500000P7Q1.host",
        b"1700000000.M500000P7Q2.host",
        b"1700000000.M500000P7Q3.host",
    ]


def test_a_name_that_is_taken_is_not_overwritten(path):
    local = Maildir(str(path), clock=lambda: 1_700_000_000.5, host="host", pid=7)
    local.create()
    put(path, "cur/1700000000.M500000P7Q1.host:2,S", b"other\n")
    put(path, "tmp/pushpull-1700000000.M500000P7Q2.host", b"half\n")
    files = local.deliver(stage(local, 2))
    assert [file.uniquename for file in files] == [b"1700000000.M500000P7Q4.host", b"1700000000.M500000P7Q3.host"]
    assert (path / "cur/1700000000.M500000P7Q1.host:2,S").read_bytes() == b"other\n"
    assert (path / "tmp/pushpull-1700000000.M500000P7Q2.host").read_bytes() == b"half\n"


def test_buckets_are_made_whole_and_used(path):
    local = Maildir(str(path), buckets=True, host="host")
    local.create()
    seen, unseen = local.deliver([*stage(local, 1, SEEN), *stage(local, 1, NONE)])
    name = bucket("one@x")
    assert (seen.directory, unseen.directory) == (f"{name}/cur", f"{name}/new")
    assert {child.name for child in (path / name).iterdir()} == {"cur", "new", "tmp"}
    assert local.scan().files == Maildir(str(path)).scan().files == {f.uniquename: f for f in (seen, unseen)}
    [plain] = Maildir(str(path)).deliver(stage(Maildir(str(path))))
    assert plain.directory == "cur"


def test_a_tmp_that_got_lost_is_made_again(local, path):
    (path / "tmp").rmdir()
    local.deliver(stage(local))
    assert len(names(path)) == 1


def test_a_folder_that_was_moved_away_does_not_come_back_empty(local, path):
    deliveries = stage(local)
    path.rename(path.with_name("moved"))
    for act in (
        lambda: local.deliver(deliveries),
        lambda: local.stage([LARGE], 0.0),
        lambda: local.write_marker(Marker("a", 1, 1)),
        local.probe,
    ):
        with pytest.raises(LocalDiskError, match="INBOX"):
            act()
    assert not path.exists()


def test_only_what_we_staged_is_delivered(local):
    with pytest.raises(TypeError):
        local.deliver([Delivery(object(), NONE)])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_to_write_leaves_nothing_half(local, path, monkeypatch, number):
    real, calls = os.write, []

    def write(fd, data):
        calls.append(len(data))
        if len(calls) == 2:
            raise OSError(number, os.strerror(number))
        return real(fd, data[:5])  # a short write is no error

    monkeypatch.setattr(os, "write", write)
    for take_in in (lambda: local.deliver(stage(local)), lambda: local.stage([LARGE], 0.0)):
        calls.clear()
        with pytest.raises(LocalDiskError) as caught:
            take_in()
        assert str(path / "tmp") in str(caught.value)
        assert caught.value.remedy
        assert names(path) == set()
    calls.clear()
    with pytest.raises(LocalDiskError):
        local.write_marker(Marker("a", 1, 1))
    assert names(path) == set()


def test_short_writes_are_continued(local, path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    [file] = local.deliver([Delivery(local.stage([WIRE], 0.0), SEEN)])
    assert (path / os.fsdecode(file.path)).read_bytes() == FILE


def test_a_file_that_the_kernel_refuses_to_grow_leaves_nothing(local, path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    chunk = b"x" * HELD
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(LocalDiskError, match="File too large"):
            local.stage([chunk, chunk], 0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(path) == set()


@pytest.mark.parametrize("first", [WIRE, LARGE], ids=["short", "long"])
def test_an_interrupted_download_leaves_nothing(local, path, first):
    def chunks():
        yield first
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local.stage(chunks(), 0.0)
    assert names(path) == set()


def test_a_flush_that_fails_delivers_nothing(local, path, monkeypatch):
    monkeypatch.setattr(os, "fsync", raiser(errno.EIO))
    with pytest.raises(LocalDiskError, match="Input/output"):
        local.deliver(stage(local, 2))
    assert names(path) == set()


def test_a_rename_that_fails_keeps_what_was_delivered_and_drops_the_rest(local, path, monkeypatch):
    real, calls = maildir.rename_noreplace, []

    def rename(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*args, **kwargs)

    monkeypatch.setattr(maildir, "rename_noreplace", rename)
    with pytest.raises(LocalDiskError):
        local.deliver(stage(local, 5))
    assert len(names(path)) == 2
    assert all(name.startswith("cur/") for name in names(path))


def test_a_date_that_the_file_system_refuses_is_no_fault(local, monkeypatch):
    monkeypatch.setattr(os, "utime", raiser(errno.EINVAL))
    local.deliver(stage(local))
    assert len(local.scan().files) == 1
    monkeypatch.setattr(os, "utime", raiser(errno.EROFS))
    with pytest.raises(LocalDiskError):
        local.deliver(stage(local))


# --- the order of flushes, and crashes -----------------------------------------------------------------------

POINTS = [
    (os, "utime"),
    (maildir, "flush_files"),
    (maildir, "rename_noreplace"),
    (folder, "flush_directory"),
    (maildir, "flush_directory"),
]


def watch(monkeypatch, on_event) -> None:
    """Calls `on_event` with the name of each step, before it is done."""
    for module, name in POINTS:
        real = getattr(module, name)

        def step(*args, _real=real, _name=name, **kwargs):
            on_event(_name)
            return _real(*args, **kwargs)

        monkeypatch.setattr(module, name, step)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_bytes_and_dates_are_durable_before_names_and_names_before_the_end(local, monkeypatch, count):
    events = []
    watch(monkeypatch, events.append)
    local.deliver(stage(local, count))
    assert events == ["utime"] * count + ["flush_files"] + ["rename_noreplace"] * count + ["flush_directory"]


def test_each_directory_is_flushed_once(local, monkeypatch):
    deliveries = [*stage(local, 3, SEEN), *stage(local, 3, NONE)]
    events = []
    watch(monkeypatch, events.append)
    local.deliver(deliveries)
    assert events.count("flush_directory") == 2


def test_renames_are_flushed_once_in_both_directories(local, path, monkeypatch):
    for number in range(5):
        put(path, f"new/{number}")
    files = local.scan().files.values()
    events = []
    watch(monkeypatch, events.append)
    for file in files:
        local.set_flags(file, SEEN, NONE)
    local.sync_renames()
    local.sync_renames()
    assert events == ["rename_noreplace"] * 5 + ["flush_directory"] * 2


def test_a_marker_is_durable_before_and_after_its_name(local, monkeypatch):
    events = []
    watch(monkeypatch, events.append)
    monkeypatch.setattr(
        os, "rename", lambda *args, _real=os.rename, **kw: (events.append("rename"), _real(*args, **kw))
    )
    local.write_marker(Marker("a", 1, 1))
    assert events == ["flush_files", "rename", "flush_directory"]


def test_without_fsync_nothing_is_flushed(path, monkeypatch):
    monkeypatch.setattr(os, "fsync", raiser(errno.EIO))
    monkeypatch.setattr(durable, "_syncfs", raiser(errno.EIO))
    local = Maildir(str(path), buckets=True, fsync=False)
    local.create()
    files = local.deliver(stage(local, 5))
    local.set_flags(files[0], DELETED, NONE)
    local.sync_renames()
    local.write_marker(Marker("a", 1, 1))
    assert len(local.scan().files) == 5


def killed_at(step: int, act, monkeypatch) -> bool:
    """Run `act` in a child that dies without any clean-up before its given step; whether it got that far."""
    child = os.fork()
    if child == 0:
        counter = itertools.count(1)
        watch(monkeypatch, lambda _: os._exit(9) if next(counter) == step else None)
        try:
            act()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 9


@pytest.mark.parametrize("count", [1, 5])
def test_a_kill_at_any_step_of_a_delivery_leaves_whole_mail_or_rubbish_in_tmp(path, monkeypatch, count):
    local = Maildir(str(path), buckets=True, host="host")
    local.create()
    step = 1
    while killed_at(step, lambda: local.deliver([*stage(local, count), *stage(local, count, NONE)]), monkeypatch):
        step += 1
    assert step > 4 * count
    whole = {WIRE.replace(b"\r\n", b"\n") + b"%d\n" % number for number in range(count)}
    for file in local.scan().files.values():
        assert (path / os.fsdecode(file.path)).read_bytes() in whole
    left = list((path / "tmp").iterdir())
    assert left
    later = Maildir(str(path), clock=lambda: time.time() + 37 * HOUR)
    assert later.clean_tmp() == len(left)
    assert len(later.scan().files) == len(local.scan().files)


def test_a_kill_at_any_step_of_a_rename_leaves_one_file(local, path, monkeypatch):
    put(path, "new/a")

    def rename():
        local.set_flags(local.find(Uniquename(b"a")), FLAGGED, NONE)
        local.sync_renames()

    for step in range(1, 5):
        killed_at(step, rename, monkeypatch)
        scan = local.scan()
        assert set(scan.files) == {b"a"}
        assert scan.strangers == ()
    assert names(path) == {"cur/a:2,F"}


# --- left-overs ----------------------------------------------------------------------------------------------


def test_only_old_rubbish_of_ours_is_removed_from_tmp(path):
    now = time.time()
    local = Maildir(str(path), clock=lambda: now)
    local.create()
    local.stage([LARGE], 0.0)
    put(path, "tmp/1700000000.M1P2Q3.host")
    (path / "tmp/pushpull-directory").mkdir()
    (path / "tmp/pushpull-link").symlink_to("nowhere")
    before = names(path)
    assert local.clean_tmp() == 0
    now += 35 * HOUR
    assert local.clean_tmp() == 0
    assert names(path) == before
    now += 2 * HOUR
    assert local.clean_tmp() == 1
    assert names(path) == {"tmp/1700000000.M1P2Q3.host", "tmp/pushpull-link"}


def test_the_age_of_rubbish_is_not_the_date_of_its_message(local, path):
    staged = local.stage([LARGE], 0.0)
    os.utime(path / "tmp" / os.fsdecode(staged.name), (1, 1))
    assert local.clean_tmp() == 0


def test_cleaning_needs_no_tmp(local, path):
    (path / "tmp").rmdir()
    assert local.clean_tmp() == 0


# --- the marker on the disk ----------------------------------------------------------------------------------


def test_a_marker_is_private_and_no_mail(local, path):
    local.write_marker(Marker("a", 1, 1))
    assert stat.S_IMODE((path / ".pushpull").stat().st_mode) == 0o600
    assert names(path) == {".pushpull"}


@pytest.mark.parametrize("text", [b"", b"state=a\npair=1\ngeneration=12", b"\0" * 100, b"x" * 10_000])
def test_a_damaged_marker_counts_as_none_and_can_be_written_anew(local, path, text):
    put(path, ".pushpull", text)
    assert local.read_marker() is None
    local.write_marker(Marker("a", 1, 1))
    assert local.read_marker() == Marker("a", 1, 1)


def test_a_marker_that_is_a_link_is_not_followed(local, path, tmp_path):
    target = put(tmp_path, "marker", b"state=a\npair=1\ngeneration=1\n")
    (path / ".pushpull").symlink_to(target)
    with pytest.raises(LocalDiskError, match="symbolic link"):
        local.read_marker()


def test_a_marker_that_is_no_file_is_told(local, path):
    os.mkfifo(path / ".pushpull")
    with pytest.raises(LocalDiskError, match="not a regular file"):
        local.read_marker()
    (path / ".pushpull").unlink()
    (path / ".pushpull").mkdir()
    with pytest.raises(LocalDiskError, match="not a regular file"):
        local.read_marker()
    with pytest.raises(LocalDiskError, match="directory"):
        local.write_marker(Marker("a", 1, 1))
    assert names(path) == set()


# --- renames that the file system cannot do ------------------------------------------------------------------


@pytest.fixture(params=["renameat2", "link", "look"])
def way(request, monkeypatch):
    """Each way to rename without overwriting."""
    if request.param != "renameat2":
        monkeypatch.setattr(durable, "_renameat2", raiser(errno.EINVAL))
    if request.param == "look":
        monkeypatch.setattr(os, "link", raiser(errno.EPERM))
    return request.param


def test_every_way_delivers_and_renames(local, path, way):
    files = local.deliver(stage(local, 4))
    renamed = [local.set_flags(file, FLAGGED, SEEN) for file in files]
    assert {file.path for file in renamed} == {b"cur/" + file.uniquename + b":2,F" for file in files}
    assert names(path) == {os.fsdecode(file.path) for file in renamed}


def test_no_way_overwrites(local, path, way):
    put(path, "cur/a:2,", b"one\n")
    put(path, "cur/a:2,S", b"two\n")
    (path / "cur/b:2,S").symlink_to("nowhere")
    put(path, "cur/b:2,", b"three\n")
    for name in (b"a", b"b"):
        with pytest.raises(MessageError, match="two files of one name"):
            local.set_flags(LocalFile(Uniquename(name), "cur", b":2,", NONE), SEEN, NONE)
    assert (path / "cur/a:2,").read_bytes() == b"one\n"
    assert (path / "cur/a:2,S").read_bytes() == b"two\n"
    assert (path / "cur/b:2,").read_bytes() == b"three\n"


def test_every_way_finds_what_was_renamed_meanwhile(local, path, way):
    put(path, "cur/a:2,R")
    assert local.set_flags(LocalFile(Uniquename(b"a"), "new", b"", NONE), SEEN, NONE).path == b"cur/a:2,RS"
    assert names(path) == {"cur/a:2,RS"}


def test_a_rename_that_was_cut_between_link_and_unlink_is_finished(local, path):
    os.link(put(path, "new/a"), path / "cur/a:2,S")
    assert local.set_flags(LocalFile(Uniquename(b"a"), "new", b"", NONE), SEEN, NONE).path == b"cur/a:2,S"
    assert names(path) == {"cur/a:2,S"}


def test_a_file_renamed_between_link_and_unlink_has_one_name_in_the_end(local, path, monkeypatch):
    monkeypatch.setattr(durable, "_renameat2", raiser(errno.ENOSYS))
    put(path, "new/a")
    real = os.link

    def link(*args, **kwargs):
        real(*args, **kwargs)
        if (path / "new/a").exists():
            (path / "new/a").rename(path / "cur/a:2,R")

    monkeypatch.setattr(os, "link", link)
    assert local.set_flags(LocalFile(Uniquename(b"a"), "new", b"", NONE), SEEN, NONE).path == b"cur/a:2,RS"
    assert names(path) == {"cur/a:2,RS"}
    assert (path / "cur/a:2,RS").read_bytes() == FILE


def test_a_file_deleted_between_link_and_unlink_is_kept(local, path, monkeypatch):
    monkeypatch.setattr(durable, "_renameat2", raiser(errno.ENOSYS))
    put(path, "new/a")
    real = os.link

    def link(*args, **kwargs):
        real(*args, **kwargs)
        (path / "new/a").unlink()

    monkeypatch.setattr(os, "link", link)
    assert local.set_flags(LocalFile(Uniquename(b"a"), "new", b"", NONE), SEEN, NONE).path == b"cur/a:2,S"
    assert names(path) == {"cur/a:2,S"}


def test_a_name_too_long_for_one_more_letter_is_the_files_fault(local, path):
    name = "a" * 252 + ":2,"
    put(path, "cur/" + name)
    [file] = local.scan().files.values()
    with pytest.raises(MessageError, match="too long") as caught:
        local.set_flags(file, SEEN, NONE)
    assert caught.value.permanent
    assert names(path) == {"cur/" + name}


def test_a_read_only_folder_is_the_folders_fault(local, path, monkeypatch):
    put(path, "cur/a:2,")
    [file] = local.scan().files.values()
    monkeypatch.setattr(durable, "_renameat2", raiser(errno.EROFS))
    with pytest.raises(LocalDiskError, match="cur/a:2,") as caught:
        local.set_flags(file, SEEN, NONE)
    assert "writing" in caught.value.remedy
    monkeypatch.setattr(durable, "_renameat2", raiser(errno.EPERM))
    with pytest.raises(MessageError):
        local.set_flags(file, SEEN, NONE)


# --- flushing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "kernel", "syncs", "fsyncs"), [(3, "6.1.0-13-amd64", 0, 3), (4, "6.1", 1, 0), (4, "5.7.9", 0, 4)]
)
def test_many_files_are_flushed_at_once_where_errors_would_show(tmp_path, monkeypatch, count, kernel, syncs, fsyncs):
    for number in range(count):
        put(tmp_path, str(number))
    calls = []

    class Libc:
        @staticmethod
        def syncfs(fd):
            calls.append("syncfs")
            return 0

    monkeypatch.setattr(durable, "_LIBC", Libc)
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append("fsync"))
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", kernel, "", "")))
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        durable.flush_files([b"%d" % number for number in range(count)], fd)
    finally:
        os.close(fd)
    assert (calls.count("syncfs"), calls.count("fsync")) == (syncs, fsyncs)


@pytest.mark.parametrize(("number", "fails"), [(errno.ENOSYS, False), (errno.EIO, True)])
def test_a_flush_of_everything_that_fails_is_an_error_and_one_that_is_missing_is_not(
    tmp_path, monkeypatch, number, fails
):
    files = [put(tmp_path, str(index)).name.encode() for index in range(5)]

    class Libc:
        @staticmethod
        def syncfs(fd):
            durable.ctypes.set_errno(number)
            return -1

    fsyncs = []
    monkeypatch.setattr(durable, "_LIBC", Libc)
    monkeypatch.setattr(os, "fsync", fsyncs.append)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        if fails:
            with pytest.raises(OSError, match="Input/output"):
                durable.flush_files(files, fd)
        else:
            durable.flush_files(files, fd)
            assert len(fsyncs) == 5
    finally:
        os.close(fd)


def test_a_directory_that_cannot_be_flushed_does_it_by_itself(local, monkeypatch):
    monkeypatch.setattr(os, "fsync", raiser(errno.EINVAL))
    fd = os.open(local.path, os.O_RDONLY)
    try:
        durable.flush_directory(fd)
        monkeypatch.setattr(os, "fsync", raiser(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            durable.flush_directory(fd)
    finally:
        os.close(fd)


def test_a_path_is_shown_whatever_its_bytes():
    error = durable.disk_error(OSError(errno.ENOSPC, "No space left on device"), b"/mail/\xff")
    assert str(error) == "/mail/\\xff: No space left on device"
