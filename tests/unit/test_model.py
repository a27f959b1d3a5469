# SPDX-License-Identifier: MIT
"""UidSet against a plain set, and the few rules that the shared values have."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushpull.model import LocalFile, Pairing, Tally, Uid, UidSet, Uniquename

uid_lists = st.lists(st.integers(1, 60), max_size=40)
range_lists = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 8)).map(lambda r: (r[0], r[0] + r[1])), max_size=12)


@given(uid_lists)
def test_a_uid_set_is_a_set(uids):
    uid_set, plain = UidSet.of(uids), set(uids)
    assert list(uid_set) == sorted(plain)
    assert len(uid_set) == len(plain)
    assert bool(uid_set) == bool(plain)
    assert all((uid in uid_set) == (uid in plain) for uid in range(70))


@given(range_lists)
def test_ranges_are_sorted_disjoint_and_never_adjacent(ranges):
    uid_set = UidSet(ranges)
    plain = {uid for lo, hi in ranges for uid in range(lo, hi + 1)}
    assert set(uid_set) == plain
    assert len(uid_set) == len(plain)
    assert all(lo <= hi for lo, hi in uid_set.ranges)
    assert all(left[1] + 1 < right[0] for left, right in itertools.pairwise(uid_set.ranges))


@given(uid_lists, range_lists)
def test_equality_is_that_of_the_members(uids, ranges):
    a, b = UidSet.of(uids), UidSet(ranges)
    assert (a == b) == (set(a) == set(b))
    assert UidSet(a.ranges) == a
    assert hash(UidSet(reversed(a.ranges))) == hash(a)


def test_a_uid_set_stays_small_whatever_the_mailbox():
    everything = UidSet([(1, 4_294_967_295)])
    assert len(everything) == 4_294_967_295
    assert everything.ranges == ((1, 4_294_967_295),)
    assert 4_294_967_295 in everything
    assert 0 not in everything


def test_a_uid_set_holds_uids_only():
    assert "1" not in UidSet.of([1])
    assert None not in UidSet.of([1])
    assert UidSet.of([1]) != {1}
    with pytest.raises(ValueError, match="backwards"):
        UidSet([(2, 1)])


def test_a_uid_set_shows_itself_as_on_the_wire():
    assert repr(UidSet.of([1, 2, 3, 7, 9, 10])) == "UidSet(1:3,7,9:10)"
    assert repr(UidSet()) == "UidSet()"


def test_a_file_knows_its_path():
    assert LocalFile(Uniquename(b"\xff.a"), "a3/cur", b":2,S", 16).path == b"a3/cur/\xff.a:2,S"


@pytest.mark.parametrize(
    ("pairing", "remote", "local"),
    [
        (Pairing(1), False, False),
        (Pairing(1, uid=Uid(5)), True, False),
        (Pairing(1, uid=Uid(5), expunged=True), False, False),
        (Pairing(1, uniquename=Uniquename(b"a")), False, True),
        (Pairing(1, uniquename=Uniquename(b"a"), gone=True), False, False),
    ],
)
def test_a_pairing_knows_which_sides_are_alive(pairing, remote, local):
    assert (pairing.has_remote, pairing.has_local) == (remote, local)


@pytest.mark.parametrize("field", ["downloaded", "local_flags", "local_marked"])
def test_a_tally_knows_that_local_files_changed(field):
    assert Tally(**{field: 1}).changed_local
    assert Tally(**{field: 1}).anything


@pytest.mark.parametrize("field", ["uploaded", "adopted", "remote_flags", "remote_marked", "renamed"])
def test_a_tally_knows_that_something_else_changed(field):
    assert not Tally(**{field: 1}).changed_local
    assert Tally(**{field: 1}).anything


def test_an_idle_cycle_did_nothing():
    assert not Tally(failed=1, held=1, set_aside=1).anything
