# SPDX-License-Identifier: MIT
"""The one thread of the live mode that changes anything: it takes triggers and runs cycles.

It owns the state's only connection and its own IMAP session; watchers give it triggers, hooks run beside it. A cycle
ends between two batches when somebody else's trigger is due, and is taken up again after it: what was done is in the
state. What fails is tried again later, by a trigger with a time; nothing here sleeps long.

**Gaps.** While the account cannot be logged in to, nobody tries before the gap is over, but for the user (SIGUSR1) and
a watcher that got through. The same holds for one pairing whose cycle failed; the others go on.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from pushpull import levels
from pushpull.accounts import Door, Sessions
from pushpull.config import Config, PairingConfig
from pushpull.cycles import Cycles, Effort
from pushpull.download import Pace
from pushpull.engine import Tools
from pushpull.errors import (
    Interrupted,
    LocalDiskError,
    PushpullError,
    Refused,
    StateUnusable,
    Temporary,
)
from pushpull.hooks import HookRunner
from pushpull.options import Options
from pushpull.output import Output
from pushpull.ports import Report
from pushpull.prepare import Preparer
from pushpull.problems import tell_problems
from pushpull.store import Store
from pushpull.triggers import Kind, MovedIn, Trigger, TriggerQueue
from pushpull.trust import Trust
from pushpull.values import field, replace, struct
from pushpull.watch_link import Gaps
from pushpull.wording import human_duration, plural

FIRST_GAP = 2.0
SHORTEST_GAP = 0.5
ATTEMPTS = 2  # within a cycle, a second or two apart; then the gaps
BATCH_MESSAGES = 100  # of a download: how long a batch may take others to wait for
HELD_GAP = 300.0  # what only a person can mend is looked at again without a trigger, too
FIRST_RETRY = 10.0  # of a single message, at least
TURN_SECONDS = 2.0  # a cycle's own pairing interrupts it no sooner


class Yielded(Exception):
    """Somebody else's turn; the cycle is begun anew after it."""


class ToldOnce:
    """A Report that lowers to DEBUG what the cycle before said as well: a folder that is held, a stranger in it."""

    def __init__(self, report: Report, beat: Callable[[], None]) -> None:
        self._report, self._beat = report, beat
        self._before: set[str] = set()
        self._now: set[str] = set()

    def begin(self) -> None:
        """A cycle begins."""
        self._before, self._now = self._now, set()

    def line(self, level: int, text: str) -> None:
        self._beat()
        if level != levels.NOTICE:
            self._now.add(text)
            level = levels.DEBUG if text in self._before else level
        self._report.line(level, text)

    def progress(self, what: str, done: int, total: int, done_bytes: int = 0) -> None:
        self._beat()
        self._report.progress(what, done, total, done_bytes)


def _effort() -> Effort:
    return Effort(pace=Pace(messages=BATCH_MESSAGES, most=BATCH_MESSAGES))


def _gaps(longest: float) -> Gaps:
    return Gaps(min(FIRST_GAP, longest), longest, random)


@struct
class _Live:
    """One pairing between its cycles."""

    pairing: PairingConfig
    report: ToldOnce
    gaps: Gaps
    forget: bool  # what was agreed, before the next cycle
    readopt: bool  # nothing is marked until a cycle went through
    effort: Effort = field(default_factory=_effort)
    whole_folder: bool = False  # the user asked for a look at all of it
    probed: bool = False
    not_before: float = 0.0
    told: str = ""
    unhooked: bool = True  # what an earlier process left undone is not looked at yet


@struct
class _Due:
    """Triggers of a pairing that wait for their turn. `resumed`: a cycle of it was interrupted."""

    urgent: bool = False  # the user, or a watcher that got through
    user: bool = False
    resumed: bool = False

    def add(self, trigger: Trigger) -> None:
        self.urgent |= trigger.kind is Kind.USER or (trigger.kind is Kind.REMOTE and trigger.full)
        self.user |= trigger.kind is Kind.USER
        self.resumed = False


def next_turn(due: Mapping[str, bool], last: str) -> str | None:
    """Of those that are due (True: an interrupted cycle) whose turn it is: nobody's twice while another waits, for a
    download's own files are fresh triggers of its pairing; else fresh triggers go before interrupted cycles, and who
    has waited longest first.
    """
    return min(due, key=lambda name: (name == last, due[name]), default=None)


