# SPDX-License-Identifier: MIT
"""The progress bar: how long phases are drawn. Pure: clock and width of the terminal are given.

downloading  [##########----------]  1,200/10,000  3.4 MB/s  2 min 5 s left
"""

from __future__ import annotations

from collections.abc import Callable

from pushpull.wording import human_duration, human_rate, printable

_PATIENCE = 1.0  # seconds: what is done by then gets no bar
_GAP = 0.1  # seconds between two drawings
_BAR = 20  # columns


class Progress:
    """One phase after another, told apart by their words. `clock` in seconds, `width` in columns."""

    def __init__(self, clock: Callable[[], float], width: Callable[[], int]) -> None:
        self._clock = clock
        self._width = width
        self._what = ""
        self._started = 0.0
        self._drawn = 0.0
        self._first = (0, 0)

    def advance(self, what: str, done: int, total: int, done_bytes: int) -> str | None:
        """The line to draw now; None when there is none, as it is too early, too soon again, or over."""
        now = self._clock()
        if what != self._what:
            self._what, self._started, self._drawn = what, now, now
            # An interrupted phase goes on from where it was: that part says nothing about the speed.
            self._first = (done, done_bytes)
        if done >= total:
            self._what = ""
            return None
        if now - self._started < _PATIENCE or now - self._drawn < _GAP:
            return None
        self._drawn = now
        return self._bar(done, total, done_bytes, now - self._started)

    def _bar(self, done: int, total: int, done_bytes: int, seconds: float) -> str:
        filled = _BAR * done // total
        parts = [printable(self._what), f"[{'#' * filled}{'-' * (_BAR - filled)}]", f"{done:,}/{total:,}"]
        first, first_bytes = self._first
        if done_bytes > first_bytes:
            parts.append(human_rate(done_bytes - first_bytes, seconds))
        if done > first:
            parts.append(f"{human_duration(seconds * (total - done) / (done - first))} left")
        # The last column stays free: some terminals wrap on it, and a wrapped line cannot be wiped.
        return "  ".join(parts)[: max(self._width() - 1, 0)]
