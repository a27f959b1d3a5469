# SPDX-License-Identifier: MIT
"""Splits a command of the configuration into words: quotes as a shell has them, and nothing else of a shell.

`'...'` is literal; in `"..."` a backslash takes the next character, whatever it is, literally; so it does outside
quotes. Parts that touch are one word. No variables, no patterns, no operators: nothing is ever run by a shell.
"""

from __future__ import annotations

_BLANKS = " \t\r\n"


def expand_tilde(path: str, home: str) -> str:
    """`~` and a leading `~/` become the home directory; `~user` stays as it is."""
    if path == "~":
        return home
    return home.rstrip("/") + path[1:] if path.startswith("~/") else path


def split(text: str, home: str) -> tuple[str, ...]:
    """The words of `text`; a word that starts with an unquoted `~` or `~/` gets the home directory.

    ValueError, worded for people, for a quote without its end and for a backslash at the end.
    """
    words: list[str] = []
    at = 0
    while (at := _skip_blanks(text, at)) < len(text):
        word, at = _word(text, at, home)
        words.append(word)
    return tuple(words)


def _skip_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANKS:
        at += 1
    return at


def _word(text: str, at: int, home: str) -> tuple[str, int]:
    """One word from `at` on, and where it ends."""
    bare = at
    while bare < len(text) and text[bare] not in _BLANKS + "'\"\\":
        bare += 1
    start = text[at:bare]
    ends_here = bare == len(text) or text[bare] in _BLANKS
    # A quote right after the ~ makes it another word than "~", as in a shell.
    parts = [expand_tilde(start, home) if start != "~" or ends_here else start]
    at = bare
    while at < len(text) and text[at] not in _BLANKS:
        part, at = _part(text, at)
        parts.append(part)
    return "".join(parts), at


def _part(text: str, at: int) -> tuple[str, int]:
    match text[at]:
        case "'":
            end = text.find("'", at + 1)
            if end < 0:
                raise ValueError("a ' without its end")
            return text[at + 1 : end], end + 1
        case '"':
            return _double_quoted(text, at + 1)
        case "\\":
            if at + 1 == len(text):
                raise ValueError("a backslash at the end")
            return text[at + 1], at + 2
        case char:
            return char, at + 1


def _double_quoted(text: str, at: int) -> tuple[str, int]:
    chars: list[str] = []
    while at < len(text) and text[at] != '"':
        if text[at] == "\\":
            at += 1
        chars.append(text[at : at + 1])
        at += 1
    if at >= len(text):
        raise ValueError('a " without its end')
    return "".join(chars), at + 1
