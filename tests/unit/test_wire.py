# SPDX-License-Identifier: MIT
import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pushpull import wire, wire_fetch
from pushpull.errors import ConnectionLost
from pushpull.flags import ANSWERED, FORWARDED, SEEN
from pushpull.model import NEVER, RemoteView, UidSet


def read(*parts: bytes, pending: bool = False) -> wire_fetch.Fetch:
    """A FETCH answer from its parts, as the transport hands it on."""
    kind, number, start = wire.kind_of(parts[0])
    assert kind == "FETCH"
    assert number is not None
    return wire_fetch.fetch(parts, parts[0][start:], pending=pending)


# --- status lines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "kind", "number", "rest"),
    [
        (b"* 3 EXISTS", "EXISTS", 3, b""),
        (b"* ok [ALERT] x", "OK", None, b"[ALERT] x"),
        (b"* SEARCH", "SEARCH", None, b""),
        (b"* 0 RECENT", "RECENT", 0, b""),
        (b"* VANISHED (EARLIER) 41,43:116", "VANISHED", None, b"(EARLIER) 41,43:116"),
        (b"* X-GM.EXT-1 a", "X-GM.EXT-1", None, b"a"),
        (b"* 2 FETCH (UID 7)", "FETCH", 2, b"(UID 7)"),
    ],
)
def test_kind(line, kind, number, rest):
    found, count, start = wire.kind_of(line)
    assert (found, count, line[start:]) == (kind, number, rest)


@pytest.mark.parametrize("line", [b"* ", b"* (x)", b"HTTP/1.1 400", b"* 123456789012345678901 EXISTS", b"* -1 EXISTS"])
def test_no_kind(line):
    with pytest.raises(ConnectionLost, match="malformed"):
        wire.kind_of(line)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"[UIDVALIDITY 3857529045] UIDs valid", ("UIDVALIDITY", b"3857529045", "UIDs valid")),
        (b"[HIGHESTMODSEQ 7011231777]", ("HIGHESTMODSEQ", b"7011231777", "")),  # Gmail: no text after the code
        (b"[READ-WRITE] Select completed", ("READ-WRITE", b"", "Select completed")),
        (b"[PERMANENTFLAGS (\\Answered \\*)] Ok", ("PERMANENTFLAGS", b"(\\Answered \\*)", "Ok")),
        (b" [throttled]  slow down", ("THROTTLED", b"", "slow down")),
        (b"no code", ("", b"", "no code")),
        (b"", ("", b"", "")),
        (b"[broken", ("", b"", "[broken")),
        (b"says \x1b[31mred\r \xc3\xa9 \xff", ("", b"", "says \\x1b[31mred\\r é \\xff")),
    ],
)
def test_code(text, expected):
    assert wire.code(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[NONEXISTENT] no mailbox x (0.001 + 0.000 secs).", "no mailbox x."),
        (b"no mailbox x (0.003 + 0.000 + 0.002 secs).", "no mailbox x."),
        (b"no mailbox x (12.345 secs)", "no mailbox x"),
        (b"wait (0.001 secs) and try again", "wait (0.001 secs) and try again"),
        (b"no mailbox x (2 secs)", "no mailbox x (2 secs)"),
    ],
)
def test_what_a_server_took_is_none_of_its_words(text, words):
    assert wire.code(text)[2] == words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"(BODY[] {36}", (36, 8)),
        (b"x ~{0}", (0, 2)),
        (b"x {5+}", (5, 2)),
        (b"x {}", None),
        (b"x {-1}", None),
        (b"x {5} ", None),
    ],
)
def test_literal_size(text, expected):
    assert wire.literal_size(text) == expected


@pytest.mark.parametrize("data", [b"", b"-1", b"+1", b"1_0", b" 1", b"0x1", b"1" * 21, "١".encode()])
def test_numbers_are_decimal_digits_only(data):
    assert wire.number(data) is None


@pytest.mark.parametrize("data", [b"0", b"4294967296", b"", b"a", b"-5", b"9" * 30])
def test_what_is_no_uid(data):
    with pytest.raises(ConnectionLost, match="malformed UID"):
        wire.uid_of(data)


