# SPDX-License-Identifier: MIT
"""Maildir letters <-> IMAP flags, and the three-way merge.

A set of the six flags that both sides can hold is an int of bits (`Flags`). Everything else an IMAP message
carries (`keywords`: `$Label1`, `\\Custom`, ...) is kept as text; everything else a file name carries
(foreign letters) stays in the file name.

IMAP: RFC 9051 section 2.3.2. `$Forwarded`: RFC 5788 registry. Letters: https://cr.yp.to/proto/maildir.html.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

Flags: TypeAlias = int

DRAFT: Flags = 1
FLAGGED: Flags = 2
FORWARDED: Flags = 4
ANSWERED: Flags = 8
SEEN: Flags = 16
DELETED: Flags = 32
NONE: Flags = 0
ALL: Flags = 63
SYSTEM: Flags = ALL & ~FORWARDED

# In ASCII order of the letters, the order that Maildir asks for.
_TABLE = (
    (DRAFT, "D", "\\Draft"),
    (FLAGGED, "F", "\\Flagged"),
    (FORWARDED, "P", "$Forwarded"),
    (ANSWERED, "R", "\\Answered"),
    (SEEN, "S", "\\Seen"),
    (DELETED, "T", "\\Deleted"),
)
_BIT_OF_LETTER = {letter: bit for bit, letter, _ in _TABLE}
_BIT_OF_NAME = {name.lower(): bit for bit, _, name in _TABLE}
# Session state or a wish, never a property of the message (RFC 9051 section 2.3.2, RFC 3501 section 7.2.6).
_IGNORED = frozenset({"\\recent", "\\*"})


def from_letters(letters: str) -> tuple[Flags, str]:
    """Split Maildir letters into flags and the foreign letters, which are kept in their order."""
    flags, foreign = NONE, ""
    for letter in letters:
        bit = _BIT_OF_LETTER.get(letter)
        if bit is None:
            foreign += letter
        else:
            flags |= bit
    return flags, foreign


def to_letters(flags: Flags) -> str:
    """Letters of the flags in ASCII order, as Maildir asks for."""
    return "".join(letter for bit, letter, _ in _TABLE if flags & bit)


def from_imap(names: Iterable[str]) -> tuple[Flags, tuple[str, ...]]:
    """Split IMAP flags (any case) into flags and keywords; `\\Recent` is dropped, keywords are sorted."""
    flags, keywords = NONE, set()
    for name in names:
        bit = _BIT_OF_NAME.get(name.lower())
        if bit is not None:
            flags |= bit
        elif name.lower() not in _IGNORED:
            keywords.add(name)
    return flags, tuple(sorted(keywords))


def to_imap(flags: Flags) -> tuple[str, ...]:
    """IMAP names of the flags."""
    return tuple(name for bit, _, name in _TABLE if flags & bit)


def permanent_mask(names: Iterable[str] | None) -> Flags:
    """The flags a client may store, from PERMANENTFLAGS; None (no such code) means all (RFC 9051 7.1)."""
    if names is None:
        return ALL
    listed = tuple(names)
    mask, _ = from_imap(listed)
    return mask | FORWARDED if "\\*" in listed else mask


def merge(base: Flags, local: Flags, remote: Flags) -> Flags:
    """Three-way merge, flag by flag: the side that moved away from the base wins.

    With one base a single bit cannot conflict: if the sides differ, exactly one differs from the base.
    """
    return (local & remote) | ((local | remote) & ~base)


def agree(base: Flags, local: Flags, remote: Flags) -> Flags:
    """The new base after both sides were seen: where they show the same, that; elsewhere the old base."""
    return (base & (local ^ remote)) | (local & remote)


def first_base(local: Flags, remote: Flags) -> Flags:
    """The base of a first meeting, chosen so that `merge` unites the flags but drops a one-sided DELETED.

    An old `T` in a Maildir restored from somewhere must not delete mail on the server, nor the other way round.
    """
    return (local ^ remote) & DELETED


def migrated_base(base: Flags, local: Flags, *, gone: bool) -> Flags:
    """The base after a UIDVALIDITY change, when the server may have lost its flags.

    Flags unite, less what was taken off locally: (remote | local) - (base - local). DELETED keeps the old base,
    so an unsynchronised deletion on either side still counts and a mark the server lost is taken off again.
    A file that is gone marks its twin anew, whatever the lost mark was: known-but-gone mail does not come back.
    """
    deleted = NONE if gone else base & DELETED
    return (base & ~local & ~DELETED) | deleted
