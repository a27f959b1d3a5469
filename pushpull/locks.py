# SPDX-License-Identifier: MIT
"""One process a pairing: a kernel lock that dies with its holder. The file stays; its text names the holder's pid."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pushpull.errors import LocalDiskError, PairingLocked


class PairLock:
    """The lock on a pair, held until `close`. It belongs to the open file, so it outlives a fork; the process that goes
    on notes its own pid.
    """

    def __init__(self, state_path: str, pair_id: int) -> None:
        """PairingLocked (with the holder's pid) when another process has it."""
        self._path = f"{state_path}.{pair_id}.lock"
        try:
            self.descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise self._fault(error, "check its permissions") from error
        try:
            self._take()
            self.note_pid()
        except BaseException:
            self.close()
            raise

    def note_pid(self) -> None:
        """Who meets the lock is told of this process."""
        try:
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, b"%d\n" % os.getpid(), 0)
        except OSError as error:
            raise self._fault(error, "check the disk") from error

    def close(self) -> None:
        """Give the lock up."""
        os.close(self.descriptor)

    def _take(self) -> None:
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            text = os.pread(self.descriptor, 32, 0).decode("ascii", "replace").strip()
            pid = int(text) if text.isdecimal() else None
            raise PairingLocked(
                f"another pushpull (pid {text or 'unknown'}) is at work on this pairing",
                pid=pid,
                remedy=f"wait for it; one that stays in idle mode synchronises at once on: kill -USR1 {text or 'PID'}",
            ) from error
        except OSError as error:
            raise self._fault(error, "check the disk") from error

    def _fault(self, error: OSError, remedy: str) -> LocalDiskError:
        return LocalDiskError(f"lock file {self._path}: {error.strerror}", remedy=remedy)


@contextmanager
def pair_lock(state_path: str, pair_id: int) -> Iterator[None]:
    """Hold the pair's lock. PairingLocked (with the holder's pid) when another process has it."""
    lock = PairLock(state_path, pair_id)
    try:
        yield
    finally:
        lock.close()
