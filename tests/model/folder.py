# SPDX-License-Identifier: MIT
"""The local folder as the user's other programs treat it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.twins import local_file


@dataclass(frozen=True)
class Found:
    """One file: its bytes, and what no run without changes may touch."""

    data: bytes
    inode: int
    stamps: tuple[int, int]


class UserFolder:
    """A Maildir. Paths are bytes relative to it, as `cur/name:2,S`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._staged = 0

    def make(self, *directories: str) -> None:
        for name in directories or ("cur", "new", "tmp"):
            (self.path / name).mkdir(parents=True, exist_ok=True)

    @property
    def files(self) -> dict[bytes, Found]:
        """Every message file of cur/, new/ and the buckets."""
        top = os.fsencode(self.path)
        found = {}
        for directory in self._directories(top):
            with os.scandir(top + b"/" + directory) as entries:
                for entry in entries:
                    found[directory + b"/" + entry.name] = _look(entry.path)
        return found

    @staticmethod
    def _directories(top: bytes) -> list[bytes]:
        if not os.path.isdir(top):
            return []
        buckets = [name for name in os.listdir(top) if len(name) == 2]
        places = [b"", *(bucket + b"/" for bucket in buckets)]
        return [
            place + leaf for place in places for leaf in (b"new", b"cur") if os.path.isdir(top + b"/" + place + leaf)
        ]

    def absolute(self, path: bytes) -> bytes:
        return os.fsencode(self.path) + b"/" + path

    def deliver(self, path: bytes, data: bytes, mtime: float) -> None:
        """Written to tmp/, then renamed, as delivery agents and mail readers do."""
        self._staged += 1
        staged = self.absolute(b"tmp/user%d" % self._staged)
        with open(staged, "xb") as file:
            file.write(data)
        os.utime(staged, (mtime, mtime))
        os.rename(staged, self.absolute(path))

    def write_into(self, path: bytes, data: bytes) -> None:
        """An editor that writes into the file that is there."""
        with open(self.absolute(path), "r+b") as file:
            file.write(data)
            file.truncate()

    def rename(self, old: bytes, new: bytes) -> None:
        if new != old:
            assert not os.path.lexists(self.absolute(new)), new
            os.rename(self.absolute(old), self.absolute(new))

    def remove(self, path: bytes) -> None:
        os.unlink(self.absolute(path))

    def move_out(self, path: bytes, target: UserFolder) -> None:
        target.make()
        os.rename(self.absolute(path), target.absolute(b"cur/" + path.rpartition(b"/")[2]))

    def copy_to(self, path: Path) -> None:
        """As a backup does it: times are kept."""
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.path, path)

    def restore_from(self, path: Path) -> None:
        shutil.rmtree(self.path)
        shutil.copytree(path, self.path)

    def frozen(self) -> dict[bytes, object]:
        """All that a run without changes leaves alone."""
        marker = self.path / ".pushpull"
        seen: dict[bytes, object] = {b".pushpull": _look(os.fsencode(marker)) if marker.exists() else None}
        return seen | self.files


def _look(path: bytes) -> Found:
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        return Found(file.read(), status.st_ino, (status.st_mtime_ns, status.st_ctime_ns))


def names_of(files: dict[bytes, Found]) -> list[bytes]:
    """Unique names, which no two files share."""
    return [bytes(local_file(path).uniquename) for path in files]
