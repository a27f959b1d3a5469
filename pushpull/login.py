# SPDX-License-Identifier: MIT
"""Signing in, by imap-tools' helpers over our own client."""

from __future__ import annotations

import imaplib

import imap_tools

from pushpull import sasl
from pushpull.framing import Command, lost
from pushpull.transport import FOREIGN, Client


class Mailbox(imap_tools.BaseMailBox):
    """imap-tools' mailbox over our client; only its login helpers are used."""

    def __init__(self, client: Client) -> None:
        self._ours = client
        super().__init__()

    def _get_mailbox_client(self) -> imaplib.IMAP4:
        return self._ours


def sign_in(client: Client, mechanism: str, login: str, secret: str) -> Command:
    """Log in by "LOGIN" or a SASL mechanism; the server's answer, whether it is yes or no."""
    box = Mailbox(client)
    client.trace.keep_secret(*sasl.forms(login, secret))
    client.trace.hidden = (login,)
    try:
        if mechanism == "LOGIN":
            box.login(login, secret, initial_folder=None)
        elif mechanism == "PLAIN":
            box.login_utf8(login, secret, initial_folder=None)
        elif mechanism == "XOAUTH2":
            box.xoauth2(login, secret, initial_folder=None)
        else:
            client.authenticate(mechanism, lambda _: sasl.oauthbearer(login, secret))
    except imap_tools.UnexpectedCommandStatusError:
        return client.last  # a NO: the answer tells
    except FOREIGN as error:
        client.shutdown()
        raise lost(client.peer, error) from error
    finally:
        client.trace.hidden = ()
    return client.last
