# SPDX-License-Identifier: MIT
"""The plan: what a user did or what befell a message, and what follows; then what holds for any rows whatever."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pushpull.flags import ALL, ANSWERED, DELETED, DRAFT, FLAGGED, FORWARDED, NONE, SEEN, merge
from pushpull.model import Counts, FileStamp, Pairing, Policy, Uid, Uniquename
from pushpull.plan import (
    MAX_APPEND_ATTEMPTS,
    MAX_TWIN_UPLOADS,
    Adopt,
    Append,
    Download,
    Forget,
    Plan,
    SetAside,
    SetLocal,
    SetRemote,
    TooManyExpunged,
    TooManyGone,
    plan,
    seeks_uid,
)
from pushpull.values import replace

T, S, F, R, P, D = DELETED, SEEN, FLAGGED, ANSWERED, FORWARDED, DRAFT
NOW = 1_800_000_000.0
DAY = 86_400.0
ANSWERED_BEFORE = NOW - 10


def both(number=1, *, base=NONE, local=NONE, remote=NONE, **more):
    """Alive on both sides."""
    return Pairing(
        id=number,
        uid=Uid(number),
        directory="cur",
        base_flags=base,
        local_flags=local,
        remote_flags=remote,
        **{
            "uniquename": Uniquename(b"u%d" % number),
            "message_id": f"m{number}",
            "size": 100,
            "digest": b"d%d" % number,
            **more,
        },
    )


def gone(number=1, *, base=NONE, remote=NONE, **more):
    """Its file vanished: the local side gained DELETED."""
    return both(number, base=base, local=base | T, remote=remote, gone=True, **more)


def expunged(number=1, *, base=NONE, local=NONE, **more):
    """Its UID vanished: the remote side gained DELETED."""
    return both(number, base=base, local=local, remote=base | T, expunged=True, **more)


def arrival(number=1, *, remote=NONE, **more):
    """A UID without a file."""
    return Pairing(id=number, uid=Uid(number), remote_flags=remote, **{"message_id": f"m{number}", "size": 100, **more})


def fresh(number=1, *, local=NONE, **more):
    """A file without a UID."""
    return Pairing(
        id=number,
        uniquename=Uniquename(b"u%d" % number),
        directory="cur",
        local_flags=local,
        **{
            "message_id": f"m{number}",
            "size": 100,
            "digest": b"d%d" % number,
            "header_digest": b"h%d" % number,
            "received": True,
            **more,
        },
    )


def vanished(number=1, **more):
    """Nothing is left on either side."""
    return Pairing(id=number, uniquename=Uniquename(b"u%d" % number), local_flags=T, gone=True, **more)


def decide(rows, *, counts=None, complete=True, **policy) -> Plan:
    return plan(
        rows,
        counts or Counts(paired=1000),
        Policy(**policy),
        complete=complete,
        answered_before=ANSWERED_BEFORE,
    )


def said(made: Plan) -> list[str]:
    """The actions in their order, as short words."""
    return [_word(action) for action in made.actions]


def _word(action) -> str:
    number = action.row.id
    if isinstance(action, Download):
        return f"download {number}" + "".join(f" or {partner.id}" for partner in action.partners)
    if isinstance(action, Adopt):
        return f"adopt {number} as {action.partner.id}"
    if isinstance(action, SetLocal):
        return f"{'mark' if action.mark else 'set'} local {number} +{action.add} -{action.remove}"
    if isinstance(action, SetRemote):
        conflict = " in conflict" * action.conflict
        return f"{'mark' if action.mark else 'set'} remote {number} +{action.add} -{action.remove}{conflict}"
    return {Append: "append", SetAside: "aside", Forget: "forget"}[type(action)] + f" {number}"


MARK_HERE, MARK_THERE = f"mark local 1 +{T} -0", f"mark remote 1 +{T} -0"
OLD = {"old_uidvalidity": 7}

SITUATIONS = {
    # Flags.
    "nothing happened": (both(base=S, local=S, remote=S), []),
    "flag added on the server": (both(remote=F), [f"set local 1 +{F} -0"]),
    "flag added here": (both(local=F), [f"set remote 1 +{F} -0"]),
    "flag taken off on the server": (both(base=S, local=S), [f"set local 1 +0 -{S}"]),
    "flag taken off here": (both(base=S, remote=S), [f"set remote 1 +0 -{S}"]),
    "same flag added on both": (both(local=S, remote=S), []),
    "same flag taken off on both": (both(base=S), []),
    "different flags added": (both(local=F, remote=R), [f"set local 1 +{R} -0", f"set remote 1 +{F} -0"]),
    "one added there, one taken off here": (
        both(base=S, remote=S | F),
        [f"set local 1 +{F} -0", f"set remote 1 +0 -{S}"],
    ),
    "one added and one taken off, both here": (both(base=S, local=F, remote=S), [f"set remote 1 +{F} -{S}"]),
    "deleted here by a mail reader": (both(local=T), [f"set remote 1 +{T} -0"]),
    "deleted there by a mail reader": (both(remote=T), [f"set local 1 +{T} -0"]),
    "undeleted here": (both(base=T, remote=T), [f"set remote 1 +0 -{T}"]),
    "undeleted there": (both(base=T, local=T), [f"set local 1 +0 -{T}"]),
    "flag that the server refused once": (both(local=F, refused_flags=F), []),
    "a refused flag beside a new one": (both(local=F | S, refused_flags=F), [f"set remote 1 +{S} -0"]),
    "a removal that the server refused once": (both(base=F, remote=F, refused_flags=F), []),
    # Deletions.
    "file gone, untouched on the server": (gone(base=S, remote=S), [MARK_THERE]),
    "file gone, flagged on the server meanwhile": (gone(base=S, remote=S | F), [f"{MARK_THERE} in conflict"]),
    "file gone, read flag taken off on the server meanwhile": (gone(base=S), [f"{MARK_THERE} in conflict"]),
    "file gone, deleted on the server meanwhile": (gone(remote=T), []),
    "file gone, marked long ago": (gone(base=T, remote=T), []),
    "undeleted on the server": (gone(base=T), ["download 1"]),
    "undeleted on the server with a new flag": (gone(base=T, remote=F), ["download 1"]),
    "file gone, the server refused the mark": (gone(refused_flags=T), []),
    "draft edited in place: its name holds another message": (gone(uniquename=None), [MARK_THERE]),
    "expunged, untouched here": (expunged(base=S, local=S), [MARK_HERE]),
    "expunged while flagged here": (expunged(base=S, local=S | F), [MARK_HERE]),
    "expunged, deleted here meanwhile": (expunged(local=T), []),
    "expunged after a mark that both had": (expunged(base=T, local=T), []),
    "T taken off the survivor of an expunge": (expunged(base=T), ["append 1"]),
    "T taken off the survivor, and flagged": (expunged(base=T, local=F), ["append 1"]),
    "gone here and expunged there": (replace(gone(), expunged=True, remote_flags=T), ["forget 1"]),
    "expunged before it was downloaded": (arrival(remote=T, expunged=True), ["forget 1"]),
    # New messages.
    "new on the server": (arrival(), ["download 1"]),
    "new on the server, already deleted there": (arrival(remote=T), ["download 1"]),
    "new on the server, without a Message-ID": (arrival(message_id=""), ["download 1"]),
    "new on the server, not looked at yet": (arrival(message_id=None, size=None), ["download 1"]),
    "new here": (fresh(), ["append 1"]),
    "new here, already deleted here": (fresh(local=T), ["append 1"]),
    "new here, without a Message-ID": (fresh(message_id=""), ["append 1"]),
    "new here, and gone before it was uploaded": (vanished(), ["forget 1"]),
    "on neither side at all": (Pairing(id=1), ["forget 1"]),
    # Uploads.
    "upload without answer, ten seconds not over": (
        fresh(append_attempts=1, append_outcome="open", append_at=NOW - 9.9),
        [],
    ),
    "upload without answer, begun the very second": (
        fresh(append_attempts=1, append_outcome="open", append_at=ANSWERED_BEFORE),
        [],
    ),
    "upload without answer, ten seconds over": (
        fresh(append_attempts=1, append_outcome="open", append_at=NOW - 10.1),
        ["append 1"],
    ),
    "two uploads without answer": (
        fresh(append_attempts=MAX_APPEND_ATTEMPTS, append_outcome="open", append_at=NOW - 10.1),
        ["aside 1"],
    ),
    "two uploads without answer, the second just now": (
        fresh(append_attempts=MAX_APPEND_ATTEMPTS, append_outcome="open", append_at=NOW),
        [],
    ),
    "upload without answer, by a clock that was an hour ahead": (
        fresh(append_attempts=1, append_outcome="open", append_at=NOW + 3600),
        ["append 1"],
    ),
    "upload accepted, its UID awaited": (fresh(append_attempts=1, append_outcome="accepted", append_at=1.0), []),
    "upload without answer, file gone, ten seconds not over": (
        vanished(append_outcome="open", append_at=NOW),
        [],
    ),
    "upload without answer, file gone, ten seconds over": (
        vanished(append_outcome="open", append_at=NOW - 11),
        ["forget 1"],
    ),
    "upload accepted, file gone, its UID never seen": (
        vanished(append_outcome="accepted", append_at=NOW - 11),
        ["forget 1"],
    ),
    # After a change of UIDVALIDITY.
    "known before the server numbered anew, without a partner": (fresh(**OLD), []),
    "gone before the server numbered anew, without a partner": (vanished(**OLD), ["forget 1"]),
    # It failed lately.
    "failed lately, new on the server": (arrival(due=False), []),
    "failed lately, new here": (fresh(due=False), []),
    "failed lately, flag added here": (both(local=S, due=False), []),
    "failed lately, file gone": (gone(due=False), []),
    "failed lately, undeleted here": (expunged(base=T, due=False), []),
    "failed lately, undeleted there": (gone(base=T, due=False), []),
    "failed lately, flag added there": (both(remote=S, due=False), [f"set local 1 +{S} -0"]),
    "failed lately, expunged": (expunged(due=False), [MARK_HERE]),
    "failed lately, and vanished": (vanished(due=False), ["forget 1"]),
    "failed lately, upload without answer just now": (
        fresh(append_outcome="open", append_at=NOW, append_attempts=1, due=False),
        [],
    ),
}


@pytest.mark.parametrize(("row", "expected"), SITUATIONS.values(), ids=SITUATIONS)
def test_one_message(row, expected):
    made = decide([row])
    assert said(made) == expected
    assert made.refusals == []


TWIN = {"message_id": "m", "digest": b"d", "size": 100}

MEETINGS = {
    "the same message on both sides, told by its header": (
        [arrival(1, message_id="m"), fresh(2, **TWIN)],
        ["adopt 1 as 2"],
    ),
    "the header was read and agrees": (
        [arrival(1, message_id="m", header_digest=b"h2"), fresh(2, **TWIN)],
        ["adopt 1 as 2"],
    ),
    "the header was read and differs": (
        [arrival(1, message_id="m", header_digest=b"x"), fresh(2, **TWIN)],
        ["download 1 or 2"],
    ),
    "same Message-ID, another size": ([arrival(1, message_id="m", size=99), fresh(2, **TWIN)], ["download 1 or 2"]),
    "same Message-ID, flagged as a draft there": (
        [arrival(1, message_id="m", remote=D), fresh(2, **TWIN)],
        ["download 1 or 2"],
    ),
    "same Message-ID, flagged as a draft here": (
        [arrival(1, message_id="m"), fresh(2, **TWIN, local=D)],
        ["download 1 or 2"],
    ),
    "same Message-ID, a draft once": (
        [arrival(1, message_id="m"), fresh(2, **TWIN, base_flags=D)],
        ["download 1 or 2"],
    ),
    "same Message-ID, no relay touched it": (
        [arrival(1, message_id="m"), fresh(2, **TWIN, received=False)],
        ["download 1 or 2"],
    ),
    "two identical files, one new UID": (
        [arrival(1, message_id="m"), fresh(2, **TWIN), fresh(3, **TWIN)],
        ["download 1 or 2 or 3"],
    ),
    "one file, two identical UIDs": (
        [arrival(1, message_id="m"), arrival(2, message_id="m"), fresh(3, **TWIN)],
        ["download 2 or 3", "download 1 or 3"],
    ),
    "the partner of the same size comes first": (
        [arrival(1, message_id="m"), fresh(2, message_id="m", size=99), fresh(3, **TWIN)],
        ["download 1 or 3 or 2"],
    ),
    "different messages on both sides": ([arrival(1), fresh(2)], ["download 1", "append 2"]),
    "no Message-ID, same size": (
        [arrival(1, message_id=""), fresh(2, message_id="")],
        ["download 1 or 2"],
    ),
    "no Message-ID, another size": (
        [arrival(1, message_id="", size=99), fresh(2, message_id="")],
        ["download 1", "append 2"],
    ),
    "no Message-ID, another size, but rewritten by the server after a cut upload": (
        [
            arrival(1, message_id="", size=99),
            fresh(2, message_id="", append_attempts=1, append_outcome="open", append_at=1.0),
        ],
        ["download 1 or 2"],
    ),
    "downloaded once, and another content": (
        [arrival(1, message_id="m", digest=b"other"), fresh(2, **TWIN)],
        ["download 1", "append 2"],
    ),
    "downloaded once, other content, but the server may have rewritten the upload": (
        [
            arrival(1, message_id="m", digest=b"other", size=99),
            fresh(2, **TWIN, append_outcome="accepted", append_at=1.0),
        ],
        ["download 1 or 2"],
    ),
    "not looked at yet: no upload may pass it": (
        [arrival(1, message_id=None, size=None), fresh(2)],
        ["download 1"],
    ),
    "not looked at yet: no mark either": (
        [arrival(1, message_id=None, size=None), expunged(2)],
        ["download 1"],
    ),
    "not looked at, and failed lately: it stops no upload": (
        [arrival(1, message_id=None, size=None, due=False, problem_count=3), fresh(2)],
        ["append 2"],
    ),
    "its download failed lately: the file that may be its twin waits": (
        [arrival(1, message_id="m", due=False), fresh(2, **TWIN)],
        [],
    ),
    "moved away and back on the server: expunged and new": (
        [arrival(1, message_id="m"), expunged(2, **TWIN, received=True)],
        ["adopt 1 as 2"],
    ),
    "undeleted here, and back on the server": (
        [arrival(1, message_id="m"), expunged(2, base=T, **TWIN)],
        ["download 1 or 2"],
    ),
    "an upload without answer has arrived": (
        [arrival(1, message_id="m"), fresh(2, **TWIN, append_attempts=1, append_outcome="open", append_at=1.0)],
        ["adopt 1 as 2"],
    ),
    "an upload without answer has arrived, its file is gone": (
        [arrival(1, message_id="m"), vanished(2, **TWIN, append_outcome="open", append_at=1.0)],
        ["download 1 or 2"],
    ),
    "numbered anew, the partner is found": ([arrival(1, message_id="m"), fresh(2, **TWIN, **OLD)], ["adopt 1 as 2"]),
    "numbered anew, the partner of a gone file is found": (
        [arrival(1, message_id="m"), vanished(2, **TWIN, **OLD, received=True)],
        ["adopt 1 as 2"],
    ),
    "an upload without answer, and a UID that was there before": (
        [
            arrival(1, message_id="", size=99),
            fresh(2, message_id="", append_outcome="open", append_at=1.0, append_uidnext=Uid(2)),
        ],
        ["download 1", "append 2"],
    ),
    "an upload without answer, and a UID that is newer": (
        [
            arrival(2, message_id="", size=99),
            fresh(1, message_id="", append_outcome="open", append_at=1.0, append_uidnext=Uid(2)),
        ],
        ["download 2 or 1"],
    ),
    "a draft edited in place: its old copy is marked when the new one is there": (
        [gone(1, uniquename=None), fresh(2, local=D)],
        ["append 2"],
    ),
    "a draft edited in place: no other file holds up the mark, also when the server refuses it": (
        [gone(1, uniquename=None), fresh(2, problem="refused", problem_count=3, due=False)],
        [MARK_THERE],
    ),
    "a file that is gone for good seeks nothing": (
        [arrival(1, message_id="m"), vanished(2, **TWIN)],
        ["download 1", "forget 2"],
    ),
    "moved within a folder: first copied, then marked": (
        [gone(1), fresh(2)],
        ["append 2", MARK_THERE],
    ),
}


@pytest.mark.parametrize(("rows", "expected"), MEETINGS.values(), ids=MEETINGS)
def test_messages_that_may_be_one(rows, expected):
    assert said(decide(rows)) == expected


INCOMPLETE = {
    "file gone": (gone(), []),
    "expunged": (expunged(), []),
    "undeleted here": (expunged(base=T), []),
    "new here": (fresh(), []),
    "upload without answer, file gone": (vanished(append_outcome="open", append_at=1.0), []),
    "gone before the server numbered anew": (vanished(**OLD), []),
    "flag added here": (both(local=S), [f"set remote 1 +{S} -0"]),
    "flag added there": (both(remote=S), [f"set local 1 +{S} -0"]),
    "undeleted on the server": (gone(base=T), ["download 1"]),
    "new on the server": (arrival(), ["download 1"]),
    "on neither side": (vanished(), ["forget 1"]),
}


@pytest.mark.parametrize(("row", "expected"), INCOMPLETE.values(), ids=INCOMPLETE)
def test_half_a_view(row, expected):
    assert said(decide([row], complete=False)) == expected


def test_half_a_view_leaves_messages_that_may_be_one_alone():
    assert said(decide([arrival(1, message_id="m"), fresh(2, **TWIN)], complete=False)) == []


READOPT = {"file gone": gone(), "expunged": expunged()}


@pytest.mark.parametrize("row", READOPT.values(), ids=READOPT)
def test_readopt_marks_nothing(row):
    assert said(decide([row], readopt=True)) == []


def test_readopt_still_brings_back_what_was_undeleted():
    assert said(decide([gone(1, base=T), expunged(2, base=T)], readopt=True)) == ["download 1", "append 2"]


MASKED = {
    "flag added here that the server does not store": (both(local=F | S), ALL & ~F, [f"set remote 1 +{S} -0"]),
    "flag taken off here that the server does not store": (both(base=F, remote=F), ALL & ~F, []),
    "flag added there comes down although it cannot go up": (both(remote=F), NONE, [f"set local 1 +{F} -0"]),
    "file gone, the server stores no deletion": (gone(), ALL & ~T, []),
    "undeleted on the server that stores no deletion": (gone(base=T), NONE, ["download 1"]),
    "nothing may be stored": (both(base=S, local=F, remote=S), NONE, []),
}


@pytest.mark.parametrize(("row", "mask", "expected"), MASKED.values(), ids=MASKED)
def test_flags_that_the_server_does_not_store(row, mask, expected):
    assert said(decide([row], mask=mask)) == expected


SENT = {"flag added here": both(local=S), "file gone": gone(), "undeleted here": expunged(base=T), "new here": fresh()}


@pytest.mark.parametrize("row", SENT.values(), ids=SENT)
def test_nothing_is_sent_to_a_read_only_mailbox(row):
    """SELECT answered [READ-ONLY]; such a server may well leave PERMANENTFLAGS out, so the mask does not help."""
    assert said(decide([row], read_only=True)) == []


@pytest.mark.parametrize(
    ("row", "expected"),
    [(both(remote=S), f"set local 1 +{S} -0"), (arrival(), "download 1"), (expunged(), MARK_HERE)],
    ids=["flag", "new", "expunged"],
)
def test_a_read_only_mailbox_still_comes_down(row, expected):
    assert said(decide([row], read_only=True)) == [expected]


def test_appends_that_wait_are_counted_and_the_latest_is_named():
    made = decide(
        [
            fresh(1, append_outcome="open", append_at=NOW - 3),
            fresh(2, append_outcome="open", append_at=NOW - 5),
            fresh(3, append_outcome="accepted", append_at=NOW - 1),
        ]
    )
    assert (made.waiting, made.open_since) == (3, NOW - 3)


def test_an_accepted_append_alone_is_nothing_to_wait_ten_seconds_for():
    made = decide([fresh(append_outcome="accepted", append_at=NOW - 1)])
    assert (made.waiting, made.open_since) == (1, 0.0)


def test_rows_without_a_partner_after_a_change_of_uidvalidity_are_counted():
    made = decide([fresh(number, **OLD) for number in range(1, 4)] + [vanished(9, **OLD)])
    assert made.unmatched == 3
    assert said(made) == ["forget 9"]


def test_downloads_are_planned_newest_first():
    assert said(decide([arrival(3), arrival(9), arrival(1)])) == ["download 9", "download 3", "download 1"]


def test_a_partner_may_not_be_appended_though_its_arrival_waits_for_another():
    rows = [arrival(1, message_id="m"), arrival(2, message_id="m", due=False), fresh(3, **TWIN)]
    assert said(decide(rows)) == ["download 1 or 3"]


# --- uploads of what is there already ---------------------------------------------------------------------------------


def test_a_few_uploads_of_what_is_paired_already_are_fine():
    made = decide([fresh(number, twins=1) for number in range(1, MAX_TWIN_UPLOADS + 1)])
    assert (len(made.appends), made.twin_uploads) == (MAX_TWIN_UPLOADS, 0)


def test_uploads_of_what_is_paired_add_up_over_a_day():
    rows = [fresh(1, twins=1), fresh(2)]
    assert said(decide(rows, counts=Counts(recent_twins=MAX_TWIN_UPLOADS - 1))) == ["append 1", "append 2"]
    made = decide(rows, counts=Counts(recent_twins=MAX_TWIN_UPLOADS))
    assert (said(made), made.twin_uploads) == (["append 2"], 1)


def test_many_uploads_of_what_is_paired_already_are_held_the_others_go_on():
    made = decide([fresh(number, twins=1) for number in range(1, MAX_TWIN_UPLOADS + 2)] + [fresh(999)])
    assert made.twin_uploads == MAX_TWIN_UPLOADS + 1
    assert said(made) == ["append 999"]


def test_uploads_of_what_is_paired_are_let_pass_when_both_sides_are_matched_anew():
    made = decide([fresh(number, twins=1) for number in range(1, MAX_TWIN_UPLOADS + 2)], readopt=True)
    assert (len(made.appends), made.twin_uploads) == (MAX_TWIN_UPLOADS + 1, 0)


# --- guards -----------------------------------------------------------------------------------------------------------


def many(kind, count):
    return [kind(number) for number in range(1, count + 1)]


GUARDS = {
    "files gone, at the limit": (many(gone, 50), {}, {}, []),
    "files gone, above the limit": (many(gone, 51), {}, {}, [TooManyGone(51, 50)]),
    "a few more gone, just after many": (many(gone, 1), {"recent_local": 50}, {}, [TooManyGone(51, 50)]),
    "a few more gone, still within the limit": (many(gone, 10), {"recent_local": 40}, {}, []),
    "nothing gone now, many of late": (many(fresh, 1), {"recent_local": 500, "recent_remote": 5000}, {}, []),
    "files gone, a limit of the user's": (many(gone, 3), {}, {"local_delete_limit": 2}, [TooManyGone(3, 2)]),
    "a limit of nought lets nothing pass": (many(gone, 1), {}, {"local_delete_limit": 0}, [TooManyGone(1, 0)]),
    "expunged, at the limit": (many(expunged, 50), {"paired": 0}, {}, []),
    "expunged, above the limit, all there was": (
        many(expunged, 51),
        {"paired": 0},
        {},
        [TooManyExpunged(51, 50, 51)],
    ),
    "expunged, above the limit, a small share": (many(expunged, 51), {"paired": 1000}, {}, []),
    "expunged, exactly the share": (many(expunged, 99), {"paired": 201}, {}, []),
    "expunged, just above the share": (many(expunged, 100), {"paired": 201}, {}, [TooManyExpunged(100, 50, 301)]),
    "expunged, above the share, but few": (many(expunged, 5), {"paired": 0}, {}, []),
    "a thousand expunged of many": (many(expunged, 1000), {"paired": 100_000}, {}, []),
    "more than a thousand expunged, whatever the share": (
        many(expunged, 1001),
        {"paired": 100_000},
        {},
        [TooManyExpunged(1001, 50, 101_001)],
    ),
    "expunged, a share of the user's": (
        many(expunged, 60),
        {"paired": 440},
        {"remote_delete_percent": 10},
        [TooManyExpunged(60, 50, 500)],
    ),
    "expunged, a limit of the user's": (many(expunged, 60), {"paired": 0}, {"remote_delete_limit": 60}, []),
    "both ways at once": (
        [*many(gone, 51), *(expunged(number) for number in range(100, 151))],
        {"paired": 0},
        {},
        [TooManyGone(51, 50), TooManyExpunged(51, 50, 51)],
    ),
    "allowed, exactly": (many(gone, 60), {}, {"allowed": 60}, []),
    "allowed, one too few": (many(gone, 60), {}, {"allowed": 59}, [TooManyGone(60, 59)]),
    "allowed: what was marked before does not count": (many(gone, 60), {"recent_local": 50}, {"allowed": 60}, []),
    "allowed: what this cycle marked counts": (
        many(gone, 60),
        {"done_local": 1},
        {"allowed": 60},
        [TooManyGone(61, 60)],
    ),
    "allowed: what this cycle marked counts, expunged": (
        many(expunged, 60),
        {"done_remote": 1, "paired": 100},
        {"allowed": 60},
        [TooManyExpunged(61, 60, 161)],
    ),
    "allowed: all was marked, nothing more is to be": ([], {"done_local": 60}, {"allowed": 60}, []),
    "allowed for fewer than the usual limit": (many(gone, 2), {}, {"allowed": 1}, [TooManyGone(2, 1)]),
    "allowed, expunged": (many(expunged, 2000), {"paired": 0}, {"allowed": 2000}, []),
    "allowed, one expunge too few": (
        many(expunged, 2000),
        {"paired": 100},
        {"allowed": 1999},
        [TooManyExpunged(2000, 1999, 2100)],
    ),
    "flags that a user set never count": (
        [both(number, local=T) for number in range(1, 501)] + [both(number, remote=T) for number in range(501, 999)],
        {"paired": 0},
        {},
        [],
    ),
    "files that were T already never count": ([gone(number, base=T, remote=T) for number in range(1, 200)], {}, {}, []),
    "what failed lately does not count": ([gone(number, due=False) for number in range(1, 200)], {}, {}, []),
    "readopt is never stopped": (many(gone, 200), {}, {"readopt": True}, []),
}


@pytest.mark.parametrize(("rows", "counts", "policy", "refusals"), GUARDS.values(), ids=GUARDS)
def test_guards(rows, counts, policy, refusals):
    made = decide(rows, counts=Counts(**counts), **policy)
    assert made.refusals == refusals
    assert not (refusals and made.actions)


def test_a_refusal_stops_everything_of_the_pairing():
    rows = [*many(gone, 51), arrival(100), fresh(101), both(102, local=S), both(103, remote=S), vanished(104)]
    assert said(decide(rows)) == []


def test_a_refusal_never_speaks_of_more_than_there_was():
    """Ten more vanish while the marks of fifty others still count: the share is of all of them."""
    (refusal,) = decide(many(expunged, 10), counts=Counts(paired=5, recent_remote=50)).refusals
    assert refusal == TooManyExpunged(60, 50, 65)


# --- words ------------------------------------------------------------------------------------------------------------

WORDS = {
    "download uid 7": Download(arrival(7)),
    "adopt uid 7 (also here as a file)": Adopt(arrival(7), fresh(1)),
    "upload": Append(fresh(1)),
    "set +S on the file": SetLocal(both(1), S, NONE),
    "set -FT on the file": SetLocal(both(1), NONE, F | T),
    "set +S-F on the file": SetLocal(both(1), S, F),
    "set +T on the file (expunged on the server)": SetLocal(both(1), T, NONE, mark=True),
    "set +\\Flagged -\\Seen on uid 7": SetRemote(both(7), F, S),
    "set +$Forwarded on uid 7": SetRemote(both(7), P, NONE),
    "set +\\Deleted on uid 7 (its file is gone)": SetRemote(gone(7), T, NONE, mark=True),
    "forget a message that is on neither side": Forget(vanished(1)),
    "set aside: too large": SetAside(fresh(1), "too large"),
}


@pytest.mark.parametrize(("words", "action"), WORDS.items(), ids=WORDS)
def test_words_of_a_printed_plan(words, action):
    assert str(action) == words


# --- whatever the rows ------------------------------------------------------------------------------------------------

FLAGS = st.integers(NONE, ALL)
ROWS = st.builds(
    Pairing,
    id=st.just(0),
    uid=st.none() | st.integers(1, 30).map(Uid),
    remote_flags=FLAGS,
    expunged=st.booleans(),
    uniquename=st.none() | st.sampled_from([Uniquename(b"u%d" % number) for number in range(20)]),
    local_flags=FLAGS,
    gone=st.booleans(),
    base_flags=FLAGS,
    refused_flags=st.just(NONE) | FLAGS,
    message_id=st.sampled_from([None, "", "a", "b"]),
    size=st.sampled_from([None, 1, 2]),
    header_digest=st.sampled_from([None, b"g", b"h"]),
    digest=st.sampled_from([None, b"x", b"y"]),
    received=st.booleans(),
    old_uidvalidity=st.sampled_from([0, 0, 7]),
    append_attempts=st.integers(0, 3),
    append_uidnext=st.none() | st.integers(1, 30).map(Uid),
    append_outcome=st.sampled_from(["", "", "open", "accepted"]),
    append_at=st.sampled_from([0.0, ANSWERED_BEFORE - 1, ANSWERED_BEFORE, NOW]),
    problem=st.just(""),
    problem_count=st.integers(0, 5),
    due=st.sampled_from([True, True, True, False]),
    stamp=st.just(FileStamp(1, 2, 3)),
    twins=st.integers(0, 2),
)
MANY_ROWS = st.lists(ROWS, max_size=12).map(lambda rows: [replace(row, id=n) for n, row in enumerate(rows, 1)])
COUNTS = st.builds(
    Counts,
    paired=st.integers(0, 40),
    recent_twins=st.sampled_from([0, 60]),
    recent_local=st.integers(0, 6),
    recent_remote=st.integers(0, 6),
)
POLICIES = st.builds(
    Policy,
    local_delete_limit=st.integers(0, 6),
    remote_delete_limit=st.integers(0, 6),
    remote_delete_percent=st.integers(0, 100),
    allowed=st.none() | st.integers(1, 6),
    readopt=st.booleans(),
    mask=st.just(ALL) | FLAGS,
    read_only=st.booleans(),
)
GENEROUS = Policy(local_delete_limit=99, remote_delete_limit=99)
LAWS = []


def law(check):
    """What holds for the plan of any rows."""
    LAWS.append(check)
    return check


def make(rows, counts, policy, *, complete) -> Plan:
    return plan(rows, counts, policy, complete=complete, answered_before=ANSWERED_BEFORE)


@settings(max_examples=2 * settings().max_examples)
@given(rows=MANY_ROWS, counts=COUNTS, policy=POLICIES, complete=st.booleans(), random=st.randoms(use_true_random=False))
def test_whatever_the_rows(rows, counts, policy, complete, random):
    """Total, deterministic, and true to each law below; once more with guards that let everything pass."""
    shuffled = random.sample(rows, len(rows))
    made = make(rows, counts, policy, complete=complete)
    assert made == make(shuffled, counts, policy, complete=complete)
    generous = replace(policy, local_delete_limit=99, remote_delete_limit=99, allowed=None)
    half = make(rows, counts, generous, complete=False)
    without_both_views_nothing_is_appended_adopted_or_marked(half)
    readopting = replace(generous, readopt=True)
    readopt_marks_nothing(make(rows, counts, readopting, complete=complete))
    whole = make(rows, counts, generous, complete=True)
    assert not whole.refusals
    for check in LAWS:
        check(rows, counts, policy, made)
        check(rows, counts, generous, whole)


@law
def a_refusal_empties_the_plan(rows, counts, policy, made):
    assert not (made.refusals and made.actions)


@law
def marks_never_exceed_the_limits(rows, counts, policy, made):
    here, there = len(made.local_marks), len(made.remote_marks)
    if policy.allowed is not None:
        assert max(here, there) <= policy.allowed
        return
    assert not there or there + counts.recent_local <= policy.local_delete_limit
    lately = here + counts.recent_remote
    share = policy.remote_delete_percent * (counts.paired + lately)
    assert not here or lately <= policy.remote_delete_limit or (100 * lately <= share and lately <= 1000)


def without_both_views_nothing_is_appended_adopted_or_marked(made):
    assert [made.appends, made.adopts, made.local_marks, made.remote_marks] == [[], [], [], []]
    assert all(not download.partners for download in made.downloads)


def readopt_marks_nothing(made):
    assert [made.local_marks, made.remote_marks, made.refusals] == [[], [], []]


def may_be_one(waiting: Pairing, file: Pairing) -> bool:
    """A UID without a file could be this message, told without the program's own helpers."""
    if waiting.message_id is None:
        return waiting.due
    if waiting.message_id != (file.message_id or ""):
        return False
    answer = file.append_outcome != "" and waiting.uid >= (file.append_uidnext or 0)
    if waiting.digest and file.digest and waiting.digest != file.digest:
        return answer
    return bool(waiting.message_id) or waiting.size == file.size or answer


