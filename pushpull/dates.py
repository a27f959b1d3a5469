# SPDX-License-Identifier: MIT
"""INTERNALDATE <-> seconds since the epoch. Pure: no clock, no time zone of this machine, no locale.

The months come from a table, since strftime and strptime speak the user's language.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NUMBER = {name.lower(): number for number, name in enumerate(MONTHS, 1)}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The day of Cyrus and others is " 1", that of Dovecot "01"; RFC 9051 section 9 (date-day-fixed) knows both.
_SHAPE = re.compile(
    r"\s*([0-9]{1,2})-([A-Za-z]{3})-([0-9]{4}) +([0-9]{2}):([0-9]{2}):([0-9]{2}) +([+-])([0-9]{2})([0-9]{2})\s*"
)


def to_epoch(internaldate: str) -> int | None:
    """Seconds since the epoch of an INTERNALDATE such as "17-Jul-1996 02:44:25 -0700" (RFC 9051 section 9,
    date-time without its quotes); None when it is not one. Negative before 1970. A leap second counts as the next.
    """
    match = _SHAPE.fullmatch(internaldate)
    month = _NUMBER.get(match[2].lower()) if match else None
    if match is None or month is None:
        return None
    day, year, hour, minute, second, zone_hours, zone_minutes = map(int, match.group(1, 3, 4, 5, 6, 8, 9))
    if hour > 23 or minute > 59 or second > 60 or zone_minutes > 59:
        return None
    try:
        days = _days(year, month, day)
    except ValueError:
        return None
    offset = (zone_hours * 60 + zone_minutes) * (60 if match[7] == "+" else -60)
    return days * 86400 + hour * 3600 + minute * 60 + second - offset


@lru_cache(maxsize=1024)
def _days(year: int, month: int, day: int) -> int:
    return (datetime(year, month, day, tzinfo=UTC) - _EPOCH) // timedelta(days=1)


def from_epoch(seconds: float, offset_minutes: int = 0) -> str:
    """INTERNALDATE text of `seconds` since the epoch (fractions are cut), written in a zone `offset_minutes` east
    of UTC. What lies outside of the years 1 to 9999 becomes the epoch itself: a date must never stop a message.
    """
    if not -1440 < offset_minutes < 1440:
        raise ValueError(f"zone offset of {offset_minutes} minutes")
    try:
        moment = (_EPOCH + timedelta(seconds=seconds // 1)).astimezone(timezone(timedelta(minutes=offset_minutes)))
    except (OverflowError, ValueError):
        moment = _EPOCH
        offset_minutes = 0
    sign, (hours, minutes) = "-" if offset_minutes < 0 else "+", divmod(abs(offset_minutes), 60)
    date = f"{moment.day:02}-{MONTHS[moment.month - 1]}-{moment.year:04}"
    return f"{date} {moment.hour:02}:{moment.minute:02}:{moment.second:02} {sign}{hours:02}{minutes:02}"
