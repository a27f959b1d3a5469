# SPDX-License-Identifier: MIT
"""What a server may do for ever, and what it may say again: time, memory and secrets on the client's side."""

import base64
import itertools
from collections.abc import Iterator

import pytest

from pushpull import framing, transport
from pushpull import watch_status as ws
from pushpull.errors import ConnectionLost, ResyncNeeded
from pushpull.framing import Response
from pushpull.login import sign_in
from pushpull.model import Uid, UidSet
from pushpull.ports import Since
from pushpull.remote import Extensions, Session
from tests.support.scripted import ScriptedSocket, scripted_client


class Endless(ScriptedSocket):
    """After the greeting and `first`, `again` for ever; each recv() takes `seconds` of a clock of its own."""

    def __init__(self, monkeypatch, again: bytes, *, first: bytes = b"", seconds: float = 0.0, limit: int = 50_000):
        super().__init__(b"* OK ready\r\n" + first)
        self._again, self._seconds, self._limit = again, seconds, limit
        self.now = 1000.0
        for module in (framing, transport):
            monkeypatch.setattr(module.time, "monotonic", lambda: self.now)

    def recv(self, size: int, flags: int = 0) -> bytes:
        self.now += self._seconds
        data = super().recv(size)
        if data:
            return data
        self._limit -= 1
        assert self._limit > 0, "it goes on for ever"
        return self._again[:size]

    def client(self) -> transport.Client:
        return transport.Client("test:143", self.as_socket)


# --- time ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [b"", b"* 1 FETCH (UID 1 BODY[] {5000000}\r\n"])
def test_octets_one_by_one_are_no_answer(monkeypatch, first):
    """The socket's timeout is 7 s, and each octet comes within it."""
    sock = Endless(monkeypatch, b"x", first=first, seconds=0.5)
    client = sock.client()
    began = sock.now
    with pytest.raises(ConnectionLost, match="too slowly"):
        client.run(b"NOOP")
    assert sock.now - began < 20


def test_a_slow_link_is_no_slow_server(monkeypatch):
    """What comes at a modem's speed comes, however long it takes."""
    sock = Endless(monkeypatch, b"x" * 4000, first=b"* 1 FETCH (UID 1 BODY[] {1000000}\r\n", seconds=1.0)
    client = sock.client()
    command = client.start(b"UID FETCH 1 BODY.PEEK[]")
    response = next(client.responses(command))
    assert sum(map(len, client.stream(response))) == 1_000_000
    assert sock.now > 1200


@pytest.mark.parametrize(
    "talk",
    [
        b"* OK Still here\r\n",
        b"* 3 EXISTS\r\n",
        b"+ go on\r\n",
        b"* 1 FETCH (UID 1 FLAGS ())\r\n",
        b'* LIST () "/" x\r\n',
        b"* VANISHED 1:4294967295\r\n",
        b"* NO no\r\n* BAD bad\r\n",
    ],
)
def test_talk_without_end_is_no_answer(monkeypatch, talk):
    sock = Endless(monkeypatch, talk, seconds=1.0)
    session = Session(sock.client(), Extensions(frozenset()))
    with pytest.raises(ConnectionLost, match="talks, but gave no answer to UID"):
        for _ in session.views(Uid(1), None):
            pass
    assert sock.now < 1000 + 2 * 7 * transport.TALK


@pytest.mark.parametrize("call", ["identities", "headers", "messages", "uids", "status", "store"])
def test_talk_without_end_in_any_command(monkeypatch, call):
    sock = Endless(monkeypatch, b"* OK Still here\r\n* 1 FETCH (UID 1 FLAGS ())\r\n", seconds=1.0)
    session = Session(sock.client(), Extensions(frozenset()))
    calls = {
        "identities": lambda: list(session.identities(UidSet.of([1]))),
        "headers": lambda: list(session.headers(UidSet.of([1]))),
        "messages": lambda: list(session.messages([Uid(1)])),
        "uids": session.uids,
        "status": lambda: session.status("x"),
        "store": lambda: session.store(UidSet.of([1]), add=1, remove=0),
    }
    with pytest.raises(ConnectionLost, match="talks, but gave no answer"):
        calls[call]()


