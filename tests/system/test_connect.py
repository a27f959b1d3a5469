# SPDX-License-Identifier: MIT
"""TLS, STARTTLS, pins and logins, against a real Dovecot and against servers that misbehave."""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import Callable

import pytest

from pushpull import connect, tls
from pushpull.connect import Account, open_session
from pushpull.errors import CertificateRefused, ConnectionLost, LoginRefused, ServerBusy, ServerUnsupported
from pushpull.model import ModSeq, Uid
from pushpull.ports import Since
from tests.support.dovecot import Dovecot, certificates
from tests.support.listener import Listener, Peer

AFTER = b"CAPABILITY IMAP4rev1 ENABLE CONDSTORE QRESYNC ESEARCH"


def account(port: int, **changes) -> Account:
    settings = {
        "host": "localhost", "port": port, "tls": "implicit", "ca_file": str(certificates().ca_file), "pins": (),
        "timeout": 20.0, "disabled": frozenset(), "login": "alice", "auth": "password", "secret": lambda: "alicepw",
    }  # fmt: skip
    return Account(**(settings | changes))


def good(name: str) -> str:
    return certificates().sha256(name)


# --- certificates --------------------------------------------------------------------------------------------


def test_a_verified_session(dovecot):
    session = open_session(account(dovecot.port))
    try:
        assert session.open("INBOX", None).state.uidvalidity
        assert session.client.sock.version() in ("TLSv1.2", "TLSv1.3")
        assert session.client.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert session.client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert session.client.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20000
    finally:
        session.close()


@pytest.fixture(scope="module", params=["wronghost", "expired", "stranger"])
def bad(request):
    with Dovecot(certificate=request.param) as server:
        yield request.param, server


def test_a_bad_certificate_is_refused_and_named(bad):
    name, server = bad
    with pytest.raises(CertificateRefused, match=f"localhost:{server.port}") as caught:
        open_session(account(server.port))
    reason = {"wronghost": "Hostname mismatch", "expired": "expired", "stranger": "unable to get"}[name]
    assert reason in str(caught.value)
    assert f"ssl.certificate_sha256 = {good(name)}" in caught.value.remedy
    assert "alice" not in server.log()


def test_a_pin_replaces_chain_name_and_dates(bad):
    name, server = bad
    with_colons = ":".join(good(name)[at : at + 2] for at in range(0, 64, 2)).upper()
    open_session(account(server.port, ca_file=None, pins=("00" * 32, with_colons))).close()
    open_session(account(server.starttls_port, tls="starttls", ca_file=None, pins=(good(name),))).close()


@pytest.mark.parametrize("how", ["implicit", "starttls"])
def test_a_certificate_that_is_not_the_pinned_one_is_refused(dovecot, how):
    port = dovecot.port if how == "implicit" else dovecot.starttls_port
    with pytest.raises(CertificateRefused, match=good("good")) as caught:
        open_session(account(port, tls=how, pins=("ab" * 32,)))
    assert "ssl.certificate_sha256" in caught.value.remedy


def test_a_certificate_unknown_to_the_system_is_refused(dovecot):
    with pytest.raises(CertificateRefused, match="unable to get local issuer"):
        open_session(account(dovecot.port, ca_file=None))


@pytest.mark.parametrize("how", ["implicit", "starttls"])
def test_the_servers_own_certificate_may_be_the_certificate_file(dovecot, how):
    port = dovecot.port if how == "implicit" else dovecot.starttls_port
    open_session(account(port, tls=how, ca_file=str(certificates().pem("good")))).close()


def test_the_name_is_sent():
    names: list[str | None] = []

    def talk(peer: Peer) -> None:
        peer.secure(sni=names)
        peer.say(b"* BYE no")

    with Listener(talk) as server, pytest.raises(ConnectionLost):
        open_session(account(server.port))
    assert names == ["localhost"]


# --- reaching it ---------------------------------------------------------------------------------------------


