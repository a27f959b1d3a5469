# SPDX-License-Identifier: MIT
"""Nothing that the network, TLS or imap-tools raises passes the adapter: beyond it there is only our own."""

import inspect
import socket
import ssl

import imap_tools
import imap_tools.errors
import pytest

from pushpull import connect, tls
from pushpull.connect import Account, open_session
from pushpull.errors import (
    EX_CONFIG,
    CertificateRefused,
    ConnectionLost,
    LoginRefused,
    PushpullError,
    ServerUnsupported,
)
from pushpull.helpers import Mailbox
from pushpull.login import sign_in
from pushpull.transport import Client
from tests.support.scripted import ScriptedSocket


def classes(module) -> set[type[Exception]]:
    found = inspect.getmembers(module, inspect.isclass)
    return {value for name, value in found if issubclass(value, Exception) and not name.startswith("_")}


LIBRARY = classes(imap_tools) | classes(imap_tools.errors)
NETWORK = classes(ssl) | classes(socket) | {
    ConnectionResetError, ConnectionRefusedError, ConnectionAbortedError, BrokenPipeError, TimeoutError,
    BlockingIOError, InterruptedError, PermissionError, UnicodeError, ValueError,
}  # fmt: skip
ALL = sorted(LIBRARY | NETWORK, key=lambda cls: f"{cls.__module__}.{cls.__qualname__}")


def made(cls: type[Exception]) -> Exception:
    """An instance, of whatever its constructor wants."""
    if issubclass(cls, imap_tools.UnexpectedCommandStatusError):
        return cls(("NO", [b"x"]), "OK")
    for arguments in (("x",), (5, "x"), ("ascii", "x", 0, 1, "x")):
        try:
            return cls(*arguments)
        except TypeError:
            continue
    raise AssertionError(f"cannot make a {cls}")


def account(**changes) -> Account:
    settings = {
        "host": "localhost", "port": 993, "tls": "implicit", "ca_file": None, "pins": (), "timeout": 5.0,
        "disabled": frozenset(), "login": "alice", "auth": "password", "secret": lambda: "s3cret",
    }  # fmt: skip
    return Account(**(settings | changes))


def test_the_list_is_not_empty():
    names = {cls.__qualname__ for cls in ALL}
    assert {"MailboxLoginError", "MailboxTaggedResponseError", "SSLCertVerificationError", "gaierror"} <= names


@pytest.mark.parametrize("cls", sorted(NETWORK, key=lambda cls: cls.__qualname__), ids=lambda cls: cls.__qualname__)
def test_receiving(cls):
    sock = ScriptedSocket(b"* OK hello\r\n", error=made(cls))
    client = Client("test:1", sock.as_socket)
    with pytest.raises(PushpullError):
        client.run(b"NOOP")
    assert sock.closed


@pytest.mark.parametrize("cls", sorted(NETWORK, key=lambda cls: cls.__qualname__), ids=lambda cls: cls.__qualname__)
def test_sending(cls):
    sock = ScriptedSocket(b"* OK hello\r\n", send_error=made(cls))
    client = Client("test:1", sock.as_socket)
    with pytest.raises(ConnectionLost, match="test:1"):
        client.run(b"NOOP")
    assert sock.closed


@pytest.mark.parametrize("cls", sorted(NETWORK, key=lambda cls: cls.__qualname__), ids=lambda cls: cls.__qualname__)
def test_closing_never_raises(cls):
    class Stubborn(ScriptedSocket):
        def close(self):
            self.closed = True
            raise made(cls)

        def shutdown(self, how):
            raise made(cls)

        def settimeout(self, seconds):
            raise made(cls)

    sock = Stubborn(b"* OK hello\r\n", send_error=made(cls))
    client = Client("test:1", sock.as_socket)
    client.interrupt()
    client.logout()
    client.shutdown()
    assert sock.closed


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__qualname__)
@pytest.mark.parametrize("mechanism", ["PLAIN", "XOAUTH2"])
def test_logging_in(cls, mechanism, monkeypatch):
    def failing(*arguments, **options):
        raise made(cls)

    for name in ("login_utf8", "xoauth2"):
        monkeypatch.setattr(Mailbox, name, failing)
    client = Client("test:1", ScriptedSocket(b"* OK hello\r\n").as_socket)
    if issubclass(cls, imap_tools.UnexpectedCommandStatusError):
        assert sign_in(client, mechanism, "alice", "secret") is client.last  # a NO, which the answer tells
        return
    with pytest.raises(ConnectionLost):
        sign_in(client, mechanism, "alice", "secret")


@pytest.mark.parametrize("cls", sorted(NETWORK, key=lambda cls: cls.__qualname__), ids=lambda cls: cls.__qualname__)
def test_connecting(cls, monkeypatch):
    def failing(*arguments, **options):
        raise made(cls)

    monkeypatch.setattr(connect.socket, "create_connection", failing)
    with pytest.raises(ConnectionLost, match="localhost:993") as caught:
        open_session(account())
    assert caught.value.remedy


@pytest.mark.parametrize("cls", sorted(NETWORK, key=lambda cls: cls.__qualname__), ids=lambda cls: cls.__qualname__)
def test_securing(cls):
    class Context:
        def wrap_socket(self, *arguments, **options):
            error = made(cls)
            if isinstance(error, ssl.SSLCertVerificationError):
                error.verify_code, error.verify_message = 10, "certificate has expired"
            raise error

    sock = ScriptedSocket()
    with pytest.raises((ConnectionLost, CertificateRefused)) as caught:
        tls.wrap(sock, "localhost", "localhost:993", Context())
    assert isinstance(caught.value, CertificateRefused) == issubclass(cls, ssl.SSLCertVerificationError)
    assert sock.closed


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("WRONG_VERSION_NUMBER", ConnectionLost), ("TLSV1_ALERT_PROTOCOL_VERSION", ServerUnsupported)],
)
def test_tls_reasons(reason, expected):
    class Context:
        def wrap_socket(self, *arguments, **options):
            error = ssl.SSLError(1, "x")
            error.reason = reason
            raise error

    with pytest.raises(expected):
        tls.wrap(ScriptedSocket(), "localhost", "localhost:993", Context())


@pytest.mark.parametrize("port", [70000, -1])
def test_a_port_that_is_none(port):
    with pytest.raises(ConnectionLost, match=r"localhost:-?\d+: no such port|cannot connect"):
        open_session(account(port=port))


@pytest.mark.parametrize("host", ["a" * 300, "a..b", "nosuch.invalid"])
def test_a_host_that_is_none(host):
    with pytest.raises(ConnectionLost, match="cannot connect"):
        open_session(account(host=host))


def test_a_secret_that_cannot_be_had_comes_before_any_connection(monkeypatch):
    monkeypatch.setattr(connect.socket, "create_connection", lambda *_: pytest.fail("connected"))

    def refusing():
        raise LoginRefused("no password")

    with pytest.raises(LoginRefused):
        open_session(account(secret=refusing))


@pytest.mark.parametrize("contents", [None, b"", b"not PEM", b"-----BEGIN CERTIFICATE-----\nxx\n"])
def test_a_certificate_file_without_use(contents, tmp_path):
    path = tmp_path / "ca.pem"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(CertificateRefused, match="certificate_file") as caught:
        tls.context(str(path))
    assert "ssl.certificate_file" in caught.value.remedy
    assert caught.value.exit_code == EX_CONFIG  # the server has done nothing wrong


def test_an_account_does_not_show_its_secret():
    assert "s3cret" not in repr(account())
