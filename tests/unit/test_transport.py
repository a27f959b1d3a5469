# SPDX-License-Identifier: MIT
import base64
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushpull import flags as fl
from pushpull import framing
from pushpull.errors import (
    ConnectionLost,
    DeltaLost,
    MailboxMissing,
    MessageError,
    ResyncNeeded,
    ServerBusy,
    ServerUnsupported,
)
from pushpull.login import sign_in
from pushpull.model import RemoteView, Uid, UidSet
from pushpull.ports import Answer, Appended, Outgoing, Since, Vanished
from pushpull.remote import Extensions, Session
from pushpull.transport import CHUNK, Client
from tests.support.scripted import ScriptedSocket, scripted_client

SELECTED = (
    b"* FLAGS (\\Seen)\r\n* 3 EXISTS\r\n* OK [UIDVALIDITY 7] ok\r\n* OK [UIDNEXT 10] ok\r\n"
    b"* OK [HIGHESTMODSEQ 50]\r\nP1 OK [READ-WRITE] done\r\n"
)
IDENTITY = b'INTERNALDATE "01-Feb-2003 01:02:03 +0000" RFC822.SIZE 9 BODY[HEADER.FIELDS (MESSAGE-ID)] {22}\r\n'
FIELDS = b"Message-ID: <m1@x>\r\n\r\n"


def session(*answers: bytes, offered: str = "", condstore: bool = False, qresync: bool = False) -> Session:
    client = scripted_client(*answers)
    return Session(client, Extensions(frozenset(offered.split()), condstore=condstore, qresync=qresync))


def lines(of: Session) -> list[str]:
    assert isinstance(of.client.sock, ScriptedSocket)
    return of.client.sock.lines


# --- the stream ----------------------------------------------------------------------------------------------


@given(st.data())
def test_answers_are_the_same_however_they_are_cut(data):
    stream = (
        b"* OK hello {5}\r\n* 1 FETCH (UID 4 BODY[HEADER] {6}\r\na\r\nb)\n FLAGS (\\Seen))\r\n\r\n"
        b"* 2 EXISTS\nP1 OK [APPENDUID 1 2] text {3}\r\n"
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[lo:hi] for lo, hi in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    client = scripted_client(*pieces)
    command = client.start(b"NOOP")
    seen = [(response.kind, response.number, response.parts) for response in client.responses(command)]
    assert seen == [
        ("OK", None, [b"* OK hello {5}"]),
        ("FETCH", 1, [b"* 1 FETCH (UID 4 BODY[HEADER] ", b"a\r\nb)\n", b" FLAGS (\\Seen))"]),
        ("EXISTS", 2, [b"* 2 EXISTS"]),
    ]
    assert (command.status, command.code, command.arguments, command.text) == ("OK", "APPENDUID", b"1 2", "text {3}")
    client.shutdown()


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"", "closed the connection"),
        (b"* 1 EXI", "closed the connection"),
        (b"* 1 FETCH (BODY[] {9}\r\nabc", "closed the connection"),
        (b"P2 OK ahead\r\n", "nothing that was asked"),
        (b"P1 MAYBE x\r\n", "nothing that was asked"),
        (b"P1\r\n", "nothing that was asked"),
        (b"HTTP/1.1 400 Bad Request\r\n", "nothing that was asked"),
        (b"* \r\n", "malformed response"),
        (b"* BYE [UNAVAILABLE] going \x1b[2J down\r\n", r"ended the session: going \\x1b\[2J down"),
        (b"\x00" * (framing.LINE_LIMIT + 100_000), "a line of more than"),
        (b"* 1 FETCH (" + b"X {1}\r\nx" * 200 + b")\r\n", "without an end"),
    ],
)
def test_what_cannot_be_understood_ends_the_link(stream, reason):
    client = scripted_client(stream)
    with pytest.raises(ConnectionLost, match=reason):
        client.run(b"NOOP")
    for call in (lambda: client.run(b"NOOP"), lambda: client.send(b"x"), client.settle):
        if call is client.settle:
            call = client._line
        with pytest.raises(ConnectionLost, match=reason):
            call()
    client.logout()
    assert client.sock.closed


def test_only_uid_lists_may_be_long():
    numbers = b" ".join(b"%d" % uid for uid in range(1, 300_000))
    client = scripted_client(b"* SEARCH " + numbers + b"\r\nP1 OK x\r\n")
    found = session_of(client).uids()
    assert found == UidSet([(1, 299_999)])
    client.shutdown()


def session_of(client: Client) -> Session:
    return Session(client, Extensions(frozenset()))


def test_a_greeting_that_is_none():
    with pytest.raises(ConnectionLost, match=r"not an IMAP server: SSH-2\.0"):
        scripted_client(greeting=b"SSH-2.0-OpenSSH_9\r\n")


def test_pipelined_commands_are_answered_in_order():
    client = scripted_client(b"* 1 EXISTS\r\nP1 OK a\r\n* 2 EXISTS\r\nP2 NO [LIMIT] b\r\nP3 OK c\r\n")
    first, second, third = (client.start(name) for name in (b"A", b"B", b"C"))
    assert [answer.number for answer in client.responses(first)] == [1]
    assert [answer.number for answer in client.responses(second)] == [2]
    client.settle()
    assert [(c.status, c.code, c.text) for c in (first, second, third)] == [
        ("OK", "", "a"),
        ("NO", "LIMIT", "b"),
        ("OK", "", "c"),
    ]
    client.shutdown()