def test_every_address_is_tried(dovecot, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = closed.getsockname()[1]
    real = socket.getaddrinfo
    monkeypatch.setattr(
        connect.socket,
        "getaddrinfo",
        lambda *_: [*real("127.0.0.1", dead, type=socket.SOCK_STREAM), *real("127.0.0.1", dovecot.port, type=1)],
    )
    open_session(account(dovecot.port)).close()


@pytest.mark.parametrize("how", ["implicit", "starttls"])
def test_the_kernel_probes_a_quiet_link(dovecot, how):
    session = open_session(account(dovecot.port if how == "implicit" else dovecot.starttls_port, tls=how))
    try:
        sock = session.client.sock
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) < 300
    finally:
        session.close()


def test_a_closed_port_names_host_and_port():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ConnectionLost, match=f"localhost:{port}: Connection refused"):
        open_session(account(port))


def silent(peer: Peer) -> None:
    while peer.hear():
        pass


def greets_only(peer: Peer) -> None:
    peer.secure()
    peer.say(b"* OK ready")
    silent(peer)


@pytest.mark.parametrize("talk", [silent, greets_only])
def test_a_silent_server_is_given_up(talk):
    with Listener(talk) as server, pytest.raises(ConnectionLost, match=rf"localhost:{server.port}: .*(0\.3 s|timed)"):
        open_session(account(server.port, timeout=0.3))


def test_a_server_without_tls_is_told(dovecot):
    with pytest.raises(ConnectionLost, match="does not speak TLS") as caught:
        open_session(account(dovecot.starttls_port))
    assert "imap.tls" in caught.value.remedy


def test_a_server_that_closes_at_once():
    with Listener(lambda _: None) as server, pytest.raises(ConnectionLost):
        open_session(account(server.port))


@pytest.mark.parametrize(
    ("greeting", "error"),
    [
        (b"* BYE [UNAVAILABLE] full", ServerBusy),
        (b"* BYE Too many connections", ServerBusy),
        (b"* BYE go away", ConnectionLost),
        (b"220 mail ESMTP", ConnectionLost),
    ],
)
def test_greetings_that_turn_away(greeting, error):
    def talk(peer: Peer) -> None:
        peer.secure()
        peer.say(greeting)

    with Listener(talk) as server, pytest.raises(error):
        open_session(account(server.port))


# --- STARTTLS ------------------------------------------------------------------------------------------------


def test_starttls(dovecot):
    trace: list[str] = []
    session = open_session(account(dovecot.starttls_port, tls="starttls", trace=trace.append))
    session.close()
    sent = [line for line in trace if line.startswith("C: ")]
    assert sent[0] == "C: P1 STARTTLS"
    assert sent[1] == "C: P2 CAPABILITY"  # what was said in the clear is forgotten
    assert sent[2] == "C: P3 LOGIN ***"


def clear(*script: bytes) -> Callable[[Peer], None]:
    """Says each line of `script` after the next line that it hears, the first at once."""

    def talk(peer: Peer) -> None:
        for line in script:
            peer.say(line)
            peer.hear()

    return talk


@pytest.mark.parametrize(
    ("talk", "reason"),
    [
        (clear(b"* OK [CAPABILITY IMAP4rev1] hi"), "does not offer STARTTLS"),
        (clear(b"* OK hi", b"* CAPABILITY IMAP4rev1 LOGINDISABLED\r\nP1 OK"), "does not offer STARTTLS"),
        (clear(b"* PREAUTH [CAPABILITY IMAP4rev1 STARTTLS] welcome, alice"), "PREAUTH"),
        (clear(b"* OK [CAPABILITY IMAP4rev1 STARTTLS] hi", b"P1 NO not now"), "refused STARTTLS"),
        (clear(b"* OK [CAPABILITY IMAP4rev1 STARTTLS] hi", b"P1 BAD what"), "refused STARTTLS"),
        (
            clear(b"* OK [CAPABILITY IMAP4rev1 STARTTLS] hi", b"P1 OK go\r\n* CAPABILITY IMAP4rev1 AUTH=EVIL"),
            "in the clear after",
        ),
    ],
)
def test_without_starttls_nothing_is_sent(talk, reason):
    with Listener(talk) as server, pytest.raises(ServerUnsupported, match=reason):
        open_session(account(server.port, tls="starttls"))
    assert {line.split()[1] for line in server.heard} <= {b"CAPABILITY", b"STARTTLS"}


