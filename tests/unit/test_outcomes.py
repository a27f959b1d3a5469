# SPDX-License-Identifier: MIT
"""Rows as planned and acted on: who is a candidate, what the base takes, and what each outcome leaves in the state."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushpull import candidates as candidates_module
from pushpull.candidates import AT_ONCE, Candidates
from pushpull.flags import ALL, ANSWERED, DELETED, DRAFT, FLAGGED, NONE, SEEN, agree
from pushpull.model import (
    Counts,
    FileStamp,
    Fingerprint,
    LocalFile,
    ModSeq,
    Pairing,
    PairKey,
    Policy,
    RemoteView,
    Uid,
    Uniquename,
)
from pushpull.outcomes import Outcomes
from pushpull.plan import plan
from tests.support.rows import columns, memory_store, plans_of, put, row, rows

T, S, F, R, D = DELETED, SEEN, FLAGGED, ANSWERED, DRAFT
NOW = 1_800_000_000.0
MINUTE = 60.0
DAY = 86_400.0
WEEK = 7 * DAY
FINGERPRINT = Fingerprint("m@example.org", 120, b"header", b"digest", received=True)
STAMP = FileStamp(100, 1_700_000_000_123_456_789, 42)
LOCAL = {"uniquename": b"u", "directory": "cur", "info": b":2,"}


@pytest.fixture
def store():
    """One pair, and another one of much the same rows, which nothing may touch or count."""
    opened = memory_store()
    opened.add_pair(PairKey("mail.example.org", "me", "Other", "Other"))
    put(opened, id=900, pair=2, uid=5, remote_flags=F, uniquename=b"u", digest=b"digest")
    put(opened, id=901, pair=2, uid=6, message_id="m")
    put(opened, id=902, pair=2, uniquename=b"new", message_id="m", append_outcome="open", digest=b"digest")
    opened.db.execute("INSERT INTO mark (pair, side, pairing, at) VALUES (2, 'local', 900, ?)", (NOW,))
    before = rows(opened, pair=2)
    yield opened
    assert rows(opened, pair=2) == before
    assert opened.db.execute("SELECT pairing, at FROM mark WHERE pair = 2").fetchall() == [(900, NOW)]
    opened.close()


@pytest.fixture
def outcomes(store):
    return Outcomes(store, 1)


@pytest.fixture
def candidates(store):
    return Candidates(store, 1)


def pairing(store, number) -> Pairing:
    """A row as a plan sees it, put together from its columns here."""
    values = row(store, number)
    like = [other for other in rows(store, values["pair"]) if other["id"] != number and _paired(other)]
    twins = sum(other["digest"] == values["digest"] for other in like) if _lonely(values) else 0
    stamp = FileStamp(values["stamp_size"], values["stamp_mtime"], values["stamp_inode"])
    same = {name: values[name] for name in Pairing.__slots__ if name in values}
    changed = {
        "keywords": tuple(values["keywords"].split()),
        "expunged": bool(values["expunged"]),
        "gone": bool(values["gone"]),
        "received": bool(values["received"]),
    }
    return Pairing(**{**same, **changed}, due=not NOW <= values["next_try"] <= NOW + WEEK, stamp=stamp, twins=twins)


def _paired(values) -> bool:
    return None not in (values["uid"], values["uniquename"]) and not values["expunged"] and not values["gone"]


def _lonely(values) -> bool:
    return values["uid"] is None and values["digest"] is not None


def view(uid, flags=0, *keywords) -> RemoteView:
    return RemoteView(Uid(uid), flags, keywords, ModSeq(0))


def ids(candidates, mask=ALL, now=NOW, **more) -> list[int]:
    return sorted(found.id for found in candidates.all(mask, now, **more))


# --- candidates -------------------------------------------------------------------------------------------------------

SETTLED = {"uid": 5, "remote_flags": S, "local_flags": S, "base_flags": S, **LOCAL}

CANDIDATES = {
    "settled": (SETTLED, False),
    "settled, without any flag": ({"uid": 5, **LOCAL}, False),
    "settled, and failed once": ({**SETTLED, "problem": "odd", "problem_count": 1}, False),
    "flag added here": ({**SETTLED, "local_flags": S | F}, True),
    "flag added there": ({**SETTLED, "remote_flags": S | F}, True),
    "flag taken off here": ({**SETTLED, "local_flags": 0}, True),
    "flag that the server does not store, added here": ({**SETTLED, "local_flags": S | R}, False),
    "flag that the server does not store, taken off here": (
        {**SETTLED, "remote_flags": S | R, "base_flags": S | R},
        False,
    ),
    "flag that the server does not store, added there": ({**SETTLED, "remote_flags": S | R}, True),
    "flag that the server does not store, beside one that it does": ({**SETTLED, "local_flags": S | R | F}, True),
    "flag that the server refused": ({**SETTLED, "local_flags": S | F, "refused_flags": F}, False),
    "flag that the server refused to take off": ({**SETTLED, "local_flags": 0, "refused_flags": S}, False),
    "flag that the server refused, beside a new one": (
        {**SETTLED, "local_flags": S | F | T, "refused_flags": F},
        True,
    ),
    "new here": (LOCAL, True),
    "new there": ({"uid": 5}, True),
    "file gone": ({**SETTLED, "gone": 1, "local_flags": S | T}, True),
    "file gone, both marked": (
        {**SETTLED, "gone": 1, "local_flags": S | T, "remote_flags": S | T, "base_flags": S | T},
        False,
    ),
    "file gone and its name free": ({"uid": 5, "gone": 1, "local_flags": T}, True),
    "expunged": ({**SETTLED, "expunged": 1, "remote_flags": S | T}, True),
    "expunged, both marked": (
        {**SETTLED, "expunged": 1, "local_flags": S | T, "remote_flags": S | T, "base_flags": S | T},
        False,
    ),
    "expunged before it was downloaded": ({"uid": 5, "expunged": 1, "remote_flags": T}, True),
    "gone and expunged": ({**SETTLED, "gone": 1, "expunged": 1}, True),
    "gone and expunged and agreed": (
        {**SETTLED, "gone": 1, "expunged": 1, "local_flags": T, "remote_flags": T, "base_flags": T},
        True,
    ),
    "an open upload": ({**LOCAL, "append_outcome": "open"}, True),
    "an open upload whose file is gone": ({**LOCAL, "gone": 1, "append_outcome": "open"}, True),
    "waiting since a change of UIDVALIDITY": ({**LOCAL, "old_uidvalidity": 7, "gone": 1}, True),
}


@pytest.mark.parametrize(("values", "expected"), CANDIDATES.values(), ids=CANDIDATES)
def test_who_is_a_candidate(store, candidates, values, expected):
    number = put(store, **values)
    assert ids(candidates, mask=ALL & ~R) == [number] * expected


def test_a_candidate_has_all_that_the_state_knows_of_it(store, candidates):
    number = put(
        store,
        uid=5,
        remote_flags=S,
        keywords="$Label1 junk",
        expunged=1,
        uniquename=b"1.\xff",
        directory="a3/cur",
        info=b":2,Fx",
        local_flags=F,
        gone=1,
        base_flags=R,
        refused_flags=D,
        message_id="m",
        size=9,
        header_digest=b"h",
        digest=b"d",
        received=1,
        stamp_size=1,
        stamp_mtime=2,
        stamp_inode=3,
        old_uidvalidity=4,
        append_attempts=2,
        append_uidnext=8,
        append_outcome="open",
        append_at=5.5,
        problem="odd",
        problem_count=3,
        next_try=NOW + 1,
    )
    (found,) = candidates.all(ALL, NOW)
    assert found == Pairing(
        id=number,
        uid=Uid(5),
        remote_flags=S,
        keywords=("$Label1", "junk"),
        expunged=True,
        uniquename=Uniquename(b"1.\xff"),
        directory="a3/cur",
        info=b":2,Fx",
        local_flags=F,
        gone=True,
        base_flags=R,
        refused_flags=D,
        message_id="m",
        size=9,
        header_digest=b"h",
        digest=b"d",
        received=True,
        old_uidvalidity=4,
        append_attempts=2,
        append_uidnext=Uid(8),
        append_outcome="open",
        append_at=5.5,
        problem="odd",
        problem_count=3,
        due=False,
        stamp=FileStamp(1, 2, 3),
    )
    assert found == pairing(store, number)


def test_what_failed_is_due_again_in_its_time(store, candidates):
    put(store, next_try=NOW, problem_count=1, **LOCAL)
    assert [found.due for found in candidates.all(ALL, NOW + 1)] == [True]
    assert [found.due for found in candidates.all(ALL, NOW - 1)] == [False]


@pytest.mark.parametrize("ahead", [2 * 60, 3600, 400 * DAY])
def test_what_failed_by_a_clock_that_was_ahead_is_due(store, candidates, ahead):
    """One failure is a gap of a minute, so a time further off is no time of ours."""
    put(store, uid=5, problem_count=1, next_try=NOW + ahead)
    assert [found.due for found in candidates.all(ALL, NOW)] == [True]
    assert candidates.arrivals(NOW) == 1


@pytest.mark.parametrize("count", range(1, 12))
def test_no_gap_is_taken_for_a_clock_that_was_ahead(store, outcomes, candidates, count):
    put(store, **LOCAL)
    (row,) = candidates.all(ALL, NOW)
    outcomes.failed(row, "no", NOW, count=count)
    assert [found.due for found in candidates.all(ALL, NOW)] == [False]
    assert [found.due for found in candidates.all(ALL, NOW + 8 * DAY)] == [True]


def test_twins_are_counted_for_uploads(store, candidates):
    lonely = put(store, uniquename=b"new", digest=b"digest")
    put(store, uniquename=b"as new", digest=b"digest")
    put(store, uid=20, digest=b"digest")
    put(store, uid=21, uniquename=b"p1", digest=b"digest")
    put(store, uid=22, uniquename=b"p2", digest=b"digest", local_flags=S)
    put(store, uid=23, uniquename=b"p3", digest=b"another")
    put(store, uid=24, uniquename=b"p4", digest=b"digest", gone=1, local_flags=T)
    put(store, uid=25, uniquename=b"p5", digest=b"digest", expunged=1, remote_flags=T)
    found = {candidate.id: candidate for candidate in candidates.all(ALL, NOW)}
    assert found[lonely].twins == 2
    assert all(candidate == pairing(store, number) for number, candidate in found.items())


def test_arrivals_are_planned_in_slices_newest_first(store, candidates, monkeypatch):
    monkeypatch.setattr(candidates_module, "AT_ONCE", 3)
    for uid in (30, 10, 50, 20, 40):
        put(store, id=uid, uid=uid)
    put(store, id=1, **{**SETTLED, "local_flags": S | F})
    assert [found.uid for found in candidates.all(ALL, NOW) if found.id > 1] == [50, 40, 30]
    assert ids(candidates) == [1, 30, 40, 50]
    assert ids(candidates, whole=True) == [1, 10, 20, 30, 40, 50]
    assert candidates.arrivals(NOW) == 5


def test_a_slice_holds_what_is_due(store, candidates, monkeypatch):
    monkeypatch.setattr(candidates_module, "AT_ONCE", 2)
    for uid in range(10, 16):
        put(store, id=uid, uid=uid, next_try=NOW + 1 if uid > 11 else 0)
    assert ids(candidates) == [10, 11]
    assert candidates.arrivals(NOW) == 2
    assert candidates.arrivals(NOW + 2) == 6


def test_with_rows_that_seek_a_uid_all_arrivals_are_there_also_those_that_failed(store, candidates, monkeypatch):
    monkeypatch.setattr(candidates_module, "AT_ONCE", 2)
    for uid in range(10, 16):
        put(store, id=uid, uid=uid, next_try=NOW + 1)
    put(store, id=1, **LOCAL)
    assert ids(candidates) == [1, 10, 11, 12, 13, 14, 15]


def test_a_slice_is_large_enough_to_keep_a_link_busy():
    assert AT_ONCE >= 1000


def test_settled_files_of_expunged_uids_are_there_when_an_arrival_may_be_theirs(store, candidates):
    settled = {"expunged": 1, "local_flags": T, "remote_flags": T, "base_flags": T}
    mine = put(store, uid=5, uniquename=b"a", message_id="m", **settled)
    put(store, uid=6, uniquename=b"b", message_id="other", **settled)
    put(store, uid=7, uniquename=b"c", message_id="none", **settled)
    nameless = put(store, uid=8, uniquename=b"d", message_id="", **settled)
    put(store, uid=9, message_id="other", expunged=1)  # no arrival any more
    assert ids(candidates) == [nameless + 1]
    arrival = put(store, uid=10, message_id="m")
    assert ids(candidates) == [mine, nameless + 1, arrival]
    anonymous = put(store, uid=11, message_id="")
    assert ids(candidates) == [mine, nameless, nameless + 1, arrival, anonymous]


# --- candidates, whatever the rows ------------------------------------------------------------------------------------

FLAGS = st.integers(NONE, ALL)


@st.composite
def states(draw):
    """Columns of a few rows such as may come about."""
    found = []
    for number in range(1, draw(st.integers(0, 8)) + 1):
        uid = draw(st.sampled_from([None, number]))
        uniquename = draw(st.sampled_from([None, b"u%d" % number]))
        gone, expunged = draw(st.booleans()), draw(st.booleans())
        has_file = gone or uniquename is not None
        found.append(
            {
                "id": number,
                "uid": uid,
                "uniquename": uniquename,
                "gone": gone,
                "expunged": expunged,
                "local_flags": draw(FLAGS) | T * gone if has_file else 0,
                "remote_flags": draw(FLAGS) | T * expunged if uid or expunged else 0,
                "base_flags": draw(FLAGS),
                "refused_flags": draw(st.just(0) | FLAGS),
                "message_id": draw(st.sampled_from(["", "a", "b"] if has_file else [None, "", "a", "b"])),
                "size": draw(st.sampled_from([1, 2])),
                "digest": draw(st.sampled_from([b"x", b"y"])) if has_file else None,
                "received": draw(st.booleans()),
                "old_uidvalidity": draw(st.sampled_from([0, 0, 7])) if uid is None and has_file else 0,
                "append_outcome": draw(st.sampled_from(["", "", "open", "accepted"])) if uid is None else "",
                "append_attempts": draw(st.integers(0, 2)),
                "append_at": draw(st.sampled_from([0.0, NOW])),
                "next_try": draw(st.sampled_from([0.0, 0.0, NOW - 1, NOW + 1, NOW + 400 * DAY])),
            }
        )
    return found


@given(state=states(), mask=st.just(ALL) | FLAGS, complete=st.booleans())
def test_candidates_are_all_that_a_plan_needs(state, mask, complete):
    """The plan of the candidates is the plan of the whole mailbox; and a second settling changes nothing."""
    store = memory_store()
    outcomes = Outcomes(store, 1)
    for values in state:
        put(store, **values)
    outcomes.settle()
    before = rows(store)
    whole = [pairing(store, values["id"]) for values in before]
    some = Candidates(store, 1).all(mask, NOW)
    assert {found.id: found for found in some}.items() <= {found.id: found for found in whole}.items()
    assert len({found.id for found in some}) == len(some)
    made = [
        plan(given, Counts(), Policy(mask=mask), complete=complete, answered_before=NOW - 10) for given in (some, whole)
    ]
    assert made[0] == made[1]
    outcomes.settle()
    assert rows(store) == before
    store.close()


# --- settle -----------------------------------------------------------------------------------------------------------


def settled(values) -> tuple[int, int, int]:
    """What settling makes of local, remote and base flags: the rule, said once more."""
    local, remote, base = values["local_flags"], values["remote_flags"], values["base_flags"]
    has_uid, has_name = values["uid"] is not None, values["uniquename"] is not None
    gone, expunged = values["gone"], values["expunged"]
    if gone and not expunged and has_uid and local & remote & T:
        local = remote
    if expunged and not gone and has_name and local & T:
        remote = local
    if (has_uid or expunged) and (has_name or gone):
        base = agree(base, local, remote)
    return local, remote, base


def settle(state) -> list[tuple[int, int, int]]:
    store = memory_store()
    for values in state:
        put(store, **values)
    Outcomes(store, 1).settle()
    found = rows(store)
    store.close()
    kept = {"local_flags", "remote_flags", "base_flags"}
    for before, after in zip(state, found, strict=True):
        assert {name: after[name] for name in before.keys() - kept} == {
            name: before[name] for name in before.keys() - kept
        }
    return [(after["local_flags"], after["remote_flags"], after["base_flags"]) for after in found]


def test_settle_truth_table():
    """Each row that two flags, two sides and two ways to vanish can make."""
    pairs = (0, S, T, S | T)
    state = [
        {
            "id": number,
            "uid": number if has_uid else None,
            "uniquename": b"u%d" % number if has_name else None,
            "gone": gone,
            "expunged": expunged,
            "local_flags": local,
            "remote_flags": remote,
            "base_flags": base,
        }
        for number, (has_uid, has_name, gone, expunged, local, remote, base) in enumerate(
            itertools.product(*[(False, True)] * 4, pairs, pairs, pairs), 1
        )
        if (local & T or not gone) and (remote & T or not expunged)
    ]
    assert len(state) > 500
    assert settle(state) == [settled(values) for values in state]


@given(state=states())
def test_settle_with_all_flags(state):
    assert settle(state) == [settled(values) for values in state]


SETTLING = {
    "both show the same new flag": ({"local_flags": S, "remote_flags": S}, (S, S, S)),
    "both lost the same flag": ({"base_flags": S}, (0, 0, 0)),
    "they differ: the old base stays": ({"local_flags": F, "base_flags": S}, (F, 0, 0)),
    "they differ in a flag of the base": ({"local_flags": S, "base_flags": S}, (S, 0, S)),
    "file gone, marked on the server: its other flags are agreed": (
        {"gone": 1, "local_flags": S | T, "remote_flags": F | T},
        (F | T, F | T, F | T),
    ),
    "file gone, not marked yet": ({"gone": 1, "local_flags": S | T, "remote_flags": S, "base_flags": S}, (S | T, S, S)),
    "file gone, undeleted on the server": (
        {"gone": 1, "local_flags": T, "remote_flags": 0, "base_flags": T},
        (T, 0, T),
    ),
    "expunged, marked here: its other flags are agreed": (
        {"expunged": 1, "local_flags": F | T, "remote_flags": S | T},
        (F | T, F | T, F | T),
    ),
    "expunged, not marked yet": (
        {"expunged": 1, "local_flags": S, "remote_flags": S | T, "base_flags": S},
        (S, S | T, S),
    ),
}


@pytest.mark.parametrize(("values", "expected"), SETTLING.values(), ids=SETTLING)
def test_settling(store, outcomes, values, expected):
    number = put(store, uid=5, **LOCAL, **values)
    outcomes.settle()
    assert columns(store, number, "local_flags", "remote_flags", "base_flags") == expected


def test_a_mark_that_both_sides_carry_is_no_candidate_any_more(store, outcomes, candidates):
    put(store, uid=5, gone=1, local_flags=S | T, remote_flags=F | T, base_flags=S, uniquename=b"a")
    put(store, uid=6, expunged=1, local_flags=S | T, remote_flags=F | T, base_flags=S, uniquename=b"b")
    assert len(ids(candidates)) == 2
    outcomes.settle()
    assert ids(candidates) == []


# --- the cost of a cycle follows the changes --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mailbox():
    """Five thousand settled rows, a few arrivals and changes."""
    opened = memory_store()
    with opened.transaction() as db:
        db.executemany(
            "INSERT INTO pairing (pair, uid, uniquename, message_id, digest, base_flags, local_flags, remote_flags)"
            " VALUES (1, ?, ?, ?, ?, 16, 16, 16)",
            ((uid, b"u%d" % uid, f"m{uid}", b"d%d" % uid) for uid in range(1, 5001)),
        )
        db.execute("UPDATE pairing SET local_flags = 2 WHERE uid <= 3")
        db.execute("UPDATE pairing SET expunged = 1, remote_flags = 48 WHERE uid IN (7, 8)")
        db.executemany("INSERT INTO pairing (pair, uid) VALUES (1, ?)", ((uid,) for uid in range(6001, 6010)))
    yield opened
    opened.close()


@pytest.fixture(params=["without statistics", "with statistics"])
def large(mailbox, request):
    """Statistics, that somebody may have had SQLite gather, change its choices."""
    mailbox.db.execute("DROP TABLE IF EXISTS sqlite_stat1")
    if request.param == "with statistics":
        mailbox.db.execute("ANALYZE")
    mailbox.db.execute("ANALYZE sqlite_schema")  # read them anew
    return mailbox


def scans(plans) -> list[str]:
    """Steps that read all rows of a table, or all of a pair."""
    steps = [step for text in plans for step in text.splitlines() if " pairing" in step]
    return [step for step in steps if step.startswith("SCAN pairing") and "INDEX" not in step]


def test_candidates_come_from_the_partial_indexes(large):
    plans = plans_of(large, lambda: Candidates(large, 1).all(ALL, NOW))
    (text,) = [text for text in plans if "pairing_todo" in text]
    assert "pairing_arrivals" in text
    assert "pairing_expunged" in text
    assert scans([text]) == []


def test_settling_looks_at_what_differs_only(large):
    plans = plans_of(large, lambda: Outcomes(large, 1).settle())
    assert len(plans) == 3
    assert [text for text in plans if "pairing_differing" not in text] == []


def test_counting_arrivals_looks_at_arrivals_only(large):
    (text,) = plans_of(large, lambda: Candidates(large, 1).arrivals(NOW))
    assert "pairing_arrivals" in text


def test_the_question_after_the_same_content_follows_an_index(large):
    (text,) = plans_of(large, lambda: Outcomes(large, 1).seekers_like(b"d7"))
    assert text.splitlines()[0].count("pairing_digest") == 1


# --- counts and guards ------------------------------------------------------------------------------------------------


def test_counts_of_an_empty_pair(candidates):
    assert candidates.counts(NOW - 600, NOW) == Counts()


def test_counts_are_of_rows_alive_on_both_sides(store, candidates):
    put(store, uid=1, uniquename=b"a")
    put(store, uid=2, uniquename=b"b")
    put(store, uid=3, uniquename=b"c", gone=1)
    put(store, uid=4, uniquename=b"d", expunged=1)
    put(store, uid=5)
    put(store, uniquename=b"e")
    assert candidates.counts(NOW - 600, NOW, expunged=1).paired == 2


def test_what_is_paired_is_counted_only_when_enough_was_expunged_to_ask(store, outcomes, candidates):
    put(store, uid=1, uniquename=b"a")
    mark(store, outcomes, "remote", NOW - 10, 3, **MARKED_REMOTE)
    counted = [candidates.counts(NOW - 600, NOW, expunged=number, limit=3).paired for number in range(5)]
    assert counted == [0, 0, 0, 1, 1]


def mark(store, outcomes, side, at, number, **changed) -> int:
    """A row that was about to be marked then, and as it stands now."""
    columns_now = {"uid": number, "uniquename": b"m%d" % number, "directory": "cur", **changed}
    found = put(store, id=number, **columns_now)
    outcomes.marking(side, [pairing(store, found)], at)
    return found


MARKED_LOCAL = {"gone": 1, "local_flags": T, "remote_flags": T}
MARKED_REMOTE = {"expunged": 1, "local_flags": T, "remote_flags": T}


def test_marks_of_late_are_counted_by_side(store, outcomes, candidates):
    mark(store, outcomes, "local", NOW - 100, 1, **MARKED_LOCAL)
    mark(store, outcomes, "local", NOW - 10, 2, **MARKED_LOCAL)
    mark(store, outcomes, "remote", NOW - 10, 3, **MARKED_REMOTE)
    mark(store, outcomes, "twin", NOW - 10, 4)

    def seen(since):
        counts = candidates.counts(since, NOW)
        return counts.recent_local, counts.recent_remote, counts.recent_twins

    assert seen(NOW - 50) == (1, 1, 1)
    assert seen(NOW - 200) == (2, 1, 1)
    assert seen(NOW - 10) == (0, 0, 1)  # uploads of what is paired are counted over a day


def test_a_mark_that_is_still_to_come_is_not_counted_twice(store, outcomes, candidates):
    """The link was cut before the effect: the plan will count the row itself."""
    mark(store, outcomes, "local", NOW - 1, 1, gone=1, local_flags=T)
    mark(store, outcomes, "remote", NOW - 1, 2, expunged=1, remote_flags=T)
    mark(store, outcomes, "twin", NOW - 1, 3, uid=None)
    assert candidates.counts(NOW - 600, NOW) == Counts(paired=0)


def test_a_mark_counts_though_its_row_is_forgotten(store, outcomes, candidates):
    number = mark(store, outcomes, "local", NOW - 1, 1, **MARKED_LOCAL)
    outcomes.forget([pairing(store, number)])
    assert candidates.counts(NOW - 600, NOW).recent_local == 1
    later = put(store, uid=20, gone=1, local_flags=T)
    assert later != number  # a number is never given again, or it would answer for the old row
    assert candidates.counts(NOW - 600, NOW).recent_local == 1


def test_a_row_counts_once_however_often_it_is_tried(store, outcomes, candidates):
    number = mark(store, outcomes, "local", NOW - 300, 1, **MARKED_LOCAL)
    outcomes.marking("local", [pairing(store, number)] * 2, NOW - 5)
    assert candidates.counts(NOW - 10, NOW).recent_local == 1
    assert candidates.counts(NOW - 600, NOW).recent_local == 1


def test_marks_of_yesterday_or_of_a_clock_that_was_ahead_are_forgotten(store, outcomes, candidates):
    mark(store, outcomes, "local", NOW - DAY - 1, 1, **MARKED_LOCAL)
    mark(store, outcomes, "local", NOW + 5000, 2, **MARKED_LOCAL)
    assert candidates.counts(NOW - 600, NOW).recent_local == 0
    mark(store, outcomes, "remote", NOW, 3, **MARKED_REMOTE)
    assert store.db.execute("SELECT side, pairing FROM mark WHERE pair = 1").fetchall() == [("remote", 3)]


# --- downloads --------------------------------------------------------------------------------------------------------


def test_a_delivered_message_is_settled(store, outcomes, candidates):
    number = put(store, uid=5, remote_flags=S, problem="odd", problem_count=2, next_try=NOW, message_id="guess")
    file = LocalFile(Uniquename(b"new"), "cur", b":2,FS", S | F)
    outcomes.delivered([(pairing(store, number), file, FINGERPRINT, STAMP, view(5, S | F, "$Label1"))], "")
    found = row(store, number)
    assert [found[name] for name in ("uniquename", "directory", "info", "unsynced_boot")] == [
        b"new",
        "cur",
        b":2,FS",
        "",
    ]
    assert [found[name] for name in ("local_flags", "remote_flags", "base_flags")] == [S | F] * 3
    assert [found[name] for name in ("keywords", "problem", "problem_count", "next_try")] == ["$Label1", "", 0, 0]
    fingerprint = ("message_id", "size", "header_digest", "digest", "received")
    assert [found[name] for name in fingerprint] == ["m@example.org", 120, b"header", b"digest", 1]
    assert [found[name] for name in ("stamp_size", "stamp_mtime", "stamp_inode")] == [100, STAMP.mtime_ns, 42]
    assert ids(candidates) == []


def test_the_base_of_a_delivered_message_is_what_both_sides_show(store, outcomes):
    number = put(store, uid=5)
    file = LocalFile(Uniquename(b"new"), "cur", b":2,S", S)
    outcomes.delivered([(pairing(store, number), file, FINGERPRINT, STAMP, view(5, S | F))], "boot")
    assert columns(store, number, "base_flags", "remote_flags", "unsynced_boot") == (S, S | F, "boot")


def test_an_undeleted_message_that_is_delivered_again_is_not_gone_any_more(store, outcomes):
    number = put(store, uid=5, gone=1, local_flags=T, base_flags=T, uniquename=b"old name")
    file = LocalFile(Uniquename(b"new name"), "new", b"", NONE)
    outcomes.delivered([(pairing(store, number), file, FINGERPRINT, STAMP, view(5))], "")
    assert columns(store, number, "gone", "uniquename", "base_flags", "local_flags") == (0, b"new name", 0, 0)


ADOPTIONS = {
    # partner's columns, flags shown by the server -> the base
    "first meeting: flags unite": ({"local_flags": S}, F, NONE),
    "first meeting: a one-sided T is taken off": ({"local_flags": S | T}, S, T),
    "first meeting: a one-sided \\Deleted is taken off": ({"local_flags": S}, S | T, T),
    "first meeting: both deleted": ({"local_flags": T}, T, NONE),
    "an upload without an answer arrived": ({"append_outcome": "open", "local_flags": S | T}, NONE, NONE),
    "an accepted upload arrived": ({"append_outcome": "accepted", "local_flags": S | T}, S, NONE),
    "expunged, and back": ({"uid": 3, "expunged": 1, "base_flags": S | T, "local_flags": S | T}, S, S | T),
    "expunged, undeleted here, and back": ({"uid": 3, "expunged": 1, "base_flags": T}, NONE, T),
    "numbered anew: a flag taken off here counts": (
        {"old_uidvalidity": 7, "base_flags": S | F, "local_flags": S},
        F,
        F,
    ),
    "numbered anew: an old deletion still counts": (
        {"old_uidvalidity": 7, "base_flags": T, "local_flags": T},
        NONE,
        T,
    ),
    "numbered anew: an unsynced deletion here counts": ({"old_uidvalidity": 7, "local_flags": T}, NONE, NONE),
    "numbered anew, the file is gone: its twin is marked anew": (
        {"old_uidvalidity": 7, "gone": 1, "base_flags": S | T, "local_flags": S | T},
        S,
        NONE,
    ),
}


@pytest.mark.parametrize(("columns_before", "shown", "base"), ADOPTIONS.values(), ids=ADOPTIONS)
def test_the_base_of_an_adoption(store, outcomes, columns_before, shown, base):
    partner = put(
        store,
        **{**LOCAL, **columns_before},
        refused_flags=F,
        append_attempts=1,
        append_uidnext=9,
        problem="odd",
        problem_count=1,
        next_try=NOW,
        digest=b"d",
    )
    arrival = put(store, uid=12, remote_flags=R, message_id="m")
    first = not {"append_outcome", "old_uidvalidity", "expunged"} & columns_before.keys()
    told = outcomes.adopt(pairing(store, arrival), pairing(store, partner), view(12, shown, "word"))
    assert told == (first and base == T)  # a mark on one side only is taken off, which the user is told
    assert row(store, arrival) == {}
    found = row(store, partner)
    assert [found[name] for name in ("uid", "remote_flags", "keywords", "base_flags")] == [12, shown, "word", base]
    same = ("local_flags", "gone", "uniquename", "digest")
    before = {"local_flags": 0, "gone": 0, **LOCAL, **columns_before, "digest": b"d"}
    assert [found[name] for name in same] == [before[name] for name in same]
    cleared = ("expunged", "old_uidvalidity", "refused_flags", "append_attempts", "append_outcome")
    assert [found[name] for name in cleared] == [0, 0, 0, 0, ""]
    assert [found[name] for name in ("append_uidnext", "problem", "problem_count", "next_try")] == [None, "", 0, 0]


def test_who_still_seeks_a_uid(store, outcomes):
    rows_of = {
        "new": put(store, uniquename=b"a", digest=b"digest"),
        "expunged": put(store, uid=7, expunged=1, uniquename=b"b", digest=b"digest"),
        "open": put(store, uniquename=b"c", gone=1, append_outcome="open", digest=b"digest"),
        "renumbered": put(store, gone=1, old_uidvalidity=7, digest=b"digest"),
    }
    put(store, uniquename=b"d", digest=b"another")
    put(store, uid=8, uniquename=b"e", digest=b"digest")
    put(store, uniquename=b"f", gone=1, digest=b"digest")
    put(store, uid=9, expunged=1, gone=1, digest=b"digest")
    found = outcomes.seekers_like(b"digest")
    assert [seeker.id for seeker in found] == list(rows_of.values())
    assert all(outcomes.still_seeks(seeker) for seeker in found)
    arrival = pairing(store, put(store, uid=20))
    outcomes.adopt(arrival, found[0], view(20))
    assert [outcomes.still_seeks(seeker) for seeker in found] == [False, True, True, True]
    assert not outcomes.still_seeks(arrival)


def test_a_header_that_did_not_decide_is_remembered(store, outcomes):
    number = put(store, uid=5)
    outcomes.note_header(pairing(store, number), b"header")
    assert columns(store, number, "header_digest", "digest") == (b"header", None)


# --- flags ------------------------------------------------------------------------------------------------------------


def test_a_renamed_file_shows_its_flags_and_agrees_with_the_server(store, outcomes, candidates):
    number = put(store, **{**SETTLED, "remote_flags": S | F})
    outcomes.set_local(pairing(store, number), LocalFile(Uniquename(b"u"), "cur", b":2,FS", S | F))
    assert columns(store, number, "directory", "info", "local_flags", "base_flags") == ("cur", b":2,FS", S | F, S | F)
    outcomes.settle()
    assert ids(candidates) == []


def stored(store, outcomes, shown, *, add=NONE, remove=NONE, **changed) -> tuple[int, tuple]:
    number = put(store, **{**SETTLED, **changed})
    taken = outcomes.set_remote([pairing(store, number)], add, remove, shown)
    return taken, columns(store, number, "remote_flags", "keywords", "refused_flags", "base_flags")


def test_a_flag_that_the_server_took(store, outcomes):
    assert stored(store, outcomes, {5: view(5, S | F, "w")}, add=F) == (1, (S | F, "w", 0, S))


def test_a_flag_that_the_server_acknowledged_but_did_not_take(store, outcomes):
    assert stored(store, outcomes, {5: view(5, S)}, add=F) == (0, (S, "", F, S))


def test_a_flag_that_the_server_keeps(store, outcomes):
    assert stored(store, outcomes, {5: view(5, S)}, remove=S) == (0, (S, "", S, S))


def test_a_flag_that_another_client_set_meanwhile_is_shown_too(store, outcomes):
    assert stored(store, outcomes, {5: view(5, S | F | R)}, add=F) == (1, (S | F | R, "", 0, S))


def test_what_was_refused_before_stays_refused(store, outcomes):
    assert stored(store, outcomes, {5: view(5, S)}, add=F, refused_flags=D) == (0, (S, "", D | F, S))


def test_what_the_server_did_not_show_is_not_believed(store, outcomes):
    assert stored(store, outcomes, {6: view(6, S | F)}, add=F) == (0, (S, "", 0, S))


def test_each_row_of_a_batch_by_itself(store, outcomes):
    numbers = [put(store, uid=uid, uniquename=b"u%d" % uid) for uid in (5, 6, 7)]
    shown = {5: view(5, F), 6: view(6)}
    batch = (pairing(store, number) for number in numbers)
    assert outcomes.set_remote(batch, F, NONE, shown) == 1
    assert [columns(store, number, "remote_flags", "refused_flags") for number in numbers] == [(F, 0), (0, F), (0, 0)]


# --- uploads ----------------------------------------------------------------------------------------------------------

OPEN = {
    **LOCAL,
    "local_flags": S,
    "append_attempts": 1,
    "append_uidnext": 9,
    "append_outcome": "open",
    "append_at": NOW,
}
ATTEMPT = ("append_attempts", "append_uidnext", "append_outcome")


def test_an_attempt_is_written_before_it_is_made(store, outcomes):
    number = put(store, append_attempts=1, **LOCAL)
    outcomes.append_begins([pairing(store, number)], Uid(9), NOW)
    assert columns(store, number, *ATTEMPT, "append_at") == (2, 9, "open", NOW)
    assert not store.db.in_transaction


def test_an_attempt_to_bring_an_undeleted_message_back_forgets_its_dead_uid(store, outcomes):
    number = put(
        store, uid=5, expunged=1, remote_flags=T, base_flags=T, refused_flags=F, digest=b"d", **LOCAL, local_flags=S
    )
    outcomes.append_begins([pairing(store, number)], Uid(9), NOW)
    names = ("uid", "expunged", "remote_flags", "base_flags", "refused_flags", "local_flags", "digest")
    assert columns(store, number, *names) == (None, 0, 0, 0, 0, S, b"d")
    assert [found.append_outcome for found in outcomes.seekers_like(b"d")] == ["open"]


def test_an_upload_whose_uid_the_server_told(store, outcomes):
    number = put(store, problem="odd", problem_count=2, next_try=NOW, **OPEN)
    assert outcomes.appended([(pairing(store, number), Uid(12))]) == [True]
    assert columns(store, number, "uid", *ATTEMPT) == (12, 0, None, "")
    assert columns(store, number, "problem", "problem_count", "next_try", "base_flags") == ("", 0, 0, 0)


def test_an_upload_without_a_uid_is_awaited_and_never_sent_again(store, outcomes):
    number = put(store, **OPEN)
    assert outcomes.appended([(pairing(store, number), None)]) == [True]
    assert columns(store, number, "uid", "append_outcome") == (None, "accepted")


def test_a_uid_that_was_seen_before_it_was_told_is_joined(store, outcomes):
    number, seen = put(store, **OPEN), put(store, uid=12, remote_flags=S)
    assert outcomes.appended([(pairing(store, number), Uid(12))]) == [True]
    assert row(store, seen) == {}
    assert columns(store, number, "uid", "append_outcome") == (12, "")


@pytest.mark.parametrize("owner", [{"uniquename": b"twin"}, {"uniquename": b"twin", "gone": 1}, {"gone": 1}])
def test_a_uid_that_is_paired_already_means_that_the_server_keeps_one_of_two(store, outcomes, owner):
    number, other = put(store, **OPEN), put(store, uid=12, **owner)
    before = row(store, other)
    assert outcomes.appended([(pairing(store, number), Uid(12))]) == [False]
    assert row(store, other) == before
    assert columns(store, number, "uid", "append_outcome") == (None, "accepted")


def test_a_refused_upload_is_closed(store, outcomes):
    number = put(store, **OPEN)
    outcomes.append_refused([pairing(store, number)])
    assert columns(store, number, "uid", *ATTEMPT) == (None, 0, None, "")


def test_a_file_that_was_written_to_before_its_upload(store, outcomes):
    number = put(store, message_id="old", digest=b"old", **LOCAL)
    outcomes.content_changed(pairing(store, number), FINGERPRINT, STAMP)
    names = ("message_id", "size", "header_digest", "digest", "received", "stamp_size", "stamp_mtime", "stamp_inode")
    assert columns(store, number, *names) == ("m@example.org", 120, b"header", b"digest", 1, 100, STAMP.mtime_ns, 42)


# --- problems and ends ------------------------------------------------------------------------------------------------


def test_gaps_grow_to_a_week_and_stay_there(store, outcomes):
    number = put(store, **LOCAL)
    gaps = []
    for expected in range(1, 12):
        assert outcomes.failed(pairing(store, number), f"reason {expected}", NOW) == expected
        found = row(store, number)
        assert (found["problem"], found["problem_count"]) == (f"reason {expected}", expected)
        gaps.append((found["next_try"] - NOW) / MINUTE)
    assert gaps[:3] == [1, 5, 30]
    assert gaps == sorted(gaps)
    assert gaps[-4:] == [7 * 24 * 60] * 4


@pytest.mark.parametrize(("before", "expected"), [(0, 3), (1, 3), (5, 6)])
def test_what_is_hopeless_is_set_aside_at_once(store, outcomes, before, expected):
    number = put(store, problem_count=before, **LOCAL)
    assert outcomes.failed(pairing(store, number), "too large", NOW, count=3) == expected
    assert columns(store, number, "problem_count") == (expected,)
    assert columns(store, number, "next_try")[0] >= NOW + 30 * MINUTE


def test_earlier_problems_are_listed_with_their_time(store, outcomes):
    first = put(store, problem="a", problem_count=3, next_try=NOW + 5, **LOCAL)
    put(store, uid=20)
    second = put(store, uid=21, problem="b", problem_count=1, next_try=NOW)
    found = outcomes.earlier_problems()
    assert [(problem.id, problem.problem, at) for problem, at in found] == [(first, "a", NOW + 5), (second, "b", NOW)]
    assert found[0][0].uniquename == b"u"
    assert found[1][0].uid == 21


def test_forgotten_rows_are_no_more(store, outcomes):
    first, second, third = (put(store, uid=uid) for uid in (20, 21, 22))
    outcomes.forget(pairing(store, number) for number in (first, third))
    assert [found["id"] for found in rows(store)] == [second]


def test_several_outcomes_in_one_commit(store, outcomes):
    number = put(store, **OPEN)

    def both():
        with outcomes.transaction():
            outcomes.appended([(pairing(store, number), Uid(12))])
            outcomes.failed(pairing(store, number), "odd", NOW)
            raise ValueError("mishap")

    before = row(store, number)
    with pytest.raises(ValueError, match="mishap"):
        both()
    assert row(store, number) == before
