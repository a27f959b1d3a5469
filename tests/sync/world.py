# SPDX-License-Identifier: MIT
"""A server, a folder and a state file, and runs of the real engine on them, as the service makes them."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pushpull.download import BATCH_MESSAGES, Pace
from pushpull.engine import Cycle, Settings, Tools
from pushpull.errors import PushpullError, Refused
from pushpull.message import fingerprint
from pushpull.model import Pair, PairKey, Policy, Tally
from pushpull.retry import Patience
from pushpull.store import Store
from pushpull.trust import Trust, judge
from pushpull.values import replace
from tests.twins import Clock, Killed, MemoryFolder, MemoryLocal, MemoryRemote, MemoryServer, Script

KEY = PairKey("imap.example.org", "alice", "folder", "INBOX")
NO_LIMITS = Policy(local_delete_limit=10**6, remote_delete_limit=10**6, remote_delete_percent=100)


class SteppedStore(Store):
    """A store whose commits are steps of a script. `on_disk`: what a power cut leaves of it, if that is asked."""

    script: Script
    local: MemoryLocal
    on_disk: bytes | None = None

    @contextmanager
    def _step(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        if self._depth:
            with super()._step(durable=durable) as db:
                yield db
            return
        if self.script.dead:
            raise Killed
        before = self.db.serialize() if self.on_disk is not None else b""
        with super()._step(durable=durable) as db:
            yield db
            self.local.assert_renames_are_durable()
            self.script.step("commit<")
        # A commit that changes nothing writes nothing, so it flushes nothing.
        if durable and self.on_disk is not None and (after := self.db.serialize()) != before:
            self.on_disk = after
        self.script.step("commit>")


class Silence:
    """A report that nobody reads; kept for a failing test to show."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, level: int, text: str) -> None:
        self.lines.append(f"{level} {text}")

    def progress(self, what: str, done: int, total: int, done_bytes: int = 0) -> None:
        assert 0 <= done <= total, (what, done, total)


@dataclass
class Ran:
    """What became of one run. `error` is what the service would tell, `killed` when it died on the way."""

    script: Script
    tally: Tally
    told: list[str]
    error: PushpullError | None = None
    killed: bool = False

    @property
    def changes(self) -> list[str]:
        return self.script.changes


