# SPDX-License-Identifier: MIT
"""Uploading through a session: APPENDs sent ahead of their answers, or many messages in one of them.

A literal that needs no leave (RFC 7888) goes out with its command in one piece; what the server says comes later. So
at most `_WINDOW` commands are under way, whose answers fit into the buffers of both sides: none waits for the other.
A large literal waits for the server's leave, so that a refusal comes before the octets.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from pushpull import flags as flag_names
from pushpull import refusal, wire
from pushpull.errors import MessageError
from pushpull.framing import Command
from pushpull.model import Uid
from pushpull.ports import Answer, Appended, Outgoing
from pushpull.transport import Client

_WINDOW = 64
# Octets of a literal that is sent without leave, as far as the server lets it. To ask costs a round trip, and a batch;
# a refusal after so much costs a few seconds of a slow line.
_LITERAL_PLUS, _LITERAL_MINUS = 1 << 20, 4096
# RFC 9051 section 9, flag-keyword and flag-extension: an atom, which '\' may precede.
_FLAG = re.compile(r"\\?[!#$&'+,./0-9:;<=>?@A-Z\[^_`a-z|}~-]+")
_APPENDUID = re.compile(rb"([0-9]{1,10}) ([0-9:,]+)")


class Appender:
    """`offered` is what the server offers and the session may use."""

    def __init__(self, client: Client, offered: frozenset[str]) -> None:
        self._client = client
        self._unasked = _LITERAL_PLUS if "LITERAL+" in offered else _LITERAL_MINUS if "LITERAL-" in offered else -1
        self._limit = _append_limit(offered)
        self.multiappend = "MULTIAPPEND" in offered

    def unasked(self, size: int) -> bool:
        """As ports.Remote."""
        return size <= self._unasked and not self._is_too_large(size)

    def each(
        self, mailbox: str, name: bytes, messages: Sequence[Outgoing], meanwhile: Callable[[], None] | None = None
    ) -> Iterator[Answer]:
        """As ports.Remote.append; `name` is the mailbox on the wire."""
        self._client.settle()
        ahead: deque[Command | MessageError] = deque()
        for message in messages:
            if self._is_too_large(message.size):
                reason = f"it has {message.size} octets, and the server takes at most {self._limit}"
                ahead.append(MessageError(reason, permanent=True))
                continue
            if len(ahead) >= _WINDOW or not self.unasked(message.size):
                yield from self._answers(mailbox, ahead)
            ahead.append(self._start(name, message))
        if meanwhile is not None:
            meanwhile()
        yield from self._answers(mailbox, ahead)

    def all(
        self, mailbox: str, name: bytes, messages: Sequence[Outgoing], meanwhile: Callable[[], None] | None = None
    ) -> Sequence[Appended]:
        """As ports.Remote.append_all."""
        self._client.settle()
        heads = [_head(message) + b" {%d+}" % message.size for message in messages]
        pieces = [piece for message, head in zip(messages, heads, strict=True) for piece in (head, self._body(message))]
        command = self._client.start(
            b"APPEND " + name + b"".join(pieces),
            shown=b"APPEND " + name + b"".join(heads),
        )
        if meanwhile is not None:
            meanwhile()
        self._client.finish(command)
        if command.status == "BAD":  # it offers what it does not understand
            self.multiappend = False
        if command.status != "OK":
            raise refusal.of_append(command, self._client.peer, mailbox)
        return _appended(command, len(messages))

    def _start(self, name: bytes, message: Outgoing) -> Command:
        line = b"APPEND " + name + _head(message) + b" {%d" % message.size
        if self.unasked(message.size):
            line += b"+}"
            return self._client.start(line + self._body(message), shown=line)
        command = self._client.start(line + b"}")
        if self._client.continuation(command) is not None:
            self._client.send_literal(message.size, message.chunks)
        return command

    def _body(self, message: Outgoing) -> bytes:
        """The octets of a literal, behind the end of its line."""
        body = b"".join((b"\r\n", *message.chunks))
        if len(body) != message.size + 2:
            peer = self._client.peer
            self._client.fail(f"{peer}: cut the connection, for a message to send is not of {message.size} octets")
        return body

    def _answers(self, mailbox: str, ahead: deque[Command | MessageError]) -> Iterator[Answer]:
        """What became of those that were sent, which are then sent no more."""
        while ahead:
            command = ahead.popleft()
            if isinstance(command, MessageError):
                yield command
                continue
            self._client.finish(command)
            if command.status == "OK":
                yield from _appended(command, 1)
            else:
                yield refusal.of_append(command, self._client.peer, mailbox)

    def _is_too_large(self, size: int) -> bool:
        return self._limit is not None and size > self._limit


def _append_limit(offered: frozenset[str]) -> int | None:
    """RFC 7889; None when there is no limit, or it depends on the mailbox."""
    sizes = (word.partition("=")[2] for word in offered if word.startswith("APPENDLIMIT="))
    return next((wire.number(size.encode("utf-8", "replace")) for size in sizes), None)


def _head(message: Outgoing) -> bytes:
    """Flags and date of a message, before its literal."""
    names = [*flag_names.to_imap(message.flags), *(word for word in message.keywords if _FLAG.fullmatch(word))]
    flags = (" (" + " ".join(names) + ")").encode("ascii") if names else b""
    date = message.internaldate.strip()
    # The day has two places, of which a blank may be the first.
    return flags + (b" " + wire.quoted(date.rjust(26).encode("ascii")) if date else b"")


def _appended(command: Command, count: int) -> Sequence[Appended]:
    """APPENDUID (RFC 4315): a UID for each message, in their order. What names more or fewer names none."""
    match = _APPENDUID.fullmatch(command.arguments.strip()) if command.code == "APPENDUID" else None
    uids = _uids(match[2], count) if match else []
    if match is None or len(uids) != count or not 0 < int(match[1]) <= wire.MAX_UID:
        return [Appended(None)] * count
    return [Appended(uid, int(match[1])) for uid in uids]


def _uids(listed: bytes, most: int) -> list[Uid]:
    """A UID set in the order in which it is written; nothing when it is none, or of more than `most`."""
    uids: list[Uid] = []
    for word in listed.split(b","):
        first, colon, last = word.partition(b":")
        lo, hi = wire.number(first), wire.number(last if colon else first)
        if lo is None or hi is None or not 0 < lo <= hi <= wire.MAX_UID or hi - lo >= most - len(uids):
            return []
        uids += map(Uid, range(lo, hi + 1))
    return uids
