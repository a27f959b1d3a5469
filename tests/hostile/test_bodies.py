# SPDX-License-Identifier: MIT
"""A server that lies about messages: what is delivered is what was asked for, whole, once, or it is not delivered."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable

import pytest

from tests.support.hostile import Asked, Hostile
from tests.support.messages import lf, mail
from tests.support.victim import Victim, equal_sides

Lie = Callable[[Asked], Iterable[bytes]]

BODY = rb"UID FETCH .*BODY\.PEEK\[\]"
NEW = mail("new", body="This one is new.")
BIG = mail("big", body="A line of a message that does not come in one piece.\n" * 8000)


def change(pattern: bytes, replacement: bytes, count: int = 0) -> Lie:
    return lambda asked: [re.sub(pattern, lambda _: replacement, line, count=count) for line in asked.honest]


def announce(asked: Asked, more: int) -> list[bytes]:
    """Another length than the body has."""
    return [
        re.sub(rb"BODY\[\] \{(\d+)\}", lambda match: b"BODY[] {%d}" % (int(match[1]) + more), line)
        for line in asked.honest
    ]


def other_uid(uid: int) -> Lie:
    return lambda asked: [re.sub(rb"UID 6[23]", b"UID %d" % uid, line) for line in asked.honest]


def big_literal(size: int) -> Lie:
    def lie(asked: Asked) -> Iterable[bytes]:
        yield re.sub(rb"BODY\[\] \{\d+\}\r\n.*", b"BODY[] {%d}\r\n" % size, asked.honest[0], flags=re.DOTALL)
        yield from itertools.repeat(b"x" * (1 << 20))

    return lie


# Which lie, and the exit codes that will do; after it the new messages are here, or they are not.
LIES: dict[str, tuple[Lie, tuple[int, ...]]] = {
    "longer than announced": (lambda asked: announce(asked, -7), (75,)),
    "shorter than announced": (lambda asked: announce(asked, 7), (75,)),
    "far shorter than announced": (lambda asked: announce(asked, 100_000), (75,)),
    "of 10 GB": (big_literal(10 * 1024**3), (75,)),
    "of 4 GB": (big_literal(4_294_967_295), (75,)),
    "nil": (change(rb"(?s)BODY\[\] \{\d+\}\r\n.*\)\r\n", b"BODY[] NIL)\r\n"), (75,)),
    "empty": (change(rb"(?s)BODY\[\] \{\d+\}\r\n.*\)\r\n", b'BODY[] "")\r\n'), (75,)),
    "missing": (lambda asked: [asked.tagged], (75,)),
    "refused": (lambda asked: [asked.tag + b" NO no\r\n"], (75,)),
    "of a known uid": (other_uid(5), (75,)),
    "of a uid to come": (other_uid(4_000_000_000), (75,)),
    "of uid 0": (other_uid(0), (75,)),
    "without a uid": (change(rb"UID 6[23] ", b""), (75,)),
    "without a date": (change(rb'INTERNALDATE "[^"]*" ', b""), (75,)),
    "without flags": (change(rb"FLAGS \(\) ", b""), (75,)),
    "without a size": (change(rb"RFC822.SIZE \d+ ", b""), (0,)),
    "with a size beyond 63 bits": (change(rb"RFC822.SIZE \d+", b"RFC822.SIZE 9999999999999999999"), (0,)),
    "with a date without end": (change(rb'"01-Feb[^"]*"', b'"' + b"9" * 500_000 + b'"'), (75,)),
    "with a date that is none": (change(rb"01-Feb-2003", b"99-Xyz-0000"), (0,)),
    "twice": (lambda asked: [*asked.untagged, *asked.honest], (0,)),
    "a hundred times": (lambda asked: [*asked.untagged * 100, *asked.honest], (0,)),
    "among strangers": (
        lambda asked: [
            *(b"* %d FETCH (UID %d FLAGS () BODY[] {5}\r\nalien)\r\n" % (uid, uid) for uid in range(1000, 2000)),
            *asked.honest,
        ],
        (0,),
    ),
    "then bye": (lambda asked: [*asked.untagged, b"* BYE enough\r\n"], (0, 75)),
    "then the end": (lambda asked: [asked.untagged[0], asked.untagged[-1][:50]], (0, 75)),
}


@pytest.mark.parametrize("name", LIES)
def test_a_body(hostile: Hostile, victim: Victim, name: str) -> None:
    hostile.put(NEW)
    hostile.put(BIG)
    victim.mailbox = victim.kept()
    lie, codes = LIES[name]
    rule = hostile.lie(BODY, lie)
    run = victim.run()
    victim.demand_sane(run)
    assert run.code in codes, run
    assert rule.hits
    only_whole_ones(victim)
    victim.demand_nothing_outside()
    hostile.be_honest()
    for _ in range(3):  # what failed is tried again when its time has come, and here at once
        due_now(victim)
        run = victim.run()
        victim.demand_sane(run)
    assert run.code == 0, run
    equal_sides(victim)
    assert victim.kept() == victim.mailbox
    assert {path: body for path, body in victim.files().items() if path in victim.before} == victim.before


def only_whole_ones(victim: Victim) -> None:
    """Beside what was there only messages that are on the server, each once, and nothing in tmp/."""
    bodies = [lf(body) for _, body in victim.kept().values()]
    found = list(victim.files().values())
    for body in found:
        assert body in bodies, body[:200]
        bodies.remove(body)
    assert not list((victim.setup.maildir / "tmp").iterdir())


def due_now(victim: Victim) -> None:
    import sqlite3

    with sqlite3.connect(victim.setup.state) as db:
        db.execute("UPDATE pairing SET next_try = 0 WHERE next_try > 0")
    db.close()


def test_an_upload_that_is_not_acknowledged_as_it_was(hostile: Hostile, victim: Victim) -> None:
    """APPENDUID names a message that is another one: the file is neither lost nor marked, and ends up there once."""
    victim.setup.put_local("upload")
    hostile.lie(rb"^APPEND", lambda asked: [re.sub(rb"UID 7 \d+", b"UID 7 5", line) for line in asked.honest])
    run = victim.run()
    victim.demand_sane(run)
    hostile.be_honest()
    for _ in range(2):
        due_now(victim)
        run = victim.run()
        victim.demand_sane(run)
    uploads = [body for _, body in victim.kept().values() if b"Subject: upload" in body]
    assert len(uploads) == 1
    assert [file.letters for file in victim.setup.named("upload")] == [""]
    assert {path: body for path, body in victim.files().items() if path in victim.before} == victim.before
