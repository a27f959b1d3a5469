# SPDX-License-Identifier: MIT
"""Bytes of IMAP responses -> values, and back for what commands need. Pure.

A response arrives as *parts*: text, literal, text, literal, ... (odd places are literals, their `{n}` is cut off the
text before them). What a server gets wrong raises ConnectionLost('malformed ...'): a stream that cannot be
understood is not to be acted on. Grammar: RFC 9051 section 9, RFC 3501 section 9, RFC 7162 section 7, RFC 4731.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from pushpull.errors import ConnectionLost
from pushpull.model import NEVER, ModSeq, Uid, UidSet

MAX_UID = 2**32 - 1
MAX_MODSEQ = 2**63 - 1
MAX_LITERAL = 2**32 - 1
"""Octets of a literal, and of a message (RFC 3501 section 9, number)."""
MAX_RANGES = 500_000
"""Of a UID set in an answer: what a mailbox of a million messages needs when every second one is gone."""
UID_SET_LIMIT = 8000
"""Octets of a UID set in one command: RFC 7162 section 4 asks for lines of at most 8,192."""

Value: TypeAlias = "bytes | list[Value] | None"

_STATUS_KINDS = frozenset({"OK", "NO", "BAD", "BYE", "PREAUTH"})
_RESPONSE = re.compile(rb"\* (?:([0-9]{1,20}) )?([A-Za-z][A-Za-z0-9.+-]*) ?", re.ASCII)
_LITERAL = re.compile(rb"~?\{([0-9]+)\+?\}\Z")
_CODE = re.compile(rb"\s*\[([^\]\s]{1,200})(?: ([^\]]*))?\] ?(.*)", re.DOTALL)
_TOOK = re.compile(rb" \([0-9]+\.[0-9]{3}(?: \+ [0-9]+\.[0-9]{3})* secs\)(?=\.?\s*$)")
# A section's header names may stand in parentheses and quotes: one token whatever is between the brackets, which are
# never far apart. Nothing here is ever tried twice, so a line costs what its length is, in time and in memory.
_TOKEN = re.compile(
    rb" *+(?:(\()|(\))|\"([^\"\\]*+(?:\\.[^\"\\]*+)*+)\""
    rb"|((?:BODY|BINARY)(?:\.PEEK)?\[[^\]]{0,200}+\](?:<[0-9]+>)?|[^\s()\"]++))",
    re.IGNORECASE | re.DOTALL,
)
_UNQUOTE = re.compile(rb"\\(.)", re.DOTALL)
_RANGE = re.compile(rb"([0-9]{1,10})(?::([0-9]{1,10}))?(?:,(?=[0-9])|\Z)")
_MAX_DEPTH = 32
_MAX_TOKENS = 100_000  # of one answer
_SHOWN = 500  # characters of a server's words


def malformed(what: str, data: bytes = b"") -> ConnectionLost:
    """The error for an answer out of protocol; shows the beginning of `data`, escaped."""
    shown = f": {printable(data[:80])}" if data else ""
    return ConnectionLost(f"malformed {what} from the server{shown}")


def printable(data: bytes) -> str:
    """Server text for people: UTF-8 where it is that, everything unprintable as an escape."""
    text = data.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def number(data: bytes) -> int | None:
    """Decimal digits only, at most 20 of them; None for anything else (int() takes signs, blanks, underscores)."""
    return int(data) if len(data) <= 20 and data.isdigit() else None


def uid_of(data: bytes) -> Uid:
    """A UID: 1 to 2**32-1."""
    value = number(data)
    if value is None or not 0 < value <= MAX_UID:
        raise malformed("UID", data)
    return Uid(value)


def modseq_of(data: bytes) -> ModSeq:
    """A mod-sequence; NEVER, which is no knowledge, when it is none or beyond 63 bits (RFC 7162 section 1)."""
    value = number(data)
    return NEVER if value is None or value > MAX_MODSEQ else ModSeq(value)


def kind_of(line: bytes) -> tuple[str, int | None, int]:
    """Of an untagged response's first text: its kind (upper case), its number, and where its contents begin."""
    match = _RESPONSE.match(line)
    if match is None:
        raise malformed("response", line)
    count = None if match[1] is None else number(match[1])
    return match[2].decode("ascii").upper(), count, match.end()