def test_reading_on_after_another_command_is_a_bug_and_not_an_end():
    client = scripted_client(b"* 1 EXISTS\r\n* 2 EXISTS\r\nP1 OK a\r\nP2 OK b\r\n")
    first = client.start(b"A")
    answers = client.responses(first)
    next(answers)
    client.settle()
    client.run(b"B")
    with pytest.raises(RuntimeError, match="overtook"):
        next(answers)
    with pytest.raises(RuntimeError, match="dropped"):
        next(client.responses(first))
    client.shutdown()


def test_logout_is_sent_only_when_nothing_is_under_way():
    client = scripted_client(b"* BYE see you\r\nP1 OK x\r\n")
    sock = client.sock
    client.logout()
    assert sock.lines == ["P1 LOGOUT"]
    client = scripted_client(b"* 1 EXISTS\r\n")
    sock = client.sock
    client.start(b"NOOP")
    client.logout()
    assert sock.lines == ["P1 NOOP"]


# --- the trace -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["LOGIN", "PLAIN", "XOAUTH2", "OAUTHBEARER"])
@pytest.mark.parametrize("at_once", [True, False])
def test_no_credential_is_traced(mechanism, at_once):
    trace: list[str] = []
    echo = b"P1 BAD what is LOGIN alice s3cret\r\n" if mechanism == "LOGIN" else b"+ \r\nP1 NO no\r\n"
    client = scripted_client(echo, trace=trace)
    client.sasl_ir = at_once
    sign_in(client, mechanism, "alice", "s3cret")
    text = "\n".join(trace)
    tokens = [base64.b64encode(data).decode() for data in (b"\0alice\0s3cret", b"user=alice\1auth=Bearer s3cret\1\1")]
    assert "P1 LOGIN ***" in text or "P1 AUTHENTICATE " + mechanism in text
    for secret in ("s3cret", "alice", *tokens, tokens[0][:10], "auth=Bearer"):
        assert secret not in text
    assert "s3cret" in client.sock.sent.decode() or len(client.sock.sent) > 40
    client.shutdown()


def test_literals_are_traced_by_their_length():
    trace: list[str] = []
    client = scripted_client(b"+ go\r\nP1 OK [APPENDUID 7 9] ok\r\n", trace=trace)
    list(session_of(client).append("INBOX", [Outgoing(0, (), "", 9, [b"private\r\n"])]))
    assert trace[1:] == [
        'C: P1 APPEND "INBOX" {9}',
        "S: + go",
        "C: (9 octets)",
        "S: P1 OK [APPENDUID 7 9] ok",
    ]
    client.shutdown()


# --- authentication ------------------------------------------------------------------------------------------


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


PLAIN = encoded(b'\0al"ice\0p w')
XOAUTH2 = encoded(b'user=al"ice\1auth=Bearer p w\1\1')
OAUTHBEARER = encoded(b'n,a=al"ice,\1auth=Bearer p w\1\1')


@pytest.mark.parametrize(
    ("mechanism", "at_once", "answers", "sent"),
    [
        ("LOGIN", False, b"P1 OK\r\n", ['P1 LOGIN "al\\"ice" "p w"']),
        ("PLAIN", True, b"P1 OK\r\n", ["P1 AUTHENTICATE PLAIN " + PLAIN]),
        ("PLAIN", False, b"+ \r\nP1 OK\r\n", ["P1 AUTHENTICATE PLAIN", PLAIN]),
        ("PLAIN", False, b"+ go ahead\r\nP1 OK\r\n", ["P1 AUTHENTICATE PLAIN", PLAIN]),
        ("PLAIN", True, b"+\r\nP1 OK\r\n", ["P1 AUTHENTICATE PLAIN " + PLAIN, PLAIN]),
        ("PLAIN", True, b"+ eA==\r\nP1 NO\r\n", ["P1 AUTHENTICATE PLAIN " + PLAIN, "*"]),
        ("XOAUTH2", True, b"+ eyJzdGF0dXMiOiI0MDEifQ==\r\nP1 NO\r\n", ["P1 AUTHENTICATE XOAUTH2 " + XOAUTH2, ""]),
        (
            "OAUTHBEARER",
            False,
            b"+ \r\n+ eyJzdGF0dXMiOiI0MDEifQ==\r\nP1 NO\r\n",
            ["P1 AUTHENTICATE OAUTHBEARER", OAUTHBEARER, "AQ=="],
        ),
    ],
)
def test_exchanges(mechanism, at_once, answers, sent):
    client = scripted_client(answers)
    client.sasl_ir = at_once
    command = sign_in(client, mechanism, 'al"ice', "p w")
    assert client.sock.lines == sent
    assert command.status in ("OK", "NO")
    assert client.failure == ("status: 401" if "eyJ" in answers.decode() else "x" if "eA" in answers.decode() else "")
    client.shutdown()


def test_an_endless_exchange_is_cut():
    client = scripted_client(b"+ \r\n" * 100)
    with pytest.raises(ConnectionLost, match="does not come to an end"):
        sign_in(client, "XOAUTH2", "a", "b")


# --- opening -------------------------------------------------------------------------------------------------


