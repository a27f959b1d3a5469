# SPDX-License-Identifier: MIT
"""Foreign text made harmless; numbers for people."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushpull.wording import human_duration, human_rate, human_size, nearest, plural, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("plain \\Seen [x]", "plain \\Seen [x]"),
        ("a\nb\r\n\tc", "a\\nb\\r\\n\\tc"),
        ("\x1b[2J\x07\x00\x7f", "\\x1b[2J\\x07\\x00\\x7f"),
        ("\x85\x9b\u2028\u2029", "\\x85\\x9b\\u2028\\u2029"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("a\u200bb\ufeffc\U000e0041", "a\\u200bb\\ufeffc\\U000e0041"),
        ("Entwürfe 下書き \U0001f468\u200d\U0001f469", "Entwürfe 下書き \U0001f468\u200d\U0001f469"),
        ("a\udcffb\ud800", "a\\xffb\\ud800"),
        (b"caf\xc3\xa9 \xff\n", "café \\xff\\n"),
    ],
)
def test_printable(text: str | bytes, shown: str) -> None:
    assert printable(text) == shown


@given(st.one_of(st.text(), st.binary()))
def test_printable_is_one_harmless_line(text: str | bytes) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in shown)
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    shown.encode()


def test_printable_cuts_what_is_long() -> None:
    assert printable("a" * 10, 10) == "a" * 10
    assert printable("a" * 11, 10) == "a" * 7 + "..."
    assert printable("\n" * 11, 10) == "\\n\\n\\n\\..."


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (3_449_999, "3.4 MB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (120_000_000_000, "120 GB"),
        (5 * 10**18, "5,000 PB"),
    ],
)
def test_human_size(size: int, shown: str) -> None:
    assert human_size(size) == shown


def test_human_rate() -> None:
    assert human_rate(10_000_000, 4) == "2.5 MB/s"
    assert human_rate(10, 20) == "0 bytes/s"
    assert human_rate(10, 0) == ""


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (125, "2 min 5 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h"),
        (4800, "1 h 20 min"),
        (86_399, "23 h 59 min"),
        (86_400 * 3 + 3600 * 4 + 59, "3 d 4 h"),
    ],
)
def test_human_duration(seconds: float, shown: str) -> None:
    assert human_duration(seconds) == shown


def test_plural() -> None:
    assert [plural(0, "file"), plural(1, "file"), plural(12_000, "file")] == ["0 files", "1 file", "12,000 files"]
    assert [plural(1, "copy", "copies"), plural(2, "copy", "copies")] == ["1 copy", "2 copies"]


def test_nearest() -> None:
    assert nearest("inbx", ["INBOX", "Lists"]) == " (did you mean 'INBOX'?)"
    assert nearest("zzz", ["INBOX", "Lists"]) == ""
    assert nearest("a\nbc", ["a\nbcd"]) == " (did you mean 'a\\nbcd'?)"
