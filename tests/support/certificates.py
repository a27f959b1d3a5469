# SPDX-License-Identifier: MIT
"""A certificate authority made on the spot, and server certificates good and bad."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files in one directory. Each server certificate X.pem has its key in X.key."""

    directory: Path

    @property
    def ca_file(self) -> Path:
        return self.directory / "ca.pem"

    def pem(self, name: str) -> Path:
        """`name` is one of `make_certificates`."""
        return self.directory / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.directory / f"{name}.key"

    def server_context(self, name: str = "good") -> ssl.SSLContext:
        """For a server with that certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem(name), self.key(name))
        return context

    def sha256(self, name: str) -> str:
        """SHA-256 of the leaf's DER, in hex: what `ssl.certificate_sha256` takes."""
        certificate = x509.load_pem_x509_certificate(self.pem(name).read_bytes())
        return certificate.fingerprint(hashes.SHA256()).hex()


def make_certificates(directory: Path) -> Certificates:
    """Make a CA and server certificates in `directory`: good (localhost, 127.0.0.1), wronghost (imap.example.org),
    expired (2020), notyet (a year ahead), stranger (right names, signed by a CA that nobody has), selfsigned, nameonly
    (localhost, no address), wildcard (*.example.org), client (not for servers), forged (signed with good's key)."""
    directory.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    day = timedelta(days=1)
    ca_key, ca = _authority("pushpull test CA", now)
    other_key, other = _authority("an unknown CA", now)
    _write(directory / "ca.pem", ca.public_bytes(serialization.Encoding.PEM))
    good = (now - day, now + 30 * day)
    past = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 2, 1, tzinfo=UTC))
    for name, host, valid, issuer_key, issuer in (
        ("good", "localhost", good, ca_key, ca),
        ("wronghost", "imap.example.org", good, ca_key, ca),
        ("expired", "localhost", past, ca_key, ca),
        ("notyet", "localhost", (now + 365 * day, now + 400 * day), ca_key, ca),
        ("stranger", "localhost", good, other_key, other),
        ("nameonly", "localhost", good, ca_key, ca),
        ("wildcard", "*.example.org", good, ca_key, ca),
        ("client", "localhost", good, ca_key, ca),
    ):
        made = _server(directory / name, host, valid, issuer_key, issuer)
        if name == "good":
            _server(directory / "forged", "imap.example.org", good, *made)
            chain = (directory / "forged.pem").read_bytes() + (directory / "good.pem").read_bytes()
            _write(directory / "forged.pem", chain)
    _server(directory / "selfsigned", "localhost", good, None, None)
    return Certificates(directory)


def _authority(name: str, now: datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2019, 1, 1, tzinfo=UTC))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return key, builder.sign(key, hashes.SHA256())


def _server(
    stem: Path,
    host: str,
    valid: tuple[datetime, datetime],
    issuer_key: ec.EllipticCurvePrivateKey | None,
    issuer: x509.Certificate | None,
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Signed by itself without an issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    names: list[x509.GeneralName] = [x509.DNSName(host)]
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH if stem.name == "client" else ExtendedKeyUsageOID.SERVER_AUTH
    if host == "localhost" and stem.name != "nameonly":
        names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key((issuer_key or key).public_key()), critical=False
        )
        .sign(issuer_key or key, hashes.SHA256())
    )
    _write(stem.with_suffix(".pem"), certificate.public_bytes(serialization.Encoding.PEM))
    _write(
        stem.with_suffix(".key"),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    return key, certificate


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o644)