def test_all_that_follows_a_select_leaves_in_one_go():
    here = session(SELECTED, condstore=True, qresync=True)
    here.open('Entwürfe & "x"', Since(7, Uid(10), 40, (Uid(8), Uid(9))), read_only=True)
    assert lines(here) == [
        'P1 EXAMINE "Entw&APw-rfe &- \\"x\\""',
        "P2 UID FETCH 8:9 (UID INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])",
        "P3 UID FETCH 10:* (UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])",
        "P4 UID FETCH 1:4294967295 (UID FLAGS) (CHANGEDSINCE 40 VANISHED)",
    ]
    here.close()


CANARY = b"* 2 FETCH (UID 9 " + IDENTITY + FIELDS + b")\r\n"
ECHO = b"* 2 FETCH (UID 9 FLAGS (\\Seen) " + IDENTITY + FIELDS + b")\r\n"
ARRIVAL = b"* 3 FETCH (UID 11 FLAGS (\\Seen) " + IDENTITY + FIELDS + b")\r\n"
DELTA = b"* VANISHED (EARLIER) 3:5\r\n* 1 FETCH (UID 2 FLAGS (\\Flagged) MODSEQ (49))\r\n"


@pytest.mark.parametrize(
    "answers",
    [
        CANARY + b"P2 OK\r\n" + ECHO + ARRIVAL + b"P3 OK\r\n" + DELTA + b"P4 OK\r\n",
        CANARY + ARRIVAL + DELTA + b"P2 OK\r\nP3 OK\r\nP4 OK\r\n",  # Dovecot
        DELTA + ARRIVAL + CANARY + b"P2 OK\r\nP3 OK\r\nP4 OK\r\n",
        CANARY + b"P2 OK\r\n" + DELTA + b"* 1 FETCH (FLAGS (\\Draft))\r\nP3 OK\r\n" + ECHO + b"P4 OK\r\n",
    ],
)
def test_answers_are_told_apart_by_what_they_show(answers):
    here = session(SELECTED, answers, condstore=True, qresync=True)
    opening = here.open("INBOX", Since(7, Uid(10), 40, (Uid(9),)))
    assert [identity.uid for identity in opening.canary()] == [9]
    arrived = [arrival.view.uid for arrival in opening.arrived()]
    assert arrived == ([11] if b"UID 11" in answers else [])
    assert list(opening.changed()) == [Vanished(UidSet([(3, 5)])), RemoteView(2, fl.FLAGGED, (), 49)]
    here.close()


def test_another_uidvalidity_leaves_nothing_to_take():
    here = session(SELECTED, CANARY, b"P2 OK\r\n", ARRIVAL, b"P3 OK\r\n", condstore=True)
    opening = here.open("INBOX", Since(6, Uid(10), 0, (Uid(9),)))
    assert opening.state.uidvalidity == 7
    assert (opening.canary(), list(opening.arrived()), list(opening.changed())) == ((), [], [])
    here.close()


def test_what_is_not_taken_is_passed_over():
    here = session(SELECTED, CANARY, b"P2 OK\r\n", ARRIVAL, b"P3 OK\r\n", b"* SEARCH 1\r\nP4 OK\r\n")
    here.open("INBOX", Since(7, Uid(10), 0, (Uid(9),)))
    assert here.uids() == UidSet.of([1])
    here.close()


@pytest.mark.parametrize("answer", [b"P3 NO cannot\r\n", b"P3 BAD what\r\n"])
def test_a_refused_delta_asks_for_a_full_compare(answer):
    here = session(SELECTED, b"P2 OK\r\n", answer, condstore=True)
    opening = here.open("INBOX", Since(7, Uid(10), 40))
    assert list(opening.arrived()) == []
    with pytest.raises(ResyncNeeded):
        list(opening.changed())
    here.close()


def test_a_delta_too_large_to_hold_asks_for_a_full_compare(monkeypatch):
    monkeypatch.setattr("pushpull.remote_fetch.HELD", 3)
    rows = b"".join(b"* 1 FETCH (UID %d FLAGS ())\r\n" % uid for uid in range(1, 9))
    here = session(SELECTED, rows, ARRIVAL, b"P2 OK\r\nP3 OK\r\n", condstore=True)
    opening = here.open("INBOX", Since(7, Uid(10), 40))
    assert len(list(opening.arrived())) == 1
    with pytest.raises(ResyncNeeded, match="more than 3"):
        list(opening.changed())
    # In turn, the same rows are no trouble.
    here = session(SELECTED, b"P2 OK\r\n", rows, b"P3 OK\r\n", condstore=True)
    opening = here.open("INBOX", Since(7, Uid(10), 40))
    assert list(opening.arrived()) == []
    assert len(list(opening.changed())) == 8
    here.close()


@pytest.mark.parametrize("taking", ["canary", "arrived", "changed"])
def test_a_link_lost_before_the_delta_came_is_told_apart(taking):
    answers = {"canary": b"", "arrived": b"P2 OK\r\n", "changed": b"P2 OK\r\nP3 OK\r\n* VANISHED (EARLIER) 1\r\n"}
    here = session(SELECTED, answers[taking], b"* BYE crashed\r\n", condstore=True, qresync=True)
    opening = here.open("INBOX", Since(7, Uid(10), 40, (Uid(9),)))
    with pytest.raises(DeltaLost, match="crashed"):
        list(getattr(opening, taking)())
    here.close()