def test_what_was_said_before_starttls_is_forgotten():
    def talk(peer: Peer) -> None:
        peer.say(b"* OK [CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN] hi")
        peer.hear()
        peer.say(b"* CAPABILITY IMAP4rev1 AUTH=EVIL SASL-IR", b"P1 OK [CAPABILITY IMAP4rev1 AUTH=EVIL] go")
        peer.secure()
        peer.hear()
        peer.say(b"* CAPABILITY IMAP4rev1 LOGINDISABLED", b"P2 OK")
        peer.hear()

    with Listener(talk) as server, pytest.raises(ServerUnsupported, match="disables LOGIN"):
        open_session(account(server.port, tls="starttls"))
    assert server.heard == [b"P1 STARTTLS", b"P2 CAPABILITY"]


# --- logging in ----------------------------------------------------------------------------------------------


def test_a_wrong_password(dovecot):
    with pytest.raises(LoginRefused, match=r"refused the login of alice: \[AUTHENTICATIONFAILED\]") as caught:
        open_session(account(dovecot.port, secret=lambda: "wr0ng"))
    assert caught.value.remedy == "check imap.login_username and the password"
    assert "wr0ng" not in str(caught.value)


PASSWORDS = ("pässwörd €", 'a "b\\ c', "trailing ", "()%*")


@pytest.fixture(scope="module")
def with_passwords():
    with Dovecot() as server:
        for number, password in enumerate(PASSWORDS):  # all at once: the server looks at the file once a second
            server.add_user(f"pw{number}", password)
        yield server


@pytest.mark.parametrize("disabled", [frozenset(), frozenset({"SASL-IR"})])
@pytest.mark.parametrize("number", range(len(PASSWORDS)))
def test_passwords_of_every_kind(with_passwords, number, disabled):
    secret = PASSWORDS[number]
    open_session(account(with_passwords.port, login=f"pw{number}", secret=lambda: secret, disabled=disabled)).close()


def test_line_ends_in_a_password_are_data():
    with Listener(tls_server(b"P1 NO no", greeting=BEFORE)) as server, pytest.raises(LoginRefused):
        open_session(account(server.port, secret=lambda: "a\r\nP9 LOGOUT"))
    plain = base64.b64encode(b"\0alice\0a\r\nP9 LOGOUT")
    assert server.heard == [b"P1 AUTHENTICATE PLAIN " + plain]


def test_the_secret_is_asked_before_each_connection(dovecot):
    asked = []

    def secret() -> str:
        asked.append(1)
        return "alicepw"

    this = account(dovecot.port, secret=secret)
    for _ in range(2):
        open_session(this).close()
    assert len(asked) == 2


def test_capabilities_after_the_login_count(dovecot):
    session = open_session(account(dovecot.port, login=dovecot.add_user("caps"), disabled=frozenset({"ESEARCH"})))
    assert {"QRESYNC", "UIDPLUS"} <= session.extensions.offered
    assert "ESEARCH" not in session.extensions.offered
    session.close()


def tls_server(*script: bytes, greeting: bytes = b"* OK hi") -> Callable[[Peer], None]:
    """Each line of `script` answers the next line that is heard."""

    def talk(peer: Peer) -> None:
        peer.secure()
        peer.say(greeting)
        for line in script:
            peer.hear()
            peer.say(line)
        silent(peer)

    return talk