@law
def no_append_or_mark_while_an_undownloaded_twin_is_possible(rows, counts, policy, made):
    waiting = [row for row in rows if row.uid and not row.expunged and row.uniquename is None and not row.gone]
    for action in (*made.appends, *made.local_marks):
        assert not any(may_be_one(row, action.row) for row in waiting)


@law
def nobody_is_a_partner_and_handled_otherwise_too(rows, counts, policy, made):
    partners = {partner.id for download in made.downloads for partner in download.partners}
    partners |= {adopt.partner.id for adopt in made.adopts}
    assert all(seeks_uid(row) for row in rows if row.id in partners)
    others = (*made.appends, *made.local_marks, *made.aside, *made.forgets, *made.local_flags, *made.remote_flags)
    assert not partners & {action.row.id for action in others}


@law
def a_row_gets_one_action_or_flags_on_both_sides(rows, counts, policy, made):
    exclusive = [action.row.id for action in made.actions if action not in made.remote_flags]
    assert len(exclusive) == len(set(exclusive))
    assert all(action.row.due or isinstance(action, SetLocal | Forget) for action in made.actions)


@law
def adoption_without_a_body_is_sure(rows, counts, policy, made):
    for adopt in made.adopts:
        row, partner = adopt.row, adopt.partner
        assert row.message_id
        assert row.message_id == partner.message_id
        assert row.size == partner.size
        assert partner.received
        assert not (row.remote_flags | partner.local_flags) & D
        assert [other.id for other in rows if other.message_id == row.message_id and seeks_uid(other)] == [partner.id]