def test_a_link_lost_before_select_was_answered_may_be_the_delta_s_fault():
    here = session(b"* BYE crashed\r\n", condstore=True, qresync=True)
    with pytest.raises(DeltaLost, match="crashed"):
        here.open("INBOX", Since(7, Uid(10), 40))
    here.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"P1 NO [NONEXISTENT] no such mailbox\r\n", MailboxMissing),
        (b"P1 NO no such mailbox\r\n", MailboxMissing),
        (b"P1 NO [INUSE] locked\r\n", ServerBusy),
        (b"P1 NO Server Unavailable. 15\r\n", ServerBusy),
        (b"P1 BAD what\r\n", ServerUnsupported),
        (b"* 3 EXISTS\r\nP1 OK no UIDVALIDITY\r\n", ServerUnsupported),
        (b"* 3 EXISTS\r\n* OK [UIDVALIDITY 0] x\r\nP1 OK x\r\n", ServerUnsupported),
        (b"* 3 EXISTS\r\n* OK [UIDVALIDITY 99999999999] x\r\nP1 OK x\r\n", ServerUnsupported),
        (b"* 3 EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n* NO [UIDNOTSTICKY] x\r\nP1 OK x\r\n", ServerUnsupported),
        (b"* OK [UIDVALIDITY 7] x\r\nP1 OK no EXISTS\r\n", ConnectionLost),
    ],
)
def test_a_mailbox_that_cannot_be_opened(answer, error):
    here = session(answer, b"P2 BAD not selected\r\n")
    with pytest.raises(error):
        here.open("INBOX", Since(7, Uid(3), 0))
    here.close()


def test_what_a_select_shows():
    here = session(
        b"* 9 EXISTS\r\n* OK [UIDVALIDITY 1] of the old mailbox\r\n* OK [CLOSED]\r\n* 3 EXISTS\r\n"
        b"* OK [UIDVALIDITY 4294967295]\r\n* OK [HIGHESTMODSEQ 9223372036854775808] too large\r\n"
        b"* OK [UIDNEXT 0] none\r\n* OK [PERMANENTFLAGS (\\Seen $Label1 $FORWARDED)] x\r\nP1 OK [READ-ONLY] x\r\n",
        condstore=True,
    )
    state = here.open("INBOX", None).state
    assert (state.uidvalidity, state.uidnext, state.exists, state.highestmodseq) == (4294967295, None, 3, None)
    assert (state.mask, state.keywords, state.any_keyword) == (fl.SEEN | fl.FORWARDED, {"$label1"}, False)
    assert state.read_only
    here.close()


def test_modseqs_count_only_when_condstore_is_used():
    here = session(SELECTED)
    assert here.open("INBOX", Since(7, Uid(10), 40)).state.highestmodseq is None
    assert not any("CHANGEDSINCE" in line for line in lines(here))
    here.close()


@pytest.mark.parametrize("name", ["a\0b", "a\r\nP9 DELETE INBOX", "a\nb", "\ud800"])
def test_names_that_no_mailbox_has(name):
    here = session(SELECTED)
    for call in (
        lambda: here.open(name, None),
        lambda: here.status(name),
        lambda: here.append(name, ()),
        lambda: here.append_all(name, ()),
    ):
        with pytest.raises(MailboxMissing):
            call()
    assert lines(here) == []
    here.close()


# --- lists and counts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "answer", "expected"),
    [
        ("ESEARCH", b'* ESEARCH (TAG "P1") UID ALL 1:3\r\nP1 OK\r\n', (1, 2, 3)),
        ("ESEARCH", b'* ESEARCH (TAG "P1") UID\r\nP1 OK\r\n', ()),
        ("ESEARCH", b'* ESEARCH (TAG "P0") UID ALL 1:3\r\nP1 OK\r\n', None),
        ("ESEARCH", b"* SEARCH 1 2\r\nP1 OK\r\n", None),
        ("ESEARCH", b"P1 OK\r\n", None),
        ("ESEARCH", b"P1 BAD\r\n", None),
        ("", b"* SEARCH\r\nP1 OK\r\n", ()),
        ("", b"* SEARCH 1 2\r\n* SEARCH 5\r\nP1 OK\r\n", (1, 2, 5)),
        ("", b"P1 OK\r\n", None),
        ("", b"* SEARCH 1 2\r\nP1 NO\r\n", None),
    ],
)
def test_a_missing_or_foreign_list_is_no_knowledge(offered, answer, expected):
    here = session(answer, offered=offered)
    found = here.uids()
    assert (None if found is None else tuple(found)) == expected
    here.close()


@pytest.mark.parametrize(
    "answer",
    [b"* SEARCH 0\r\nP1 OK\r\n", b"* SEARCH 1 x\r\nP1 OK\r\n", b"* SEARCH 4294967296\r\nP1 OK\r\n"],
)
def test_a_malformed_list_ends_the_link(answer):
    here = session(answer)
    with pytest.raises(ConnectionLost, match="malformed"):
        here.uids()
    with pytest.raises(ConnectionLost):
        here.uids()


def test_status():
    here = session(b'* STATUS "x" (MESSAGES 3 UIDNEXT 9 UIDVALIDITY 7)\r\nP1 OK\r\n')
    state = here.status("x")
    assert state is not None
    assert (state.exists, state.uidnext, state.uidvalidity) == (3, 9, 7)
    here.close()


@pytest.mark.parametrize("answer", [b"P1 OK\r\n", b"P1 NO gone\r\n", b"* STATUS x (MESSAGES 3)\r\nP1 OK\r\n"])
def test_a_status_without_use(answer):
    here = session(answer)
    assert here.status("x") is None
    here.close()