@dataclass
class World:
    """Both sides and the state. `run` is one run of the program."""

    directory: Path
    clock: Clock = field(default_factory=Clock)
    policy: Policy = NO_LIMITS
    batch: int = BATCH_MESSAGES
    breathe: Callable[[], None] = lambda: None
    awaited: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self.server = MemoryServer(clock=self.clock)
        self.folder = MemoryFolder(clock=self.clock)
        self.state = self.directory / "state"
        self.runs: list[Ran] = []

    # --- one run -------------------------------------------------------------------------------------------------

    def run(
        self,
        events: dict[int, Callable[[str], None]] | None = None,
        *,
        script: Script | None = None,
        readopt: bool = False,
        power_cut: bool = False,
    ) -> Ran:
        """One run; `events` happen at its steps. `power_cut`: who is killed loses what was not flushed."""
        script = script or Script()
        script.events = events if events is not None else script.events
        self.clock.now += 5.0  # no file is young: uploads need not wait
        local = MemoryLocal(self.folder, script)
        report = Silence()
        ran = Ran(script, Tally(), report.lines)
        self.runs.append(ran)
        store = SteppedStore.open(str(self.state))
        assert isinstance(store, SteppedStore)
        store.script, store.local = script, local
        store.on_disk = store.db.serialize() if power_cut else None
        try:
            self._synchronise(store, local, ran, report, readopt=readopt)
        except Killed:
            ran.killed = True
        except PushpullError as error:
            ran.error = error
        finally:
            script.events = {}
            store.close()
        if ran.killed and store.on_disk is not None:
            self.lose_state()
            self.state.write_bytes(store.on_disk)
        return ran

    def _synchronise(
        self, store: SteppedStore, local: MemoryLocal, ran: Ran, report: Silence, *, readopt: bool
    ) -> None:
        pair, trust = self._prepare(store, local, readopt=readopt)
        session: list[MemoryRemote] = []
        pace = Pace(self.batch, most=self.batch)

        def attempt() -> None:
            nonlocal pair, trust
            if not session:
                session.append(MemoryRemote(self.server, ran.script, self._attempted))
            pair = store.pair(pair.id)
            settings = Settings("test", "folder", replace(self.policy, readopt=readopt), 600.0, "boot", synced=True)
            tools = Tools(
                report, self.clock, self.clock.pause, lambda: None, lambda _: None, self.breathe, self.awaited
            )
            cycle = Cycle(session[0], local, store, pair, trust, settings, tools)
            try:
                cycle.run(ran.tally, pace)
            except PushpullError:
                session.pop().close()
                raise
            finally:
                trust = cycle.trust

        def progress() -> object:
            done = ran.tally
            return done.downloaded, done.uploaded, done.adopted, done.local_flags, done.remote_flags, pace.messages

        Patience(progress, clock=self.clock, pause=self.clock.pause, tell=lambda error, gap: None)(attempt)

    def _prepare(self, store: SteppedStore, local: MemoryLocal, *, readopt: bool) -> tuple[Pair, Trust]:
        """What the service does before a cycle; every question is answered with yes."""
        pair = store.find_pair(KEY) or store.add_pair(KEY)
        marker = local.read_marker() if local.exists() else None
        trust = judge(marker, pair, KEY, state_id=store.state_id, others=(), exists=local.exists())
        if not readopt and trust in (Trust.MISSING, Trust.OTHER_PAIRING, Trust.OTHER_STATE):
            raise Refused(f"the folder is {trust}")
        if readopt or trust in (Trust.NEWER, Trust.OTHER_ACCOUNT):
            newest = max(pair.generation, marker.generation if marker and marker.state_id == store.state_id else 0)
            pair = store.update_pair(store.forget_pair(pair), generation=newest)
            trust = Trust.FIRST
        local.create()
        return pair, trust

    def _attempted(self, body: bytes) -> bool:
        """An APPEND of these bytes is committed as attempted, seen from outside the program's transaction."""
        digest = fingerprint([body]).digest
        query = "SELECT count(*) FROM pairing WHERE append_outcome = 'open' AND digest = ?"
        with closing(sqlite3.connect(self.state)) as other:
            return bool(other.execute(query, (digest,)).fetchone()[0])

    def settle(self) -> Ran:
        """Undisturbed runs until one has nothing left to do that it may do now; what failed is due again."""
        for _ in range(8):
            ran = self.run()
            assert ran.error is None, (ran.error, ran.told)
            if not self._wait_for_retries() and not ran.changes:
                return ran
        raise AssertionError(("it never comes to rest", ran.changes, ran.told))

    def _wait_for_retries(self) -> bool:
        query = "SELECT max(next_try) FROM pairing WHERE problem <> '' AND append_attempts < 2 AND next_try > ?"
        with closing(sqlite3.connect(self.state)) as state:
            (due,) = state.execute(query, (self.clock.now,)).fetchone()
        self.clock.now = max(self.clock.now, due or 0.0)
        return due is not None

    def is_a_strangers(self) -> bool:
        """The state knows the pairing, but the folder is marked as another state's: a run refuses it."""
        with closing(Store.open(str(self.state))) as store:
            marker, pair = self.folder.marker, store.find_pair(KEY)
            return judge(marker, pair, KEY, state_id=store.state_id, others=(), exists=True) is Trust.OTHER_STATE

    # --- what the state says -------------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, object]]:
        with closing(sqlite3.connect(self.state)) as state:
            state.row_factory = sqlite3.Row
            return [dict(row) for row in state.execute("SELECT * FROM pairing ORDER BY id")]

    def copy_state(self, name: str) -> None:
        shutil.copyfile(self.state, self.directory / name)

    def restore_state(self, name: str) -> None:
        self.lose_state()
        shutil.copyfile(self.directory / name, self.state)

    def lose_state(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.state}{suffix}").unlink(missing_ok=True)
