# SPDX-License-Identifier: MIT
"""Which server the tests run against: `PUSHPULL_SERVER` says, Dovecot unless told."""

from __future__ import annotations

import os

from tests.support.courier import Courier
from tests.support.cyrus import Cyrus
from tests.support.dovecot import Dovecot
from tests.support.poor import Hoodiecrow, Imap4d, Pymap
from tests.support.server import Server

SERVERS: dict[str, type[Server]] = {
    server.name: server for server in (Dovecot, Cyrus, Courier, Pymap, Imap4d, Hoodiecrow)
}


def chosen() -> type[Server]:
    """The server of this test session."""
    name = os.environ.get("PUSHPULL_SERVER") or "dovecot"
    if name not in SERVERS:
        raise RuntimeError(f"PUSHPULL_SERVER={name}: must be one of {', '.join(SERVERS)}")
    return SERVERS[name]