@pytest.mark.parametrize(
    ("news", "moved"),
    [
        (b"", False),
        (b"* 3 EXISTS\r\n", False),
        (b"* 4 EXISTS\r\n", True),
        (b"* 2 EXPUNGE\r\n", True),
        (b"* VANISHED 3\r\n", True),
        (b"* VANISHED (EARLIER) 3\r\n", False),
        (b"* 1 FETCH (FLAGS (\\Seen))\r\n", False),
    ],
)
def test_moved(news, moved):
    here = session(SELECTED, news, b"* SEARCH 1\r\nP2 OK\r\nP3 OK\r\n")
    here.open("INBOX", None)
    here.uids()
    assert here.moved() == moved
    assert not here.moved()
    here.close()


def test_an_expunge_and_an_arrival_do_not_cancel_out():
    here = session(SELECTED, b"* 2 EXPUNGE\r\n* SEARCH 1\r\nP2 OK\r\n* 3 EXISTS\r\n* SEARCH 1\r\nP3 OK\r\n")
    here.open("INBOX", None)
    here.uids()
    assert here.moved()
    here.uids()
    assert here.moved()
    here.close()


def test_views_are_filtered_and_updates_without_a_uid_passed_over():
    here = session(
        SELECTED,
        b"* 3 FETCH (UID 9 FLAGS ())\r\n* 1 FETCH (FLAGS (\\Seen))\r\n* 1 FETCH (UID 5 FLAGS (\\Seen))\r\n"
        b"* 1 FETCH (UID 6 MODSEQ (5))\r\n* OK still here\r\n* 1 FETCH (UID 2 FLAGS ())\r\nP2 OK\r\n",
        b"P3 NO not today\r\n",
    )
    here.open("INBOX", None)
    assert [view.uid for view in here.views(Uid(3), Uid(6))] == [5]
    with pytest.raises(ServerBusy, match="not today"):
        list(here.views(Uid(1), None))
    assert lines(here)[1:] == ["P2 UID FETCH 3:6 (UID FLAGS)", "P3 UID FETCH 1:* (UID FLAGS)"]
    here.close()


# --- bodies --------------------------------------------------------------------------------------------------


def fetched_body(uid: int, body: bytes, *, flags_first: bool = True) -> bytes:
    attributes = b"FLAGS (\\Seen) " if flags_first else b""
    tail = b"" if flags_first else b" FLAGS (\\Seen)"
    return b'* 1 FETCH (UID %d %bINTERNALDATE " 1-Feb-2003 01:02:03 +0000" RFC822.SIZE %d BODY[] {%d}\r\n%b%b)\r\n' % (
        uid,
        attributes,
        len(body),
        len(body),
        body,
        tail,
    )


