# SPDX-License-Identifier: MIT
"""The directories of one Maildir folder: how they are opened and read, and what a look at them is worth.

Other programs work on the folder while we do: delivery agents, mail readers, the user with a shell. There is no lock
that they would honour, so each rule here answers a race.

**A scan may miss a file that is there.** While names change, readdir() may skip an entry or show it twice; beside a
busy reader nine scans in ten of a large folder missed something, two in a row never missed the same file. A file also
moves from new/ to cur/ (read), back (some readers), or between buckets. So new/ is read before cur/: a file that is
read meanwhile is seen twice, not never. And inode and ctime of every directory are taken before the first is read and
after the last was: when one differs, `Scan.moved` says that an absence proves nothing. (Around each directory alone
would not do: what moves from an unread directory to one already read changes neither while it is looked at.) Kernels
before 6.13 stamp times in ticks of up to 10 ms, so a change just before the first look can hide one just after: a scan
waits for the newest stamp to grow older than that, and where none does, it has moved. Clocks of network servers may
hide more, and so the engine believes an absence only after a second scan, even where nothing moved.

**A directory that was not read to its end gives no absences**: a link, a permission, an I/O error raise LocalDiskError,
whatever was read before. new/ and cur/ always exist in a Maildir; where one is missing, something else is there instead
(an empty mount point, a half restored backup). A bucket without them has no mail.

**A directory that nobody changed is not read.** A name that comes, goes or changes gives its directory a new ctime,
which no program can set to what it was. So where device, inode and ctime are those that it had when all that it held
was taken in, it holds just that. This needs a file system that this kernel alone writes to, and a ctime that was older
than two seconds then, lest a change followed in the same tick. Of a directory that is read only those names are looked
at that differ from what is known: 100,000 names are compared in sets, not one by one.

**Nothing outside is touched.** The folder may itself be reached by a symbolic link, nothing in it may be one:
directories are opened one below the other with O_NOFOLLOW, files relative to their directory.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from pushpull.batched import batched
from pushpull.durable import disk, disk_error, flush_directory, shown, shows_each_change
from pushpull.errors import LocalDiskError
from pushpull.filenames import flags_of, split
from pushpull.model import DirectoryStamp, LocalFile, Scan, Uniquename
from pushpull.ports import Known
from pushpull.values import field, struct, value

FIND_ATTEMPTS = 5
_BUCKET = re.compile(rb"[0-9a-f]{2}")
_TICK_NS = 20_000_000
_SETTLED_NS = 2_000_000_000
_AT_ONCE = 10_000  # entries


@struct
class _Seen:
    """What a scan has met so far."""

    files: dict[Uniquename, LocalFile] = field(default_factory=dict)
    doubles: dict[Uniquename, list[LocalFile]] = field(default_factory=dict)
    strangers: list[tuple[bytes, str]] = field(default_factory=list)
    left: list[bytes] = field(default_factory=list)
    missing: set[Uniquename] = field(default_factory=set)
    stamps: dict[str, DirectoryStamp | None] = field(default_factory=dict)

    def compare(self, known: Known) -> None:
        """A file that was seen though another of its uniquename is where it was."""
        for uniquename in self.files.keys() - self.missing:
            other = known.file(uniquename)
            if other is not None:
                self.doubles.setdefault(uniquename, [self.files[uniquename]]).append(other)

    def add(self, file: LocalFile) -> None:
        first = self.files.setdefault(file.uniquename, file)
        if first is not file:
            self.doubles.setdefault(file.uniquename, [first]).append(file)


@value
class _Before:
    """The directories before they were read. Not `settled`: so busy that their stamps tell nothing."""

    directories: list[str]
    stamps: dict[str, DirectoryStamp | None]
    settled: bool


class Folder:
    """One Maildir folder. Directories are named relative to it: "cur", "a3/new", "" for itself."""

    def __init__(self, root: bytes) -> None:
        self.root = root
        self._at_hand: Directories | None = None

    def absolute(self, directory: str, name: bytes = b"") -> bytes:
        path = self.root + b"/" + os.fsencode(directory) if directory else self.root
        return path + b"/" + name if name else path

    def has(self, directory: str) -> bool:
        """There is something of that name, were it a dangling link."""
        path = self.absolute(directory)
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise disk_error(error, path) from error
        return True

    def make(self, directory: str, *, durable: bool) -> None:
        """Make one directory (0700) if it is missing, and with `durable` make its name durable.

        Not its parents: a folder that was moved away in the middle of a run must not come back empty.
        """
        parent, name = os.path.split(directory)
        with disk(self.absolute(directory)), self.opened(parent) as fd:
            try:
                os.mkdir(name, 0o700, dir_fd=fd)
            except FileExistsError:
                return
            if durable:
                flush_directory(fd)

    def flush(self, directories: Iterable[str]) -> None:
        """Make the names in these directories durable."""
        for directory in sorted(directories):
            with disk(self.absolute(directory)), self.opened(directory) as fd:
                flush_directory(fd)

    def opened(self, directory: str) -> Opened:
        """`open`, closed in the end."""
        return Opened(self.open, directory)

    @contextmanager
    def at_hand(self) -> Iterator[None]:
        """Within it each directory that `near` is asked for stays open, for all files in it."""
        with Directories() as self._at_hand:
            try:
                yield
            finally:
                self._at_hand = None

    def near(self, directory: str) -> AbstractContextManager[int]:
        """As `opened`, and for one thread alone: within `at_hand` it is opened once."""
        if self._at_hand is None:
            return self.opened(directory)
        return nullcontext(self._at_hand.descriptor(directory, self.open))

    def open(self, directory: str) -> int:
        """A descriptor of a directory. FileNotFoundError when a bucket or tmp/ is missing; LocalDiskError when it is
        the folder, new/ or cur/, or anything but a directory."""
        try:
            return self._open(directory)
        except FileNotFoundError:
            if directory in ("new", "cur") or not self.has(""):
                raise _missing(self.absolute(directory)) from None
            raise

    def _open(self, directory: str) -> int:
        if not directory:
            return _open_directory(self.root)
        first, *below = os.fsencode(directory).split(b"/")
        path = self.root + b"/" + first
        fd = _open_directory(path, inside=True)
        for part in below:
            path += b"/" + part
            above = fd
            try:
                fd = _open_directory(path, inside=True, name=part, above=above)
            finally:
                os.close(above)
        return fd

    # --- looking at everything -------------------------------------------------------------------------------

    def scan(self, known: Known | None = None) -> Scan:
        """Every message file, or what differs from what is known. What an absence is worth: see above."""
        settled_before = time.time_ns() - _SETTLED_NS
        before = self._before()
        believed = known.directories() if known else {}
        seen = _Seen()
        for directory in dict.fromkeys((*before.directories, *believed)):
            stamp = before.stamps.get(directory)
            if stamp and stamp == believed.get(directory):
                continue
            names = known.names(directory) if known else set()
            if directory in before.stamps:
                reliable = self._read(directory, seen, names) and stamp and stamp[2] <= settled_before
                seen.stamps[directory] = stamp if reliable else None
            seen.missing.update(split(name)[0] for name in names)
        if known:
            seen.compare(known)
        self._settle_doubles(seen)
        moved = self._moved(before)
        return Scan(
            files=seen.files,
            moved=moved,
            strangers=tuple(seen.strangers),
            doubles=frozenset(seen.left),
            missing=frozenset(seen.missing - seen.files.keys()),
            # Strangers are to be told of again.
            stamps=dict.fromkeys(seen.stamps) if moved or seen.strangers else seen.stamps,
        )

    def _before(self) -> _Before:
        """The directories and their stamps, taken when the newest is older than a tick of the kernel's clock."""
        for attempt in (1, 2):
            stamps = self._stamps([""])
            directories = self._directories()
            stamps |= self._stamps(directories)
            left = tick_left(stamps.values())
            if not left:
                return _Before(directories, stamps, settled=True)
            if attempt == 1:
                time.sleep(left)
        return _Before(directories, stamps, settled=False)

    def _moved(self, before: _Before) -> bool:
        return not before.settled or self._stamps(["", *before.directories]) != before.stamps

    def _directories(self) -> list[str]:
        """new/ before cur/, then the buckets likewise."""
        with disk(self.root), os.scandir(self.root) as entries:
            buckets = sorted(
                entry.name.decode()
                for entry in entries
                if _BUCKET.fullmatch(entry.name) and not entry.is_file(follow_symlinks=False)
            )
        return ["new", "cur", *(f"{bucket}/{leaf}" for bucket in buckets for leaf in ("new", "cur"))]

    def _stamps(self, directories: Iterable[str]) -> dict[str, DirectoryStamp | None]:
        """None for a directory that is missing."""
        stamps: dict[str, DirectoryStamp | None] = {}
        for directory in directories:
            path = self.absolute(directory)
            try:
                stamps[directory] = stamp_of(path, follow=not directory)
            except (FileNotFoundError, NotADirectoryError):
                stamps[directory] = None
            except OSError as error:
                raise disk_error(error, path) from error
        return stamps

    def _read(self, directory: str, seen: _Seen, names: set[bytes]) -> bool:
        """Add what one directory holds but for `names`, of which those that it does not hold are left. Returns whether
        each change of it shows.
        """
        with disk(self.absolute(directory)):
            try:
                with self.opened(directory) as fd, os.scandir(fd) as entries:
                    for some in batched(entries, _AT_ONCE):
                        self._compare(directory, some, seen, names)
                    return shows_each_change(fd)
            except FileNotFoundError:
                return False  # a bucket; `_stamps` sees it come or go

    def _compare(self, directory: str, entries: list[os.DirEntry[str]], seen: _Seen, names: set[bytes]) -> None:
        files = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        there = set(os.fsencode("/".join(files)).split(b"/"))  # no name holds a '/'
        new = there - names
        names -= there
        for name in new:
            if not name.startswith(b"."):
                uniquename, info = split(name)
                if uniquename:
                    seen.add(LocalFile(uniquename, directory, info, flags_of(info)))
                elif name:
                    seen.strangers.append((os.fsencode(directory) + b"/" + name, "nothing before the ':' of its name"))
        if len(files) < len(entries):
            for entry in entries:
                if (
                    not entry.name.startswith(".")
                    and not entry.is_file(follow_symlinks=False)
                    and (why := _kind(entry))
                ):
                    seen.strangers.append((os.fsencode(directory) + b"/" + os.fsencode(entry.name), why))

    def _entries(self, directory: str) -> Iterator[tuple[bytes, os.DirEntry[str]]]:
        """What a directory holds, dot files left out."""
        try:
            with self.opened(directory) as fd, os.scandir(fd) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        yield os.fsencode(entry.name), entry
        except FileNotFoundError:
            return  # of a bucket; `_stamps` sees it come or go

    def _settle_doubles(self, seen: _Seen) -> None:
        """Names seen twice: mostly one file that was renamed during the scan, else the second is left alone."""
        for uniquename, files in seen.doubles.items():
            ranked = sorted(
                # By mtime, which outlasts a rename: the next scan chooses the same.
                (_in_new(file), status.st_mtime_ns, status.st_ino, file.path, file)
                for file in dict.fromkeys(files)
                if (status := self._status(file)) is not None
            )
            if not ranked:
                seen.files[uniquename] = files[-1]  # renamed once more, so the scan has moved
                continue
            _, _, inode, path, seen.files[uniquename] = ranked[0]
            for _, _, other_inode, other, _ in ranked[1:]:
                which = "the same file" if other_inode == inode else "another file"
                seen.strangers.append((other, f"a second name with the uniquename of {shown(path)}, {which}"))
                if other_inode != inode:
                    seen.left.append(other)

    def _status(self, file: LocalFile) -> os.stat_result | None:
        with disk(self.absolute("", file.path)):
            try:
                with self.opened(file.directory) as fd:
                    return os.stat(file.uniquename + file.info, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                return None

    # --- looking for one -------------------------------------------------------------------------------------

    def find(self, uniquename: Uniquename) -> LocalFile | None:
        """Where the file is now. None when it was not seen although no directory changed during the look, or in five
        looks: more than a rename explains."""
        for attempt in range(FIND_ATTEMPTS):
            before = self._before() if attempt else None  # which may wait, so look first: mostly it is there
            directories = before.directories if before else self._directories()
            seen = [file for directory in directories for file in self._look(directory, uniquename)]
            if seen:
                return min(reversed(seen), key=_in_new)
            if before and not self._moved(before):
                return None
        return None

    def _look(self, directory: str, uniquename: Uniquename) -> Iterator[LocalFile]:
        with disk(self.absolute(directory)):
            for name, entry in self._entries(directory):
                if name.startswith(uniquename) and entry.is_file(follow_symlinks=False):
                    found, info = split(name)
                    if found == uniquename:
                        yield LocalFile(found, directory, info, flags_of(info))


class Opened:
    """Context manager: a directory that `opening` opens, closed in the end."""

    __slots__ = ("_directory", "_fd", "_opening")

    def __init__(self, opening: Callable[[str], int], directory: str) -> None:
        self._opening, self._directory, self._fd = opening, directory, -1

    def __enter__(self) -> int:
        self._fd = self._opening(self._directory)
        return self._fd

    def __exit__(self, *about: object) -> None:
        os.close(self._fd)


class Directories:
    """Context manager: directories of a folder, each opened once for many files. For one thread."""

    _MOST = 16  # of up to 512 with buckets

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def __enter__(self) -> Directories:
        return self

    def __exit__(self, *about: object) -> None:
        self._close()

    def descriptor(self, directory: str, opening: Callable[[str], int]) -> int:
        """Raises what `opening` raises."""
        fd = self._open.get(directory)
        if fd is None:
            if len(self._open) == self._MOST:
                self._close()
            fd = self._open[directory] = opening(directory)
        return fd

    def _close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


def stamp_of(path: bytes, *, follow: bool = False) -> DirectoryStamp:
    """How a directory looks now. Raises OSError. `follow`: its name may be a link."""
    status = os.stat(path, follow_symlinks=follow)
    return (status.st_dev, status.st_ino, status.st_ctime_ns)


def tick_left(stamps: Iterable[DirectoryStamp | None]) -> float:
    """Seconds until the newest of them is older than a tick of the kernel's clock. One of the future is a network
    server's, or of before the clock was put back: nothing to wait for."""
    now = time.time_ns()
    age = min((age for stamp in stamps if stamp and (age := now - stamp[2]) >= 0), default=_TICK_NS)
    return max(0, _TICK_NS - age) / 1e9


def _in_new(file: LocalFile) -> bool:
    return file.directory.endswith("new")


def _open_directory(path: bytes, *, inside: bool = False, name: bytes = b"", above: int | None = None) -> int:
    """Open the folder, or a directory `inside` of it, which must be no link: `name` in the open one `above`, or the
    last part of `path`."""
    try:
        return os.open(name or path, os.O_RDONLY | os.O_DIRECTORY | (inside and os.O_NOFOLLOW), dir_fd=above)
    except FileNotFoundError:
        raise
    except NotADirectoryError:
        what = "a symbolic link, which is not followed" if inside and os.path.islink(path) else "no directory"
        raise LocalDiskError(f"{shown(path)}: {what}", remedy="put a directory there, or move it away") from None
    except OSError as error:
        raise disk_error(error, path) from error


def _missing(path: bytes) -> LocalDiskError:
    return LocalDiskError(
        f"{shown(path)}: is missing",
        remedy="find out what happened to the folder (not mounted? half restored?); if it is well but for an empty"
        " directory that got lost, make that with mkdir",
    )


def _kind(entry: os.DirEntry[str]) -> str:
    """Why an entry is no message; "" when it is gone by now."""
    if entry.is_symlink():
        return "a symbolic link"
    if entry.is_dir(follow_symlinks=False):
        return "a directory"
    try:
        mode = entry.stat(follow_symlinks=False).st_mode
    except FileNotFoundError:
        return ""
    return "" if stat.S_ISREG(mode) else "not a regular file"
