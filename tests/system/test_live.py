# SPDX-License-Identifier: MIT
"""The live mode against a real Dovecot: what changes on one side is on the other at once."""

from __future__ import annotations

import re
import signal

from tests.support.live import Live
from tests.support.proxy import Proxy
from tests.support.run import Setup
from tests.support.work import Stall


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


def test_mail_that_comes_before_the_first_cycle(behind: Setup, proxy: Proxy):
    """Nothing was to be asked at the start, when there was no folder; nobody can be asked afterwards."""
    hold = Stall(proxy, r"^SELECT")
    with Live(behind) as live:
        hold.wait()
        behind.put_local("early")
        proxy.refuse = True
        proxy.cut_all()
        hold.release()
        live.wait_log("warning: localhost")  # the worker gave up, for now
        proxy.refuse = False
        live.wait_both("early")


def test_a_cycle_with_nothing_to_do_is_one_round_trip(setup: Setup):
    setup.env["DEBUG_IMAP"] = "1"
    setup.put_remotes(["A", "B"], "S")
    with Live(setup) as live:
        live.wait_both("A:S B:S")
        cycles = live.log.count("nothing to do")
        (file,) = setup.named("A")
        file.path.rename(file.path.with_name(f"{file.name}:2,SX"))  # a letter that is nobody's business
        live.wait_log("nothing to do", cycles + 1)
        trace = re.findall(r"^([CS]): (.*)", live.stderr.read_text(), re.MULTILINE)
    begin = max(number for number, (_, text) in enumerate(trace) if re.match(r"P\d+ SELECT ", text))
    said = "".join(side for side, text in trace[begin:] if "LOGOUT" not in text and "BYE" not in text)
    assert re.fullmatch("C{4}S+", said.rstrip("C")), trace[begin:]
