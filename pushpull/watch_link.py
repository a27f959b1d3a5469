# SPDX-License-Identifier: MIT
"""The upkeep of a watcher's own connection: made, listened to, given up and made again, until it is told to stop.

**Never deaf in silence.** Each answer has a deadline, the kernel probes a quiet link, a clock that jumped means that
the machine slept and the link is not to be believed. Trouble is told once for each change, and so is its end.
"""

from __future__ import annotations

import math
import os
import random
import select
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Protocol

from pushpull import levels, wire
from pushpull.errors import LoginRefused, PushpullError, Temporary
from pushpull.framing import Command, Response
from pushpull.remote import Session
from pushpull.transport import Client
from pushpull.wording import human_duration, printable

LONGEST_IDLE = 29 * 60.0
"""Seconds: a server may log out who is silent for 30 minutes (RFC 2177, RFC 9051 section 5.4)."""
LINK_GAPS = (1.0, 300.0)
LOGIN_GAPS = (15 * 60.0, 6 * 3600.0)  # servers lock accounts for less

_STABLE = 60.0  # a connection that lived so long was none of a loop
_SLICE = 30.0  # of a wait, between two looks at the clocks
_JUMP = 10.0
_NOTICE = 0.05  # a thread that did not notice `stop` by then waits for an answer
_BURST = 0.2  # a flood without end is told at least so often
_TIMEOUT = 60.0
# Whatever else a server says unasked may mean a change; a cycle for nothing costs one round trip.
_NO_NEWS = frozenset({"OK", "NO", "BAD", "PREAUTH", "CAPABILITY", "ENABLED", "ID", "+"})


class Chance(Protocol):
    """Of `random`, what jitter needs."""

    def uniform(self, a: float, b: float, /) -> float: ...


class Gaps:
    """Seconds to wait after each failure in a row: doubling, and jittered so that those who were cut off together do
    not come back together.
    """

    def __init__(self, first: float, longest: float, rng: Chance) -> None:
        self._first, self._longest, self._rng = first, longest, rng
        self._gap = first

    def take(self) -> float:
        """At least three quarters of what the doubling gives, and never more."""
        gap, self._gap = min(self._gap, self._longest), min(2 * self._gap, self._longest)
        return self._rng.uniform(0.75 * gap, gap)

    def reset(self) -> None:
        """The trouble is over."""
        self._gap = self._first


class Holds:
    """For how long nobody tries to log in after what another attempt would not mend: shorter than a watcher's gap, so
    that one who comes back after it finds the door ready to be tried.
    """

    def __init__(self, longest: float, rng: Chance) -> None:
        self._login = Gaps(0.7 * LOGIN_GAPS[0], 0.7 * LOGIN_GAPS[1], rng)
        self._other = Gaps(0.7 * LINK_GAPS[0], 0.7 * longest, rng)

    def take(self, error: PushpullError) -> float:
        return (self._login if isinstance(error, LoginRefused) else self._other).take()

    def reset(self) -> None:
        self._login.reset()
        self._other.reset()


class _Stopped(Exception):
    """`stop` was called."""


class _Suspended(Exception):
    """The clocks say that the machine, or this process, slept."""


