# SPDX-License-Identifier: MIT
"""A one-shot run's patience, with a clock that only pauses move."""

from __future__ import annotations

import pytest

from pushpull.errors import (
    CommandFailed,
    ConfigError,
    ConnectionLost,
    Interrupted,
    LocalDiskError,
    LoginRefused,
    MailboxMissing,
    MessageError,
    PairingLocked,
    Refused,
    Restless,
    ResyncNeeded,
    ServerBusy,
    ServerUnsupported,
    StateBusy,
    StateUnusable,
    Temporary,
    UsageError,
)
from pushpull.retry import ATTEMPTS, LONGEST_GAP, SECONDS, Patience, passes_by_itself


def nothing(*_):
    """Tells nobody, waits for nothing."""


class World:
    """Clock, pauses, progress, and a script of what each attempt does."""

    def __init__(self, *script, seconds=0.0) -> None:
        self.script, self.seconds = list(script), seconds
        self.now, self.achieved, self.attempts = 1000.0, 0, 0
        self.pauses, self.told = [], []
        self.patience = Patience(
            lambda: self.achieved, clock=lambda: self.now, pause=self.pause, tell=lambda *told: self.told.append(told)
        )

    def pause(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds

    def attempt(self):
        self.attempts += 1
        self.now += self.seconds
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if callable(step):
            step = step(self)
        if isinstance(step, BaseException):
            raise step
        return step

    def run(self):
        return self.patience(self.attempt)


LOST = ConnectionLost("the link was cut")


def progress_then_lost(world):
    world.achieved += 1
    return LOST


def test_what_succeeds_is_done_once():
    world = World("done")
    assert world.run() == "done"
    assert (world.attempts, world.pauses, world.told) == (1, [], [])


def test_nothing_is_an_answer_too():
    world = World(None)
    assert world.run() is None
    assert world.attempts == 1


@pytest.mark.parametrize("failures", range(ATTEMPTS))
def test_a_few_failures_are_forgiven(failures):
    world = World(*[LOST] * failures, "done")
    assert world.run() == "done"
    assert world.attempts == failures + 1
    assert len(world.pauses) == len(world.told) == failures


def test_three_attempts_and_then_the_last_error_is_raised_as_it_is():
    errors = [ConnectionLost(str(number)) for number in range(9)]
    world = World(*errors)
    with pytest.raises(ConnectionLost, match="2") as caught:
        world.run()
    assert ATTEMPTS == 3 == world.attempts
    assert caught.value is errors[2]


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_another_number_of_attempts(attempts):
    world = World(LOST)
    patience = Patience(nothing, attempts=attempts, clock=lambda: 0.0, pause=nothing, tell=nothing)
    with pytest.raises(ConnectionLost):
        patience(world.attempt)
    assert world.attempts == attempts


@pytest.mark.parametrize("seconds", [SECONDS, SECONDS - 0.1, 10 * SECONDS])
def test_a_stall_of_a_minute_leaves_one_more_attempt(seconds):
    world = World(LOST, seconds=seconds)
    with pytest.raises(ConnectionLost):
        world.run()
    assert world.attempts == 2


def test_the_sixty_seconds_are_of_the_whole_run_with_its_pauses():
    world = World(LOST, seconds=29.9)
    with pytest.raises(ConnectionLost):
        world.run()
    assert world.attempts == 2
    assert world.now - 1000 >= SECONDS


def test_progress_makes_for_new_patience():
    world = World(*[progress_then_lost] * 10, LOST)
    with pytest.raises(ConnectionLost):
        world.run()
    assert world.attempts == 10 + ATTEMPTS


def test_progress_sets_the_sixty_seconds_back():
    world = World(progress_then_lost, progress_then_lost, progress_then_lost, "done", seconds=SECONDS + 1)
    assert world.run() == "done"
    assert world.attempts == 4


def test_progress_sets_the_sixty_seconds_back_for_the_failures_after_it():
    world = World(progress_then_lost, LOST, "done", seconds=SECONDS / 2 + 1)
    assert world.run() == "done"


def test_progress_makes_the_gap_short_again():
    world = World(LOST, LOST, *[progress_then_lost] * 5, LOST)
    with pytest.raises(ConnectionLost):
        world.run()
    assert all(pause <= 1 for pause in world.pauses[3:7])


def test_the_gaps_grow_with_jitter_and_stay_bounded():
    firsts = []
    for _ in range(50):
        world = World(LOST)
        with pytest.raises(ConnectionLost):
            world.run()
        first, second = world.pauses
        assert 0 < first <= second <= min(4, LONGEST_GAP)
        firsts.append(first)
    assert len(set(firsts)) > 1


def test_each_gap_is_told_with_the_error_that_made_it():
    errors = [ConnectionLost("first"), ServerBusy("second", code="INUSE")]
    world = World(*errors, "done")
    world.run()
    assert world.told == list(zip(errors, world.pauses, strict=True))


PASSING = [
    Temporary("t"),
    ConnectionLost("c"),
    ServerBusy("b", code="UNAVAILABLE"),
    StateBusy("s"),
]
LASTING = [
    CommandFailed("the password command failed"),
    PairingLocked("locked", pid=1),
    LoginRefused("no"),
    MailboxMissing("no"),
    Refused("no"),
    LocalDiskError("full"),
    StateUnusable("corrupt"),
    ServerUnsupported("old"),
    UsageError("no"),
    ConfigError("path", ["no"]),
    MessageError("bad"),
    ResyncNeeded("again"),
    Interrupted("stop"),
    ValueError("a bug"),
    KeyboardInterrupt(),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_what_passes_by_itself_is_tried_again(error):
    assert passes_by_itself(error)
    world = World(error, "done")
    assert world.run() == "done"


@pytest.mark.parametrize("error", LASTING, ids=lambda error: type(error).__name__)
def test_what_does_not_is_raised_at_once(error):
    assert not passes_by_itself(error)
    world = World(error)
    with pytest.raises(type(error)) as caught:
        world.run()
    assert caught.value is error
    assert (world.attempts, world.pauses, world.told) == (1, [], [])


def test_a_lasting_error_after_a_passing_one_ends_it():
    world = World(LOST, LoginRefused("no"), "never reached")
    with pytest.raises(LoginRefused):
        world.run()
    assert world.attempts == 2


@pytest.mark.parametrize("error", [Interrupted("stop"), KeyboardInterrupt(), ConnectionLost("odd")])
def test_an_exception_from_the_pause_ends_it_at_once(error):
    world = World(LOST)
    paused = []

    def pause(seconds):
        paused.append(seconds)
        raise error

    patience = Patience(lambda: 0, clock=lambda: world.now, pause=pause, tell=lambda *_: None)
    with pytest.raises(type(error)) as caught:
        patience(world.attempt)
    assert caught.value is error
    assert (world.attempts, len(paused)) == (1, 1)


def test_a_folder_that_never_rests_ends_a_run_whatever_was_achieved_meanwhile():
    def restless(world):
        world.achieved += 1
        return Restless("changes all the time")

    world = World(restless)
    with pytest.raises(Restless):
        world.run()
    assert world.attempts == ATTEMPTS