def test_who_is_busy_elsewhere_does_not_blame_the_server(monkeypatch):
    """Between two answers the disk may take its time."""
    sock = Endless(monkeypatch, b"* 1 FETCH (UID 1 FLAGS ())\r\n", seconds=1.0, limit=100)
    session = Session(sock.client(), Extensions(frozenset()))
    for _ in itertools.islice(session.views(Uid(1), None), 50):
        sock.now += 100


def test_logging_out_does_not_listen_for_long(monkeypatch):
    sock = Endless(monkeypatch, b"* OK one moment\r\n* BYE\r\n", seconds=0.1)
    began = sock.now
    sock.client().logout()
    assert sock.closed
    assert sock.now - began < 5


def test_empty_lines_without_end(monkeypatch):
    with pytest.raises(ConnectionLost, match="nothing but empty lines"):
        Endless(monkeypatch, b"\r\n" * 100).client().run(b"NOOP")


# --- literals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b'* LIST () "/" {9999999999}\r\n', "malformed literal"),
        (b'* LIST () "/" {4000000000}\r\n', "of a kind that holds no such thing"),
        (b"* STATUS {300000}\r\n", "of a kind that holds no such thing"),
        (b"* 1 FETCH (UID 1 BODY[HEADER] {4000000000}\r\n", "that nobody asked for"),
        (b"* 1 FETCH (FLAGS ({4000000000}\r\n", "that nobody asked for"),
        (b"* 1 FETCH (BODY[] {99999999999999999999999}\r\n", "malformed literal"),
    ],
)
def test_huge_literals_are_not_waited_for(answer, reason):
    client = scripted_client(answer + b"x" * 1000)
    with pytest.raises(ConnectionLost, match=reason):
        client.run(b"NOOP")


def test_a_body_far_larger_than_its_size_is_not_taken():
    client = scripted_client(
        b'* 1 FETCH (UID 1 FLAGS () INTERNALDATE "01-Feb-2003 01:02:03 +0000" RFC822.SIZE 500 BODY[] {4000000000}\r\n'
    )
    session = Session(client, Extensions(frozenset()))
    with pytest.raises(ConnectionLost, match="a message of 500 octets comes with 4000000000"):
        next(session.messages([Uid(1)]))


def test_a_body_is_whole_when_its_answer_is():
    """More octets announced than there are: what follows was taken for its end, so the rest makes no sense."""
    head = b'* 1 FETCH (UID 1 FLAGS () INTERNALDATE "01-Feb-2003 01:02:03 +0000" RFC822.SIZE 300000 BODY[] {300050}\r\n'
    after = b")\r\n* 2 EXISTS\r\n* 2 FETCH (UID 2 FLAGS (\\Seen)) \r\nP1 OK done\r\n" + b"P2 OK done\r\n" * 5
    client = scripted_client(head + b"x" * 300_000 + after)
    session = Session(client, Extensions(frozenset()))
    message = next(session.messages([Uid(1)]))
    with pytest.raises(ConnectionLost, match="malformed"):
        b"".join(message.body)


def test_a_message_that_comes_twice_is_given_once():
    answer = b'* 1 FETCH (UID 1 FLAGS () INTERNALDATE "01-Feb-2003 01:02:03 +0000" RFC822.SIZE 2 BODY[] {2}\r\nab)\r\n'
    session = Session(scripted_client(answer * 3 + b"P1 OK done\r\n"), Extensions(frozenset()))
    assert [message.view.uid for message in session.messages([Uid(1), Uid(2)])] == [1]


# --- memory --------------------------------------------------------------------------------------------------

SELECTED = b"* 3 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT 10] x\r\n* OK [HIGHESTMODSEQ 50]\r\nP1 OK x\r\n"
SINCE = Since(7, Uid(10), 40, ())


