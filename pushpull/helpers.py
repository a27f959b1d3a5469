# SPDX-License-Identifier: MIT
"""What imap-tools does for us, over our own client: SASL logins, and mailbox names beyond ASCII.

To be imported where it is needed: with the `email` package in its train, it takes longer to import than all the rest
of the program. A login by LOGIN, and a name in ASCII, do without.
"""

from __future__ import annotations

import imap_tools
from imap_tools.utils import encode_folder

from pushpull.dial import lost
from pushpull.transport import FOREIGN, Client


class Mailbox(imap_tools.BaseMailBox):
    """imap-tools' mailbox; only its login helpers are used."""

    def __init__(self, client: Client) -> None:
        self._ours = client
        super().__init__()

    def _get_mailbox_client(self) -> Client:  # type: ignore[override]
        return self._ours


def authenticate(client: Client, mechanism: str, login: str, secret: str) -> None:
    """PLAIN or XOAUTH2; the server's answer is the client's `last`. ConnectionLost."""
    box = Mailbox(client)
    try:
        if mechanism == "PLAIN":
            box.login_utf8(login, secret, initial_folder=None)
        else:
            box.xoauth2(login, secret, initial_folder=None)
    except imap_tools.UnexpectedCommandStatusError:
        return  # a NO: the answer tells
    except (*FOREIGN, imap_tools.ImapToolsError) as error:
        client.shutdown()
        raise lost(client.peer, error) from error


def mailbox_name(name: str) -> bytes:
    """In modified UTF-7 (RFC 3501 section 5.1.3), quoted. UnicodeError when it is no Unicode text."""
    return encode_folder(name)
