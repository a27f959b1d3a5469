# SPDX-License-Identifier: MIT
"""Fingerprints, line ends, Message-IDs and likeness; each however the bytes are cut into chunks."""

from __future__ import annotations

import hashlib
import itertools
import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pushpull import message
from pushpull.message import Fingerprinter, Likeness, fingerprint, message_id, same_message, stored, to_crlf, to_lf

# Short alphabets make line ends meet chunk boundaries and each other.
texts = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"\r\r\n", b"\n\n", b"a", b": ", b"1", b"\0", b"\x80", b"X", b"Received:"]),
    max_size=24,
).map(b"".join)
cuts = st.lists(st.integers(0, 40), max_size=6)
messages = st.builds(lambda head, body: head + b"\n\n" + body, texts, texts) | texts


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(edge, len(data)) for edge in at), len(data)]
    return [data[lo:hi] for lo, hi in itertools.pairwise(edges)]


def normal(data: bytes) -> bytes:
    return re.sub(rb"\r*\n", b"\n", data)


# --- line ends -----------------------------------------------------------------------------------------------


@given(texts, cuts)
@example(b"\r\r\n", [1, 2])
def test_to_lf_takes_one_cr_from_each_crlf(data, at):
    assert b"".join(to_lf(cut(data, at))) == data.replace(b"\r\n", b"\n")


@given(texts, cuts)
@example(b"a\r\r\n", [3])
@example(b"a: b\r\n\r\nc\r\n", [8])
def test_what_is_stored_is_lf_and_fingerprinted_on_the_way(data, at):
    fingerprinter = Fingerprinter()
    assert b"".join(stored(cut(data, at), fingerprinter)) == b"".join(to_lf([data]))
    assert fingerprinter.finish() == fingerprint([data])


@given(texts, cuts)
@example(b"\r\r\n\n", [1, 2, 3])
def test_to_crlf_gives_a_cr_to_each_bare_lf(data, at):
    assert b"".join(to_crlf(cut(data, at))) == re.sub(rb"(?<!\r)\n", b"\r\n", data)


@given(texts, cuts, cuts)
def test_a_message_of_crlf_lines_survives_the_way_down_and_up(data, at, again):
    wire = re.sub(rb"\r*\n", b"\r\n", data)
    file = b"".join(to_lf(cut(wire, at)))
    assert b"\r\n" not in file
    assert b"".join(to_crlf(cut(file, again))) == wire


# --- fingerprints --------------------------------------------------------------------------------------------


@given(messages, cuts)
@example(b"\r\r\n", [1])
@example(b"a\r", [])
def test_a_fingerprint_does_not_depend_on_chunks(data, at):
    normalised = normal(data)
    header = b"" if normalised.startswith(b"\n") else normalised.partition(b"\n\n")[0]
    if len(header) < len(normalised) and header:
        header += b"\n"
    found = fingerprint(cut(data, at))
    assert found.digest == hashlib.sha256(normalised).digest()
    assert found.header_digest == hashlib.sha256(header).digest()
    assert found.size == len(re.sub(rb"(?<!\r)\n", b"\r\n", data))
    assert found.received == bool(re.search(rb"(?m)^Received:", header))


@given(messages, cuts, cuts)
def test_a_file_and_what_is_sent_of_it_have_one_fingerprint(data, at, again):
    stored = normal(data)
    assert fingerprint(cut(stored, at)) == fingerprint(to_crlf(cut(stored, again)))


def test_a_header_alone_has_the_header_digest_of_its_message():
    header = b"From: a@b\r\nMessage-ID: <1@x>\r\n"
    whole = fingerprint([header + b"\r\nbody\r\n"])
    assert fingerprint([header + b"\r\n"]).header_digest == whole.header_digest
    assert fingerprint([header]).header_digest == whole.header_digest
    assert whole.message_id == "1@x"


def test_the_body_has_no_fields():
    found = fingerprint([b"Subject: x\n\nReceived: y\nMessage-ID: <body@x>\n"])
    assert (found.message_id, found.received) == ("", False)


def test_a_body_without_header_begins_with_an_empty_line():
    found = fingerprint([b"\r", b"\nMessage-ID: <body@x>\r\n"])
    assert found.header_digest == hashlib.sha256(b"").digest()
    assert found.message_id == ""


def test_nothing_has_a_fingerprint_too():
    empty = hashlib.sha256(b"").digest()
    assert fingerprint([]) == fingerprint([b"", b""])
    assert (fingerprint([]).digest, fingerprint([]).header_digest, fingerprint([]).size) == (empty, empty, 0)


def test_received_is_a_whole_field_name():
    assert fingerprint([b"RECEIVED : from a\n\n"]).received
    assert not fingerprint([b"Received-SPF: pass\nX-Received: b\n Received: folded\n\n"]).received


