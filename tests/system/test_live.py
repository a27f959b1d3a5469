# SPDX-License-Identifier: MIT
"""The live mode against a real Dovecot: what changes on one side is on the other at once."""

from __future__ import annotations

import signal

from tests.support.live import Live
from tests.support.run import Setup


def test_push_both_ways(setup: Setup):
    setup.put_remote("old", "S")
    with Live(setup) as live:
        live.wait_both("old:S")
        setup.put_remote("down")
        live.wait_local("old:S down")
        setup.put_local("up", "F")
        live.wait_both("old:S down up:F")
        setup.flag_local("down", "+S")
        live.wait_remote("old:S down:S up:F")
        setup.flag_remote("up", "-F")
        live.wait_local("old:S down:S up")
        setup.remove_local("old")
        live.wait_remote("old:ST down:S up")
        setup.expunge_remote("down")
        live.wait_local("down:ST up")


def test_sigusr1_synchronises_now(setup: Setup):
    with Live(setup) as live:
        live.signal(signal.SIGUSR1)
        live.wait_log("as SIGUSR1 asks")
