# SPDX-License-Identifier: MIT
"""What a message's bytes say of it, and whether two messages are one. Pure, streaming, bounded memory.

A message is opaque bytes. Only line ends differ between the sides (LF in a Maildir, CRLF on the wire), and some servers
rewrite a little more, so everything here first brings line ends to one form: any number of CR before an LF is a line
end. Nothing parses MIME, and nothing raises on a malformed message: mail that nobody can parse is mail all the same.

Every function gives the same result however the bytes are cut into chunks: a CR at the end of a chunk is held back
until the next byte is known. A header of more than `HEADER_LIMIT` bytes is hashed whole, but looked into only so far.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from enum import Enum

from pushpull.model import Fingerprint

HEADER_LIMIT = 1 << 20
ID_LIMIT = 998
"""Octets of a Message-ID that count: as many as a line of a message may have (RFC 5322 section 2.1.1)."""
_BLOCK = 1 << 16

# The look-behind keeps a long run of CR that no LF ends from being scanned once per CR.
_CR_RUN = re.compile(rb"(?<!\r)\r++\n")
_MESSAGE_ID = re.compile(rb"(?i)message-id[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)")
_RECEIVED = re.compile(rb"(?i)received[ \t]*+:")
_FOLD = re.compile(rb"\n[ \t]+")
_COMMENT_TOKEN = re.compile(rb"(?s)\\.|[()]")


def to_lf(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Wire to file: CRLF becomes LF (one CR is removed, not a run of them). Other bytes stay."""
    for data in _uncut(chunks):
        if b"\r" not in data:
            yield data
            continue
        bare = data.replace(b"\r", b"")  # ten times faster than to replace two bytes by one
        yield bare if len(data) - len(bare) == data.count(b"\r\n") else data.replace(b"\r\n", b"\n")


def stored(chunks: Iterable[bytes], fingerprinter: Fingerprinter) -> Iterator[bytes]:
    """Wire to file, as `to_lf`, with `fingerprinter` fed on the way. Nearly all mail on the wire has CRLF alone for its
    line ends: then both take the same bytes, and those are looked through once."""
    for data in _uncut(chunks):
        lines = data.replace(b"\r", b"")
        if lines.replace(b"\n", b"\r\n") == data and fingerprinter.feed_lines(lines, len(data)):
            yield lines
        else:
            fingerprinter.feed(data)
            yield from to_lf((data,))