def test_modseq_beyond_63_bits_is_no_knowledge():
    assert wire.modseq_of(b"9223372036854775807") == 2**63 - 1
    assert wire.modseq_of(b"9223372036854775808") == NEVER
    assert wire.modseq_of(b"-1") == NEVER


def test_quoted():
    assert wire.quoted(b'a "b" \\c') == b'"a \\"b\\" \\\\c"'


@pytest.mark.parametrize("text", [b"a\0", b"a\r", b"a\nb", b"\xff"])
def test_what_cannot_be_quoted(text):
    with pytest.raises(ValueError, match="quoted"):
        wire.quoted(text)


# --- UID sets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "ranges"),
    [
        (b"7", ((7, 7),)),
        (b"1:3,7,9:9", ((1, 3), (7, 7), (9, 9))),
        (b"5:3", ((3, 5),)),
        (b" 1,2,3 ", ((1, 3),)),
        (b"1:4294967295", ((1, 4294967295),)),
    ],
)
def test_uid_set(data, ranges):
    assert wire.uid_set(data).ranges == ranges


@pytest.mark.parametrize("data", [b"", b"*", b"1:*", b"0", b"1,", b"1:2:3", b"1 2", b"1:4294967296", b"a"])
def test_what_is_no_uid_set(data):
    with pytest.raises(ConnectionLost, match="malformed UID"):
        wire.uid_set(data)


def test_uid_sets_are_cut_below_the_limit_and_lose_nothing():
    uids = UidSet.of(range(1, 40000, 2))
    pieces = wire.uid_sets(uids)
    assert len(pieces) > 10
    assert max(map(len, pieces)) <= wire.UID_SET_LIMIT
    assert min(map(len, pieces[:-1])) > wire.UID_SET_LIMIT - 12
    assert UidSet(lo_hi for piece in pieces for lo_hi in wire.uid_set(piece).ranges) == uids


def test_the_empty_set_is_no_command():
    assert wire.uid_sets(UidSet()) == []


@given(st.sets(st.integers(1, 2**32 - 1), min_size=1), st.integers(25, 200))
def test_uid_sets_round_trip(numbers, limit):
    uids = UidSet.of(numbers)
    pieces = wire.uid_sets(uids, limit)
    assert UidSet(lo_hi for piece in pieces for lo_hi in wire.uid_set(piece).ranges) == uids
    assert all(len(piece) <= limit for piece in pieces)


@pytest.mark.parametrize(
    ("rest", "ranges"),
    [
        (b"", []),
        (b"2 84 882", [(2, 2), (84, 84), (882, 882)]),
        (b"1 2 3 5 4", [(1, 3), (5, 5), (4, 4)]),
        (b"2 5 6 (MODSEQ 917162500)", [(2, 2), (5, 6)]),
        (b" 7 ", [(7, 7)]),
    ],
)
def test_search(rest, ranges):
    assert wire.search(rest) == ranges


@pytest.mark.parametrize("rest", [b"0", b"1 x", b"4294967296", b"1,2"])
def test_bad_search(rest):
    with pytest.raises(ConnectionLost, match="malformed UID"):
        wire.search(rest)


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (b'(TAG "P6") UID ALL 1:3', ((1, 3),)),
        (b'(TAG "P6") UID ALL 4,5:9', ((4, 9),)),
        (b'(tag "P6") uid all 7', ((7, 7),)),
        (b'(TAG "P6") UID COUNT 2 ALL 1,3', ((1, 1), (3, 3))),
        (b'(TAG "P6") UID', ()),  # nothing found
        (b'(TAG "P6") UID COUNT 0', ()),
    ],
)
def test_esearch(rest, expected):
    found = wire.esearch([rest], rest, b"P6")
    assert found is not None
    assert found.ranges == expected


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b"UID ALL 1:3",
        b'(TAG "P5") UID ALL 1:3',
        b'(TAG "P6") ALL 1:3',  # sequence numbers
        b'(TAG "P6")',
        b'(TAG "P6") UID ALL',
        b'(TAG "P6") UID ALL (1)',
        b'(TAG "P6" x) UID ALL 1',
    ],
)
def test_an_esearch_that_proves_nothing(rest):
    assert wire.esearch([rest], rest, b"P6") is None


