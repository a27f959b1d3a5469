# SPDX-License-Identifier: MIT
"""The threads of the live mode, and the main thread's part: wait for signals, watch over the others.

A signal handler puts a number on a queue and does nothing else. A thread that dies is told, and started again or the
end of the program: never silence.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

from pushpull import levels
from pushpull.accounts import Door
from pushpull.config import Config, PairingConfig
from pushpull.daemonize import Readiness
from pushpull.errors import EX_OK, PushpullError
from pushpull.events import Events
from pushpull.hooks import HookRunner
from pushpull.notify import Notifier
from pushpull.options import Options
from pushpull.output import Output
from pushpull.prepare import Preparer
from pushpull.triggers import Kind, MovedIn, Trigger, TriggerQueue
from pushpull.values import struct, value
from pushpull.watch_link import Gaps
from pushpull.watch_local import LocalWatcher
from pushpull.watch_remote import RemoteWatcher
from pushpull.watch_status import StatusWatcher
from pushpull.wording import plural
from pushpull.worker import Worker

FINISH_SECONDS = 1.0  # for what is under way when a signal ends the program
CUT_SECONDS = 0.5  # for the rest, after its links were cut
_PIECE_SECONDS = 0.1
STUCK_SECONDS = 600.0  # without a sign of life a busy worker is not alive
RESTART_GAPS = (1.0, 300.0)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)

# --- signals -----------------------------------------------------------------------------------------------------


@value
class _Ended:
    """A thread is over: by itself, or by an error."""

    name: str
    error: BaseException | None


@value
class _Begun:
    """The worker has the state open."""


_events: Events[int | _Ended | _Begun] = Events()
_ending = False


def note_signal(number: int, _frame: FrameType | None) -> None:
    global _ending  # noqa: PLW0603
    if number in (signal.SIGINT, signal.SIGTERM):
        if _ending:
            os._exit(EX_OK)
        _ending = True
    _events.put(number)


# --- the threads -------------------------------------------------------------------------------------------------


@struct
class _Thread:
    """A part of the live mode. `vital`: without it the program ends; else it is started again."""

    body: Callable[[], None]
    stop: Callable[[], None]
    gaps: Gaps
    vital: bool = False
    thread: threading.Thread | None = None
    restart_at: float | None = None


class Harness:
    """Owns the threads; `run` is the main thread's."""

    def __init__(
        self,
        config: Config,
        options: Options,
        output: Output,
        pairings: Sequence[PairingConfig],
        door: Door,
        preparer: Preparer,
        notifier: Notifier,
        give_up: Callable[[], None],
    ) -> None:
        """`give_up` ends what may be asked for a password."""
        self._config, self._output, self._pairings, self._door = config, output, pairings, door
        self._notifier, self._give_up = notifier, give_up
        self._queue = TriggerQueue(float(config.local.quiesce_seconds))
        has_hook = bool(config.command.post_sync_local_change)
        hooks = HookRunner(config.command, self._queue.nudge) if has_hook else None
        moved_in = MovedIn()
        self._worker = Worker(
            config,
            options,
            output,
            pairings,
            triggers=self._queue,
            door=door,
            preparer=preparer,
            hooks=hooks,
            started=lambda: _events.put(_Begun()),
            connected=self._kick,
            status=self._show_status,
            moved_in=moved_in,
        )
        self._remotes = self._remote_watchers(pairings)
        door.opened = self._kick
        local = LocalWatcher(
            {pairing.name: pairing.folder for pairing in pairings},
            self._queue.put,
            self._output.line,
            clock=time.monotonic,
            moved_in=moved_in.note,
        )
        self._threads = {"worker": _thread(self._worker.run, self._worker.stop, vital=True)}
        self._threads["folders"] = _thread(local.run, local.stop)
        for number, watcher in enumerate(self._remotes, 1):
            self._threads[f"remote {number}"] = _thread(watcher.run, watcher.stop)
        if hooks is not None:
            self._threads["hooks"] = _thread(hooks.run, hooks.stop)

    def run(self, readiness: Readiness) -> int:
        """Until a signal or the death of the worker; the exit code. Raises what the worker died of."""
        for number in SIGNALS:
            signal.signal(number, note_signal)
        for pairing in self._pairings:
            self._queue.put(Trigger(pairing.name, Kind.TIMER, full=True))
        with _events.listening():
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
                watched = plural(len(self._pairings), "pairing", "pairings")
                self._output.line(levels.SUMMARY if self._output.on_terminal else levels.INFO, f"watching {watched}")
                readiness.ready()
                self._notifier.ready()
            elif isinstance(event, _Ended):
                self._ended(event)
            elif event in (signal.SIGINT, signal.SIGTERM):
                self._output.line(levels.INFO, f"ended by {signal.Signals(event).name}")
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
        return _events.get(max(0.0, min(gaps)) if gaps else None)

    def _show_life(self, now: float) -> None:
        since = self._worker.stuck_since()
        if since is None or now - since < max(STUCK_SECONDS, 4.0 * self._config.imap.timeout_seconds):
            self._notifier.watchdog()

    def _look_at_everything(self) -> None:
        self._output.line(levels.INFO, "synchronising now, as SIGUSR1 asks for")
        self._door.reopen()
        self._kick()
        for pairing in self._pairings:
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
        longest = float(max(1, self._config.general.restart_after_error_seconds))
        own = imap.max_connections - 1
        if len(pairings) > own:
            own -= 1
        made: list[RemoteWatcher | StatusWatcher] = [
            RemoteWatcher(
                pairing.name,
                pairing.remote,
                self._door.open,
                self._queue.put,
                self._output.line,
                idle_seconds=imap.idle_timeout_seconds,
                sync_on_timeout=imap.sync_on_idle_timeout,
                poll_seconds=float(imap.poll_seconds),
                longest_gap=longest,
            )
            for pairing in pairings[:own]
        ]
        if rest := pairings[own:]:
            made.append(
                StatusWatcher(
                    {pairing.name: pairing.remote for pairing in rest},
                    self._door.open,
                    self._queue.put,
                    self._output.line,
                    idle_seconds=imap.idle_timeout_seconds,
                    sync_on_timeout=imap.sync_on_idle_timeout,
                    poll_seconds=float(imap.poll_seconds),
                    longest_gap=longest,
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
        self._output.line(levels.ERROR, f"the thread '{ended.name}' died; it is started again in {gap:.0f} s")
        if ended.error is not None:
            self._output.bug(ended.error)
        part.restart_at = time.monotonic() + gap

    def _end(self) -> None:
        """Within two seconds: what takes less than one is finished, the rest is cut. What is left then dies with the
        process; the state and the folders are safe at any moment.
        """
        self._give_up()
        for part in self._threads.values():
            part.stop()
        worker = self._threads["worker"]
        _join([worker], FINISH_SECONDS)
        self._worker.interrupt()
        _join(list(self._threads.values()), CUT_SECONDS)


def _thread(body: Callable[[], None], stop: Callable[[], None], *, vital: bool = False) -> _Thread:
    return _Thread(body, stop, Gaps(*RESTART_GAPS, random), vital)


def _join(parts: Sequence[_Thread], seconds: float) -> None:
    """Wait for their ends, in pieces: of a signal that another thread got, or this one just before it waits, it hears
    only between two waits."""
    end = time.monotonic() + seconds
    for part in parts:
        while part.thread is not None and part.thread.is_alive() and (left := end - time.monotonic()) > 0:
            part.thread.join(min(left, _PIECE_SECONDS))