def test_a_huge_header_is_hashed_whole_but_looked_into_so_far(monkeypatch):
    monkeypatch.setattr(message, "HEADER_LIMIT", 100)
    data = b"Message-ID: <first@x>\n" + b"X: " + b"y" * 100 + b"\nMessage-ID: <second@x>\n\nbody"
    for size in (1, 7, 1000):
        found = fingerprint(data[i : i + size] for i in range(0, len(data), size))
        assert found.message_id == "first@x"
        assert found.header_digest == hashlib.sha256(data[: -len("\nbody")]).digest()


def test_a_field_cut_by_the_limit_does_not_count(monkeypatch):
    data = b"Message-ID: <first@x>\nMessage-ID: <second@x>\n\n"
    monkeypatch.setattr(message, "HEADER_LIMIT", len(b"Message-ID: <first@x>\nMessage-ID: <sec"))
    assert fingerprint([data]).message_id == "first@x"


# --- Message-IDs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"Message-ID: <a@b>\r\n", "a@b"),
        (b"message-id:<a@b>", "a@b"),
        (b"MESSAGE-ID \t: <a@b>\n", "a@b"),
        (b"Message-ID: a@b\n", "a@b"),
        (b"Message-ID: <a@b> (comment)\n", "a@b"),
        (b"Message-ID: (one (two) \\) three) (four) <a@b>\n", "a@b"),
        (b"Message-ID: (never closed <a@b>\n", "(never closed <a@b"),
        (b"Message-ID:\r\n <a@b>\r\n", "a@b"),
        (b"Message-ID:\r\n\t \r\n <a@b>\r\n", "a@b"),
        (b"Message-ID: <long\r\n er@b>\r\n", "longer@b"),
        (b"Message-ID: <a@b\n", "a@b"),
        (b"Message-ID: < a@b >\n", "a@b"),
        (b"Message-ID: <a@b>\nMessage-ID: <c@d>\n", "c@d"),
        (b"Message-ID: <a@b>\nMessage-ID:\n", ""),
        (b"Message-ID: <A@b>\n", "A@b"),
        (b"Message-ID:\n", ""),
        (b"Message-ID\n", ""),
        (b"X-Message-ID: <a@b>\n", ""),
        (b"X: y\n Message-ID: <a@b>\n", ""),
        (b"", ""),
        (b"no header at all", ""),
        (b"\nMessage-ID: <body@b>\n", ""),
        (b"\r\r\nMessage-ID: <body@b>\n", ""),
        (b"X: y\r\n\r\nMessage-ID: <body@b>\n", ""),
        (b"From someone Mon Jan 1\nMessage-ID: <a@b>\n", "a@b"),
        (b"\xff\xfe: x\nMessage-ID: <a@b>\n", "a@b"),
        ("Message-ID: <ü@b>\n".encode(), "ü@b"),
        ("Message-ID: <ü@b>\n".encode("latin-1"), "ü@b"),
        (b"Message-ID: <a\0b>\r\n", "a\0b"),
        (b"Message-ID: <a\rb>\r\r\n", "a\rb"),
        (b"Message-ID: <a:b>c>\n", "a:b"),
    ],
)
def test_message_ids_are_read_liberally(header, expected):
    assert message_id(header) == expected


@given(st.binary(max_size=60).map(lambda tail: b"Message-ID:" + tail) | st.binary(max_size=60))
def test_no_header_is_too_malformed(header):
    found = message_id(header)
    assert found == found.encode("utf-8").decode("utf-8")
    assert "\n" not in found


@given(st.text("ab<>()\\ \t@\n\r:", max_size=20), texts)
def test_a_fingerprint_finds_the_same_message_id_as_the_field_alone(value, body):
    header = b"Subject: x\nMessage-ID: " + value.replace("\n", "\n ").replace("\r", "").encode() + b"\n"
    assert fingerprint([header, b"\n", body]).message_id == message_id(header)


@pytest.mark.parametrize(
    "hostile",
    [b"\r" * 2_000_000, b"(" * 1_000_000, b"()" * 500_000, b"\n " * 500_000, b" " * 1_000_000, b"\\(" * 500_000],
)
def test_a_hostile_header_takes_linear_time(hostile):
    before = time.process_time()
    header = b"Message-ID: " + hostile + b"x"
    message_id(header)
    fingerprint([b"Message-ID" + hostile + b":"])
    same_message([hostile, b"a"], [hostile + b"a"])
    assert time.process_time() - before < 20  # quadratic would be hours


# --- likeness ------------------------------------------------------------------------------------------------


