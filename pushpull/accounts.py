# SPDX-License-Identifier: MIT
"""Logging in to the account of a configuration: its secret, one door for every thread, one session to work with."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol

from pushpull.aside import Aside
from pushpull.config import Config, Imap, Secret
from pushpull.connect import Account, connect, open_session
from pushpull.dial import Dialled
from pushpull.errors import CommandFailed, ConnectionLost, LoginRefused, PushpullError, ServerUnsupported, Temporary
from pushpull.options import Asker
from pushpull.remote import Session
from pushpull.transport import Client

COMMAND_SECONDS = 60.0
HOPELESS = (LoginRefused, ServerUnsupported, CommandFailed)
"""What another attempt would not mend."""
_PROBE_SECONDS = 5.0  # for a sign of life of a link that nobody would miss
_NAP_SECONDS = 1.0
_FRESH_SECONDS = 10.0  # servers do not wait for a login for long
_TRIAL_SECONDS = 60.0  # for which the others wait for the one who tries


class Credentials:
    """The password or token for a login; to be asked from any thread.

    One command runs at a time, and its answer is shared by all who waited for it, so fifty connections that are made
    anew together ask for one token, and a password manager pops up once.
    """

    def __init__(
        self,
        imap: Imap,
        asker: Asker,
        *,
        stopped: Callable[[], bool] = bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stopped` ends a command that runs. `clock` gives seconds and never runs backwards."""
        self._imap, self._asker, self._stopped, self._clock = imap, asker, stopped, clock
        self._lock = threading.Lock()
        self._password: Secret | None = None
        self._token = Secret("")
        self._token_at = -1.0

    def secret(self) -> str:
        """The token (fetched anew for each login), or the password (found once).

        CommandFailed when the command does; LoginRefused when there is no password and nobody to ask.
        """
        asked = self._clock()
        with self._lock:
            if self._imap.oauth2_username:
                if self._token_at < asked:
                    self._token = self._run(self._imap.oauth2_refresh_command, "token")
                    self._token_at = self._clock()
                return self._token.reveal()
            if self._password is None:
                self._password = self._find_password()
            return self._password.reveal()

    def refused(self) -> None:
        """The server refused the login: a command may have another password by now."""
        with self._lock:
            if self._imap.login_password_command:
                self._password = None

    def _find_password(self) -> Secret:
        imap = self._imap
        if imap.login_password is not None:
            return imap.login_password
        if imap.login_password_command:
            return self._run(imap.login_password_command, "password")
        answer = self._asker.password(f"Password of {imap.login} at {imap.host}:{imap.port}:")
        if answer is None:
            raise LoginRefused(
                f"no password for {imap.login} at {imap.host}",
                remedy="set imap.login_password_command or imap.login_password, or run it in a terminal",
            )
        return Secret(answer)

    def _run(self, argv: tuple[str, ...], what: Literal["password", "token"]) -> Secret:
        from pushpull.commands import run_secret_command

        return run_secret_command(argv, COMMAND_SECONDS, what, self._stopped)


def account_of(config: Config, credentials: Credentials, trace: Callable[[str], None] | None) -> Account:
    """The account of a configuration."""
    imap, ssl = config.imap, config.ssl
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
        secret=credentials.secret,
        trace=trace,
    )


class Holds(Protocol):
    """How long a door stays shut."""

    def take(self, error: PushpullError) -> float:
        """Seconds, after one more such failure in a row."""

    def reset(self) -> None:
        """A login went well."""


