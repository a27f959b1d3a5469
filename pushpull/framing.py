# SPDX-License-Identifier: MIT
"""A socket's octets as lines and literals, and what a command's answers are kept in."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from pushpull import wire, wire_fetch
from pushpull.dial import lost
from pushpull.errors import ConnectionLost
from pushpull.values import field, struct

if TYPE_CHECKING:
    from pushpull.deflate import Deflated

Link: TypeAlias = "socket.socket | Deflated"

LINE_LIMIT = 1024 * 1024
LONG_LINE_LIMIT = 20 * 1024 * 1024
_LONG = (b"* SEARCH", b"* ESEARCH", b"* VANISHED")  # one line for a whole mailbox
_LONGEST = max(map(len, _LONG))
_RECEIVE = 65536
_CR = 13
_END = b")\r\n"
SLOWEST = 1000
"""Octets a second: who is slower than that, over more than the time that an answer has, only pretends to answer."""


@struct
class Response:
    """An answer as parts (see `wire`). `pending`: octets of the literal after the last part that are still on the
    wire; None when the response is whole."""

    parts: list[bytes]
    kind: str = ""  # "" for a tagged one, "+" for a continuation request
    number: int | None = None
    start: int = 0  # where in the first part the contents begin
    pending: int | None = None
    usual: tuple[bytes, ...] = ()
    """What `wire_fetch.MESSAGE` found in it; () when it was not read that way."""

    @property
    def rest(self) -> bytes:
        """What follows the kind in the first part."""
        return self.parts[0][self.start :]


@struct
class Command:
    """A command on its way; `status` is OK, NO or BAD once it was answered."""

    tag: bytes
    name: str
    status: str = ""
    code: str = ""
    arguments: bytes = b""
    text: str = ""
    done: bool = False  # of IDLE: the server was told to end it
    told: list[str] = field(default_factory=list)  # untagged NO and BAD, and alerts, that came before
    conceal: Callable[[str], str] = str  # takes secrets out of what the server says

    def answered(self) -> bool:
        """Whether its tagged answer came."""
        return bool(self.status)

    @property
    def answer(self) -> str:
        """The server's answer in its words, with the code."""
        inside = f"{self.code} {wire.words(self.arguments)}".strip()
        answer = " ".join(word for word in (f"[{inside}]" if inside else "", self.text or self.status) if word)
        return self.conceal(answer)


class Reader:
    """Buffered lines and literals of a socket. Each of them has the socket's timeout twice to come whole, and what it
    takes at SLOWEST: the socket's own begins anew with each octet."""

    def __init__(self, sock: Link, peer: str) -> None:
        self._sock = sock
        self._peer = peer
        self._buffer = bytearray()
        self._waited, self._came = 0.0, 0

    @property
    def buffered(self) -> int:
        """Octets that were received but not taken."""
        return len(self._buffer)

    def begin(self) -> None:
        """Another line or literal begins."""
        self._waited, self._came = 0.0, 0

    def _receive(self) -> None:
        began, seconds = time.monotonic(), self._sock.gettimeout()
        try:
            data = self._sock.recv(_RECEIVE)
        except (OSError, ValueError) as error:
            raise lost(self._peer, error, seconds) from error
        if not data:
            raise ConnectionLost(f"{self._peer}: the server closed the connection")
        self._buffer += data
        self._came += len(data)
        self._waited += time.monotonic() - began
        if seconds is not None and self._waited > 2 * seconds + self._came / SLOWEST:
            raise ConnectionLost(f"{self._peer}: the server answers too slowly, {self._came} octets came in time")

    def line(self) -> bytes:
        """The next line without its line end; ConnectionLost when it has no end in sight."""
        searched = 0
        self.begin()
        buffer = self._buffer
        while (end := buffer.find(b"\n", searched)) < 0:
            searched = len(buffer)
            long = bytes(buffer[:_LONGEST]).upper().startswith(_LONG)
            if searched > (LONG_LINE_LIMIT if long else LINE_LIMIT):
                raise ConnectionLost(f"{self._peer}: a line of more than {searched} octets")
            self._receive()
        line = bytes(buffer[: end - 1 if end and buffer[end - 1] == _CR else end])
        del buffer[: end + 1]
        return line

    def whole(self, size: int) -> bytes:
        """The next `size` octets, as one literal that is held in memory."""
        self.begin()
        while len(self._buffer) < size:
            self._receive()
        return self._take(size)

    def message(self, limit: int) -> tuple[tuple[bytes, ...], bytes] | None:
        """An answer that is one `wire_fetch.MESSAGE` with up to `limit` octets and nothing else: what that found, and
        the body. None when what comes is not known to be one; then nothing of it was taken."""
        if not self._buffer:
            self.begin()
            self._receive()
        match = wire_fetch.MESSAGE.match(self._buffer)
        if match is None:
            return None
        found, start = match.groups(), match.end()
        end = start + int(found[-1])
        if end - start > limit:
            return None
        self.begin()
        while len(self._buffer) < end + len(_END):
            self._receive()
        if not self._buffer.startswith(_END, end):
            return None
        with memoryview(self._buffer) as view:  # one copy; to slice the buffer itself makes two
            body = bytes(view[start:end])
        del self._buffer[: end + len(_END)]
        return found, body

    def rest(self) -> bytes:
        """Take all that was received."""
        return self._take(len(self._buffer))

    def some(self, limit: int) -> bytes:
        """At least one and at most `limit` octets, as they arrive."""
        if not self._buffer:
            self._receive()
        return self._take(limit)

    def _take(self, most: int) -> bytes:
        data = bytes(self._buffer[:most])
        del self._buffer[:most]
        return data
