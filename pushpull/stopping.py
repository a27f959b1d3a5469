# SPDX-License-Identifier: MIT
"""Signals of a one-shot run. SIGINT and SIGTERM end it: an action under a second is finished, a longer one is cut; a
second signal ends it at once. Nothing depends on stopping well: a SIGKILL at any point is as safe.
"""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

from pushpull.errors import EX_TEMPORARY, Interrupted

GRACE_SECONDS = 1.0


class Stopper:
    """Turns signals into Interrupted, at points where the work is whole, or a second later anywhere."""

    def __init__(self) -> None:
        self.stopping = False
        self.log_due = False
        self._pausing = False

    def install(self) -> None:
        """Take over the signals; in the main thread only."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGALRM, self._cut)
        signal.signal(signal.SIGHUP, self._reopen)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # "sync now" is what a one-shot run does anyway

    def check(self) -> None:
        """Raise Interrupted if a signal asked for an end."""
        if self.stopping:
            raise Interrupted("interrupted", remedy="what was done is kept; the next run goes on from there")

    def pause(self, seconds: float) -> None:
        """Wait; a signal ends the wait at once, with Interrupted."""
        self._pausing = True
        try:
            self.check()
            time.sleep(max(0.0, seconds))
        finally:
            self._pausing = False

    def done(self) -> None:
        """The work is over: a pending cut must not hit what follows."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if self.stopping:
            os._exit(EX_TEMPORARY)
        self.stopping = True
        if self._pausing:
            self.check()
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)

    def _cut(self, _number: int, _frame: FrameType | None) -> None:
        self.check()

    def _reopen(self, _number: int, _frame: FrameType | None) -> None:
        self.log_due = True