BEFORE = b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hi"


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (b"P1 NO [AUTHENTICATIONFAILED] no", LoginRefused, "no"),
        (b"P1 NO Login failed", LoginRefused, "Login failed"),
        (b"P1 BAD what", LoginRefused, "what"),
        (b"* NO [WEBALERT https://x.example/] Web login required\r\nP1 NO [ALERT] Log in", LoginRefused, "Web login"),
        (b"P1 NO bad password s3cret", LoginRefused, r"bad password \*\*\*"),
        (b"P1 NO [UNAVAILABLE] later", ServerBusy, "later"),
        (b"P1 NO [LIMIT] Maximum number of connections", ServerBusy, "Maximum"),
        (b"P1 NO [ALERT] Too many simultaneous connections. (Failure)", ServerBusy, "Too many"),
        (b"P1 NO Too many open connections (2 of 2 for alice)", ServerBusy, "Too many"),
        (b"* BYE Too many failures", ConnectionLost, "Too many"),
    ],
)
def test_refusals(answer, error, text):
    with Listener(tls_server(answer, greeting=BEFORE)) as server, pytest.raises(error, match=text) as caught:
        open_session(account(server.port, secret=lambda: "s3cret"))
    assert type(caught.value) is error
    assert server.heard == [b'P1 LOGIN "alice" "s3cret"']


@pytest.mark.parametrize(
    ("capability", "changes", "error"),
    [
        (b"IMAP4", {}, "IMAP4rev1"),
        (b"IMAP4rev1 LOGINDISABLED AUTH=CRAM-MD5", {}, "disables LOGIN"),
        (b"IMAP4rev1 AUTH=LOGIN", {"secret": lambda: "pässwörd"}, "not ASCII"),
        (b"IMAP4rev1 AUTH=PLAIN", {"auth": "oauth2"}, "no OAuth2"),
    ],
)
def test_what_cannot_be_done_without(capability, changes, error):
    talk = tls_server(b"* CAPABILITY " + capability + b"\r\nP1 OK")
    with Listener(talk) as server, pytest.raises(ServerUnsupported, match=error):
        open_session(account(server.port, **changes))
    assert server.heard == [b"P1 CAPABILITY"]


def test_a_nul_in_the_password_is_never_sent():
    with Listener(tls_server(greeting=BEFORE)) as server, pytest.raises(LoginRefused, match="NUL"):
        open_session(account(server.port, secret=lambda: "a\0b"))
    assert server.heard == []


def test_login_disabled_means_authenticate():
    script = (b"P1 OK [" + AFTER + b"] in", b"* ENABLED CONDSTORE QRESYNC\r\nP2 OK")
    greeting = b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR LOGINDISABLED] hi"
    with Listener(tls_server(*script, greeting=greeting)) as server:
        session = open_session(account(server.port))
        assert session.qresync
        session.client.settle()  # a link that is closed with an answer unread may take what was asked with it
        session.client.shutdown()
    plain = base64.b64encode(b"\0alice\0alicepw")
    assert server.heard == [b"P1 AUTHENTICATE PLAIN " + plain, b"P2 ENABLE CONDSTORE QRESYNC"]


@pytest.mark.parametrize(
    ("after", "script", "expected"),
    [
        (b"CONDSTORE QRESYNC ENABLE", b"* ENABLED CONDSTORE\r\nP2 OK", (True, False, False)),
        (b"CONDSTORE QRESYNC ENABLE", b"* ENABLED QRESYNC\r\nP2 OK", (True, True, False)),
        (b"CONDSTORE QRESYNC ENABLE", b"P2 BAD what", (True, False, True)),
        (b"CONDSTORE QRESYNC", None, (True, False, True)),
        (b"ENABLE", None, (False, False, False)),
        (b"QRESYNC ENABLE", b"* ENABLED QRESYNC\r\nP2 OK", (True, True, False)),
    ],
)
def test_what_is_enabled_is_used(after, script, expected):
    """It is asked for ahead of the first mailbox; where it is not granted, the mailbox is opened once more."""
    presumed = "QRESYNC" in after.decode() and script is not None
    selected = [b"* 0 EXISTS\r\n* OK [UIDVALIDITY 7]\r\nP%d OK" % number for number in range(2 + bool(script), 5)]
    answers = [b"P1 OK [CAPABILITY IMAP4rev1 " + after + b"] in", *([script] if script else []), *selected]
    with Listener(tls_server(*answers, greeting=BEFORE)) as server:
        session = open_session(account(server.port))
        session.open("x", None)
        extensions = session.extensions
        session.client.shutdown()
    assert (extensions.condstore, extensions.qresync, extensions.select_condstore) == expected
    select = (
        [b"P3 SELECT", b"P4 SELECT"] if presumed and not extensions.qresync else [b"P%d SELECT" % (2 + bool(script))]
    )
    assert [line[:9] for line in server.heard if b"SELECT" in line] == select


