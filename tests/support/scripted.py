# SPDX-License-Identifier: MIT
"""A socket whose other end was written down beforehand: what the client gets, however it is cut, and what it sent."""

from __future__ import annotations

import socket
from typing import cast

from pushpull.transport import Client


class ScriptedSocket:
    """`answers` are received in this order, each by as many recv() calls as it needs; then the end of the stream, or
    `error`. Answers may be there before their question: the client cannot tell."""

    def __init__(self, *answers: bytes, error: Exception | None = None, send_error: Exception | None = None) -> None:
        self._answers = [answer for answer in answers if answer]
        self.error, self.send_error = error, send_error
        self.sent = bytearray()
        self.received = 0
        self.closed = False

    def recv(self, size: int, flags: int = 0) -> bytes:
        if not self._answers:
            if self.error is not None:
                raise self.error
            return b""
        data = self._answers[0][:size]
        self._answers[0] = self._answers[0][size:]
        if not self._answers[0]:
            del self._answers[0]
        self.received += len(data)
        return data

    def sendall(self, data: bytes) -> None:
        if self.send_error is not None:
            raise self.send_error
        self.sent += data

    def gettimeout(self) -> float | None:
        return 7.0

    def settimeout(self, seconds: float | None) -> None: ...

    def shutdown(self, how: int) -> None: ...

    def close(self) -> None:
        self.closed = True

    def as_socket(self) -> socket.socket:
        return cast(socket.socket, self)

    @property
    def lines(self) -> list[str]:
        return self.sent.decode("latin-1").split("\r\n")[:-1]


def scripted_client(*answers: bytes, greeting: bytes = b"* OK ready\r\n", trace: list[str] | None = None) -> Client:
    """A client that was greeted and will get `answers`; its commands are tagged P1, P2, ..."""
    return Client(
        "test:143", ScriptedSocket(greeting, *answers).as_socket, trace=None if trace is None else trace.append
    )