@pytest.mark.parametrize("flags_first", [True, False])
@pytest.mark.parametrize("size", [1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_bodies_of_every_size_come_whole(size, flags_first):
    body = bytes(range(256)) * (size // 256) + b"z" * (size % 256)
    here = session(fetched_body(4, body, flags_first=flags_first), fetched_body(9, b"next"), b"P1 OK\r\n")
    found = [(message.view, message.internaldate, list(message.body)) for message in here.messages([Uid(4), Uid(9)])]
    assert [view for view, _, _ in found] == [RemoteView(4, fl.SEEN), RemoteView(9, fl.SEEN)]
    assert found[0][1] == "1-Feb-2003 01:02:03 +0000"
    assert b"".join(found[0][2]) == body
    assert max(map(len, found[0][2])) <= CHUNK
    assert found[1][2] == [b"next"]
    here.close()


@pytest.mark.parametrize("cut", [1, 7, 50, 119, 130, 10_000])
def test_messages_are_the_same_however_they_are_cut(cut):
    answers = b"".join(
        (
            fetched_body(4, b"one"),
            fetched_body(5, b"", flags_first=False),
            fetched_body(6, b"t)\r\n* 9 EXISTS\r\nwo"),
            b"* 3 EXPUNGE\r\n",
            fetched_body(7, b"three").replace(b")\r\n", b" X-MORE 1)\r\n"),
            fetched_body(8, b"four"),
            b"P1 OK\r\n",
        )
    )
    here = session(*(answers[at : at + cut] for at in range(0, len(answers), cut)))
    found = {message.view.uid: b"".join(message.body) for message in here.messages([Uid(uid) for uid in range(4, 9)])}
    assert found == {4: b"one", 5: b"", 6: b"t)\r\n* 9 EXISTS\r\nwo", 7: b"three", 8: b"four"}
    assert here.moved()
    here.close()


def test_more_is_asked_for_before_the_last_has_come():
    asked = []

    def more() -> list[Uid]:
        asked.append(len(found))
        return [] if len(asked) == 3 else [Uid(10 * len(asked)), Uid(10 * len(asked) + 1)]

    bodies = [fetched_body(uid, b"%d" % uid) for uid in (4, 5, 10, 11, 20, 21)]
    here = session(*bodies[:2], b"P1 OK\r\n", *bodies[2:4], b"P2 OK\r\n", *bodies[4:], b"P3 OK\r\n")
    found = []
    for message in here.messages([Uid(4), Uid(5)], more):
        found.append(message.view.uid)
    assert found == [4, 5, 10, 11, 20, 21]
    assert asked == [1, 3, 5]
    assert [line.split()[3] for line in lines(here)] == ["4:5", "10:11", "20:21"]
    here.close()


def test_more_is_asked_for_though_what_was_asked_for_does_not_come(monkeypatch):
    rest = [[Uid(9)], []]
    here = session(b"P1 OK\r\n", fetched_body(9, b"nine"), b"P2 OK\r\n")
    assert [message.view.uid for message in here.messages([Uid(4), Uid(5)], lambda: rest.pop(0))] == [9]
    here.close()


def test_a_body_that_is_left_is_passed_over_and_cannot_be_read_later():
    here = session(fetched_body(4, b"x" * (CHUNK + 9)), fetched_body(9, b"next"), b"P1 OK\r\n")
    messages = here.messages([Uid(4), Uid(9)])
    left = next(messages)
    next(left.body)
    assert list(next(messages).body) == [b"next"]
    with pytest.raises(RuntimeError, match="out of turn"):
        next(left.body)
    here.close()


def test_what_was_not_asked_for_or_has_no_body_is_left_out():
    here = session(
        fetched_body(3, b"not asked"),
        fetched_body(5, b"y" * (CHUNK + 1)),
        b'* 1 FETCH (UID 4 FLAGS () INTERNALDATE "x" RFC822.SIZE 7 BODY[] NIL)\r\n',
        b'* 1 FETCH (UID 6 FLAGS () INTERNALDATE "x" RFC822.SIZE 7 BODY[] {0}\r\n)\r\n',
        b'* 1 FETCH (UID 7 FLAGS () INTERNALDATE "x" RFC822.SIZE 7 BODY[] "quoted")\r\n',
        b"* 1 FETCH (FLAGS ())\r\n* 1 FETCH (UID 8 FLAGS (\\Seen))\r\n",
        b'* 1 FETCH (UID 8 INTERNALDATE "x" RFC822.SIZE 1 BODY[] {1}\r\nz)\r\n',
        b"P1 OK\r\n",
    )
    wanted = [Uid(uid) for uid in (4, 6, 7, 8)]
    found = {message.view.uid: (message.view.flags, b"".join(message.body)) for message in here.messages(wanted)}
    assert found == {7: (0, b"quoted"), 8: (fl.SEEN, b"z")}
    here.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"P1 NO [SERVERBUG] Internal error\r\n", MessageError),
        (b"P1 NO some messages could not be fetched\r\n", MessageError),
        (b"P1 BAD what\r\n", MessageError),
        (b"P1 NO [UNAVAILABLE] later\r\n", ServerBusy),
        (b"* BYE crashed\r\n", ConnectionLost),
    ],
)
def test_a_refused_fetch_gives_what_came_and_then_the_error(answer, error):
    here = session(fetched_body(4, b"body"), answer)
    messages = here.messages([Uid(4), Uid(5)])
    assert next(messages).view.uid == 4
    with pytest.raises(error):
        next(messages)
    here.close()


def test_memory_does_not_grow_with_a_message():
    size = 64 * 1024 * 1024

    class Endless(ScriptedSocket):
        left = size

        def recv(self, count: int, flags: int = 0) -> bytes:
            if self._answers and self._answers[0].startswith(b")") and self.left:
                count = min(count, self.left)
                self.left -= count
                return bytes(count)
            return super().recv(count, flags)

    head = b'* 1 FETCH (UID 4 FLAGS () INTERNALDATE "x" RFC822.SIZE %d BODY[] {%d}\r\n' % (size, size)
    client = Client("test:1", Endless(b"* OK\r\n", head, b")\r\nP1 OK\r\n").as_socket)
    tracemalloc.start()
    try:
        for message in session_of(client).messages([Uid(4)]):
            total = sum(len(chunk) for chunk in message.body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == size
    assert peak < 4 * CHUNK
    client.shutdown()


def test_headers_come_whole():
    here = session(b"* 1 FETCH (UID 4 BODY[HEADER] {8}\r\na: b\r\n\r\n)\r\n* 2 FETCH (UID 5 FLAGS ())\r\nP1 OK\r\n")
    assert list(here.headers(UidSet.of([4, 5]))) == [(4, b"a: b\r\n\r\n")]
    assert lines(here) == ["P1 UID FETCH 4:5 (UID BODY.PEEK[HEADER])"]
    here.close()


# --- flags ---------------------------------------------------------------------------------------------------


def test_store_shows_what_the_server_showed():
    here = session(
        b"* 1 FETCH (UID 4 FLAGS (\\Seen \\Flagged))\r\n* 2 FETCH (UID 9 FLAGS ())\r\n* 3 FETCH (FLAGS ())\r\nP1 OK\r\n"
    )
    assert here.store(UidSet.of([4, 5]), add=fl.SEEN | fl.DELETED, remove=0) == {4: RemoteView(4, fl.SEEN | fl.FLAGGED)}
    assert lines(here) == ["P1 UID STORE 4:5 +FLAGS (\\Seen \\Deleted)"]
    here.close()


def test_large_stores_are_cut_and_pipelined():
    uids = UidSet.of(range(1, 40001, 2))
    pieces = 15
    answers = b"".join(b"P%d OK\r\n" % number for number in range(1, pieces + 1))
    here = session(answers)
    assert here.store(uids, add=0, remove=fl.SEEN) == {}
    assert len(lines(here)) == pieces
    assert all(line.endswith(" -FLAGS (\\Seen)") and len(line) < 8192 for line in lines(here))
    here.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"P1 NO [NOPERM] no\r\n", MessageError),
        (b"P1 BAD what\r\n", MessageError),
        (b"P1 NO [INUSE] no\r\n", ServerBusy),
    ],
)
def test_a_refused_store(answer, error):
    here = session(answer)
    with pytest.raises(error):
        here.store(UidSet.of([1]), add=fl.SEEN, remove=0)
    here.close()


