# SPDX-License-Identifier: MIT
"""A server whose answers are no answers: wrong tags, other people's words, lists that are none."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from tests.support.hostile import Asked, Hostile
from tests.support.victim import Victim

Lie = Callable[[Asked], Iterable[bytes]]


def said(*lines: bytes) -> Lie:
    """This and nothing else; TAG stands for the command's tag."""
    return lambda asked: [line.replace(b"TAG", asked.tag) + b"\r\n" for line in lines]


def after(*lines: bytes) -> Lie:
    """This before the honest answer."""
    return lambda asked: [*said(*lines)(asked), *asked.honest]


def short(asked: Asked) -> Iterable[bytes]:
    """Half of the honest answer, and then the end of the link."""
    answer = b"".join(asked.honest)
    yield answer[: len(answer) // 2]
    raise EOFError


def absent(asked: Asked) -> Iterable[bytes]:
    """So that the UID list has to decide: one message is missing in the count."""
    return [line.replace(b"61 EXISTS", b"60 EXISTS") for line in asked.honest]


SELECT, SEARCH, DELTA, LOGIN = rb"^SELECT", rb"UID SEARCH", rb"CHANGEDSINCE", rb"^LOGIN"

LISTS = {
    "empty": said(b'* ESEARCH (TAG "TAG") UID', b"TAG OK done"),
    "missing": said(b"TAG OK done"),
    "of another kind": said(b"* SEARCH", b"TAG OK done"),
    "of another command": said(b'* ESEARCH (TAG "P999") UID ALL 1:3', b"TAG OK done"),
    "of numbers": said(b'* ESEARCH (TAG "TAG") ALL 1:3', b"TAG OK done"),
    "short": said(b'* ESEARCH (TAG "TAG") UID ALL 1:3', b"TAG OK done"),
    "of strangers": said(b'* ESEARCH (TAG "TAG") UID ALL 4000000000:4294967295', b"TAG OK done"),
    "with 0": said(b'* ESEARCH (TAG "TAG") UID ALL 0:60', b"TAG OK done"),
    "not one": said(b'* ESEARCH (TAG "TAG") UID ALL ../etc', b"TAG OK done"),
    "refused": said(b"TAG NO no"),
    "not understood": said(b"TAG BAD what"),
    "deep": said(b"* ESEARCH " + b"(" * 5000 + b")" * 5000, b"TAG OK done"),
    "without end": said(b'* ESEARCH (TAG "TAG") UID ALL "' + b"1," * 9_000_000, b"TAG OK done"),
    "in words": said(b'* ESEARCH (TAG "TAG") UID ALL ' + b"word " * 3_000_000, b"TAG OK done"),
    "of every second": said(
        b'* ESEARCH (TAG "TAG") UID ALL ' + b",".join(b"%d" % uid for uid in range(1, 1_200_000, 2)), b"TAG OK done"
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_proves_nothing(hostile: Hostile, victim: Victim, name: str) -> None:
    """One message too few is counted, and the list that is to tell which is no list: nothing is gone."""
    hostile.lie(SELECT, absent)
    rule = hostile.lie(SEARCH, LISTS[name])
    victim.suffers(75)
    assert rule.hits
    victim.heals()


ANSWERS = {
    "another tag": (SELECT, said(b"P999 OK done"), (75,), "nothing that was asked"),
    "no tag": (SELECT, said(b"OK done"), (75,), "nothing that was asked"),
    "the next one's tag": (SELECT, said(b"P5 OK done"), (75,), "nothing that was asked"),
    "no status": (SELECT, said(b"TAG MAYBE"), (75,), "nothing that was asked"),
    "nothing but ok": (SELECT, said(b"TAG OK done"), (75,), "without EXISTS"),
    "bye": (SELECT, said(b"* BYE go away"), (75,), "go away"),
    "bye to the login": (LOGIN, said(b"* BYE go away"), (75,), "go away"),
    "bye in the middle": (DELTA, after(b"* BYE go away"), (0, 75), "go away"),
    "ok, no and bad in the middle": (SELECT, after(b"* OK", b"* NO no", b"* BAD bad", b"* OK [X] x"), (0,), ""),
    "the end in the middle": (SELECT, short, (75,), "closed the connection"),
    "requests": (SELECT, after(b"+ more", b"+", b"+ "), (0,), ""),
    "a request to the login": (LOGIN, after(b"+ more"), (0,), ""),
    "eight bits": (SELECT, after(b"* OK \xff\xfe\x80", b"* \xff\xfe"), (75,), "malformed"),
    "nul": (DELTA, after(b"* OK a\0b", b"* 1 FETCH (UID 1\0 FLAGS (\0))"), (0, 75), "malformed"),
    "parentheses": (DELTA, after(b"* 1 FETCH " + b"(" * 200_000), (0, 75), "malformed"),
    "a literal for a flag": (DELTA, after(rb"* 2 FETCH (UID 2 FLAGS ({5}", rb"\Seen))"), (0,), ""),
    "refused for good": (SELECT, said(b"TAG NO [NONEXISTENT] none"), (78,), "none"),
    "not understood": (SELECT, said(b"TAG BAD what"), (69,), "what"),
    "a referral": (SELECT, said(b"TAG NO [REFERRAL imap://evil.example.org/] there"), (78,), "REFERRAL"),
    "referral of the login": (LOGIN, said(b"TAG NO [REFERRAL imap://evil.example.org/] there"), (77,), "REFERRAL"),
    "empty lines": (SELECT, after(*[b""] * 1000), (75,), "empty lines"),
    "a list for a status": (SELECT, after(b"* STATUS ((((", b"* SEARCH x y", b"* LIST", b"* ID"), (0,), ""),
    "many keywords": (DELTA, after(b"* 2 FETCH (UID 2 FLAGS (\\Seen " + b"k " * 300_000 + b"))"), (0,), ""),
    "section without end": (DELTA, after(b"* 1 FETCH (" + b"BODY[ " * 150_000 + b")"), (0, 75), "malformed"),
    "capability": (LOGIN, said(b"* CAPABILITY " + b"A " * 500_000, b"TAG OK done"), (0, 69, 75), ""),
    "enabled": (rb"^ENABLE", after(*[b"* ENABLED " + b"%d" % n + b"X " * 100 for n in range(1000)]), (0,), ""),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_is_no_answer(hostile: Hostile, victim: Victim, name: str) -> None:
    pattern, lie, codes, words = ANSWERS[name]
    rule = hostile.lie(pattern, lie)
    victim.suffers(*codes, words=words)
    assert rule.hits
    victim.heals(quiet=False)


@pytest.mark.parametrize(
    "greeting", [b"", b"SSH-2.0-x\r\n", b"* BYE no\r\n", b"+ \r\n", b"* 1 EXISTS\r\n", b"\0" * 100 + b"\r\n"]
)
def test_a_greeting_that_is_none(hostile: Hostile, victim: Victim, greeting: bytes) -> None:
    def greet() -> Iterable[bytes]:
        yield greeting
        raise EOFError

    hostile.greeting = Once(greet)
    victim.suffers(75)
    assert not hostile.heard
    victim.heals()


class Once:
    """An iterable that begins anew each time."""

    def __init__(self, make: Callable[[], Iterable[bytes]]) -> None:
        self._make = make

    def __iter__(self):
        return iter(self._make())
