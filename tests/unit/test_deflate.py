# SPDX-License-Identifier: MIT
"""A compressed link (RFC 4978): the same octets come out, however they are cut, in bounded memory, or the link ends."""

from __future__ import annotations

import zlib
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushpull import deflate
from pushpull.connect import _within_this_machine
from pushpull.deflate import Deflated
from pushpull.errors import ConnectionLost
from pushpull.remote import COMPRESS, Compression, Extensions, Session
from tests.support.scripted import ScriptedSocket, scripted_client

AGREED = b"P1 OK begin\r\n"


def deflated(*pieces: bytes) -> bytes:
    """Each flushed, as a server does after what it has to say."""
    deflater = zlib.compressobj(wbits=-15)
    return b"".join(deflater.compress(piece) + deflater.flush(zlib.Z_SYNC_FLUSH) for piece in pieces)


def inflated(data: bytes) -> bytes:
    return zlib.decompressobj(-15).decompress(data)


def everything(link: Deflated, size: int) -> list[bytes]:
    return list(iter(lambda: link.recv(size), b""))


@given(
    st.lists(st.binary(max_size=300) | st.integers(1, 70_000).map(lambda size: b"x" * size), max_size=6),
    st.lists(st.integers(0, 4000), max_size=6),
    st.integers(1, 70_000),
)
def test_what_was_sent_comes_out_however_it_is_cut(pieces, cuts, size):
    data = deflated(*pieces)
    ends = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    first, *rest = [data[lo:hi] for lo, hi in pairwise(ends)] or [b""]
    got = everything(Deflated(ScriptedSocket(*rest).as_socket(), first), size)
    assert b"".join(got) == b"".join(pieces)
    assert all(len(piece) <= size for piece in got)


def test_a_few_octets_that_stand_for_many_come_in_pieces():
    bomb = deflated(b"\0" * 50_000_000)
    link = Deflated(ScriptedSocket().as_socket(), bomb)
    assert {len(link.recv(65536)) for _ in range(700)} == {65536}
    assert link.pending()


@given(st.lists(st.binary(max_size=5000), max_size=5))
def test_each_piece_that_is_sent_can_be_read_at_once(pieces):
    sock = ScriptedSocket()
    link = Deflated(sock.as_socket(), b"")
    inflater, seen = zlib.decompressobj(-15), 0
    for piece in pieces:
        link.sendall(piece)
        assert inflater.decompress(bytes(sock.sent[seen:])) == piece
        seen = len(sock.sent)


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"* OK still in the clear\r\n", "not compressed as agreed"), (b"\x03\x00", "ended the compress")],
)
def test_what_is_not_compressed_ends_the_link(data, words):
    client = scripted_client(AGREED, data)
    assert client.compress()
    with pytest.raises(ConnectionLost, match=rf"^test:143: .*{words}"):
        client.run(b"NOOP")


def test_a_client_goes_on_compressed():
    """The first compressed octets may come in one piece with the agreement."""
    client = scripted_client(AGREED + deflated(b"* 3 EXISTS\r\nP2 OK a\r\n", b"P3 OK b\r\n"))
    sock = client.sock
    assert client.compress()
    command = client.start(b"NOOP")
    assert client.sock.pending() or client.ready
    assert [answer.number for answer in client.responses(command)] == [3]
    assert client.run(b"CHECK").status == "OK"
    client.shutdown()
    assert isinstance(sock, ScriptedSocket)
    assert sock.closed
    plain, _, packed = bytes(sock.sent).partition(b"COMPRESS DEFLATE\r\n")
    assert (plain, inflated(packed)) == (b"P1 ", b"P2 NOOP\r\nP3 CHECK\r\n")


@pytest.mark.parametrize("answer", [b"P1 NO [COMPRESSIONACTIVE] again\r\n", b"P1 BAD what?\r\n"])
def test_a_server_that_will_not(answer):
    client = scripted_client(answer, b"P2 OK in the clear\r\n")
    session = Session(client, Extensions(frozenset({COMPRESS})))
    session.expect(1 << 30)
    assert client.run(b"NOOP").status == "OK"
    session.expect(1 << 30)
    assert client.sock.lines == ["P1 COMPRESS DEFLATE", "P2 NOOP"]  # type: ignore[union-attr]


def test_after_a_link_that_broke_with_it_no_other_is_compressed():
    """Seen by a command that may be repeated: an upload would be left without an answer."""
    account = Compression()
    broken = scripted_client(AGREED, b"garbage")
    with pytest.raises(ConnectionLost):
        Session(broken, Extensions(frozenset({COMPRESS})), compression=account).expect(1 << 30)
    next_one = scripted_client(AGREED)
    Session(next_one, Extensions(frozenset({COMPRESS})), compression=account).expect(1 << 30)
    assert not next_one.sock.sent  # type: ignore[union-attr]


def test_a_link_that_works_is_no_reason_against_another():
    account = Compression()
    for _ in range(2):
        client = scripted_client(AGREED + deflated(b"P2 OK\r\n"))
        Session(client, Extensions(frozenset({COMPRESS})), compression=account).expect(1 << 30)
        assert isinstance(client.sock, Deflated)


def test_what_stands_for_nothing_is_no_answer(monkeypatch):
    """Each empty block begins the socket's own time anew."""
    now = 0.0

    class Endless(ScriptedSocket):
        def recv(self, size: int, flags: int = 0) -> bytes:
            nonlocal now
            now += 0.9 * self.gettimeout()
            return b"\x00\x00\x00\xff\xff"

    monkeypatch.setattr(deflate, "time", SimpleNamespace(monotonic=lambda: now))
    with pytest.raises(TimeoutError):
        Deflated(Endless().as_socket(), b"").recv(100)
    assert now < 3 * Endless().gettimeout()


def test_what_came_before_the_end_of_the_compression_is_taken():
    deflater = zlib.compressobj(wbits=-15)
    link = Deflated(ScriptedSocket().as_socket(), deflater.compress(b"P9 OK\r\n* BYE\r\n") + deflater.flush())
    assert link.recv(100) == b"P9 OK\r\n* BYE\r\n"
    with pytest.raises(ValueError, match="ended the compression"):
        link.recv(100)


@pytest.mark.parametrize(("offered", "octets"), [(frozenset(), 1 << 30), (frozenset({COMPRESS}), 1000)])
def test_for_little_nobody_is_asked(offered, octets):
    client = scripted_client()
    Session(client, Extensions(offered)).expect(octets)
    assert not client.sock.sent  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        (("127.0.0.1", 993), True),
        (("127.5.0.9", 993), True),
        (("::1", 993, 0, 0), True),
        (("::ffff:127.0.0.1", 993, 0, 0), True),
        (("192.0.2.1", 993), False),
        (("2001:db8::1", 993, 0, 0), False),
        (("10.127.0.1", 993), False),
        (None, False),
    ],
)
def test_what_is_within_this_machine(name, near):
    class Named(ScriptedSocket):
        def getpeername(self):
            if name is None:
                raise OSError("not connected")
            return name

    assert _within_this_machine(Named().as_socket()) is near