def test_what_follows_the_login_leaves_in_one_go():
    """ID, ENABLE, and the mailbox with all that is asked of it: the server has not answered any of it."""
    login = b"P1 OK [CAPABILITY IMAP4rev1 ID ENABLE CONDSTORE QRESYNC] in"
    since = Since(7, Uid(10), ModSeq(50), (Uid(9),))
    with Listener(tls_server(login, *[b"* OK wait"] * 5, b"* BYE that is all", greeting=BEFORE)) as server:
        session = open_session(account(server.port))
        with pytest.raises(ConnectionLost, match="that is all"):
            session.open("x", since)
    said = [line.split(b" ", 2)[1] for line in server.heard]
    assert said == [b"LOGIN", b"ID", b"ENABLE", b"SELECT", b"UID", b"UID", b"UID"]


def test_preauth_under_tls_is_a_login():
    greeting = b"* PREAUTH [CAPABILITY IMAP4rev1] welcome"
    with Listener(tls_server(greeting=greeting)) as server:
        session = open_session(account(server.port))
        assert session.extensions.offered == {"IMAP4REV1"}
        session.client.shutdown()
    assert server.heard == []


# --- OAuth2 --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oauth():
    with Dovecot(settings="auth_mechanisms = plain login xoauth2 oauthbearer\n") as server:
        yield server


@pytest.mark.parametrize("disabled", [set(), {"SASL-IR"}, {"AUTH=OAUTHBEARER"}, {"AUTH=OAUTHBEARER", "SASL-IR"}])
def test_oauth2(oauth, disabled):
    trace: list[str] = []
    this = account(oauth.port, auth="oauth2", disabled=frozenset(disabled), trace=trace.append)
    session = open_session(this)
    assert session.open("INBOX", None).state.uidvalidity
    session.close()
    name = "XOAUTH2" if "AUTH=OAUTHBEARER" in disabled else "OAUTHBEARER"
    assert any(line.startswith(f"C: P1 AUTHENTICATE {name}") for line in trace)
    assert "alicepw" not in "".join(trace)


@pytest.mark.parametrize("disabled", [set(), {"SASL-IR"}, {"AUTH=OAUTHBEARER"}, {"AUTH=OAUTHBEARER", "SASL-IR"}])
def test_a_token_that_is_refused(oauth, disabled):
    this = account(oauth.port, auth="oauth2", disabled=frozenset(disabled), secret=lambda: "expired-token")
    with pytest.raises(LoginRefused, match=r"\[AUTHENTICATIONFAILED\].*status: (401|invalid_token)") as caught:
        open_session(this)
    assert caught.value.remedy == "check imap.oauth2_username and the command that gets the token"
    assert "expired-token" not in str(caught.value)


@pytest.mark.parametrize("ca_file", [None, "own"])
def test_no_flag_is_left_to_the_python_version(ca_file):
    made = tls.context(str(certificates().ca_file) if ca_file else None)
    expected = ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST
    if ca_file:
        expected |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    assert made.verify_flags == expected
    assert (made.verify_mode, made.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert made.minimum_version == ssl.TLSVersion.TLSv1_2
