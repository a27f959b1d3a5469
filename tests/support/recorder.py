# SPDX-License-Identifier: MIT
"""Two doors to a server that writes no log of what it is sent: all that passes them after a login is kept, by user.

The program comes through the doors; the tester's own sessions go to the server itself, and so do not show.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.client import Client
from tests.support.loop import LoopThread
from tests.support.server import Server, certificates, end_session, wait_for_greetings
from tests.support.waiting import wait_for

_LOGIN = re.compile(rb'^\S+ LOGIN "?([^" ]+)"? .*\r\n', re.MULTILINE | re.IGNORECASE)


@dataclass
class _Session:
    user: str = ""
    sent: bytearray = field(default_factory=bytearray)  # before the login: whatever came
    open: bool = True
    hidden: bool = False  # STARTTLS was sent: what follows cannot be read here

    def add(self, data: bytes) -> None:
        self.sent += data
        if self.hidden or self.user:
            return
        login = _LOGIN.search(bytes(self.sent))
        if login:
            self.user = login[1].decode()
            del self.sent[: login.end()]
        self.hidden = not self.user and b"STARTTLS" in self.sent.upper()


class Recorder(LoopThread):
    """`port` speaks TLS, `starttls_port` passes on what the server says. Both lead to `upstream`."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._sessions: list[_Session] = []
        self.port = 0
        self.starttls_port = 0

    async def begin(self) -> None:
        self._doors = [await self._open(certificates().server_context()), await self._open(None)]
        self.port, self.starttls_port = (door.sockets[0].getsockname()[1] for door in self._doors)

    async def end(self) -> None:
        for door in self._doors:
            door.close()

    def sent(self, user: str) -> list[bytes]:
        """What each session of the user sent after its login since `forget`, oldest first; waits for their ends."""
        wait_for(lambda: not any(s.open for s in self._sessions), what="the end of all sessions")
        return [bytes(session.sent) for session in self._sessions if session.user == user]

    def forget(self, user: str) -> None:
        self.sent(user)
        self._sessions = [session for session in self._sessions if session.user != user]

    async def _open(self, context: ssl.SSLContext | None) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)

    async def _serve(self, source: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        session = _Session()
        self._sessions.append(session)
        writers = [client]
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self._upstream)
            writers.append(server)
            pumps = [
                asyncio.ensure_future(_pump(source, server, session)),
                asyncio.ensure_future(_pump(answers, client, None)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass
        finally:
            session.open = False
            for writer in writers:
                writer.close()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, session: _Session | None) -> None:
    while data := await source.read(65536):
        if session:
            session.add(data)
        target.write(data)
        await target.drain()


class RecordedServer(Server):
    """A server whose `port` and `starttls_port` are a recorder's doors. Its own ports are `plain_port`, which may offer
    STARTTLS, and `tls_port`, 0 where there is none. It is the session of one process, which `launch` starts."""

    def __init__(self, base: Path | None = None) -> None:
        super().__init__(base)
        self.plain_port = 0
        self.tls_port = 0
        self._recorder: Recorder | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> subprocess.Popen[bytes]:
        raise NotImplementedError

    def start(self) -> None:
        self._process = self.launch()
        wait_for_greetings(tls_port=self.tls_port, plain_port=self.plain_port, what=self.name, detail=self.log)
        self._open_doors()

    def stop(self) -> None:
        """End it, and wait until its whole session of processes is gone."""
        process, self._process = self._process, None
        if process:
            end_session(process)

    def _open_doors(self) -> None:
        """Once the server answers; they stay open while it is started again."""
        if not self._recorder:
            self._recorder = Recorder(self.plain_port).__enter__()
            self.port, self.starttls_port = self._recorder.port, self._recorder.starttls_port

    def remove(self) -> None:
        if self._recorder:
            self._recorder.__exit__(None, None, None)
            self._recorder = None
        super().remove()

    @property
    def own_ports(self) -> tuple[int, int]:
        return self.tls_port, self.plain_port

    def client(self, user: str | None = None) -> Client:
        user = user or self.user
        ca_file = self.ca_file if self.tls_port else None
        port = self.tls_port or self.plain_port
        return Client(port, ca_file, user, self.users.get(user, self.password), self.remote_name)

    def sent(self, user: str | None = None) -> list[bytes]:
        assert self._recorder
        return self._recorder.sent(user or self.user)

    def forget_rawlog(self, user: str | None = None) -> None:
        assert self._recorder
        self._recorder.forget(user or self.user)
