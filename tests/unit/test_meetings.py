# SPDX-License-Identifier: MIT
"""Arrivals and new files planned in parts: what becomes of each is what a plan of everything would make of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushpull import candidates as candidates_module
from pushpull.candidates import Candidates
from pushpull.flags import ALL, DELETED, DRAFT, SEEN
from pushpull.model import Counts, Policy, Uid
from pushpull.observed import has_seekers
from pushpull.plan import Plan, plan, plan_arrivals, plan_uploads
from pushpull.store import Store
from tests.support.rows import memory_store, plans_of, put

NOW = 1_800_000_000.0
LIMIT = 3
DIGESTS = (b"one", b"two")

ARRIVALS = st.fixed_dictionaries(
    {
        "message_id": st.sampled_from((None, "", "a", "b", "c")),
        "size": st.sampled_from((100, 200)),
        "remote_flags": st.sampled_from((0, SEEN, DRAFT, DELETED)),
        "header_digest": st.sampled_from((None, b"h1", b"h2")),
        "next_try": st.sampled_from((0.0, 0.0, 0.0, NOW + 1)),
        "problem_count": st.sampled_from((0, 1, 3)),
    }
)
SEEKERS = st.fixed_dictionaries(
    {
        "message_id": st.sampled_from(("", "a", "b", "c")),
        "size": st.sampled_from((100, 200)),
        "digest": st.sampled_from(DIGESTS),
        "header_digest": st.sampled_from((b"h1", b"h2")),
        "received": st.booleans(),
        "local_flags": st.sampled_from((0, SEEN, DRAFT)),
        "state": st.sampled_from(
            (
                {},
                {},
                {"append_outcome": "open", "append_uidnext": 3, "append_attempts": 1},
                {"append_outcome": "accepted", "append_uidnext": 3},
                {"old_uidvalidity": 7, "base_flags": SEEN},
                {"old_uidvalidity": 7, "gone": 1, "local_flags": DELETED},
                {"expunged": 1, "remote_flags": DELETED, "local_flags": DELETED, "base_flags": DELETED},
            )
        ),
    }
)


def fill(store: Store, arrivals: list[dict[str, Any]], seekers: list[dict[str, Any]]) -> None:
    for uid, columns in enumerate(arrivals, 1):
        put(store, uid=uid, **columns)
    for number, columns in enumerate(seekers, 1):
        known, state = dict(columns), columns["state"]
        del known["state"]
        uid = 100 + number if "expunged" in state else None
        put(store, uid=uid, uniquename=b"u%d" % number, directory="cur", **{**known, **state})


FLAGGED = (801, 802)


def put_flags(store: Store) -> None:
    """Flags that differ, each way."""
    for number, columns in zip(FLAGGED, ({"remote_flags": SEEN}, {"local_flags": SEEN}), strict=True):
        put(store, id=number, uid=number, uniquename=b"both%d" % number, directory="cur", **columns)


def fates(made: Plan) -> dict[int, str]:
    """By row: what is done, and with which others."""
    found = {each.row.id: f"join {each.partner.id}" for each in made.adopts}
    found |= {each.row.id: "upload" for each in made.appends}
    found |= {each.row.id: f"flags {each}" for each in (*made.local_flags, *made.remote_flags)}
    return found | {each.row.id: f"download {[row.id for row in each.partners]}" for each in made.downloads}


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates_module, "AT_ONCE", LIMIT)


@pytest.mark.usefixtures("limited")
@given(st.lists(ARRIVALS, max_size=8), st.lists(SEEKERS, max_size=6))
def test_a_part_is_planned_as_the_whole_would_be(arrivals, seekers):
    store = memory_store()
    fill(store, arrivals, seekers)
    candidates = Candidates(store, 1)
    put_flags(store)
    part = candidates.meetings(ALL, NOW)
    due = [uid for uid, columns in enumerate(arrivals, 1) if not columns["next_try"]]
    unlike = {columns["message_id"] for columns in arrivals}
    new = [each for each in seekers if not each["state"] and not unlike & {None, each["message_id"]}]
    many = len(due) > LIMIT or (bool(due) and len(new) > LIMIT)
    assert bool(part) == (many and has_seekers(store, 1))
    if part:
        everything = plan(candidates.all(ALL, NOW), Counts(), Policy(), complete=True, answered_before=NOW)
        whole, some = fates(everything), fates(plan_arrivals(part, Policy()))
        assert some == {number: whole[number] for number in some}
        assert {*due[-LIMIT:], *FLAGGED} <= set(some)
    store.close()


NOBODY = "nobody"
# An arrival that is left: its Message-ID, and how often it failed.
LEFT = ((NOBODY, 0), (NOBODY, 0), (None, 1), (None, 3), ("", 1), ("a", 1), ("b", 3))
NEW_FILES = st.fixed_dictionaries(
    {
        "message_id": st.sampled_from(("", "a")),
        "size": st.just(100),
        "digest": st.sampled_from((b"1", b"2", b"3", b"4", b"5")),
        "local_flags": st.sampled_from((0, SEEN, DRAFT)),
        "next_try": st.sampled_from((0.0, 0.0, 0.0, NOW + 1)),
        "state": st.sampled_from(
            (
                {},
                {},
                {},
                {"append_outcome": "open", "append_attempts": 1},
                {"append_outcome": "accepted"},
                {"old_uidvalidity": 7},
                {"uid": 1},
            )
        ),
    }
)


@pytest.mark.usefixtures("limited")
@given(st.lists(NEW_FILES, max_size=12), st.sampled_from(LEFT), st.booleans())
def test_part_of_the_uploads_is_planned_as_the_whole_would_be(files, arrives, read_only):
    store = memory_store()
    for number, columns in enumerate(files, 1):
        known, state = dict(columns), dict(columns["state"])
        del known["state"]
        if "uid" in state:
            state = {"uid": 100 + number, "base_flags": known["local_flags"], "remote_flags": known["local_flags"]}
        put(store, uniquename=b"u%02d" % number, directory="cur", **{**known, **state})
    message_id, failures = arrives
    if message_id != NOBODY:
        put(store, uid=99, message_id=message_id, size=100, next_try=NOW + 1, problem_count=failures)
    put_flags(store)
    candidates = Candidates(store, 1)
    part = candidates.new_files(ALL, NOW, 0)
    paired = {each["digest"] for each in files if "uid" in each["state"]}
    due = [
        number
        for number, each in enumerate(files, 1)
        if not (each["state"] or each["next_try"] or each["digest"] in paired)
        and message_id != each["message_id"]
        and arrives != (None, 1)
    ]
    assert bool(part) == (len(due) > LIMIT)
    assert candidates.uploads(NOW) == sum(not (each["state"] or each["next_try"]) for each in files)
    if part:
        policy = Policy(read_only=read_only)
        everything = plan(candidates.all(ALL, NOW), Counts(), policy, complete=True, answered_before=NOW - 10)
        made = plan_uploads(part, policy)
        whole, some = fates(everything), fates(made)
        assert some == {number: whole[number] for number in some}
        assert {*made.actions} == {*made.appends, *made.local_flags, *made.remote_flags}
        # A copy of what goes now does not wait, to become a copy of what is paired.
        going = {action.row.digest for action in made.appends}
        uploads = {action.row.id for action in made.appends}
        assert uploads == (set() if read_only else {number for number in due if files[number - 1]["digest"] in going})
        assert read_only or set(due[:LIMIT]) <= uploads
        later = candidates.new_files(ALL, NOW, due[LIMIT - 1])
        assert not later or min(row.id for row in later if not row.has_remote) > due[LIMIT - 1]
    store.close()


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize(
    "vanished",
    [
        {"uid": 50, "uniquename": b"gone", "gone": 1, "local_flags": DELETED},
        {"uid": 50, "uniquename": b"here", "expunged": 1, "remote_flags": DELETED},
    ],
)
def test_what_vanished_is_seen_by_the_guards_first(vanished):
    store = memory_store()
    fill(store, [{"message_id": "a"}] * (LIMIT + 1), [{"message_id": "a", "state": {}}])
    assert Candidates(store, 1).meetings(ALL, NOW)
    put(store, **vanished)
    assert Candidates(store, 1).meetings(ALL, NOW) == []
    store.close()


@pytest.mark.usefixtures("limited")
def test_a_part_changes_nothing_but_its_arrivals():
    store = memory_store()
    fill(store, [{"message_id": "a"}] * (LIMIT + 1), [{"message_id": "a", "state": {}}])
    put(store, uid=50, uniquename=b"both", remote_flags=SEEN)
    made = plan_arrivals(Candidates(store, 1).meetings(ALL, NOW), Policy())
    assert made.partial
    assert made.actions == (*made.adopts, *made.local_flags, *made.downloads)
    assert [action.row.uid for action in made.downloads] == [Uid(4), Uid(3), Uid(2), Uid(1)]
    store.close()


@pytest.mark.usefixtures("limited")
def test_what_may_meet_is_found_by_indexes():
    store = memory_store()
    fill(store, [{"message_id": "a"}] * (LIMIT + 1), [{"message_id": "a", "state": {}}])
    plans = "\n".join(plans_of(store, lambda: Candidates(store, 1).meetings(ALL, NOW)))
    assert "pairing_message_id (pair=? AND message_id=?)" in plans
    assert "SCAN pairing" not in plans
    store.close()


@pytest.mark.parametrize(("gone", "limit"), [(5, 10), (12, 10)])
def test_marks_wait_for_a_file_that_may_be_getting_its_uid_and_guards_do_not(gone, limit):
    """A file that is gone, of a UIDVALIDITY that is over, and the UID that it may have now."""
    store = memory_store()
    put(store, uid=500, message_id="a", size=100)
    put(store, uniquename=b"old", message_id="a", size=100, gone=1, old_uidvalidity=7, local_flags=DELETED)
    for number in range(gone):
        put(store, uid=number + 1, uniquename=b"u%d" % number, gone=1, local_flags=DELETED)
    policy = Policy(local_delete_limit=limit)
    rows = Candidates(store, 1).all(ALL, NOW)
    made = plan(rows, Counts(), policy, complete=True, answered_before=NOW)
    assert bool(made.refusals) == (gone > limit)
    assert (made.remote_marks, len(made.later_marks)) == ([], 0 if made.refusals else gone)
    without = [row for row in rows if row.message_id != "a"]
    made = plan(without, Counts(), policy, complete=True, answered_before=NOW)
    assert (len(made.remote_marks), made.later_marks) == (0 if made.refusals else gone, [])
    store.close()
