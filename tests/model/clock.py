# SPDX-License-Identifier: MIT
"""The program's time in this process: it is real, but a wait costs none.

Where the program would wait (for an answer that was cut off, for a file that is young, before it connects again) the
clock is put forward instead, once the server is done with what a cut link had sent it: in the seconds that really pass
it always is. Times that the kernel stamps are not touched.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest.mock import patch

from pushpull.stopping import Stopper


class ModelClock:
    def __init__(self, settled: Callable[[], object]) -> None:
        """`settled` returns when the server is at rest."""
        self._ahead = 0.0
        self._settled = settled

    def time(self) -> float:
        return time.time() + self._ahead

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def pass_by(self, seconds: float) -> None:
        self._ahead += max(0.0, seconds)

    def pause(self, stopper: Stopper, seconds: float) -> None:
        """In place of `Stopper.pause`."""
        stopper.check()
        self._settled()
        self.pass_by(seconds)

    @contextmanager
    def in_charge(self) -> Iterator[None]:
        """The program in this process, and in processes forked from it, goes by this clock."""

        def pause(stopper: Stopper, seconds: float) -> None:
            self.pause(stopper, seconds)

        fake = SimpleNamespace(time=self.time, monotonic=self.monotonic, strftime=time.strftime)
        with ExitStack() as patches:
            patches.enter_context(patch("pushpull.service.time", fake))
            patches.enter_context(patch("pushpull.cycles.time", fake))
            patches.enter_context(patch.object(Stopper, "pause", pause))
            if _stamps_are_fine():
                patches.enter_context(patch("pushpull.folder._TICK_NS", 0))
            yield


def _stamps_are_fine() -> bool:
    """Since 6.13 no two changes that somebody looks at get the same stamp: a scan need not wait for a tick."""
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2]) >= (6, 13)
