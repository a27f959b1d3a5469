# SPDX-License-Identifier: MIT
"""A server on loopback that does what a test wrote down, for what no real server does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType

from tests.support.dovecot import certificates

Talk = Callable[["Peer"], None]


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.heard: list[bytes] = []
        self._rest = b""

    def say(self, *lines: bytes) -> None:
        self.sock.sendall(b"".join(line + b"\r\n" for line in lines))

    def hear(self) -> bytes:
        """The next line; b"" at the end of the stream, or when the client took its leave, which is answered."""
        while b"\r\n" not in self._rest:
            data = self.sock.recv(4096)
            if not data:
                return b""
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\r\n")
        self.heard.append(line)
        tag, _, command = line.partition(b" ")
        if command == b"LOGOUT":
            self._say_farewell(tag)
            return b""
        return line

    def _say_farewell(self, tag: bytes) -> None:
        if self.heard[-2:-1] == [b"DONE"]:
            self.say(self.heard[-3].partition(b" ")[0] + b" OK no more of it")
        self.say(b"* BYE", tag + b" OK")

    def secure(self, certificate: str = "good", sni: list[str | None] | None = None) -> None:
        context = certificates().server_context(certificate)
        if sni is not None:
            context.sni_callback = lambda sock, name, _: sni.append(name)
        self.sock = context.wrap_socket(self.sock, server_side=True)


class Listener:
    """Context manager; each connection gets `talk` in a thread of its own."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.peers: list[Peer] = []
        self._threads: list[threading.Thread] = []
        self.port = 0

    def __enter__(self) -> Listener:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._accepting.join(10)
        self._server.close()
        for peer in self.peers:
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        for peer in self.peers:
            peer.sock.close()

    @property
    def heard(self) -> list[bytes]:
        """Every line of every connection."""
        return [line for peer in self.peers for line in peer.heard]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            peer = Peer(sock)
            self.peers.append(peer)
            thread = threading.Thread(target=self._serve, args=(peer,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, peer: Peer) -> None:
        with contextlib.suppress(OSError):
            self._talk(peer)
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
