# SPDX-License-Identifier: MIT
"""Messages for tests, as bytes with LF line ends; and the few words to speak of flags."""

from __future__ import annotations

# Written out again on purpose: a fault in the product's table must not hide in the test's.
FLAGS = {
    "D": "\\Draft",
    "F": "\\Flagged",
    "P": "$Forwarded",
    "R": "\\Answered",
    "S": "\\Seen",
    "T": "\\Deleted",
}


def mail(name: str, *, body: str = "", headers: str = "", message_id: str | None = "", received: bool = True) -> bytes:
    """A small message. `message_id` "" makes one from the name, None leaves the field out; `headers` are whole
    lines. Without `received` it looks like a draft or a sent copy, which no relay has touched."""
    lines = []
    if received:
        lines += ["Return-Path: <sender@example.org>", f"Received: from relay.example.org; id {name}"]
    lines += ["From: Sender <sender@example.org>", "To: alice@localhost", f"Subject: {name}"]
    if message_id is not None:
        lines += [f"Message-ID: {message_id or f'<{name}@example.org>'}"]
    lines += [*headers.splitlines(), "", body or f"The body of {name}."]
    return ("\n".join(lines) + "\n").encode()


def imap_flags(letters: str) -> str:
    """Maildir letters as a list of IMAP flags, such as "\\Flagged \\Seen"."""
    return " ".join(FLAGS[letter] for letter in letters)


def letters_of(names: frozenset[str]) -> str:
    """IMAP flags as Maildir letters; keywords are left out."""
    return "".join(letter for letter, name in FLAGS.items() if name in names)


def lf(body: bytes) -> bytes:
    """Line ends as a file has them: CRLF becomes LF, nothing else changes."""
    return body.replace(b"\r\n", b"\n")


def crlf(body: bytes) -> bytes:
    """Line ends as the wire has them: a bare LF becomes CRLF, nothing else changes."""
    return body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
