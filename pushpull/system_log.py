# SPDX-License-Identifier: MIT
"""The system log: one datagram a line, as syslog(3) sends them but for the time, which syslogd adds.

`logging.handlers.SysLogHandler` would wait without end for a syslogd that has stopped reading.
"""

from __future__ import annotations

import os
import socket
import threading

from pushpull.errors import LocalDiskError
from pushpull.wording import printable

ADDRESS = "/dev/log"

_MAIL = 2 << 3  # the facility
_SEVERITIES = {"error": 3, "warning": 4, "notice": 5, "info": 6, "debug": 7}
_LIMIT = 2000  # characters: at most 8 kB, which is what rsyslog takes in one
_PATIENCE_SECONDS = 1.0


class SystemLog:
    """Sends `<PRI>pushpull[PID]: text`, from any thread; `level` is a name of `[log] level`."""

    def __init__(self, address: str, level: str) -> None:
        """LocalDiskError when nobody listens."""
        self._address = address
        self._highest = _SEVERITIES[level]
        self._lock = threading.Lock()
        self._broken = False
        try:
            with _socket() as sock:
                sock.connect(address)
        except OSError as error:
            raise LocalDiskError(
                f"the system log at {printable(address)} cannot be reached: {_reason(error)}",
                remedy="Start a syslog service, or log to a file of your own with [log] file.",
            ) from error

    def write(self, level: str, text: str) -> str:
        """The fault when it could not be sent, told once; else ""."""
        severity = _SEVERITIES[level]
        if severity > self._highest:
            return ""
        line = f"<{_MAIL | severity}>pushpull[{os.getpid()}]: {printable(text, _LIMIT)}"
        with self._lock:
            # A socket for each line: syslogd is found again when it was restarted, and no daemon or hook inherits one.
            try:
                with _socket() as sock:
                    # One that is busy is waited for, one that hangs is not waited for with each line.
                    sock.settimeout(0 if self._broken else _PATIENCE_SECONDS)
                    sock.sendto(line.encode("utf-8", "backslashreplace"), self._address)
            except OSError as error:
                told, self._broken = self._broken, True
                return "" if told else _reason(error)
            self._broken = False
            return ""


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
