# SPDX-License-Identifier: MIT
"""A one-shot run: each pairing in turn, each whatever befalls the others.

Holds what a cycle needs (state, lock, session, patience, questions) and turns what happens into words and an exit code.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pushpull.commands import run_hook, run_secret_command
from pushpull.config import Config, PairingConfig
from pushpull.connect import Account, open_session
from pushpull.download import Pace
from pushpull.engine import Cycle, Settings, Tools
from pushpull.errors import (
    EX_TEMPORARY,
    CommandFailed,
    Interrupted,
    LoginRefused,
    PushpullError,
    Refused,
    ServerUnsupported,
    StateUnusable,
    Temporary,
    UsageError,
    worst,
)
from pushpull.locks import pair_lock
from pushpull.maildir import Maildir
from pushpull.model import Pair, PairKey, Policy, Tally
from pushpull.options import Asker, Options
from pushpull.outcomes import Outcomes
from pushpull.output import NOTICE, SUMMARY, Output
from pushpull.ports import Remote
from pushpull.retry import ATTEMPTS, Patience
from pushpull.stopping import Stopper
from pushpull.store import Store, keep_corrupt_aside
from pushpull.trust import Trust, judge
from pushpull.wording import printable


def run(config: Config, options: Options, output: Output, asker: Asker) -> int:
    """Synchronise the pairings of the options; the exit code. Raises only what stops all of them."""
    one_cycle = options.once or options.dry_run or options.auth_only or options.allow_mass_delete is not None
    if config.imap.idle and not one_cycle:
        raise UsageError(
            "idle = yes: this version does not stay and wait for changes yet",
            remedy="give --once, or set idle = no and run it from a timer",
        )
    stopper = Stopper()
    stopper.install()
    try:
        return _Run(config, options, output, asker, stopper).run()
    finally:
        stopper.done()


@dataclass(slots=True)
class _Prepared:
    """A pairing that may be synchronised: its folder was judged, its questions were answered."""

    pairing: PairingConfig
    pair: Pair
    local: Maildir
    trust: Trust


class _Run:
    def __init__(self, config: Config, options: Options, output: Output, asker: Asker, stopper: Stopper) -> None:
        self._config, self._options, self._output, self._asker, self._stopper = config, options, output, asker, stopper
        self._sessions = _Sessions(config, options, output, asker)
        self._boot = _boot_id()

    def run(self) -> int:
        if self._options.auth_only:
            return self._test_login()
        store = self._open_state()
        try:
            codes = []
            for pairing in self._config.pairings:
                if self._is_chosen(pairing):
                    codes.append(self._one(store, pairing))
                if self._stopper.stopping:
                    break
            return worst(codes)
        finally:
            self._sessions.close()
            store.close()

    def _is_chosen(self, pairing: PairingConfig) -> bool:
        return not self._options.pairings or pairing.name in self._options.pairings

    def _test_login(self) -> int:
        try:
            self._sessions.get()
        finally:
            self._sessions.close()
        imap = self._config.imap
        self._output.line(SUMMARY, f"login as {printable(imap.login)} at {printable(imap.host)}: well")
        return 0

    # --- one pairing ---------------------------------------------------------------------------------------------

    def _one(self, store: Store, pairing: PairingConfig) -> int:
        """Never raises what concerns one pairing alone; returns its exit code."""
        tally, codes = Tally(), []
        try:
            self._stopper.check()
            with ExitStack() as held:
                prepared = self._prepare(store, pairing, held)
                try:
                    self._synchronise(store, prepared, tally)
                finally:
                    codes.append(self._run_hook(store, prepared, tally))
                    self._tell_problems(store, prepared.pair)
        except PushpullError as error:
            self._output.error(error, about=pairing.name)
            codes.append(error.exit_code)
        finally:
            if not self._options.dry_run:
                self._output.summary(pairing.name, tally)
        if tally.failed:
            codes.append(EX_TEMPORARY)
        return worst(codes)

    def _synchronise(self, store: Store, prepared: _Prepared, tally: Tally) -> None:
        pace = Pace()
        patience = Patience(
            lambda: (_achieved(tally), pace.messages),
            attempts=1 if self._sessions.unreachable else ATTEMPTS,
            clock=time.monotonic,
            pause=self._stopper.pause,
            tell=self._tell_retry,
        )
        patience(lambda: self._attempt(store, prepared, tally, pace))

    def _attempt(self, store: Store, prepared: _Prepared, tally: Tally, pace: Pace) -> None:
        self._stopper.check()
        remote = self._sessions.get()
        prepared.pair = store.pair(prepared.pair.id) if prepared.pair.id else prepared.pair
        cycle = Cycle(
            remote, prepared.local, store, prepared.pair, prepared.trust, self._settings(prepared), self._tools()
        )
        try:
            cycle.run(tally, pace)
        except (Temporary, Interrupted):
            self._sessions.drop()
            raise
        finally:
            prepared.trust = cycle.trust

    def _settings(self, prepared: _Prepared) -> Settings:
        safety, options = prepared.pairing.safety, self._options
        policy = Policy(
            local_delete_limit=safety.local_delete_limit,
            remote_delete_limit=safety.remote_delete_limit,
            remote_delete_percent=safety.remote_delete_percent,
            allowed=options.allow_mass_delete,
            readopt=options.readopt,
        )
        return Settings(
            name=prepared.pairing.name,
            folder=prepared.pairing.folder,
            policy=policy,
            window_seconds=60.0 * safety.window_minutes,
            boot=self._boot,
            synced=self._config.local.fsync,
            dry_run=options.dry_run,
        )

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

    # --- before a cycle ------------------------------------------------------------------------------------------

    def _open_state(self) -> Store:
        path = self._config.local.state
        if self._options.dry_run:
            return Store.snapshot(path)
        try:
            return Store.open(path)
        except StateUnusable as error:
            if not error.corrupt or not self._confirmed(f"{error}. Keep it aside and compare both sides anew?"):
                raise
            kept = keep_corrupt_aside(path, time.strftime("%Y%m%d-%H%M%S"))
            self._output.line(logging.WARNING, f"the corrupt state file is kept as {kept}; a new one is built")
            return Store.open(path)

    def _prepare(self, store: Store, pairing: PairingConfig, held: ExitStack) -> _Prepared:
        key = PairKey(self._config.imap.host, self._config.imap.login, pairing.local, pairing.remote)
        pair = store.find_pair(key) or store.add_pair(key)
        if not self._options.dry_run:
            held.enter_context(pair_lock(self._config.local.state, pair.id))
            pair = store.pair(pair.id)
        local = Maildir(pairing.folder, buckets=self._config.local.buckets, fsync=self._config.local.fsync)
        exists = local.exists()
        marker = local.read_marker() if exists else None
        others = [other for other in store.pairs() if other.id != pair.id]
        trust = judge(marker, pair, key, state_id=store.state_id, others=others, exists=exists)
        adopt_anew = self._options.readopt or self._judge(trust, pairing, local, exists=exists)
        if adopt_anew:
            newest = max(pair.generation, marker.generation if marker and marker.state_id == store.state_id else 0)
            pair = store.update_pair(store.forget_pair(pair), generation=newest)
            trust = Trust.FIRST
        if not self._options.dry_run:
            if trust is Trust.FIRST:
                local.create()  # a known folder that lacks cur/ is not the one it was
            local.probe()
            local.clean_tmp()
        return _Prepared(pairing, pair, local, trust)

    def _judge(self, trust: Trust, pairing: PairingConfig, local: Maildir, *, exists: bool) -> bool:
        """Ask, tell or refuse. Returns whether what was agreed is to be forgotten and matched by content anew."""
        folder, take_over = printable(pairing.folder), "--readopt takes it over: both sides are matched by content anew"
        if trust is Trust.MISSING:
            raise Refused(
                f"the folder {folder} is missing; nothing was changed",
                remedy="mount or restore it; or --readopt makes it anew and downloads everything into it",
            )
        if trust is Trust.OTHER_PAIRING:
            raise Refused(f"the folder {folder} belongs to another pairing; nothing was changed", remedy=take_over)
        if trust is Trust.OTHER_STATE:
            raise Refused(
                f"the folder {folder} belongs to another state file than {self._config.local.state}; nothing was"
                " changed",
                remedy=take_over,
            )
        if trust is Trust.OTHER_ACCOUNT:
            self._ask(f"The folder {folder} was synchronised with another account before. Match it with this one?")
            return True
        if trust is Trust.FIRST and exists and not self._options.dry_run:
            local.create()  # a run that died while it made the folder left half of it
        if trust is Trust.FIRST and exists and local.scan().files:
            self._ask(
                f"First synchronisation of {folder}, which holds mail already. Match it with the mailbox"
                f" {printable(pairing.remote)} on {printable(self._config.imap.host)}, and copy what either side lacks?"
            )
        if trust is Trust.OLDER:
            self._output.line(
                logging.WARNING,
                f"{folder} is an older copy: what is missing is downloaded again, the server's flags win",
            )
        if trust is Trust.NEWER:
            self._output.line(
                logging.WARNING, "the state file is an older copy: both sides are matched by content anew"
            )
        return trust is Trust.NEWER

    def _ask(self, question: str) -> None:
        if not self._confirmed(question):
            raise Refused(f"not confirmed: {question}", remedy="--yes answers the question; nothing was changed")

    def _confirmed(self, question: str) -> bool:
        if self._options.yes:
            return True
        if self._options.dry_run:
            self._output.line(logging.WARNING, f"would be asked: {question}")
            return True
        return bool(self._asker.confirm(question))

    # --- after a cycle -------------------------------------------------------------------------------------------

    def _run_hook(self, store: Store, prepared: _Prepared, tally: Tally) -> int:
        """`post_sync_local_change`, after a cycle that changed local files, also one that failed later."""
        command = self._config.command
        if self._options.dry_run or self._stopper.stopping:
            return 0
        pair = store.pair(prepared.pair.id)
        if not pair.hook_due:
            return 0
        if command.post_sync_local_change and (tally.changed_local or prepared.pair.hook_due):
            env = {"PUSHPULL_PAIRING": prepared.pairing.name, "PUSHPULL_FOLDER": prepared.pairing.folder}
            try:
                run_hook(command.post_sync_local_change, command.timeout_seconds, env, lambda: self._stopper.stopping)
            except PushpullError as error:
                self._output.error(error, about=prepared.pairing.name)
                return error.exit_code
        store.update_pair(pair, hook_due=False)
        return 0

    def _tell_problems(self, store: Store, pair: Pair) -> None:
        """What is set aside is never forgotten: one line a run, details with -v."""
        now = time.time()
        problems = [] if self._options.dry_run else Outcomes(store, pair.id).earlier_problems()
        waiting = [(row, at) for row, at in problems if at > now]
        if waiting:
            self._output.line(
                logging.WARNING,
                f"{len(waiting)} message{'s are' if len(waiting) > 1 else ' is'} set aside and tried again later"
                " (-v tells which and why)",
            )
        for row, at in waiting:
            what = printable(row.uniquename) if row.uniquename is not None else f"uid {row.uid}"
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
            self._output.line(NOTICE, f"set aside: {what}: {printable(row.problem)} (next try after {when})")

    def _tell_retry(self, error: BaseException, gap: float) -> None:
        self._output.line(logging.WARNING, f"{error}; trying again in {gap:.0f} s")


class _Sessions:
    """One session for all pairings of the account, made anew after a failure."""

    def __init__(self, config: Config, options: Options, output: Output, asker: Asker) -> None:
        self._config, self._output, self._asker = config, output, asker
        self._trace = output.trace if options.debug_imap else None
        self._session: Remote | None = None
        self._password: str | None = None
        self._refused: PushpullError | None = None
        self.unreachable = False

    def get(self) -> Remote:
        """A logged-in session. What another attempt would not mend (a refused login, a certificate, a password
        command that failed) is not tried again for the next pairing: servers lock accounts for that.
        """
        if self._refused is not None:
            raise self._refused
        if self._session is None:
            try:
                self._session = open_session(self._account())
            except (LoginRefused, ServerUnsupported, CommandFailed) as error:
                self._refused = error
                raise
            except Temporary:
                self.unreachable = True
                raise
            self.unreachable = False
        return self._session

    def drop(self) -> None:
        """The session is not to be used again."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    close = drop

    def _account(self) -> Account:
        imap, ssl = self._config.imap, self._config.ssl
        return Account(
            host=imap.host,
            port=imap.port,
            tls="starttls" if imap.tls == "starttls" else "implicit",
            ca_file=ssl.certificate_file,
            pins=ssl.certificate_sha256,
            timeout=float(imap.timeout_seconds),
            disabled=imap.disable_extensions,
            login=imap.login,
            auth="oauth2" if imap.oauth2_username else "password",
            secret=self._secret,
            trace=self._trace,
        )

    def _secret(self) -> str:
        """The token (fetched before each connection), or the password (asked for once)."""
        imap = self._config.imap
        if imap.oauth2_username:
            return run_secret_command(imap.oauth2_refresh_command, 60.0, "token").reveal()
        if self._password is None:
            self._password = self._find_password()
        return self._password

    def _find_password(self) -> str:
        imap = self._config.imap
        if imap.login_password is not None:
            return imap.login_password.reveal()
        if imap.login_password_command:
            return run_secret_command(imap.login_password_command, 60.0, "password").reveal()
        answer = self._asker.password(f"Password of {imap.login} at {imap.host}:{imap.port}:")
        if answer is None:
            raise LoginRefused(
                f"no password for {imap.login} at {imap.host}",
                remedy="set imap.login_password_command or imap.login_password, or run it in a terminal",
            )
        return answer


def _achieved(tally: Tally) -> tuple[int, ...]:
    return (
        tally.downloaded,
        tally.uploaded,
        tally.adopted,
        tally.local_flags + tally.local_marked,
        tally.remote_flags + tally.remote_marked,
    )


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return "unknown"
