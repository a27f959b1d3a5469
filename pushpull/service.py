# SPDX-License-Identifier: MIT
"""A one-shot run: each pairing in turn, each whatever befalls the others.

Holds what a cycle needs (state, lock, session, patience, questions) and turns what happens into words and an exit code.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial

from pushpull import levels
from pushpull.accounts import Door, Sessions
from pushpull.config import Config, PairingConfig
from pushpull.cycles import Cycles, Effort
from pushpull.engine import Tools
from pushpull.errors import (
    EX_TEMPORARY,
    PushpullError,
    StateUnusable,
    worst,
)
from pushpull.locks import pair_lock
from pushpull.model import Pair, Tally
from pushpull.options import Asker, Options
from pushpull.output import Output
from pushpull.prepare import Prepared, Preparer
from pushpull.problems import tell_problems
from pushpull.retry import ATTEMPTS
from pushpull.stopping import Stopper
from pushpull.store import Store, keep_corrupt_aside
from pushpull.wording import printable


def run(config: Config, options: Options, output: Output, asker: Asker, door: Door) -> int:
    """Synchronise the pairings of the options once; the exit code. Raises only what stops all of them."""
    stopper = Stopper()
    stopper.install()
    try:
        return _Run(config, options, output, asker, door, stopper).run()
    finally:
        stopper.done()


def open_state(config: Config, preparer: Preparer, output: Output) -> Store:
    """The state file; a corrupt one is kept aside and built anew, if the user says so. StateUnusable if not."""
    path = config.local.state
    try:
        return Store.open(path)
    except StateUnusable as error:
        if not error.corrupt or not preparer.confirmed(f"{error}. Keep it aside and compare both sides anew?"):
            raise
        kept = keep_corrupt_aside(path, time.strftime("%Y%m%d-%H%M%S"))
        output.line(levels.WARNING, f"the corrupt state file is kept as {kept}; a new one is built")
        return Store.open(path)


class _Run:
    def __init__(
        self, config: Config, options: Options, output: Output, asker: Asker, door: Door, stopper: Stopper
    ) -> None:
        self._config, self._options, self._output, self._stopper = config, options, output, stopper
        self._preparer = Preparer(config, options, asker, output)
        self._sessions = Sessions(door)
        self._cycles = Cycles(config, options, self._sessions, self._tools(), stays=False)

    def run(self) -> int:
        if self._options.auth_only:
            return self._test_login()
        store = self._open_state()
        try:
            codes = []
            for pairing in self._config.pairings:
                if self._options.chosen(pairing.name):
                    codes.append(self._one(store, pairing))
                if self._stopper.stopping:
                    break
            return worst(codes)
        finally:
            self._sessions.drop()
            store.close()

    def _open_state(self) -> Store:
        if self._options.dry_run:
            return Store.snapshot(self._config.local.state)
        return open_state(self._config, self._preparer, self._output)

    def _test_login(self) -> int:
        try:
            self._sessions.get()
        finally:
            self._sessions.drop()
        imap = self._config.imap
        self._output.line(levels.SUMMARY, f"login as {printable(imap.login)} at {printable(imap.host)}: well")
        return 0

    def _one(self, store: Store, pairing: PairingConfig) -> int:
        """Never raises what concerns one pairing alone; returns its exit code."""
        effort, codes = Effort(), []
        try:
            self._stopper.check()
            with ExitStack() as held:
                if not self._options.dry_run:
                    pair = self._preparer.pair(store, pairing)
                    held.enter_context(pair_lock(self._config.local.state, pair.id))
                prepared = self._preparer.prepare(store, pairing, readopt=self._options.readopt)
                try:
                    self._cycles.synchronise(
                        store,
                        prepared,
                        effort,
                        readopt=self._options.readopt,
                        attempts=ATTEMPTS,
                        tell=partial(self._tell_retry, pairing.name),
                    )
                finally:
                    codes.append(self._run_hook(store, prepared, effort.tally))
                    self._tell_problems(store, prepared.pair)
        except PushpullError as error:
            self._output.error(error, about=pairing.name)
            codes.append(error.exit_code)
        finally:
            if not self._options.dry_run:
                self._output.summary(pairing.name, effort.tally, always=not any(codes))
        if effort.tally.failed:
            codes.append(EX_TEMPORARY)
        return worst(codes)

    def _tools(self) -> Tools:
        return Tools(
            report=self._output,
            clock=time.time,
            pause=self._stopper.pause,
            check_stop=self._check,
            show_plan=lambda line: self._output.print_plan([line]),
        )

    def _check(self) -> None:
        if self._stopper.log_due:
            self._stopper.log_due = False
            self._output.reopen_log()
        self._stopper.check()

    # --- after a cycle -------------------------------------------------------------------------------------------

    def _run_hook(self, store: Store, prepared: Prepared, tally: Tally) -> int:
        """`post_sync_local_change`, after a cycle that changed local files, also one that failed later."""
        command = self._config.command
        if self._options.dry_run or self._stopper.stopping:
            return 0
        pair = store.pair(prepared.pair.id)
        if not pair.hook_due:
            return 0
        if command.post_sync_local_change and (tally.changed_local or prepared.pair.hook_due):
            from pushpull.commands import run_hook

            env = prepared.pairing.environment
            try:
                run_hook(command.post_sync_local_change, command.timeout_seconds, env, lambda: self._stopper.stopping)
            except PushpullError as error:
                self._output.error(error, about=prepared.pairing.name)
                return error.exit_code
        store.update_pair(pair, hook_due=False)
        return 0

    def _tell_problems(self, store: Store, pair: Pair) -> None:
        if not self._options.dry_run:
            tell_problems(store, pair.id, self._output, time.time())

    def _tell_retry(self, name: str, error: BaseException, gap: float) -> None:
        self._output.line(levels.WARNING, f"{name}: {error}; trying again in {gap:.0f} s")