class Worker:
    """`run` is the body of its thread; `stop`, `interrupt` and `stuck_since` are for others."""

    def __init__(
        self,
        config: Config,
        options: Options,
        output: Output,
        pairings: Sequence[PairingConfig],
        *,
        triggers: TriggerQueue,
        door: Door,
        preparer: Preparer,
        hooks: HookRunner | None,
        started: Callable[[], None],
        connected: Callable[[], None],
        status: Callable[[str], None],
        moved_in: MovedIn,
    ) -> None:
        """`started`: the state is open. `connected`: the account can be reached. `status`: one line for whoever
        looks. All are called in the worker's thread.
        """
        self._config, self._output, self._queue, self._door = config, output, triggers, door
        self._preparer, self._hooks = preparer, hooks
        self._started, self._status, self._moved_in = started, status, moved_in
        self._stop = threading.Event()
        self._sessions = Sessions(door, connected)
        self._cycles = Cycles(config, options, self._sessions, self._tools(output), stays=True)
        longest = float(max(1, config.general.restart_after_error_seconds))
        self._longest = longest
        self._live = {
            pairing.name: _Live(
                pairing,
                ToldOnce(output, self._beat),
                _gaps(longest),
                forget=options.readopt,
                readopt=options.readopt,
            )
            for pairing in pairings
        }
        self._gaps = _gaps(longest)
        self._down_until = 0.0
        self._told_down = ""
        self._due: dict[str, _Due] = {}
        self._last = ""  # the pairing that had the last turn
        self._busy_since: float | None = None  # the last sign of life of a busy worker

    def run(self) -> None:
        """Until `stop`. Raises only what ends the program: StateUnusable, LocalDiskError of the state, or a bug."""
        store = Store.open(self._config.local.state)
        self._started()
        try:
            while not self._stop.is_set():
                self._once(store)
        except Interrupted:
            pass
        finally:
            self._sessions.drop()
            self._hooks_ended(store)
            store.close()

    def stop(self) -> None:
        """End `run` at the next point where the work is whole."""
        self._stop.set()
        self._queue.close()

    def interrupt(self) -> None:
        """Cut what waits for the server."""
        self._sessions.interrupt()

    def stuck_since(self) -> float | None:
        """Of a worker that is busy: when it last gave a sign of life (`time.monotonic`); None while it waits."""
        return self._busy_since

    # --- turns ---------------------------------------------------------------------------------------------------

    def _once(self, store: Store) -> None:
        """Take what is due; one cycle of the pairing whose turn it is."""
        self._busy_since = None
        for trigger in self._queue.take(0.0 if self._due else None):
            self._due.setdefault(trigger.pairing, _Due()).add(trigger)
        self._beat()
        self._hooks_ended(store)
        name = next_turn({name: due.resumed for name, due in self._due.items()}, self._last)
        if name is None:
            return
        due = self._due.pop(name)
        live = self._live[name]
        if due.urgent:  # the link of a watcher ended, and so may ours have, unnoticed
            self._sessions.doubt()
        live.whole_folder |= due.user
        if not self._postponed(live, due):
            self._last = name
            self._cycle(store, live)

    def _postponed(self, live: _Live, due: _Due) -> bool:
        """It failed lately: later, unless somebody knows that it will go now."""
        wait = max(live.not_before, self._down_until) - time.monotonic()
        if wait <= 0 or due.urgent:
            self._down_until = 0.0
            return False
        self._queue.put_later(Trigger(live.pairing.name, Kind.TIMER), wait)
        return True

    def _cycle(self, store: Store, live: _Live) -> None:
        name, effort = live.pairing.name, live.effort
        live.report.begin()
        live.not_before = 0.0
        try:
            self._connect()
            self._synchronise(store, live)
            self._succeeded(store, live)
        except Yielded:
            self._due[name] = _Due(resumed=True)
        except (Interrupted, StateUnusable):
            self._output.summary(name, effort.tally, always=False)
            raise
        except PushpullError as error:
            if self._stop.is_set():  # the link was cut for that
                raise Interrupted("interrupted") from error
            self._failed(live, error)
        try:
            self._submit_hook(store, live, changed=effort.tally.changed_local)
        except (LocalDiskError, Temporary) as error:
            self._failed(live, error)
        if name not in self._due:
            self._output.summary(name, effort.tally, always=False)
            live.effort = _effort()

    def _connect(self) -> None:
        if self._sessions.connected:
            self._sessions.get()
            return
        was_down = self._sessions.failure is not None
        self._sessions.get()
        self._gaps.reset()
        if was_down:
            self._told_down = ""
            self._output.line(levels.INFO, "connected again")

    def _synchronise(self, store: Store, live: _Live) -> None:
        name, effort = live.pairing.name, live.effort
        began, begun_at = effort.achieved(), time.monotonic()

        def awaited() -> bool:
            return self._stop.is_set() or self._others_wait(name, begun_at)

        def breathe() -> None:
            self._check()
            # A turn without a batch would never end.
            if effort.achieved() != began and self._others_wait(name, begun_at):
                raise Yielded

        prepared = self._preparer.prepare(store, live.pairing, readopt=live.forget, probe=not live.probed)
        live.probed = True
        try:
            self._cycles.synchronise(
                store,
                prepared,
                effort,
                replace(
                    self._tools(live.report),
                    breathe=breathe,
                    awaited=awaited,
                    whole=lambda uniquename: self._moved_in.has(name, uniquename),
                ),
                readopt=live.readopt,
                whole_folder=live.whole_folder,
                attempts=ATTEMPTS,
                tell=lambda error, _: live.report.line(levels.INFO, f"{error}; trying again at once"),
            )
        finally:
            if prepared.trust is Trust.SAME:  # what was found since is not to be forgotten
                live.forget = False
        live.readopt = live.whole_folder = False

    def _others_wait(self, current: str, since: float) -> bool:
        """Whether another pairing has something to do, or the server has news for this one. (Of its own folder this one
        hears with each file that it delivers.)
        """
        pending = self._queue.pending()
        if any(not due.resumed for due in self._due.values()) or any(name != current for name, _ in pending):
            return True
        return time.monotonic() - since >= TURN_SECONDS and any(kind is not Kind.LOCAL for _, kind in pending)

    # --- how a cycle ended ---------------------------------------------------------------------------------------

    def _succeeded(self, store: Store, live: _Live) -> None:
        name = live.pairing.name
        if live.told:
            live.told = ""
            self._output.line(levels.INFO, f"{name}: goes on")
        live.gaps.reset()
        now = time.time()
        retry_at = tell_problems(store, self._preparer.pair(store, live.pairing).id, live.report, now)
        waits = [live.effort.look_again, None if retry_at is None else max(retry_at - now, FIRST_RETRY)]
        self._again(live, min((wait for wait in waits if wait is not None), default=None))
        watched = plural(len(self._live), "pairing", "pairings")
        self._status(f"watching {watched}; {name} was synchronised last")

    def _failed(self, live: _Live, error: PushpullError) -> None:
        """Tell it once, and look again after a while."""
        if error is self._sessions.failure:
            self._account_failed(live, error)
            return
        by_itself = isinstance(error, Temporary | LocalDiskError)
        gap = live.gaps.take() if by_itself else max(HELD_GAP, self._longest)
        if by_itself:
            live.not_before = time.monotonic() + gap
        self._again(live, gap)
        if str(error) == live.told:
            self._output.line(levels.DEBUG, f"{live.pairing.name}: {error}; trying again in {human_duration(gap)}")
            return
        live.told = str(error)
        if isinstance(error, Refused) and error.remedy:
            error.remedy += f"; stop this pushpull first (pid {os.getpid()})"
        self._output.error(error, about=live.pairing.name)
        self._status(f"{live.pairing.name}: {error}")

    def _account_failed(self, live: _Live, error: PushpullError) -> None:
        gap = max(self._door.shut_for(), self._gaps.take() if isinstance(error, Temporary) else SHORTEST_GAP)
        self._down_until = time.monotonic() + gap
        self._again(live, gap)
        again = f"trying again in {human_duration(gap)}"
        if str(error) == self._told_down:
            self._output.line(levels.DEBUG, f"{error}; {again}")
            return
        self._told_down = str(error)
        if isinstance(error, Temporary):
            self._output.line(levels.WARNING, f"{error}; {again}")
        else:
            self._output.error(error)
            self._output.line(levels.INFO, again)
        self._status(str(error))

    def _again(self, live: _Live, seconds: float | None) -> None:
        if seconds is not None:
            self._queue.put_later(Trigger(live.pairing.name, Kind.TIMER), seconds)

    # --- the post-sync command -----------------------------------------------------------------------------------

    def _submit_hook(self, store: Store, live: _Live, *, changed: bool) -> None:
        """After a change of local files, also if the cycle failed later; and once for what an earlier process left."""
        pair = self._preparer.pair(store, live.pairing)
        first, live.unhooked = live.unhooked, False
        if not pair.hook_due:
            return
        if self._hooks is None:
            store.update_pair(pair, hook_due=False)
        elif changed or first:
            self._hooks.submit(live.pairing.name, live.pairing.environment)

    def _hooks_ended(self, store: Store) -> None:
        for end in self._hooks.ended() if self._hooks is not None else ():
            live = self._live[end.pairing]
            if end.error is not None:  # due still: it is run again after the next change
                self._output.error(end.error, about=end.pairing)
            elif self._hooks is not None and not self._hooks.pending(end.pairing):
                # A disk that is full leaves it due: it is run once more than needed.
                with suppress(LocalDiskError, Temporary):
                    store.update_pair(self._preparer.pair(store, live.pairing), hook_due=False)

    # --- tools of a cycle ----------------------------------------------------------------------------------------

    def _tools(self, report: Report) -> Tools:
        return Tools(
            report=report,
            clock=time.time,
            pause=self._pause,
            check_stop=self._check,
            show_plan=lambda _: None,
        )

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(max(0.0, seconds)):
            raise Interrupted("interrupted")
        self._beat()

    def _check(self) -> None:
        self._beat()
        if self._stop.is_set():
            raise Interrupted("interrupted")

    def _beat(self) -> None:
        self._busy_since = time.monotonic()
