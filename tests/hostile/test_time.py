# SPDX-License-Identifier: MIT
"""A server without end: lines, literals, answers, greetings, or one octet at a time. Time and memory are bounded."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

import pytest

from tests.hostile.test_answers import Once
from tests.support.hostile import Asked, Hostile, drip, silent
from tests.support.victim import Victim

MEGABYTE = b"x" * (1 << 20)


def endless(piece: bytes, first: bytes = b"") -> Callable[[Asked], Iterator[bytes]]:
    return lambda asked: itertools.chain([first.replace(b"TAG", asked.tag)], itertools.repeat(piece))


SELECT, DELTA, LOGOUT = rb"^SELECT", rb"CHANGEDSINCE", rb"^LOGOUT"

WITHOUT_END = {
    "a line": (SELECT, endless(MEGABYTE, b"* OK "), "a line of more than"),
    "a line without a kind": (SELECT, endless(MEGABYTE), "a line of more than"),
    "a tagged line": (SELECT, endless(MEGABYTE, b"TAG OK "), "a line of more than"),
    "nul": (SELECT, endless(b"\0" * 65536), "a line of more than"),
    "a list": (SELECT, endless(b"1 " * 500_000, b"* SEARCH "), "a line of more than|too slowly"),
    "empty lines": (SELECT, endless(b"\r\n" * 10_000), "empty lines"),
    "answers": (SELECT, endless(b"* OK still here\r\n" * 1000), "talks"),
    "messages": (SELECT, endless(b"* 99 EXISTS\r\n" * 1000), "talks"),
    "expunges": (DELTA, endless(b"* 1 EXPUNGE\r\n" * 1000), "talks"),
    "the same change": (DELTA, endless(b"* 2 FETCH (UID 2 FLAGS (\\Seen))\r\n" * 1000), "talks|more than"),
    "vanished": (DELTA, endless(b"* VANISHED (EARLIER) 1000:2000\r\n" * 100), "talks|more than"),
    "requests": (SELECT, endless(b"+ more\r\n" * 1000), "talks"),
    "status": (SELECT, endless(b"* STATUS x (MESSAGES 1)\r\n" * 1000), "talks"),
    "codes": (SELECT, endless(b"".join(b"* OK [X%d] x\r\n" % n for n in range(1000))), "talks"),
    "words": (SELECT, endless(b"* NO " + b"word " * 100_000 + b"\r\n"), "talks"),
    "capabilities": (rb"^LOGIN", endless(b"* CAPABILITY " + b"A " * 100_000 + b"\r\n"), "talks"),
    "octets": (SELECT, lambda asked: drip(itertools.repeat(b"*")), "too slowly"),
    "octets of a literal": (DELTA, lambda asked: drip([b"* 1 FETCH (UID 1 BODY[] {500}\r\n", *[b"x"] * 500]), "slowly"),
    "nothing": (SELECT, lambda asked: silent(), "no answer within"),
    "a literal for a list": (SELECT, endless(MEGABYTE, b'* LIST () "/" {9999999999}\r\n'), "malformed literal"),
    "a literal for a header": (DELTA, endless(MEGABYTE, b"* 1 FETCH (BODY[HEADER] {4294967295}\r\n"), "nobody asked"),
    "a literal of 10 GB": (DELTA, endless(MEGABYTE, b"* 1 FETCH (BODY[] {10737418240}\r\n"), "malformed literal"),
}


@pytest.mark.parametrize("name", WITHOUT_END)
def test_what_has_no_end_is_left(hostile: Hostile, victim: Victim, name: str) -> None:
    pattern, lie, words = WITHOUT_END[name]
    rule = hostile.lie(pattern, lie)
    run = victim.suffers(0, 75, words=words)
    assert rule.hits
    assert run.code == 75 or pattern == DELTA  # what only a delta lacks, the full compare brings
    victim.heals(quiet=False)


GREETINGS: dict[str, Callable[[], Iterable[bytes]]] = {
    "a line without end": lambda: itertools.repeat(MEGABYTE),
    "empty lines": lambda: itertools.repeat(b"\r\n" * 10_000),
    "octets": lambda: drip(itertools.repeat(b"*")),
    "nothing": silent,
}


@pytest.mark.parametrize("name", GREETINGS)
def test_a_greeting_without_end(hostile: Hostile, victim: Victim, name: str) -> None:
    hostile.greeting = Once(GREETINGS[name])
    victim.suffers(75)
    assert not hostile.heard
    victim.heals()


def test_a_farewell_without_end(hostile: Hostile, victim: Victim) -> None:
    hostile.lie(LOGOUT, endless(b"* OK one moment\r\n" * 1000))
    victim.suffers(0)
    assert victim.seconds < 30
