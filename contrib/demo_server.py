# SPDX-License-Identifier: MIT
"""The demo's mail server: pymap on loopback, in memory, over STARTTLS; and the 'other mail program' that uses it."""

from __future__ import annotations

import imaplib
import ipaddress
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

USER, PASSWORD, MAILBOX = "ada", "only-a-demo", "INBOX"
FLAGS = {"D": "\\Draft", "F": "\\Flagged", "R": "\\Answered", "S": "\\Seen", "T": "\\Deleted"}
_START_SECONDS = 20
# The server ends when its standard input does: with us, however we end.
_PYMAP = """
import os, threading
threading.Thread(target=lambda: os.read(0, 1) or os._exit(0), daemon=True).start()
from pymap.main import main
main()
"""


class ServerTrouble(Exception):
    """The server did not start, or did not do what it was asked."""


class Server:
    """A running server that only this machine reaches; `log` holds every command that it was given."""

    def __init__(self, port: int, certificate: Path, log: Path) -> None:
        self.port = port
        self.certificate = certificate
        self._log = log

    def commands_of_pushpull(self) -> Counter[str]:
        """How often pushpull gave which command, such as `UID FETCH`, on all its connections together."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        lines = [line for line in lines if "-->|" in line]
        ours = {line.split()[0] for line in lines if re.search(r"-->\| \S+ ID \(.*pushpull", line)}
        # pymap logs a message that is uploaded line by line, too: only tagged lines are commands.
        given = [re.match(r"(\S+) -->\| P\d+ ((?:UID )?[A-Z]+)", line) for line in lines]
        return Counter(found[2] for found in given if found and found[1] in ours)


@contextmanager
def running_server(directory: Path) -> Iterator[Server]:
    """A server that ends with the block; its files go to the directory."""
    certificate, key, log = (directory / name for name in ("server.pem", "server.key", "server.log"))
    make_certificate(certificate, key)
    process, port = _start(certificate, key, log)
    try:
        yield Server(port, certificate, log)
    finally:
        _end(process)


def _start(certificate: Path, key: Path, log: Path) -> tuple[subprocess.Popen[bytes], int]:
    # pymap cannot tell which port it was given: one is chosen for it, and another when it was taken meanwhile.
    for _ in range(3):
        port = _free_port()
        options = ["--debug", "--host", "127.0.0.1", "--port", str(port), "--cert", certificate, "--key", key]
        account = ["dict", "--demo-user", USER, "--demo-password", PASSWORD]
        command = [sys.executable, "-c", _PYMAP, *options, *account]
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=file, start_new_session=True)
        try:
            if _answers(process, port):
                return process, port
        except BaseException:
            _end(process)
            raise
        _end(process)
    last = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise ServerTrouble(f"the mail server (pymap) does not start:\n{last}")


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether it greets; False as soon as it has ended."""
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                return connection.recv(4) == b"* OK" and process.poll() is None
        except OSError:
            time.sleep(0.02)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def make_certificate(certificate: Path, key: Path) -> None:
    """A certificate for localhost, signed by itself: who trusts the file trusts this server and no other."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pushpull demo")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.now(UTC)
    usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    usage |= dict.fromkeys(("crl_sign", "encipher_only", "decipher_only"), False)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=True, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .sign(private, hashes.SHA256())
    )
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    certificate.write_bytes(signed.public_bytes(encoding))
    key.touch(0o600)
    key.write_bytes(private.private_bytes(encoding, form, serialization.NoEncryption()))


class OtherProgram:
    """Another mail program on the same account, with the mailbox open: a context manager. What the server refuses is
    ServerTrouble.

    pymap (0.36.7) may not announce to others what comes while it announces something else. So the mailbox is opened
    once only, which is a change there, and things are done when the server is at rest.
    """

    def __init__(self, server: Server) -> None:
        self._imap = imaplib.IMAP4("localhost", server.port, timeout=30)
        self._imap.starttls(ssl.create_default_context(cafile=str(server.certificate)))
        self._imap.login(USER, PASSWORD)
        self._do(self._imap.select(MAILBOX))

    def __enter__(self) -> OtherProgram:
        return self

    def __exit__(self, *_: object) -> None:
        self._imap.shutdown()

    def put(self, message: bytes, letters: str, date: datetime) -> None:
        """Add a message with the flags that the Maildir letters stand for."""
        flags = " ".join(FLAGS[letter] for letter in letters)
        self._do(self._imap.append(MAILBOX, f"({flags})", imaplib.Time2Internaldate(date), message))

    def flag(self, uid: int, change: str) -> None:
        """`+FS` sets flags, `-T` takes one off."""
        flags = " ".join(FLAGS[letter] for letter in change[1:])
        self._do(self._imap.uid("STORE", str(uid), f"{change[0]}FLAGS", f"({flags})"))

    def expunge(self, uid: int) -> None:
        """Remove a message for good."""
        self.flag(uid, "+T")
        self._do(self._imap.uid("EXPUNGE", str(uid)))
        time.sleep(0.05)
        self._do(self._imap.select(MAILBOX))  # a change that is announced, if the EXPUNGE was not

    def look(self) -> list[tuple[int, str, bytes]]:
        """Every message: UID, letters of its flags, bytes. Changes nothing."""
        self._do(self._imap.noop())
        found = []
        for part in self._do(self._imap.uid("FETCH", "1:*", "(UID FLAGS BODY.PEEK[])")):
            if isinstance(part, tuple):
                uid, flags = re.search(rb"UID (\d+)", part[0]), re.search(rb"FLAGS \(([^)]*)\)", part[0])
                if uid is None or flags is None:
                    raise ServerTrouble(f"the server answers {part[0]!r}")
                names = flags[1].decode().split()
                found.append((int(uid[1]), "".join(key for key, name in FLAGS.items() if name in names), part[1]))
        return found

    @staticmethod
    def _do(answer: tuple[str, list]) -> list:
        if answer[0] != "OK":
            raise ServerTrouble(f"the server says {answer}")
        return answer[1]
