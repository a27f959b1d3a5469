# SPDX-License-Identifier: MIT
"""Work of every kind for a run to do, and its outcome; for tests in which something goes wrong meanwhile."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

from tests.support.proxy import Proxy
from tests.support.run import Setup
from tests.support.waiting import wait_for


def with_work(setup: Setup) -> None:
    """A, B and C on both sides, then every kind of change."""
    setup.put_remotes(["A", "B", "C", "D"], "S")
    setup.sync()
    setup.flag_remote("A", "+F")
    setup.flag_local("B", "+R")
    setup.remove_local("C")
    setup.expunge_remote("D")
    setup.put_remote("N", "F")
    setup.put_local("O", "S")


def assert_done(setup: Setup) -> None:
    setup.assert_state(remote="A:FS B:RS C:ST N:F O:S", local="A:FS B:RS D:ST N:F O:S")
    setup.sync_again_changes_nothing()


def wait_for_sync(setup: Setup, local: str, remote: str = "") -> None:
    """What failed alone is tried again with growing gaps: as if these had passed, runs until it came."""
    wanted = (sorted((remote or local).split()), sorted(local.split()))

    def came() -> bool:
        with closing(sqlite3.connect(setup.state)) as state, state:
            state.execute("UPDATE pairing SET next_try = 0")
        run = setup.run()
        assert run.code in (0, 75), run
        return (setup.remote_state(), setup.local_state()) == wanted

    wait_for(
        came, what=f"{local}, {remote}", seconds=90, detail=lambda: str((setup.remote_state(), setup.local_state()))
    )


class Stall:
    """Holds the program at a command until it is let go."""

    def __init__(self, proxy: Proxy, command: str) -> None:
        self._reached, self._go = threading.Event(), threading.Event()
        proxy.on_command(command, count=1, before=self._hold)

    def _hold(self) -> None:
        self._reached.set()
        self._go.wait(60)

    def wait(self) -> None:
        assert self._reached.wait(30), "the program never came so far"

    def release(self) -> None:
        self._go.set()
