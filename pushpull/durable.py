# SPDX-License-Identifier: MIT
"""What the standard library lacks for keeping mail on a disk: a rename that never overwrites, one flush for a whole
batch, and disk errors in words.

**fsync rules.** A message's bytes and times are on the disk before its name is in new/ or cur/ (write, utime, flush,
rename), and the name is on the disk before the state file says so (flush of the directory, then the commit). A crash
between any two leaves at most a file in tmp/, which nobody reads, or a message the state does not know yet, which is
adopted by its content. A directory that was made is flushed into its parent before anything in it counts.

**Flushing a batch.** One syncfs() for hundreds of files is five times faster than an fsync() each. It reports write
errors since Linux 5.8 only, and flushes what others wrote too: so it is not for a few files, and not for old kernels.
"""

from __future__ import annotations

import ctypes
import errno
import io
import math
import os
import re
from collections.abc import Sequence

from pushpull.errors import LocalDiskError, MessageError

FEW = 3  # up to so many files are flushed one by one

_LIBC = ctypes.CDLL(None, use_errno=True)
_RENAME_NOREPLACE = 1
_NO_SUCH_CALL = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EINVAL})

# ext2 to ext4, xfs, btrfs, f2fs, tmpfs, zfs, bcachefs (statfs(2), linux/magic.h)
_LOCAL_DISKS = frozenset({0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x01021994, 0x2FC12FC1, 0xCA451A4E})
_NO_SUCH_TIME = frozenset({errno.EINVAL, errno.EOVERFLOW, errno.ERANGE, errno.EPERM, errno.ENOSYS})

_ONE_FILE = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP, errno.EIO, errno.ENXIO, errno.ENAMETOOLONG})

_FULL = "free some space; what was not finished is done in the next run"
_DENIED = "give the user who runs pushpull the right to read and write there"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: "mount the file system for writing",
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.ENOENT: "find out what happened to the directory: not mounted, moved away, or a link that leads nowhere",
    errno.EIO: "the disk or its driver reports damage: look at the kernel's log before anything else",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files (fs.file-max)",
    errno.ESTALE: "mount the network file system again",
}


def shown(path: bytes) -> str:
    """A path as text, whatever its bytes."""
    return path.decode("utf-8", "backslashreplace")


def disk_error(error: OSError, path: bytes) -> LocalDiskError:
    """The error in words, naming the path and what to do."""
    text = "is a symbolic link, which is not followed" if error.errno == errno.ELOOP else error.strerror or str(error)
    return LocalDiskError(f"{shown(path)}: {text}", remedy=_REMEDIES.get(error.errno or 0, ""))


class disk:  # noqa: N801 - not a generator with contextmanager(), which costs ten times as much for each message
    """Context manager: turns each OSError within into a LocalDiskError about `path`."""

    __slots__ = ("_path",)

    def __init__(self, path: bytes) -> None:
        self._path = path

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError):
            raise disk_error(error, self._path) from error


class one_file(disk):  # noqa: N801
    """As `disk`, but what is the fault of this one file (its owner, a bad sector) is a MessageError, so that other
    messages go on. FileNotFoundError passes: it says where to look next."""

    __slots__ = ()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, FileNotFoundError):
            return
        if isinstance(error, OSError) and error.errno in _ONE_FILE:
            raise MessageError(str(disk_error(error, self._path))) from error
        super().__exit__(kind, error, traceback)


class MessageReader(io.RawIOBase):
    """A message file open for reading, unbuffered, whose errors are those of `one_file`. It owns the descriptor."""

    def __init__(self, fd: int, path: bytes) -> None:
        super().__init__()
        self._fd = fd
        self._path = path

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return self.readall()
        with one_file(self._path):
            return os.read(self._fd, size)

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