@pytest.mark.parametrize(("add", "remove"), [(0, 0), (fl.SEEN, fl.DRAFT)])
def test_a_store_adds_or_removes(add, remove):
    with pytest.raises(ValueError, match="one of"):
        session().store(UidSet.of([1]), add=add, remove=remove)


# --- uploads -------------------------------------------------------------------------------------------------

BODY = b"a: b\r\n\r\nc\r\n"


def outgoing(*chunks: bytes, size: int = len(BODY), flags: int = 0, keywords=(), date: str = "") -> Outgoing:
    return Outgoing(flags, keywords, date, size, chunks)


def only(answers) -> Answer:
    (answer,) = answers
    return answer


@pytest.mark.parametrize(
    ("offered", "size", "sign", "waits"),
    [
        ("", 11, "", True),
        ("LITERAL+", 11, "+", False),
        ("LITERAL+", 1 << 20, "+", False),
        ("LITERAL+", (1 << 20) + 1, "", True),
        ("LITERAL-", 11, "+", False),
        ("LITERAL-", 4096, "+", False),
        ("LITERAL-", 4097, "", True),
    ],
)
def test_the_literal_waits_unless_it_need_not(offered, size, sign, waits):
    here = session(b"+ go\r\n" if waits else b"", b"P1 OK [APPENDUID 7 12] ok\r\n", offered=offered)
    assert here.unasked(size) != waits
    message = outgoing(b"x" * (size - 2), b"", b"\r\n", size=size, flags=fl.SEEN,
                       keywords=["$Label1", "not an atom", "\\Custom"], date="1-Feb-2003 01:02:03 +0000")  # fmt: skip
    assert only(here.append("INBOX", [message])) == Appended(12, 7)
    head = f'P1 APPEND "INBOX" (\\Seen $Label1 \\Custom) " 1-Feb-2003 01:02:03 +0000" {{{size}{sign}}}'
    assert here.client.sock.sent == head.encode() + b"\r\n" + b"x" * (size - 2) + b"\r\n\r\n"
    here.close()


@pytest.mark.parametrize(
    ("answer", "uid"),
    [
        (b"P1 OK done\r\n", None),
        (b"P1 OK [APPENDUID 7 x] done\r\n", None),
        (b"P1 OK [APPENDUID 7 4294967296] done\r\n", None),
        (b"P1 OK [APPENDUID 0 3] done\r\n", None),
        (b"P1 OK [APPENDUID 7 3:4] done\r\n", None),
        (b"* 4 EXISTS\r\nP1 OK [appenduid 7 3] done\r\n", 3),
    ],
)
def test_the_uid_of_an_upload(answer, uid):
    here = session(answer, offered="LITERAL+")
    assert only(here.append("INBOX", [outgoing(BODY)])).uid == uid
    assert lines(here)[0] == 'P1 APPEND "INBOX" {11+}'
    here.close()


REFUSALS = [
    (b"P1 NO [OVERQUOTA] full\r\n", MessageError, False),
    (b"P1 NO [TOOBIG] too big\r\n", MessageError, True),
    (b"P1 NO message contains NUL\r\n", MessageError, True),
    (b"P1 BAD APPEND unrecognized flag\r\n", MessageError, True),
    (b"P1 NO [TRYCREATE] none\r\n", MailboxMissing, None),
    (b"P1 NO [NONEXISTENT] none\r\n", MailboxMissing, None),
    (b"P1 NO [UNAVAILABLE] later\r\n", ServerBusy, None),
    (b"P1 NO [THROTTLED] later\r\n", ServerBusy, None),
    (b"P1 NO [OVERQUOTA] Account exceeded command or bandwidth limits.\r\n", ServerBusy, None),
    (b"P1 NO [ALERT] Account exceeded command or bandwidth limits. (Failure)\r\n", ServerBusy, None),
    (b"P1 NO [SERVERBUG] oops\r\n", ServerBusy, None),
    (b"P1 NO please try again later\r\n", ServerBusy, None),
]


@pytest.mark.parametrize(("answer", "error", "permanent"), REFUSALS)
@pytest.mark.parametrize("offered", ["", "LITERAL+"])
def test_a_refused_upload(answer, error, permanent, offered):
    here = session(answer, offered=offered)
    refusal = only(here.append("INBOX", [outgoing(BODY)]))
    assert isinstance(refusal, error)
    assert getattr(refusal, "permanent", None) == permanent
    assert (BODY in here.client.sock.sent) == (offered != "")
    here.close()


@pytest.mark.parametrize("answer", [b"* BYE too large\r\n", b""])
@pytest.mark.parametrize("offered", ["", "LITERAL+"])
def test_an_upload_without_an_answer(answer, offered):
    here = session(answer, offered=offered)
    with pytest.raises(ConnectionLost):
        list(here.append("INBOX", [outgoing(BODY)]))
    here.close()


