# SPDX-License-Identifier: MIT
"""A streaming IMAP client: own reader, own bytes on the wire, answers in their order.

Not imaplib: that forgets the order of answers, holds whole messages in memory, and changes from Python to Python.

This is the boundary for everything that the network raises: beyond it there is only `pushpull.errors`.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, TypeVar

from pushpull import sasl, wire
from pushpull.dial import lost
from pushpull.errors import ConnectionLost
from pushpull.framing import LONG_LINE_LIMIT, Command, Link, Reader, Response
from pushpull.trace import Trace

T = TypeVar("T")

CHUNK = 256 * 1024
"""The largest piece, in octets, that a literal is handed on in, and the largest one that is read whole."""
_LITERALS_LIMIT = 100  # in one response
_EMPTY_LINES = 10  # in a row
_DROPPED_LIMIT = 64 * 1024 * 1024  # octets of a literal that is read for what comes after it
_LOGOUT_SECONDS = 2.0
TALK = 10.0
"""Timeouts of an answer that a server may talk before it answers: long searches are bridged by '* OK Still here'."""
_EXCHANGE_LIMIT = 5

FOREIGN = (OSError, ValueError, EOFError)
"""What the socket and TLS (a kind of OSError) raise."""


class Client:
    """One connection. Commands may be pipelined: `start` several, then take `responses` of each in order.

    After ConnectionLost the link is closed and every further call raises ConnectionLost again.
    """

    def __init__(
        self,
        peer: str,
        connect: Callable[[], socket.socket],
        *,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self.peer = peer
        self.trace = Trace(trace)
        self.known_capabilities: frozenset[str] | None = None
        self.sasl_ir = False
        self.greeting = Command(b"*", "greeting")
        self.on_untagged: Callable[[Response], None] | None = None
        self.failure = ""  # what the server said of a refused authentication
        self.last = self.greeting  # the answer to the last login command
        self._waiting: deque[Command] = deque()
        self._unread: Response | None = None
        self._left = 0
        self._count = 0
        self._broken = ""
        self._leaving = False
        self._talking_since = time.monotonic()
        self.adopt(connect())
        try:
            self._take_greeting()
        except BaseException:
            self.shutdown()
            raise

    # --- the link ----------------------------------------------------------------------------------------------

    def adopt(self, sock: socket.socket) -> None:
        """Speak over `sock` from now on; what was received before is forgotten."""
        self.link = sock
        self.sock: Link = sock
        self._reader = Reader(sock, self.peer)

    def compress(self) -> bool:
        """COMPRESS (RFC 4978), when nothing is under way. False: the server does not want to, and nothing changed."""
        command = self.run(b"COMPRESS DEFLATE")
        if command.status != "OK":
            return False
        from pushpull.deflate import Deflated

        self.sock = Deflated(self.link, self._reader.rest())
        self._reader = Reader(self.sock, self.peer)
        return True

    def _take_greeting(self) -> None:
        """Take the greeting (RFC 9051 section 7.1)."""
        response = self._read(CHUNK)
        if response.kind not in ("OK", "PREAUTH", "BYE"):
            self.fail(f"{self.peer}: not an IMAP server: {wire.printable(response.parts[0][:80])}")
        self.greeting.status = response.kind
        self._take_words(self.greeting, response.rest)
        self._learn(self.greeting)

    def read(self, size: int) -> bytes:
        return self._received(lambda: self._reader.whole(size))

    def send(self, data: Any) -> None:
        """Put octets on the wire."""
        self._check()
        try:
            self.sock.sendall(data)
        except FOREIGN as error:
            self.fail(lost(self.peer, error, self.sock.gettimeout()), error)

    def shutdown(self) -> None:
        """Close without a word; never raises. Wakes a thread that waits for the server."""
        self._broken = self._broken or f"{self.peer}: the connection was closed"
        with contextlib.suppress(*FOREIGN):
            self.sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(*FOREIGN):
            self.sock.close()

    def interrupt(self) -> None:
        """End the link from another thread: its user gets ConnectionLost at once."""
        with contextlib.suppress(*FOREIGN):
            # Not the TLS socket's own method: that forgets the encryption first, and what another thread is sending at
            # that moment would leave in clear.
            end = socket.socket.shutdown if isinstance(self.link, ssl.SSLSocket) else type(self.link).shutdown
            end(self.link, socket.SHUT_RDWR)

    def authenticate(self, mechanism: str, authobject: Callable[[bytes], str | bytes]) -> tuple[str, list[bytes]]:
        """AUTHENTICATE (RFC 9051 section 6.2.2), with an initial response where the server takes one (SASL-IR). A
        challenge after our answer is how OAuth2 servers say no: it is kept in `failure`, and the exchange is ended
        as each mechanism wants it."""
        data = authobject(b"")
        initial = base64.b64encode(data.encode() if isinstance(data, str) else data)
        self.last = self._exchange(mechanism, initial)
        return self.last.status, [self.last.answer.encode()]

    def _exchange(self, mechanism: str, initial: bytes) -> Command:
        at_once = self.sasl_ir
        words = [b"AUTHENTICATE", mechanism.encode("ascii")] + ([initial] if at_once else [])
        command = self.start(b" ".join(words))
        asked, rounds = False, 0
        while (challenge := self.continuation(command)) is not None:
            # An empty challenge asks for the response, even of a server that said it takes it at once.
            if not asked and (not challenge or not at_once):
                asked, reply = True, initial
            else:
                told = self.trace.conceal(wire.words(sasl.failure(challenge).encode("utf-8", "backslashreplace")))
                self.failure, reply = told or self.failure, sasl.closing(mechanism)
            rounds += 1
            if rounds > _EXCHANGE_LIMIT:
                self.fail(f"{self.peer}: the authentication does not come to an end")
            self.trace.sent(b"***")
            self.send(reply + b"\r\n")
        return command

    # --- commands ----------------------------------------------------------------------------------------------

    def start(self, payload: bytes, *, shown: bytes | None = None) -> Command:
        """Send one command (without tag and line end) and do not wait. `shown` is what the trace has of it: one that
        holds literals goes without them."""
        self._check()
        self._count += 1
        name = payload.split(b" ", 1)[0].decode("ascii", "replace")
        command = Command(b"P%d" % self._count, name, conceal=self.trace.conceal)
        shown = payload if shown is None else shown
        if self.trace.hidden:
            shown = b" ".join([*payload.split(b" ")[: 2 if command.name == "AUTHENTICATE" else 1], b"***"])
        self.trace.sent(command.tag + b" " + shown)
        if not self._waiting:
            self.useful()
        self._waiting.append(command)
        self.send(command.tag + b" " + payload + b"\r\n")
        return command

    def run(self, payload: bytes) -> Command:
        """One command, its untagged answers dropped (after `on_untagged` saw them)."""
        command = self.start(payload)
        self.finish(command)
        return command

    def send_literal(self, size: int, chunks: Iterable[bytes]) -> None:
        """The octets of a literal and the end of its command. When there are not exactly `size`, or `chunks` raises,
        the link is cut: the server never sees the command's end."""
        self.trace.sent(b"(%d octets)" % size)
        sent = 0
        try:
            for chunk in chunks:
                sent += len(chunk)
                if sent > size:
                    break
                self.send(chunk)
        except BaseException:
            self.shutdown()
            raise
        if sent != size:
            self.fail(f"{self.peer}: cut the connection, for the message to send is not of {size} octets any more")
        self.send(b"\r\n")

    def finish(self, command: Command) -> None:
        """Take and drop what is left of the answers up to the command's end."""
        while not command.status:
            self._next(0)

    def settle(self) -> None:
        """Take and drop what is left of every command's answers."""
        while self._waiting:
            self._next(0)

    def responses(self, command: Command, whole: int = CHUNK, *, messages: bool = False) -> Iterator[Response]:
        """The untagged answers that come until a command ends: its own, those of commands before it, and whatever
        the server has to say. Also those of commands *behind* it: Dovecot answers pipelined FETCHes in turn but
        holds the tagged lines back to the end, and may mix them, so what an answer belongs to shows in it alone.

        Literals of up to `whole` octets are in the parts; a longer one is `pending`: take it with `stream`, then
        `complete` the response, or leave it. `messages`: such answers are likely, and read in the quickest way."""
        if command.status:
            raise RuntimeError(f"the answers of {command.name} were dropped before they were read")
        while not command.status:
            response = self._message() if messages else None
            response = response or self._next(whole)
            if response is not None and response.kind != "+":
                left = time.monotonic()
                yield response
                self._talking_since += time.monotonic() - left
                if command.status:
                    raise RuntimeError(f"another command overtook {command.name} while its answers were read")

    def continuation(self, command: Command) -> bytes | None:
        """Wait until the server asks for more, and give its text; None when it ended the command instead."""
        while not command.status:
            response = self._next(0)
            if response is not None and response.kind == "+" and self._waiting[0] is command:
                return response.rest.strip()
        return None

    def stream(self, response: Response) -> Iterator[bytes]:
        """The octets of a pending literal, in pieces of at most CHUNK."""
        while True:
            if self._unread is not response:
                raise RuntimeError("a literal was read out of turn")
            if not self._left:
                return
            data = self._some()
            yield data

    def complete(self, response: Response) -> None:
        """Read what follows a pending literal, which is dropped as far as it was not taken; in the parts it is
        empty."""
        if self._unread is not response:
            raise RuntimeError("a response was completed out of turn")
        while response.pending is not None:
            if self._left > _DROPPED_LIMIT:
                self.fail(f"{self.peer}: {self._left} octets that nobody asked for, or wants any more")
            while self._left:
                self._some()
            self._unread, response.pending = None, None
            response.parts += [b"", self._line()]
            self._literals(response, 0)

    def advance(self) -> Response | None:
        """The next answer, whatever it belongs to, its literals dropped; None when it ended the command that waits
        longest. Waits for it, as all reading does."""
        self.useful()  # who waits without a question, or in IDLE, counts time for himself
        response = self._next(0)
        if response is not None and response.pending is not None:
            self.complete(response)  # else reading on would wait for what follows it
        return response

    def useful(self) -> None:
        """What came is what was asked for: the time in which a server may only talk begins anew."""
        self._talking_since = time.monotonic()

    def done(self, idle: Command) -> None:
        """Say once that an IDLE is to end (RFC 2177); its answer is still to come."""
        if not idle.done:
            idle.done = True
            self.trace.sent(b"DONE")
            self.send(b"DONE\r\n")

    def logout(self) -> None:
        """LOGOUT when nothing but IDLE is under way, and close; never raises, never waits long."""
        with contextlib.suppress(ConnectionLost):
            if not self._broken and all(command.name == "IDLE" for command in self._waiting):
                with contextlib.suppress(*FOREIGN):
                    self.sock.settimeout(_LOGOUT_SECONDS)
                self._leaving = True
                for command in self._waiting:
                    self.done(command)
                self.run(b"LOGOUT")
        self.shutdown()

    # --- reading -----------------------------------------------------------------------------------------------

    def _next(self, whole: int) -> Response | None:
        """The next answer; None when it ended the command that waits longest."""
        if self._unread is not None:
            self.complete(self._unread)
        response = self._read(whole)
        self._demand_sense(response)
        if response.kind == "":
            self._tagged(response.parts[0])
            return None
        if response.kind == "BYE" and not self._leaving:
            self.fail(f"{self.peer} ended the session: {wire.code(response.rest)[2]}")
        if response.kind in ("OK", "NO", "BAD", "CAPABILITY"):
            self._untagged_status(response)
        if self.on_untagged is not None:
            self.on_untagged(response)
        return response

    def _message(self) -> Response | None:
        """A whole message, when it comes as nearly all do."""
        if self._unread is not None or self.trace.wanted:
            return None
        found = self._received(lambda: self._reader.message(CHUNK))
        if found is None:
            return None
        usual, body = found
        response = Response([b"", body, b")"], "FETCH", usual=usual)
        self._demand_sense(response)
        return response

    def _demand_sense(self, response: Response) -> None:
        """ConnectionLost when the server goes on and on and does not answer."""
        seconds = self.sock.gettimeout()
        limit = _LOGOUT_SECONDS if self._leaving else TALK * seconds if seconds else None
        if response.kind and self._waiting and limit and time.monotonic() - self._talking_since > limit:
            self.fail(f"{self.peer}: the server talks, but gave no answer to {self._waiting[0].name} in {limit:g} s")

    def _read(self, whole: int) -> Response:
        line = self._line()
        empty = 0
        while not line:  # some servers send an empty line after a literal's response
            empty += 1
            if empty > _EMPTY_LINES:
                self.fail(f"{self.peer}: nothing but empty lines")
            line = self._line()
        if line.startswith(b"+"):
            return Response([line], "+", None, 2)
        if not line.startswith(b"* "):
            return Response([line])
        try:
            kind, number, start = wire.kind_of(line)
        except ConnectionLost as error:
            self.fail(f"{self.peer}: {error}", error)
        response = Response([line], kind, number, start)
        if not wire.is_status(kind):
            self._literals(response, whole)
        return response

    def _literals(self, response: Response, whole: int) -> None:
        """Read the literals of a response, up to one that is to stay on the wire."""
        allowed = whole
        while (literal := self._literal(response.parts[-1])) is not None:
            size, text_end = literal
            if size > CHUNK and response.kind != "FETCH":
                self.fail(f"{self.peer}: {size} octets in an answer of a kind that holds no such thing")
            response.parts[-1] = response.parts[-1][:text_end]
            if len(response.parts) > 2 * _LITERALS_LIMIT or sum(map(len, response.parts)) > LONG_LINE_LIMIT:
                self.fail(f"{self.peer}: a response without an end")
            if size > allowed:
                response.pending, self._unread, self._left = size, response, size
                self._reader.begin()
                self.trace.received(b"(%d octets)" % size)
                return
            allowed -= size
            response.parts += [self.read(size), self._line()]

    def _literal(self, text: bytes) -> tuple[int, int] | None:
        try:
            return wire.literal_size(text)
        except ConnectionLost as error:
            self.fail(f"{self.peer}: {error}", error)

    def _tagged(self, line: bytes) -> None:
        tag, _, rest = line.partition(b" ")
        status, _, text = rest.partition(b" ")
        if not self._waiting or tag != self._waiting[0].tag or status.upper() not in (b"OK", b"NO", b"BAD"):
            self.fail(
                f"{self.peer}: an answer to nothing that was asked: {self.trace.conceal(wire.printable(line))[:80]}"
            )
        command = self._waiting.popleft()
        command.status = status.decode().upper()
        self._take_words(command, text)
        self._learn(command)
        self.useful()

    def _take_words(self, command: Command, text: bytes) -> None:
        command.code, command.arguments, shown = wire.code(text)
        command.text = self.trace.conceal(shown)

    def _untagged_status(self, response: Response) -> None:
        if response.kind == "CAPABILITY":
            self.known_capabilities = wire.capabilities(response.rest)
            return
        seen = Command(b"*", response.kind, response.kind, conceal=self.trace.conceal)
        self._take_words(seen, response.rest)
        self._learn(seen)
        if (response.kind != "OK" or seen.code == "ALERT") and self._waiting:
            self._waiting[0].told = [*self._waiting[0].told[-4:], seen.answer]

    def _learn(self, status: Command) -> None:
        if status.code == "CAPABILITY":
            self.known_capabilities = wire.capabilities(status.arguments)

    def _line(self) -> bytes:
        line = self._received(self._reader.line)
        self.trace.received(line)
        return line

    def _some(self) -> bytes:
        data = self._received(lambda: self._reader.some(min(self._left, CHUNK)))
        self._left -= len(data)
        return data

    def _received(self, take: Callable[[], T]) -> T:
        self._check()
        try:
            return take()
        except ConnectionLost as error:
            self.fail(error)

    @property
    def buffered(self) -> int:
        """Octets received but not read: what a poll() on the socket does not show."""
        return self._reader.buffered

    @property
    def ready(self) -> bool:
        """Whether there is something to take that a poll() on the socket does not show: it was received, or lies
        decrypted in the TLS layer."""
        pending = getattr(self.sock, "pending", int)
        return bool(self.buffered or pending())

    # --- trouble and trace -------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._broken:
            raise ConnectionLost(self._broken)

    def fail(self, error: ConnectionLost | str, cause: BaseException | None = None) -> NoReturn:
        """Close the link and raise ConnectionLost: what came cannot be understood, or nothing came."""
        failure = ConnectionLost(self.trace.conceal(error)) if isinstance(error, str) else error
        self._broken = str(failure)
        self.shutdown()
        raise failure from cause
