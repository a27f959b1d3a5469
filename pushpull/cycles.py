# SPDX-License-Identifier: MIT
"""Runs the cycles of pairings over one session: what one-shot runs and the live mode have in common."""

from __future__ import annotations

import time
from collections.abc import Callable

from pushpull.accounts import Sessions
from pushpull.config import Config, PairingConfig
from pushpull.download import Pace
from pushpull.engine import Cycle, Settings, Tools
from pushpull.errors import ConnectionLost, Interrupted, Temporary
from pushpull.model import Policy, Tally
from pushpull.options import Options
from pushpull.prepare import Prepared
from pushpull.retry import Patience
from pushpull.soundness import boot_id
from pushpull.store import Store
from pushpull.values import field, struct


@struct
class Effort:
    """What one cycle did and how it goes on; survives a reconnect, and in the live mode a pause for another pairing.

    `look_again` is when the pairing has to be looked at again, in seconds from now; None when there is no need.
    """

    tally: Tally = field(default_factory=Tally)
    pace: Pace = field(default_factory=Pace)
    look_again: float | None = None

    def achieved(self) -> tuple[int, ...]:
        """Differs whenever something was achieved since."""
        tally = self.tally
        return (
            tally.downloaded,
            tally.uploaded,
            tally.adopted,
            tally.local_flags + tally.local_marked,
            tally.remote_flags + tally.remote_marked,
            self.pace.messages,
        )


class Cycles:
    """One worker's cycles: its session and its tools."""

    def __init__(self, config: Config, options: Options, sessions: Sessions, tools: Tools, *, stays: bool) -> None:
        """`stays`: the program goes on after the cycle, so it need not wait for what another one will find."""
        self._config, self._options, self._sessions, self._tools = config, options, sessions, tools
        self._stays = stays
        self._boot = boot_id()

    def synchronise(
        self,
        store: Store,
        prepared: Prepared,
        effort: Effort,
        tools: Tools | None = None,
        *,
        readopt: bool,
        whole_folder: bool = False,
        attempts: int,
        tell: Callable[[BaseException, float], None],
    ) -> None:
        """One cycle, begun again up to `attempts` times without progress, each time with a new session.

        `whole_folder`: each directory is listed, however it looks. `tell` is given what failed and the seconds until
        the next attempt. Raises what the last attempt does.
        """
        used = tools or self._tools
        patience = Patience(
            effort.achieved,
            attempts=1 if self._sessions.unreachable else attempts,
            clock=time.monotonic,
            pause=used.pause,
            tell=tell,
        )
        settings = self._settings(prepared.pairing, readopt=readopt, whole_folder=whole_folder)
        kept = self._sessions.served

        def attempt() -> None:
            nonlocal kept
            old, kept = kept, False
            try:
                self._attempt(store, prepared, effort, settings, used)
            except ConnectionLost:
                if not old:
                    raise
                # A link that ended while nobody used it, which servers do to it: that is no trouble.
                self._attempt(store, prepared, effort, settings, used)

        patience(attempt)

    def _attempt(self, store: Store, prepared: Prepared, effort: Effort, settings: Settings, tools: Tools) -> None:
        tools.check_stop()
        remote = self._sessions.get()
        prepared.pair = store.pair(prepared.pair.id)
        cycle = Cycle(remote, prepared.local, store, prepared.pair, prepared.trust, settings, tools)
        try:
            cycle.run(effort.tally, effort.pace)
            self._sessions.served = True
        except (Temporary, Interrupted):
            self._sessions.drop()
            raise
        finally:
            prepared.trust = cycle.trust
            effort.look_again = cycle.look_again

    def _settings(self, pairing: PairingConfig, *, readopt: bool, whole_folder: bool) -> Settings:
        safety = pairing.safety
        policy = Policy(
            local_delete_limit=safety.local_delete_limit,
            remote_delete_limit=safety.remote_delete_limit,
            remote_delete_percent=safety.remote_delete_percent,
            allowed=self._options.allow_mass_delete,
            readopt=readopt,
        )
        return Settings(
            name=pairing.name,
            folder=pairing.folder,
            policy=policy,
            window_seconds=60.0 * safety.window_minutes,
            boot=self._boot,
            synced=self._config.local.fsync,
            dry_run=self._options.dry_run,
            stays=self._stays,
            whole_folder=whole_folder or readopt,
        )
