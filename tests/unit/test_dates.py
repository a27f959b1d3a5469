# SPDX-License-Identifier: MIT
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushpull.dates import from_epoch, to_epoch


@pytest.mark.parametrize(
    ("text", "epoch"),
    [
        ("17-Jul-1996 02:44:25 -0700", 837596665),
        ("01-Jan-1970 00:00:00 +0000", 0),
        (" 1-Feb-2003 04:05:06 +0000", 1044072306),  # Cyrus, go-imap
        ("1-Feb-2003 04:05:06 +0000", 1044072306),  # stripped of its space
        ("01-feb-2003 05:05:06 +0100", 1044072306),
        ("31-Dec-1969 23:59:59 +0000", -1),
        ("31-Dec-2016 23:59:60 +0000", 1483228800),
        ("29-Feb-2024 12:00:00 +0545", 1709187300),
        ("01-Jan-0001 00:00:00 +1400", -62135647200),
    ],
)
def test_known_dates(text, epoch):
    assert to_epoch(text) == epoch


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NIL",
        "30-Feb-2003 00:00:00 +0000",
        "01-Xyz-2003 00:00:00 +0000",
        "01-Okt-2003 00:00:00 +0000",
        "01-Jan-2003 24:00:00 +0000",
        "01-Jan-2003 00:60:00 +0000",
        "01-Jan-2003 00:00:61 +0000",
        "01-Jan-2003 00:00:00 +0060",
        "01-Jan-2003 00:00:00",
        "01-Jan-03 00:00:00 +0000",
        "01-Jan-٢٠٠٣ 00:00:00 +0000",
        "Wed, 01 Jan 2003 00:00:00 +0000",
    ],
)
def test_what_is_no_date(text):
    assert to_epoch(text) is None


def test_written_form_has_english_months_and_two_digit_days():
    assert from_epoch(1044072306.9) == "01-Feb-2003 04:05:06 +0000"
    assert from_epoch(1044072306, 330) == "01-Feb-2003 09:35:06 +0530"
    assert from_epoch(1044072306, -90) == "01-Feb-2003 02:35:06 -0130"


@pytest.mark.parametrize("seconds", [1e20, -1e20, float("nan"), float("inf"), -62135596801])
def test_times_without_a_date_become_the_epoch(seconds):
    assert from_epoch(seconds, 60) == "01-Jan-1970 00:00:00 +0000"


def test_an_impossible_zone_is_a_bug():
    with pytest.raises(ValueError, match="1440"):
        from_epoch(0, 1440)


@given(st.integers(-62135000000, 253402000000), st.integers(-1439, 1439))
def test_round_trip(seconds, offset):
    assert to_epoch(from_epoch(seconds, offset)) == seconds


@given(st.text())
def test_any_text_is_a_date_or_none(text):
    assert to_epoch(text) is None or isinstance(to_epoch(text), int)