@pytest.mark.parametrize(
    "change",
    [
        b"* VANISHED (EARLIER) " + b",".join(b"%d" % uid for uid in range(1, 100, 2)) + b"\r\n",
        b"* 1 FETCH (UID 1 FLAGS (" + b" ".join(b"k%d" % n for n in range(100)) + b"))\r\n",
    ],
)
def test_changes_that_take_much_room_are_given_up_sooner(change, monkeypatch):
    monkeypatch.setattr("pushpull.remote_fetch.HELD", 300)
    client = scripted_client(SELECTED + change * 20 + b"P2 OK x\r\nP3 OK x\r\n")
    opening = Session(client, Extensions(frozenset(), condstore=True, qresync=True)).open("x", SINCE)
    assert not list(opening.arrived())
    with pytest.raises(ResyncNeeded, match="more than"):
        list(opening.changed())


def test_lists_without_end_are_no_list(monkeypatch):
    monkeypatch.setattr("pushpull.wire.MAX_RANGES", 1000)
    answer = b"* SEARCH " + b" ".join(b"%d" % uid for uid in range(1, 1000, 2)) + b"\r\n"
    session = Session(scripted_client(answer * 5 + b"P1 OK x\r\n"), Extensions(frozenset()))
    with pytest.raises(ConnectionLost, match="malformed UID list"):
        session.uids()


def test_codes_that_nobody_knows_are_not_kept(monkeypatch):
    kept = set()
    monkeypatch.setattr("pushpull.remote._note_code", spy("pushpull.remote", "_note_code", kept))
    codes = b"".join(b"* OK [X%d] x\r\n" % number for number in range(100))
    Session(scripted_client(codes + SELECTED), Extensions(frozenset())).open("x", None)
    assert not {code for code in kept if code.startswith("X")}


def spy(module: str, name: str, kept: set[str]):
    import importlib

    real = getattr(importlib.import_module(module), name)

    def call(seen, code, arguments):
        real(seen, code, arguments)
        kept.update(seen.codes)

    return call


def test_strangers_are_counted():
    heard = ws._Round()
    for number in range(1000):
        heard.note(Response([b"* STATUS s%d (MESSAGES 1)" % number], "STATUS", None, 9), frozenset({b"INBOX"}))
    assert len(heard.strangers) < 200


# --- secrets -------------------------------------------------------------------------------------------------

SECRET = 'pa"ss\\w\u00f6rd'


def spellings() -> Iterator[bytes]:
    yield SECRET.encode()
    yield b'"pa\\"ss\\\\w\xc3\xb6rd"'
    yield base64.b64encode(SECRET.encode())
    yield base64.b64encode(b"\0alice\0" + SECRET.encode())


@pytest.mark.parametrize("said", list(spellings()))
def test_a_secret_that_comes_back_is_not_shown(said):
    """Not in the answer to the login, not in a later one, not in the words with which the server leaves."""
    trace: list[str] = []
    client = scripted_client(
        b"+ \r\n* NO told: " + said + b"\r\nP1 NO [X " + said + b"] I do not know " + said + b"\r\n",
        b"P2 NO still " + said + b"\r\n* BYE " + said + b"\r\n",
        trace=trace,
    )
    answer = sign_in(client, "PLAIN", "alice", SECRET)
    shown = [answer.answer, *answer.told, answer.text]
    shown.append(client.run(b"NOOP").answer)
    with pytest.raises(ConnectionLost) as caught:
        client.run(b"NOOP")
    shown += [str(caught.value), *trace]
    for text in shown:
        assert said.decode() not in text
        assert SECRET not in text
    assert "***" in answer.answer


def test_a_secret_in_what_makes_no_sense_is_not_shown():
    client = scripted_client(b"P1 OK in\r\nPASS s3cret?\r\n")
    sign_in(client, "LOGIN", "alice", "s3cret")
    with pytest.raises(ConnectionLost, match=r"PASS \*\*\*"):
        client.run(b"NOOP")
