# SPDX-License-Identifier: MIT
"""The marker's text: read back as written, never a mail header, and nothing at all when it is damaged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushpull.marker import MAX_SIZE, format_marker, parse_marker
from pushpull.model import Marker

MARKER = Marker("4f1c-abc", 3, 1207)
TEXT = format_marker(MARKER)


@given(st.from_regex(r"[A-Za-z0-9_.-]{1,40}", fullmatch=True), st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1))
def test_a_marker_is_read_back_as_written(state_id, pair, generation):
    marker = Marker(state_id, pair, generation)
    assert parse_marker(format_marker(marker)) == marker


def test_a_marker_never_looks_like_a_mail_header():
    assert b":" not in TEXT
    assert len(TEXT.splitlines()) == 4
    assert TEXT.startswith(b"#")
    assert TEXT.isascii()


@pytest.mark.parametrize("length", range(len(TEXT)))
def test_a_marker_cut_short_is_none(length):
    assert parse_marker(TEXT[:length]) is None


@pytest.mark.parametrize(
    "text",
    [
        b"generation=1207\npair=3\nstate=4f1c-abc\n",
        TEXT.replace(b"\n", b"\r\n"),
        TEXT + b"later=what a later version adds\n\n# more\n",
        b"\n  state = 4f1c-abc \n pair= 3\ngeneration =1207\n",
        b"#state=other\n" + TEXT,
    ],
)
def test_a_marker_is_read_liberally(text):
    assert parse_marker(text) == MARKER


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"\0" * 64 + b"\n",
        b"From: somebody\n\nhello\n",
        b"state=\npair=3\ngeneration=1\n",
        b"state=a b\npair=3\ngeneration=1\n",
        b"state=a\npair=-3\ngeneration=1\n",
        b"state=a\npair=3\n",
        b"state=a\npair=3\ngeneration=x\n",
        "state=a\npair=٣\ngeneration=1\n".encode(),
        b"state=a\npair=3\ngeneration=" + b"9" * 30 + b"\n",
        TEXT + b"#" * MAX_SIZE + b"\n",
    ],
)
def test_a_damaged_marker_is_none(text):
    assert parse_marker(text) is None


@given(st.binary(max_size=200))
def test_no_file_is_too_damaged(data):
    assert parse_marker(data) is None or b"state" in data


@pytest.mark.parametrize("marker", [Marker("", 1, 1), Marker("a:b", 1, 1), Marker("a\nb", 1, 1), Marker("a", -1, 1)])
def test_what_could_not_be_read_back_is_not_written(marker):
    with pytest.raises(ValueError, match="no marker"):
        format_marker(marker)
