# SPDX-License-Identifier: MIT
"""What a run itself changes in directories whose names are all known, so that they need not be read again for it.

A new ctime tells that something changed, not what. So before our first change of a directory inotify watches it, and in
the end all that happened since is compared with what we did. Was there nothing else, the directory holds what was known
and what we made of it, and how it looks now is remembered: the next run need not read 100,000 names for our one.

Whatever is not exactly that gives nothing, and the directory is read: it looked otherwise when the watch began, one
event more or less or of another kind (a rename by link and unlink too), events that were lost, a time that a change
after the last look could share (the kernel stamps in ticks), a file system whose times are whole seconds.

inotify(7); Linux only.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pushpull.model import DirectoryStamp
from pushpull.values import field, struct

if TYPE_CHECKING:
    from inotify_simple import INotify

LARGE = 1 << 18
"""Size of a directory in bytes, as stat() tells, from which on reading it costs more than to load and use inotify."""
_TICK_NS = 20_000_000
_MOVED_FROM, _MOVED_TO = 0x40, 0x80
_MASK = _MOVED_FROM | _MOVED_TO | 0x100 | 0x200 | 0x400 | 0x800  # CREATE, DELETE, DELETE_SELF, MOVE_SELF
_DIRECTORY_ITSELF = 0x01000000 | 0x02000000  # ONLYDIR, DONT_FOLLOW
_MOST = 10_000  # changes, less than a queue of inotify holds


@struct
class _Watched:
    """A directory from the moment when it looked as when all that it held was known. `due`: our changes of it."""

    directory: str
    known: DirectoryStamp
    due: Counter[tuple[int, bytes]] = field(default_factory=Counter)


class OwnChanges:
    """Context manager, of one cycle. `root` is the folder; directories are named relative to it."""

    def __init__(self, root: bytes, known: Mapping[str, DirectoryStamp]) -> None:
        """`known`: how each directory looked when the state held all that is in it."""
        self._root, self._known = root, dict(known)
        self._inotify: INotify | None = None
        self._watched: dict[int, _Watched] = {}
        self._by_name: dict[str, _Watched] = {}

    def __enter__(self) -> OwnChanges:
        return self

    def __exit__(self, *about: object) -> None:
        if self._inotify is not None:
            self._inotify.close()
        self._inotify = None
        for kept in (self._known, self._watched, self._by_name):
            kept.clear()

    def begin(self, directory: str) -> None:
        """Before a change of it."""
        known = self._known.pop(directory, None)
        if known is None:
            return
        try:
            if os.stat(self._path(directory), follow_symlinks=False).st_size < LARGE:
                return
            if self._inotify is None:
                from inotify_simple import INotify

                self._inotify = INotify(nonblocking=True)
            number = self._inotify.add_watch(self._path(directory), _MASK | _DIRECTORY_ITSELF)
            # What happened before the watch shows in the stamp.
            if self._stamp(directory) == known:
                self._watched[number] = self._by_name[directory] = _Watched(directory, known)
        except OSError:
            return  # the limits of inotify

    def moved(self, source: str, old: bytes, target: str, new: bytes) -> None:
        """A file of ours got another name, or a place in `target`; of directories that are not watched nothing is
        kept."""
        for directory, kind, name in ((source, _MOVED_FROM, old), (target, _MOVED_TO, new)):
            watched = self._by_name.get(directory)
            if watched is not None:
                watched.due[kind, name] += 1
                if watched.due.total() > _MOST:
                    del self._by_name[directory]
                    self._watched = {number: one for number, one in self._watched.items() if one is not watched}

    def settle(self) -> dict[str, DirectoryStamp]:
        """The directories that hold what was known and what we changed, and how they look now."""
        if self._inotify is None or not self._watched:
            return {}
        try:
            stamps = {each.directory: self._stamp(each.directory) for each in self._watched.values()}
            self._outlast_the_tick(stamps)
            happened: dict[int, Counter[tuple[int, bytes]]] = {}
            for event in self._inotify.read(timeout=0):
                if event.wd < 0:  # the queue ran over
                    return {}
                happened.setdefault(event.wd, Counter())[event.mask, os.fsencode(event.name)] += 1
        except OSError:
            return {}
        return {
            each.directory: stamp
            for number, each in self._watched.items()
            # The folder may have been put in the place of another: then no event tells.
            if (stamp := stamps[each.directory])[:2] == each.known[:2]
            and happened.get(number, Counter()) == each.due
            and _tells(stamp)
        }

    def _outlast_the_tick(self, stamps: Mapping[str, DirectoryStamp]) -> None:
        """A change that comes after the last look must not share the time of the last one before it."""
        age = min((age for stamp in stamps.values() if (age := time.time_ns() - stamp[2]) >= 0), default=_TICK_NS)
        if age < _TICK_NS:
            time.sleep((_TICK_NS - age) / 1e9)

    def _stamp(self, directory: str) -> DirectoryStamp:
        status = os.stat(self._path(directory), follow_symlinks=False)
        return (status.st_dev, status.st_ino, status.st_ctime_ns)

    def _path(self, directory: str) -> bytes:
        return self._root + b"/" + os.fsencode(directory)


def _tells(stamp: DirectoryStamp) -> bool:
    """A time that is over, of a file system that knows more than seconds."""
    return stamp[2] % 1_000_000_000 != 0 and time.time_ns() - stamp[2] >= _TICK_NS