class Door:
    """Where every thread logs in. What another attempt would not mend (a refused login, a certificate, a command that
    failed) shuts it for everyone: servers lock accounts for less. After a while, or `reopen`, one may try for all.
    """

    def __init__(
        self,
        account: Account,
        credentials: Credentials,
        holds: Holds | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without `holds` it stays shut. `clock` gives seconds and never runs backwards."""
        self._account, self._credentials, self._holds, self._clock = account, credentials, holds, clock
        self._lock = threading.Lock()
        self._shut: PushpullError | None = None
        self._until = 0.0
        self._ahead: tuple[Aside[Client], float] | None = None
        self.opened: Callable[[], None] = lambda: None
        """Called, in any thread, when a door that was shut is open again."""

    def connect_ahead(self, dialled: Dialled | None = None) -> None:
        """Connect now (over the socket that `dialled` gives), for the next login, while the caller does something else.
        Nothing is sent, and nothing raised before that login."""
        self._ahead = Aside(partial(connect, self._account, dialled)), self._clock()

    def _connected(self) -> Client:
        if self._ahead is not None:
            (link, since), self._ahead = self._ahead, None
            client = link.result()
            if self._clock() - since < _FRESH_SECONDS:
                return client
            client.shutdown()
        return connect(self._account)

    def open(self) -> Session:
        """A logged-in session. Errors as `connect.open_session`, and the one that shut the door."""
        with self._lock:
            shut = self._shut
            if shut is not None:
                if self._clock() < self._until:
                    raise shut.with_traceback(None)
                self._until = self._clock() + _TRIAL_SECONDS
        try:
            session = open_session(self._account, self._connected)
        except PushpullError as error:
            if isinstance(error, LoginRefused):
                self._credentials.refused()
            self._failed(error)
            raise
        with self._lock:
            self._shut = None
            if self._holds is not None:
                self._holds.reset()
        if shut is not None:
            self.opened()
        return session

    def _failed(self, error: PushpullError) -> None:
        with self._lock:
            if isinstance(error, HOPELESS):
                self._shut = error
                self._until = math.inf if self._holds is None else self._clock() + self._holds.take(error)
            elif self._shut is not None:
                self._until = self._clock()

    def shut_for(self) -> float:
        """Seconds until one may try again; 0 when it is open."""
        with self._lock:
            return max(0.0, self._until - self._clock()) if self._shut is not None else 0.0

    def reopen(self) -> None:
        """The next login is tried for real."""
        with self._lock:
            self._until = 0.0


class Sessions:
    """One session for all pairings of the account, made anew after a failure. Of one thread, but for `interrupt`."""

    def __init__(self, door: Door, made: Callable[[], None] = lambda: None) -> None:
        """`made` is called after each login."""
        self._door, self._made = door, made
        self._lock = threading.Lock()
        self._session: Session | None = None
        self.served = False  # the session has done its work once already
        self.failure: PushpullError | None = None  # of the last attempt to log in
        self._doubtful, self._asleep = False, _asleep()

    @property
    def connected(self) -> bool:
        """There is a session, as far as we know."""
        return self._session is not None

    @property
    def unreachable(self) -> bool:
        """The last attempt to connect failed, for now."""
        return isinstance(self.failure, Temporary) and not isinstance(self.failure, CommandFailed)

    def get(self) -> Session:
        """A logged-in session. Errors as `Door.open`."""
        asleep = _asleep()
        if self.served and (self._doubtful or asleep - self._asleep > _NAP_SECONDS):
            self._probe()
        self._doubtful, self._asleep = False, asleep
        if self._session is None:
            try:
                session = self._door.open()
            except PushpullError as error:
                self.failure = error
                raise
            with self._lock:
                self._session = session
            self.failure, self.served = None, False
            self._made()
        return self._session

    def drop(self) -> None:
        """The session is not to be used again."""
        with self._lock:
            session, self._session = self._session, None
        self.served = False
        if session is not None:
            session.close()

    def doubt(self) -> None:
        """The link may be a dead one that nobody told us of: `get` is to see whether it answers, and soon."""
        self._doubtful = True

    def _probe(self) -> None:
        if self._session is None:
            return
        client = self._session.client
        timeout = client.sock.gettimeout()
        try:
            client.sock.settimeout(min(timeout or _PROBE_SECONDS, _PROBE_SECONDS))
            client.run(b"NOOP")
            client.sock.settimeout(timeout)
        except (ConnectionLost, OSError):
            self.drop()

    def interrupt(self) -> None:
        """From another thread: cut the link, so that whatever waits for it gets ConnectionLost."""
        with self._lock:
            if self._session is not None:
                self._session.interrupt()


def _asleep() -> float:
    """Seconds that this machine was suspended, since it was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
