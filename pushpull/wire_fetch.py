# SPDX-License-Identifier: MIT
"""FETCH answers -> attributes, and the shapes that nearly all of them have. Pure; parts are as in `wire`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from pushpull.flags import Flags, from_imap
from pushpull.model import NEVER, ModSeq, RemoteView, Uid
from pushpull.values import struct
from pushpull.wire import MAX_LITERAL, Value, flag_names, malformed, modseq_of, nested, number, printable, uid_of

_FLAGS_ONLY = re.compile(rb"\(UID ([0-9]{1,10}) FLAGS \(([^()\"]*)\)(?: MODSEQ \(([0-9]{1,20})\))?\)")
_UID, _FLAGS, _MODSEQ, _DATE, _SIZE, _BODY = range(1, 7)
_USUAL = re.compile(
    rb" ?(?:UID ([0-9]{1,10})|FLAGS \(([^()\"]*+)\)|MODSEQ \(([0-9]{1,20})\)|INTERNALDATE \"([^\"\\]{0,60}+)\""
    rb"|RFC822\.SIZE ([0-9]{1,20})|(BODY\[(?:HEADER(?:\.FIELDS \([^()\"\]]{0,200}+\))?)?\]) ?\Z)(?![^ )])"
)
MESSAGE = re.compile(
    rb'\* [0-9]{1,10} FETCH \(UID ([0-9]{1,10}) FLAGS \(([^()"\r\n]*+)\) INTERNALDATE "([^"\\\r\n]{0,60}+)"'
    rb" RFC822\.SIZE ([0-9]{1,20}) BODY\[\] \{([0-9]{1,7})\}\r\n"
)
"""A message up to its body, whose octets are the last group, as most servers answer what `MESSAGE_ITEMS` asks for."""
MESSAGE_ITEMS = b"(UID FLAGS INTERNALDATE RFC822.SIZE BODY.PEEK[])"
_BODY_SHOWN = frozenset({"body"})
_MAX_KEYWORDS, _MAX_KEYWORD = 100, 250  # of a message; characters of one
_MAX_DATE = 60


@struct
class Fetch:
    """Attributes of one FETCH answer; None: not shown. `awaits` names the section whose literal is still on the
    wire ("" when none is). A section shown as NIL is None, with its name in `shown`."""

    uid: Uid | None = None
    flags: tuple[Flags, tuple[str, ...]] | None = None
    modseq: ModSeq = NEVER
    internaldate: str | None = None
    size: int | None = None
    body: bytes | None = None  # BODY[]
    header: bytes | None = None  # BODY[HEADER]
    fields: bytes | None = None  # BODY[HEADER.FIELDS (...)]
    shown: frozenset[str] = frozenset()
    awaits: str = ""

    @property
    def view(self) -> RemoteView | None:
        """What it says of flags; None without UID or FLAGS (updates caused by other sessions may lack the UID)."""
        if self.uid is None or self.flags is None:
            return None
        return RemoteView(self.uid, self.flags[0], self.flags[1], self.modseq)


def fetch(parts: Sequence[bytes], rest: bytes, *, pending: bool = False) -> Fetch:
    """Read a FETCH answer; `rest` is what follows `* n FETCH ` in the first part. With `pending` the parts end
    where a literal begins that is still on the wire."""
    fast = _FLAGS_ONLY.fullmatch(rest) if len(parts) == 1 and not pending else None
    if fast is not None:
        modseq = modseq_of(fast[3]) if fast[3] else NEVER
        return Fetch(uid=uid_of(fast[1]), flags=_flags(fast[2]), modseq=modseq)
    usual = _usual(parts, rest, pending=pending)
    if usual is not None:
        return usual
    values = nested([rest, *parts[1:]], cut=pending)
    attributes = values[0] if len(values) == 1 else None
    if not isinstance(attributes, list) or (len(attributes) % 2 and not pending):
        raise malformed("FETCH", rest)
    found = Fetch()
    for name, value in zip(attributes[::2], attributes[1::2], strict=False):
        if not isinstance(name, bytes):
            raise malformed("FETCH", rest)
        _attribute(found, name.upper(), value)
    if len(attributes) % 2:
        last = attributes[-1]
        found.awaits = _section(last.upper()) if isinstance(last, bytes) else ""
    return found


def message(usual: Sequence[bytes], body: bytes) -> Fetch:
    """What `MESSAGE` found."""
    uid, flags, date, size, _ = usual
    found = Fetch(uid=uid_of(uid), flags=_flags(flags), size=_size_of(size), body=body, shown=_BODY_SHOWN)
    found.internaldate = printable(date).strip()
    return found


def _usual(parts: Sequence[bytes], rest: bytes, *, pending: bool) -> Fetch | None:
    """An answer as nearly all servers write it, read several times as fast as word by word; None for any other."""
    if len(parts) > 3 or not rest.startswith(b"("):
        return None
    found = Fetch()
    section = _usual_attributes(found, rest, 1)
    if pending:
        found.awaits = section or ""
        return found if section and len(parts) == 1 else None
    if len(parts) == 1:
        return found if section == "" else None
    if not section or _usual_attributes(found, parts[2], 0) != "":
        return None
    setattr(found, section, parts[1])
    found.shown = frozenset((section,))
    return found


def _usual_attributes(found: Fetch, text: bytes, at: int) -> str | None:
    """Takes what is told from `at` on. Returns "" when the list ends with the text, the section whose literal follows,
    None when it is not so simple."""
    while (match := _USUAL.match(text, at)) is not None:
        at, kind = match.end(), match.lastindex
        if kind == _BODY:
            return _section(match[_BODY]) or None
        value = match[kind or 0]
        if kind == _UID:
            found.uid = uid_of(value)
        elif kind == _FLAGS:
            found.flags = _flags(value)
        elif kind == _MODSEQ:
            found.modseq = modseq_of(value)
        elif kind == _DATE:
            found.internaldate = printable(value).strip()
        else:
            found.size = _size_of(value)
    return "" if text[at:] == b")" else None


def _size_of(data: bytes) -> int | None:
    size = number(data)
    return size if size is not None and size <= MAX_LITERAL else None


def _attribute(found: Fetch, name: bytes, value: Value) -> None:
    if name == b"UID" and isinstance(value, bytes):
        found.uid = uid_of(value)
    elif name == b"FLAGS" and isinstance(value, list):
        found.flags = _flags(b" ".join(flag for flag in value if isinstance(flag, bytes)))
    elif name == b"MODSEQ" and isinstance(value, list) and value and isinstance(value[0], bytes):
        found.modseq = modseq_of(value[0])
    elif name == b"INTERNALDATE" and isinstance(value, bytes):
        found.internaldate = printable(value).strip() if len(value) <= _MAX_DATE else None
    elif name == b"RFC822.SIZE" and isinstance(value, bytes):
        found.size = _size_of(value)
    elif (section := _section(name)) and not isinstance(value, list):
        setattr(found, section, value)
        found.shown |= {section}


def _section(name: bytes) -> str:
    """Which field of Fetch a BODY[...] attribute fills; "" for what nobody asked for."""
    if name == b"BODY[]":
        return "body"
    if name == b"BODY[HEADER]":
        return "header"
    return "fields" if name.startswith(b"BODY[HEADER.FIELDS ") and name.endswith(b"]") else ""


def _flags(data: bytes) -> tuple[Flags, tuple[str, ...]]:
    return _usual_flags(data) if len(data) <= _MAX_KEYWORD else _all_flags(data)


@lru_cache(maxsize=1024)
def _usual_flags(data: bytes) -> tuple[Flags, tuple[str, ...]]:
    return _all_flags(data)


def _all_flags(data: bytes) -> tuple[Flags, tuple[str, ...]]:
    """Of keywords no more than anybody uses: they are kept for each message of a mailbox."""
    flags, keywords = from_imap(flag_names(data))
    return flags, tuple(word for word in keywords if len(word) <= _MAX_KEYWORD)[:_MAX_KEYWORDS]