def test_vanished():
    assert wire.vanished(b"(EARLIER) 41,43:44") == (True, UidSet([(41, 41), (43, 44)]))
    assert wire.vanished(b"(earlier) 4") == (True, UidSet([(4, 4)]))
    assert wire.vanished(b"505,507") == (False, UidSet.of([505, 507]))
    with pytest.raises(ConnectionLost):
        wire.vanished(b"(EARLIER)")


@pytest.mark.parametrize(
    "parts",
    [
        [b"INBOX (MESSAGES 3 UIDNEXT 4 UIDVALIDITY 17)"],
        [b'"a \\"b\\" (x)" (messages 3 uidnext 4 uidvalidity 17)'],
        [b"", b"a (b)", b" (MESSAGES 3 UIDNEXT 4 UIDVALIDITY 17 X NIL)"],
    ],
)
def test_status(parts):
    assert wire.status(parts, parts[0]) == {"MESSAGES": 3, "UIDNEXT": 4, "UIDVALIDITY": 17}


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ([b"INBOX (MESSAGES 3)"], b"INBOX"),
        ([b'"a \\"b\\" \\\\c" (MESSAGES 3)'], b'a "b" \\c'),
        ([b"", b"a (b)", b" (MESSAGES 3)"], b"a (b)"),
        ([b"NIL (MESSAGES 3)"], b""),
    ],
)
def test_status_names_its_mailbox(parts, name):
    assert wire.named_status(parts, parts[0]) == (name, {"MESSAGES": 3})


@pytest.mark.parametrize("text", [b"", b"INBOX", b'a "b" \\c', b"\\", b'"'])
def test_unquoted_gives_back_what_was_quoted(text):
    assert wire.unquoted(wire.quoted(text)) == text


def test_a_status_without_its_list_is_malformed():
    with pytest.raises(ConnectionLost, match="malformed STATUS"):
        wire.status([b"INBOX"], b"INBOX")


# --- FETCH ---------------------------------------------------------------------------------------------------


def test_fetch_of_flags_from_dovecot():
    found = read(b"* 2 FETCH (UID 9 FLAGS (\\Seen \\Recent $Forwarded $Label1) MODSEQ (12))")
    assert found.view == RemoteView(9, SEEN | FORWARDED, ("$Label1",), 12)


def test_fetch_after_a_store_has_its_attributes_in_another_order():
    found = read(b"* 1 FETCH (UID 1 MODSEQ (12) FLAGS (\\Answered \\Seen))")
    assert found.view == RemoteView(1, ANSWERED | SEEN, (), 12)


def test_fetch_of_identity_from_dovecot():
    found = read(
        b'* 3 FETCH (UID 4 FLAGS (\\Recent) INTERNALDATE "22-Nov-2026 20:18:30 +0000" RFC822.SIZE 99'
        b" BODY[HEADER.FIELDS (MESSAGE-ID)] ",
        b"Message-ID: <m9@x>\r\n\r\n",
        b")",
    )
    assert (found.uid, found.size, found.internaldate) == (4, 99, "22-Nov-2026 20:18:30 +0000")
    assert found.fields == b"Message-ID: <m9@x>\r\n\r\n"
    assert found.view == RemoteView(4, 0)


def test_fetch_from_gmail_has_the_flags_behind_the_literal():
    found = read(
        b'* 1 FETCH (X-GM-THRID 1278455344230334865 X-GM-LABELS ("\\\\Important" "\\\\Sent" "Foo \\"x\\"") UID 4'
        b' RFC822.SIZE 12 INTERNALDATE "17-Jul-2012 02:44:25 +0000" BODY[] ',
        b"a: b\r\n\r\nc)\r\n",
        b" FLAGS (\\Seen))",
    )
    assert found.body == b"a: b\r\n\r\nc)\r\n"
    assert found.view == RemoteView(4, SEEN)
    assert found.size == 12


