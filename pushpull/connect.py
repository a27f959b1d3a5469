# SPDX-License-Identifier: MIT
"""From an account to a logged-in session: connect, verify, log in, find out what the server can do."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Literal

from pushpull import __version__, refusal, sasl, tls, wire
from pushpull.dial import Dialled, dial
from pushpull.errors import (
    CertificateFileUnusable,
    CertificateRefused,
    ConnectionLost,
    LoginRefused,
    PushpullError,
    ServerBusy,
    ServerUnsupported,
)
from pushpull.framing import Command
from pushpull.login import sign_in
from pushpull.remote import COMPRESS, ENABLED, Compression, Session, extensions
from pushpull.transport import Client
from pushpull.values import field, replace, value

_LOOK_SECONDS = 10.0


@value
class Account:
    """How to reach and log in to one IMAP account. `secret` gives the password or OAuth2 token; it is asked before
    each connection. `disabled` names extensions (upper case) that are not used though the server has them. `timeout`
    is in seconds, for connecting and for every answer. `trace` gets each line sent ("C: ...") and received
    ("S: ..."), credentials and literals left out."""

    host: str
    port: int
    tls: Literal["implicit", "starttls"]
    ca_file: str | None
    pins: tuple[str, ...]
    timeout: float
    disabled: frozenset[str]
    login: str
    auth: Literal["password", "oauth2"]
    secret: Callable[[], str] = field(repr=False)
    trace: Callable[[str], None] | None = None
    compression: Compression = field(default_factory=Compression)

    @property
    def peer(self) -> str:
        return f"{self.host}:{self.port}"


def open_session(account: Account, connected: Callable[[], Client] | None = None) -> Session:
    """A logged-in session, over the link that `connected` gives, or a new one (`connect`).

    Raises ConnectionLost (no name, refused, no answer: with host and port), CertificateRefused (why, and what to
    do), ServerUnsupported (no IMAP4rev1, no STARTTLS, no login that would do), LoginRefused, ServerBusy.
    """
    secret = account.secret()
    client = connected() if connected else connect(account)
    try:
        _log_in(client, account, secret)
        return _session(client, account)
    except BaseException:
        client.shutdown()
        raise


# --- the link ------------------------------------------------------------------------------------------------


def connect(account: Account, dialled: Dialled | None = None) -> Client:
    """A link to the server, greeted and verified, over the socket that `dialled` gives, or a new one. Errors as
    `open_session`."""
    try:
        return _link(account, dialled or _dial(account), account.trace)
    except CertificateFileUnusable:
        raise
    except CertificateRefused as error:
        seen = "" if account.pins else _seen_fingerprint(account)
        if seen:  # whose it is cannot be told from here, so it is to be compared, not believed
            error.remedy += f"; or ssl.certificate_sha256 = {seen} if its administrator confirms this fingerprint"
        raise


def _seen_fingerprint(account: Account) -> str:
    """Of the certificate that the server shows, by a second connection that sends no credentials; "" when it
    cannot be had."""
    try:
        hasty = replace(account, timeout=min(account.timeout, _LOOK_SECONDS))
        client = _link(hasty, _dial(hasty), None, look=True)
    except PushpullError:
        return ""
    try:
        return tls.fingerprint(client.link)
    finally:
        client.shutdown()


def _dial(account: Account) -> Dialled:
    return partial(dial, account.host, account.port, account.timeout)


def _link(
    account: Account,
    dialled: Dialled,
    trace: Callable[[str], None] | None,
    *,
    look: bool = False,
) -> Client:
    """A connection under TLS, its certificate verified (but with `look`: then nothing may be trusted to it)."""
    context = tls.context(account.ca_file, pinned=look or bool(account.pins))

    def secure(sock: socket.socket) -> socket.socket:
        wrapped = tls.wrap(sock, account.host, account.peer, context)
        if account.pins and not look:
            tls.check_pin(wrapped, account.pins, account.peer)
        return wrapped

    if account.tls == "implicit":
        client = Client(account.peer, lambda: secure(dialled()), trace=trace)
        _greeted(client, account)
        return client
    client = Client(account.peer, dialled, trace=trace)
    try:
        _greeted(client, account)
        _start_tls(client, account, secure)
    except BaseException:
        client.shutdown()
        raise
    return client


def _greeted(client: Client, account: Account) -> None:
    greeting = client.greeting
    if greeting.status == "BYE":
        client.shutdown()
        refused = replace(greeting, status="NO")
        raise refusal.busy(refused, account.peer) or ConnectionLost(
            f"{account.peer} ended the session: {greeting.answer}"
        )


def _start_tls(client: Client, account: Account, secure: Callable[[socket.socket], socket.socket]) -> None:
    """STARTTLS (RFC 9051 section 6.2.1). Whatever the server said before is forgotten: anyone may have said it."""
    if client.greeting.status != "OK":
        raise ServerUnsupported(
            f"{account.peer}: the server greets with PREAUTH on a connection in the clear, where STARTTLS is not"
            " possible any more",
            remedy="use imap.tls = implicit",
        )
    if "STARTTLS" not in _capabilities(client):
        raise ServerUnsupported(f"{account.peer}: the server does not offer STARTTLS", remedy="use imap.tls = implicit")
    command = client.run(b"STARTTLS")
    if command.status != "OK":
        raise refusal.busy(command, account.peer) or ServerUnsupported(
            f"{account.peer}: the server refused STARTTLS: {command.answer}"
        )
    if client.buffered:
        raise ServerUnsupported(
            f"{account.peer}: something was said in the clear after the answer to STARTTLS; someone may be"
            " tampering with the connection"
        )
    client.adopt(secure(client.link))
    client.known_capabilities = None


def _capabilities(client: Client) -> frozenset[str]:
    if client.known_capabilities is None:
        client.run(b"CAPABILITY")
    return client.known_capabilities or frozenset()


# --- logging in ----------------------------------------------------------------------------------------------


def _log_in(client: Client, account: Account, secret: str) -> None:
    offered = _usable(_capabilities(client), account.disabled)
    if "IMAP4REV1" not in offered:
        raise ServerUnsupported(f"{account.peer}: the server does not offer IMAP4rev1")
    if client.greeting.status == "PREAUTH":
        return  # the certificate was verified, and the server knows us by other means
    client.sasl_ir = "SASL-IR" in offered
    try:
        mechanism = sasl.mechanism(account.auth, offered, account.login, secret)
    except (LoginRefused, ServerUnsupported) as error:
        raise type(error)(f"{account.peer}: {error}", remedy=error.remedy) from error
    client.known_capabilities = None  # those after the login are others
    command = sign_in(client, mechanism, account.login, secret)
    if command.status != "OK":
        raise _refused(client, account, command, secret)


def _refused(client: Client, account: Account, command: Command, secret: str) -> PushpullError:
    words = [command.answer, *command.told, *([f"({client.failure})"] if client.failure else [])]
    answer = sasl.conceal(" ".join(words), sasl.forms(account.login, secret))
    later = refusal.busy(command, account.peer)
    if later is not None:
        return ServerBusy(f"{account.peer} does not let {account.login} in now: {answer}", code=later.code)
    remedy = "check imap.login_username and the password"
    if account.auth == "oauth2":
        remedy = "check imap.oauth2_username and the command that gets the token"
    return LoginRefused(f"{account.peer} refused the login of {account.login}: {answer}", remedy=remedy)


def _usable(offered: frozenset[str], disabled: frozenset[str]) -> frozenset[str]:
    without = {name.upper() for name in disabled}
    if "CONDSTORE" in without:
        without.add("QRESYNC")  # it builds on CONDSTORE
    return offered - without


def _session(client: Client, account: Account) -> Session:
    """Say who we are, and enable what is used. The answers come with those of the first mailbox."""
    offered = _usable(_capabilities(client), account.disabled)
    if _within_this_machine(client.link):
        offered -= {COMPRESS}  # the work of both sides would be for nothing
    asked = offered & ENABLED if "ENABLE" in offered else frozenset()
    greeting = None
    if "ID" in offered:  # some servers let nobody in who does not say (RFC 2971)
        greeting = client.start(b'ID ("name" "pushpull" "version" %b)' % wire.quoted(__version__.encode()))
    if asked:
        greeting = client.start(("ENABLE " + " ".join(sorted(asked))).encode("ascii"))
    return Session(client, extensions(offered, asked), greeting, account.compression)


def _within_this_machine(sock: socket.socket) -> bool:
    try:
        host = str(sock.getpeername()[0])
    except OSError:
        return False
    return host == "::1" or host.removeprefix("::ffff:").startswith("127.")
