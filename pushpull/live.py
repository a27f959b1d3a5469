# SPDX-License-Identifier: MIT
"""The live mode (`imap.idle = yes`): stay, and have each change on one side on the other at once.

    main     locks, asks, checks the login; detaches (`--daemon`); starts the others; then waits for signals alone
    worker   takes triggers, runs cycles; the only one that changes anything
    local    inotify on all folders -> triggers
    remote   one for each mailbox that has a connection of its own (IDLE), one for all others (STATUS) -> triggers
    hooks    runs the post-sync command

Nothing is open across the detachment but the locks and the readiness pipe. A signal handler puts a number on a queue
and does nothing else. A thread that dies is told, and started again or the end of the program: never silence.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

from pushpull.accounts import Credentials, Door, Sessions, account_of
from pushpull.config import Config, PairingConfig
from pushpull.daemonize import Readiness, start_daemon
from pushpull.errors import (
    EX_OK,
    CommandFailed,
    NotConfirmed,
    PairingLocked,
    PushpullError,
    Temporary,
    UsageError,
    worst,
)
from pushpull.hooks import HookRunner
from pushpull.locks import PairLock
from pushpull.notify import Notifier
from pushpull.options import Asker, Options
from pushpull.output import Output
from pushpull.prepare import Preparer
from pushpull.service import open_state
from pushpull.triggers import Kind, Trigger, TriggerQueue
from pushpull.watch_local import LocalWatcher
from pushpull.watch_remote import Gaps, RemoteWatcher, StatusWatcher
from pushpull.worker import Worker

FINISH_SECONDS = 1.0  # for what is under way when a signal ends the program
CUT_SECONDS = 0.5  # for the rest, after its links were cut
STUCK_SECONDS = 600.0  # without a sign of life a busy worker is not alive
RESTART_GAPS = (1.0, 300.0)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def run(config: Config, options: Options, output: Output, asker: Asker) -> int:
    """Until a signal; the exit code. In the foreground of a daemon: until it is ready.

    UsageError when the options forbid it; what befalls the start otherwise is raised or returned as an exit code.
    """
    if options.daemon and (options.one_cycle or not config.imap.idle):
        raise UsageError("--daemon: a daemon stays, so it needs idle = yes, and no option that ends after one cycle")
    detach = options.daemon and not options.debug_imap
    start = _Start(config, options, output, asker)
    try:
        code = start.make_ready(strict=options.daemon)
        if not start.pairings or (code and options.daemon):
            return code
        if not detach:
            _open_logs(config, output)
            return _Live(start, Notifier.from_environment(os.environ)).run(Readiness())
        for name in ("stdout", "stderr"):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                getattr(sys, name).flush()
        return start_daemon(
            lambda readiness: _daemon(start, readiness),
            umask=config.daemon.umask,
            preserve=[lock.descriptor for lock in start.locks],
            pidfile=config.daemon.pidfile,
            signals=dict.fromkeys(SIGNALS, _note_signal),
        )
    finally:
        start.close()


def _daemon(start: _Start, readiness: Readiness) -> int:
    """What runs in the daemon."""
    start.output.detach()
    for lock in start.locks:
        lock.note_pid()
    _open_logs(start.config, start.output)
    try:
        return _Live(start, Notifier()).run(readiness)
    except PushpullError as error:
        start.output.error(error)
        raise
    except BaseException as error:
        start.output.bug(error)
        raise
    finally:
        start.output.close()


def _open_logs(config: Config, output: Output) -> None:
    if config.log.file:
        output.open_log(config.log.file, config.log.level)
    if config.log.syslog:
        output.open_syslog(config.log.level)


# --- before the threads ------------------------------------------------------------------------------------------


class _Answers:
    """An Asker that asks once: a yes holds for the same question later, when nobody can be asked any more."""

    def __init__(self, asker: Asker) -> None:
        self._asker: Asker | None = asker
        self._yes: set[str] = set()

    def confirm(self, question: str) -> bool | None:
        if question in self._yes:
            return True
        answer = self._asker.confirm(question) if self._asker is not None else None
        if answer:
            self._yes.add(question)
        return answer

    def password(self, prompt: str) -> str | None:
        return self._asker.password(prompt) if self._asker is not None else None

    def leave(self) -> None:
        """From here on nobody is asked."""
        self._asker = None


class _Start:
    """What is done with a terminal at hand: locks, questions, the first login."""

    def __init__(self, config: Config, options: Options, output: Output, asker: Asker) -> None:
        self.config, self.options, self.output = config, options, output
        self.locks: list[PairLock] = []
        self.pairings: list[PairingConfig] = []
        self._answers = _Answers(asker)
        self.preparer = Preparer(config, options, self._answers, output)
        self.stop = False
        self.credentials = Credentials(config.imap, self._answers, stopped=lambda: self.stop)
        account = account_of(config, self.credentials, output.trace if options.debug_imap else None)
        self.door = Door(account, self.credentials)

    def make_ready(self, *, strict: bool) -> int:
        """Lock, ask and log in; what can be synchronised is in `pairings`. The exit code of what cannot.

        A pairing that another process works on, or whose question was not answered, is left out; with `strict` it ends
        the start. LoginRefused and what else another attempt would not mend is raised; a network that is away is not.
        """
        codes = []
        store = open_state(self.config, self.preparer, self.output)
        try:
            for pairing in self.config.pairings:
                if self.options.chosen(pairing.name):
                    try:
                        self.locks.append(PairLock(self.config.local.state, self.preparer.pair(store, pairing).id))
                        with _held_later():
                            self.preparer.ask(store, pairing)
                    except (PairingLocked, NotConfirmed) as error:
                        self.output.error(error, about=pairing.name)
                        codes.append(error.exit_code)
                    else:
                        self.pairings.append(pairing)
        finally:
            store.close()
        if self.pairings and not (strict and codes):
            self._check_login()
        self._answers.leave()
        return worst(codes)

    def _check_login(self) -> None:
        sessions = Sessions(self.door)
        try:
            sessions.get()
        except Temporary as error:
            if isinstance(error, CommandFailed):
                raise
            self.output.line(logging.WARNING, f"{error}; it is tried again and again")
        finally:
            sessions.drop()

    def close(self) -> None:
        for lock in self.locks:
            lock.close()


@contextlib.contextmanager
def _held_later() -> Iterator[None]:
    """What holds a pairing is told by its first cycle, and looked at again; only questions have to be settled now."""
    try:
        yield
    except NotConfirmed:
        raise
    except PushpullError:
        pass


# --- signals -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ended:
    """A thread is over: by itself, or by an error."""

    name: str
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class _Begun:
    """The worker has the state open."""


# Of the process, as signals are; a SimpleQueue takes no lock that a handler could meet.
_events: queue.SimpleQueue[int | _Ended | _Begun] = queue.SimpleQueue()
_ending = False


def _note_signal(number: int, _frame: FrameType | None) -> None:
    global _ending  # noqa: PLW0603
    if number in (signal.SIGINT, signal.SIGTERM):
        if _ending:
            os._exit(EX_OK)
        _ending = True
    _events.put(number)


# --- the threads -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Thread:
    """A part of the live mode. `vital`: without it the program ends; else it is started again."""

    body: Callable[[], None]
    stop: Callable[[], None]
    gaps: Gaps
    vital: bool = False
    thread: threading.Thread | None = None
    restart_at: float | None = None


class _Live:
    """Owns the threads; `run` is the main thread's."""

    def __init__(self, start: _Start, notifier: Notifier) -> None:
        self._start, self._output, self._notifier = start, start.output, notifier
        config = start.config
        self._config = config
        self._queue = TriggerQueue(float(config.local.quiesce_seconds))
        has_hook = bool(config.command.post_sync_local_change)
        hooks = HookRunner(config.command, self._queue.nudge) if has_hook else None
        self._worker = Worker(
            config,
            start.options,
            self._output,
            start.pairings,
            triggers=self._queue,
            door=start.door,
            preparer=start.preparer,
            hooks=hooks,
            started=lambda: _events.put(_Begun()),
            connected=self._kick,
            status=self._show_status,
        )
        self._remotes = self._remote_watchers(start.pairings)
        local = LocalWatcher(
            {pairing.name: pairing.folder for pairing in start.pairings},
            self._queue.put,
            self._output.line,
            clock=time.monotonic,
        )
        self._threads = {"worker": _thread(self._worker.run, self._worker.stop, vital=True)}
        self._threads["folders"] = _thread(local.run, local.stop)
        for watcher in self._remotes:
            self._threads[watcher.name] = _thread(watcher.run, watcher.stop)
        if hooks is not None:
            self._threads["hooks"] = _thread(hooks.run, hooks.stop)

    def run(self, readiness: Readiness) -> int:
        """Until a signal or the death of the worker; the exit code. Raises what the worker died of."""
        for number in SIGNALS:
            signal.signal(number, _note_signal)
        for pairing in self._start.pairings:
            self._queue.put(Trigger(pairing.name, Kind.TIMER, full=True))
        try:
            for name in self._threads:
                self._launch(name)
            return self._wait(readiness)
        finally:
            self._notifier.stopping()
            self._end()

    def _wait(self, readiness: Readiness) -> int:
        while True:
            event = self._next_event()
            if isinstance(event, _Begun):
                self._output.line(logging.INFO, f"watching {len(self._start.pairings)} pairings")
                readiness.ready()
                self._notifier.ready()
            elif isinstance(event, _Ended):
                self._ended(event)
            elif event in (signal.SIGINT, signal.SIGTERM):
                self._output.line(logging.INFO, f"ended by {signal.Signals(event).name}")
                return EX_OK
            elif event == signal.SIGUSR1:
                self._look_at_everything()
            elif event == signal.SIGHUP:
                self._reopen_log()

    def _next_event(self) -> int | _Ended | _Begun | None:
        """The next one, or None when the time of something else has come."""
        now = time.monotonic()
        gaps = [part.restart_at - now for part in self._threads.values() if part.restart_at is not None]
        gap = self._notifier.watchdog_seconds
        if gap is not None:
            gaps.append(gap)
            self._show_life(now)
        for name, part in self._threads.items():
            if part.restart_at is not None and part.restart_at <= now:
                self._launch(name)
        try:
            return _events.get(timeout=max(0.0, min(gaps)) if gaps else None)
        except queue.Empty:
            return None

    def _show_life(self, now: float) -> None:
        since = self._worker.stuck_since()
        if since is None or now - since < max(STUCK_SECONDS, 4.0 * self._config.imap.timeout_seconds):
            self._notifier.watchdog()

    def _look_at_everything(self) -> None:
        self._output.line(logging.INFO, "synchronising now, as SIGUSR1 asks for")
        self._kick()
        for pairing in self._start.pairings:
            self._queue.put(Trigger(pairing.name, Kind.USER, full=True))

    def _show_status(self, text: str) -> None:
        self._notifier.status(text)

    def _kick(self) -> None:
        for watcher in self._remotes:
            watcher.kick()

    def _reopen_log(self) -> None:
        try:
            self._output.reopen_log()
        except PushpullError as error:
            self._output.error(error)

    # --- threads -------------------------------------------------------------------------------------------------

    def _remote_watchers(self, pairings: Sequence[PairingConfig]) -> list[RemoteWatcher | StatusWatcher]:
        """One connection is the worker's; where they do not suffice for all, one more asks for all that have none."""
        imap = self._config.imap
        own = imap.max_connections - 1
        if len(pairings) > own:
            own -= 1
        made: list[RemoteWatcher | StatusWatcher] = [
            RemoteWatcher(
                pairing.name,
                pairing.remote,
                self._start.door.open,
                self._queue.put,
                self._output.line,
                idle_seconds=imap.idle_timeout_seconds,
                sync_on_timeout=imap.sync_on_idle_timeout,
                poll_seconds=float(imap.poll_seconds),
            )
            for pairing in pairings[:own]
        ]
        if rest := pairings[own:]:
            made.append(
                StatusWatcher(
                    {pairing.name: pairing.remote for pairing in rest},
                    self._start.door.open,
                    self._queue.put,
                    self._output.line,
                    idle_seconds=imap.idle_timeout_seconds,
                    sync_on_timeout=imap.sync_on_idle_timeout,
                    poll_seconds=float(imap.poll_seconds),
                )
            )
        return made

    def _launch(self, name: str) -> None:
        part = self._threads[name]
        part.restart_at = None

        def body() -> None:
            error: BaseException | None = None
            try:
                part.body()
            except BaseException as caught:
                error = caught
            _events.put(_Ended(name, error))

        part.thread = threading.Thread(target=body, name=name, daemon=True)
        part.thread.start()

    def _ended(self, ended: _Ended) -> None:
        """The worker's end is the program's. Another thread is started again, after a while."""
        part = self._threads[ended.name]
        if part.vital:
            raise ended.error or RuntimeError(f"the thread '{ended.name}' ended by itself")
        gap = part.gaps.take()
        self._output.line(logging.ERROR, f"the thread '{ended.name}' died; it is started again in {gap:.0f} s")
        if ended.error is not None:
            self._output.bug(ended.error)
        part.restart_at = time.monotonic() + gap

    def _end(self) -> None:
        """Within two seconds: what takes less than one is finished, the rest is cut. What is left then dies with the
        process; the state and the folders are safe at any moment.
        """
        self._start.stop = True
        for part in self._threads.values():
            part.stop()
        worker = self._threads["worker"]
        _join([worker], FINISH_SECONDS)
        self._worker.interrupt()
        _join(list(self._threads.values()), CUT_SECONDS)


def _thread(body: Callable[[], None], stop: Callable[[], None], *, vital: bool = False) -> _Thread:
    return _Thread(body, stop, Gaps(*RESTART_GAPS, random), vital)


def _join(parts: Sequence[_Thread], seconds: float) -> None:
    end = time.monotonic() + seconds
    for part in parts:
        if part.thread is not None:
            part.thread.join(max(0.0, end - time.monotonic()))
