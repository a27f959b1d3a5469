# SPDX-License-Identifier: MIT
"""The marker table: each row of it, and each moment at which a crash can part marker and state."""

from __future__ import annotations

import itertools

import pytest

from pushpull.model import Marker, Pair, PairKey
from pushpull.trust import Trust, judge

OURS, THEIRS = "0123456789abcdef", "fedcba9876543210"
KEY = PairKey("mail.example.org", "me", "INBOX", "INBOX")
ARCHIVE = PairKey("mail.example.org", "me", "Archive", "Archive")


def known(generation=5, *, marker=None, number=1, key=KEY) -> Pair:
    """A pair that was synchronised before; `marker`: the generation that its marker is known to have."""
    return Pair(id=number, key=key, generation=generation, marker_generation=generation if marker is None else marker)


NEVER_SYNCHRONISED = Pair(id=1, key=KEY)


def verdict(marker, pair, *, others=(), exists=True) -> Trust:
    return judge(marker, pair, KEY, state_id=OURS, others=others, exists=exists)


OTHER_HOST = PairKey("other.example.org", "me", "INBOX", "INBOX")
OTHER_LOGIN = PairKey("mail.example.org", "you", "INBOX", "INBOX")
OTHER_MAILBOX = PairKey("mail.example.org", "me", "INBOX", "Work")
OTHER_FOLDER = PairKey("mail.example.org", "me", "Old", "INBOX")

TABLE = {
    "ours, same generation": (Marker(OURS, 1, 5), known(5), (), Trust.SAME),
    "ours, behind the state: folder restored": (Marker(OURS, 1, 4), known(5), (), Trust.OLDER),
    "ours, far behind the state": (Marker(OURS, 1, 1), known(500), (), Trust.OLDER),
    "ours, ahead of the state: state restored": (Marker(OURS, 1, 6), known(5), (), Trust.NEWER),
    "ours, ahead of a state that never synchronised it": (Marker(OURS, 1, 6), NEVER_SYNCHRONISED, (), Trust.NEWER),
    "none, pairing known": (None, known(), (), Trust.UNMARKED),
    "none, pairing unknown": (None, None, (), Trust.FIRST),
    "none, pairing noted but never synchronised": (None, NEVER_SYNCHRONISED, (), Trust.FIRST),
    "another pairing's, this one known": (
        Marker(OURS, 2, 5),
        known(),
        (known(number=2, key=ARCHIVE),),
        Trust.OTHER_PAIRING,
    ),
    "another pairing's, this one unknown": (
        Marker(OURS, 2, 5),
        None,
        (known(number=2, key=ARCHIVE),),
        Trust.OTHER_PAIRING,
    ),
    "another pairing's, this one never synchronised": (
        Marker(OURS, 2, 5),
        NEVER_SYNCHRONISED,
        (known(number=2, key=ARCHIVE),),
        Trust.OTHER_PAIRING,
    ),
    "of a pairing that this state does not know": (Marker(OURS, 9, 5), known(), (), Trust.OTHER_PAIRING),
    "same folder, another mailbox": (
        Marker(OURS, 2, 5),
        NEVER_SYNCHRONISED,
        (known(number=2, key=OTHER_MAILBOX),),
        Trust.OTHER_PAIRING,
    ),
    "same mailbox, the folder of another pairing": (
        Marker(OURS, 2, 5),
        NEVER_SYNCHRONISED,
        (known(number=2, key=OTHER_FOLDER),),
        Trust.OTHER_PAIRING,
    ),
    "same folder and mailbox, another host": (
        Marker(OURS, 2, 5),
        NEVER_SYNCHRONISED,
        (known(number=2, key=OTHER_HOST),),
        Trust.OTHER_ACCOUNT,
    ),
    "same folder and mailbox, another login": (
        Marker(OURS, 2, 5),
        None,
        (known(number=2, key=OTHER_LOGIN),),
        Trust.OTHER_ACCOUNT,
    ),
    "same folder and mailbox, back to the first of two accounts": (
        Marker(OURS, 2, 5),
        known(3),
        (known(number=2, key=OTHER_LOGIN), known(number=3, key=ARCHIVE)),
        Trust.OTHER_ACCOUNT,
    ),
    "of a state unknown here, pairing known": (Marker(THEIRS, 1, 5), known(), (), Trust.OTHER_STATE),
    "of a state unknown here, pairing unknown": (Marker(THEIRS, 1, 5), None, (), Trust.FIRST),
    "of a state unknown here, pairing never synchronised": (Marker(THEIRS, 1, 5), NEVER_SYNCHRONISED, (), Trust.FIRST),
    "of a state unknown here, with the number of another pairing of ours": (
        Marker(THEIRS, 2, 5),
        known(),
        (known(number=2, key=OTHER_LOGIN),),
        Trust.OTHER_STATE,
    ),
}


@pytest.mark.parametrize(("marker", "pair", "others", "expected"), TABLE.values(), ids=TABLE)
def test_the_marker_table(marker, pair, others, expected):
    assert verdict(marker, pair, others=others) is expected


@pytest.mark.parametrize("pair", [None, NEVER_SYNCHRONISED], ids=["unknown", "never synchronised"])
def test_a_missing_folder_of_a_new_pairing_is_made(pair):
    assert verdict(None, pair, exists=False) is Trust.FIRST


def test_a_missing_folder_of_a_known_pairing_is_missing():
    assert verdict(None, known(), exists=False) is Trust.MISSING


def crash_after(steps: int, generation: int = 5) -> tuple[Marker, Pair]:
    """Marker and state as a crash leaves them, of the three steps that raise a generation: state, marker, state."""
    new = generation + 1
    return (
        Marker(OURS, 1, new if steps >= 2 else generation),
        known(new if steps >= 1 else generation, marker=new if steps >= 3 else generation),
    )


@pytest.mark.parametrize("steps", range(4))
def test_a_crash_while_the_generation_rises_leaves_the_folder_the_same(steps):
    marker, pair = crash_after(steps)
    assert verdict(marker, pair) is Trust.SAME


@pytest.mark.parametrize("steps", range(4))
def test_a_folder_restored_after_such_a_crash_is_older(steps):
    _, pair = crash_after(steps)
    assert verdict(Marker(OURS, 1, 4), pair) is Trust.OLDER


@pytest.mark.parametrize("steps", range(4))
def test_a_state_restored_after_such_a_crash_is_older_than_its_folder(steps):
    marker, _ = crash_after(steps)
    assert verdict(marker, known(4)) is Trust.NEWER


def test_a_crash_of_the_first_cycle_before_its_marker_was_written():
    """Nothing was delivered yet, so nothing can be missing: it was never synchronised."""
    assert verdict(None, known(1, marker=0)) is Trust.FIRST
    assert verdict(None, known(1, marker=0), exists=False) is Trust.FIRST


@pytest.mark.parametrize(
    ("marker_generation", "written", "found"),
    [(m, g, f) for g, f in itertools.product(range(1, 5), range(6)) for m in (g - 1, g)],
)
def test_exactly_the_generations_between_known_marker_and_state_are_the_same(marker_generation, written, found):
    expected = Trust.OLDER if found < marker_generation else Trust.NEWER if found > written else Trust.SAME
    assert verdict(Marker(OURS, 1, found), known(written, marker=marker_generation)) is expected