def test_the_day_of_cyrus_has_a_leading_space():
    found = read(b'* 1 FETCH (UID 4 INTERNALDATE " 1-Feb-2003 01:02:03 +0000" RFC822.SIZE 1)')
    assert found.internaldate == "1-Feb-2003 01:02:03 +0000"


@pytest.mark.parametrize(
    ("parts", "body"),
    [
        ((b'* 1 FETCH (UID 4 BODY[] "q \\"x\\" \\\\ (")',), b'q "x" \\ ('),
        ((b"* 1 FETCH (UID 4 BODY[] NIL)",), None),
        ((b'* 1 FETCH (UID 4 BODY[] "NIL")',), b"NIL"),
        ((b"* 1 FETCH (UID 4 BODY[] ", b"", b")"), b""),
        ((b"* 1 fetch (uid 4 body[] ", b"x\0)", b")"), b"x\0)"),
    ],
)
def test_shapes_of_a_body(parts, body):
    found = read(*parts)
    assert found.body == body
    assert found.shown == {"body"}


def test_sections_that_nobody_asked_for_are_passed_over():
    found = read(b"* 1 FETCH (BODY[TEXT] x BODY[]<0> y BODY[1.MIME] ", b"l", b" BODY (NIL (7)) ENVELOPE (NIL) UID 4)")
    assert (found.uid, found.body, found.header, found.shown) == (4, None, None, frozenset())


def test_the_echo_of_header_fields_may_be_quoted():
    found = read(b'* 1 FETCH (UID 4 BODY[HEADER.FIELDS ("Message-ID")] ', b"x", b")")
    assert found.fields == b"x"


def test_an_update_of_another_session_has_no_uid():
    assert read(b"* 3 FETCH (FLAGS (\\Seen))").view is None
    assert read(b"* 3 FETCH (UID 5)").view is None


def test_a_pending_literal_shows_what_came_before_it():
    found = read(b"* 1 FETCH (UID 4 FLAGS () RFC822.SIZE 9 BODY[] ", pending=True)
    assert (found.awaits, found.uid, found.size) == ("body", 4, 9)
    found = read(b"* 1 FETCH (UID 4 X (A (B ", pending=True)
    assert (found.awaits, found.uid) == ("", 4)


@pytest.mark.parametrize(
    "line",
    [
        b"* 1 FETCH",
        b"* 1 FETCH ()x",
        b"* 1 FETCH (UID 4",
        b"* 1 FETCH (UID 4))",
        b"* 1 FETCH (UID)",
        b"* 1 FETCH (UID 0)",
        b"* 1 FETCH (UID 4294967296 FLAGS ())",
        b"* 1 FETCH (UID 99999999999999999999999 FLAGS ())",
        b"* 1 FETCH ((UID) 4)",
        b'* 1 FETCH (UID 4 BODY[] "open)',
        b"* 1 FETCH (UID 4 FLAGS (\\Seen)",
        b"* 1 FETCH (UID 4 X " + b"(" * 100 + b")" * 101,
        b"* 1 FETCH UID 4",
    ],
)
def test_malformed_fetch(line):
    with pytest.raises(ConnectionLost, match="malformed"):
        read(line)


def test_a_size_or_modseq_that_is_none_is_not_known():
    found = read(b"* 1 FETCH (UID 4 RFC822.SIZE -5 MODSEQ (x) FLAGS ())")
    assert found.size is None
    assert found.view == RemoteView(4, 0, (), NEVER)
    assert read(b"* 1 FETCH (UID 4 FLAGS () MODSEQ (9223372036854775808))").view == RemoteView(4, 0, (), NEVER)


def test_keywords_are_kept_and_made_readable():
    found = read(b"* 1 FETCH (UID 4 FLAGS (NonJunk \\Custom caf\xe9))")
    assert found.view == RemoteView(4, 0, ("NonJunk", "\\Custom", "caf\\xe9"))


