# SPDX-License-Identifier: MIT
"""An answer costs what its length is, and of what a server says no more is kept than anybody needs.

What a line without sense may hold is known from the fuzzer (tests/fuzz). A cost that grows with the square of a line's
length would not end within the time that pytest gives a test.
"""

import tracemalloc

import pytest

from pushpull import wire, wire_fetch
from pushpull.errors import ConnectionLost
from pushpull.flags import SEEN
from pushpull.message import ID_LIMIT, fingerprint, message_id

MEGABYTE = 1 << 20


def peak(call) -> int:
    """Octets that a call that is refused takes at most."""
    tracemalloc.start()
    try:
        with pytest.raises(ConnectionLost, match="malformed") as caught:
            call()
        assert len(str(caught.value)) < 500
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_sections_that_never_close():
    line = b"(" + b"BODY[ " * 250_000 + b")"
    with pytest.raises(ConnectionLost, match="malformed"):
        wire_fetch.fetch([line], line)


@pytest.mark.parametrize("start", [b'(TAG "', b'(TAG "P1") UID ALL "\\"'])
def test_a_quoted_string_that_never_closes(start):
    line = start + b"a" * (4 * MEGABYTE)
    assert peak(lambda: wire.esearch([line], line, b"P1")) < 2 * MEGABYTE + len(line)


@pytest.mark.parametrize("word", [b"aa ", b"() ", b'"" '])
def test_words_without_end(word):
    line = b'(TAG "P1") UID ALL ' + word * 110_000
    with pytest.raises(ConnectionLost, match="malformed list"):
        wire.esearch([line], line, b"P1")


@pytest.mark.parametrize("ranges", [b",".join(b"%d" % uid for uid in range(1, 4_000, 2)), b"1," * 2_000 + b"1"])
def test_a_uid_set_without_end(ranges, monkeypatch):
    assert wire.uid_set(ranges)
    monkeypatch.setattr(wire, "MAX_RANGES", 1000)
    for call in (lambda: wire.uid_set(ranges), lambda: wire.vanished(b"(EARLIER) " + ranges)):
        with pytest.raises(ConnectionLost, match="malformed UID set"):
            call()


def test_a_search_answer_without_end(monkeypatch):
    uids = b" ".join(b"%d" % uid for uid in range(1, 4_000, 2))
    assert len(wire.search(uids)) == 2_000
    monkeypatch.setattr(wire, "MAX_RANGES", 1000)
    with pytest.raises(ConnectionLost, match="malformed UID list"):
        wire.search(uids)


def test_neighbours_cost_one_range():
    uids = b",".join(b"%d" % uid for uid in range(1, 10_001))
    assert wire.uid_set(uids).ranges == ((1, 10_000),)
    assert wire.search(b"3 1 2 2 3 4 9 8 5")[-1] == (5, 5)


@pytest.mark.parametrize("size", [b"4294967296", b"10737418240", b"9" * 20, b"9" * 5000])
def test_a_literal_that_no_message_fills(size):
    with pytest.raises(ConnectionLost, match="malformed literal"):
        wire.literal_size(b"* 1 FETCH (BODY[] {" + size + b"}")


@pytest.mark.parametrize("size", [b"4294967296", b"9223372036854775808", b"9" * 20])
def test_a_size_that_no_message_has(size):
    """What the state file cannot hold must not reach it."""
    assert wire_fetch.fetch([b"(UID 1 RFC822.SIZE " + size + b")"], b"(UID 1 RFC822.SIZE " + size + b")").size is None
    assert wire_fetch.fetch([b""], b"(UID 1 RFC822.SIZE 4294967295)").size == 2**32 - 1


@pytest.mark.parametrize("order", ["\\Seen {}", "{} \\Seen"])
def test_keywords_without_end(order):
    """A flag among them counts all the same; of keywords as many are kept as anybody uses."""
    words = " ".join(f"word{number}" for number in range(10_000)) + " " + "x" * 10_000
    line = f"(UID 7 FLAGS ({order.format(words)}))".encode()
    flags, keywords = wire_fetch.fetch([line], line).flags
    assert flags == SEEN
    assert 0 < len(keywords) <= 100
    assert max(map(len, keywords)) < 300


def test_many_long_lists_of_flags_are_not_remembered():
    tracemalloc.start()
    try:
        for number in range(200):
            line = b"(UID 7 FLAGS (%d %b))" % (number, b"x" * 100_000)
            wire_fetch.fetch([line], line)
        assert tracemalloc.get_traced_memory()[0] < 4 * MEGABYTE
    finally:
        tracemalloc.stop()


def test_a_date_that_is_none():
    line = b'(UID 7 INTERNALDATE "' + b"1" * 10_000 + b'")'
    assert wire_fetch.fetch([line], line).internaldate is None


def test_a_message_id_without_end():
    """Both sides cut it at the same place, or a message would not be found again."""
    header = b"Message-ID: <" + b"x" * 100_000 + b"@x>\r\n\r\n"
    assert len(message_id(header)) == ID_LIMIT
    assert fingerprint([header.replace(b"\r", b"")]).message_id == message_id(header)


@pytest.mark.parametrize(
    "text",
    [b"x" * MEGABYTE, b"[ALERT] " + b"\x1b" * MEGABYTE, b"[" + b"A" * MEGABYTE + b"] no", b"[OVER\x07QUOTA\xff] no"],
)
def test_words_of_a_server_are_as_many_as_a_person_reads(text):
    code, _, words = wire.code(text)
    assert len(words) < 600
    assert len(code) <= 800
    assert code.isprintable()
    assert words.isprintable()