@law
def only_what_the_server_takes_is_sent(rows, counts, policy, made):
    for action in (*made.remote_flags, *made.remote_marks):
        assert not policy.read_only
        assert not (action.add | action.remove) & (~policy.mask | action.row.refused_flags)
        assert action.add | action.remove
        assert not action.add & action.remove
        assert action.row.has_remote


@law
def a_flag_that_is_set_was_news_on_the_other_side(rows, counts, policy, made):
    """Nothing is ever marked deleted but because the other side was, or vanished, since both agreed."""
    for action in (*made.local_flags, *made.local_marks):
        row = action.row
        assert not action.add & ~(row.remote_flags | (T if row.expunged else NONE)) & ~row.local_flags
        assert not action.add & row.base_flags
    for action in made.remote_flags:
        assert not action.add & (~action.row.local_flags | action.row.base_flags)
    for action in made.remote_marks:
        assert action.row.gone
        assert not action.row.base_flags & T


@law
def uploads_go_out_once_for_each_unanswered_attempt(rows, counts, policy, made):
    for action in made.appends:
        row = action.row
        assert not policy.read_only
        assert row.has_local
        assert not row.has_remote
        assert row.expunged or (
            not row.old_uidvalidity
            and row.append_outcome != "accepted"
            and row.append_attempts < MAX_APPEND_ATTEMPTS
            and not (row.append_outcome == "open" and row.append_at >= ANSWERED_BEFORE)
        )