@pytest.mark.parametrize("chunks", [[BODY[:-1]], [BODY, b"x"], [], [BODY + b"x"]])
@pytest.mark.parametrize("offered", ["", "LITERAL+"])
def test_a_message_that_changed_size_is_never_completed(chunks, offered):
    here = session(b"+ go\r\n", b"P1 OK [APPENDUID 7 3] should not come to this\r\n", offered=offered)
    with pytest.raises(ConnectionLost, match="not of 11 octets"):
        list(here.append("INBOX", [outgoing(*chunks)]))
    assert not here.client.sock.sent.endswith(BODY + b"\r\n")
    with pytest.raises(ConnectionLost):
        here.uids()


def test_a_file_that_cannot_be_read_cuts_the_upload():
    def failing():
        yield BODY[:5]
        raise KeyError("a local failure")

    here = session(b"+ go\r\n", b"P1 OK\r\n")
    with pytest.raises(KeyError):
        list(here.append("INBOX", [Outgoing(0, (), "", len(BODY), failing())]))
    assert here.client.sock.sent.endswith(BODY[:5])
    with pytest.raises(ConnectionLost):
        here.uids()


@pytest.mark.parametrize("offered", ["APPENDLIMIT=10", "APPENDLIMIT=10 LITERAL+ MULTIAPPEND"])
def test_what_exceeds_the_servers_limit_is_not_sent(offered):
    here = session(offered=offered)
    refusal = only(here.append("INBOX", [outgoing(BODY)]))
    assert isinstance(refusal, MessageError)
    assert "at most 10" in str(refusal)
    assert refusal.permanent
    assert not here.unasked(len(BODY))
    assert lines(here) == []
    here.close()


def test_a_limit_that_depends_on_the_mailbox_is_none():
    here = session(b"P1 OK\r\n", offered="APPENDLIMIT LITERAL+")
    assert only(here.append("INBOX", [outgoing(BODY)])).uid is None
    here.close()


def test_uploads_are_sent_ahead_of_their_answers():
    """Each has its own answer; one that has to wait for leave waits for those before it, too."""
    here = session(
        b"P1 OK [APPENDUID 7 4] ok\r\nP2 NO [TOOBIG] no\r\nP3 OK [APPENDUID 7 5] ok\r\n",
        b"+ go\r\n",
        b"P4 NO [INUSE] later\r\n",
        offered="LITERAL-",
    )
    answers = here.append("INBOX", [*[outgoing(BODY)] * 3, outgoing(b"x" * 5000, size=5000)])
    assert next(answers) == Appended(4, 7)
    assert here.client.sock.sent.count(b"APPEND") == 3
    assert [type(answer) for answer in answers] == [MessageError, Appended, ServerBusy]
    here.close()


def test_a_bounded_number_of_uploads_is_under_way():
    here = session(b"".join(b"P%d OK [APPENDUID 7 %d] ok\r\n" % (n, n) for n in range(1, 101)), offered="LITERAL+")
    answers = here.append("INBOX", [outgoing(BODY)] * 100)
    assert next(answers) == Appended(1, 7)
    assert here.client.sock.sent.count(b"APPEND") == 64
    assert [answer.uid for answer in answers] == list(range(2, 101))
    here.close()


MULTI = "LITERAL+ MULTIAPPEND"


def test_one_command_for_many_messages():
    here = session(b"* 9 EXISTS\r\nP1 OK [APPENDUID 7 5,3:4] ok\r\n", offered=MULTI)
    assert here.multiappend
    messages = [outgoing(BODY, flags=fl.SEEN), outgoing(BODY, date="01-Feb-2003 01:02:03 +0000"), outgoing(BODY)]
    assert list(here.append_all("INBOX", messages)) == [Appended(5, 7), Appended(3, 7), Appended(4, 7)]
    assert here.client.sock.sent == (
        b'P1 APPEND "INBOX" (\\Seen) {11+}\r\n%b "01-Feb-2003 01:02:03 +0000" {11+}\r\n%b {11+}\r\n%b\r\n'
        % (BODY, BODY, BODY)
    )
    here.close()


@pytest.mark.parametrize(
    "arguments", [b"7 3", b"7 3:4", b"7 3:6", b"7 5:3", b"7 3,4,", b"7 3:4294967295", b"0 3:5", b"7 3,4,0", b"7", b""]
)
def test_uids_that_are_not_one_for_each_message_are_none(arguments):
    here = session(b"P1 OK [APPENDUID %b] ok\r\n" % arguments, offered=MULTI)
    assert list(here.append_all("INBOX", [outgoing(BODY)] * 3)) == [Appended(None)] * 3
    here.close()


@pytest.mark.parametrize(("answer", "error", "permanent"), REFUSALS)
def test_many_messages_refused_in_one_command(answer, error, permanent):
    here = session(answer, offered=MULTI)
    with pytest.raises(error) as caught:
        here.append_all("INBOX", [outgoing(BODY)] * 2)
    assert getattr(caught.value, "permanent", None) == permanent
    assert here.multiappend != answer.startswith(b"P1 BAD"), "what it does not understand is not tried again"
    here.close()


@pytest.mark.parametrize("how", ["append", "append_all"])
def test_the_trace_shows_no_message_that_is_sent(how):
    told = []
    client = Client("test:143", ScriptedSocket(b"* OK\r\n", b"P1 OK\r\n", b"P2 OK\r\n").as_socket, trace=told.append)
    here = Session(client, Extensions(frozenset(MULTI.split())))
    list(getattr(here, how)("INBOX", [outgoing(BODY)] * 2))
    assert not any("a: b" in line for line in told)
    assert any("APPEND" in line and "{11+}" in line for line in told)
    here.close()
