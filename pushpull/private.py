# SPDX-License-Identifier: MIT
"""Files and directories that are the user's alone, and what another user of the machine may have put in their place.

Who can write to a directory can put a link to somebody else's file there, or a file of their own to read what is
written to it, or another state. So a directory is *shared* when everybody can write to it, or when it belongs to
somebody who is neither this user nor root. (Its group is whom its owner trusts.)
"""

from __future__ import annotations

import errno
import os
import stat


def make_directories(path: str) -> None:
    """Make a directory (0700) and those above it that are missing, all of them private."""
    if not path or os.path.isdir(path):
        return
    make_directories(os.path.dirname(path.rstrip("/")))
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


def is_open_to_all(directory: str) -> bool:
    """Everybody on the machine can put files into it."""
    return bool(os.stat(directory or ".").st_mode & stat.S_IWOTH)


def _is_shared(directory: str) -> bool:
    owner = os.stat(directory or ".").st_uid
    return is_open_to_all(directory) or owner not in (0, os.geteuid())


def open_to_append(path: str) -> int:
    """A descriptor of a file to append to, made 0600 when it is missing; never waits for the reader of a pipe.

    In a shared directory OSError for anything but a file of one's own with this one name.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    shared = _is_shared(os.path.dirname(path))
    descriptor = os.open(path, flags | (os.O_NOFOLLOW if shared else 0), 0o600)
    try:
        if shared:
            _demand_own(os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _demand_own(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink != 1:
        raise PermissionError(errno.EPERM, "not a file of its user's own, in a directory that others can write to")


def keep_from_others(path: str) -> None:
    """Take from a file of one's own, if it is there, what permissions group and others have.

    By its name: to close a descriptor of it would end all locks that SQLite has on it.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return
    if status.st_uid == os.geteuid() and status.st_mode & 0o077:
        os.chmod(path, status.st_mode & 0o700)
