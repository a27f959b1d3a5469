# SPDX-License-Identifier: MIT
"""The watcher of many mailboxes against servers that do what a test wrote down."""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping

import pytest

from pushpull import watch_link
from pushpull.errors import ConnectionLost
from pushpull.remote import Session
from pushpull.triggers import Kind, Trigger
from pushpull.watch_status import StatusWatcher
from tests.support.listener import Listener, Peer
from tests.support.waiting import wait_for
from tests.support.watching import Clocks, Highest, Running, connector, expect, to_the_end

LONG = 1000.0
SOON = 0.01
THREE = {"a": "INBOX", "b": "Lists/b", "c": "Entwürfe"}
WIRE = {"a": b'"INBOX"', "b": b'"Lists/b"', "c": b'"Entw&APw-rfe"'}
AT_ONCE = 0.2


def look(pairing: str) -> Trigger:
    return Trigger(pairing, Kind.REMOTE, full=True)


def news(pairing: str) -> Trigger:
    return Trigger(pairing, Kind.REMOTE)


def tick(pairing: str) -> Trigger:
    return Trigger(pairing, Kind.TIMER)


LOOKS = [look(pairing) for pairing in THREE]


class Watching(Running):
    """A watcher of three mailboxes, or of those that are given."""

    def __init__(
        self,
        connect: Callable[[], Session],
        mailboxes: Mapping[str, str] = THREE,
        *,
        poll: float = SOON,
        idle: float = LONG,
        sync: bool = False,
        **options,
    ) -> None:
        super().__init__(
            lambda give, tell: StatusWatcher(
                mailboxes, connect, give, tell, poll_seconds=poll, idle_seconds=idle, sync_on_timeout=sync, **options
            )
        )


class Account:
    """What a server says of its mailboxes: items of STATUS, or whole lines with `%b` for the tag. A test may change it
    at any time. A mailbox that it does not know has three messages.
    """

    def __init__(self, **answers: bytes) -> None:
        self.answers = {WIRE[pairing]: answer for pairing, answer in answers.items()}
        self.asked: Counter[bytes] = Counter()

    def __call__(self, peer: Peer) -> None:
        peer.say(b"* OK ready")
        while line := peer.hear():
            self.answer(peer, line)

    def answer(self, peer: Peer, line: bytes) -> None:
        if not line:
            raise ConnectionError
        tag, _, command = line.partition(b" ")
        assert command.startswith(b"STATUS "), line
        name = command[len(b"STATUS ") : command.index(b" (")]
        answer = self.answers.get(name, b"MESSAGES 3")
        if b"%b" not in answer:
            answer = b"* STATUS %b (%b)\r\n%%b OK done" % (name, answer)
        peer.say(answer.replace(b"%b", tag))
        self.asked[name] += 1

    def set(self, pairing: str, answer: bytes) -> None:
        self.answers[WIRE[pairing]] = answer

    def rounds(self, count: int, pairing: str = "c") -> None:
        """Wait until so many more questions for a mailbox, by default for the last one, were answered."""
        goal = self.asked[WIRE[pairing]] + count
        wait_for(lambda: self.asked[WIRE[pairing]] >= goal, what=f"{count} rounds")


@pytest.fixture
def hasty(monkeypatch):
    """Back-off and looks at the clock that a test can wait for."""
    monkeypatch.setattr(watch_link, "LINK_GAPS", (0.001, 0.01))
    monkeypatch.setattr(watch_link, "_SLICE", 0.02)


# --- questions and answers -------------------------------------------------------------------------------------