def literal_size(line: bytes) -> tuple[int, int] | None:
    """(octets, where the text ends) when the text of a response announces a literal, else None. The human text of
    OK, NO, BAD, BYE, PREAUTH may end like that and announces nothing."""
    if not line.endswith(b"}"):
        return None
    match = _LITERAL.search(line)
    if match is None:
        return None
    size = number(match[1])
    if size is None or size > MAX_LITERAL:
        raise malformed("literal", match[0])
    return size, match.start()


def is_status(kind: str) -> bool:
    """OK, NO, BAD, BYE or PREAUTH: what follows is a response code and text for people."""
    return kind in _STATUS_KINDS


def code(text: bytes) -> tuple[str, bytes, str]:
    """Split the text of a status response into code (upper case, "" without), its arguments and the words.

    Dovecot says last how long it took. That is left out: a refusal that stays the same must look the same each time.
    """
    text = _TOOK.sub(b"", text)
    match = _CODE.match(text)
    if match is None:
        return "", b"", words(text)
    return printable(match[1]).upper(), match[2] or b"", words(match[3])


def capabilities(data: bytes) -> frozenset[str]:
    """The words of a CAPABILITY answer, in upper case."""
    return frozenset(printable(word).upper() for word in data.split())


def words(data: bytes) -> str:
    """`printable`, of no more than a person reads."""
    shown = printable(data[: 2 * _SHOWN].strip())
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."


def quoted(text: bytes) -> bytes:
    """A quoted string; ValueError for what only a literal can hold."""
    if any(octet in text for octet in b"\0\r\n") or not text.isascii():
        raise ValueError("not fit for a quoted string")
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def unquoted(text: bytes) -> bytes:
    """What stands in a quoted string."""
    return _UNQUOTE.sub(rb"\1", text[1:-1])


# --- UID sets ------------------------------------------------------------------------------------------------


def uid_set(data: bytes) -> UidSet:
    """Read a UID set such as 1:3,7 (RFC 9051 sequence-set, without '*', which no answer may hold)."""
    return UidSet(_merged(_set_ranges(data.strip())))


def _set_ranges(data: bytes) -> Iterator[tuple[int, int]]:
    at = count = 0
    for match in _RANGE.finditer(data):
        if match.start() != at:
            break
        at = match.end()
        count += 1
        if count > MAX_RANGES:
            break
        first = uid_of(match[1])
        last = first if match[2] is None else uid_of(match[2])
        yield (first, last) if first <= last else (last, first)
    if not data or at != len(data) or count > MAX_RANGES:
        raise malformed("UID set", data[-80:] if at > 80 else data)


def _merged(ranges: Iterator[tuple[int, int]]) -> list[tuple[int, int]]:
    """Neighbours joined while they are read, so a million of them cost one range."""
    merged: list[tuple[int, int]] = []
    lo = hi = -1
    for first, last in ranges:
        if lo <= first <= hi + 1:
            hi = max(hi, last)
            continue
        if lo > 0:
            merged.append((lo, hi))
        if len(merged) > MAX_RANGES:
            raise malformed("UID list")
        lo, hi = first, last
    if lo > 0:
        merged.append((lo, hi))
    return merged


def uid_sets(uids: UidSet, limit: int = UID_SET_LIMIT) -> list[bytes]:
    """Write a UID set for commands, cut into pieces of at most `limit` octets."""
    pieces: list[bytes] = []
    piece = bytearray()
    for lo, hi in uids.ranges:
        word = b"%d" % lo if lo == hi else b"%d:%d" % (lo, hi)
        if piece and len(piece) + 1 + len(word) > limit:
            pieces.append(bytes(piece))
            piece.clear()
        piece += b"," + word if piece else word
    if piece:
        pieces.append(bytes(piece))
    return pieces


def search(rest: bytes) -> list[tuple[int, int]]:
    """Ranges of UIDs in a SEARCH answer (what follows `* SEARCH`); a trailing (MODSEQ n) is passed over."""
    numbers, _, _ = rest.partition(b"(")
    uids = (uid_of(match[0]) for match in re.finditer(rb"[^ ]+", numbers))
    return _merged((uid, uid) for uid in uids)


