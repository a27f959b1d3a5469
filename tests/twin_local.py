# SPDX-License-Identifier: MIT
"""A Maildir folder in memory, and a run's hold on it (`ports.Local`)."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

from pushpull.errors import LocalDiskError, MessageError
from pushpull.filenames import flags_of, split, with_flags
from pushpull.flags import NONE, Flags
from pushpull.message import fingerprint
from pushpull.model import DirectoryStamp, FileStamp, Fingerprint, LocalFile, Marker, Scan, Uniquename
from pushpull.ports import Delivery, Known
from tests.twin_script import Clock, Script


@dataclass
class MemoryFile:
    data: bytes
    mtime_ns: int
    inode: int
    unreadable: bool = False


@dataclass
class MemoryFolder:
    """One Maildir folder; paths are relative to it. What the user does is done by `put`, `remove` and `rename`."""

    clock: Clock = field(default_factory=Clock)
    directories: set[bytes] = field(default_factory=set)
    files: dict[bytes, MemoryFile] = field(default_factory=dict)  # tmp/ too
    marker: Marker | None = None
    busy_scans: int = 0  # so many scans show that a directory changed meanwhile
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    changed: dict[str, int] = field(default_factory=dict)  # the number of each directory's last change

    def _change(self, *paths: bytes) -> None:
        for path in paths:
            self.changed[path.rpartition(b"/")[0].decode()] = next(self.numbers)

    def stamps(self) -> dict[str, DirectoryStamp]:
        """Of the directories that may hold mail."""
        names = [name.decode() for name in self.directories if _mail_directory(name)]
        return {name: (1, 1, self.changed.get(name, 0)) for name in names}

    def put(self, path: bytes, data: bytes) -> None:
        old = self.files.get(path)
        directory = path.rpartition(b"/")[0]
        while directory:
            self.directories.add(directory)
            directory = directory.rpartition(b"/")[0]
        number = next(self.numbers)
        inode = number if old is None else old.inode
        if old is None:
            self._change(path)
        self.files[path] = MemoryFile(data, int(self.clock() * 1000) * 1_000_000 + number, inode)

    def remove(self, path: bytes) -> None:
        del self.files[path]
        self._change(path)

    def rename(self, old: bytes, new: bytes) -> None:
        self._change(old, new)
        self.files[new] = self.files.pop(old)

    def copy(self) -> MemoryFolder:
        files = {path: replace(file) for path, file in self.files.items()}
        return replace(self, directories=set(self.directories), files=files, changed=self.changed.copy())

    def restore(self, older: MemoryFolder) -> None:
        copy = older.copy()
        self.directories, self.files, self.marker = copy.directories, copy.files, copy.marker
        self._change(*(name.encode() + b"/" for name in self.stamps()))


def local_file(path: bytes) -> LocalFile:
    directory, _, name = path.rpartition(b"/")
    uniquename, info = split(name)
    return LocalFile(uniquename, directory.decode(), info, flags_of(info))


def _mail_directory(directory: bytes) -> bool:
    bucket, _, leaf = directory.rpartition(b"/")
    return leaf in (b"new", b"cur") and (not bucket or (len(bucket) == 2 and set(bucket) <= set(b"0123456789abcdef")))


class MemoryStaged:
    """A message in tmp/ (`ports.StagedFile`)."""

    def __init__(self, local: MemoryLocal, path: bytes, shown: Fingerprint) -> None:
        self.path, self.fingerprint, self.delivered = path, shown, False
        self.stamp = _stamp(local.folder.files[path])
        self._local = local

    def chunks(self) -> Iterator[bytes]:
        yield self._local.folder.files[self.path].data

    def discard(self) -> None:
        if not self.delivered and not self._local.script.dead:
            self._local.folder.files.pop(self.path, None)


class _Unsettled:
    """Here every directory is read each time."""

    def settle(self) -> dict[str, DirectoryStamp]:
        return {}


class MemoryLocal:
    """One run's hold on a folder (`ports.Local`)."""

    def __init__(self, folder: MemoryFolder, script: Script | None = None) -> None:
        self.folder = folder
        self.script = script or Script()
        self._unsynced = False

    def _step(self, name: str) -> None:
        self.script.step(f"local.{name}")

    # --- the folder ----------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        return bool({b"new", b"cur"} & self.folder.directories)

    def has(self, directory: str) -> bool:
        return directory.encode() in self.folder.directories

    def create(self) -> None:
        missing = {b"tmp", b"new", b"cur"} - self.folder.directories
        if missing:
            self._step("create<")
            self.script.changes.append("create")
            self.folder.directories |= missing

    def _demand(self) -> None:
        if not self.folder.directories:
            raise LocalDiskError("the folder is missing")

    def read_marker(self) -> Marker | None:
        self._step("read_marker")
        return self.folder.marker

    def write_marker(self, marker: Marker) -> None:
        self._step("write_marker<")
        self._demand()
        self.script.changes.append(f"marker {marker.generation}")
        self.folder.marker = marker
        self._step("write_marker>")

    def scan(self, known: Known | None = None) -> Scan:
        """A directory that looks as it did holds what it held: that is not checked here."""
        self._step("scan<")
        for name in (b"new", b"cur"):
            if name not in self.folder.directories:
                raise LocalDiskError(f"{name.decode()}: is missing")
        moved, self.folder.busy_scans = self.folder.busy_scans > 0, max(0, self.folder.busy_scans - 1)
        believed = known.directories() if known else {}
        stamps = self.folder.stamps()
        as_it_was = {name for name, stamp in stamps.items() if stamp == believed.get(name)}
        paths = {path for path in self.folder.files if path.rpartition(b"/")[0].decode() not in as_it_was}
        expected = {name.encode() + b"/" + file for name in believed for file in (known.names(name) if known else ())}
        paths |= {path for path in expected if path.rpartition(b"/")[0].decode() in as_it_was}
        files: dict[Uniquename, LocalFile] = {}
        strangers: dict[bytes, str] = {}
        for path in sorted(paths, key=lambda path: (b"new/" in path, path)):
            self._meet(path, files, strangers)
        self._step("scan>")
        return Scan(
            {name: file for name, file in files.items() if file.path not in expected},
            moved,
            tuple(strangers.items()),
            missing=frozenset(local_file(path).uniquename for path in expected) - files.keys(),
            stamps={
                name: None if moved or strangers else stamp for name, stamp in stamps.items() if name not in as_it_was
            },
        )

    def _meet(self, path: bytes, files: dict[Uniquename, LocalFile], strangers: dict[bytes, str]) -> None:
        directory, _, name = path.rpartition(b"/")
        above = directory.rpartition(b"/")[0]
        if _mail_directory(above):
            strangers[directory] = "a directory"
        elif _mail_directory(directory) and not name.startswith(b"."):
            file = local_file(path)
            if not file.uniquename:
                strangers[path] = "nothing before the ':' of its name"
            elif file.uniquename in files:
                strangers[path] = "a second name with that uniquename"
            else:
                files[file.uniquename] = file

    def find(self, uniquename: Uniquename) -> LocalFile | None:
        self._step("find")
        return self._where(uniquename)

    def _where(self, uniquename: Uniquename) -> LocalFile | None:
        files: dict[Uniquename, LocalFile] = {}
        for path in sorted(self.folder.files, key=lambda path: (b"new/" in path, path)):
            self._meet(path, files, {})
        return files.get(uniquename)

    # --- reading -------------------------------------------------------------------------------------------------

    def _chase(self, file: LocalFile) -> LocalFile | None:
        return file if file.path in self.folder.files else self._where(file.uniquename)

    def at_hand(self) -> AbstractContextManager[None]:
        return nullcontext()

    def own_changes(self, known: Mapping[str, DirectoryStamp]) -> AbstractContextManager[_Unsettled]:
        return nullcontext(_Unsettled())

    def open_message(self, file: LocalFile) -> tuple[io.BytesIO, FileStamp] | None:
        self._step("open_message")
        current = self._chase(file)
        if current is None:
            return None
        held = self.folder.files[current.path]
        if held.unreadable:
            raise MessageError("permission denied")
        return io.BytesIO(held.data), _stamp(held)

    def fingerprint(self, file: LocalFile) -> tuple[Fingerprint, FileStamp] | None:
        opened = self.open_message(file)
        return None if opened is None else (fingerprint([opened[0].read()]), opened[1])

    def stamp(self, file: LocalFile) -> FileStamp | None:
        self._step("stamp")
        current = self._chase(file)
        return None if current is None else _stamp(self.folder.files[current.path])

    # --- delivering ----------------------------------------------------------------------------------------------

    def stage(self, chunks: Iterable[bytes], mtime: float) -> MemoryStaged:
        self._step("stage<")
        self._demand()
        wire = b"".join(chunks)
        path = b"tmp/pushpull-%d" % next(self.folder.numbers)
        self.folder.put(path, wire.replace(b"\r\n", b"\n"))
        if math.isfinite(mtime) and abs(mtime) < 1e12:
            self.folder.files[path].mtime_ns = int(mtime * 1000) * 1_000_000
        self._step("stage>")
        return MemoryStaged(self, path, fingerprint([wire]))

    def write(self, deliveries: Sequence[Delivery]) -> None:
        with _discarded_on_error(deliveries):
            self._step("write<")

    def deliver(self, deliveries: Sequence[Delivery]) -> list[LocalFile]:
        placed = []
        with _discarded_on_error(deliveries):
            self._step("deliver<")
            for delivery in deliveries:
                placed.append(self._place(delivery))
                self._step("deliver>")
        return placed

    def _place(self, delivery: Delivery) -> LocalFile:
        staged = delivery.staged
        assert isinstance(staged, MemoryStaged), "a folder delivers what it staged"
        assert not staged.delivered, "delivered twice"
        info = with_flags(b"", delivery.flags, NONE)
        path = (b"cur/" if info else b"new/") + b"%d.twin" % next(self.folder.numbers) + info
        self.script.changes.append(f"deliver {path.decode()}")
        self.folder.rename(staged.path, path)
        staged.delivered = True
        return local_file(path)

    # --- renaming ------------------------------------------------------------------------------------------------

    def set_flags(self, file: LocalFile, add: Flags, remove: Flags) -> LocalFile | None:
        self._step("set_flags<")
        current = self._chase(file)
        if current is None:
            return None
        info = with_flags(current.info, add, remove)
        if info == current.info:
            return current
        directory = current.directory.removesuffix("new").removesuffix("cur") + "cur"
        renamed = LocalFile(current.uniquename, directory, info, flags_of(info))
        if renamed.path in self.folder.files:
            raise MessageError("two files of one name")
        self.script.changes.append(f"rename {current.path!r} {renamed.path!r}")
        self.folder.rename(current.path, renamed.path)
        self._unsynced = True
        self._step("set_flags>")
        return renamed

    def sync_renames(self) -> None:
        self._step("sync_renames")
        self._unsynced = False

    def assert_renames_are_durable(self) -> None:
        """For the store to ask before each commit."""
        assert not self._unsynced, "committed before the renames were made durable"

    def retire(self, file: LocalFile) -> None:
        raise AssertionError("nothing is retired from a folder that is synced to disk")


@contextmanager
def _discarded_on_error(deliveries: Sequence[Delivery]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for delivery in deliveries:
            delivery.staged.discard()
        raise


def _stamp(file: MemoryFile) -> FileStamp:
    return FileStamp(len(file.data), file.mtime_ns, file.inode)
