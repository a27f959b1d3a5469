# SPDX-License-Identifier: MIT
"""Watches the Maildir folders of all pairings with one inotify, and says which of them may have changed.

An event is a hint: what happened is for a scan to find out, so an event on a directory of messages gives a trigger and
nothing else is read from it. Own deliveries and renames make events too. They are not told apart from others': they
join into one trigger, whose cycle changes nothing, makes no event, and so ends the echo.

**Never deaf.** inotify watches inodes, not names. When a directory is moved away, replaced, deleted, unmounted or
mounted over, when a folder is reached by a link that is turned, or a parent of it is renamed, its watches are gone or
look at the wrong place, with or without an event. So all paths are looked up anew whenever an event raises a doubt,
and every `poll_seconds` without one: a path that is watched gets the watch that it has, any other difference ends in a
`full` trigger (look at everything). A lost event is a `full` trigger too, for every pairing. A folder that is away, or
only half there, is looked for with growing gaps. What cannot be watched (the limits of inotify, a permission) is polled
instead: a `full` trigger every `poll_seconds`, and another try.

What a missing folder or file means is not for this module to judge; the engine's own checks decide.

inotify(7); Linux only.
"""

from __future__ import annotations

import errno
import os
import random
import re
import select
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from inotify_simple import Event, INotify, flags

from pushpull import levels
from pushpull.triggers import Kind, Trigger
from pushpull.values import field, struct
from pushpull.wording import human_duration, printable

FIRST_GAP = 0.25  # seconds until a folder that is away is looked for again; doubled each time
BREATHER = 0.02  # seconds between two reads: a burst wakes us so often, not for each of its events
_MS = 1000

# A link to a folder is followed, a link in it is not, as the scan has it.
_ROOT_MASK = (
    flags.MOVED_TO
    | flags.MOVED_FROM
    | flags.CREATE
    | flags.DELETE
    | flags.CLOSE_WRITE
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ONLYDIR
)
_MASK = _ROOT_MASK | flags.DONT_FOLLOW
_LOST = flags.DELETE_SELF | flags.MOVE_SELF | flags.IGNORED | flags.UNMOUNT
_BUCKET = re.compile(r"[0-9a-f]{2}")
_LEAVES = ("new", "cur")

_AWAY = frozenset({errno.ENOENT, errno.ENOTDIR})
_REMEDY = {
    errno.ENOSPC: "raise fs.inotify.max_user_watches with sysctl",
    errno.EMFILE: "raise fs.inotify.max_user_instances with sysctl, or the limit of open files",
}


@struct
class _Folder:
    """A pairing's folder. `watches`: the watch descriptor of each directory, "" for the folder itself."""

    pairing: str
    path: str
    next_look: float
    watches: dict[str, int] = field(default_factory=dict)
    trouble: OSError | None = None
    gap: float = FIRST_GAP

    @property
    def away(self) -> bool:
        """The folder, its new/ or its cur/ is not there. Any other trouble: it is there and polled."""
        return self.trouble is not None and self.trouble.errno in _AWAY


class LocalWatcher:
    """Gives a `full` trigger for each pairing at the start, and then one LOCAL trigger for whatever happens to it."""

    def __init__(
        self,
        folders: Mapping[str, str],
        give: Callable[[Trigger], None],
        tell: Callable[[int, str], None],
        *,
        clock: Callable[[], float],
        poll_seconds: float = 60.0,
        moved_in: Callable[[str, str], None] = lambda _pairing, _name: None,
    ) -> None:
        """`folders`: pairing -> path. `clock` gives seconds and never runs backwards. `give`, `tell` (a level
        and a line) and `moved_in` (pairing and name of a file that was moved into the folder, hence is whole) are
        called in the thread of `run`.
        """
        self._paths, self._give, self._tell, self._clock = dict(folders), give, tell, clock
        self._moved_in = moved_in
        self._poll_seconds = poll_seconds
        self._lock = threading.Lock()
        self._stopping = False
        self._wake: int | None = None

    def run(self) -> None:
        """Watch until `stop`. Opens what it needs and closes it."""
        with self._lock:
            if self._stopping:
                return
            wake = self._wake = os.eventfd(0)
        watch = _Watch(
            self._paths, wake, self._give, self._tell, self._clock, self._poll_seconds, moved_in=self._moved_in
        )
        try:
            watch.start()
            while not self._stopping:
                watch.once()
        finally:
            watch.close()
            with self._lock:  # so that `stop` never writes to a number that another file got
                self._wake = None
                os.close(wake)

    def stop(self) -> None:
        """End `run`, now or before it begins. From any thread, not from a signal handler."""
        with self._lock:
            self._stopping = True
            if self._wake is not None:
                os.eventfd_write(self._wake, 1)


