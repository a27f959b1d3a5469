# SPDX-License-Identifier: MIT
"""Is this folder the one that the state describes? Pure: the marker table.

A Maildir folder that was replaced, restored from a backup, copied, or lost must not be read as 'everything was
deleted'. The marker file in the folder names the state file, the pairing and a generation that rises in each cycle that
delivers or uploads; it is written after the state, so a crash in between leaves it one behind, not more.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto

from pushpull.model import Marker, Pair, PairKey


class Trust(Enum):
    """What marker and state say of a folder together."""

    SAME = auto()  # the folder that was left
    OLDER = auto()  # ours, but from an older copy: what is missing was never deleted
    NEWER = auto()  # ours, and newer than the state: the state is the older copy
    UNMARKED = auto()  # known, but the marker is missing: nothing may be missing
    FIRST = auto()  # never synchronised
    OTHER_ACCOUNT = auto()  # same folder and mailbox, another host or login
    OTHER_PAIRING = auto()  # it belongs to another pairing of this state
    OTHER_STATE = auto()  # the pairing is known, the folder is another state file's
    MISSING = auto()  # the pairing is known, the folder is not there


def judge(
    marker: Marker | None, pair: Pair | None, key: PairKey, *, state_id: str, others: Iterable[Pair], exists: bool
) -> Trust:
    """The verdict. `pair` is what the state knows of `key`, `others` are its other pairs."""
    known = pair is not None and pair.marker_generation > 0
    if not exists:
        return Trust.MISSING if known else Trust.FIRST
    if marker is None:
        return Trust.UNMARKED if known else Trust.FIRST
    if marker.state_id != state_id:
        return Trust.OTHER_STATE if known else Trust.FIRST
    if pair is None or marker.pair != pair.id:
        return _stranger(marker, key, others)
    if marker.generation < pair.marker_generation:
        return Trust.OLDER
    if marker.generation > pair.generation:
        return Trust.NEWER
    return Trust.SAME


def _stranger(marker: Marker, key: PairKey, others: Iterable[Pair]) -> Trust:
    named = next((pair for pair in others if pair.id == marker.pair), None)
    if named is not None and (named.key.local, named.key.remote) == (key.local, key.remote):
        return Trust.OTHER_ACCOUNT
    return Trust.OTHER_PAIRING
