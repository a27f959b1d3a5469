# SPDX-License-Identifier: MIT
"""A TCP connection to the server, and what an error of the network is here.

Little is imported for it, since a one-shot run dials first and imports the rest of what talks while the network works.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, TypeAlias

from pushpull.errors import ConnectionLost

# A quiet link is probed well before a home router forgets it; the kernel's default is two hours.
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 240), (socket.TCP_KEEPINTVL, 30), (socket.TCP_KEEPCNT, 4))

Dialled: TypeAlias = Callable[[], socket.socket]
"""Gives a connected socket, or raises as `dial`."""


def dial(host: str, port: int, timeout: float) -> socket.socket:
    """Each address of the name is tried, IPv6 and IPv4, for `timeout` seconds. ConnectionLost when none answers."""
    peer = f"{host}:{port}"
    try:
        sock = socket.create_connection((plain(host), port), timeout)
    except (OSError, ValueError) as error:  # ValueError: a name that IDNA cannot hold, a port that is none
        failure = lost(peer, error, timeout)
        raise ConnectionLost(f"cannot connect to {failure}", remedy="check imap.host and imap.port") from error
    except OverflowError as error:
        raise ConnectionLost(f"cannot connect to {peer}: no such port", remedy="check imap.port") from error
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEP_ALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        # Unanswered data ends the link after the timeout, not after the kernel's quarter of an hour.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout * 1000))
    except OSError as error:
        sock.close()
        raise lost(peer, error) from error
    return sock


def plain(host: str) -> Any:
    """A name in ASCII as octets: for text Python loads a codec first, of international names."""
    return host.encode("ascii") if host.isascii() else host


def lost(peer: str, error: BaseException, seconds: float | None = None) -> ConnectionLost:
    """The error of this program for a foreign one, naming the server."""
    if isinstance(error, TimeoutError):
        return ConnectionLost(f"{peer}: no answer" + (f" within {seconds:g} s" if seconds else ""))
    reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return ConnectionLost(f"{peer}: {reason}")
