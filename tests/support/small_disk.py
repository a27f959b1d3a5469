# SPDX-License-Identifier: MIT
"""A disk of its own for a directory, a tmpfs, which can be filled up to any byte, and made read-only.

Only root may mount one. Where `may_mount` says no, strace refuses the same calls (`strace.fail_at`).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE = 64 << 20


class SmallDisk:
    """A tmpfs that is mounted on `top`."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self._ballast = top / "ballast"

    @contextmanager
    def filled(self, room: int) -> Iterator[None]:
        """Within, so many bytes are free."""
        status = os.statvfs(self.top)
        with open(self._ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, status.f_bavail * status.f_frsize - room))
        try:
            yield
        finally:
            self._ballast.unlink()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Within, nothing can be written."""
        self._remount("ro")
        try:
            yield
        finally:
            self._remount("rw")

    def _remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.top)], check=True)


def may_mount() -> bool:
    return os.getuid() == 0


@contextmanager
def mounted(top: Path) -> Iterator[SmallDisk]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs", str(top)], check=True)
    try:
        yield SmallDisk(top)
    finally:
        subprocess.run(["umount", "-l", str(top)], check=True)
