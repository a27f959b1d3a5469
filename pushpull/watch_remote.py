# SPDX-License-Identifier: MIT
"""Watches one mailbox over a connection of its own and gives triggers: by IDLE (RFC 2177), or by asking now and then.

**Nothing falls between a cycle and IDLE.** The trigger 'look' is given after the answer to EXAMINE: what happened
before it a cycle finds, and what happens after it the server says in this session, be it before IDLE, with the `+`,
or after DONE; every line is read.

**Never deaf in silence.** Each answer has a deadline, IDLE is ended and begun anew, the kernel probes a quiet link, a
clock that jumped means that the machine slept and the link is not to be believed. Whatever ends a connection, the
next one begins with 'look at everything'.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import select
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from pushpull import refusal, wire
from pushpull.errors import LoginRefused, PushpullError, Temporary
from pushpull.framing import Command, Response
from pushpull.remote import Session, mailbox_name
from pushpull.transport import Client
from pushpull.triggers import Kind, Trigger
from pushpull.wording import human_duration, printable

LONGEST_IDLE = 29 * 60.0
"""Seconds: a server may log out who is silent for 30 minutes (RFC 2177)."""
LINK_GAPS = (1.0, 300.0)
LOGIN_GAPS = (15 * 60.0, 6 * 3600.0)  # servers lock accounts for less

_STABLE = 60.0  # a connection that lived so long was none of a loop
_SLICE = 30.0  # of a wait, between two looks at the clocks
_JUMP = 10.0
_BURST = 0.2  # a flood without end is told at least so often
_MOMENT = 1.0  # an IDLE that the server ends within it is none
_IDLE_AGAIN = 3600.0  # a refusal may have been a passing one
_TIMEOUT = 60.0
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 240), (socket.TCP_KEEPINTVL, 30), (socket.TCP_KEEPCNT, 4))
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
        gap, self._gap = self._gap, min(2 * self._gap, self._longest)
        return self._rng.uniform(0.75 * gap, gap)

    def reset(self) -> None:
        """The trouble is over."""
        self._gap = self._first


class _Stopped(Exception):
    """`stop` was called."""


class _Suspended(Exception):
    """The clocks say that the machine, or this process, slept."""


class RemoteWatcher:
    """`run` is the body of a thread; `stop` and `kick` may be called from any other, but not from a signal handler.

    `connect` gives a logged-in session of its own (it is called in a thread of its own, since nothing can interrupt a
    name lookup or a command); `give` takes triggers, `tell` a logging level and a line. `idle_seconds` is how long an
    IDLE lasts (at most LONGEST_IDLE), after which `sync_on_timeout` gives a TIMER trigger; `poll_seconds` is the gap
    between two questions to a server without IDLE. `clock` is monotonic, `wall` goes on while the machine sleeps.
    """

    def __init__(
        self,
        pairing: str,
        mailbox: str,
        connect: Callable[[], Session],
        give: Callable[[Trigger], None],
        tell: Callable[[int, str], None],
        *,
        idle_seconds: float,
        sync_on_timeout: bool,
        poll_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        rng: Chance = random,
    ) -> None:
        self._pairing, self._mailbox = pairing, mailbox
        self._connect, self._give, self._tell_line = connect, give, tell
        self._idle_seconds = min(idle_seconds, LONGEST_IDLE)
        self._sync_on_timeout, self._poll_seconds = sync_on_timeout, poll_seconds
        self._clock, self._wall = clock, wall
        self._link_gaps, self._login_gaps = Gaps(*LINK_GAPS, rng), Gaps(*LOGIN_GAPS, rng)
        self._lock = threading.Lock()  # guards the next three, which stop() uses too
        self._stopping = False
        self._session: Session | None = None
        self._wake = -1  # an eventfd while run() runs
        self._kicked = False
        self._since: float | None = None  # when the connection was made
        self._opened = False  # whether the mailbox was opened in it
        self._told = ""  # the last trouble, until a connection proves stable
        self._down = False  # whether trouble was told as such, so that its end is told too

    def run(self) -> None:
        """Watch until `stop`. Raises only what is a bug, or a lack of descriptors or threads."""
        with self._lock:
            if self._stopping:
                return
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            while True:
                self._watch_once()
        except _Stopped:
            pass
        except Exception:
            if not self._stopping:  # a link that stop() cut in the middle of a TLS call fails in ways of its own
                raise
        finally:
            with self._lock:
                wake, self._wake = self._wake, -1
                os.close(wake)

    def stop(self) -> None:
        """End `run` at once, whatever it waits for."""
        with self._lock:
            self._stopping = True
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)
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
        self._kicked, self._opened, self._since = False, False, None
        try:
            self._follow(self._connected())
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
        threading.Thread(
            target=_fulfil, args=(made, self._connect), name=f"connect {self._pairing}", daemon=True
        ).start()
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
        _keep_alive(session.client)
        return session

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
            self._tell(logging.DEBUG, f"{text}; trying again in {human_duration(gap)}")
            return gap
        self._told = text
        if stable and isinstance(error, Temporary):  # links end; one that cannot be made again is worth a warning
            self._tell(logging.INFO, f"{text}; connecting anew in {human_duration(gap)}")
            return gap
        self._down = True
        level = logging.WARNING if isinstance(error, Temporary) else logging.ERROR
        self._tell(level, f"changes on the server are not seen: {text}; trying again in {human_duration(gap)}")
        return gap

    def _slept(self) -> None:
        self._tell(logging.INFO, "the clocks say that this machine was asleep; connecting anew")
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

    # --- watching ------------------------------------------------------------------------------------------------

    def _follow(self, session: Session) -> None:
        """Watch until the connection ends, which is an error."""
        offered = "IDLE" in session.extensions.offered
        full = True
        while True:
            if offered:
                self._open(session)
                self._look("watched by IDLE", full=full)
                self._idle(session.client)
                full = False
            self._poll(session, self._clock() + (_IDLE_AGAIN if offered else math.inf), full=full)

    def _open(self, session: Session) -> None:
        session.open(self._mailbox, None, read_only=True)
        self._opened = True

    def _look(self, how: str, *, full: bool) -> None:
        if self._down:
            self._down = False
            self._tell(logging.INFO, "changes on the server are seen again")
        self._tell(logging.DEBUG, how)
        self._give(Trigger(self._pairing, Kind.REMOTE, full))

    def _idle(self, client: Client) -> None:
        """IDLE again and again, until the server will not have it."""
        while True:
            began = self._clock()
            command = client.start(b"IDLE")
            if not self._heed(client, command, _patience(client), granted=True):
                self._demand(client, command)
                return
            self._heed(client, command, self._idle_seconds)
            if command.answered() and (command.status != "OK" or self._clock() - began < _MOMENT):
                return
            if not command.answered():
                client.say(b"DONE")
                self._heed(client, command, _patience(client))
                self._demand(client, command)
                if command.status != "OK":
                    return
            if self._sync_on_timeout:
                self._give(Trigger(self._pairing, Kind.TIMER))

    def _heed(self, client: Client, command: Command, seconds: float, *, granted: bool = False) -> bool:
        """Give triggers for what the server says, until it ends the command or the time is over, or (with `granted`)
        grants what was asked. Whether it did.
        """
        until = self._clock() + seconds
        while not command.answered() and self._clock() < until:
            if self._wait(until, client) and self._burst(client) and granted:
                return True
        return False

    def _demand(self, client: Client, command: Command) -> None:
        """ConnectionLost unless the server answered."""
        if not command.answered():
            client.fail(f"{client.peer}: no answer to {command.name} within {_patience(client):g} s")

    def _burst(self, client: Client) -> bool:
        """Take all that arrived, up to a command's end; one trigger for all news. Whether a `+` was among it."""
        news = granted = False
        end = self._clock() + _BURST
        try:
            while (response := client.advance()) is not None:
                granted = granted or response.kind == "+"
                news = self._is_news(response) or news
                if self._clock() >= end or not self._wait(0.0, client):
                    break
        finally:
            if news:
                self._give(Trigger(self._pairing, Kind.REMOTE))
        return granted

    def _is_news(self, response: Response) -> bool:
        if wire.is_status(response.kind):
            code, _, text = wire.code(response.rest)
            if code == "ALERT":  # which a user must be shown (RFC 9051 section 7.1)
                self._tell(logging.WARNING, f"the server says: {text}")
        return response.kind not in _NO_NEWS

    # --- asking, where there is no IDLE --------------------------------------------------------------------------

    def _poll(self, session: Session, until: float, *, full: bool) -> None:
        """Ask every `poll_seconds`; what differs from the last answer gives a trigger. The first look is one too."""
        client = session.client
        known, _ = self._ask(session)
        self._look("watched by STATUS", full=full)
        timer = self._clock() + self._idle_seconds
        while self._clock() < until:
            due = self._clock() + self._poll_seconds
            while self._clock() < due:
                if self._wait(due, client):
                    self._burst(client)
            found, news = self._ask(session)
            if news or (found and found != known):
                self._give(Trigger(self._pairing, Kind.REMOTE))
            known = found or known
            if self._sync_on_timeout and self._clock() >= timer:
                self._give(Trigger(self._pairing, Kind.TIMER))
                timer = self._clock() + self._idle_seconds

    def _ask(self, session: Session) -> tuple[dict[str, int], bool]:
        """What STATUS says ({} when it is refused), and whether the server had news of the open mailbox. One that
        gives no STATUS is made to open it: then NOOP brings the news.
        """
        client, news = session.client, False
        found: dict[str, int] = {}
        modseq = b" HIGHESTMODSEQ" if session.condstore else b""
        noop = client.start(b"NOOP")
        items = b" (MESSAGES UIDNEXT UIDVALIDITY UNSEEN%b)" % modseq
        status = client.start(b"STATUS " + mailbox_name(self._mailbox) + items)
        for command in (noop, status):
            for response in client.responses(command):
                if response.kind == "STATUS":
                    found = wire.status(response.parts, response.rest)
                else:
                    news = self._is_news(response) or news
        if later := refusal.busy(status, client.peer):
            raise later
        if not found and not self._opened:
            self._open(session)
            news = True
        return found, news

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
            events = poller.poll(math.ceil(1000 * left))
            self._check()
            # Monotonic time stands still while the machine sleeps, and goes on while this process is stopped.
            if self._wall() - wall > min(self._clock() - now, left) + _JUMP:
                raise _Suspended
            ready = {descriptor for descriptor, _ in events}
            if self._wake in ready:
                os.eventfd_read(self._wake)
            if ready or self._clock() >= until:
                return bool(ready - {self._wake})

    def _tell(self, level: int, text: str) -> None:
        self._tell_line(level, printable(f"{self._pairing}: {text}"))


def _fulfil(made: Future[Session], connect: Callable[[], Session]) -> None:
    try:
        made.set_result(connect())
    except BaseException as error:
        made.set_exception(error)


def _discard(made: Future[Session]) -> None:
    if made.exception() is None:
        made.result().client.shutdown()


def _patience(client: Client) -> float:
    """Seconds within which each answer must come."""
    return client.sock.gettimeout() or _TIMEOUT


def _keep_alive(client: Client) -> None:
    """Probe a quiet link well before a home router forgets it; the kernel's default is two hours."""
    with contextlib.suppress(OSError):
        for option, value in _KEEP_ALIVE:
            client.sock.setsockopt(socket.IPPROTO_TCP, option, value)
