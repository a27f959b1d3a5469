# SPDX-License-Identifier: MIT
"""One process a pairing: a kernel lock that dies with its holder. The file stays; its text names the holder's pid."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pushpull.errors import LocalDiskError, PairingLocked


@contextmanager
def pair_lock(state_path: str, pair_id: int) -> Iterator[None]:
    """Hold the pair's lock. PairingLocked (with the holder's pid) when another process has it."""
    path = f"{state_path}.{pair_id}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise LocalDiskError(f"lock file {path}: {error.strerror}", remedy="check its permissions") from error
    try:
        try:
            _take(descriptor)
        except OSError as error:
            raise LocalDiskError(f"lock file {path}: {error.strerror}", remedy="check the disk") from error
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        pid = int(text) if text.isdecimal() else None
        raise PairingLocked(
            f"another pushpull (pid {text or 'unknown'}) is at work on this pairing",
            pid=pid,
            remedy=f"wait for it; one that stays in idle mode synchronises at once on: kill -USR1 {text or 'PID'}",
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
