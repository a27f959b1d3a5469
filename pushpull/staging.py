# SPDX-License-Identifier: MIT
"""Messages on their way into a Maildir folder, in memory and in its tmp/; and damaged files on their way out of sight.

Nothing in tmp/ counts as mail. A name of ours begins with `pushpull-`, so only leftovers of our own are ever removed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from pushpull.durable import disk, disk_error, rename_noreplace, set_mtime, shown, write_all
from pushpull.errors import LocalDiskError
from pushpull.folder import Folder, Opened
from pushpull.message import Fingerprinter
from pushpull.model import FileStamp, Fingerprint, LocalFile, Uniquename

STAGED = b"pushpull-"
RETIRED = b"damaged-"
NEW_NAMES = 100
_STALE_SECONDS = 36 * 3600  # what Maildir gives a delivery
_CHUNK = 1 << 18
HELD = 1 << 18
"""Bytes of a message that are held in memory at most, until they are delivered."""


class Staged:
    """A message on its way in (`ports.StagedFile`): its bytes as they will be in the file, or the name of a file in
    tmp/ that has them."""

    __slots__ = ("_staging", "content", "delivered", "fingerprint", "mtime", "name", "stamp")

    def __init__(self, content: bytes, mtime: float, fingerprint: Fingerprint, staging: Staging) -> None:
        self.content, self.mtime = content, mtime
        self.fingerprint = fingerprint
        self.name, self.stamp = b"", FileStamp(0, 0, 0)
        self.delivered = False
        self._staging = staging

    @property
    def uniquename(self) -> Uniquename:
        """The name it was staged under, which it keeps when it is delivered."""
        return Uniquename(self.name.removeprefix(STAGED))

    def write(self, tmp: int) -> None:
        """Put it into tmp/, unless it is there; not durable yet."""
        if not self.name:
            self.name, self.stamp = self._staging.write((self.content,), tmp, self.mtime)
            self.content = b""

    def chunks(self) -> Iterator[bytes]:
        """Its bytes as in the file (LF)."""
        return self._staging.read(self.name) if self.name else iter((self.content,))

    def discard(self) -> None:
        """Remove it from tmp/ unless it was delivered; never raises."""
        if self.name and not self.delivered:
            self._staging.unlink(self.name)


class Staging:
    """The tmp/ of one folder. `new_uniquename` makes names."""

    def __init__(self, folder: Folder, new_uniquename: Callable[[], Uniquename], *, fsync: bool) -> None:
        self._folder, self._new_uniquename, self._fsync = folder, new_uniquename, fsync
        self._path = folder.absolute("tmp")

    def opened(self) -> Opened:
        """A descriptor of tmp/, made when it is missing: nobody misses an empty directory that a backup left out."""
        return Opened(self._open, "tmp")

    def _open(self, tmp: str) -> int:
        try:
            return self._folder.open(tmp)
        except FileNotFoundError:
            self._folder.make(tmp, durable=self._fsync)
            return self._folder.open(tmp)

    def stage(self, pieces: Iterator[bytes], mtime: float, fingerprinter: Fingerprinter) -> Staged:
        """A message of these bytes, all of which `fingerprinter` is fed with as they come. A short one stays in memory
        until it is delivered, with others and while the next ones come; a long one becomes a file at once."""
        held, size = [], 0
        for piece in pieces:
            held.append(piece)
            size += len(piece)
            if size > HELD:
                with self.opened() as tmp:
                    name, stamp = self.write(chain(held, pieces), tmp, mtime)
                staged = Staged(b"", mtime, fingerprinter.finish(), self)
                staged.name, staged.stamp = name, stamp
                return staged
        return Staged(b"".join(held), mtime, fingerprinter.finish(), self)

    def write(self, pieces: Iterable[bytes], tmp: int, mtime: float | None = None) -> tuple[bytes, FileStamp]:
        """A new file of these bytes in `tmp` (`opened`), under a name of ours, dated `mtime` (seconds since the epoch);
        no file when anything fails. Not durable yet."""
        name, fd = self._create(tmp)
        try:
            try:
                for piece in pieces:
                    with disk(self._path):
                        write_all(fd, piece)
                with disk(self._path):
                    if mtime is not None:
                        set_mtime(fd, mtime)
                    status = os.fstat(fd)
            finally:
                with disk(self._path):
                    os.close(fd)
        except BaseException:
            self.unlink(name)
            raise
        return name, FileStamp(status.st_size, status.st_mtime_ns, status.st_ino)

    def _create(self, tmp: int) -> tuple[bytes, int]:
        for _ in range(NEW_NAMES):
            name = STAGED + self._new_uniquename()
            try:
                return name, os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=tmp)
            except FileExistsError:
                continue
            except OSError as error:
                raise disk_error(error, self._path) from error
        raise LocalDiskError(f"{shown(self._path)}: every new name is taken")

    def read(self, name: bytes) -> Iterator[bytes]:
        """The bytes of a file that `write` made."""
        with self._folder.opened("tmp") as tmp, disk(self._path):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=tmp)
        with open(fd, "rb", buffering=0) as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk

    def unlink(self, name: bytes) -> None:
        """Remove a file that `write` made; never raises."""
        try:
            with self._folder.opened("tmp") as tmp:
                os.unlink(name, dir_fd=tmp)
        except (OSError, LocalDiskError):
            return  # `clean` takes it in a later run

    def retire(self, file: LocalFile) -> None:
        """Move a damaged file of our own delivery out of sight; kept, never overwritten, never removed by us."""
        with (
            self.opened() as tmp,
            self._folder.opened(file.directory) as source,
            disk(self._folder.absolute("", file.path)),
        ):
            name = RETIRED + self._new_uniquename()
            try:
                rename_noreplace(file.uniquename + file.info, name, source_fd=source, target_fd=tmp)
            except FileNotFoundError:
                return

    def clean(self, now: float) -> int:
        """Remove what a crash of ours left more than 36 hours before `now`, nobody else's; how many files."""
        removed = 0
        try:
            with self._folder.opened("tmp") as tmp, disk(self._path), os.scandir(tmp) as entries:
                for entry in entries:
                    if not os.fsencode(entry.name).startswith(STAGED) or not entry.is_file(follow_symlinks=False):
                        continue
                    # ctime: a delivery sets mtime to the message's date before it renames
                    if now - entry.stat(follow_symlinks=False).st_ctime > _STALE_SECONDS:
                        os.unlink(entry.name, dir_fd=tmp)
                        removed += 1
        except FileNotFoundError:
            return removed  # no tmp/
        return removed
