# SPDX-License-Identifier: MIT
"""Each step of a run killed, or refused by the disk, from outside: then one run ends the work, and another changes
nothing. Nothing may be lost, nothing may be there twice.

A step is a system call that changes the Maildir, the state or the log, sends something to the server, or waits for its
answer. A sample of each scene's steps is tried; `PUSHPULL_KILLS=all` (`contrib/test --all`) tries every one.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import pytest

from tests.support import strace
from tests.support.forks import Forks
from tests.support.scenes import SCENES, Scene, Stage
from tests.support.strace import Call, Injected
from tests.system.conftest import MakeSetup

ALL = os.environ.get("PUSHPULL_KILLS") == "all"
KILLS = 6  # of each scene
FAULTS = 4
ANY_NUMBER = 3600
KILL = "SIGKILL"
NEEDS_NO_ROOM = ("unlink", "unlinkat", "utimensat")
TELLING = ("renameat2", "write", "read", "fdatasync", "fsync", "pwrite64")
FILLS_THE_DISK = ("mkdir", "mkdirat", "rename", "renameat", "renameat2", "link", "linkat", "pwrite64", "ftruncate")


@pytest.fixture(scope="module", autouse=True)
def _tracing() -> None:
    reason = strace.why_not()
    assert not reason, reason


@pytest.fixture(params=SCENES, ids=lambda scene: scene.name)
def stage(request: pytest.FixtureRequest, make_setup: MakeSetup) -> Iterator[Stage]:
    scene: Scene = request.param
    setup = make_setup(strategy=scene.strategy, settings=scene.settings, env=dict(strace.ENVIRONMENT))
    with Forks(setup) as setup.forks:
        yield Stage(setup, scene)


@pytest.fixture
def calls(stage: Stage) -> list[Call]:
    """What the scene's run does. Two runs do the same, but for how often an answer is asked for."""
    recorded = []
    for _ in range(3):
        run, found = strace.record(stage.reset(), *stage.scene.args)
        assert run.code == 0, run
        recorded.append(found)
    # The first one may have had to compile modules.
    second, third = ([call for call in found if call.name != "read"] for found in recorded[1:])
    assert second == third
    stage.assert_finished()
    return recorded[2]


def draw(calls: Sequence[Call], count: int) -> list[Call]:
    """All of them, or a sample that is the same each time. Pages that SQLite writes in a row make one commit, which it
    takes whole or not at all: the first and the last of them are tried."""
    rows: list[list[Call]] = []
    for call in calls:
        if call.name == "pwrite64" and rows and rows[-1][-1].text == call.text:
            rows[-1].append(call)
        else:
            rows.append([call])
    ends = [list(dict.fromkeys((row[0], row[-1]))) for row in rows]
    if ALL:
        return [call for row in ends for call in row]
    chance = random.Random(20261122)
    kinds: dict[str, list[Call]] = {}
    for call in (chance.choice(row) for row in ends):
        kinds.setdefault(f"{call.name} {call.socket}", []).append(call)
    # One of each kind, those that matter most first; then one more of each.
    order = sorted(kinds.values(), key=lambda found: TELLING.index(found[0].name) if found[0].name in TELLING else 99)
    shuffled = [chance.sample(found, len(found)) for found in order]
    turns = [call for turn in zip_longest(*shuffled) for call in turn if call is not None]
    return turns[:count]


@dataclass(frozen=True)
class Point:
    """A step, and what is done to it: `KILL`, or the error that it fails with."""

    call: Call
    what: str

    def hit(self, stage: Stage) -> Injected:
        """One run. A full disk stays full for that kind of call; a flush fails once, and never says so again."""
        setup, args = stage.setup, stage.scene.args
        if self.what == KILL:
            return strace.kill_at(setup, self.call, *args)
        injected = strace.fail_at(setup, self.call, self.what, *args, on=self.call.name in FILLS_THE_DISK)
        assert injected.run.code in (0, 74), injected.run
        assert "Traceback" not in injected.run.err, injected.run
        return injected

    def __str__(self) -> str:
        return f"{self.what} at {self.call}"


def points(calls: Sequence[Call]) -> list[Point]:
    """A kill at each call; an error at each that writes to the disk, unless it failed anyway."""
    files = [call for call in calls if not (call.socket or call.failed or call.name in NEEDS_NO_ROOM)]
    return [
        *(Point(call, KILL) for call in draw(calls, KILLS)),
        *(Point(call, "EIO" if call.name in strace.FLUSHES else "ENOSPC") for call in draw(files, FAULTS)),
    ]


@pytest.mark.timeout(ANY_NUMBER)
def test_each_step_killed_or_refused(stage: Stage, calls: list[Call]) -> None:
    tried = points(calls)
    faults, elsewhere, missed = [], 0, 0
    for point in tried:
        where, run = "nowhere", None
        try:
            stage.reset()
            injected = point.hit(stage)
            where, run = injected.where, injected.run
            missed += not where
            elsewhere += where not in ("", point.call.text)
            stage.assert_finished(*stage.scene.args)
        except AssertionError as error:
            faults.append(f"--- {point}, really {where or 'nowhere'}\n{run}\n{error}")
    print(f"{stage.scene.name}: {len(tried)} points, {elsewhere} at another call, {missed} not reached")
    assert not faults, "\n".join(faults)
    assert missed <= len(tried) // 4, f"{missed} of {len(tried)} points were not reached"


def test_the_call_that_it_dies_at_is_not_made(make_setup: MakeSetup) -> None:
    setup = make_setup(env=dict(strace.ENVIRONMENT))
    stage = Stage(setup, SCENES[0])
    strace.record(setup)
    _, calls = strace.record(stage.reset())
    call = next(call for call in calls if call.name == "renameat2")
    injected = strace.kill_at(stage.reset(), call)
    assert injected.where == call.text
    assert setup.files() == []
    assert len(list((setup.maildir / "tmp").iterdir())) == 4


def test_killed_again_and_again(make_setup: MakeSetup) -> None:
    """Each run gets a little further than the one before; what was done stays done."""
    setup = make_setup(env=dict(strace.ENVIRONMENT))
    stage = Stage(setup, SCENES[0])
    strace.record(setup)
    _, calls = strace.record(stage.reset())
    stage.reset()
    for call in calls:
        if call.name in ("renameat2", "fsync"):
            strace.kill_at(setup, call)
    stage.assert_finished()