class LinkWatcher(ABC):
    """`run` is the body of a thread; `stop` and `kick` may be called from any other, but not from a signal handler.

    `name` says in lines told, and in the name of the connecting thread, what is watched. `connect` gives a logged-in
    session of its own (it is called in a thread of its own, since nothing can interrupt a name lookup or a command);
    `tell` takes a level and a line. `longest_gap` bounds the seconds between two attempts to connect, but for a
    login that was refused. `clock` is monotonic, `wall` goes on while the machine sleeps.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Session],
        tell: Callable[[int, str], None],
        *,
        longest_gap: float = LINK_GAPS[1],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        rng: Chance = random,
    ) -> None:
        self._name, self._connect, self._tell_line = name, connect, tell
        self._clock, self._wall = clock, wall
        self._link_gaps, self._login_gaps = Gaps(LINK_GAPS[0], longest_gap, rng), Gaps(*LOGIN_GAPS, rng)
        self._lock = threading.Lock()  # guards the next four, which stop() uses too
        self._stopping = False
        self._hears = False  # whether run() waits where a nudge wakes it
        self._session: Session | None = None
        self._wake = -1  # an eventfd while run() runs
        self._leaving = threading.Event()  # run() knows that it was stopped
        self._kicked = False
        self._since: float | None = None  # when the connection was made
        self._told = ""  # the last trouble, until a connection proves stable
        self._down = False  # whether trouble was told as such, so that its end is told too

    @abstractmethod
    def _follow(self, session: Session) -> None:
        """Watch over a new connection until it ends, which is an error."""

    @abstractmethod
    def _news(self) -> None:
        """The server said something unasked that may mean a change."""

    def run(self) -> None:
        """Watch until `stop`. Raises only what is a bug, or a lack of descriptors or threads."""
        with self._lock:
            if self._stopping:
                return
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._leaving.clear()
        try:
            while True:
                self._watch_once()
        except _Stopped:
            pass
        except Exception:
            if not self._stopping:  # a link that stop() cut in the middle of a TLS call fails in ways of its own
                raise
        finally:
            self._leaving.set()
            with self._lock:
                wake, self._wake = self._wake, -1
                os.close(wake)

    def stop(self) -> None:
        """End `run`, whatever it waits for. Its link is cut when it waits for an answer, else it takes its leave."""
        with self._lock:
            self._stopping = True
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)
            heard = self._hears
        if heard or self._leaving.wait(_NOTICE):
            return
        with self._lock:
            # Under the lock: run() lets go of a session before it closes it, and its descriptor may be another's then.
            if self._session is not None:
                self._session.interrupt()

    def kick(self) -> None:
        """Try again now, if it waits to do so."""
        self._kicked = True
        self._nudge()

    def _nudge(self) -> None:
        with self._lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    # --- one connection after another ----------------------------------------------------------------------------

    def _watch_once(self) -> None:
        """One connection from its beginning to its end, and the pause after it."""
        self._kicked, self._since = False, None
        try:
            self._follow(self._connected())
        except _Stopped:
            self._leave()
            raise
        except _Suspended:
            self._slept()
            return
        except PushpullError as error:
            self._check()
            gap = self._trouble(error)
            patient = isinstance(error, LoginRefused)
        finally:
            self._drop()
        self._pause(gap, patient=patient)

    def _connected(self) -> Session:
        made: Future[Session] = Future()
        made.add_done_callback(lambda _: self._nudge())
        threading.Thread(target=_fulfil, args=(made, self._connect), name=f"connect {self._name}", daemon=True).start()
        try:
            while not made.done():
                self._wait()
        except (_Stopped, _Suspended):
            made.add_done_callback(_discard)
            raise
        session = made.result()
        with self._lock:
            self._session = session
        self._check()
        self._since = self._clock()
        self._login_gaps.reset()
        return session

    def _leave(self) -> None:
        """LOGOUT over a link that nothing speaks against. One that is just cut while Dovecot 2.3 passes on what changed
        leaves a session behind that its login process forgot, and that counts among the user's connections."""
        self._leaving.set()
        if self._session is not None:
            self._session.client.logout()

    def _drop(self) -> None:
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.client.shutdown()  # no LOGOUT: whether anyone listens is what is in doubt

    def _trouble(self, error: PushpullError) -> float:
        """Tell what ended the connection, once for each change; seconds until the next one."""
        stable = self._since is not None and self._clock() - self._since > _STABLE
        if stable:
            self._link_gaps.reset()
            self._told = ""
        gap = (self._login_gaps if isinstance(error, LoginRefused) else self._link_gaps).take()
        text = f"{error}; {error.remedy}" if error.remedy else str(error)
        if text == self._told:
            self._tell(levels.DEBUG, f"{text}; trying again in {human_duration(gap)}")
            return gap
        self._told = text
        if stable and isinstance(error, Temporary):  # links end; one that cannot be made again is worth a warning
            self._tell(levels.INFO, f"{text}; connecting anew in {human_duration(gap)}")
            return gap
        self._down = True
        level = levels.WARNING if isinstance(error, Temporary) else levels.ERROR
        self._tell(level, f"changes on the server are not seen: {text}; trying again in {human_duration(gap)}")
        return gap

    def _slept(self) -> None:
        self._tell(levels.INFO, "the clocks say that this machine was asleep; connecting anew")
        self._link_gaps.reset()

    def _pause(self, seconds: float, *, patient: bool) -> None:
        """Wait, until a kick, or a sleep of the machine when it was only the link (which may be another one now)."""
        until = self._clock() + seconds
        while self._clock() < until and not self._kicked:
            try:
                self._wait(until)
            except _Suspended:
                if not patient:
                    self._slept()
                    return

    # --- listening -----------------------------------------------------------------------------------------------

    def _watching(self, how: str) -> None:
        """The connection proved good for what it is there for: trouble that was told is over."""
        if self._down:
            self._down = False
            self._tell(levels.INFO, "changes on the server are seen again")
        self._tell(levels.DEBUG, how)

    def _listen(self, client: Client, until: float) -> None:
        """Take what the server says while no command is under way."""
        while self._clock() < until:
            if self._wait(until, client):
                self._burst(client)

    def _burst(self, client: Client) -> bool:
        """Take all that arrived, up to a command's end; `_news` once for all of it. Whether a `+` was among it."""
        news = granted = False
        end = self._clock() + _BURST
        try:
            while (response := client.advance()) is not None:
                granted = granted or response.kind == "+"
                news = self._is_news(client, response) or news
                if self._clock() >= end or not self._wait(0.0, client):
                    break
        finally:
            if news:
                self._news()
        return granted

    def _is_news(self, client: Client, response: Response) -> bool:
        if wire.is_status(response.kind):
            code, _, text = wire.code(response.rest)
            if code == "ALERT":  # which a user must be shown (RFC 9051 section 7.1)
                self._tell(levels.WARNING, f"the server says: {client.trace.conceal(text)}")
        return response.kind not in _NO_NEWS

    def _answers(self, client: Client, command: Command) -> Iterator[Response]:
        """What the server says until it ends the command; ConnectionLost when it only talks."""
        until = self._clock() + patience(client)
        for response in client.responses(command):
            yield response
            if self._clock() > until:
                self._demand(client, command)

    def _demand(self, client: Client, command: Command) -> None:
        """ConnectionLost unless the server answered."""
        if not command.answered():
            client.fail(f"{client.peer}: no answer to {command.name} within {patience(client):g} s")

    # --- waiting -------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._stopping:
            raise _Stopped

    def _wait(self, until: float = math.inf, client: Client | None = None) -> bool:
        """Until the server said something (True), someone nudged, or the time has come (False)."""
        self._check()
        if client is not None and client.ready:
            return True
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        if client is not None:
            poller.register(client.sock, select.POLLIN)
        while True:
            now, wall = self._clock(), self._wall()
            left = max(0.0, min(until - now, _SLICE))
            events = self._polled(poller, left)
            self._check()
            # Monotonic time stands still while the machine sleeps, and goes on while this process is stopped.
            if self._wall() - wall > min(self._clock() - now, left) + _JUMP:
                raise _Suspended
            ready = {descriptor for descriptor, _ in events}
            if self._wake in ready:
                os.eventfd_read(self._wake)
            if ready or self._clock() >= until:
                return bool(ready - {self._wake})

    def _polled(self, poller: select.poll, seconds: float) -> list[tuple[int, int]]:
        """What the poll finds: while it waits, `stop` need not cut the link to be heard."""
        with self._lock:
            self._check()
            self._hears = True
        try:
            return poller.poll(math.ceil(1000 * seconds))
        finally:
            with self._lock:
                self._hears = False

    def _tell(self, level: int, text: str) -> None:
        self._tell_line(level, printable(f"{self._name}: {text}"))


def _fulfil(made: Future[Session], connect: Callable[[], Session]) -> None:
    try:
        made.set_result(connect())
    except BaseException as error:
        made.set_exception(error)


def _discard(made: Future[Session]) -> None:
    if made.exception() is None:
        made.result().client.shutdown()


def patience(client: Client) -> float:
    """Seconds within which each answer must come."""
    return client.sock.gettimeout() or _TIMEOUT
