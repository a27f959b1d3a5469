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
import os
import random
import signal
import sys
from collections.abc import Iterator

from pushpull import late, levels
from pushpull.accounts import Credentials, Door, Sessions, account_of
from pushpull.config import Config, PairingConfig
from pushpull.daemonize import Readiness, start_daemon
from pushpull.errors import (
    CommandFailed,
    NotConfirmed,
    PairingLocked,
    PushpullError,
    Temporary,
    UsageError,
    worst,
)
from pushpull.harness import SIGNALS, Harness, note_signal
from pushpull.locks import PairLock
from pushpull.notify import Notifier
from pushpull.options import Asker, Options
from pushpull.output import Output
from pushpull.prepare import Preparer
from pushpull.service import open_state
from pushpull.watch_link import Holds


def run(config: Config, options: Options, output: Output, asker: Asker) -> int:
    """Until a signal; the exit code. In the foreground of a daemon: until it is ready.

    UsageError when the options forbid it; what befalls the start otherwise is raised or returned as an exit code.
    """
    if options.daemon and (options.one_cycle or not config.imap.idle):
        raise UsageError("--daemon: a daemon stays, so it needs idle = yes, and no option that ends after one cycle")
    late.load()
    detach = options.daemon and not options.debug_imap
    notifier = Notifier.from_environment(os.environ)
    _mind_signals()
    start = _Start(config, options, output, asker)
    try:
        code = start.make_ready(strict=options.daemon)
        if not start.pairings or (code and options.daemon):
            return code
        if not detach:
            output.open_logs(config.log)
            return start.harness(notifier).run(Readiness())
        for name in ("stdout", "stderr"):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                getattr(sys, name).flush()
        return start_daemon(
            lambda readiness: _daemon(start, readiness),
            umask=config.daemon.umask,
            preserve=[lock.descriptor for lock in start.locks],
            pidfile=config.daemon.pidfile,
            signals=dict.fromkeys(SIGNALS, note_signal),
        )
    finally:
        start.close()


def _mind_signals() -> None:
    """Until the threads are there: SIGTERM ends the start as Ctrl-C does, the others are kept for later."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for number in (signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, note_signal)


def _daemon(start: _Start, readiness: Readiness) -> int:
    """What runs in the daemon."""
    start.output.detach()
    for lock in start.locks:
        lock.note_pid()
    start.output.open_logs(start.config.log)
    try:
        return start.harness(Notifier()).run(readiness)
    except PushpullError as error:
        start.output.error(error)
        raise
    except BaseException as error:
        start.output.bug(error)
        raise
    finally:
        start.output.close()


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
        self._stopping = False
        self.credentials = Credentials(config.imap, self._answers, stopped=lambda: self._stopping)
        account = account_of(config, self.credentials, output.trace if options.debug_imap else None)
        self.door = Door(account, self.credentials, Holds(float(config.general.restart_after_error_seconds), random))

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
        for pairing in self.pairings:
            with _held_later():  # now, so that it is watched from the start
                self.preparer.make_folder(pairing)
        self._answers.leave()
        return worst(codes)

    def _check_login(self) -> None:
        sessions = Sessions(self.door)
        try:
            sessions.get()
        except Temporary as error:
            if isinstance(error, CommandFailed):
                raise
            self.output.line(levels.WARNING, f"{error}; it is tried again and again")
        finally:
            sessions.drop()

    def harness(self, notifier: Notifier) -> Harness:
        """The threads for what is ready."""
        return Harness(
            self.config, self.options, self.output, self.pairings, self.door, self.preparer, notifier, self.give_up
        )

    def give_up(self) -> None:
        """End the command that gets a password, if one runs."""
        self._stopping = True

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
