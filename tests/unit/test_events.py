# SPDX-License-Identifier: MIT
"""What the main thread waits for: no signal is slept through."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROLOGUE = """
import os, signal, sys, threading, time
from pushpull.events import Events

events = Events()
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _frame: events.put(signal.Signals(number).name))

def asleep():
    with open(f"/proc/self/task/{os.getpid()}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "S"

def when_the_main_thread_sleeps(act):
    def body():
        in_a_row = 0
        while in_a_row < 20:
            in_a_row = in_a_row + 1 if asleep() else 0
            time.sleep(0.001)
        act()
    threading.Thread(target=body, daemon=True).start()

"""
TO_ANOTHER_THREAD = """
with events.listening():
    when_the_main_thread_sleeps(lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM))
    print(events.get(None))
"""
BEFORE_THE_WAIT = """
os.kill(os.getpid(), signal.SIGHUP)
with events.listening():
    os.kill(os.getpid(), signal.SIGTERM)
    print(events.get(None))
    print(events.get(None))
"""
MANY = """
with events.listening():
    when_the_main_thread_sleeps(lambda: [events.put("word") for _ in range(100_000)])
    came = 0
    while came < 100_000:
        came += events.get(None) == "word"
    while events.get(0.01) is not None:
        came += 1
    print(came)
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        pytest.param(TO_ANOTHER_THREAD, ["SIGTERM"], id="a signal that another thread is given"),
        pytest.param(BEFORE_THE_WAIT, ["SIGHUP", "SIGTERM"], id="signals from before the wait"),
        pytest.param(MANY, ["100000"], id="more than a pipe holds"),
    ],
)
def test_nothing_is_slept_through(code: str, said: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, said, "")
