# SPDX-License-Identifier: MIT
"""Certificates and TLS that are not to be trusted: each over a real handshake, before anything secret is sent, and each
told with what to do. Those of a whole Dovecot: test_connect.py."""

from __future__ import annotations

import socket
import ssl
import threading
import warnings
from collections.abc import Callable

import pytest

from pushpull import connect
from pushpull.connect import Account, open_session
from pushpull.errors import CertificateRefused, ConnectionLost, ServerUnsupported
from tests.support.dovecot import certificates
from tests.support.listener import Listener, Peer

SECRET = "hunter2"


def account(port: int, host: str = "localhost", **changes: object) -> Account:
    settings = {
        "host": host, "port": port, "tls": "implicit", "ca_file": str(certificates().ca_file), "pins": (),
        "timeout": 20.0, "disabled": frozenset(), "login": "alice", "auth": "password", "secret": lambda: SECRET,
    }  # fmt: skip
    return Account(**(settings | changes))  # type: ignore[arg-type]


def serves(certificate: str, how: str) -> Callable[[Peer], None]:
    """A server that would take any login."""

    def talk(peer: Peer) -> None:
        if how == "starttls":
            peer.say(b"* OK [CAPABILITY IMAP4rev1 STARTTLS] hi")
            peer.hear()
            peer.say(b"P1 OK go")
        peer.secure(certificate)
        if how == "implicit":
            peer.say(b"* OK [CAPABILITY IMAP4rev1] hi")
        while line := peer.hear():
            tag, _, command = line.partition(b" ")
            peer.say(b"* CAPABILITY IMAP4rev1" if command == b"CAPABILITY" else b"* OK", tag + b" OK done")

    return talk


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name is that of this machine, as it is for who commands the name service."""
    real = socket.getaddrinfo
    monkeypatch.setattr(connect.socket, "getaddrinfo", lambda _, *rest, **named: real("127.0.0.1", *rest, **named))


REFUSED = {
    # certificate, imap.host: the reason, and what to do
    ("expired", "localhost"): ("certificate has expired", "renew it"),
    ("notyet", "localhost"): ("not yet valid", "set the clock"),
    ("wronghost", "localhost"): ("Hostname mismatch", "set imap.host"),
    ("nameonly", "127.0.0.1"): ("IP address mismatch", "set imap.host"),
    ("stranger", "localhost"): ("unable to get local issuer", "set ssl.certificate_file"),
    ("selfsigned", "localhost"): ("self-signed certificate", "set ssl.certificate_file"),
    ("client", "localhost"): ("certificate purpose", "check imap.host"),
    ("forged", "imap.example.org"): ("invalid CA certificate", "check imap.host"),
    ("wildcard", "example.org"): ("Hostname mismatch", "set imap.host"),
    ("wildcard", "a.b.example.org"): ("Hostname mismatch", "set imap.host"),
    ("wildcard", "example.org.evil.test"): ("Hostname mismatch", "set imap.host"),
    ("good", "localhost.evil.test"): ("Hostname mismatch", "set imap.host"),
}


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("how", ["implicit", "starttls"])
@pytest.mark.parametrize(("certificate", "host"), REFUSED)
def test_a_certificate_that_is_not_to_be_trusted(certificate: str, host: str, how: str) -> None:
    reason, what_to_do = REFUSED[certificate, host]
    with Listener(serves(certificate, how)) as server:
        with pytest.raises(CertificateRefused, match=f"{host}:{server.port}: certificate refused: ") as caught:
            open_session(account(server.port, host, tls=how))
        assert not [line for line in server.heard if b"LOGIN" in line or SECRET.encode() in line]
    assert reason.lower() in str(caught.value).lower().replace("self signed", "self-signed")
    assert what_to_do in caught.value.remedy
    assert certificates().sha256(certificate) in caught.value.remedy
    assert "if its administrator confirms" in caught.value.remedy


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize(
    ("certificate", "host"), [("wildcard", "a.example.org"), ("nameonly", "localhost"), ("good", "127.0.0.1")]
)
def test_a_certificate_that_is_trusted(certificate: str, host: str) -> None:
    with Listener(serves(certificate, "implicit")) as server:
        session = open_session(account(server.port, host))
        session.client.shutdown()
        assert [line for line in server.heard if SECRET.encode() in line]


@pytest.mark.parametrize("certificate", ["expired", "notyet", "wronghost", "stranger", "selfsigned"])
def test_a_pin_tells_one_bad_certificate_from_all_others(certificate: str) -> None:
    """It replaces name, dates and chain, so the one that is pinned is let in, and no better one in its place."""
    pinned = (certificates().sha256(certificate),)
    with Listener(serves(certificate, "implicit")) as server:
        open_session(account(server.port, ca_file=None, pins=pinned)).client.shutdown()
    with Listener(serves("good", "implicit")) as server:
        with pytest.raises(CertificateRefused, match="not the pinned one") as caught:
            open_session(account(server.port, pins=pinned))
        assert server.heard == []
    assert "ask the server's administrator whether it was replaced" in caught.value.remedy


OLD = (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1)


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("version", OLD)
def test_tls_of_another_age(version: ssl.TLSVersion, pinned: bool) -> None:
    def talk(peer: Peer) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates().pem("good"), certificates().key("good"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = version
        context.set_ciphers("ALL:@SECLEVEL=0")
        peer.sock = context.wrap_socket(peer.sock, server_side=True)
        peer.say(b"* OK [CAPABILITY IMAP4rev1] hi")
        peer.hear()

    pins = (certificates().sha256("good"),) if pinned else ()
    with Listener(talk) as server:
        with pytest.raises(ServerUnsupported, match=r"no TLS 1\.2 or newer") as caught:
            open_session(account(server.port, pins=pins))
        assert server.heard == []
    assert "update" in caught.value.remedy


@pytest.mark.parametrize(
    "injected",
    [
        b"P1 OK go\r\nP2 OK [CAPABILITY IMAP4rev1] in\r\n",
        b"P1 OK go\r\n* OK",
        b"P1 OK go\r\n* PREAUTH [CAPABILITY IMAP4rev1] welcome\r\n",
        b"P1 OK go\r\n\r\n",
    ],
)
def test_what_is_said_behind_the_answer_to_starttls_never_counts(injected: bytes) -> None:
    """Nor when it comes in a packet of its own: then it stands where the handshake is awaited."""
    for apart in (False, True):
        said = threading.Event()

        def talk(peer: Peer, apart: bool = apart, said: threading.Event = said) -> None:
            peer.say(b"* OK [CAPABILITY IMAP4rev1 STARTTLS] hi")
            peer.hear()
            first, end, rest = injected.partition(b"\r\n")
            peer.sock.sendall(first + end + (b"" if apart else rest))
            if apart:
                peer.sock.recv(1)  # of the handshake
                peer.sock.sendall(rest.ljust(8, b"."))  # a TLS record's head, and more
            said.set()
            while peer.sock.recv(4096):
                pass

        with Listener(talk) as server:
            with pytest.raises((ServerUnsupported, ConnectionLost)) as caught:
                open_session(account(server.port, tls="starttls"))
            assert said.wait(20)
            assert server.heard == [b"P1 STARTTLS"]
        if not apart:
            assert "in the clear after the answer to STARTTLS" in str(caught.value)


def test_a_link_that_turns_back_to_clear_text_ends() -> None:
    """Whoever cuts TLS short and goes on in the clear is not listened to."""

    def talk(peer: Peer) -> None:
        plain = peer.sock.dup()
        peer.secure()
        peer.say(b"* OK hi")
        peer.hear()
        plain.sendall(b"* CAPABILITY IMAP4rev1\r\nP1 OK done\r\n")
        plain.recv(4096)
        plain.close()

    with Listener(talk) as server:
        with pytest.raises(ConnectionLost):
            open_session(account(server.port))
        assert server.heard == [b"P1 CAPABILITY"]
