# SPDX-License-Identifier: MIT
"""Names of message files: uniquename, ':', info. Pure; names are bytes, in no encoding that anybody promised.

A name is `UNIQUENAME`, or `UNIQUENAME:2,LETTERS`, in practice also `UNIQUENAME:2,LETTERS,rest` and `UNIQUENAME:1,x`
(experimental). The uniquename is the file's identity and ends at the first ':'; the info is all that follows, the
':' included. Reading is liberal, since other programs write names too: letters out of order, repeated or foreign are
taken as they are. Writing is strict (letters in ASCII order) and only touches what it must: foreign letters and
`,rest` stay, and an info whose flags do not change is not tidied, for a rename with no reason is a change that another
program has to notice.

https://cr.yp.to/proto/maildir.html
"""

from __future__ import annotations

from functools import lru_cache

from pushpull.flags import NONE, Flags, from_letters, to_letters
from pushpull.model import Uniquename

_STANDARD = b":2,"
_BARE = (b"", b":", b":2", b":2,")  # an info that says nothing
_CRC8_POLYNOMIAL = 0x07


def split(name: bytes) -> tuple[Uniquename, bytes]:
    """A file's name as (uniquename, info); the info starts with ':' or is empty."""
    uniquename, colon, rest = name.partition(b":")
    return Uniquename(uniquename), colon + rest


@lru_cache(maxsize=4096)  # a folder of 100,000 files knows a few dozen infos
def flags_of(info: bytes) -> Flags:
    """The flags that an info part shows; NONE when it has no `:2,` section."""
    if not info.startswith(_STANDARD):
        return NONE
    letters, _, _ = info[len(_STANDARD) :].partition(b",")
    flags, _ = from_letters(letters.decode("latin-1"))
    return flags


@lru_cache(maxsize=4096)
def with_flags(info: bytes, add: Flags, remove: Flags) -> bytes:
    """The info after `remove` was taken off and `add` put on; the very same info when its flags do not change.

    An info of a kind that we do not know is kept behind the letters: b":1,x" and SEEN give b":2,S,1,x".
    """
    before = flags_of(info)
    after = (before & ~remove) | add
    if after == before:
        return info
    if info in _BARE:
        return _STANDARD + to_letters(after).encode("ascii")
    if not info.startswith(_STANDARD):
        return _STANDARD + to_letters(after).encode("ascii") + b"," + info[1:]
    letters, comma, rest = info[len(_STANDARD) :].partition(b",")
    _, foreign = from_letters(letters.decode("latin-1"))
    return _STANDARD + "".join(sorted(to_letters(after) + foreign)).encode("latin-1") + comma + rest


def make(seconds: int, microseconds: int, pid: int, counter: int, host: str) -> Uniquename:
    """A new uniquename. `counter` never repeats within the process, so no two names of one clock tick meet.

    '/' and ':' of the host become \\057 and \\072 as Maildir asks for; so does all that is not printable ASCII.
    """
    return Uniquename(f"{seconds}.M{microseconds}P{pid}Q{counter}.{_safe(host)}".encode("ascii"))


@lru_cache(maxsize=4)
def _safe(host: str) -> str:
    safe = "".join(c if c.isascii() and c.isprintable() and c not in "/: " else _octal(c) for c in host)
    return safe or "localhost"


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))


def bucket(message_id: str) -> str:
    """The bucket directory of a message: CRC-8 (polynomial 0x07, start 0) of its Message-ID as two hex digits, "00"
    without one. So a message's bucket can be told from the message."""
    crc = 0
    for byte in message_id.encode("utf-8", "surrogateescape"):
        crc = _CRC8[crc ^ byte]
    return f"{crc:02x}"


def _crc8(byte: int) -> int:
    for _ in range(8):
        byte = (byte << 1) ^ (_CRC8_POLYNOMIAL if byte & 0x80 else 0)
    return byte & 0xFF


_CRC8 = tuple(_crc8(byte) for byte in range(256))