def to_crlf(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """File to wire: an LF without a CR before it becomes CRLF. Other bytes stay."""
    for data in _uncut(chunks):
        lines = data if b"\r" not in data else data.replace(b"\r\n", b"\n")
        yield lines.replace(b"\n", b"\r\n")


def _uncut(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, with no CRLF cut in two."""
    held = b""
    for chunk in chunks:
        data = held + chunk
        held = b"\r" if data.endswith(b"\r") else b""
        if held:
            data = data[:-1]
        if data:
            yield data
    if held:
        yield held


class _LineEnds:
    """Turns every run of CR that ends in LF into that LF. Other CR stay."""

    __slots__ = ("bare", "held")

    def __init__(self) -> None:
        self.bare = 0  # LF that had no CR before them
        self.held = 0  # CR at the end of what was fed; a count, for the run may be as long as the message

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        newlines = len(chunk) - len(chunk.replace(b"\n", b""))  # twice as fast as count()
        if not self.held and b"\r" not in chunk:
            self.bare += newlines
            yield chunk
            return
        pairs = chunk.count(b"\r\n")
        self.bare += newlines - pairs - (1 if self.held and chunk.startswith(b"\n") else 0)
        plain = chunk.replace(b"\r", b"")
        if not self.held and len(chunk) - len(plain) == pairs:
            yield plain
        else:
            yield from self._feed_slowly(chunk)

    def _feed_slowly(self, chunk: bytes) -> Iterator[bytes]:
        body = chunk.rstrip(b"\r")
        trailing = len(chunk) - len(body)
        if not body:
            self.held += trailing
            return
        core = body.lstrip(b"\r")
        if core.startswith(b"\n"):
            body = core
        else:
            yield from _repeat(b"\r", self.held)
        self.held = trailing
        body = body.replace(b"\r\n", b"\n")
        yield _CR_RUN.sub(b"\n", body) if b"\r\n" in body else body

    def finish(self) -> Iterator[bytes]:
        held, self.held = self.held, 0
        return _repeat(b"\r", held)


def _repeat(byte: bytes, count: int) -> Iterator[bytes]:
    while count > 0:
        yield byte * min(count, _BLOCK)
        count -= _BLOCK


class Fingerprinter:
    """Computes a `Fingerprint` from the chunks of a file (LF) or of a literal (CRLF)."""

    __slots__ = ("_ends", "_head", "_header_digest", "_header_size", "_line_start", "_sha", "_size")

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self._ends = _LineEnds()
        self._size = 0
        self._line_start = True
        self._head = bytearray()
        self._header_size = 0
        self._header_digest: bytes | None = None

    def feed(self, chunk: bytes) -> None:
        self._size += len(chunk)
        for piece in self._ends.feed(chunk):
            self._take(piece)

    def feed_lines(self, lines: bytes, size: int) -> bool:
        """A chunk of `size` bytes whose CR and LF are all CRLF, as `lines` with LF instead. False: it was not taken,
        for the chunk before it ended with a CR that may belong to its first line end."""
        if self._ends.held:
            return False
        self._size += size
        self._take(lines)
        return True

    def _take(self, piece: bytes) -> None:
        if self._header_digest is not None:
            self._sha.update(piece)
            return
        end = _header_end(piece, line_start=self._line_start)
        header = piece if end is None else piece[:end]
        self._header_size += len(header)
        self._head += header[: HEADER_LIMIT - len(self._head)]
        self._sha.update(header)
        if end is None:
            self._line_start = piece.endswith(b"\n") if piece else self._line_start
        else:
            self._header_digest = self._sha.digest()
            self._sha.update(memoryview(piece)[end:])

    def finish(self) -> Fingerprint:
        """The fingerprint of all that was fed. Nothing may be fed afterwards."""
        if self._ends.held:
            for piece in self._ends.finish():
                self._take(piece)
        head = bytes(self._head)
        if self._header_size > HEADER_LIMIT:
            head = head[: head.rfind(b"\n") + 1]  # no field cut in the middle
        lower = head.lower()
        digest = self._sha.digest()
        return Fingerprint(
            message_id=_last_message_id(head, lower),
            size=self._size + self._ends.bare,
            header_digest=digest if self._header_digest is None else self._header_digest,
            digest=digest,
            received=_last_field(head, lower, b"received", _RECEIVED) is not None,
        )


def fingerprint(chunks: Iterable[bytes]) -> Fingerprint:
    """The fingerprint of a whole message."""
    fingerprinter = Fingerprinter()
    for chunk in chunks:
        fingerprinter.feed(chunk)
    return fingerprinter.finish()


def _header_end(text: bytes, *, line_start: bool) -> int | None:
    """Where the empty line starts that ends the header (LF line ends); None when there is none."""
    if line_start and text.startswith(b"\n"):
        return 0
    at = text.find(b"\n\n")
    return None if at < 0 else at + 1


def message_id(header: bytes) -> str:
    """The Message-ID in a header or a part of one (such as BODY[HEADER.FIELDS (MESSAGE-ID)]), "" when there is none.

    Liberal on purpose: the last field wins, brackets may be missing, comments before it are skipped, a folded value is
    unfolded, malformed lines are no concern. Bytes that are not UTF-8 are read as Latin-1, so the result is always text
    that a database takes.
    """
    ends = _LineEnds()
    text = b"".join((*ends.feed(header), *ends.finish()))
    end = _header_end(text, line_start=True)
    head = text if end is None else text[:end]
    return _last_message_id(head, head.lower())


def _last_message_id(header: bytes, lower: bytes) -> str:
    field = _last_field(header, lower, b"message-id", _MESSAGE_ID)
    value = b"" if field is None else field[1]
    # Cut, for it is kept for each message of a mailbox; that two are the same message it never tells alone.
    text = _skip_comments(_FOLD.sub(b"", value)).removeprefix(b"<").partition(b">")[0].strip()[:ID_LIMIT]
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _last_field(header: bytes, lower: bytes, name: bytes, shape: re.Pattern[bytes]) -> re.Match[bytes] | None:
    """The last field of a name (in lower case, as the header is in `lower`). To look for the name costs a tenth of what
    it costs to try the shape at each line."""
    at = len(lower)
    while (at := lower.rfind(name, 0, at)) >= 0:
        if (not at or lower[at - 1 : at] == b"\n") and (field := shape.match(header, at)) is not None:
            return field
    return None


def _skip_comments(value: bytes) -> bytes:
    """Without leading white space and nested comments (RFC 5322 section 3.2.2); an unclosed one is no comment."""
    value = value.strip()
    start, depth = 0, 0
    while value.startswith(b"(", start):
        for token in _COMMENT_TOKEN.finditer(value, start):
            depth += {b"(": 1, b")": -1}.get(token[0], 0)
            if depth == 0:
                break
        else:
            break
        start = token.end()
        while value[start : start + 1].isspace():
            start += 1
    return value[start:]


class Likeness(Enum):
    """How much two messages are one."""

    EXACT = "exact"  # equal but for line ends
    TOLERANT = "tolerant"  # equal but for what servers are known to rewrite
    DIFFERENT = "different"


def same_message(a: Iterable[bytes], b: Iterable[bytes]) -> Likeness:
    """Compare two messages, each with either kind of line end; reads no further than the first difference.

    Known rewrites, each measured on a server: newlines added or removed at the end (Courier), CR that ends no line
    dropped, NUL stored as 0x80 (Dovecot), every 8-bit byte of the header made 'X' (Cyrus). All other bytes count, so
    that one changed digit is another message.
    """
    left, right = _Side(a), _Side(b)
    head_a, head_b = left.take(HEADER_LIMIT), right.take(HEADER_LIMIT)
    if head_a != head_b and not _munged_alike(head_a, head_b):
        return Likeness.DIFFERENT
    while True:
        block_a, block_b = left.take(_BLOCK), right.take(_BLOCK)
        if block_a != block_b:
            return Likeness.DIFFERENT
        if not block_a:
            return Likeness.EXACT if left.digest() == right.digest() else Likeness.TOLERANT


_NUL_TO_80 = bytes((0x80, *range(1, 256)))
_EIGHT_BIT_TO_X = bytes((*range(128), *(b"X" * 128)))


def _munged_alike(a: bytes, b: bytes) -> bool:
    """Equal but for a header in which one of the two has 'X' for each 8-bit byte of the other, and no 8-bit byte."""
    end_a, end_b = _header_end(a, line_start=True), _header_end(b, line_start=True)
    if len(a) != len(b) or end_a != end_b or (end_a is not None and a[end_a:] != b[end_a:]):
        return False
    a, b = a[:end_a], b[:end_a]
    return (a.isascii() and b.translate(_EIGHT_BIT_TO_X) == a) or (b.isascii() and a.translate(_EIGHT_BIT_TO_X) == b)


class _Side:
    """One message in the form in which known rewrites do not show, in blocks of any size; and its exact digest."""

    __slots__ = ("_buffer", "_exact", "_pieces")

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._exact = Fingerprinter()
        self._buffer = bytearray()
        self._pieces = self._forgiving(chunks)

    def _forgiving(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        newlines = 0  # held back: they do not count at the end
        for chunk in chunks:
            self._exact.feed(chunk)
            piece = chunk.translate(_NUL_TO_80, b"\r")
            text = piece.rstrip(b"\n")
            if text:
                yield from _repeat(b"\n", newlines)
                yield text
                newlines = 0
            newlines += len(piece) - len(text)

    def take(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end."""
        while len(self._buffer) < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._buffer += piece
        block = bytes(self._buffer[:size])
        del self._buffer[:size]
        return block

    def digest(self) -> bytes:
        return self._exact.finish().digest
