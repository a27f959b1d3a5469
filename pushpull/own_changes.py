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
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pushpull.aside import Aside
from pushpull.folder import Folder, stamp_of, tick_left
from pushpull.model import DirectoryStamp
from pushpull.values import field, struct

if TYPE_CHECKING:
    from inotify_simple import INotify

LARGE = 1 << 18
"""Size of a directory in bytes, as stat() tells, from which on reading it costs more than to load and use inotify."""
_MOST = 10_000  # changes, less than a queue of inotify holds


@struct
class _Watched:
    """A directory from the moment when it looked as when all that it held was known. `due`: our changes of it, names
    that went (False) and that came (True); `count` is how many."""

    number: int
    known: DirectoryStamp
    due: Counter[tuple[bool | None, bytes]] = field(default_factory=Counter)
    count: int = 0


class OwnChanges:
    """Context manager, of one cycle."""

    def __init__(self, folder: Folder, known: Mapping[str, DirectoryStamp]) -> None:
        """`known`: how each directory looked when the state held all that is in it."""
        self._folder, self._known = folder, dict(known)
        self._inotify: INotify | None = None
        self._watched: dict[str, _Watched] = {}

    def __enter__(self) -> OwnChanges:
        return self

    def __exit__(self, *about: object) -> None:
        if self._inotify is not None:
            Aside(self._inotify.close)  # the kernel takes some 10 ms to take watches away
        self._inotify = None
        self._known.clear()
        self._watched.clear()

    def begin(self, directory: str) -> None:
        """Before a change of it."""
        known = self._known.pop(directory, None)
        if known is None:
            return
        path = self._folder.absolute(directory)
        try:
            if os.stat(path, follow_symlinks=False).st_size < LARGE:
                return
            from inotify_simple import INotify, flags

            names = flags.MOVED_FROM | flags.MOVED_TO | flags.CREATE | flags.DELETE
            itself = flags.DELETE_SELF | flags.MOVE_SELF | flags.ONLYDIR | flags.DONT_FOLLOW
            self._inotify = self._inotify or INotify(nonblocking=True)
            number = self._inotify.add_watch(path, names | itself)
            # What happened before the watch shows in the stamp.
            if stamp_of(path) == known:
                self._watched[directory] = _Watched(number, known)
        except OSError:
            return  # the limits of inotify

    def moved(self, source: str, old: bytes, target: str, new: bytes) -> None:
        """A file of ours got another name, or a place in `target`; of directories that are not watched nothing is
        kept."""
        for directory, came, name in ((source, False, old), (target, True, new)):
            watched = self._watched.get(directory)
            if watched is not None:
                watched.due[came, name] += 1
                watched.count += 1
                if watched.count > _MOST:
                    del self._watched[directory]

    def settle(self) -> dict[str, DirectoryStamp]:
        """The directories that hold what was known and what we changed, and how they look now."""
        if self._inotify is None or not self._watched:
            return {}
        from inotify_simple import flags

        kinds = {int(flags.MOVED_FROM): False, int(flags.MOVED_TO): True}
        try:
            stamps = {directory: stamp_of(self._folder.absolute(directory)) for directory in self._watched}
            # A change that comes after the last look must not share the time of the last one before it.
            time.sleep(tick_left(stamps.values()))
            happened: defaultdict[int, Counter[tuple[bool | None, bytes]]] = defaultdict(Counter)
            for event in self._inotify.read(timeout=0):
                if event.wd < 0:  # the queue ran over
                    return {}
                happened[event.wd][kinds.get(event.mask), os.fsencode(event.name)] += 1
        except OSError:
            return {}
        return {
            directory: stamp
            for directory, stamp in stamps.items()
            # The folder may have been put in the place of another: then no event tells.
            if stamp[:2] == self._watched[directory].known[:2]
            and happened[self._watched[directory].number] == self._watched[directory].due
            and _tells(stamp)
        }


def _tells(stamp: DirectoryStamp) -> bool:
    """A time that is over, of a file system that knows more than seconds."""
    return stamp[2] % 1_000_000_000 != 0 and stamp[2] <= time.time_ns() and not tick_left([stamp])
