# SPDX-License-Identifier: MIT
"""The clock jumps, back or ahead, between two runs, in the middle of one, and in the live mode.

The program's clock is moved, not the machine's: times of files stay what the kernel makes them.
"""

from __future__ import annotations

import pytest

from tests.support.live import Live
from tests.support.patched import patched
from tests.support.proxy import Proxy
from tests.support.run import Setup
from tests.support.work import assert_done, with_work

HOUR, YEAR = 3600, 365 * 86400
JUMPS = pytest.mark.parametrize("jump", [-YEAR, HOUR])

CLOCK = """
import time

_time, _time_ns = time.time, time.time_ns

def _offset():
    try:
        return int(open("clock").read() or 0)
    except FileNotFoundError:
        return 0

time.time = lambda: _time() + _offset()
time.time_ns = lambda: _time_ns() + _offset() * 1_000_000_000
"""


def set_clock(setup: Setup, offset: int) -> None:
    """The program's time, in seconds from the true one."""
    setup.program = patched(CLOCK)
    (setup.base / "clock").write_text(str(offset))


@JUMPS
def test_between_two_runs(setup: Setup, jump: int) -> None:
    """All kinds of work with a wrong clock, then with the right one; and the other way round."""
    set_clock(setup, jump)
    with_work(setup)
    setup.sync()
    assert_done(setup)
    set_clock(setup, 0)
    setup.sync_again_changes_nothing()
    setup.flag_local("B", "+F")
    setup.flag_remote("N", "+S")
    setup.remove_local("O")
    setup.sync()
    setup.assert_state(remote="A:FS B:FRS C:ST N:FS O:ST", local="A:FS B:FRS D:ST N:FS")
    setup.sync_again_changes_nothing()


@pytest.mark.parametrize(
    ("moment", "jump"),
    [("^SELECT", -HOUR), (r"^UID FETCH .*BODY\.PEEK\[\]", YEAR), ("^UID STORE", HOUR), ("^APPEND", -YEAR)],
)
def test_in_the_middle_of_a_run(behind: Setup, proxy: Proxy, moment: str, jump: int) -> None:
    set_clock(behind, 0)
    with_work(behind)
    rule = proxy.on_command(moment, count=1, before=lambda: set_clock(behind, jump))
    behind.sync()
    assert rule.hits
    assert_done(behind)
    set_clock(behind, 0)
    behind.sync_again_changes_nothing()


@JUMPS
def test_an_upload_whose_answer_was_lost(behind: Setup, proxy: Proxy, jump: int) -> None:
    """When it was sent is known by the clock. It is found, or sent once more; never waited for until then."""
    set_clock(behind, jump)
    behind.put_remote("A", "S")
    behind.sync()
    behind.put_local("O", "S")
    proxy.on_command("^APPEND", lost=True, cut="reset")
    behind.run()
    proxy.commands.clear()
    set_clock(behind, 0)
    behind.sync()
    behind.assert_both("A:S O:S")
    behind.sync_again_changes_nothing()


@JUMPS
def test_a_message_that_failed(behind: Setup, proxy: Proxy, jump: int) -> None:
    """When it is tried again is known by the clock: soon after that is right again."""
    set_clock(behind, jump)
    uids = behind.put_remotes(["A", "B"], "S")
    rule = proxy.on_command(rf"^UID FETCH .*\b{uids[0]}\b.*BODY\.PEEK\[\]|^UID FETCH \d+:\d+ .*BODY\.PEEK\[\]")
    rule.answer = b"NO [UNAVAILABLE] UID FETCH Server error"
    behind.run()
    rule.count = 0
    assert "A:S" not in behind.local_state()
    set_clock(behind, 0)
    behind.sync()
    behind.assert_both("A:S B:S")


@JUMPS
def test_a_guard_counts_what_was_marked_before(setup: Setup, jump: int) -> None:
    """Deletions are summed over a window of time; a clock that jumps neither blocks for ever nor deletes more."""
    set_clock(setup, jump)
    setup.settings["safety"] = {"local_delete_limit": "3", "remote_delete_limit": "3"}
    names = [f"M{number}" for number in range(12)]
    setup.put_remotes(names, "S")
    setup.sync()
    setup.remove_local(*names[:3])
    setup.sync()
    set_clock(setup, 0)
    setup.remove_local(*names[3:7])
    setup.sync(expect=65)
    assert sum(word.endswith("T") for word in setup.remote_state()) == 3
    setup.sync("--allow-mass-delete=7")
    assert sum(word.endswith("T") for word in setup.remote_state()) == 7
    setup.sync_again_changes_nothing()


@pytest.mark.parametrize("jump", [-HOUR, YEAR])
def test_in_the_live_mode(setup: Setup, jump: int) -> None:
    """Changes go both ways before the jump, after it, and after the clock is right again."""
    set_clock(setup, 0)
    with Live(setup) as live:
        expected = []
        for number, offset in enumerate((0, jump, 0)):
            set_clock(setup, offset)
            setup.put_remote(f"R{number}", "S")
            setup.put_local(f"L{number}", "S")
            expected += [f"R{number}:S", f"L{number}:S"]
            live.wait_both(" ".join(expected))
    setup.sync_again_changes_nothing("--once")
