# SPDX-License-Identifier: MIT
"""A link whose octets are compressed both ways (RFC 4978), in place of the socket that carries them."""

from __future__ import annotations

import socket
import zlib
from typing import Any

_RAW = -zlib.MAX_WBITS  # no header, no checksum: TLS has one
# Half the time of the default for a tenth more octets: a client on a fast line must not wait for itself.
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
        """At most `size` octets, whatever a few of them may stand for; empty at the end of the link."""
        while True:
            if self._more:
                data = self._inflated(size)
                if data:
                    return data
            self._rest = self.sock.recv(size)
            self._more = True
            if not self._rest:
                return b""

    def _inflated(self, size: int) -> bytes:
        try:
            data = self._inflater.decompress(self._rest, size)
        except zlib.error as error:
            raise ValueError(f"what came is not compressed as agreed ({error})") from error
        if self._inflater.eof:
            raise ValueError("the server ended the compression")
        self._rest = self._inflater.unconsumed_tail
        # When it is full, more may be left inside, though no octet of what was received is.
        self._more = bool(self._rest) or len(data) == size
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
