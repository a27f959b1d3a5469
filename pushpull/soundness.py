# SPDX-License-Identifier: MIT
"""Which state file was found sound, so that it need not be read whole at each start.

To compare its indexes with its rows takes SQLite a second for 100,000 messages, more than all else that a run with
nothing to do needs. So a line beside the file (`STATE.sound`) says when that was done last, and what the file was when
pushpull closed it since: device, inode, size, times. No program sets a ctime, so whatever was written, restored or
copied by somebody else shows. The line counts for a day, since a disk may forget what nobody wrote; only while no
write-ahead log stands beside the file, so not after a crash; and only in the boot that wrote it, so not after a power
cut.

Anything unusual (no line, a damaged one, a clock that was put back) means that the file is looked at, never that it is
believed.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

CHECK_SECONDS = 86_400.0
_MOST = 256


def is_vouched_for(path: str) -> bool:
    """Whether the file, as it is now, was left so by a pushpull that had found it sound within a day."""
    line = _read(path)
    return line is not None and line[:-1] == _stamp(path) and not os.path.lexists(f"{path}-wal")


def found_sound(path: str) -> None:
    """It was read whole just now, together with its log. Without that the file may be half of two states, so it is not
    vouched for before it is closed."""
    stamp = _stamp(path)
    if _log_size(path):
        stamp[3:] = ["-"] * len(stamp[3:])
    _write(path, [*stamp, str(int(time.time()))])


def closed(path: str) -> None:
    """We wrote to it since, and have closed it. Of a file that was not found sound, or is another one by now, or that
    somebody else has open, nothing is said."""
    line, now = _read(path), _stamp(path)
    if line is not None and line[:3] == now[:3] and line[:-1] != now and not os.path.lexists(f"{path}-wal"):
        _write(path, [*now, line[-1]])


def found_damaged(path: str) -> None:
    with suppress(OSError):
        os.unlink(_beside(path))


def boot_id() -> str:
    """Names this boot of the machine."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "unknown"


def _beside(path: str) -> str:
    return f"{path}.sound"


def _log_size(path: str) -> int:
    try:
        return os.stat(f"{path}-wal").st_size
    except OSError:
        return 0


def _stamp(path: str) -> list[str]:
    try:
        status = os.stat(path)
    except OSError:
        return []
    numbers = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return [boot_id(), *map(str, numbers)]


def _read(path: str) -> list[str] | None:
    """The stamp and the time of the check; None without a line that counts still."""
    try:
        fd = os.open(_beside(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(fd, _MOST).decode("ascii")
        line = text.removesuffix("\n").split(" ")
        age = time.time() - int(line[-1])
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)
    return line if text.endswith("\n") and 0 <= age < CHECK_SECONDS else None


def _write(path: str, values: list[str]) -> None:
    """In one piece; a half of it would have no end. Without it the file is looked at again, so nothing fails here."""
    line = " ".join(values) + "\n"
    with suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(_beside(path), flags, 0o600)
        try:
            os.write(fd, line.encode("ascii"))
        finally:
            os.close(fd)
