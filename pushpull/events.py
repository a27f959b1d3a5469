# SPDX-License-Identifier: MIT
"""What the main thread waits for: signals, and word from the other threads.

Python runs the handler of a signal in the main thread, once that runs Python again. A lock does not let it: the signal
may have come to another thread, or to this one just before it went to sleep, and then it is slept through until
something else happens; a daemon that has nothing to do would not end by SIGTERM. So the wait is a poll() of a pipe
that Python itself writes to when a signal comes, in whichever thread (`signal.set_wakeup_fd`).
"""

from __future__ import annotations

import os
import queue
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Generic, TypeVar

T = TypeVar("T")

_DRAIN = 4096


class Events(Generic[T]):
    """A queue of what happened; of the process, as signals are."""

    def __init__(self) -> None:
        # A SimpleQueue takes no lock that a handler could meet.
        self._queue: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._pipe: tuple[int, int] | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it `get` may be called. In the main thread, and once: after all forking, which may close descriptors.

        The pipe stays open until the process ends: a thread that outlives the wait must not write to what has got the
        number of a descriptor that was closed.
        """
        self._pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)

    def put(self, event: T) -> None:
        """From any thread or signal handler."""
        self._queue.put(event)
        if self._pipe is not None:
            with suppress(BlockingIOError):  # full: then the other end wakes anyway
                os.write(self._pipe[1], b"\0")

    def get(self, seconds: float | None) -> T | None:
        """The next one; None after so many seconds, or sooner: a signal without an event wakes too."""
        assert self._pipe is not None, "nobody listens"  # noqa: S101
        with suppress(queue.Empty):
            return self._queue.get_nowait()
        poll = select.poll()
        poll.register(self._pipe[0], select.POLLIN)
        if poll.poll(None if seconds is None else seconds * 1000):
            with suppress(BlockingIOError):
                os.read(self._pipe[0], _DRAIN)
        with suppress(queue.Empty):
            return self._queue.get_nowait()
        return None