def test_the_looks_come_after_all_were_answered():
    account, asked, answer, checked = Account(), threading.Event(), threading.Event(), threading.Event()

    def talk(peer: Peer) -> None:
        peer.say(b"* OK ready")
        for _ in range(2):
            account.answer(peer, peer.hear())
        line = peer.hear()
        asked.set()
        assert answer.wait(20)
        account.answer(peer, line)
        assert checked.wait(20)

    with Listener(talk) as server, Watching(connector(server), poll=LONG) as watching:
        assert asked.wait(20)
        assert watching.triggers == []
        answer.set()
        watching.wait(*LOOKS)
        assert [line.partition(b" ")[2] for line in server.heard] == [
            b"STATUS %b (MESSAGES UIDNEXT UIDVALIDITY UNSEEN)" % name for name in WIRE.values()
        ]
        assert watching.told == [(logging.DEBUG, "3 polled mailboxes: watched by STATUS")]
        checked.set()


@pytest.mark.parametrize(
    "changed", [b"MESSAGES 4 UIDNEXT 10", b"MESSAGES 3 UIDNEXT 11", b"MESSAGES 3 UIDNEXT 10 UNSEEN 1"]
)
def test_a_changed_answer_is_a_trigger_of_its_mailbox_only(changed):
    account = Account(a=b"MESSAGES 3 UIDNEXT 10", b=b"MESSAGES 3 UIDNEXT 10")
    with Listener(account) as server, Watching(connector(server)) as watching:
        watching.wait(*LOOKS)
        account.rounds(3)
        account.set("b", changed)
        account.rounds(3)
        watching.wait(*LOOKS, news("b"))
        account.set("a", changed)
        account.rounds(3)
        watching.wait(*LOOKS, news("b"), news("a"))


def test_modseq_is_asked_where_it_is_offered():
    account = Account(b=b"MESSAGES 3 HIGHESTMODSEQ 5")
    with Listener(account) as server, Watching(connector(server, condstore=True)) as watching:
        watching.wait(*LOOKS)
        account.set("b", b"MESSAGES 3 HIGHESTMODSEQ 6")
        watching.wait(*LOOKS, news("b"))
        assert all(line.endswith(b"UNSEEN HIGHESTMODSEQ)") for line in server.heard)


def test_fifty_mailboxes_are_asked_sixteen_at_a_time():
    account, lines = Account(), []
    mailboxes = {f"p{number}": f"box{number}" for number in range(50)}

    def talk(peer: Peer) -> None:
        peer.say(b"* OK ready")
        first = [peer.hear() for _ in range(16)]  # none is answered until all have come
        for line in first:
            account.answer(peer, line)
        while line := peer.hear():
            account.answer(peer, line)

    with Listener(talk) as server:
        inner = connector(server)

        def connect() -> Session:
            session = inner()
            session.client.trace._write = lines.append
            return session

        with Watching(connect, mailboxes, poll=LONG) as watching:
            watching.wait(*map(look, mailboxes))
        assert len(server.peers) == 1
    under_way = most = 0
    for line in lines:
        under_way += line.startswith("C: P") - line.startswith("S: P")
        most = max(most, under_way)
    assert (under_way, most) == (0, 16)


def test_answers_are_taken_by_their_name_not_by_their_turn():
    """RFC 3501 section 5.5 lets a server answer in any order what does not depend on one another."""
    late = threading.Event()

    def talk(peer: Peer) -> None:
        peer.say(b"* OK ready")
        count = 3
        while True:
            tags = [expect(peer, b"STATUS " + name) for name in WIRE.values()]
            answers = [b"* STATUS %b (MESSAGES %d)" % pair for pair in zip(WIRE.values(), (7, 8, count), strict=True)]
            answers = answers[::-1] if count % 2 else answers
            peer.say(*answers, *(tag + b" OK done" for tag in tags))
            if len(peer.heard) >= 15:
                late.set()
            count = 4 if late.is_set() else 3

    with Listener(talk) as server, Watching(connector(server)) as watching:
        assert late.wait(20)
        wait_for(lambda: len(server.heard) > 24, what="questions", detail=watching.story)
        watching.wait(*LOOKS, news("c"))


