# SPDX-License-Identifier: MIT
"""What is fuzzed, and what must hold of it.

Two kinds of targets. A *conversation* is a stream of a server's octets that answers one thing that the program asks:
the whole way from the socket to rows. An *answer* is one untagged response, as parts, given to the parser alone.

Of every input: nothing is raised but what the layers above expect; what was read is well-formed; however the stream
was cut into pieces by the network, the outcome is the same; and the time it took was linear (`LIMIT_SECONDS`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from pushpull import connect, wire, wire_fetch
from pushpull.errors import (
    ConnectionLost,
    MailboxMissing,
    MessageError,
    ResyncNeeded,
    ServerUnsupported,
    Temporary,
)
from pushpull.flags import ALL
from pushpull.login import sign_in
from pushpull.model import Identity, MailboxState, RemoteView, Uid, UidSet
from pushpull.ports import Appended, Outgoing, Since, Vanished
from pushpull.remote import Compression, Extensions, Session
from pushpull.transport import Client
from tests.support.scripted import ScriptedSocket

EXPECTED = (Temporary, MailboxMissing, MessageError, ResyncNeeded, ServerUnsupported)
FULL = frozenset({"IMAP4REV1", "CONDSTORE", "QRESYNC", "ENABLE", "UIDPLUS", "ESEARCH", "LITERAL+", "IDLE"})
OUTGOING = Outgoing(1, ["k"], "01-Feb-2003 01:02:03 +0000", 3, (b"abc",))
SINCE = Since(7, Uid(3), 5, (Uid(1), Uid(2)))


class Sliced(ScriptedSocket):
    """Gives a stream in pieces of the lengths that `rng` draws; in as few as possible without it."""

    def __init__(self, stream: bytes, rng: Random | None) -> None:
        super().__init__(b"* OK ready\r\n", stream)
        self._rng = rng

    def getpeername(self) -> tuple[str, int]:
        return "192.0.2.1", 143

    def recv(self, size: int, flags: int = 0) -> bytes:
        return super().recv(size if self._rng is None else min(size, self._rng.choice((1, 1, 2, 3, 7, 50, 4096))))


def client_of(stream: bytes, rng: Random | None) -> Client:
    return Client("test:143", Sliced(stream, rng).as_socket)


# --- conversations -------------------------------------------------------------------------------------------


def _session(client: Client, *, extended: bool = True) -> Session:
    if not extended:
        return Session(client, Extensions(frozenset({"IMAP4REV1"})))
    return Session(client, Extensions(FULL, condstore=True, qresync=True))


def _open(client: Client) -> Iterable[Any]:
    session = _session(client)
    opening = session.open("INBOX", SINCE)
    yield opening.state
    yield from opening.canary()
    yield from opening.arrived()
    yield from opening.changed()
    yield session.exists


def _select(client: Client) -> Iterable[Any]:
    session = _session(client, extended=False)
    yield session.open("INBOX", None, read_only=True).state
    yield session.moved()


def _views(client: Client) -> Iterable[Any]:
    yield from _session(client).views(Uid(1), None)


def _uids(client: Client) -> Iterable[Any]:
    yield _session(client).uids()


def _search(client: Client) -> Iterable[Any]:
    yield _session(client, extended=False).uids()


def _status(client: Client) -> Iterable[Any]:
    yield _session(client).status("INBOX")


def _identities(client: Client) -> Iterable[Any]:
    yield from _session(client).identities(UidSet.of([1, 2, 3]))


def _headers(client: Client) -> Iterable[Any]:
    yield from _session(client).headers(UidSet.of([1, 2, 3]))


def _bodies(client: Client) -> Iterable[Any]:
    for message in _session(client).messages([Uid(1), Uid(2), Uid(3)]):
        yield message.view, message.internaldate, message.size, b"".join(message.body)


def _store(client: Client) -> Iterable[Any]:
    yield from _session(client).store(UidSet.of([1, 2]), add=1, remove=0).values()


def _append(client: Client) -> Iterable[Any]:
    """Two, of which the second was sent before the first was answered."""
    for answer in _session(client).append("INBOX", [OUTGOING, OUTGOING]):
        yield answer if isinstance(answer, Appended) else f"{type(answer).__name__}: {answer}"


def _append_all(client: Client) -> Iterable[Any]:
    yield from _session(client).append_all("INBOX", [OUTGOING, OUTGOING, OUTGOING])


def _login(client: Client) -> Iterable[Any]:
    yield sign_in(client, "OAUTHBEARER", "alice", "s3cret").status
    yield client.failure
    session = connect._session(client, _ACCOUNT)  # the negotiation after the login, which nothing else exposes
    session._enabled_as_presumed()
    yield session.qresync


class _Account:
    disabled = frozenset[str]()
    compression = Compression()


_ACCOUNT: Any = _Account()


def _idle(client: Client) -> Iterable[Any]:
    command = client.start(b"IDLE")
    while not command.answered():
        response = client.advance()
        yield response and (response.kind, response.number)
        if response is not None and response.kind == "+":
            client.done(command)


CONVERSATIONS: dict[str, Callable[[Client], Iterable[Any]]] = {
    "open": _open,
    "select": _select,
    "views": _views,
    "uids": _uids,
    "search": _search,
    "status": _status,
    "identities": _identities,
    "headers": _headers,
    "bodies": _bodies,
    "store": _store,
    "append": _append,
    "append_all": _append_all,
    "login": _login,
    "idle": _idle,
}


def outcome(name: str, stream: bytes, rng: Random | None = None) -> tuple[list[Any], str]:
    """What a conversation gave, and how it ended."""
    found: list[Any] = []
    try:
        client = client_of(stream, rng)
        found.extend(CONVERSATIONS[name](client))
    except EXPECTED as error:
        return found, f"{type(error).__name__}: {error}"
    return found, ""


def converse(name: str, stream: bytes, rng: Random) -> str:
    """One execution; returns what tells this outcome from others."""
    found, end = outcome(name, stream)
    for value in found:
        demand_well_formed(value)
    assert end.isprintable(), end
    assert len(end) < 3000, end
    assert "s3cret" not in end
    again = outcome(name, stream, rng)
    # The words of a line that is too long tell how much had come.
    assert again == (found, end), f"cut into pieces it is {again!r} and not {(found, end)!r}"
    return f"{name} {sorted({type(value).__name__ for value in found})} {end[:60]}"


# --- answers -------------------------------------------------------------------------------------------------


def answer(line: bytes, rng: Random) -> str:
    """One execution: the parser alone, on an answer whose literals are cut out at NUL octets."""
    parts = line.split(b"\0")
    if len(parts) % 2 == 0:
        parts.pop()
    pending = rng.random() < 0.25
    told = []
    try:
        kind, number, start = wire.kind_of(parts[0])
    except ConnectionLost:
        kind, number, start = "", None, 0
    rest = parts[0][start:]
    assert number is None or 0 <= number < 10**20
    for name, reader in _READERS.items():
        if name != kind and rng.random() < 0.8:
            continue
        try:
            told.append(f"{name}{_digest(reader(parts, rest, pending))}")
        except ConnectionLost as error:
            text = str(error)
            assert text.isprintable()
            assert len(text) < 1000, text
            told.append(f"{name}!{text[:24]}")
    return " ".join(told)


def _digest(value: Any) -> str:
    demand_well_formed(value)
    if isinstance(value, wire_fetch.Fetch):
        names = (name for name in wire_fetch.Fetch.__slots__ if getattr(value, name) not in (None, 0, "", frozenset()))
        return "+".join(names)
    return type(value).__name__


def _status_words(parts: list[bytes], rest: bytes, _: bool) -> Any:
    del parts
    _, arguments, words = wire.code(rest)
    assert len(words) <= 600
    assert words.isprintable()
    wire.flag_names(arguments)
    wire.modseq_of(arguments)
    return None


def _literal(parts: list[bytes], rest: bytes, _: bool) -> Any:
    del rest
    found = wire.literal_size(parts[-1])
    assert found is None or (0 <= found[0] <= wire.MAX_LITERAL and 0 <= found[1] < len(parts[-1]))


_READERS: dict[str, Callable[[list[bytes], bytes, bool], Any]] = {
    "FETCH": lambda parts, rest, pending: wire_fetch.fetch(parts, rest, pending=pending),
    "SEARCH": lambda _, rest, __: UidSet(wire.search(rest)),
    "ESEARCH": lambda parts, rest, _: wire.esearch(parts, rest, b"P1"),
    "VANISHED": lambda _, rest, __: wire.vanished(rest)[1],
    "STATUS": lambda parts, rest, _: wire.named_status(parts, rest)[1],
    "*": _status_words,
    "literal": _literal,
}


# --- what is well-formed -------------------------------------------------------------------------------------


def demand_well_formed(value: Any) -> None:
    """AssertionError for what no layer above could take."""
    if isinstance(value, wire_fetch.Fetch):
        _fetch(value)
    elif isinstance(value, RemoteView):
        _view(value)
    elif isinstance(value, Identity):
        _uid(value.uid)
        assert 0 <= value.size <= wire.MAX_LITERAL
        assert len(value.internaldate) < 200
        assert len(value.message_id) < 2000
        value.message_id.encode()
    elif isinstance(value, UidSet):
        _uids_of(value)
    elif isinstance(value, Vanished):
        _uids_of(value.uids)
    elif isinstance(value, Appended) and value.uid is not None:
        _uid(value.uid)
        assert value.uidvalidity is not None
        assert 0 < value.uidvalidity <= wire.MAX_UID
    elif isinstance(value, MailboxState):
        assert 0 < value.uidvalidity <= wire.MAX_UID
        assert value.uidnext is None or 0 < value.uidnext <= wire.MAX_UID + 1
        assert value.highestmodseq is None or 0 < value.highestmodseq <= wire.MAX_MODSEQ
        assert 0 <= value.exists < 10**20
    elif isinstance(value, dict):
        assert all(isinstance(count, int) and 0 <= count < 10**20 for count in value.values())


def _uids_of(found: UidSet) -> None:
    previous = -1
    for lo, hi in found.ranges:
        assert previous + 1 < lo <= hi <= wire.MAX_UID
        previous = hi


def _uid(uid: int) -> None:
    assert isinstance(uid, int)
    assert 0 < uid <= wire.MAX_UID


def _view(view: RemoteView) -> None:
    _uid(view.uid)
    assert 0 <= view.flags <= ALL
    assert 0 <= view.modseq <= wire.MAX_MODSEQ
    assert len(view.keywords) <= 100
    for word in view.keywords:
        # They are kept as one text, cut at blanks, and written to logs.
        assert word
        assert len(word) <= 300
        assert word.isprintable()
        assert not any(char.isspace() for char in word)
        word.encode()


def _fetch(found: wire_fetch.Fetch) -> None:
    if found.uid is not None:
        _uid(found.uid)
    if found.view is not None:
        _view(found.view)
    assert found.size is None or 0 <= found.size <= wire.MAX_LITERAL
    assert found.internaldate is None or len(found.internaldate) < 300
    for section in (found.body, found.header, found.fields):
        assert section is None or isinstance(section, bytes)
    assert found.awaits in ("", "body", "header", "fields")