class _Watch:
    """What lives while a watcher runs."""

    def __init__(
        self,
        paths: Mapping[str, str],
        wake: int,
        give: Callable[[Trigger], None],
        tell: Callable[[int, str], None],
        clock: Callable[[], float],
        poll_seconds: float,
        *,
        moved_in: Callable[[str, str], None],
    ) -> None:
        self._moved_in = moved_in
        self._renamed = 0  # the cookie of the last move out of a directory that is watched
        self._wake, self._give, self._tell, self._clock, self._poll_seconds = wake, give, tell, clock, poll_seconds
        now = clock()
        self._folders = {pairing: _Folder(pairing, path, now) for pairing, path in paths.items()}
        # The same directory reached by two paths has one watch.
        self._owners: dict[int, set[tuple[str, str]]] = defaultdict(set)
        self._inotify: INotify | None = None

    def start(self) -> None:
        """Watch all folders; after that, so that nothing falls in between, have everything looked at."""
        for folder in self._folders.values():
            self._look_up(folder)
            self._give(Trigger(folder.pairing, Kind.LOCAL, full=True))

    def once(self) -> None:
        """Wait for events, the time of a look, or the wake; answer them."""
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        if self._inotify is not None:
            poller.register(self._inotify.fileno(), select.POLLIN)
        first = min((folder.next_look for folder in self._folders.values()), default=None)
        timeout = None if first is None else max(0.0, first - self._clock()) * _MS
        ready = [fd for fd, _ in poller.poll(timeout)]
        if self._wake in ready:
            return
        if ready and self._inotify is not None:
            self._answer(self._inotify.read(timeout=0))
            self._rest()
        now = self._clock()
        for folder in self._folders.values():
            if folder.next_look <= now:
                self._look_again(folder)

    def close(self) -> None:
        """Give up all watches."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def _rest(self) -> None:
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        poller.poll(BREATHER * _MS)

    # --- events ----------------------------------------------------------------------------------------------

    def _answer(self, events: list[Event]) -> None:
        """One trigger for each pairing that the events concern."""
        touched: dict[str, None] = {}
        doubtful: dict[str, None] = {}
        for event in events:
            if event.mask & flags.Q_OVERFLOW:
                self._tell(levels.INFO, "more changes to the folders than inotify could hold: looking at everything")
                doubtful |= dict.fromkeys(self._folders)
            # Of a watch that we gave up there may be events on their way still.
            for pairing, directory in self._owners.get(event.wd, ()):
                if event.mask & _LOST or _leads_to_messages(directory, event.name):
                    doubtful[pairing] = None
                elif _holds_messages(directory) and not event.name.startswith("."):
                    touched[pairing] = None
                    self._note_move(event, pairing)
        for pairing in doubtful:
            self._look_up(self._folders[pairing])
            self._give(Trigger(pairing, Kind.LOCAL, full=True))
        for pairing in touched:
            if pairing not in doubtful:
                self._give(Trigger(pairing, Kind.LOCAL))

    def _note_move(self, event: Event, pairing: str) -> None:
        """A rename within the folder says nothing of who still writes to the file; a move into it does."""
        if event.mask & flags.MOVED_FROM:
            self._renamed = event.cookie
        elif event.mask & flags.MOVED_TO and event.cookie != self._renamed:
            self._moved_in(pairing, event.name)

    # --- watches ---------------------------------------------------------------------------------------------

    def _look_again(self, folder: _Folder) -> None:
        """The regular look: silent if all is watched as before."""
        polled = folder.trouble is not None and not folder.away
        if self._look_up(folder) or polled:
            self._give(Trigger(folder.pairing, Kind.LOCAL, full=True))

    def _look_up(self, folder: _Folder) -> bool:
        """Bring the watches in line with what is at the paths now; whether anything was not as before."""
        before, folder.watches = folder.watches, {}
        known, folder.trouble = folder.trouble, self._add_all(folder)
        for directory, wd in before.items():
            if folder.watches.get(directory) != wd:
                self._disown(wd, (folder.pairing, directory))
        self._tell_trouble(folder, known)
        if folder.away:
            gap = min(folder.gap, self._poll_seconds)
            folder.gap, folder.next_look = 2 * gap, self._clock() + random.uniform(gap / 2, gap)  # noqa: S311 - no secret
        else:
            folder.gap, folder.next_look = FIRST_GAP, self._clock() + self._poll_seconds
        return folder.watches != before or (known is None) != (folder.trouble is None)

    def _add_all(self, folder: _Folder) -> OSError | None:
        """Watch what there is; the first reason why that is not all.

        From the top downwards, each directory listed after it is watched: what is made meanwhile makes an event.
        """
        trouble: OSError | None = None
        try:
            inotify = self._inotify = self._inotify or INotify()
            self._add(inotify, folder, "")
            for directory in (*_LEAVES, *_bucket_directories(folder.path)):
                try:
                    self._add(inotify, folder, directory)
                except OSError as error:
                    # A bucket without new/ or cur/, or a file of such a name, has no mail.
                    if directory in _LEAVES or error.errno not in _AWAY:
                        trouble = trouble or error
        except OSError as error:
            trouble = trouble or error
        return trouble

    def _add(self, inotify: INotify, folder: _Folder, directory: str) -> None:
        path = os.path.join(folder.path, directory) if directory else folder.path
        try:
            wd = inotify.add_watch(path, _MASK if directory else _ROOT_MASK)
        except OSError as error:
            error.filename = path
            raise
        folder.watches[directory] = wd
        self._owners[wd].add((folder.pairing, directory))

    def _disown(self, wd: int, owner: tuple[str, str]) -> None:
        owners = self._owners.get(wd)
        if owners is None:
            return
        owners.discard(owner)
        if not owners:
            del self._owners[wd]
            try:
                if self._inotify is not None:
                    self._inotify.rm_watch(wd)
            except OSError as error:
                if error.errno != errno.EINVAL:  # the kernel was first
                    raise

    def _tell_trouble(self, folder: _Folder, known: OSError | None) -> None:
        """Once for each change."""
        trouble = folder.trouble
        if (known and known.errno) == (trouble and trouble.errno):
            return
        if trouble is None:
            self._tell(levels.INFO, f"{printable(folder.path)}: watched for changes again")
            return
        path = printable(trouble.filename or folder.path)
        if folder.away:
            self._tell(levels.WARNING, f"{path}: {trouble.strerror}; waiting for it to be there")
            return
        why = f"a limit is reached ({_REMEDY[trouble.errno]})" if trouble.errno in _REMEDY else trouble.strerror
        every = human_duration(self._poll_seconds)
        self._tell(levels.ERROR, f"{path}: cannot be watched for changes: {why}; looking every {every} instead")


def _bucket_directories(path: str) -> Iterator[str]:
    with os.scandir(path) as entries:
        buckets = sorted(entry.name for entry in entries if _BUCKET.fullmatch(entry.name))
    for bucket in buckets:
        yield from (bucket, *(f"{bucket}/{leaf}" for leaf in _LEAVES))


def _holds_messages(directory: str) -> bool:
    return directory.rpartition("/")[2] in _LEAVES


def _leads_to_messages(directory: str, name: str) -> bool:
    """A directory of this name in this one is, or holds, a directory of messages."""
    if directory == "":
        return name in _LEAVES or _BUCKET.fullmatch(name) is not None
    return not _holds_messages(directory) and name in _LEAVES
