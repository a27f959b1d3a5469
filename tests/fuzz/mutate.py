# SPDX-License-Identifier: MIT
"""Inputs for the fuzzer: recorded answers of real servers, damaged as bytes and as IMAP."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

_WORDS = rb"""* |+ |P1 |P2 |OK |NO |BAD |BYE |PREAUTH |FETCH |EXISTS|EXPUNGE|VANISHED |(EARLIER) |SEARCH |ESEARCH
STATUS |(TAG "P1") |UID |ALL |FLAGS |(\Seen)|\Deleted|MODSEQ |(7)|INTERNALDATE |RFC822.SIZE |BODY[]|BODY[HEADER]|BODY[
BODY[HEADER.FIELDS (MESSAGE-ID)]|BINARY[1.2]<0>|"|""|\"|\\|NIL|(|)|()|((|))|{0}|{1}|{5}|{300000}|{9999999999}|{-1}
~{3+}|[|]|[UIDVALIDITY |[UIDNEXT |[HIGHESTMODSEQ |[NOMODSEQ]|[PERMANENTFLAGS (\*)]|[READ-ONLY]|[CLOSED]|[APPENDUID 1 2]
[CAPABILITY |[ALERT]|[UNAVAILABLE]|[TRYCREATE]|CAPABILITY |ENABLED |LIST |1:*|1:3|3:1|,|1,|:|-|0|-1|4294967295
4294967296|9223372036854775807|9223372036854775808|18446744073709551616|99999999999999999999999|INBOX|../|/
01-Feb-2003 01:02:03 +0000|Message-ID: <x@y>|IMAP4rev1|(MODSEQ 5)|(MESSAGES 1 UIDNEXT 2 UIDVALIDITY 3)|X-GM-MSGID """
TOKENS = (
    *_WORDS.replace(b"\n", b"|").split(b"|"),
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\x1b[2J",
    b"\xff",
    b"\xc3\xa9",
    b"|",
    b" ",
    b"\t",
)
_NUMBER = re.compile(rb"[0-9]+")
_WORD = re.compile(rb"[^\s()\"]+|[()\"]|\s+")

Change = Callable[[bytes, Random, Sequence[bytes]], bytes]


def _span(data: bytes, rng: Random) -> tuple[int, int]:
    lo = rng.randrange(len(data) + 1)
    return lo, min(len(data), lo + rng.choice((1, 1, 2, 4, 8, 32, 200)))


def _flip(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]


def _octet(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + bytes((rng.randrange(256),)) + data[at + 1 :]


def _cut(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    lo, hi = _span(data, rng)
    return data[:lo] + data[hi:]


def _double(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    lo, hi = _span(data, rng)
    return data[:hi] + data[lo:hi] * rng.choice((1, 1, 2, 20)) + data[hi:]


def _token(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    lo, hi = _span(data, rng)
    return data[:lo] + rng.choice(TOKENS) + data[rng.choice((lo, hi)) :]


def _word(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    """One word becomes another: what a grammar would do."""
    words = _WORD.findall(data)
    if not words:
        return data
    words[rng.randrange(len(words))] = rng.choice((rng.choice(TOKENS), rng.choice(words)))
    return b"".join(words)


def _number(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    """A count or a length lies."""
    found = list(_NUMBER.finditer(data))
    if not found:
        return data
    match = rng.choice(found)
    value = int(match[0][:30])
    other = rng.choice((value + 1, max(0, value - 1), value * 2, 0, 2**32, 2**63, 2**64, rng.randrange(300), 10**25))
    return data[: match.start()] + b"%d" % other + data[match.end() :]


def _truncate(data: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _splice(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _lines(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Lines in another order, twice, or of another conversation."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    at, other = rng.randrange(len(lines)), rng.choice(others).splitlines(keepends=True) or [b""]
    lines.insert(at, rng.choice((rng.choice(lines), rng.choice(other))))
    if rng.random() < 0.5:
        del lines[rng.randrange(len(lines))]
    return b"".join(lines)


_CHANGES: tuple[Change, ...] = (_flip, _octet, _cut, _double, _token, _word, _number, _truncate, _splice, _lines)
_USUAL = (_token, _word, _word, _number, _cut, _double, _splice, _lines)


def mutated(data: bytes, rng: Random, others: Sequence[bytes], limit: int) -> bytes:
    """`data` after one to four changes; at most `limit` octets."""
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        data = rng.choice(rng.choice((_CHANGES, _USUAL)))(data, rng, others)[:limit]
    return data