_ATTRIBUTES = (
    (b"UID", b"7"),
    (b"FLAGS", b"(\\Seen $Forwarded x)"),
    (b"FLAGS", b"()"),
    (b"MODSEQ", b"(12)"),
    (b"INTERNALDATE", b'" 1-Feb-2003 01:02:03 +0000"'),
    (b"RFC822.SIZE", b"99"),
    (b"RFC822.SIZE", b"4294967296"),
)
_SECTIONS = (b"", b"BODY[]", b"BODY[HEADER]", b"BODY[HEADER.FIELDS (MESSAGE-ID)]", b"BODY[TEXT]")


@given(
    st.lists(st.sampled_from(_ATTRIBUTES), max_size=5),
    st.sampled_from(_SECTIONS),
    st.lists(st.sampled_from(_ATTRIBUTES), max_size=2),
    st.booleans(),
)
def test_what_is_read_quickly_is_what_is_read_word_by_word(before, section, after, pending):
    def answer(spell):
        head = b" ".join(spell(name) + b" " + value for name, value in before)
        if not section:
            return [b"(" + head + b")"]
        tail = b"".join(b" " + spell(name) + b" " + value for name, value in after)
        parts = [b"(" + head + b" " * bool(head) + spell(section) + b" ", b"x)", tail + b")"]
        return parts[:1] if pending else parts

    quickly, slowly = answer(bytes.upper), answer(bytes.lower)  # no server has been seen to write them small
    waits = bool(pending and section)
    assert wire_fetch.fetch(quickly, quickly[0], pending=waits) == wire_fetch.fetch(slowly, slowly[0], pending=waits)
    assert waits or section == b"BODY[TEXT]" or wire_fetch._usual(quickly, quickly[0], pending=False) is not None


@pytest.mark.parametrize("flags", [b"", b"\\Seen x"])
def test_the_shape_of_a_message_says_what_its_words_say(flags):
    head = b'* 3 FETCH (UID 4 FLAGS (%b) INTERNALDATE " 1-Feb-2003 01:02:03 +0000" RFC822.SIZE 3 BODY[] ' % flags
    match = wire_fetch.MESSAGE.match(bytearray(head + b"{2}\r\nab)\r\n"))
    assert match
    assert (match.groups()[-1], match.end()) == (b"2", len(head) + 5)
    assert wire_fetch.message(match.groups(), b"ab") == read(head, b"ab", b")")


_PIECE = st.sampled_from(
    b'UID |4 |FLAGS |(|)|\\Seen |"|NIL |BODY[|] |{|MODSEQ |-1 |INTERNALDATE |RFC822.SIZE |4294967296 |\\|\x00|\xff|'
    b'BODY[] |ALL |1:3|,|(TAG "P1") UID |[|(EARLIER) |FETCH |* 1 FETCH ('.split(b"|")
)
_BYTES = st.one_of(st.binary(max_size=60), st.lists(_PIECE, max_size=14).map(b"".join))


@given(st.lists(_BYTES, min_size=1, max_size=3), st.booleans())
@example([b'(BODY[HEADER.FIELDS ("a"'], True)
@example([b"(" * 40], True)
def test_any_fetch_is_read_or_refused(parts, pending):
    odd = parts if len(parts) % 2 else parts[:-1]
    try:
        found = wire_fetch.fetch(odd, odd[0], pending=pending)
    except ConnectionLost:
        return
    assert found.uid is None or 0 < found.uid < 2**32


@given(_BYTES)
def test_any_other_answer_is_read_or_refused(data):
    readers = [
        lambda: wire.kind_of(data),
        lambda: wire.literal_size(data),
        lambda: wire.code(data),
        lambda: wire.uid_set(data),
        lambda: UidSet(wire.search(data)),
        lambda: wire.esearch([data], data, b"P1"),
        lambda: wire.vanished(data),
        lambda: wire.status([data], data),
        lambda: wire.flag_names(data),
    ]
    for reader in readers:
        with contextlib.suppress(ConnectionLost):
            reader()


@given(st.binary())
def test_server_text_becomes_printable(data):
    assert wire.printable(data).isprintable()