def test_names_are_known_however_they_are_written():
    mailboxes = {"a": "inbox", "b": 'say "b\\c"', "c": "Lists/(old)", "d": "other"}
    wire = [b'"inbox"', b'"say \\"b\\\\c\\""', b'"Lists/(old)"', b'"other"']
    written = [b"INBOX", b'"say \\"b\\\\c\\""', b"{11}\r\nLists/(old)", b"unknown"]
    states, asked = [3, 3, 3, 3], []

    def talk(peer: Peer) -> None:
        peer.say(b"* OK ready")
        while True:
            for at in range(4):
                tag = expect(peer, b"STATUS " + wire[at])
                peer.say(b"* STATUS %b (MESSAGES %d)" % (written[at], states[at]), tag + b" OK done")
            asked.append(1)

    def rounds(count: int) -> None:
        goal = len(asked) + count
        wait_for(lambda: len(asked) >= goal, what="rounds", detail=watching.story)

    with Listener(talk) as server, Watching(connector(server), mailboxes) as watching:
        expected = [*LOOKS, look("d")]
        for at, pairing in enumerate(mailboxes):
            rounds(3)
            states[at] = 4
            rounds(3)
            expected.append(news(pairing))
            watching.wait(*expected)


@pytest.mark.parametrize("shown", [b'"Entwu\xcc\x88rfe"', b"Ent wurfe", b"NIL"])
def test_who_is_answered_under_another_name_is_looked_at_when_any_such_answer_changes(shown):
    said = b"* STATUS " + shown + b" (MESSAGES %d)\r\n%%b OK done"
    account = Account(b=said % 3, c=said % 5)
    with Listener(account) as server, Watching(connector(server)) as watching:
        watching.wait(*LOOKS)
        account.rounds(3)
        watching.wait(*LOOKS)
        account.set("c", said % 6)
        account.rounds(3)
        watching.wait(*LOOKS, news("b"), news("c"))


def test_two_pairings_of_one_mailbox_are_one_question():
    account = Account()
    with Listener(account) as server, Watching(connector(server), {"p": "Lists/b", "q": "Lists/b"}) as watching:
        watching.wait(look("p"), look("q"))
        account.set("b", b"MESSAGES 4")
        watching.wait(look("p"), look("q"), news("p"), news("q"))
    with (
        Listener(account) as server,
        Watching(connector(server), {"p": "Lists/b", "q": "Lists/b"}, poll=LONG) as watching,
    ):
        watching.wait(look("p"), look("q"))
        assert len(server.heard) == 1


def test_an_alert_is_told_and_escaped():
    said = b"* OK [ALERT] going \x1b[2J down at noon\r\n* STATUS INBOX (MESSAGES 3)\r\n%b OK done"
    with Listener(Account(a=said)) as server, Watching(connector(server), poll=LONG) as watching:
        watching.wait(*LOOKS)
        assert watching.lines(logging.WARNING) == ["3 polled mailboxes: the server says: going \\x1b[2J down at noon"]


def test_what_is_said_of_no_mailbox_is_no_news():
    said = b"* 4 EXISTS\r\n* STATUS INBOX (MESSAGES 3)\r\n%b OK done\r\n* 5 EXISTS"
    account = Account(a=said)
    with Listener(account) as server, Watching(connector(server)) as watching:
        account.rounds(4)
        watching.wait(*LOOKS)


@pytest.mark.parametrize("sync", [False, True])
def test_each_is_synced_by_the_clock_if_it_should(sync):
    account = Account()
    with Listener(account) as server, Watching(connector(server), idle=0.03, sync=sync) as watching:
        account.rounds(10)
        if sync:
            wait_for(lambda: len(watching.triggers) >= 9, what="triggers", detail=watching.story)
        watching.end()
        ticks = [tick(pairing) for pairing in THREE]
        assert watching.triggers[:9] == (LOOKS + ticks + ticks if sync else LOOKS)


def test_no_wait_is_longer_than_a_server_waits():
    watcher = Watching(lambda: pytest.fail("not run"), poll=3600.0, idle=3600.0).watcher
    assert watcher._poll_seconds == watcher._idle_seconds == 29 * 60


