# SPDX-License-Identifier: MIT
"""A link whose octets are compressed both ways (RFC 4978), in place of the socket that carries them."""

from __future__ import annotations

import socket
import time
import zlib
from typing import Any

_RAW = -zlib.MAX_WBITS  # no header, no checksum: TLS has one
# Two thirds of the time of the default, for a few more octets in a hundred.
_LEVEL = 3


class Deflated:
    """As much of a socket as a client uses. Raises what the socket does, and ValueError for what is not deflated."""

    def __init__(self, sock: socket.socket, received: bytes) -> None:
        """`received`: what came after the server's agreement, and is the beginning of its side."""
        self.sock = sock
        self._inflater = zlib.decompressobj(_RAW)
        self._deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW)
        self._rest, self._more = received, bool(received)

    def recv(self, size: int) -> bytes:
        """At most `size` octets, whatever a few of them may stand for; empty at the end of the link. TimeoutError also
        when what comes stands for nothing all the time."""
        began, seconds = time.monotonic(), self.sock.gettimeout()
        while seconds is None or time.monotonic() - began <= 2 * seconds:
            if self._more:
                data = self._inflated(size)
                if data:
                    return data
            self._rest = self.sock.recv(size)
            self._more = True
            if not self._rest:
                return b""
        raise TimeoutError

    def _inflated(self, size: int) -> bytes:
        try:
            data = self._inflater.decompress(self._rest, size)
        except zlib.error as error:
            raise ValueError(f"what came is not compressed as agreed ({error})") from error
        if self._inflater.eof and not data:
            raise ValueError("the server ended the compression")
        self._rest = self._inflater.unconsumed_tail
        # When it is full, more may be left inside, though no octet of what was received is.
        self._more = bool(self._rest) or len(data) == size or self._inflater.eof
        return data

    def sendall(self, data: Any) -> None:
        self.sock.sendall(self._deflater.compress(data) + self._deflater.flush(zlib.Z_SYNC_FLUSH))

    def pending(self) -> int:
        """More than 0: there is something to take that a poll() on the socket does not show."""
        return int(self._more) or int(getattr(self.sock, "pending", int)())

    def fileno(self) -> int:
        return self.sock.fileno()

    def gettimeout(self) -> float | None:
        return self.sock.gettimeout()

    def settimeout(self, seconds: float | None) -> None:
        self.sock.settimeout(seconds)

    def shutdown(self, how: int) -> None:
        self.sock.shutdown(how)

    def close(self) -> None:
        self.sock.close()
