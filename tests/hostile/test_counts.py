# SPDX-License-Identifier: MIT
"""A server that lies about what is there: the program believes no absence, and says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import pytest

from tests.support.hostile import Asked, Hostile
from tests.support.victim import Victim

HUGE = b"4294967295"


def more(*lines: bytes) -> Callable[[Asked], Iterable[bytes]]:
    """The honest answer with these lines before its end."""
    return lambda asked: [*asked.untagged, *(line + b"\r\n" for line in lines), asked.tagged]


def instead(pattern: bytes, replacement: bytes) -> Callable[[Asked], Iterable[bytes]]:
    return lambda asked: [re.sub(pattern, replacement, line) for line in asked.honest]


def without(pattern: bytes) -> Callable[[Asked], Iterable[bytes]]:
    return lambda asked: [line for line in asked.honest if not re.search(pattern, line)]


DELTA, ARRIVALS, SELECT = rb"CHANGEDSINCE", rb"UID FETCH 62:\*", rb"^SELECT"

# What is said, where, and the exit codes that will do. 0: it was seen through, with the UID list or at a second look.
LIES = {
    "vanished few": (DELTA, more(b"* VANISHED (EARLIER) 1:3"), (0,)),
    "vanished many": (DELTA, more(b"* VANISHED (EARLIER) 1:59"), (0, 75)),
    "vanished all": (DELTA, more(b"* VANISHED (EARLIER) 1:4294967295"), (0, 75)),
    "vanished now": (DELTA, more(b"* VANISHED 1:3"), (75,)),
    "vanished of none": (DELTA, more(b"* VANISHED (EARLIER) 100:4294967295"), (0,)),
    "vanished backwards": (DELTA, more(b"* VANISHED (EARLIER) 59:1"), (0, 75)),
    "vanished uid 0": (DELTA, more(b"* VANISHED (EARLIER) 0:3"), (0, 75)),
    "vanished uid 2^32": (DELTA, more(b"* VANISHED (EARLIER) 4294967296"), (0, 75)),
    "vanished star": (DELTA, more(b"* VANISHED (EARLIER) 1:*"), (0, 75)),
    "expunge all": (DELTA, more(*[b"* 1 EXPUNGE"] * 61), (75,)),
    "expunge more than there are": (DELTA, more(*[b"* 9999999999 EXPUNGE"] * 200), (75,)),
    "exists 0 once": (SELECT, instead(rb"61 EXISTS", b"0 EXISTS"), (0, 75)),
    "exists less": (SELECT, instead(rb"61 EXISTS", b"5 EXISTS"), (75,)),
    "exists huge": (SELECT, instead(rb"61 EXISTS", HUGE + b" EXISTS"), (75,)),
    "exists beyond 64 bits": (SELECT, instead(rb"61 EXISTS", b"99999999999999999999 EXISTS"), (75,)),
    "exists missing": (SELECT, without(b"EXISTS"), (75,)),
    "exists without a number": (SELECT, instead(rb"61 EXISTS", b"EXISTS"), (75,)),
    "uidvalidity 0": (SELECT, instead(rb"UIDVALIDITY 7", b"UIDVALIDITY 0"), (69,)),
    "uidvalidity missing": (SELECT, without(b"UIDVALIDITY"), (69,)),
    "uidvalidity 2^32": (SELECT, instead(rb"UIDVALIDITY 7", b"UIDVALIDITY 4294967296"), (69,)),
    "uidvalidity words": (SELECT, instead(rb"UIDVALIDITY 7", b"UIDVALIDITY seven"), (69,)),
    "uidnext lower": (SELECT, instead(rb"UIDNEXT 62", b"UIDNEXT 10"), (0, 75)),
    "uidnext 0": (SELECT, instead(rb"UIDNEXT 62", b"UIDNEXT 0"), (0, 75)),
    "uidnext higher": (SELECT, instead(rb"UIDNEXT 62", b"UIDNEXT 4294967296"), (0, 75)),
    "uidnext missing": (SELECT, without(b"UIDNEXT"), (0,)),
    "highestmodseq backwards": (SELECT, instead(rb"HIGHESTMODSEQ \d+", b"HIGHESTMODSEQ 1"), (0,)),
    "highestmodseq 0": (SELECT, instead(rb"HIGHESTMODSEQ \d+", b"HIGHESTMODSEQ 0"), (0,)),
    "highestmodseq 2^63": (SELECT, instead(rb"HIGHESTMODSEQ \d+", b"HIGHESTMODSEQ 9223372036854775808"), (0,)),
    "highestmodseq 2^64": (SELECT, instead(rb"HIGHESTMODSEQ \d+", b"HIGHESTMODSEQ 18446744073709551616"), (0,)),
    "highestmodseq missing": (SELECT, without(b"HIGHESTMODSEQ"), (0,)),
    "modseq 0": (DELTA, more(rb"* 2 FETCH (UID 2 MODSEQ (0) FLAGS (\Seen))"), (0,)),
    "modseq 2^64": (DELTA, more(rb"* 2 FETCH (UID 2 MODSEQ (18446744073709551616) FLAGS (\Seen))"), (0,)),
    "uid 0": (DELTA, more(rb"* 2 FETCH (UID 0 FLAGS (\Deleted))"), (0, 75)),
    "uid 2^32": (DELTA, more(rb"* 2 FETCH (UID 4294967296 FLAGS (\Deleted))"), (0, 75)),
    "a stranger's uid": (DELTA, more(rb"* 9 FETCH (UID 4000000000 FLAGS (\Deleted))"), (0, 75)),
    "a stranger's number": (DELTA, more(rb"* 4294967295 FETCH (FLAGS (\Deleted))"), (0, 75)),
    "a stranger's name": (
        DELTA,
        more(rb'* LIST () "/" "../../etc"', b'* LIST () "/" "/etc"', b"* LIST () NIL a\0b"),
        (0,),
    ),
    "referrals": (DELTA, more(b"* NO [REFERRAL imap://evil.example.org/INBOX] go there"), (0,)),
    "the same uid twice": (
        DELTA,
        more(*[rb"* 2 FETCH (UID 2 FLAGS (\Seen))", rb"* 4 FETCH (UID 2 FLAGS (\Seen))"]),
        (0,),
    ),
    "uids out of order": (
        ARRIVALS,
        lambda asked: [*more(*[rb"* 1 FETCH (UID 5 FLAGS (\Seen))", rb"* 2 FETCH (UID 2 FLAGS (\Seen))"])(asked)],
        (0,),
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_nothing_is_believed(hostile: Hostile, victim: Victim, name: str) -> None:
    pattern, lie, codes = LIES[name]
    rule = hostile.lie(pattern, lie)
    victim.suffers(*codes)
    assert rule.hits
    victim.heals(quiet=False)
