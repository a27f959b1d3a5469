# SPDX-License-Identifier: MIT
"""TLS with the certificate always verified: by chain and host name, or by pins."""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Sequence

from pushpull.dial import lost, plain
from pushpull.errors import CertificateFileUnusable, CertificateRefused, ConnectionLost, ServerUnsupported

_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"})
# X509_V_ERR_...: CERT_NOT_YET_VALID, CERT_HAS_EXPIRED; HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH.
_REMEDIES = {
    9: "set the clock of this machine, or ask the server's administrator",
    10: "ask the server's administrator to renew it, or set the clock of this machine",
    62: "set imap.host to a name that the certificate was made for",
    64: "set imap.host to a name that the certificate was made for",
}
_REMEDY = "check imap.host; or set ssl.certificate_file to the certificate of the server's authority"
_TOO_OLD = frozenset({"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "NO_PROTOCOLS_AVAILABLE"})


def context(ca_file: str | None, *, pinned: bool = False) -> ssl.SSLContext:
    """TLS 1.2 or newer. `ca_file` replaces the system's store; what it holds is trusted, be it a root, an
    intermediate or the server's own certificate. With `pinned` nothing is verified here: `check_pin` must follow.

    Every flag is set, since defaults differ: Python 3.13 switches VERIFY_X509_STRICT and partial chains on in
    ssl.create_default_context(). Strict refuses certificates of home-made authorities for the lack of extensions
    that prove nothing; partial chains are for what the user named alone.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.verify_flags = ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST
    if pinned:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
        return made
    made.verify_mode = ssl.CERT_REQUIRED
    made.check_hostname = True
    if ca_file is None:
        made.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return made
    made.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    try:
        made.load_verify_locations(cafile=ca_file)
    except (OSError, ValueError) as error:
        reason = "it holds no certificate in PEM form" if isinstance(error, ssl.SSLError) else str(error)
        raise CertificateFileUnusable(
            f"certificate_file {ca_file} cannot be used: {reason}", remedy="correct ssl.certificate_file"
        ) from error
    return made


def wrap(sock: socket.socket, host: str, peer: str, with_context: ssl.SSLContext) -> ssl.SSLSocket:
    """The handshake, naming `host` (SNI). CertificateRefused says why; ServerUnsupported when the server knows no
    TLS from this century's second decade on. The socket is closed when it fails."""
    seconds = sock.gettimeout()
    try:
        return with_context.wrap_socket(sock, server_hostname=plain(host))
    except ssl.SSLCertVerificationError as error:
        sock.close()
        raise CertificateRefused(
            f"{peer}: certificate refused: {error.verify_message}", remedy=_REMEDIES.get(error.verify_code, _REMEDY)
        ) from error
    except (OSError, ValueError) as error:
        sock.close()
        raise _not_secured(peer, error, seconds) from error


def _not_secured(peer: str, error: Exception, seconds: float | None) -> ConnectionLost | ServerUnsupported:
    reason = getattr(error, "reason", None)
    if reason in _TOO_OLD:
        return ServerUnsupported(
            f"{peer}: the server has no TLS 1.2 or newer", remedy="ask the server's administrator for an update"
        )
    if reason in _NOT_TLS:
        return ConnectionLost(
            f"{peer}: the server does not speak TLS here", remedy="check imap.port and imap.tls (implicit or starttls)"
        )
    return lost(peer, error, seconds)


def fingerprint(sock: socket.socket) -> str:
    """SHA-256 of the DER of the certificate that the server showed, in hex; "" when it showed none."""
    shown = sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
    return hashlib.sha256(shown).hexdigest() if shown else ""


def normal(pin: str) -> str:
    """A pin as `fingerprint` writes it: colons, blanks and case do not matter."""
    return "".join(pin.split()).replace(":", "").lower()


def check_pin(sock: ssl.SSLSocket, pins: Sequence[str], peer: str) -> None:
    """CertificateRefused, and the socket closed, unless the server's certificate is one of `pins`."""
    seen = fingerprint(sock)
    if not seen or seen not in {normal(pin) for pin in pins}:
        sock.close()
        raise CertificateRefused(
            f"{peer}: certificate refused: it is not the pinned one, its SHA-256 is {seen}",
            remedy="ask the server's administrator whether it was replaced; if so, set ssl.certificate_sha256 anew",
        )
