# SPDX-License-Identifier: MIT
"""Flags: the tables between letters and names, and the truth tables of every merge, bit by bit and exhaustively."""

from __future__ import annotations

import itertools

import pytest

from pushpull import flags
from pushpull.flags import (
    ALL,
    ANSWERED,
    DELETED,
    DRAFT,
    FLAGGED,
    FORWARDED,
    NONE,
    SEEN,
    SYSTEM,
    agree,
    first_base,
    from_imap,
    from_letters,
    merge,
    migrated_base,
    permanent_mask,
    to_imap,
    to_letters,
)

EVERY = range(ALL + 1)
TABLE = [
    (DRAFT, "D", "\\Draft"),
    (FLAGGED, "F", "\\Flagged"),
    (FORWARDED, "P", "$Forwarded"),
    (ANSWERED, "R", "\\Answered"),
    (SEEN, "S", "\\Seen"),
    (DELETED, "T", "\\Deleted"),
]
BITS = list(itertools.product((0, 1), repeat=3))


def test_the_bits_are_distinct_and_make_up_all():
    assert sum(bit for bit, _, _ in TABLE) == ALL == 63
    assert all(bit.bit_count() == 1 for bit, _, _ in TABLE)
    assert SYSTEM | FORWARDED == ALL
    assert not SYSTEM & FORWARDED


@pytest.mark.parametrize(("bit", "letter", "name"), TABLE)
def test_each_flag_has_a_letter_and_a_name(bit, letter, name):
    assert from_letters(letter) == (bit, "")
    assert to_letters(bit) == letter
    assert from_imap([name.upper()]) == from_imap([name.lower()]) == (bit, ())
    assert to_imap(bit) == (name,)


@pytest.mark.parametrize("value", EVERY)
def test_letters_and_names_go_there_and_back(value):
    letters = to_letters(value)
    assert list(letters) == sorted(letters)
    assert from_letters(letters) == from_letters(letters[::-1] * 2) == (value, "")
    assert from_imap(to_imap(value)) == (value, ())


def test_foreign_letters_keep_their_order():
    assert from_letters("zSaFb") == (SEEN | FLAGGED, "zab")
    assert from_letters("s") == (NONE, "s")


def test_keywords_are_kept_as_text_and_session_state_is_dropped():
    assert from_imap(["\\Recent", "$Junk", "\\Seen", "\\*", "$junk", "\\Custom"]) == (
        SEEN,
        ("$Junk", "$junk", "\\Custom"),
    )
    assert from_imap([]) == (NONE, ())


@pytest.mark.parametrize(
    ("names", "mask"),
    [
        (None, ALL),
        ([], NONE),
        (["\\Seen", "\\Deleted"], SEEN | DELETED),
        (["\\Seen", "\\*"], SEEN | FORWARDED),
        (["\\Seen", "$Forwarded", "$Junk"], SEEN | FORWARDED),
        (["\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft"], SYSTEM),
        (["\\*"], FORWARDED),
    ],
)
def test_the_mask_is_what_permanentflags_lists(names, mask):
    assert permanent_mask(names) == mask


# base, local, remote -> merged, next base; one row per state of one flag
MERGES = [
    (0, 0, 0, 0, 0),
    (0, 0, 1, 1, 0),  # set remotely
    (0, 1, 0, 1, 0),  # set locally
    (0, 1, 1, 1, 1),  # set on both sides
    (1, 0, 0, 0, 0),  # taken off on both sides
    (1, 0, 1, 0, 1),  # taken off locally
    (1, 1, 0, 0, 1),  # taken off remotely
    (1, 1, 1, 1, 1),
]


@pytest.mark.parametrize("bit", [bit for bit, _, _ in TABLE])
@pytest.mark.parametrize(("base", "local", "remote", "merged", "agreed"), MERGES)
def test_merge_of_one_flag(bit, base, local, remote, merged, agreed):
    assert merge(base * bit, local * bit, remote * bit) == merged * bit
    assert agree(base * bit, local * bit, remote * bit) == agreed * bit


def test_merges_treat_every_flag_apart_from_the_others():
    table = {(base, local, remote): (merged, agreed) for base, local, remote, merged, agreed in MERGES}
    for base, local, remote in itertools.product(range(0, 64, 3), EVERY, EVERY):
        merged = agreed = 0
        for bit, _, _ in TABLE:
            m, a = table[bool(base & bit), bool(local & bit), bool(remote & bit)]
            merged |= m * bit
            agreed |= a * bit
        assert (merge(base, local, remote), agree(base, local, remote)) == (merged, agreed)


@pytest.mark.parametrize(("base", "local", "remote"), BITS)
def test_a_merge_is_stable_wherever_a_crash_leaves_it(base, local, remote):
    merged = merge(base, local, remote)
    for half_local, half_remote in [(merged, remote), (local, merged), (merged, merged)]:
        assert merge(base, half_local, half_remote) == merged
    settled = agree(base, merged, merged)
    assert merge(settled, merged, merged) == merged == settled


@pytest.mark.parametrize(("base", "local", "remote"), BITS)
def test_a_side_that_could_not_be_written_is_asked_again(base, local, remote):
    """With one side only brought to the merged value, the new base still leads to the same end."""
    merged = merge(base, local, remote)
    for half_local, half_remote in [(merged, remote), (local, merged)]:
        assert merge(agree(base, half_local, half_remote), half_local, half_remote) == merged


@pytest.mark.parametrize("local", EVERY)
def test_a_first_meeting_unites_all_but_a_one_sided_deletion(local):
    for remote in EVERY:
        merged = merge(first_base(local, remote), local, remote)
        assert merged & ~DELETED == (local | remote) & ~DELETED
        assert merged & DELETED == local & remote & DELETED


def expected_after_uidvalidity_change(base: int, local: int, remote: int, *, gone: bool) -> int:
    """DESIGN's rule: flags = (remote | local) - (base - local), for DELETED the old base counts."""
    ordinary = ((remote | local) & ~(base & ~local)) & ~DELETED
    if gone:
        return ordinary | ((local | remote) & DELETED)
    return ordinary | (merge(base, local, remote) & DELETED)


@pytest.mark.parametrize("gone", [False, True])
def test_after_a_uidvalidity_change_nothing_that_the_server_lost_is_taken_off(gone):
    for base, local, remote in itertools.product(EVERY, EVERY[::5], EVERY):
        if gone:
            local |= DELETED  # a gone file counts as one that gained it
        merged = merge(migrated_base(base, local, gone=gone), local, remote)
        assert merged == expected_after_uidvalidity_change(base, local, remote, gone=gone)


@pytest.mark.parametrize(
    ("base", "local", "remote", "gone", "merged"),
    [
        (1, 1, 0, False, 0),  # the server lost a mark that both had: taken off the file, it is not a deletion any more
        (0, 1, 0, False, 1),  # T set while away: marked
        (1, 0, 1, False, 0),  # T taken off while away: taken off the server
        (1, 1, 0, True, 1),  # known but gone: its twin is marked anew
        (0, 1, 0, True, 1),
        (1, 1, 1, True, 1),
    ],
)
def test_deletions_over_a_uidvalidity_change(base, local, remote, gone, merged):
    migrated = migrated_base(base * DELETED, local * DELETED, gone=gone)
    assert merge(migrated, local * DELETED, remote * DELETED) == merged * DELETED


def test_no_flag_of_the_tables_is_missing_from_the_module():
    assert {value for name, value in vars(flags).items() if name.isupper() and isinstance(value, int)} == {
        *(bit for bit, _, _ in TABLE),
        NONE,
        ALL,
        SYSTEM,
    }
