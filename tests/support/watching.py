# SPDX-License-Identifier: MIT
"""Watchers of a server in a thread, and what their tests say to them as servers and as clocks."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from pushpull import tls as tls_module
from pushpull.remote import Extensions, Session
from pushpull.transport import Client
from pushpull.triggers import Trigger
from pushpull.watch_link import LinkWatcher
from tests.support.dovecot import certificates
from tests.support.listener import Listener, Peer
from tests.support.waiting import wait_for


class Highest:
    """No jitter."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Clocks:
    def __init__(self) -> None:
        self.slept = self.stood = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.stood

    def wall(self) -> float:
        return 1e9 + time.monotonic() + self.stood + self.slept


class Running:
    """A watcher in a thread, and what it gave and told. Leaves its block stopped, and fails if `run` raised.

    `make` makes it of the functions that take triggers and lines.
    """

    def __init__(self, make: Callable[[Callable[[Trigger], None], Callable[[int, str], None]], LinkWatcher]) -> None:
        self.triggers: list[Trigger] = []
        self.told: list[tuple[int, str]] = []
        self.error: BaseException | None = None
        self.watcher: Any = make(self.triggers.append, lambda level, text: self.told.append((level, text)))
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.watcher.run()
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Running:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        if self.error is not None:
            raise self.error

    def end(self) -> float:
        """Stop it; how long that took."""
        began = time.monotonic()
        self.watcher.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()
        return time.monotonic() - began

    def wait(self, *expected: Trigger) -> None:
        """Until exactly these were given, in this order."""
        wait_for(lambda: len(self.triggers) >= len(expected), what=f"{len(expected)} triggers", detail=self.story)
        assert self.triggers == list(expected)

    def story(self) -> str:
        return f"{self.triggers}\n{self.told}\n{self.error!r}"

    def lines(self, level: int) -> list[str]:
        return [text for of, text in self.told if of == level]


def connector(
    listener: Listener, *offered: str, tls: bool = False, timeout: float = 20.0, condstore: bool = False
) -> Callable[[], Session]:
    """Makes sessions, without a login."""

    def dial() -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", listener.port), timeout)
        return _secured(sock) if tls else sock

    return lambda: Session(Client("test:143", dial), Extensions(frozenset(offered), condstore=condstore))


def _secured(sock: socket.socket) -> socket.socket:
    return tls_module.wrap(sock, "localhost", "test:143", tls_module.context(str(certificates().ca_file)))


def expect(peer: Peer, verb: bytes) -> bytes:
    """The tag of the next command, which must be this one; ConnectionError when the client is gone."""
    line = peer.hear()
    if not line:
        raise ConnectionError
    tag, _, command = line.partition(b" ")
    assert command.startswith(verb), line
    return tag


def to_the_end(peer: Peer) -> None:
    while peer.hear():
        pass