@law
def the_order_is_safe(rows, counts, policy, made):
    ranks = [
        (Adopt, SetLocal, SetRemote, Download, Append).index(type(action))
        if not getattr(action, "mark", False) and not isinstance(action, SetAside | Forget)
        else (5 if isinstance(action, SetLocal | SetRemote) else 6)
        for action in made.actions
    ]
    assert ranks == sorted(ranks)
    uids = [download.row.uid for download in made.downloads]
    assert uids == sorted(uids, reverse=True)


@given(base=FLAGS, local=FLAGS, remote=FLAGS, mask=FLAGS, refused=FLAGS)
def test_flags_once_applied_need_no_second_plan(base, local, remote, mask, refused):
    """Both sides end with the merge of all three, but for what the server does not take."""
    row = both(base=base, local=local, remote=remote, refused_flags=refused)
    made = plan([row], Counts(), replace(GENEROUS, mask=mask), complete=True, answered_before=ANSWERED_BEFORE)
    for action in made.local_flags:
        local = (local | action.add) & ~action.remove
    for action in made.remote_flags:
        remote = (remote | action.add) & ~action.remove
    merged = merge(row.base_flags, row.local_flags, row.remote_flags)
    assert local == merged
    assert (remote ^ merged) & mask & ~refused == 0
    settled = replace(
        row, base_flags=(base & (local ^ remote)) | (local & remote), local_flags=local, remote_flags=remote
    )
    again = plan([settled], Counts(), replace(GENEROUS, mask=mask), complete=True, answered_before=ANSWERED_BEFORE)
    assert again.actions == ()


@law
def what_is_alive_on_a_side_is_never_forgotten(rows, counts, policy, made):
    assert all(not action.row.has_local and not action.row.has_remote for action in made.forgets)