@given(messages, cuts, cuts)
def test_line_ends_and_chunks_make_no_difference(data, at, again):
    stored = normal(data)
    wire = stored.replace(b"\n", b"\r\n")
    assert same_message(cut(stored, at), cut(wire, again)) is Likeness.EXACT


@given(messages, messages, cuts, cuts)
def test_exact_means_equal_but_for_line_ends(a, b, at, again):
    likeness = same_message(cut(a, at), cut(b, again))
    assert (likeness is Likeness.EXACT) == (normal(a) == normal(b))
    assert likeness is same_message(cut(b, again), cut(a, at))


HEADER = "Subject: Grüße\nX-Note: X\n".encode()


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (HEADER + b"\nbody\n", HEADER + b"\nbody"),
        (HEADER + b"\nbody\n", HEADER + b"\nbody\r\n\r\n\r\n"),
        (HEADER + b"\n", HEADER),
        (b"", b"\r\n"),
        (HEADER + b"\nbo\rdy\n", HEADER + b"\nbody\n"),
        (HEADER + b"\nbody\r", HEADER + b"\nbody"),
        (HEADER + b"\nbo\0dy\n", HEADER + b"\nbo\x80dy\n"),
        (HEADER + b"\nbody\n", b"Subject: GrXXXXe\nX-Note: X\n\nbody\n"),
        (HEADER, b"Subject: GrXXXXe\r\nX-Note: X\r\n"),
    ],
)
def test_what_servers_rewrite_is_tolerated(a, b):
    assert same_message([a], [b]) is Likeness.TOLERANT
    assert same_message([b], [a]) is Likeness.TOLERANT


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (HEADER + b"\nprice 100\n", HEADER + b"\nprice 101\n"),
        (HEADER + b"\nbody\n", HEADER + b"\nbody \n"),
        (HEADER + b"\nbody\n", HEADER + b"\n\nbody\n"),
        (HEADER + b"\nbody\n", HEADER + b"\nbod"),
        (HEADER + b"\nbody\n", HEADER + b"\nbody\nX\n"),
        (HEADER + b"\nbody\n", "Subject: Größe\nX-Note: X\n\nbody\n".encode()),  # both 8-bit: an edit
        (HEADER + b"\nbody\n", "Subject: GrXXße\nX-Note: X\n\nbody\n".encode()),  # half munged: no server does that
        (HEADER + b"\nbody\n", b"Subject: GrXXXXe\nX-Note: Y\n\nbody\n"),
        (HEADER + "\nbodü\n".encode(), HEADER + b"\nbodXX\n"),  # bodies are not munged
        (HEADER + b"\nbody\n", b"Subject: GrXXXe\nX-Note: X\n\nbody\n"),
        (HEADER + b"\nbody\n", b""),
        (b"a", b"b"),
    ],
)
def test_every_other_byte_counts(a, b):
    assert same_message([a], [b]) is Likeness.DIFFERENT
    assert same_message([b], [a]) is Likeness.DIFFERENT


@given(messages, st.data())
def test_a_changed_digit_is_another_message(data, draw):
    at = draw.draw(st.integers(0, len(data)))
    a, b = data[:at] + b"7" + data[at:], data[:at] + b"8" + data[at:]
    assert same_message([a], [b]) is Likeness.DIFFERENT
    assert same_message([a], [data]) is Likeness.DIFFERENT


def test_a_difference_far_from_the_header_is_found():
    lines = [b"Subject: x\n\n", *(b"line %d of a long body\n" % number for number in range(60_000))]
    other = [*lines[:-1], lines[-1].replace(b"9", b"8", 1)]
    assert same_message(lines, [b"".join(lines)]) is Likeness.EXACT
    assert same_message(lines, [*lines[:-1], lines[-1].replace(b"\n", b"")]) is Likeness.TOLERANT
    assert same_message(lines, other) is Likeness.DIFFERENT


def test_a_header_beyond_the_limit_is_compared_byte_by_byte(monkeypatch):
    monkeypatch.setattr(message, "HEADER_LIMIT", 10)
    assert same_message(["A: ü\n".encode()], [b"A: XX\n"]) is Likeness.TOLERANT
    assert same_message(["A: xxxxxxxxx ü\n".encode()], [b"A: xxxxxxxxx XX\n"]) is Likeness.DIFFERENT


def test_comparison_stops_at_the_first_difference():
    def endless(byte: bytes):
        while True:
            yield byte * 65536

    assert same_message(endless(b"a"), endless(b"b")) is Likeness.DIFFERENT


def test_a_fingerprinter_takes_what_it_is_fed():
    fingerprinter = Fingerprinter()
    for chunk in (b"A: b\r", b"\n\r", b"\nbody\n"):
        fingerprinter.feed(chunk)
    assert fingerprinter.finish() == fingerprint([b"A: b\n\nbody\n"])
