# SPDX-License-Identifier: MIT
"""The local side: reading, delivering and renaming the messages of one Maildir folder (`ports.Local`).

**A file may be renamed between any look and any use.** Its identity is its uniquename: after ENOENT the directories are
searched, and the call is made again under the name that it has now. Flags are added to and taken from what the name
shows then, never set as a whole, so a flag that somebody sets meanwhile stays.

**Nothing is overwritten, no mail is removed.** Renames refuse a target that exists. Only files of ours in tmp/ are
unlinked, and the second of two names of one file when a rename was cut in the middle.

**One file's fault is not the disk's.** What cannot be read or renamed for itself (its owner, a bad sector, a name too
long) is a MessageError, so the other messages go on. Everything else is a LocalDiskError, with path and remedy.

How directories are read, and why an absence proves little: folder.py. The order of flushes and renames: durable.py.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, TypeVar, cast

from pushpull.durable import (
    MessageReader,
    disk,
    disk_error,
    finish_rename,
    flush_directory,
    flush_files,
    one_file,
    rename_noreplace,
    shown,
)
from pushpull.errors import LocalDiskError, MessageError
from pushpull.filenames import bucket, flags_of, make, with_flags
from pushpull.flags import NONE, Flags
from pushpull.folder import Directories, Folder
from pushpull.marker import MAX_SIZE, NAME, format_marker, parse_marker
from pushpull.message import Fingerprinter, stored
from pushpull.model import DirectoryStamp, FileStamp, Fingerprint, LocalFile, Marker, Scan, Uniquename
from pushpull.own_changes import OwnChanges
from pushpull.ports import Delivery, Known
from pushpull.staging import NEW_NAMES, Staged, Staging

T = TypeVar("T")

_CHUNK = 1 << 18
_CHASES = 5
# EACCES and EIO of a rename come from the directory, not from the file.
_ONE_RENAME = frozenset({errno.EPERM, errno.ENAMETOOLONG})
_NO_COLON = frozenset({errno.EINVAL, errno.ENOENT, errno.EACCES, errno.EPROTO, errno.EOPNOTSUPP})


class Maildir:
    """One Maildir folder. `clock` gives seconds since the epoch, for the names of new files.

    Reading is the same whatever `buckets` says; it decides where new mail goes: cur/ or XX/cur/.
    """

    def __init__(
        self,
        path: str,
        *,
        buckets: bool = False,
        fsync: bool = True,
        clock: Callable[[], float] = time.time,
        host: str | None = None,
        pid: int | None = None,
    ) -> None:
        self.path = path
        self._folder = Folder(os.fsencode(path))
        self._buckets = buckets
        self._fsync = fsync
        self._clock = clock
        self._host = os.uname().nodename if host is None else host
        self._pid = pid
        self._counter = itertools.count(1)
        self._renamed_in: set[str] = set()
        self._staging = Staging(self._folder, self._new_uniquename, fsync=fsync)
        self._own = OwnChanges(self._folder, {})

    # --- the folder ------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """There is a folder, and new/ or cur/ in it. An empty directory is none: it may be an empty mount point."""
        return self._folder.has("cur") or self._folder.has("new")

    def has(self, directory: str) -> bool:
        """There is a directory of that name in the folder."""
        return self._folder.has(directory)

    def create(self) -> None:
        """Make the folder with cur/, new/ and tmp/ (0700), parents too."""
        missing = []
        path = os.path.abspath(self._folder.root)
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for path in reversed(missing):
            Folder(os.path.dirname(path)).make(os.fsdecode(os.path.basename(path)), durable=self._fsync)
        for name in ("tmp", "new", "cur"):
            self._folder.make(name, durable=self._fsync)

    def probe(self) -> None:
        """LocalDiskError when file names may not hold ':'. SMB and exFAT refuse it, to NTFS it means something else."""
        name = self._new_uniquename() + b":2,T"
        path = self._folder.absolute("tmp", name)
        with self._staging.opened() as tmp:
            try:
                os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=tmp))
            except OSError as error:
                if error.errno in _NO_COLON and os.access(".", os.W_OK | os.X_OK, dir_fd=tmp):
                    raise self._no_colon() from error
                raise disk_error(error, path) from error
            with disk(path):
                there = any(os.fsencode(entry) == name for entry in os.listdir(tmp))
                os.unlink(name, dir_fd=tmp)
        if not there:
            raise self._no_colon()

    def _no_colon(self) -> LocalDiskError:
        return LocalDiskError(
            f'{shown(self._folder.root)}: the file system does not take ":" in names, or the directory no files',
            remedy="put the folder on a Linux file system (ext4, xfs, btrfs, ...) where you may write",
        )

    def clean_tmp(self) -> int:
        """Remove what a crash of ours left in tmp/ more than 36 hours ago, nobody else's; how many files."""
        return self._staging.clean(self._clock())

    # --- the marker ------------------------------------------------------------------------------------------

    def read_marker(self) -> Marker | None:
        """None when there is none, or a damaged one, which counts as none."""
        path = self._folder.absolute("", NAME)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise disk_error(error, path) from error
        try:
            with disk(path):
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise LocalDiskError(f"{shown(path)}: not a regular file", remedy="move it away")
                return parse_marker(os.read(fd, MAX_SIZE + 1))
        finally:
            os.close(fd)

    def write_marker(self, marker: Marker) -> None:
        """By a rename; durably with fsync = yes."""
        data = format_marker(marker)
        with self._staging.opened() as tmp, self._folder.opened("") as root:
            name, _ = self._staging.write([data], tmp)
            try:
                with disk(self._folder.absolute("", NAME)):
                    if self._fsync:
                        flush_files([name], tmp)
                    os.rename(name, NAME, src_dir_fd=tmp, dst_dir_fd=root)
                    if self._fsync:
                        flush_directory(root)
            except BaseException:
                self._staging.unlink(name)
                raise

    # --- reading ---------------------------------------------------------------------------------------------

    def at_hand(self) -> AbstractContextManager[None]:
        """As ports.Local."""
        return self._folder.at_hand()

    def scan(self, known: Known | None = None) -> Scan:
        """Every message file, or what differs from what is known; LocalDiskError when a directory cannot be read to its
        end (see folder.py)."""
        return self._folder.scan(known)

    def find(self, uniquename: Uniquename) -> LocalFile | None:
        """Where the file is now, by a look at the directories."""
        return self._folder.find(uniquename)

    def open_message(self, file: LocalFile) -> tuple[BinaryIO, FileStamp] | None:
        """For reading its raw bytes; None when it is gone. MessageError, from reading too, when just this one cannot
        be read."""
        return self._chase(file, self._open)

    def fingerprint(self, file: LocalFile) -> tuple[Fingerprint, FileStamp] | None:
        """What its bytes say, and its stamp from before they were read; None when it is gone."""
        opened = self.open_message(file)
        if opened is None:
            return None
        stream, stamp = opened
        fingerprinter = Fingerprinter()
        with stream:
            while chunk := stream.read(min(stamp.size + 1, _CHUNK)):
                fingerprinter.feed(chunk)
        return fingerprinter.finish(), stamp

    def stamp(self, file: LocalFile) -> FileStamp | None:
        """Size, time and inode as they are now; None when it is gone."""
        return self._chase(file, self._stamp_of)

    def _open(self, file: LocalFile) -> tuple[BinaryIO, FileStamp]:
        path = self._folder.absolute("", file.path)
        with self._folder.near(file.directory) as directory, one_file(path):
            # O_NONBLOCK: a pipe that took the file's place must not hang us.
            fd = os.open(_name(file), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        try:
            stamp = _file_stamp(os.fstat(fd), path)
            return cast(BinaryIO, MessageReader(fd, path)), stamp
        except BaseException:
            os.close(fd)
            raise

    def _stamp_of(self, file: LocalFile) -> FileStamp:
        path = self._folder.absolute("", file.path)
        with self._folder.near(file.directory) as directory, one_file(path):
            return _file_stamp(os.stat(_name(file), dir_fd=directory, follow_symlinks=False), path)

    def _chase(self, file: LocalFile, act: Callable[[LocalFile], T]) -> T | None:
        """`act` on the file; when that raises FileNotFoundError, on where the file is now. None when it is gone."""
        current = file
        for _ in range(_CHASES):
            try:
                return act(current)
            except FileNotFoundError:
                found = self.find(file.uniquename)
                if found is None:
                    return None
                current = found
        raise MessageError(f"{shown(file.path)}: renamed again and again by another program")

    # --- delivering ------------------------------------------------------------------------------------------

    def own_changes(self, known: Mapping[str, DirectoryStamp]) -> OwnChanges:
        """As ports.Local."""
        self._own = OwnChanges(self._folder, known)
        return self._own

    def stage(self, chunks: Iterable[bytes], mtime: float) -> Staged:
        """Take wire bytes (CRLF) as LF, dated as the message. What `chunks` raises comes out and leaves no file."""
        fingerprinter = Fingerprinter()
        return self._staging.stage(stored(chunks, fingerprinter), mtime, fingerprinter)

    def retire(self, file: LocalFile) -> None:
        """Move a damaged file of our own delivery to tmp/ (`fsync = no`, after a crash)."""
        self._staging.retire(file)

    def write(self, deliveries: Sequence[Delivery]) -> None:
        """Write what is staged in memory to tmp/, not durable yet. After an error all are discarded."""
        mine = [_own(delivery) for delivery in deliveries]
        with _discarded_on_error(mine), self._staging.opened() as tmp:
            for staged in mine:
                staged.write(tmp)

    def deliver(self, deliveries: Sequence[Delivery]) -> list[LocalFile]:
        """Write what is not written yet, make it durable, rename it into place, make the directories durable; in order.

        After an error those already renamed are mail, to be adopted by their content; the others are discarded.
        """
        self.write(deliveries)
        mine = [_own(delivery) for delivery in deliveries]
        with _discarded_on_error(mine):
            with self._staging.opened() as tmp, Directories() as targets:
                if self._fsync:
                    with disk(self._folder.absolute("tmp")):
                        flush_files([staged.name for staged in mine], tmp)
                placed = [
                    self._place(staged, delivery.flags, tmp, targets)
                    for staged, delivery in zip(mine, deliveries, strict=True)
                ]
            self._flush({file.directory for file in placed})
            for staged, file in zip(mine, placed, strict=True):
                self._own.moved("tmp", staged.name, file.directory, _name(file))
        return placed

    def _place(self, staged: Staged, flags: Flags, tmp: int, targets: Directories) -> LocalFile:
        """new/ has no room for letters, so only mail that has none goes there."""
        info = with_flags(b"", flags, NONE)
        directory = "cur" if info else "new"
        if self._buckets:
            directory = f"{bucket(staged.fingerprint.message_id)}/{directory}"
            self._make_bucket(directory)
        with disk(self._folder.absolute(directory)):
            target = targets.descriptor(directory, self._folder.open)
        self._own.begin(directory)
        uniquename = staged.uniquename
        for _ in range(NEW_NAMES):
            try:
                rename_noreplace(staged.name, uniquename + info, source_fd=tmp, target_fd=target)
            except FileExistsError:
                uniquename = self._new_uniquename()
                continue
            except OSError as error:
                raise disk_error(error, self._folder.absolute(directory, uniquename + info)) from error
            staged.delivered = True
            return LocalFile(uniquename, directory, info, flags_of(info))
        raise LocalDiskError(f"{shown(self._folder.absolute(directory))}: every new name is taken")

    def _make_bucket(self, directory: str) -> None:
        if self._folder.has(directory):
            return
        name = os.path.dirname(directory)
        self._folder.make(name, durable=self._fsync)
        for leaf in ("tmp", "new", "cur"):
            self._folder.make(f"{name}/{leaf}", durable=self._fsync)

    # --- renaming --------------------------------------------------------------------------------------------

    def set_flags(self, file: LocalFile, add: Flags, remove: Flags) -> LocalFile | None:
        """Rename to show the flags; None when the file is gone. The result is where it is, and what it shows, now.

        A rename goes to the cur/ beside; a file that shows the flags already stays where it is. MessageError when the
        name that it would get is taken by another file.
        """
        return self._chase(file, lambda current: self._rename(current, add, remove))

    def sync_renames(self) -> None:
        """Make the renames of `set_flags` durable."""
        directories, self._renamed_in = self._renamed_in, set()
        self._flush(directories)

    def _rename(self, file: LocalFile, add: Flags, remove: Flags) -> LocalFile:
        info = with_flags(file.info, add, remove)
        if info == file.info:
            self._stamp_of(file)  # it may be gone, or elsewhere
            return file
        cur = file.directory.removesuffix("new").removesuffix("cur") + "cur"
        renamed = LocalFile(file.uniquename, cur, info, flags_of(info))
        self._own.begin(file.directory)
        self._own.begin(cur)
        with self._folder.opened(file.directory) as source, self._folder.opened(cur) as target:
            try:
                rename_noreplace(_name(file), _name(renamed), source_fd=source, target_fd=target)
            except FileNotFoundError:
                raise
            except FileExistsError as error:
                if not finish_rename(_name(file), _name(renamed), source_fd=source, target_fd=target):
                    raise MessageError(
                        f"two files of one name: {shown(file.path)} cannot become {shown(renamed.path)}",
                        remedy="give one of the two another name",
                    ) from error
            except OSError as error:
                path = self._folder.absolute("", file.path)
                if error.errno in _ONE_RENAME:
                    raise MessageError(f"{shown(path)}: {error.strerror}", permanent=True) from error
                raise disk_error(error, path) from error
        self._own.moved(file.directory, _name(file), cur, _name(renamed))
        self._renamed_in |= {file.directory, cur}
        return renamed

    # --- names and flushes -----------------------------------------------------------------------------------

    def _new_uniquename(self) -> Uniquename:
        now = self._clock()
        seconds = math.floor(now)
        pid = os.getpid() if self._pid is None else self._pid
        return make(seconds, int((now - seconds) * 1_000_000), pid, next(self._counter), self._host)

    def _flush(self, directories: Iterable[str]) -> None:
        if self._fsync:
            self._folder.flush(directories)


@contextmanager
def _discarded_on_error(mine: Sequence[Staged]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for staged in mine:
            staged.discard()
        raise


def _own(delivery: Delivery) -> Staged:
    if not isinstance(delivery.staged, Staged):
        raise TypeError("a folder delivers what it staged")
    return delivery.staged


def _name(file: LocalFile) -> bytes:
    return file.uniquename + file.info


def _file_stamp(status: os.stat_result, path: bytes) -> FileStamp:
    if not stat.S_ISREG(status.st_mode):
        raise MessageError(f"{shown(path)}: no regular file any more")
    return FileStamp(status.st_size, status.st_mtime_ns, status.st_ino)