# --- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "refusal", [b"NO [NONEXISTENT] no such mailbox", b"NO [INUSE] in use", b"NO try again later", b"BAD what"]
)
def test_one_that_is_refused_is_looked_at_each_time_and_the_others_are_watched(refusal):
    account = Account(b=b"%b " + refusal)
    with Listener(account) as server, Watching(connector(server)) as watching:
        account.rounds(3)
        account.set("c", b"MESSAGES 4")
        account.rounds(4)
        watching.end()
        rounds = watching.triggers.count(news("b"))
        assert rounds >= 5  # the first was the look, and the last may be on its way
        assert watching.triggers[:3] == LOOKS
        assert sorted(watching.triggers[3:], key=str) == [*[news("b")] * rounds, news("c")]
        assert len(server.peers) == 1
        (told,) = watching.lines(logging.INFO)
        words = refusal.partition(b" ")[2].decode()
        assert told == f"3 polled mailboxes: b: looked at each time, for STATUS was refused: {words}"


def test_one_that_is_not_refused_any_more_is_looked_at_once_more():
    account = Account(b=b"%b NO [NONEXISTENT] no such mailbox")
    with Listener(account) as server, Watching(connector(server)) as watching:
        account.rounds(3)
        account.set("b", b"MESSAGES 1")
        account.rounds(3)
        before = len(watching.triggers)
        account.rounds(3)
        assert len(watching.triggers) == before
        account.set("b", b"%b NO [NONEXISTENT] no such mailbox")
        wait_for(lambda: len(watching.lines(logging.INFO)) == 2, what="the other refusal", detail=watching.story)


def test_one_that_is_refused_has_no_answer_of_a_stranger():
    account = Account(b=b"%b NO no", c=b"* STATUS unknown (MESSAGES 3)\r\n%b OK done")
    with Listener(account) as server, Watching(connector(server)) as watching:
        account.rounds(4)
        watching.end()
        assert watching.triggers.count(news("b")) >= 2
        assert news("c") not in watching.triggers


def test_one_that_is_answered_by_nothing_is_looked_at_each_time():
    account = Account(b=b"%b OK done", c=b"")
    with Listener(account) as server, Watching(connector(server)) as watching:
        account.rounds(4)
        watching.end()
        assert watching.triggers[:3] == LOOKS
        assert set(watching.triggers[3:]) == {news("b"), news("c")}


def test_a_name_that_no_mailbox_has_is_not_asked_and_looked_at_each_time():
    account = Account()
    with Listener(account) as server, Watching(connector(server), {**THREE, "d": "a\r\nb"}) as watching:
        account.rounds(4)
        watching.end()
        assert watching.triggers[:4] == [*LOOKS, look("d")]
        assert set(watching.triggers[4:]) == {news("d")}
        assert account.asked.keys() == set(WIRE.values())


def test_a_server_that_is_busy_for_all_is_left_for_a_while(hasty):
    busy = b"%b NO [UNAVAILABLE] later"
    account = Account(a=busy, b=busy, c=busy)
    with Listener(account) as server, Watching(connector(server)) as watching:
        wait_for(lambda: len(server.peers) > 2, what="attempts", detail=watching.story)
        assert watching.triggers == []
        account.answers.clear()
        watching.wait(*LOOKS)
        (told,) = watching.lines(logging.WARNING)
        assert told.startswith("3 polled mailboxes: changes on the server are not seen: test:143 is busy (STATUS)")
        assert watching.lines(logging.INFO) == ["3 polled mailboxes: changes on the server are seen again"]


# --- links that end --------------------------------------------------------------------------------------------


def test_a_link_that_ends_between_two_questions_is_made_again_at_once(hasty):
    account = Account()

    def talk(peer: Peer) -> None:
        if len(server.peers) > 2:
            account(peer)
        peer.say(b"* OK ready")
        for _ in THREE:
            account.answer(peer, peer.hear())
        peer.say(b"* BYE going down")

    with Listener(talk) as server, Watching(connector(server), poll=LONG) as watching:
        watching.wait(*LOOKS * 3)


