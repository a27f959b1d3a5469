# SPDX-License-Identifier: MIT
"""A hostile server and the live mode: it stays, says what is wrong, harms nothing, and goes on when all is well."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.hostile.conftest import MakeVictim
from tests.support.hostile import Asked, Hostile, drip
from tests.support.live import Live, cpu_seconds
from tests.support.messages import lf, mail
from tests.support.victim import MEMORY_MB, Victim
from tests.support.waiting import wait_for

Lie = Callable[[Asked], Iterable[bytes]]


def idling(*lines: bytes, again: bytes = b"") -> Lie:
    """Grants IDLE, says the lines, and `again` for ever; else nothing more."""

    def lie(asked: Asked) -> Iterator[bytes]:
        yield b"+ idling\r\n"
        yield from lines
        if again:
            yield from itertools.repeat(again)

    return lie


# To the watcher that idles; and what the log has to say of it.
LIES: dict[str, tuple[Lie, str]] = {
    "vanished": (idling(b"* VANISHED 1:61\r\n"), ""),
    "expunged": (idling(b"* 1 EXPUNGE\r\n" * 61), ""),
    "huge": (idling(b"* 4294967295 EXISTS\r\n"), ""),
    "deleted": (idling(b"* 2 FETCH (UID 2 FLAGS (\\Deleted))\r\n"), ""),
    "no sense": (idling(b"\x1b[2J\xff\0\r\n"), "nothing that was asked"),
    "a line without end": (idling(again=b"x" * 65536), "a line of more than"),
    "a flood": (idling(again=b"* 61 EXISTS\r\n" * 100), ""),
    "octets": (lambda asked: itertools.chain([b"+ idling\r\n"], drip(itertools.repeat(b"*"))), "too slowly"),
    "bye": (idling(b"* BYE go away\r\n"), "go away"),
    "a literal": (idling(b"* 1 FETCH (BODY[] {4000000000}\r\n", again=b"x" * 65536), "nobody asked for"),
    "an alert": (idling(b"* OK [ALERT] \x1b[2J alicepw\r\n"), "the server says"),
    "refused": (lambda asked: [asked.tag + b" BAD what\r\n"], ""),
}


@pytest.mark.parametrize("name", LIES)
def test_what_a_watcher_hears(hostile: Hostile, make_victim: MakeVictim, name: str) -> None:
    victim = make_victim(idle="yes")
    lie, words = LIES[name]
    rule = hostile.lie(rb"^IDLE", lie)
    with Live(victim.setup) as live:
        wait_for(lambda: rule.hits, what="IDLE", detail=live.story)
        if words:
            live.wait_log(words)
        hostile.be_honest()
        hostile.put(mail("afterwards"))
        hostile.cut()
        seen(live, victim, "afterwards")
        bounded(live, victim)
    harmed_nothing(victim, "afterwards")


WORKER: dict[str, tuple[bytes, Lie]] = {
    "a list without end": (
        rb"^SELECT",
        lambda asked: itertools.chain([b"* SEARCH "], itertools.repeat(b"1 " * 30_000)),
    ),
    "talk without end": (rb"^SELECT", lambda asked: itertools.repeat(b"* OK still here\r\n" * 100)),
    "no messages": (rb"^SELECT", lambda asked: [re.sub(rb"\d+ EXISTS", b"0 EXISTS", line) for line in asked.honest]),
    "other tags": (rb"^SELECT", lambda asked: [b"X1 OK done\r\n"]),
    "another past": (rb"CHANGEDSINCE", lambda asked: [b"* VANISHED (EARLIER) 1:61\r\n", *asked.honest]),
}


@pytest.mark.parametrize("name", WORKER)
def test_what_the_worker_hears(hostile: Hostile, make_victim: MakeVictim, name: str) -> None:
    """The watcher opens with EXAMINE, the worker with SELECT."""
    victim = make_victim(idle="yes")
    pattern, lie = WORKER[name]
    with Live(victim.setup) as live:
        live.wait_log("watched by IDLE")
        rule = hostile.lie(pattern, lie)
        hostile.put(mail("meanwhile"))
        live.signal(10)  # SIGUSR1: now
        wait_for(lambda: rule.hits, what="the question", detail=live.story)
        hostile.be_honest()
        live.signal(10)
        seen(live, victim, "meanwhile")
        bounded(live, victim)
    harmed_nothing(victim, "meanwhile")


def seen(live: Live, victim: Victim, name: str) -> None:
    subject = f"Subject: {name}\n".encode()
    wait_for(
        lambda: any(subject in body for body in victim.files().values()),
        what=f"{name} in the folder",
        seconds=60,
        detail=live.story,
    )


def bounded(live: Live, victim: Victim) -> None:
    status = Path(f"/proc/{live.pid}/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024  # type: ignore[index]
    assert peak < MEMORY_MB, f"{peak} MB"
    assert cpu_seconds(live.pid) < 30
    log = (victim.setup.base / "log").read_text()
    assert "\x1b" not in log
    assert "alicepw" not in log
    assert len(log) < 1_000_000


def harmed_nothing(victim: Victim, *new: str) -> None:
    subjects = [f"Subject: {name}\n".encode() for name in new]
    left = {p: body for p, body in victim.files().items() if not any(subject in body for subject in subjects)}
    assert left == victim.before
    assert {uid: kept for uid, kept in victim.kept().items() if uid in victim.mailbox} == victim.mailbox
    assert len(victim.files()) == len(victim.before) + len(new)
    assert sorted(map(lf, (body for _, body in victim.kept().values()))) == sorted(victim.files().values())
    victim.setup.assert_nothing_destroyed()
    victim.demand_nothing_outside()
