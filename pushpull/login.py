# SPDX-License-Identifier: MIT
"""Signing in over our own client."""

from __future__ import annotations

from pushpull import sasl, wire
from pushpull.framing import Command
from pushpull.transport import Client


def sign_in(client: Client, mechanism: str, login: str, secret: str) -> Command:
    """Log in by "LOGIN" or a SASL mechanism; the server's answer, whether it is yes or no."""
    client.trace.keep_secret(*sasl.forms(login, secret))
    client.trace.hidden = (login,)
    try:
        if mechanism == "LOGIN":
            return client.run(b" ".join([b"LOGIN", *(wire.quoted(text.encode("ascii")) for text in (login, secret))]))
        if mechanism == "OAUTHBEARER":
            client.authenticate(mechanism, lambda _: sasl.oauthbearer(login, secret))
        else:
            from pushpull import helpers

            helpers.authenticate(client, mechanism, login, secret)
    finally:
        client.trace.hidden = ()
    return client.last