def test_a_link_that_ends_amid_the_answers_is_made_again(hasty):
    account = Account()

    def talk(peer: Peer) -> None:
        if len(server.peers) > 2:
            account(peer)
        peer.say(b"* OK ready")
        first, *_ = [peer.hear() for _ in THREE]  # what stays unread would make a reset of the end
        account.answer(peer, first)

    with Listener(talk) as server, Watching(connector(server)) as watching:
        account.rounds(3)
        watching.wait(*LOOKS)
        (told,) = watching.lines(logging.WARNING)
        # While the next question was on its way, or before it.
        assert re.search("closed the connection|Broken pipe|Connection reset", told)


def test_what_changed_while_there_was_no_link_a_look_finds(hasty):
    account = Account()
    with Listener(account) as server, Watching(connector(server)) as watching:
        watching.wait(*LOOKS)
        account.set("b", b"MESSAGES 4")
        server.peers[0].sock.shutdown(2)
        wait_for(lambda: watching.triggers.count(look("c")) == 2, what="looks", detail=watching.story)
        account.rounds(3)
        assert [trigger for trigger in watching.triggers if trigger.full] == LOOKS * 2


def test_a_server_that_cannot_answer_many_in_time_is_asked_for_fewer(hasty):
    """It takes all that was sent at once, and has no time to answer more than four."""
    account = Account()
    mailboxes = {f"p{number}": f"box{number}" for number in range(20)}
    stuck = threading.Event()

    def talk(peer: Peer) -> None:
        peer.say(b"* OK ready")
        while True:
            lines = [peer.hear()]
            while b"\r\n" in peer._rest or len(lines) < min(5, watching.watcher._window):
                lines.append(peer.hear())
            if len(lines) > 4:
                assert stuck.wait(20)
            for line in lines:
                account.answer(peer, line)

    with Listener(talk) as server:
        watching = Watching(connector(server, timeout=0.3), mailboxes, poll=LONG)
        with watching:
            wait_for(lambda: len(watching.triggers) >= 20, what="looks", detail=watching.story)
            stuck.set()
            assert len(server.peers) >= 3
            assert watching.watcher._window <= 4


def test_one_mailbox_is_called_one():
    def connect() -> Session:
        raise ConnectionLost("no network")

    with Watching(connect, {"p": "INBOX"}, rng=Highest()) as watching:
        wait_for(lambda: watching.told, what="the failure")
    assert watching.lines(logging.WARNING) == [
        "1 polled mailbox: changes on the server are not seen: no network; trying again in 1 s"
    ]


def test_after_a_sleep_the_link_is_not_believed(hasty):
    clocks = Clocks()
    with (
        Listener(Account()) as server,
        Watching(connector(server), poll=LONG, clock=clocks.monotonic, wall=clocks.wall) as watching,
    ):
        watching.wait(*LOOKS)
        clocks.slept = 100.0
        watching.wait(*LOOKS * 2)


# --- stopping --------------------------------------------------------------------------------------------------


def test_stop_between_two_questions():
    with Listener(Account()) as server, Watching(connector(server), poll=LONG) as watching:
        watching.wait(*LOOKS)
        assert watching.end() < AT_ONCE
        assert server.heard[-1].endswith(b" LOGOUT")
        assert watching.lines(logging.WARNING) == watching.lines(logging.INFO) == []


def test_stop_while_answers_are_awaited():
    def talk(peer: Peer) -> None:
        peer.say(b"* OK ready")
        to_the_end(peer)

    with Listener(talk) as server, Watching(connector(server)) as watching:
        wait_for(lambda: len(server.heard) == 3, what="the questions")
        assert watching.end() < AT_ONCE
        assert watching.triggers == []
        assert watching.told == []
