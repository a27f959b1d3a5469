# SPDX-License-Identifier: MIT
"""Reading FETCH answers of a session: rows as they come, bodies in pieces, and what follows a SELECT."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import IO

from pushpull import refusal, wire, wire_fetch
from pushpull.errors import ConnectionLost, DeltaLost, LocalDiskError, ResyncNeeded
from pushpull.framing import Command, Response
from pushpull.message import message_id
from pushpull.model import Identity, MailboxState, RemoteView, Uid, UidSet
from pushpull.ports import Arrival, Message, Vanished
from pushpull.transport import CHUNK, Client
from pushpull.values import field, struct

HELD = 50_000
"""Changes that are held in memory at most, about 8 MB; a change with its keywords, or a set with its ranges, counts
for as many as it takes room."""
_SLACK = 1 << 20  # octets by which servers that count wrong may be wrong, and as many again as they counted
IDENTITY_ITEMS = b"INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)]"


def fetched(client: Client, response: Response) -> wire_fetch.Fetch:
    """The attributes of a FETCH answer; without what follows a literal that is still on the wire."""
    try:
        if response.usual:
            return wire_fetch.message(response.usual, response.parts[1])
        return wire_fetch.fetch(response.parts, response.rest, pending=response.pending is not None)
    except ConnectionLost as error:
        client.fail(f"{client.peer}: {error}", error)


def fetches(client: Client, command: Command, whole: int = CHUNK) -> Iterator[wire_fetch.Fetch]:
    """Every FETCH answer among a command's; afterwards the command's status is there."""
    for response in client.responses(command, whole):
        if response.kind == "FETCH":
            yield fetched(client, response)


def identity(found: wire_fetch.Fetch) -> Identity | None:
    """None when the answer does not show all of it (an update caused by another session)."""
    if found.uid is None or found.size is None or found.internaldate is None or "fields" not in found.shown:
        return None
    return Identity(found.uid, found.size, found.internaldate, message_id(found.fields or b""))


@struct
class OpenedMailbox:
    """What one SELECT asked for, taken as it comes (`ports.Opening`). A command that is None was not asked, or its
    answers mean nothing since the UIDVALIDITY is another.

    Answers are told apart by what they show, not by when they come (see `Client.responses`); those out of turn are
    held. A delta too large to hold is given up for a full compare, so memory stays bounded.
    """

    client: Client
    state: MailboxState
    first: Uid
    canary_uids: UidSet = field(default_factory=UidSet)
    canary_command: Command | None = None
    arrivals_command: Command | None = None
    delta_command: Command | None = None
    _canary: dict[Uid, Identity] = field(default_factory=dict)
    _arrivals: deque[Arrival] = field(default_factory=deque)
    _delta: deque[RemoteView | Vanished] = field(default_factory=deque)
    _delta_dropped: bool = False
    _held: int = 0
    _highest: int = 0

    def canary(self) -> tuple[Identity, ...]:
        command = self.canary_command
        if command is not None and not command.answered() and len(self._canary) < len(self.canary_uids):
            for _ in self._read(command):
                if len(self._canary) == len(self.canary_uids) or len(self._arrivals) >= HELD:
                    break  # the canary was asked for first: nothing of it comes after so much of what was asked next
            if command.answered():
                self._demand_ok(command)
        return tuple(self._canary.values())

    def arrived(self) -> Iterator[Arrival]:
        if self.arrivals_command is None:
            return
        for _ in self._read(self.arrivals_command):
            while self._arrivals:
                yield self._arrivals.popleft()
        yield from self._arrivals
        self._arrivals.clear()
        self._demand_ok(self.arrivals_command)

    def changed(self) -> Iterator[RemoteView | Vanished]:
        command = self.delta_command
        if command is None:
            return
        for _ in self._read(command):
            self._arrivals.clear()
            while self._delta and not self._delta_dropped:
                self._held -= _room(self._delta[0])
                yield self._delta.popleft()
        if command.status != "OK":
            raise refusal.busy(command, self.client.peer) or ResyncNeeded(command.answer)
        if self._delta_dropped:
            raise ResyncNeeded(f"more than {HELD} changes")
        yield from self._delta
        self._delta.clear()

    def _read(self, command: Command) -> Iterator[None]:
        try:
            for response in self.client.responses(command):
                self._sort(response)
                yield
        except ConnectionLost as error:
            if self.delta_command is None or self.delta_command.status:
                raise
            raise DeltaLost(str(error), remedy=error.remedy) from error

    def _sort(self, response: Response) -> None:
        if response.kind == "FETCH":
            found = fetched(self.client, response)
            view, shown = found.view, identity(found)
            if shown is not None and shown.uid in self.canary_uids and (view is None or shown.uid < self.first):
                self._canary[shown.uid] = shown
                self._progress(shown.uid)
            # n:* names the last message also when its UID is below n (RFC 9051 section 9, seq-range).
            elif shown is not None and view is not None and view.uid >= self.first:
                self._arrivals.append(Arrival(view, shown))
                self._progress(shown.uid)
            elif shown is None and view is not None:
                self._hold_delta(view)
        elif response.kind == "VANISHED" and (gone := vanished_earlier(self.client, response)) is not None:
            self._hold_delta(Vanished(gone))

    def _hold_delta(self, change: RemoteView | Vanished) -> None:
        self._held += _room(change)
        if self._held > HELD:
            self._delta_dropped = True
        if self._delta_dropped:
            self._delta.clear()
        elif self.delta_command is not None:
            self._delta.append(change)
        if isinstance(change, RemoteView):
            self._progress(change.uid)

    def _progress(self, uid: Uid) -> None:
        """The same UIDs for ever are no answer."""
        if uid > self._highest:
            self._highest = uid
            self.client.useful()

    def _demand_ok(self, command: Command) -> None:
        # Some servers find a UID set wrong when the mailbox is empty.
        if self.state.exists:
            refusal.demand_ok(command, self.client.peer)


def _room(change: RemoteView | Vanished) -> int:
    return 1 + len(change.keywords) // 4 if isinstance(change, RemoteView) else len(change.uids.ranges)


def vanished_earlier(client: Client, response: Response) -> UidSet | None:
    """The UIDs of VANISHED (EARLIER); None for one that tells of an expunge just now."""
    try:
        earlier, uids = wire.vanished(response.rest)
    except ConnectionLost as error:
        client.fail(f"{client.peer}: {error}", error)
    return uids if earlier else None


# --- bodies --------------------------------------------------------------------------------------------------


def messages(
    client: Client, command: Command, wanted: Collection[Uid], views: dict[Uid, RemoteView]
) -> Iterator[Message]:
    """The messages of one FETCH with BODY.PEEK[]. A large body streams; where the server shows its attributes only
    after it (they are legal in any order), it waits in a temporary file until they are known. `views` keeps flags that
    come in answers of their own."""
    for response in client.responses(command, messages=True):
        if response.kind != "FETCH":
            continue
        found = fetched(client, response)
        if response.pending is None:
            if found.uid in wanted and found.body is None and found.view is not None:
                views[found.view.uid] = found.view
            if (whole := _message(found, views, wanted)) is not None:
                yield whole
        elif found.awaits == "body" and (found.uid is None or found.uid in wanted):
            yield from _large(client, response, found, views, wanted)
    if command.status != "OK":
        raise refusal.of_fetch(command, client.peer)


def _message(found: wire_fetch.Fetch, views: dict[Uid, RemoteView], wanted: Collection[Uid]) -> Message | None:
    """None for what was not asked for, or is shown without flags or without a body (NIL, or empty though it has a
    size: a server that cannot read its own file)."""
    if found.uid is None or found.uid not in wanted or found.body is None:
        return None
    return _made(found, views, iter((found.body,)), len(found.body))


def _made(found: wire_fetch.Fetch, views: dict[Uid, RemoteView], body: Iterator[bytes], octets: int) -> Message | None:
    view = found.view or (views.get(found.uid) if found.uid is not None else None)
    if view is None or found.internaldate is None or (not octets and found.size):
        return None
    return Message(view, found.internaldate, octets if found.size is None else found.size, body)


def _large(
    client: Client, response: Response, found: wire_fetch.Fetch, views: dict[Uid, RemoteView], wanted: Collection[Uid]
) -> Iterator[Message]:
    octets = response.pending or 0
    if found.size is not None and octets > 2 * found.size + _SLACK:
        client.fail(f"{client.peer}: a message of {found.size} octets comes with {octets}")
    direct = _made(found, views, _to_its_end(client, response), octets)
    if direct is not None:
        yield direct
        return
    with _spool() as spool:
        for chunk in client.stream(response):
            _write(spool, chunk)
        client.complete(response)
        found = fetched(client, response)
        if found.uid in wanted and (late := _made(found, views, _pieces(spool), octets)) is not None:
            yield late


def _to_its_end(client: Client, response: Response) -> Iterator[bytes]:
    """The body, and then what follows it: a message is whole only when its answer is. A server that announces more
    octets than the message has would have the answers after it taken for its end."""
    yield from client.stream(response)
    client.complete(response)
    fetched(client, response)


@contextmanager
def _spool() -> Iterator[IO[bytes]]:
    import tempfile

    try:
        spool = tempfile.TemporaryFile(prefix="pushpull-")  # noqa: SIM115 - only the making is guarded
    except OSError as error:
        raise LocalDiskError(f"no temporary file for a message: {error.strerror}") from error
    with spool:
        yield spool


def _write(spool: IO[bytes], chunk: bytes) -> None:
    try:
        spool.write(chunk)
    except OSError as error:
        raise LocalDiskError(f"cannot keep a message in a temporary file: {error.strerror}") from error


def _pieces(spool: IO[bytes]) -> Iterator[bytes]:
    try:
        spool.seek(0)
        while chunk := spool.read(CHUNK):
            yield chunk
    except OSError as error:
        raise LocalDiskError(f"cannot read back a message from a temporary file: {error.strerror}") from error
