# SPDX-License-Identifier: MIT
"""Signals of a one-shot run, sent to a real process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from pushpull.errors import EX_TEMPORARY, Interrupted
from pushpull.stopping import GRACE_SECONDS, Stopper

PROLOGUE = """
import signal, sys, time
from pushpull.errors import Interrupted
from pushpull.stopping import Stopper

def say(text):
    print(text, flush=True)

def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass

def busy(seconds):
    "An action that nothing but an exception ends; returns whether it was cut."
    # A frame of its own: from Python 3.12 on the jump back at the end of a loop belongs to no `try` around it.
    try:
        spin(seconds)
    except Interrupted:
        return True
    return False

stopper = Stopper()
stopper.install()
"""

PAUSE = 'say("ready")\ntry:\n    stopper.pause(60)\nexcept Interrupted as error:\n    say(f"{error}: {error.remedy}")'
LONG = 'say("ready")\nsay("cut" if busy(60) else "whole")'
HEEDLESS = """
say("ready")
while not stopper.stopping:
    pass
say("stopping")
while True:
    busy(60)
"""
SHORT = """
say("ready")
while not stopper.stopping:
    pass
say("whole" if not busy(0.2) else "cut")
try:
    stopper.check()
except Interrupted:
    say("stopped")
"""


@contextmanager
def program(code: str):
    """A process that runs it and has said that it is ready."""
    with subprocess.Popen([sys.executable, "-c", PROLOGUE + code], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def rest(process) -> list[str]:
    """What else it says until it ends by itself, well."""
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    return said.splitlines()


BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@BOTH
def test_a_signal_ends_a_pause_at_once(number):
    with program(PAUSE) as process:
        sent = time.monotonic()
        process.send_signal(number)
        (said,) = rest(process)
    assert said.startswith("interrupted: what was done is kept")
    assert time.monotonic() - sent < 10


@BOTH
def test_a_long_action_is_cut_after_a_second(number):
    with program(LONG) as process:
        sent = time.monotonic()
        process.send_signal(number)
        assert rest(process) == ["cut"]
    assert GRACE_SECONDS <= time.monotonic() - sent < 10


def test_a_short_action_is_finished():
    with program(SHORT) as process:
        process.send_signal(signal.SIGTERM)
        assert rest(process) == ["whole", "stopped"]


@BOTH
def test_a_second_signal_ends_it_at_once(number):
    """The program would go on for ever: it swallows what a cut raises."""
    with program(HEEDLESS) as process:
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(number)
        assert process.wait(20) == EX_TEMPORARY


DONE = """
say("ready")
while not stopper.stopping:
    pass
stopper.done()
say("cut" if busy(1.3) else "whole")
"""


def test_the_cut_does_not_hit_what_follows_the_work():
    with program(DONE) as process:
        process.send_signal(signal.SIGTERM)
        assert rest(process) == ["whole"]


REOPEN = """
say("ready")
while not stopper.log_due:
    pass
stopper.check()
say(f"log due, stopping: {stopper.stopping}")
"""


def test_a_hangup_asks_for_a_new_log_and_does_not_end_it():
    with program(REOPEN) as process:
        process.send_signal(signal.SIGHUP)
        assert rest(process) == ["log due, stopping: False"]


def test_usr1_is_harmless():
    with program(REOPEN) as process:
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGHUP)
        assert rest(process) == ["log due, stopping: False"]


def test_without_a_signal_nothing_stops():
    stopper = Stopper()
    stopper.check()
    stopper.pause(0)
    stopper.pause(-5)
    stopper.done()
    assert not stopper.stopping
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_once_stopping_each_point_stops():
    stopper = Stopper()
    stopper.stopping = True
    for point in (stopper.check, lambda: stopper.pause(60)):
        with pytest.raises(Interrupted) as caught:
            point()
        assert caught.value.exit_code == EX_TEMPORARY
