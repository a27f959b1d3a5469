# SPDX-License-Identifier: MIT
"""What a service manager is told: readiness, a status line, a sign of life; one datagram each (sd_notify(3)).

Telling never fails and never holds anything up: who is not listening is not told.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from pushpull.values import value
from pushpull.wording import printable

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_STATUS_LIMIT = 400  # characters; a manager may refuse a datagram of more than 4 kB
_PATIENCE_SECONDS = 1.0  # a manager that is busy; READY=1 is worth that, and no thread is lost over it


@value
class Notifier:
    """`address` as in NOTIFY_SOCKET (a path, or `@` and an abstract name), None without a manager; from any thread.

    `watchdog_seconds` is the gap between two calls of `watchdog`, half of the manager's limit; None without a limit.
    """

    address: str | None = None
    watchdog_seconds: float | None = None

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Takes the variables out of the environment: commands that we run must not speak in our name."""
        told = {name: environ.pop(name, "") for name in _VARIABLES}
        address = told["NOTIFY_SOCKET"]
        if address[:1] not in ("/", "@") or len(address) == 1:  # also vsock:, of a virtual machine's manager
            return cls()
        return cls(address, _watchdog_gap(told["WATCHDOG_USEC"], told["WATCHDOG_PID"]))

    def ready(self, status: str = "") -> bool:
        """Start-up is over. Each of these says whether it was delivered."""
        return self._send("READY=1", status)

    def status(self, status: str) -> bool:
        """One line for `systemctl status`; foreign text in it is escaped, so it cannot say anything else."""
        return self._send("", status)

    def watchdog(self) -> bool:
        """A sign of life; to be called only while everything that must live does."""
        return self._send("WATCHDOG=1")

    def stopping(self, status: str = "") -> bool:
        return self._send("STOPPING=1", status)

    def _send(self, state: str, status: str = "") -> bool:
        if self.address is None:
            return False
        lines = [state] if state else []
        if status:
            lines.append(f"STATUS={printable(status, _STATUS_LIMIT)}")
        name = os.fsencode(self.address)
        target = b"\0" + name[1:] if name.startswith(b"@") else name
        # A socket for each: nothing is open across a detachment, and a manager that was restarted is found again.
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(_PATIENCE_SECONDS)
                sock.sendto("\n".join(lines).encode("utf-8", "backslashreplace"), target)
        except OSError:
            return False
        return True


def _watchdog_gap(limit: str, pid: str) -> float | None:
    """Half of the limit, in seconds; None when there is none, or when it is meant for another process."""
    if pid and pid != str(os.getpid()):
        return None
    if not (limit.isascii() and limit.isdecimal() and len(limit) <= 18 and int(limit) > 0):
        return None
    return int(limit) / 2_000_000