def esearch(parts: Sequence[bytes], rest: bytes, tag: bytes) -> UidSet | None:
    """The UIDs of an ESEARCH answer to RETURN (ALL) (RFC 4731 section 3.1): the empty set when the ALL is missing,
    None when the answer is not for `tag` or not about UIDs."""
    values = nested([rest, *parts[1:]])
    correlator = values[0] if values else None
    if not isinstance(correlator, list) or len(correlator) != 2 or not _is(correlator[0], b"TAG"):
        return None
    if correlator[1] != tag or len(values) < 2 or not _is(values[1], b"UID"):
        return None
    for name, value in zip(values[2::2], values[3::2], strict=False):
        if _is(name, b"ALL"):
            return uid_set(value) if isinstance(value, bytes) else None
    return None if len(values) % 2 else UidSet()


def vanished(rest: bytes) -> tuple[bool, UidSet]:
    """(earlier?, UIDs) of a VANISHED answer (RFC 7162 section 3.2.10)."""
    word, _, tail = rest.strip().partition(b" ")
    if word.upper() == b"(EARLIER)":
        return True, uid_set(tail)
    return False, uid_set(rest)


def status(parts: Sequence[bytes], rest: bytes) -> dict[str, int]:
    """Items of a STATUS answer by upper-case name; the mailbox name before them is passed over."""
    return named_status(parts, rest)[1]


def named_status(parts: Sequence[bytes], rest: bytes) -> tuple[bytes, dict[str, int]]:
    """Mailbox of a STATUS answer (RFC 3501 section 7.2.4), as `unquoted` gives it, and the items by upper-case name."""
    values = nested([rest, *parts[1:]])
    pairs = values[-1] if len(values) == 2 else None
    if not isinstance(pairs, list):
        raise malformed("STATUS", rest)
    found: dict[str, int] = {}
    for name, value in zip(pairs[::2], pairs[1::2], strict=False):
        count = number(value) if isinstance(value, bytes) else None
        if isinstance(name, bytes) and count is not None:
            found[printable(name).upper()] = count
    return values[0] if isinstance(values[0], bytes) else b"", found


def flag_names(data: bytes) -> list[str]:
    """Names in the inside of a flag list; what is not ASCII (never legal) is kept readable."""
    return [printable(name) for name in data.split()]


# --- tokens --------------------------------------------------------------------------------------------------


def _is(value: Value, word: bytes) -> bool:
    return isinstance(value, bytes) and value.upper() == word


def nested(parts: Sequence[bytes], *, cut: bool = False) -> list[Value]:
    """Read parts as nested lists of strings; NIL is None. `cut`: the text ends inside of the lists, which are
    closed there."""
    stack: list[list[Value]] = [[]]
    count = 0
    for place, part in enumerate(parts):
        if place % 2:
            stack[-1].append(part)
            continue
        for opens, closes, value in _tokens(part):
            count += 1
            if count > _MAX_TOKENS:
                raise malformed("list", part[:80])
            if opens:
                if len(stack) > _MAX_DEPTH:
                    raise malformed("list", part)
                stack.append([])
            elif closes:
                if len(stack) == 1:
                    raise malformed("list", part)
                done = stack.pop()
                stack[-1].append(done)
            else:
                stack[-1].append(value)
    while cut and len(stack) > 1:
        done = stack.pop()
        stack[-1].append(done)
    if len(stack) != 1:
        raise malformed("list", parts[0])
    return stack[0]


def _tokens(text: bytes) -> Iterator[tuple[bool, bool, bytes | None]]:
    at, end = 0, len(text.rstrip(b" "))
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise malformed("response", text[at:])
        at = match.end()
        if match[3] is not None:
            inside = match[3]
            yield False, False, _UNQUOTE.sub(rb"\1", inside) if b"\\" in inside else inside
        elif match[4] is not None:
            yield False, False, None if match[4].upper() == b"NIL" else match[4]
        else:
            yield match[1] is not None, match[2] is not None, None
