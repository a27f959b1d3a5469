# SPDX-License-Identifier: MIT
"""The remote watcher against servers that do what a test wrote down."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable

import pytest

from pushpull import transport, watch_link, watch_remote
from pushpull.errors import ConnectionLost, LoginRefused, MailboxMissing
from pushpull.remote import Session
from pushpull.triggers import Kind, Trigger
from pushpull.watch_link import Gaps
from pushpull.watch_remote import RemoteWatcher
from tests.support.listener import Listener, Peer, Talk
from tests.support.waiting import wait_for
from tests.support.watching import Clocks, Highest, Running, connector, expect, to_the_end

LOOK = Trigger("p", Kind.REMOTE, full=True)
NEWS = Trigger("p", Kind.REMOTE)
TICK = Trigger("p", Kind.TIMER)
STATE = (b"* 3 EXISTS", b"* OK [UIDVALIDITY 7] ok", b"* OK [UIDNEXT 10] ok")
LONG = 1000.0


class Watching(Running):
    """A watcher of one mailbox."""

    def __init__(
        self,
        connect: Callable[[], Session],
        *,
        mailbox: str = "INBOX",
        idle: float = LONG,
        poll: float = LONG,
        sync: bool = False,
        **options,
    ) -> None:
        super().__init__(
            lambda give, tell: RemoteWatcher(
                "p", mailbox, connect, give, tell,
                idle_seconds=idle, sync_on_timeout=sync, poll_seconds=poll, **options,
            )
        )  # fmt: skip


def opened(peer: Peer) -> None:
    peer.say(b"* OK ready")
    peer.say(*STATE, expect(peer, b"EXAMINE") + b" OK [READ-ONLY] done")


def idling(peer: Peer, *lines: bytes) -> bytes:
    """Until IDLE is granted; its tag. `lines` come in one piece with the `+`."""
    tag = expect(peer, b"IDLE")
    peer.say(b"+ idling", *lines)
    return tag


def announcing(*lines: bytes) -> Talk:
    """Who grants IDLE with these lines, and then only listens."""

    def talk(peer: Peer) -> None:
        opened(peer)
        idling(peer, *lines)
        to_the_end(peer)

    return talk


def renewals(peer: Peer, count: int, *lines: bytes) -> None:
    """Grant IDLE so often, and say the lines between DONE and its answer."""
    for _ in range(count):
        tag = idling(peer)
        assert peer.hear() == b"DONE"
        peer.say(*lines, tag + b" OK done")


@pytest.fixture
def hasty(monkeypatch):
    """Back-off and looks at the clock that a test can wait for."""
    monkeypatch.setattr(watch_link, "LINK_GAPS", (0.001, 0.01))
    monkeypatch.setattr(watch_link, "_SLICE", 0.02)


# --- lines -----------------------------------------------------------------------------------------------------


def test_the_look_comes_after_the_mailbox_was_opened_and_before_idle():
    asked, answer, checked = threading.Event(), threading.Event(), threading.Event()

    def talk(peer: Peer) -> None:
        peer.say(b"* OK ready")
        tag = expect(peer, b'EXAMINE "Entw&APw-rfe"')
        asked.set()
        assert answer.wait(20)
        peer.say(*STATE, tag + b" OK done")
        expect(peer, b"IDLE")
        assert checked.wait(20)

    with Listener(talk) as server, Watching(connector(server, "IDLE"), mailbox="Entwürfe") as watching:
        assert asked.wait(20)
        assert watching.triggers == []
        answer.set()
        watching.wait(LOOK)
        checked.set()


@pytest.mark.parametrize(
    "line",
    [
        b"* 4 EXISTS", b"* 1 RECENT", b"* 2 EXPUNGE", b"* VANISHED 7", b"* 1 FETCH (FLAGS (\\Seen))",
        b"* 1 FETCH (X {3}\r\nabc FLAGS ())", b"* FLAGS (a)", b"* STATUS INBOX (MESSAGES 3)",
    ],
)  # fmt: skip
def test_news_is_a_trigger(line):
    def talk(peer: Peer) -> None:
        opened(peer)
        idling(peer)
        peer.say(line)
        to_the_end(peer)

    with Listener(talk) as server, Watching(connector(server, "IDLE")) as watching:
        watching.wait(LOOK, NEWS)


@pytest.mark.parametrize(
    "line",
    [b"* OK Still here", b"* OK [HIGHESTMODSEQ 9] x", b"* CAPABILITY IMAP4rev1", b"* NO almost full", b"+ again"],
)
def test_talk_is_none(line):
    done = threading.Event()

    def talk(peer: Peer) -> None:
        opened(peer)
        renewals(peer, 3, line)
        done.set()
        to_the_end(peer)

    with Listener(talk) as server, Watching(connector(server, "IDLE"), idle=0.01) as watching:
        assert done.wait(20)
        watching.wait(LOOK)


def test_news_with_and_before_the_grant_is_not_missed():
    def with_it(peer: Peer) -> None:
        opened(peer)
        idling(peer, b"* 4 EXISTS")
        to_the_end(peer)

    def before_it(peer: Peer) -> None:
        opened(peer)
        expect(peer, b"IDLE")
        peer.say(b"* 4 EXISTS", b"+ idling")
        to_the_end(peer)

    for talk in (with_it, before_it):
        with Listener(talk) as server, Watching(connector(server, "IDLE")) as watching:
            watching.wait(LOOK, NEWS)
            assert server.heard[-1].endswith(b"IDLE")


@pytest.mark.parametrize("tls", [False, True])
def test_news_with_the_answer_to_examine_is_not_missed(tls):
    def talk(peer: Peer) -> None:
        if tls:
            peer.secure()
        peer.say(b"* OK ready")
        peer.say(*STATE, expect(peer, b"EXAMINE") + b" OK done", b"* 4 EXISTS")
        to_the_end(peer)

    # It lies in the reader's buffer, and the socket stays silent.
    with Listener(talk) as server, Watching(connector(server, "IDLE", tls=tls)) as watching:
        watching.wait(LOOK, NEWS)


def test_news_between_done_and_its_answer_is_not_missed():
    def talk(peer: Peer) -> None:
        opened(peer)
        renewals(peer, 1, b"* 4 EXISTS")
        to_the_end(peer)

    with Listener(talk) as server, Watching(connector(server, "IDLE"), idle=0.01) as watching:
        watching.wait(LOOK, NEWS)


def test_news_after_the_answer_to_done_is_not_missed():
    def talk(peer: Peer) -> None:
        opened(peer)
        tag = idling(peer)
        assert peer.hear() == b"DONE"
        peer.say(tag + b" OK done", b"* 4 EXISTS")
        to_the_end(peer)

    with Listener(talk) as server, Watching(connector(server, "IDLE"), idle=0.01) as watching:
        watching.wait(LOOK, NEWS)


def test_a_line_in_two_tls_records_is_read_whole():
    halves, whole = threading.Event(), threading.Event()

    def talk(peer: Peer) -> None:
        peer.secure()
        opened(peer)
        idling(peer)
        peer.sock.sendall(b"* 4 EXI")
        halves.set()
        assert whole.wait(20)
        peer.sock.sendall(b"STS\r\n")
        to_the_end(peer)

    with Listener(talk) as server, Watching(connector(server, "IDLE", tls=True)) as watching:
        assert halves.wait(20)
        watching.wait(LOOK)
        whole.set()
        watching.wait(LOOK, NEWS)


def test_two_lines_in_one_tls_record_larger_than_a_read():
    def talk(peer: Peer) -> None:
        peer.secure()
        opened(peer)
        tag = idling(peer)
        assert peer.hear() == b"DONE"
        # What is decrypted and not yet read shows neither in the socket nor in the reader.
        peer.sock.sendall((b"* OK " + b"x" * 16000 + b"\r\n") * 4 + tag + b" OK done\r\n* 4 EXISTS\r\n")
        to_the_end(peer)

    with Listener(talk) as server, Watching(connector(server, "IDLE", tls=True), idle=0.01) as watching:
        watching.wait(LOOK, NEWS)


def test_a_burst_is_few_triggers():
    def talk(peer: Peer) -> None:
        opened(peer)
        idling(peer)
        peer.say(*(b"* %d FETCH (FLAGS ())" % (number % 3 + 1) for number in range(2000)))
        peer.say(b"* OK [ALERT] that was all")
        to_the_end(peer)

    with Listener(talk) as server, Watching(connector(server, "IDLE")) as watching:
        wait_for(lambda: watching.lines(logging.WARNING), what="the end of the burst")
        wait_for(lambda: len(watching.triggers) > 1, what="a trigger")
        assert 2 <= len(watching.triggers) <= 12
        assert set(watching.triggers[1:]) == {NEWS}


def test_a_flood_without_end_is_told_while_it_lasts(monkeypatch):
    monkeypatch.setattr(watch_link, "_BURST", 0.02)
    enough = threading.Event()

    def talk(peer: Peer) -> None:
        opened(peer)
        idling(peer)
        while not enough.is_set():
            peer.say(*[b"* 1 FETCH (FLAGS ())"] * 100)

    with Listener(talk) as server, Watching(connector(server, "IDLE")) as watching:
        wait_for(lambda: len(watching.triggers) > 3, what="triggers", detail=watching.story)
        enough.set()


def test_an_alert_is_told_and_escaped():
    alert = b"* OK [ALERT] going \x1b[2J down at noon"
    with Listener(announcing(alert)) as server, Watching(connector(server, "IDLE")) as watching:
        wait_for(lambda: watching.lines(logging.WARNING), what="the alert")
        assert watching.lines(logging.WARNING) == ["p: the server says: going \\x1b[2J down at noon"]


# --- renewal ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", [False, True])
def test_idle_is_renewed_and_syncs_if_it_should(sync):
    done = threading.Event()

    def talk(peer: Peer) -> None:
        opened(peer)
        renewals(peer, 4)
        idling(peer)
        done.set()
        to_the_end(peer)

    with Listener(talk) as server, Watching(connector(server, "IDLE"), idle=0.05, sync=sync) as watching:
        assert done.wait(20)
        watching.end()
        assert watching.triggers[:5] == ([LOOK] + [TICK] * 4 if sync else [LOOK])
        words = [line.split(b" ", 1)[-1] for line in server.heard]
        assert words[:6] == [b'EXAMINE "INBOX"', b"IDLE", b"DONE", b"IDLE", b"DONE", b"IDLE"]


def test_idle_never_lasts_half_an_hour():
    watching = Watching(lambda: pytest.fail("not run"), idle=3600.0)
    assert watching.watcher._idle_seconds == 29 * 60


def test_eight_hours_of_renewals_leave_nothing_behind():
    marks = {}
    reached = {count: threading.Event() for count in (200, 1200)}
    go_on = threading.Event()

    def talk(peer: Peer) -> None:
        opened(peer)
        for number in range(1, 1201):
            renewals(peer, 1, b"* OK Still here")
            if number in reached:
                peer.heard.clear()
                reached[number].set()
                assert go_on.wait(20)
        to_the_end(peer)

    def measure() -> tuple[int, int, int]:
        gc.collect()
        used = tracemalloc.take_snapshot().filter_traces(
            [
                tracemalloc.Filter(True, f"*/pushpull/{name}.py")
                for name in ("watch_remote", "watch_link", "transport", "framing")
            ]
        )
        size = sum(entry.size for entry in used.statistics("filename"))
        return size, len(os.listdir("/proc/self/fd")), threading.active_count()

    tracemalloc.start()
    try:
        with Listener(talk) as server, Watching(connector(server, "IDLE"), idle=0.0002) as watching:
            for number, event in reached.items():
                assert event.wait(60), watching.story()
                go_on.clear()
                # A reader that is just in recv() holds its buffer: the least of a few looks counts.
                marks[number] = min(measure() for _ in range(10))
                go_on.set()
    finally:
        tracemalloc.stop()
    assert marks[1200][1:] == marks[200][1:]
    assert marks[1200][0] < marks[200][0] + 10_000
    assert watching.triggers == [LOOK]


# --- links that end --------------------------------------------------------------------------------------------


def _bye(peer: Peer) -> None:
    peer.say(b"* BYE going down")


def _eof(peer: Peer) -> None:
    peer.sock.shutdown(socket.SHUT_RDWR)


def _reset(peer: Peer) -> None:
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.sock.close()


def _nonsense(peer: Peer) -> None:
    peer.say(b"\x00\xff")


def _half_a_line(peer: Peer) -> None:
    peer.sock.sendall(b"* 4 EXI")
    to_the_end(peer)


@pytest.mark.parametrize("end", [_bye, _eof, _reset, _nonsense, _half_a_line])
def test_a_link_that_ends_is_made_again(end, hasty):
    def talk(peer: Peer) -> None:
        opened(peer)
        idling(peer)
        if len(server.peers) <= 2:
            end(peer)
        else:
            to_the_end(peer)

    with Listener(talk) as server, Watching(connector(server, "IDLE", timeout=0.3)) as watching:
        watching.wait(LOOK, LOOK, LOOK)
        assert len(watching.lines(logging.WARNING)) <= 2


@pytest.mark.parametrize("silent_at", [b"EXAMINE", b"IDLE", b"DONE"])
def test_a_server_that_does_not_answer_is_left(silent_at, hasty):
    def talk(peer: Peer) -> None:
        first = len(server.peers) == 1
        peer.say(b"* OK ready")
        while line := peer.hear():
            tag, _, command = line.rpartition(b" IDLE") if line.endswith(b"IDLE") else line.partition(b" ")
            if first and silent_at in line:
                continue
            if b"EXAMINE" in command:
                peer.say(*STATE, tag + b" OK done")
            elif line.endswith(b"IDLE"):
                idle = tag
                peer.say(b"+ idling")
            else:
                peer.say(idle + b" OK done")

    with Listener(talk) as server, Watching(connector(server, "IDLE", timeout=0.3), idle=0.1) as watching:
        wait_for(lambda: len(server.peers) > 1, what="another connection", detail=watching.story)
        expected = [LOOK] if silent_at == b"EXAMINE" else [LOOK, LOOK]
        watching.wait(*expected)
        (told,) = watching.lines(logging.WARNING)
        assert told.startswith("p: changes on the server are not seen: test:143: no answer")
        wait_for(lambda: watching.lines(logging.INFO), what="the end of the trouble")
        assert watching.lines(logging.INFO) == ["p: changes on the server are seen again"]


def test_a_server_that_only_chatters_after_done_is_left(hasty):
    def talk(peer: Peer) -> None:
        opened(peer)
        idling(peer)
        if len(server.peers) > 1:
            to_the_end(peer)
        peer.hear()
        while True:
            peer.say(b"* OK Still here")
            gone.wait(0.01)

    gone = threading.Event()
    with Listener(talk) as server, Watching(connector(server, "IDLE", timeout=0.3), idle=0.1) as watching:
        watching.wait(LOOK, LOOK)
    gone.set()


def test_a_server_that_is_not_there_is_told_once_and_tried_again(hasty):
    attempts = []

    def connect() -> Session:
        attempts.append(time.monotonic())
        raise ConnectionLost("cannot connect to test:143: refused", remedy="check imap.host")

    with Watching(connect) as watching:
        wait_for(lambda: len(attempts) > 10, what="attempts")
    assert watching.lines(logging.WARNING) == [
        "p: changes on the server are not seen: cannot connect to test:143: refused; check imap.host;"
        " trying again in 0 s"
    ]
    assert watching.lines(logging.ERROR) == watching.lines(logging.INFO) == []


def test_a_connection_that_proved_stable_starts_with_short_gaps_and_is_no_warning(monkeypatch):
    """By clocks that the test turns."""
    monkeypatch.setattr(watch_link, "_JUMP", LONG)
    now = [0.0]
    tired = threading.Event()

    def talk(peer: Peer) -> None:
        opened(peer)
        idling(peer)
        if len(server.peers) == 1:
            assert tired.wait(20)
            _bye(peer)
        else:
            to_the_end(peer)

    def ahead() -> float:
        return time.monotonic() + now[0]

    with Listener(talk) as server:
        connect = connector(server, "IDLE")
        with Watching(connect, clock=ahead, wall=ahead, rng=Highest()) as watching:
            for _ in range(9):
                watching.watcher._link_gaps.take()
            watching.wait(LOOK)
            wait_for(lambda: server.heard[-1:] and server.heard[-1].endswith(b"IDLE"), what="IDLE")
            now[0] = 61.0
            tired.set()
            wait_for(lambda: watching.lines(logging.INFO), what="the end", detail=watching.story)
            assert "going down; connecting anew in 1 s" in watching.lines(logging.INFO)[0]
            assert watching.lines(logging.WARNING) == []
            watching.wait(LOOK, LOOK)


def test_gaps_double_up_to_the_longest_and_are_jittered():
    gaps = Gaps(1.0, 300.0, Highest())
    assert [gaps.take() for _ in range(11)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    gaps.reset()
    assert gaps.take() == 1
    jittered = Gaps(100.0, 100.0, random.Random(4))
    taken = [jittered.take() for _ in range(200)]
    assert 75 <= min(taken) < 80
    assert 95 < max(taken) <= 100


# --- no IDLE ---------------------------------------------------------------------------------------------------


def polled(peer: Peer, states: list[bytes], *, news: tuple[bytes, ...] = ()) -> None:
    """Answer NOOP and STATUS: each state once, the last for ever."""
    peer.say(b"* OK ready")
    answer(peer, states, news=news)


def answer(peer: Peer, states: list[bytes], *, news: tuple[bytes, ...] = ()) -> None:
    at = 0
    while True:
        peer.say(*(news if at == 1 else ()), expect(peer, b"NOOP") + b" OK done")
        tag = expect(peer, b'STATUS "INBOX" (MESSAGES UIDNEXT UIDVALIDITY UNSEEN')
        state = states[min(at, len(states) - 1)]
        peer.say(tag + b" NO no" if state == b"NO" else b'* STATUS "INBOX" (%b)\r\n%b OK done' % (state, tag))
        at += 1


@pytest.mark.parametrize(
    "changed", [b"MESSAGES 4 UIDNEXT 10", b"MESSAGES 3 UIDNEXT 11", b"MESSAGES 3 UIDNEXT 10 UNSEEN 1"]
)
def test_without_idle_a_changed_status_is_a_trigger(changed):
    old = b"MESSAGES 3 UIDNEXT 10"
    with (
        Listener(lambda peer: polled(peer, [old, old, old, changed])) as server,
        Watching(connector(server), poll=0.02) as watching,
    ):
        wait_for(lambda: len(server.heard) > 16, what="questions", detail=watching.story)
        assert watching.triggers == [LOOK, NEWS]
        assert not [line for line in server.heard if b"IDLE" in line or b"EXAMINE" in line]


def test_modseq_is_asked_where_it_is_offered():
    with (
        Listener(lambda peer: polled(peer, [b"MESSAGES 3 HIGHESTMODSEQ 5", b"MESSAGES 3 HIGHESTMODSEQ 6"])) as server,
        Watching(connector(server, condstore=True), poll=0.02) as watching,
    ):
        watching.wait(LOOK, NEWS)
        assert any(line.endswith(b"UNSEEN HIGHESTMODSEQ)") for line in server.heard)


def test_a_server_that_gives_no_status_is_asked_by_noop_in_the_open_mailbox():
    def talk(peer: Peer) -> None:
        peer.say(b"* OK ready")
        peer.say(expect(peer, b"NOOP") + b" OK done")
        peer.say(expect(peer, b"STATUS") + b" NO not allowed")
        peer.say(*STATE, expect(peer, b"EXAMINE") + b" OK done")
        answer(peer, [b"NO"], news=(b"* 4 EXISTS",))

    with Listener(talk) as server, Watching(connector(server), poll=0.02) as watching:
        wait_for(lambda: len(server.heard) > 12, what="questions", detail=watching.story)
        assert watching.triggers == [LOOK, NEWS]


def test_a_server_that_stops_giving_status_is_looked_at_when_its_mailbox_was_opened():
    def talk(peer: Peer) -> None:
        peer.say(b"* OK ready")
        for answers in ([b"* STATUS INBOX (MESSAGES 3)", b"%b OK done"], [b"%b NO not any more"]):
            peer.say(expect(peer, b"NOOP") + b" OK done")
            tag = expect(peer, b"STATUS")
            peer.say(*(line.replace(b"%b", tag) for line in answers))
        # What happened since the last STATUS nobody would tell.
        peer.say(*STATE, expect(peer, b"EXAMINE") + b" OK done")
        answer(peer, [b"NO"])

    with Listener(talk) as server, Watching(connector(server), poll=0.02) as watching:
        wait_for(lambda: len(server.heard) > 12, what="questions", detail=watching.story)
        assert watching.triggers == [LOOK, NEWS]


def test_a_mailbox_that_is_missing_is_an_error_told_once(hasty):
    def talk(peer: Peer) -> None:
        peer.say(b"* OK ready")
        peer.say(expect(peer, b"EXAMINE") + b" NO [NONEXISTENT] no such mailbox")

    with Listener(talk) as server, Watching(connector(server, "IDLE")) as watching:
        wait_for(lambda: len(server.peers) > 4, what="attempts", detail=watching.story)
        (told,) = watching.lines(logging.ERROR)
        assert "mailbox 'INBOX' cannot be opened" in told
        assert watching.triggers == []


def test_polling_syncs_by_the_clock_too():
    with (
        Listener(lambda peer: polled(peer, [b"MESSAGES 3"])) as server,
        Watching(connector(server), poll=0.01, idle=0.05, sync=True) as watching,
    ):
        wait_for(lambda: len(watching.triggers) >= 3, what="triggers", detail=watching.story)
        assert watching.triggers[:3] == [LOOK, TICK, TICK]


def test_polling_hears_the_end_at_once(hasty):
    def talk(peer: Peer) -> None:
        peer.say(b"* OK ready")
        peer.say(expect(peer, b"NOOP") + b" OK done")
        peer.say(b"* STATUS INBOX (MESSAGES 1)", expect(peer, b"STATUS") + b" OK done")
        if len(server.peers) == 1:
            peer.say(b"* BYE going down")
        to_the_end(peer)

    with Listener(talk) as server, Watching(connector(server)) as watching:
        watching.wait(LOOK, LOOK)


def test_a_server_that_only_chatters_when_it_is_asked_is_left(hasty):
    def talk(peer: Peer) -> None:
        if len(server.peers) > 1:
            polled(peer, [b"MESSAGES 3"])
        peer.say(b"* OK ready")
        peer.say(expect(peer, b"NOOP") + b" OK done")
        while True:
            peer.say(b"* OK Still here")
            gone.wait(0.01)

    gone = threading.Event()
    with Listener(talk) as server, Watching(connector(server, timeout=0.3)) as watching:
        watching.wait(LOOK)
        (told,) = watching.lines(logging.WARNING)
        assert "no answer to STATUS within 0.3 s" in told
    gone.set()


@pytest.mark.parametrize("refusal", [b"NO", b"BAD", b"OK", b"+ OK"])
def test_idle_refused_means_polling_and_idle_is_tried_again_later(refusal, monkeypatch):
    monkeypatch.setattr(watch_remote, "_IDLE_AGAIN", 0.1)

    def talk(peer: Peer) -> None:
        opened(peer)
        tag = expect(peer, b"IDLE")
        grant, _, status = refusal.rpartition(b" ")
        peer.say(*([b"+ idling"] if grant else []), tag + b" " + status + b" not now")
        at = 0
        while True:
            line = peer.hear()
            tag, _, command = line.partition(b" ")
            if command.startswith(b"EXAMINE"):
                break
            assert command.startswith((b"NOOP", b"STATUS")), line
            at += command.startswith(b"STATUS")
            state = b'* STATUS "INBOX" (MESSAGES %d)' % (3 if at < 2 else 4)
            peer.say(*([state] if command.startswith(b"STATUS") else []), tag + b" OK done")
        peer.say(*STATE, tag + b" OK done")
        idling(peer, b"* 5 EXISTS")
        to_the_end(peer)

    # Looks: in the open mailbox; at the first STATUS; a change; in the mailbox opened again; the news of IDLE.
    with Listener(talk) as server, Watching(connector(server, "IDLE"), poll=0.02) as watching:
        watching.wait(LOOK, NEWS, NEWS, NEWS, NEWS)


def test_idle_ended_by_the_server_in_good_time_is_begun_again(monkeypatch):
    monkeypatch.setattr(watch_remote, "_MOMENT", 0.0)

    def talk(peer: Peer) -> None:
        opened(peer)
        for _ in range(3):
            peer.say(idling(peer) + b" OK that was long enough")
        idling(peer, b"* 4 EXISTS")
        to_the_end(peer)

    with Listener(talk) as server, Watching(connector(server, "IDLE")) as watching:
        watching.wait(LOOK, NEWS)


# --- logins ----------------------------------------------------------------------------------------------------


def test_a_login_refused_is_told_once_and_tried_at_long_intervals():
    attempts = []
    answers = ["wrong password", "wrong password", "account locked"]

    def connect() -> Session:
        attempts.append(1)
        raise LoginRefused(f"test:143 refused the login: {answers[len(attempts) - 1]}", remedy="check imap.login")

    with Watching(connect, rng=Highest()) as watching:
        for number in (1, 2, 3):
            wait_for(
                lambda number=number: len(watching.told) == number, what=f"attempt {number}", detail=watching.story
            )
            assert len(attempts) == number
            watching.watcher.kick() if number < 3 else None
    assert watching.told == [
        (logging.ERROR, "p: changes on the server are not seen: test:143 refused the login: wrong password;"
                        " check imap.login; trying again in 15 min"),
        (logging.DEBUG, "p: test:143 refused the login: wrong password; check imap.login; trying again in 30 min"),
        (logging.ERROR, "p: changes on the server are not seen: test:143 refused the login: account locked;"
                        " check imap.login; trying again in 1 h"),
    ]  # fmt: skip


def test_each_connection_is_made_anew_by_connect(hasty):
    def talk(peer: Peer) -> None:
        opened(peer)

    asked = []
    with Listener(talk) as server:
        inner = connector(server, "IDLE")

        def connect() -> Session:
            asked.append(threading.current_thread().name)
            return inner()

        with Watching(connect) as watching:
            wait_for(lambda: len(asked) > 2, what="connections", detail=watching.story)
    assert set(asked) == {"connect p"}


# --- sleep -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["slept", "stood"])
def test_after_a_sleep_the_link_is_not_believed(how, hasty):
    clocks = Clocks()
    with (
        Listener(announcing()) as server,
        Watching(connector(server, "IDLE"), clock=clocks.monotonic, wall=clocks.wall) as watching,
    ):
        watching.wait(LOOK)
        wait_for(lambda: server.heard[-1:] and server.heard[-1].endswith(b"IDLE"), what="IDLE")

        def sleep_again() -> bool:
            """A jump counts while the watcher waits, and it may not have come to that yet."""
            setattr(clocks, how, getattr(clocks, how) + 100.0)
            return watching.triggers[:2] == [LOOK, LOOK]

        wait_for(sleep_again, what="another look", detail=watching.story)
        told = set(watching.lines(logging.INFO))
        assert told == {"p: the clocks say that this machine was asleep; connecting anew"}


def test_a_clock_that_is_set_a_little_or_back_is_no_sleep(hasty):
    done = threading.Event()

    def talk(peer: Peer) -> None:
        opened(peer)
        idling(peer)
        clocks.slept = 5.0
        to_the_end(peer)

    clocks = Clocks()
    looks = []

    def wall() -> float:
        looks.append(clocks.slept)
        if looks.count(5.0) > 10:
            clocks.slept = -1000.0
        if looks.count(-1000.0) > 10:
            done.set()
        return clocks.wall()

    with (
        Listener(talk) as server,
        Watching(connector(server, "IDLE"), clock=clocks.monotonic, wall=wall) as watching,
    ):
        assert done.wait(20)
        watching.wait(LOOK)
        assert len(server.peers) == 1


def test_a_sleep_ends_the_wait_for_a_link_but_not_that_for_a_login(hasty, monkeypatch):
    monkeypatch.setattr(watch_link, "LINK_GAPS", (LONG, LONG))
    clocks = Clocks()
    attempts = []
    errors = [ConnectionLost("no network"), LoginRefused("wrong password")]
    seen: list[int] = []

    def connect() -> Session:
        attempts.append(1)
        raise errors[len(attempts) - 1]

    def waits() -> None:
        """The wait has begun: what is slept before that is no part of it."""
        so_far = len(seen)
        wait_for(lambda: len(seen) > so_far + 10, what="looks at the clock")

    with Watching(connect, clock=clocks.monotonic, wall=lambda: seen.append(1) or clocks.wall()) as watching:
        wait_for(lambda: watching.lines(logging.WARNING), what="the first failure")
        waits()
        clocks.slept = 100.0
        wait_for(lambda: watching.lines(logging.ERROR), what="the second failure", detail=watching.story)
        waits()
        clocks.slept = 200.0
        waits()
        assert len(attempts) == 2


# --- stopping --------------------------------------------------------------------------------------------------

AT_ONCE = 0.2


def test_stop_before_run():
    watching = Watching(lambda: pytest.fail("it was stopped"))
    watching.watcher.stop()
    with watching:
        watching.thread.join(20)
        assert not watching.thread.is_alive()


def test_stop_while_connecting_and_what_comes_of_it_is_closed():
    asked, answer = threading.Event(), threading.Event()
    made: list[Session] = []
    with Listener(to_the_end_after_greeting) as server:

        def connect() -> Session:
            made.append(connector(server, "IDLE")())
            asked.set()
            assert answer.wait(20)
            return made[0]

        with Watching(connect) as watching:
            assert asked.wait(20)
            assert watching.end() < AT_ONCE
            assert made[0].client.sock.fileno() >= 0
            answer.set()
            wait_for(lambda: made[0].client.sock.fileno() < 0, what="the end of the abandoned connection")


def to_the_end_after_greeting(peer: Peer) -> None:
    peer.say(b"* OK ready")
    to_the_end(peer)


def test_stop_while_an_answer_is_awaited():
    with Listener(to_the_end_after_greeting) as server, Watching(connector(server, "IDLE")) as watching:
        wait_for(lambda: server.heard, what="EXAMINE")
        assert watching.end() < AT_ONCE


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("rest", [b"", b"+ idling\r\n", b"+ idling\r\n* 4 EXI"])
def test_stop_in_idle(rest, tls):
    reached = threading.Event()

    def talk(peer: Peer) -> None:
        if tls:
            peer.secure()
        opened(peer)
        expect(peer, b"IDLE")
        peer.sock.sendall(rest)
        reached.set()
        to_the_end(peer)

    with Listener(talk) as server, Watching(connector(server, "IDLE", tls=tls)) as watching:
        assert reached.wait(20)
        assert watching.end() < AT_ONCE
        assert watching.triggers == [LOOK]
        assert watching.lines(logging.WARNING) == watching.lines(logging.INFO) == []


def test_who_stops_it_lets_it_take_its_leave():
    with Listener(announcing(b"* 4 EXISTS")) as server, Watching(connector(server, "IDLE")) as watching:
        watching.wait(LOOK, NEWS)
        assert watching.end() < AT_ONCE
        assert [line.split()[-1] for line in server.heard[-2:]] == [b"DONE", b"LOGOUT"]
        assert watching.lines(logging.WARNING) == watching.lines(logging.INFO) == []


def test_the_answer_to_its_leave_is_not_waited_for_long(monkeypatch):
    monkeypatch.setattr(transport, "_LOGOUT_SECONDS", 0.01)

    def talk(peer: Peer) -> None:
        opened(peer)
        idling(peer, b"* 4 EXISTS")
        while data := peer.sock.recv(4096):
            left.append(data)

    left: list[bytes] = []
    with Listener(talk) as server, Watching(connector(server, "IDLE")) as watching:
        watching.wait(LOOK, NEWS)
        assert watching.end() < AT_ONCE
        wait_for(lambda: b"LOGOUT" in b"".join(left), what="LOGOUT")


def test_stop_while_done_is_not_answered():
    with Listener(announcing()) as server, Watching(connector(server, "IDLE"), idle=0.01) as watching:
        wait_for(lambda: b"DONE" in server.heard, what="DONE")
        assert watching.end() < AT_ONCE
        assert server.heard.count(b"DONE") == 1


def test_stop_between_two_polls():
    with Listener(lambda peer: polled(peer, [b"MESSAGES 3"])) as server, Watching(connector(server)) as watching:
        watching.wait(LOOK)
        assert watching.end() < AT_ONCE
        assert server.heard[-1].endswith(b" LOGOUT")


def test_stop_in_back_off():
    def connect() -> Session:
        raise ConnectionLost("no network")

    with Watching(connect) as watching:
        wait_for(lambda: watching.told, what="the failure")
        assert watching.end() < AT_ONCE


def test_stop_at_any_time_leaves_nothing_open():
    """None of these moments may raise, hang, or leave a descriptor."""

    def talk(peer: Peer) -> None:
        peer.secure()
        opened(peer)
        renewals(peer, 1 << 30)

    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    chance = random.Random(7)
    for _ in range(60):
        with Listener(talk) as server, Watching(connector(server, "IDLE", tls=True), idle=0.0005) as watching:
            moment = chance.uniform(0, 0.03)
            began = time.monotonic()
            wait_for(lambda began=began, moment=moment: time.monotonic() - began > moment, what="a moment")
            assert watching.end() < 1.0
            # An abandoned connection is still made; the server stays for it.
            for thread in threading.enumerate():
                if thread.name == "connect p":
                    thread.join(20)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_run_ends_with_everything_closed():
    with Listener(announcing()) as server:
        before = set(os.listdir("/proc/self/fd"))
        with Watching(connector(server, "IDLE")) as watching:
            watching.wait(LOOK)
        server.peers[0].sock.close()
        left = set(os.listdir("/proc/self/fd")) - before
        assert not [name for name in left if os.path.lexists(f"/proc/self/fd/{name}")]


# --- bugs ------------------------------------------------------------------------------------------------------


def test_a_bug_is_not_swallowed():
    def connect() -> Session:
        raise ZeroDivisionError

    watching = Watching(connect)
    with contextlib.suppress(ZeroDivisionError), watching:
        wait_for(lambda: watching.error, what="the end of the thread")
    assert isinstance(watching.error, ZeroDivisionError)


def test_foreseeable_trouble_is_never_raised(hasty):
    errors = iter([ConnectionLost("x"), LoginRefused("x"), MailboxMissing("x")])
    seen = []

    def connect() -> Session:
        error = next(errors, None) or ConnectionLost("y")
        seen.append(error)
        raise error

    with Watching(connect) as watching:
        wait_for(lambda: watching.watcher.kick() or len(seen) > 5, what="attempts", detail=watching.story)
