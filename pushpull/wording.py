# SPDX-License-Identifier: MIT
"""Words and numbers for people; foreign text made harmless for a terminal or a log.

Foreign is all that comes from a server, a mailbox, a file name or a configuration.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from itertools import pairwise

# Cc: escape sequences and line ends. Cf: bidi overrides, zero-width and tag characters. Cs: bytes that are not UTF-8
# (surrogateescape). Zl, Zp: line ends too.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"  # Persian and emoji need them, and they move nothing
_ELLIPSIS = "..."

_SIZES = ("kB", "MB", "GB", "TB", "PB")
_DURATIONS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def printable(text: str | bytes, limit: int | None = None) -> str:
    """The text on one line with everything escaped that could forge a line or steer a terminal.

    Bytes are read as UTF-8; what is not UTF-8 shows as `\\xff`. A text longer than `limit` characters is cut.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    shown = text if text.isascii() and text.isprintable() else "".join(map(_escaped, text))
    if limit is not None and len(shown) > limit:
        shown = shown[: limit - len(_ELLIPSIS)] + _ELLIPSIS
    return shown


def _escaped(char: str) -> str:
    if unicodedata.category(char) not in _UNSAFE or char in _JOINERS:
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that surrogateescape carried
        code -= 0xDC00
    named = {9: "\\t", 10: "\\n", 13: "\\r"}.get(code)
    if named:
        return named
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def plural(count: int, one: str, many: str = "") -> str:
    """`1 message`, `12,000 messages`; `many` where an s is not enough."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def human_size(size: float) -> str:
    """Bytes in decimal units: `999 bytes`, `3.4 MB`, `120 MB`."""
    if size < 1000:
        return plural(int(size), "byte")
    for unit in _SIZES:
        size /= 1000
        # What rounds up to 1000 belongs to the next unit.
        if size < 99.95:
            return f"{size:.1f} {unit}"
        if size < 999.5:
            return f"{size:.0f} {unit}"
    return f"{size:,.0f} {_SIZES[-1]}"


def human_rate(size: float, seconds: float) -> str:
    """Bytes over seconds: `3.4 MB/s`; "" when no time has passed."""
    return f"{human_size(size / seconds)}/s" if seconds > 0 else ""


def human_duration(seconds: float) -> str:
    """At most two units: `5 s`, `2 min 5 s`, `1 h 20 min`, `3 d 4 h`."""
    total = max(round(seconds), 0)
    for (unit, size), (small, small_size) in pairwise(_DURATIONS):
        if total >= size:
            whole, rest = divmod(total, size)
            rest //= small_size
            return f"{whole} {unit} {rest} {small}" if rest else f"{whole} {unit}"
    return f"{total} s"


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'NAME'?)` with the known name that looks most like the word, or ""."""
    from difflib import get_close_matches

    by_folded = {name.casefold(): name for name in known}
    found = get_close_matches(word.casefold(), list(by_folded), n=1, cutoff=0.6)
    return f" (did you mean '{printable(by_folded[found[0]])}'?)" if found else ""
