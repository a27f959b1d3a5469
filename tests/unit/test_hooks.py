# SPDX-License-Identifier: MIT
"""The post-sync command of the live mode: one at a time, none lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pushpull.config import Command
from pushpull.errors import CommandFailed
from pushpull.hooks import HookEnd, HookRunner
from tests.support.waiting import wait_for

# Notes who it runs for, then waits for a line from the pipe `gate`, which is its exit status.
SCRIPT = '#!/bin/bash\necho "$PUSHPULL_PAIRING" >>{0}/runs\nread -r status <{0}/gate\nexit "$status"\n'


class Hook:
    """A runner in a thread, with a command that each test lets go on."""

    def __init__(self, directory: Path, timeout: int = 60) -> None:
        self.directory = directory
        script = directory / "hook"
        script.write_text(SCRIPT.format(directory))
        script.chmod(0o755)
        os.mkfifo(directory / "gate")
        self.done = threading.Semaphore(0)
        self.runner = HookRunner(Command((str(script),), timeout), self.done.release)
        self.thread = threading.Thread(target=self.runner.run)
        self.ends: list[HookEnd] = []

    def submit(self, pairing: str) -> None:
        self.runner.submit(pairing, {"PUSHPULL_PAIRING": pairing})

    def runs(self) -> list[str]:
        path = self.directory / "runs"
        return path.read_text().split() if path.exists() else []

    def wait_for_runs(self, *pairings: str) -> None:
        wait_for(lambda: self.runs() == list(pairings), what=f"runs {pairings}", detail=lambda: str(self.runs()))

    def finish(self, status: int = 0) -> HookEnd:
        (self.directory / "gate").write_text(f"{status}\n")
        assert self.done.acquire(timeout=20)
        (end,) = self.runner.ended()
        return end


@contextmanager
def running(directory: Path, timeout: int = 60) -> Iterator[Hook]:
    hook = Hook(directory, timeout)
    hook.thread.start()
    try:
        yield hook
    finally:
        hook.runner.stop()
        hook.thread.join(20)
        assert not hook.thread.is_alive()


def test_one_at_a_time_and_what_waits_is_joined(tmp_path):
    with running(tmp_path) as hook:
        hook.submit("a")
        hook.wait_for_runs("a")
        for pairing in ("b", "a", "b", "a"):
            hook.submit(pairing)
        assert hook.runner.pending("a")
        assert hook.finish() == HookEnd("a", None)
        hook.wait_for_runs("a", "b")
        assert hook.runner.pending("a")  # what was submitted while it ran is a run of its own
        assert hook.finish() == HookEnd("b", None)
        hook.wait_for_runs("a", "b", "a")
        assert hook.finish() == HookEnd("a", None)
        assert not hook.runner.pending("a")
        assert hook.runner.ended() == []


def test_a_failure_is_told_and_the_next_runs(tmp_path):
    with running(tmp_path) as hook:
        hook.submit("a")
        hook.submit("b")
        hook.wait_for_runs("a")
        end = hook.finish(3)
        assert (end.pairing, type(end.error)) == ("a", CommandFailed)
        assert "exit status 3" in str(end.error)
        hook.wait_for_runs("a", "b")
        assert hook.finish().error is None


@pytest.mark.parametrize("timeout", [1])
def test_one_that_hangs_is_ended(tmp_path, timeout):
    with running(tmp_path, timeout) as hook:
        hook.submit("a")
        assert hook.done.acquire(timeout=20)
        (end,) = hook.runner.ended()
        assert "was not done after" in str(end.error)


def test_stopping_ends_the_command(tmp_path):
    with running(tmp_path) as hook:
        hook.submit("a")
        hook.submit("b")
        hook.wait_for_runs("a")
    assert hook.runs() == ["a"]
    assert hook.runner.ended() == []
