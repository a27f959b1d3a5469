# SPDX-License-Identifier: MIT
"""Triggers: that something may have happened to a pairing, never what. A cycle looks for itself.

Pending triggers are a set of (pairing, kind), so a burst of ten thousand events is one trigger. Local ones wait until
the folder has been quiet for a while, since programs that write mail make several events of it; a burst without end is
cut off. The others go at once.

**Nothing is lost.** What comes during a cycle is pending when it ends, and a set is looked at under the lock before
each wait, so no trigger falls between the end of a cycle and the wait for the next.
"""

from __future__ import annotations

import enum
import os
import threading
import time
from collections.abc import Callable
from typing import TypeAlias

from pushpull.values import replace, value

LONGEST_BURST = 10  # in quiet periods
LONGEST_SLEEP = 3600.0  # a lock takes no wait of any length; the loop looks and waits on


class Kind(enum.Enum):
    """Who says so: the folder, the server, a clock, or the user (SIGUSR1)."""

    LOCAL = "local"
    REMOTE = "remote"
    TIMER = "timer"
    USER = "user"


@value
class Trigger:
    """Something may have happened to `pairing`. `full`: look at everything, events may have been missed (an overflow,
    a reconnect, the start, SIGUSR1).
    """

    pairing: str
    kind: Kind
    full: bool = False


_Key: TypeAlias = tuple[str, Kind]


@value
class _Waiting:
    """A trigger and when it becomes due; `first` is when its burst began."""

    trigger: Trigger
    first: float
    due: float


class Debouncer:
    """Which triggers are pending, and when each is due. Pure: `now` is given, in seconds of any clock that does not
    run backwards.
    """

    def __init__(self, quiesce: float) -> None:
        """`quiesce`: seconds without a local event after which a local trigger is due."""
        self._quiesce = quiesce
        self._events: dict[_Key, _Waiting] = {}
        self._timed: dict[_Key, _Waiting] = {}  # apart, so that a timer far ahead delays no event

    def add(self, trigger: Trigger, now: float) -> None:
        """An event happened. It joins the pending one of its (pairing, kind), which stays `full` if either is."""
        key = (trigger.pairing, trigger.kind)
        pending = self._events.get(key)
        first = pending.first if pending else now
        due = first
        if trigger.kind is Kind.LOCAL:
            due = min(now + self._quiesce, first + LONGEST_BURST * self._quiesce)
        self._events[key] = _Waiting(_joined(trigger, pending.trigger if pending else None), first, due)

    def later(self, trigger: Trigger, at: float) -> None:
        """Due at a set time, whatever its kind; replaces an earlier one of its (pairing, kind), whose `full` stays."""
        key = (trigger.pairing, trigger.kind)
        earlier = self._timed.get(key)
        self._timed[key] = _Waiting(_joined(trigger, earlier.trigger if earlier else None), at, at)

    def due(self, now: float) -> list[Trigger]:
        """Remove and return what is due, what became due first first; one for each (pairing, kind)."""
        found: dict[_Key, Trigger] = {}
        for table, key, waiting in sorted(self._all_due(now), key=lambda entry: entry[2].due):
            del table[key]
            found[key] = _joined(waiting.trigger, found.get(key))
        return list(found.values())

    def ready(self, now: float) -> frozenset[tuple[str, Kind]]:
        """For which (pairing, kind) something is due; removes nothing."""
        return frozenset(key for _, key, _ in self._all_due(now))

    def wait(self, now: float) -> float | None:
        """Seconds until something is due, 0 when something is; None when nothing is pending."""
        times = [waiting.due for table in (self._events, self._timed) for waiting in table.values()]
        return max(0.0, min(times) - now) if times else None

    def _all_due(self, now: float) -> list[tuple[dict[_Key, _Waiting], _Key, _Waiting]]:
        return [
            (table, key, waiting)
            for table in (self._events, self._timed)
            for key, waiting in table.items()
            if waiting.due <= now
        ]


class TriggerQueue:
    """Triggers from any thread to the one that works on them. Not for signal handlers, which may not take a lock."""

    def __init__(self, quiesce: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds and never runs backwards."""
        self._debouncer = Debouncer(quiesce)
        self._clock = clock
        self._changed = threading.Condition()
        self._closed = False
        self._nudged = False

    @property
    def closed(self) -> bool:
        """`close` was called."""
        return self._closed

    def put(self, trigger: Trigger) -> None:
        """An event happened just now."""
        with self._changed:
            self._debouncer.add(trigger, self._clock())
            self._changed.notify_all()

    def put_later(self, trigger: Trigger, seconds: float) -> None:
        """Due in so many seconds; replaces what waits under the same (pairing, kind) for its set time."""
        with self._changed:
            self._debouncer.later(trigger, self._clock() + seconds)
            self._changed.notify_all()

    def take(self, timeout: float | None) -> list[Trigger]:
        """Block until something is due and take all that is; [] after `timeout` seconds, a nudge, and once closed."""
        with self._changed:
            end = None if timeout is None else self._clock() + timeout
            while not self._closed:
                now = self._clock()
                if found := self._debouncer.due(now):
                    return found
                if self._nudged or (end is not None and now >= end):
                    break
                gaps = (LONGEST_SLEEP, self._debouncer.wait(now), None if end is None else end - now)
                self._changed.wait(min(gap for gap in gaps if gap is not None))
            self._nudged = False
            return []

    def nudge(self) -> None:
        """Wake whoever waits, once, though nothing is due."""
        with self._changed:
            self._nudged = True
            self._changed.notify_all()

    def pending(self) -> frozenset[tuple[str, Kind]]:
        """For which (pairing, kind) something is due now: a long piece of work yields to them."""
        with self._changed:
            return self._debouncer.ready(self._clock())

    def close(self) -> None:
        """Wake whoever waits: there is nothing to take any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class MovedIn:
    """Names of files that were seen to be moved into a folder, as delivery by rename does: they are whole, so nobody
    need wait to see whether they grow. The latest few thousand; who is not known is waited for. From any thread.
    """

    MOST = 5000

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[tuple[str, bytes], None] = {}

    def note(self, pairing: str, name: str) -> None:
        """A file of that name (with its info part) was moved into the pairing's folder."""
        with self._lock:
            self._names[pairing, os.fsencode(name).partition(b":")[0]] = None
            if len(self._names) > self.MOST:
                del self._names[next(iter(self._names))]

    def has(self, pairing: str, uniquename: bytes) -> bool:
        """Whether it was seen."""
        with self._lock:
            return (pairing, uniquename) in self._names


def _joined(trigger: Trigger, other: Trigger | None) -> Trigger:
    return replace(trigger, full=True) if other and other.full else trigger