def rename_noreplace(source: bytes, target: bytes, *, source_fd: int, target_fd: int) -> None:
    """Rename relative to two directories; FileExistsError when there is a target, whatever it is.

    Where the file system cannot do that by itself: link and unlink; where it has no hard links either, a look first.
    """
    try:
        _renameat2(source_fd, source, target_fd, target)
    except OSError as error:
        if error.errno not in _NO_SUCH_CALL:
            raise
        _link_and_unlink(source, target, source_fd, target_fd)


def _renameat2(source_fd: int, source: bytes, target_fd: int, target: bytes) -> None:
    call = getattr(_LIBC, "renameat2", None)  # glibc since 2.28
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(source_fd, source, target_fd, target, _RENAME_NOREPLACE) != 0:
        raise _last_error()


def _link_and_unlink(source: bytes, target: bytes, source_fd: int, target_fd: int) -> None:
    try:
        os.link(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _look_and_rename(source, target, source_fd, target_fd)
        return
    try:
        os.unlink(source, dir_fd=source_fd)
    except FileNotFoundError:
        # Somebody renamed the source after our link: now the file has their name and ours. Theirs stays. A file
        # that somebody deleted meanwhile has only our name left: it is kept, since a look twice costs nothing.
        if os.stat(target, dir_fd=target_fd, follow_symlinks=False).st_nlink == 1:
            return
        os.unlink(target, dir_fd=target_fd)
        raise


def _look_and_rename(source: bytes, target: bytes, source_fd: int, target_fd: int) -> None:
    # The gap between look and rename is the best such a file system allows. The target's name holds the uniquename
    # of the source, so who fills it within that gap has named two files alike.
    try:
        os.stat(target, dir_fd=target_fd, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd)
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def finish_rename(source: bytes, target: bytes, *, source_fd: int, target_fd: int) -> bool:
    """When both names are of one file, link and unlink were cut in the middle: take the old name away, and say True."""
    old = os.stat(source, dir_fd=source_fd, follow_symlinks=False)
    new = os.stat(target, dir_fd=target_fd, follow_symlinks=False)
    if (old.st_dev, old.st_ino) != (new.st_dev, new.st_ino):
        return False
    os.unlink(source, dir_fd=source_fd)
    return True


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def flush_files(names: Sequence[bytes], directory_fd: int) -> None:
    """Put the contents of files of one directory on the disk."""
    if len(names) > FEW and _syncfs(directory_fd):
        return
    for name in names:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory_fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _syncfs(fd: int) -> bool:
    """Flush the whole file system of `fd`; False where that cannot be done or would hide errors."""
    call = getattr(_LIBC, "syncfs", None)
    if call is None or _kernel() < (5, 8):
        return False
    if call(fd) == 0:
        return True
    error = _last_error()
    if error.errno in _NO_SUCH_CALL:
        return False
    raise error


def _kernel() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


def flush_directory(fd: int) -> None:
    """Put the names in a directory on the disk. Some network file systems cannot, and do it by themselves."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise


def write_all(fd: int, data: bytes) -> None:
    """Write every byte, however many calls it takes."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def set_mtime(fd: int, mtime: float) -> None:
    """Date an open file; a date that the file system cannot hold leaves the time of the last write."""
    try:
        seconds = math.floor(mtime)
        nanoseconds = seconds * 1_000_000_000 + int((mtime - seconds) * 1_000_000_000)
        os.utime(fd, ns=(nanoseconds, nanoseconds))
    except (OverflowError, ValueError):
        return
    except OSError as error:
        if error.errno not in _NO_SUCH_TIME:
            raise


def shows_each_change(fd: int) -> bool:
    """Whether a directory is on a file system that gives it a new ctime with each name that comes or goes, and that no
    other machine writes to. NFS, SMB and FUSE promise neither.
    """
    status = ctypes.create_string_buffer(512)
    if _LIBC.fstatfs(fd, status):
        return False
    return ctypes.c_ulong.from_buffer(status).value & 0xFFFFFFFF in _LOCAL_DISKS
