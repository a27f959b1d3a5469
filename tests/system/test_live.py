# SPDX-License-Identifier: MIT
"""The live mode against a real Dovecot: what changes on one side is on the other at once."""

from __future__ import annotations

import re
import signal
import sqlite3
import time
from contextlib import closing

from tests.support.live import Live
from tests.support.messages import mail
from tests.support.patched import patched
from tests.support.proxy import Proxy
from tests.support.run import Setup
from tests.support.waiting import wait_for
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


def test_sigusr1_has_all_of_the_folder_read(setup: Setup):
    def read_at() -> float:
        with closing(sqlite3.connect(setup.state)) as state:
            [(earliest,)] = state.execute("SELECT coalesce(min(read_at), 0) FROM directory")
        return float(earliest)

    def read_after(moment: float) -> bool:
        live.signal(signal.SIGUSR1)
        return read_at() > moment

    with Live(setup) as live:
        wait_for(lambda: read_after(0), what="a folder that is old enough to be remembered")
        first = read_at()
        wait_for(lambda: read_after(first), what="another look at all of it")


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
    begins = [number for number, (_, text) in enumerate(trace) if re.match(r"P\d+ SELECT ", text)]
    whole = [
        [side for side, _ in trace[begin : begin + 40]][: answered + 1]
        for begin in begins
        if (answered := fourth_answer(trace[begin:]))
    ]
    assert re.fullmatch("C{4}S+", "".join(whole[-1])), trace


def fourth_answer(trace: list[tuple[str, str]]) -> int:
    """Where the last of a cycle's four commands is answered; 0 when it is not."""
    answers = [number for number, (side, text) in enumerate(trace) if side == "S" and re.match(r"P\d+ OK", text)]
    return answers[3] if len(answers) > 3 else 0


NOTE_PAUSES = """
from pushpull.worker import Worker

pause = Worker._pause

def noted(self, seconds):
    open("paused", "w").close()
    pause(self, seconds)

Worker._pause = noted
"""


def test_a_file_that_is_moved_in_is_not_waited_for_and_one_that_is_written_there_is(setup: Setup):
    setup.program = patched(NOTE_PAUSES)
    with Live(setup) as live:
        live.wait_log("watched by IDLE")
        setup.put_local("moved", mtime=time.time())
        live.wait_remote("moved")
        assert not (setup.base / "paused").exists()
        whole = mail("written")
        setup.known[whole] = "written"
        (setup.maildir / "cur" / "1600000000.written:2,S").write_bytes(whole)
        live.wait_remote("moved written:S")
        assert (setup.base / "paused").exists()
