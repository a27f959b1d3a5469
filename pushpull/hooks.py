# SPDX-License-Identifier: MIT
"""The post-sync command in the live mode: one at a time, in a thread of its own, so it never holds up mail."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping

from pushpull.commands import run_hook
from pushpull.config import Command
from pushpull.errors import Interrupted, PushpullError
from pushpull.values import value


@value
class HookEnd:
    """One run of the command for a pairing; `error` is why it did not do its work."""

    pairing: str
    error: PushpullError | None


class HookRunner:
    """`submit` and `ended` are for the worker; `run` is the body of a thread, `stop` for any.

    A pairing that is submitted while its command waits is in that run already; one that is submitted while it runs
    gets another.
    """

    def __init__(self, command: Command, done: Callable[[], None]) -> None:
        """`done` is called in the thread of `run` after each run: something is in `ended`."""
        self._command, self._done = command, done
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: dict[str, Mapping[str, str]] = {}
        self._ended: queue.SimpleQueue[HookEnd] = queue.SimpleQueue()
        self._running = ""
        self._stopping = False

    def submit(self, pairing: str, environment: Mapping[str, str]) -> None:
        """Run the command for the pairing, as soon as no other runs."""
        with self._changed:
            self._waiting[pairing] = environment
            self._changed.notify_all()

    def pending(self, pairing: str) -> bool:
        """A run for the pairing is to come, or under way."""
        with self._lock:
            return pairing == self._running or pairing in self._waiting

    def ended(self) -> list[HookEnd]:
        """The runs that ended since this was last asked."""
        found = []
        while not self._ended.empty():
            found.append(self._ended.get())
        return found

    def run(self) -> None:
        """Until `stop`."""
        while (next_one := self._next()) is not None:
            pairing, environment = next_one
            error: PushpullError | None = None
            try:
                run_hook(
                    self._command.post_sync_local_change,
                    self._command.timeout_seconds,
                    environment,
                    lambda: self._stopping,
                )
            except Interrupted:
                return
            except PushpullError as caught:
                error = caught
            with self._lock:
                self._running = ""
            self._ended.put(HookEnd(pairing, error))
            self._done()

    def stop(self) -> None:
        """End `run`, and the command that runs."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _next(self) -> tuple[str, Mapping[str, str]] | None:
        with self._changed:
            while not self._waiting and not self._stopping:
                self._changed.wait()
            if self._stopping:
                return None
            self._running = next(iter(self._waiting))
            return self._running, self._waiting.pop(self._running)
