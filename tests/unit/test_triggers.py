# SPDX-License-Identifier: MIT
"""Triggers: what is pending, when it is due, and that none is ever lost."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushpull import triggers
from pushpull.triggers import LONGEST_BURST, Debouncer, Kind, MovedIn, Trigger, TriggerQueue
from tests.support.waiting import wait_for

LOCAL, REMOTE, TIMER, USER = Kind.LOCAL, Kind.REMOTE, Kind.TIMER, Kind.USER
AT_ONCE = pytest.mark.parametrize("kind", [REMOTE, TIMER, USER])

TRIGGERS = st.builds(Trigger, st.sampled_from(["work", "home"]), st.sampled_from(Kind), st.booleans())
QUIESCE = st.sampled_from([0, 1, 4])
# Seconds are whole numbers, so that sums are exact.
EVENTS = st.lists(st.tuples(st.integers(0, 6), TRIGGERS), max_size=40)


def is_due(kind, since, last, now, quiesce) -> bool:
    """The rule, said once more."""
    quiet = now - last >= quiesce
    endless = now - since >= LONGEST_BURST * quiesce
    return kind is not LOCAL or quiet or endless


@given(QUIESCE, EVENTS)
def test_every_event_is_answered_once_and_at_its_time(quiesce, events):
    """Looked at each second, it agrees with a model that keeps all events of each (pairing, kind)."""
    debouncer = Debouncer(quiesce)
    by_second, now = defaultdict(list), 0
    for gap, trigger in events:
        now += gap
        by_second[now].append(trigger)
    model = defaultdict(list)
    for second in range(now + LONGEST_BURST * quiesce + 1):
        for trigger in by_second[second]:
            debouncer.add(trigger, second)
            model[trigger.pairing, trigger.kind].append((second, trigger.full))
        due = {
            key: any(full for _, full in seen)
            for key, seen in model.items()
            if is_due(key[1], seen[0][0], seen[-1][0], second, quiesce)
        }
        assert debouncer.ready(second) == set(due)
        assert (debouncer.wait(second) == 0) == bool(due)
        taken = debouncer.due(second)
        assert len(taken) == len(due)
        assert {(trigger.pairing, trigger.kind): trigger.full for trigger in taken} == due
        assert debouncer.due(second) == []
        for key in due:
            del model[key]
    assert not model
    assert debouncer.wait(second) is None


@given(QUIESCE, EVENTS, st.lists(st.tuples(st.integers(0, 200), TRIGGERS), max_size=8))
def test_waiting_ends_when_something_is_due_and_not_before(quiesce, events, timed):
    debouncer, now = Debouncer(quiesce), 0
    for at, trigger in timed:
        debouncer.later(trigger, at)
    expected = {(trigger.pairing, trigger.kind) for _, trigger in timed}
    for gap, trigger in events:
        now += gap
        debouncer.add(trigger, now)
        expected.add((trigger.pairing, trigger.kind))
    taken = set()
    while (wait := debouncer.wait(now)) is not None:
        if wait:
            assert debouncer.due(now + wait - 1) == []
        now += wait
        found = debouncer.due(now)
        assert found
        taken |= {(trigger.pairing, trigger.kind) for trigger in found}
    assert taken == expected


def test_a_burst_is_one_trigger_after_it_ended():
    debouncer = Debouncer(1)
    for hundredth in range(200):
        debouncer.add(Trigger("work", LOCAL), hundredth / 100)
        assert debouncer.due(hundredth / 100) == []
    assert debouncer.wait(2.0) == pytest.approx(0.99)
    assert debouncer.due(2.98) == []
    assert debouncer.due(3.0) == [Trigger("work", LOCAL)]


def test_a_burst_without_end_is_cut_off():
    debouncer, answered = Debouncer(2), []
    for tenth in range(1000):
        debouncer.add(Trigger("work", LOCAL), tenth / 10)
        answered += [tenth / 10 for _ in debouncer.due(tenth / 10)]
    gaps = [later - earlier for earlier, later in pairwise(answered)]
    assert gaps == pytest.approx([20.1] * 3)
    assert answered[0] == 20


@AT_ONCE
def test_others_do_not_wait(kind):
    debouncer = Debouncer(60)
    debouncer.add(Trigger("work", LOCAL), 5)
    debouncer.add(Trigger("work", kind), 6)
    assert debouncer.due(6) == [Trigger("work", kind)]
    assert debouncer.due(65) == [Trigger("work", LOCAL)]


def test_pairings_do_not_delay_each_other():
    debouncer = Debouncer(5)
    debouncer.add(Trigger("work", LOCAL), 0)
    debouncer.add(Trigger("home", LOCAL), 3)
    assert debouncer.ready(5) == {("work", LOCAL)}
    assert debouncer.due(5) == [Trigger("work", LOCAL)]
    assert debouncer.wait(5) == 3


@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_full_is_kept_when_events_join(order):
    debouncer = Debouncer(1)
    for full in order:
        debouncer.add(Trigger("work", LOCAL, full), 0)
        debouncer.later(Trigger("home", TIMER, full), 1)
    assert debouncer.due(1) == [Trigger("work", LOCAL, full=True), Trigger("home", TIMER, full=True)]
    debouncer.add(Trigger("work", LOCAL), 5)
    assert debouncer.due(6) == [Trigger("work", LOCAL)]


def test_what_became_due_first_comes_first():
    debouncer = Debouncer(1)
    debouncer.add(Trigger("a", LOCAL), 0)
    debouncer.later(Trigger("b", TIMER), 0.5)
    debouncer.add(Trigger("c", REMOTE), 2)
    assert [trigger.pairing for trigger in debouncer.due(2)] == ["b", "a", "c"]


def test_a_set_time_replaces_an_earlier_one_and_delays_no_event():
    debouncer = Debouncer(1)
    debouncer.later(Trigger("work", TIMER), 10)
    debouncer.later(Trigger("work", TIMER), 20)
    debouncer.later(Trigger("work", LOCAL), 300)
    debouncer.add(Trigger("work", LOCAL), 2)
    assert debouncer.due(3) == [Trigger("work", LOCAL)]
    assert debouncer.due(19) == []
    assert debouncer.due(20) == [Trigger("work", TIMER)]
    assert debouncer.due(300) == [Trigger("work", LOCAL)]


def test_a_timer_and_an_event_due_together_are_one():
    debouncer = Debouncer(1)
    debouncer.later(Trigger("work", LOCAL, full=True), 5)
    debouncer.add(Trigger("work", LOCAL), 4.5)
    assert debouncer.due(6) == [Trigger("work", LOCAL, full=True)]
    assert debouncer.wait(6) is None


# --- the queue, with threads ----------------------------------------------------------------------------------------


class Taker:
    """A thread that takes until the queue is closed."""

    def __init__(self, queue, timeout=None) -> None:
        self.queue, self.timeout, self.taken, self.rounds = queue, timeout, [], 0
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while not self.queue.closed:
            self.taken += self.queue.take(self.timeout)
            self.rounds += 1

    def end(self) -> None:
        self.queue.close()
        self.thread.join(20)
        assert not self.thread.is_alive()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_taker_is_woken_by_an_event():
    queue = TriggerQueue(0.0)
    taker = Taker(queue)
    queue.put(Trigger("work", LOCAL))
    wait_for(lambda: taker.taken, what="the trigger")
    taker.end()
    assert taker.taken == [Trigger("work", LOCAL)]
    assert queue.take(None) == []


def test_a_taker_is_not_early_and_not_late():
    queue = TriggerQueue(0.2)
    start = time.monotonic()
    queue.put(Trigger("work", LOCAL))
    assert queue.take(20) == [Trigger("work", LOCAL)]
    assert 0.2 <= time.monotonic() - start < 10
    queue.put_later(Trigger("work", TIMER), 0.2)
    start = time.monotonic()
    assert queue.pending() == frozenset()
    assert queue.take(20) == [Trigger("work", TIMER)]
    assert 0.19 <= time.monotonic() - start < 10


def test_a_nearer_time_shortens_a_wait_under_way():
    queue = TriggerQueue(0.0)
    queue.put_later(Trigger("work", TIMER), 3600)
    taker = Taker(queue)
    wait_for(lambda: queue._changed._waiters, what="the taker to wait")
    queue.put_later(Trigger("home", TIMER), 0.01)
    wait_for(lambda: taker.taken, what="the trigger")
    taker.end()
    assert taker.taken == [Trigger("home", TIMER)]


def test_taking_ends_with_its_timeout():
    queue = TriggerQueue(60.0)
    assert queue.take(0) == []
    queue.put(Trigger("work", LOCAL))
    start = time.monotonic()
    assert queue.take(0.05) == []
    assert time.monotonic() - start >= 0.05
    queue.put(Trigger("work", USER))
    assert queue.take(0) == [Trigger("work", USER)]


def test_a_time_that_never_comes_is_no_error(monkeypatch):
    monkeypatch.setattr(triggers, "LONGEST_SLEEP", 0.01)
    queue = TriggerQueue(0.0)
    queue.put_later(Trigger("work", TIMER), float("inf"))
    taker = Taker(queue, timeout=0.05)
    wait_for(lambda: taker.rounds > 1, what="two timeouts")
    taker.end()
    assert taker.taken == []


def test_the_clock_is_the_given_one():
    clock = Clock()
    queue = TriggerQueue(5.0, clock=clock)
    queue.put(Trigger("work", LOCAL))
    queue.put(Trigger("home", REMOTE))
    assert queue.pending() == {("home", REMOTE)}
    clock.now += 5
    assert queue.pending() == {("home", REMOTE), ("work", LOCAL)}
    assert queue.take(0) == [Trigger("home", REMOTE), Trigger("work", LOCAL)]
    assert queue.pending() == frozenset()


def test_a_nudge_wakes_a_taker_with_nothing():
    queue = TriggerQueue(5.0)
    queue.nudge()
    assert queue.take(None) == []
    queue.put(Trigger("home", REMOTE))
    queue.nudge()
    assert queue.take(None) == [Trigger("home", REMOTE)]


def test_closing_wakes_everybody_and_later_events_are_nothing():
    queue = TriggerQueue(0.0)
    takers = [Taker(queue) for _ in range(3)]
    wait_for(lambda: len(queue._changed._waiters) == 3, what="three takers to wait")
    assert not queue.closed
    for taker in takers:
        taker.end()
    assert queue.closed
    queue.put(Trigger("work", REMOTE))
    assert queue.take(None) == []


def test_no_trigger_falls_between_two_takes():
    """Each is put once, by four threads, while the taker comes and goes; what is taken names each pairing."""
    queue = TriggerQueue(0.0)
    taker = Taker(queue)

    def send(sender):
        for number in range(500):
            queue.put(Trigger(f"{sender}/{number}", LOCAL if number % 2 else REMOTE))

    senders = [threading.Thread(target=send, args=(sender,)) for sender in range(4)]
    for thread in senders:
        thread.start()
    for thread in senders:
        thread.join(20)
    wait_for(lambda: len(taker.taken) >= 2000, what="every trigger", detail=lambda: str(len(taker.taken)))
    taker.end()
    assert sorted(trigger.pairing for trigger in taker.taken) == sorted(
        f"{s}/{n}" for s in range(4) for n in range(500)
    )


def test_names_that_were_moved_in():
    seen = MovedIn()
    seen.note("work", "\udce9:2,S")
    assert seen.has("work", b"\xe9")
    assert not seen.has("home", b"\xe9")
    assert not seen.has("work", b"\xe9:2,S")
    for number in range(MovedIn.MOST):
        seen.note("work", f"m{number}")
    assert not seen.has("work", b"\xe9")
    assert seen.has("work", b"m0")
