# SPDX-License-Identifier: MIT
"""Which login is used, and what the mechanisms say. Pure.

OAUTHBEARER: RFC 7628. XOAUTH2: its predecessor at Google and Microsoft. PLAIN: RFC 4616. SASL-IR: RFC 4959.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Iterable

from pushpull import wire
from pushpull.errors import LoginRefused, ServerUnsupported

_SHOWN = ("status", "error", "error_description", "schemes", "scope")


def mechanism(auth: str, capabilities: Collection[str], login: str, secret: str) -> str:
    """One of LOGIN, PLAIN, OAUTHBEARER, XOAUTH2, for `auth` "password" or "oauth2".

    ServerUnsupported when the server offers none that would do, LoginRefused for what no login can carry.
    """
    if "\0" in login + secret:
        raise LoginRefused("the user name or the password holds a NUL octet, which no server takes")
    if auth == "oauth2":
        if "\1" in login + secret or "\n" in login + secret or "\r" in login + secret:
            raise LoginRefused("the user name or the token holds a control character")
        for name in ("OAUTHBEARER", "XOAUTH2"):
            if f"AUTH={name}" in capabilities:
                return name
        raise ServerUnsupported("the server offers no OAuth2 login (AUTH=OAUTHBEARER or AUTH=XOAUTH2)")
    plain_text = (login + secret).isascii() and "\r" not in login + secret and "\n" not in login + secret
    if plain_text and "LOGINDISABLED" not in capabilities:
        return "LOGIN"
    if "AUTH=PLAIN" in capabilities:
        return "PLAIN"
    if "LOGINDISABLED" in capabilities:
        raise ServerUnsupported("the server disables LOGIN and does not offer AUTH=PLAIN")
    raise ServerUnsupported(
        "the user name or password is not ASCII, and the server does not offer AUTH=PLAIN to send it",
        remedy="use a password of ASCII characters",
    )


def oauthbearer(login: str, token: str) -> str:
    """Initial response (RFC 7628 section 3.1); '=' and ',' of the user name are escaped as in RFC 5801."""
    name = login.replace("=", "=3D").replace(",", "=2C")
    return f"n,a={name},\1auth=Bearer {token}\1\1"


def forms(login: str, secret: str) -> tuple[str, ...]:
    """What gives the secret away in what a server says: the secret itself, and all that a client may have said it in
    (a quoted string, an initial response). Longest first, so that no part is left over."""
    plain = (secret, f"\0{login}\0{secret}", f"user={login}\1auth=Bearer {secret}\1\1", oauthbearer(login, secret))
    encoded = {base64.b64encode(text.encode("utf-8", "surrogateescape")).decode() for text in plain}
    quoted = secret.replace("\\", "\\\\").replace('"', '\\"')
    escaped = [wire.printable(text.encode("utf-8", "surrogateescape")) for text in (secret, quoted)]
    return tuple(sorted({secret, quoted, *encoded, *escaped} - {""}, key=len, reverse=True))


def conceal(text: str, hidden: Iterable[str]) -> str:
    """The text with `***` for each of the hidden."""
    for form in hidden:
        text = text.replace(form, "***")
    return text


def closing(name: str) -> bytes:
    """What ends the exchange after the server's error: a lone ^A for OAUTHBEARER (RFC 7628 section 3.2.3), an empty
    line for XOAUTH2, the cancelling '*' for all others (RFC 9051 section 6.2.2)."""
    return {"OAUTHBEARER": b"AQ==", "XOAUTH2": b""}.get(name, b"*")


def failure(challenge: bytes) -> str:
    """The words in an OAuth2 error (base64 of JSON); the undecoded text where it is neither."""
    try:
        text = base64.b64decode(challenge, validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return challenge.decode("ascii", "backslashreplace")
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(told, dict):
        return text
    return ", ".join(f"{key}: {told[key]}" for key in _SHOWN if told.get(key)) or text
