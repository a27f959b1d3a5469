# SPDX-License-Identifier: MIT
"""Rows as observed: what each fact of either side changes in the state, and what the state is asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushpull.errors import ConnectionLost
from pushpull.flags import ANSWERED, DELETED, DRAFT, FLAGGED, SEEN
from pushpull.model import (
    FileStamp,
    Fingerprint,
    Identity,
    LocalFile,
    ModSeq,
    PairKey,
    RemoteView,
    Uid,
    UidSet,
    Uniquename,
)
from pushpull.observed import RemoteRows, has_seekers, subtract
from pushpull.observed_local import Absent, LocalRows
from pushpull.values import replace
from tests.support.rows import columns, memory_store, plans_of, put, row, rows

T, S, F, R, D = DELETED, SEEN, FLAGGED, ANSWERED, DRAFT
FINGERPRINT = Fingerprint("m@example.org", 120, b"header", b"digest", received=True)
STAMP = FileStamp(100, 1_700_000_000_123_456_789, 42)
FILE = {"uniquename": b"u", "directory": "cur", "info": b":2,"}


@pytest.fixture
def store():
    """One pair, and another one with the same UIDs and names, which nothing may touch."""
    opened = memory_store()
    opened.add_pair(PairKey("mail.example.org", "me", "Other", "Other"))
    for uid in range(1, 8):
        put(opened, id=900 + uid, pair=2, uid=uid, remote_flags=F, uniquename=b"u%d" % uid, digest=b"digest")
    put(opened, id=950, pair=2, uniquename=b"u")
    put(opened, id=951, pair=2, uid=9, expunged=1, uniquename=b"other")
    before = rows(opened, pair=2)
    yield opened
    assert rows(opened, pair=2) == before
    opened.close()


@pytest.fixture
def remote(store):
    return RemoteRows(store, 1)


@pytest.fixture
def local(store):
    return LocalRows(store, 1)


def view(uid, flags=0, *keywords) -> RemoteView:
    return RemoteView(Uid(uid), flags, keywords, ModSeq(0))


def file(name, flags=0, directory="cur", info=b":2,") -> LocalFile:
    return LocalFile(Uniquename(name), directory, info, flags)


def load(store, local, *files) -> None:
    """As after a scan that showed just these."""
    seen = {each.uniquename: each for each in files}
    known = {name for (name,) in store.db.execute("SELECT uniquename FROM pairing WHERE pair = 1 AND NOT gone")}
    local.load(seen, known - seen.keys() - {None})


def alive(store) -> int:
    return sum(each["uniquename"] is not None and not each["gone"] for each in rows(store))


# --- the server's side: facts -----------------------------------------------------------------------------------------


def test_a_uid_that_was_never_seen_is_a_new_row(store, remote):
    remote.note_views([view(5, S | F, "$Label1", "junk")])
    (found,) = rows(store)
    assert (found["uid"], found["remote_flags"], found["keywords"]) == (5, S | F, "$Label1 junk")
    assert (found["uniquename"], found["gone"], found["expunged"], found["base_flags"]) == (None, 0, 0, 0)
    assert found["message_id"] is None


def test_flags_as_shown_replace_what_was_known_and_leave_the_local_side_alone(store, remote):
    number = put(store, uid=5, remote_flags=S, keywords="old", local_flags=R, base_flags=S, **FILE)
    before = row(store, number)
    remote.note_views([view(5, F)])
    assert row(store, number) == {**before, "remote_flags": F, "keywords": ""}


def test_a_uid_that_is_shown_is_alive_whatever_was_believed(store, remote):
    number = put(store, uid=5, remote_flags=S | T, expunged=1, **FILE)
    remote.note_views([view(5, S)])
    assert columns(store, number, "remote_flags", "expunged") == (S, 0)


def test_a_uid_that_comes_back_marked_is_alive_too(store, remote):
    number = put(store, uid=5, remote_flags=T, expunged=1, **FILE)
    remote.note_views([view(5, T)])
    assert columns(store, number, "remote_flags", "expunged") == (T, 0)


def test_what_is_seen_twice_changes_nothing(store, remote):
    views = [view(5, S, "word"), view(6)]
    remote.note_views(views)
    before = store.db.total_changes
    remote.note_views(iter(views))
    assert store.db.total_changes == before


def test_one_uid_shown_twice_in_a_batch_counts_as_shown_last(store, remote):
    remote.note_views([view(5, S), view(5, F)])
    assert [found["remote_flags"] for found in rows(store)] == [F]


def test_no_views_are_fine(store, remote):
    remote.note_views([])
    assert rows(store) == []


def test_an_identity_is_noted_for_uids_without_a_file_only(store, remote):
    new = put(store, uid=5)
    known = put(store, uid=6, message_id="own", size=1, **FILE)
    remote.note_identities([Identity(Uid(uid), 77, "d", "mid") for uid in (5, 6, 7)])
    assert columns(store, new, "message_id", "size") == ("mid", 77)
    assert columns(store, known, "message_id", "size") == ("own", 1)
    assert len(rows(store)) == 2


def test_expunged_uids_gain_deleted_and_keep_the_rest(store, remote):
    number = put(store, uid=5, remote_flags=S, base_flags=S, local_flags=S, **FILE)
    before = row(store, number)
    remote.note_expunged(UidSet.of([5]))
    assert row(store, number) == {**before, "expunged": 1, "remote_flags": S | T}


def test_vanished_may_name_uids_that_never_existed(store, remote):
    numbers = [put(store, uid=uid) for uid in (3, 5, 4_000_000_000)]
    remote.note_expunged(UidSet([(1, 4), (6, 4_294_967_295)]))
    assert [columns(store, number, "expunged")[0] for number in numbers] == [1, 0, 1]


def test_rows_without_a_uid_are_never_expunged(store, remote):
    number = put(store, **FILE)
    remote.note_expunged(UidSet([(1, 4_294_967_295)]))
    assert columns(store, number, "expunged", "remote_flags") == (0, 0)


# --- the server's side: questions -------------------------------------------------------------------------------------

UIDS = st.frozensets(st.integers(1, 40))


@given(alive=UIDS, expunged=UIDS, listed=UIDS, below=st.none() | st.integers(1, 45))
def test_what_a_list_of_uids_tells(alive, expunged, listed, below):
    store = memory_store()
    remote = RemoteRows(store, 1)
    expunged -= alive
    for uid in alive | expunged:
        put(store, uid=uid, expunged=uid in expunged)
    put(store, uniquename=b"u")
    bound = below or 99
    assert remote.alive(below) == sum(uid < bound for uid in alive)
    assert set(remote.absent_from(UidSet.of(listed), below)) == {uid for uid in alive - listed if uid < bound}
    assert set(remote.revived_by(UidSet.of(listed))) == expunged & listed
    assert set(remote.alive_in(UidSet.of(listed))) == alive & listed
    assert set(remote.unknown_in(UidSet.of(listed))) == listed - alive - expunged
    assert remote.highest(3) == tuple(sorted(alive, reverse=True)[:3])
    remote.note_expunged(UidSet.of(listed))
    assert remote.alive(None) == len(alive - listed)
    store.close()


def test_the_highest_uid_there_can_be_counts(store, remote):
    put(store, uid=4_294_967_295)
    assert remote.alive(None) == 1
    assert remote.highest(1) == (4_294_967_295,)
    assert list(remote.absent_from(UidSet(), None)) == [4_294_967_295]


SEEKERS = {
    "a new file": (FILE, True),
    "a file whose UID was just expunged": ({"uid": 3, "expunged": 1, "remote_flags": T, **FILE}, True),
    "a file whose UID was expunged, undeleted here": (
        {"uid": 3, "expunged": 1, "remote_flags": T, "base_flags": T, **FILE},
        True,
    ),
    "a file whose UID was expunged, both marked": (
        {"uid": 3, "expunged": 1, "remote_flags": T, "base_flags": T, "local_flags": T, **FILE},
        False,
    ),
    "an upload without an answer": ({"append_outcome": "open", **FILE}, True),
    "an upload without an answer whose file is gone": ({"append_outcome": "open", "gone": 1, **FILE}, True),
    "an accepted upload whose file is gone": ({"append_outcome": "accepted", "gone": 1, **FILE}, True),
    "a gone file from before a change of UIDVALIDITY": ({"old_uidvalidity": 7, "gone": 1, **FILE}, True),
    "a file with a UID": ({"uid": 3, **FILE}, False),
    "a gone file with a UID": ({"uid": 3, "gone": 1, **FILE}, False),
    "gone and expunged": ({"uid": 3, "gone": 1, "expunged": 1, **FILE}, False),
    "expunged before it was downloaded": ({"uid": 3, "expunged": 1}, False),
}


@pytest.mark.parametrize(("other", "seeks"), SEEKERS.values(), ids=SEEKERS)
def test_arrivals_are_identified_only_when_some_row_seeks_a_uid(store, remote, other, seeks):
    put(store, uid=10)
    put(store, uid=11, message_id="known")
    put(store, uid=12, expunged=1)
    put(store, uid=13, uniquename=b"v")
    put(store, uid=14, gone=1)
    put(store, **other)
    assert has_seekers(store, 1) is seeks
    assert remote.unidentified() == (UidSet.of([10]) if seeks else UidSet())


CONTRADICTIONS = {
    "the same message": ("m", None),
    "another message": ("other", 5),
    "a message without an id": ("", 5),
}


@pytest.mark.parametrize(("shown", "expected"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_uid_that_means_another_message_now(store, remote, shown, expected):
    put(store, uid=5, message_id="m", **FILE)
    put(store, uid=6, message_id="not downloaded")
    put(store, uid=7, message_id="", uniquename=b"nameless")
    put(store, uid=8, message_id="ü", uniquename=b"rewritten")  # Cyrus shows other bytes for it
    identities = [Identity(Uid(uid), 1, "", "odd") for uid in (4, 6, 7, 8)]
    assert remote.contradicted([*identities, Identity(Uid(5), 1, "", shown)]) == expected


# --- the server's side: a UIDVALIDITY died ----------------------------------------------------------------------------

DEAD = {
    "on both sides": (
        {"uid": 5, "remote_flags": S, "local_flags": F, "base_flags": S, "refused_flags": R, **FILE},
        {
            "uid": None,
            "remote_flags": 0,
            "local_flags": F,
            "base_flags": S,
            "refused_flags": 0,
            "old_uidvalidity": 77,
        },
    ),
    "file gone": (
        {"uid": 5, "remote_flags": S, "local_flags": T, "gone": 1, **FILE},
        {"uid": None, "remote_flags": 0, "local_flags": T, "gone": 1, "old_uidvalidity": 77},
    ),
    "file gone, its name taken by another": (
        {"uid": 5, "local_flags": T, "gone": 1},
        {"uid": None, "gone": 1, "old_uidvalidity": 77},
    ),
    "not downloaded": ({"uid": 5}, None),
    "expunged before it was downloaded": ({"uid": 5, "expunged": 1}, None),
    "expunged, the file is here": (
        {"uid": 5, "expunged": 1, "remote_flags": T, "base_flags": T, **FILE},
        {"uid": None, "expunged": 1, "remote_flags": T, "base_flags": T, "old_uidvalidity": 0},
    ),
    "new here": (FILE, {"uid": None, "old_uidvalidity": 0}),
    "an open upload": (
        {"append_outcome": "open", "append_uidnext": 900, **FILE},
        {"uid": None, "append_outcome": "open", "old_uidvalidity": 0, "append_uidnext": 1},
    ),
    "waiting since an earlier change": ({"old_uidvalidity": 3, **FILE}, {"uid": None, "old_uidvalidity": 3}),
}


@pytest.mark.parametrize(("before", "after"), DEAD.values(), ids=DEAD)
def test_when_a_uidvalidity_dies(store, remote, before, after):
    number = put(store, digest=b"d", message_id="m", **before)
    waiting = remote.detach(77)
    found = row(store, number)
    if after is None:
        assert found == {}
    else:
        assert {name: found[name] for name in after} == after
        assert (found["digest"], found["message_id"]) == (b"d", "m")
    assert waiting == (after is not None and after["old_uidvalidity"] == 77)


def test_a_uidvalidity_that_was_never_known_leaves_a_trace_too(store, remote):
    number = put(store, uid=5, **FILE)
    assert remote.detach(0) == 1
    assert columns(store, number, "old_uidvalidity") == (1,)


def test_a_second_death_leaves_nothing_more_to_do(store, remote):
    put(store, uid=5, **FILE)
    remote.detach(7)
    before = rows(store)
    assert remote.detach(8) == 0
    assert rows(store) == before


# --- the folder's side: a scan ----------------------------------------------------------------------------------------


def test_a_scan_tells_what_is_absent_and_what_is_new(store, local):
    put(store, id=1, uniquename=b"here")
    put(store, id=2, uniquename=b"away", digest=b"d", local_flags=S, unsynced_boot="b1", directory="a3/cur")
    put(store, id=3, uniquename=b"gone before", gone=1)
    put(store, id=4, uid=9)
    load(store, local, file(b"here"), file(b"new \xff", F, "a3/new", b""))
    assert local.absent() == [Absent(2, Uniquename(b"away"), b"d", S, "b1", "a3/cur")]
    assert list(local.fresh()) == [file(b"new \xff", F, "a3/new", b"")]


def test_names_are_compared_whole_and_as_bytes(store, local):
    put(store, id=1, uniquename=b"1.a")
    put(store, id=2, uniquename=b"1.A")
    load(store, local, file(b"1.a.b"), file(b"1."), file(b"1.A"))
    assert [absent.id for absent in local.absent()] == [1]
    assert [fresh.uniquename for fresh in local.fresh()] == [b"1.", b"1.a.b"]


def test_a_second_scan_replaces_the_first(store, local):
    put(store, id=1, uniquename=b"a")
    load(store, local)
    load(store, local, file(b"a"))
    assert local.absent() == []
    assert local.note_seen() == 1  # where it is was not known


def test_an_empty_folder_lacks_everything(store, local):
    for number in (3, 1, 2):
        put(store, id=number, uniquename=b"n%d" % number)
    load(store, local)
    assert [absent.id for absent in local.absent()] == [1, 2, 3]
    assert alive(store) == 3


def test_a_scan_takes_in_flags_and_places_of_known_files(store, local):
    same = put(store, uid=20, remote_flags=S, base_flags=S, local_flags=S, refused_flags=R, **{**FILE, "info": b":2,S"})
    moved = put(store, uid=21, uniquename=b"moved", directory="new", info=b"", refused_flags=R)
    flagged = put(store, uid=22, uniquename=b"flagged", directory="cur", info=b":2,", refused_flags=R)
    back = put(store, uid=23, uniquename=b"back", directory="cur", info=b":2,", gone=1, local_flags=T | S, base_flags=T)
    before = row(store, same)
    load(
        store,
        local,
        file(b"u", S, info=b":2,S"),
        file(b"moved", directory="cur", info=b":2,a"),
        file(b"flagged", F, info=b":2,F"),
        file(b"back", S, info=b":2,S"),
    )
    assert local.note_seen() == 3
    assert row(store, same) == before
    assert columns(store, moved, "directory", "info", "local_flags", "refused_flags") == ("cur", b":2,a", 0, R)
    assert columns(store, flagged, "info", "local_flags", "refused_flags") == (b":2,F", F, 0)
    assert columns(store, back, "gone", "local_flags", "base_flags") == (0, S, T)
    assert local.note_seen() == 0


def test_a_gone_file_gains_deleted_and_keeps_the_rest(store, local):
    number = put(store, uid=20, remote_flags=S, base_flags=S, local_flags=S, **FILE)
    before = row(store, number)
    local.note_gone([number])
    assert row(store, number) == {**before, "gone": 1, "local_flags": S | T}
    assert alive(store) == 0


def test_a_name_that_holds_another_message_now_is_free(store, local):
    number = put(store, uid=20, local_flags=D, digest=b"old", **FILE)
    local.note_changed_content(number)
    assert columns(store, number, "gone", "local_flags", "uniquename", "uid") == (1, D | T, None, 20)
    local.add_files([(file(b"u", D), FINGERPRINT, STAMP)])
    assert [found["digest"] for found in rows(store)] == [b"old", b"digest"]


def test_what_was_never_delivered_is_an_arrival_again(store, local):
    number = put(
        store, uid=20, remote_flags=S, base_flags=S, local_flags=S | T, gone=1, unsynced_boot="b", digest=b"d", **FILE
    )
    local.never_delivered([number])
    names = (
        "uid",
        "remote_flags",
        "uniquename",
        "directory",
        "info",
        "local_flags",
        "base_flags",
        "gone",
        "unsynced_boot",
    )
    assert columns(store, number, *names) == (20, S, None, "", b"", 0, 0, 0, "")


def test_a_restored_folder_shows_old_flags(store, local):
    both = put(store, uid=20, remote_flags=S, base_flags=S, local_flags=F, **FILE)
    gone = put(store, uid=21, base_flags=S, local_flags=S | T, gone=1, uniquename=b"g")
    fresh = put(store, base_flags=0, local_flags=F, uniquename=b"f")
    local.take_local_as_base()
    assert [columns(store, number, "base_flags")[0] for number in (both, gone, fresh)] == [F, S, 0]


def test_a_new_file_is_a_row_with_all_that_was_read_of_it(store, local):
    local.add_files([(file(b"1.\xff", S | F, "a3/cur", b":2,FSx"), FINGERPRINT, STAMP)])
    (found,) = rows(store)
    assert {name: found[name] for name in ("uid", "expunged", "gone", "base_flags", "remote_flags")} == {
        "uid": None,
        "expunged": 0,
        "gone": 0,
        "base_flags": 0,
        "remote_flags": 0,
    }
    assert [found[name] for name in ("uniquename", "directory", "info", "local_flags")] == [
        b"1.\xff",
        "a3/cur",
        b":2,FSx",
        S | F,
    ]
    fingerprint = ("message_id", "size", "header_digest", "digest", "received")
    assert [found[name] for name in fingerprint] == ["m@example.org", 120, b"header", b"digest", 1]
    assert [found[name] for name in ("stamp_size", "stamp_mtime", "stamp_inode")] == [100, STAMP.mtime_ns, 42]


def test_a_renamed_file_keeps_its_row(store, local):
    number = put(store, uid=20, local_flags=S | T, base_flags=S, gone=1, digest=b"d", **FILE)
    local.note_renamed(number, file(b"new name", S, "new", b""), STAMP)
    names = ("uniquename", "directory", "info", "local_flags", "gone", "stamp_mtime", "uid", "base_flags", "digest")
    assert columns(store, number, *names) == (b"new name", "new", b"", S, 0, STAMP.mtime_ns, 20, S, b"d")


def test_a_touched_file_gets_its_new_stamp_only(store, local):
    number = put(store, uid=20, **FILE)
    before = row(store, number)
    local.note_stamp(number, STAMP)
    stamp = {"stamp_size": 100, "stamp_mtime": STAMP.mtime_ns, "stamp_inode": 42}
    assert row(store, number) == {**before, **stamp}


# --- the folder's side: questions -------------------------------------------------------------------------------------


def test_a_file_that_comes_back_may_be_that_of_a_gone_row_with_a_live_uid(store, local):
    put(store, id=1, uid=20, gone=1, digest=b"digest", uniquename=b"a", local_flags=T, directory="cur")
    put(store, id=2, uid=21, gone=1, digest=b"digest", local_flags=S | T)
    put(store, id=3, uid=22, gone=1, digest=b"another")
    put(store, id=4, uid=23, gone=1, expunged=1, digest=b"digest")
    put(store, id=5, gone=1, digest=b"digest")
    put(store, id=6, uid=24, digest=b"digest", uniquename=b"f")
    assert local.gone_rows_like([b"digest"]) == [
        Absent(1, Uniquename(b"a"), b"digest", T, "", "cur"),
        Absent(2, Uniquename(b""), b"digest", S | T, "", ""),
    ]


def test_drafts_and_unanswered_uploads_that_are_known(store, local):
    stamp = {"stamp_size": 1, "stamp_mtime": 2, "stamp_inode": 3}
    put(store, id=1, local_flags=D | S, digest=b"d", **FILE, **stamp)
    put(store, id=2, local_flags=S, uniquename=b"no draft")
    put(store, id=3, local_flags=D | T, uniquename=b"gone", gone=1)
    put(store, id=4, local_flags=D | T, gone=1)
    put(store, id=5, append_outcome="open", digest=b"sent", uniquename=b"written to while it was sent?")
    put(store, id=6, append_outcome="open", gone=1)
    assert (local.drafts(), local.unanswered()) == ({1}, {5})
    assert local.known_contents([1, 3, 4]) == [(1, file(b"u", D | S), FileStamp(1, 2, 3), b"d")]
    assert [number for number, *_ in local.known_contents(None)] == [1, 2, 5]


def test_files_that_an_earlier_boot_did_not_sync(store, local):
    put(store, id=1, unsynced_boot="earlier", stamp_size=77, local_flags=S, **FILE)
    put(store, id=2, unsynced_boot="this", uniquename=b"b")
    put(store, id=3, unsynced_boot="", uniquename=b"c")
    put(store, id=4, unsynced_boot="earlier", uniquename=b"d", gone=1)
    put(store, id=5, unsynced_boot="earlier")
    assert local.unsynced("this") == [(1, file(b"u", S), 77)]


def test_what_an_earlier_boot_delivered_was_found_whole(store, local):
    for number, boot in enumerate(("earlier", "this", "", "even earlier"), 1):
        put(store, id=number, unsynced_boot=boot, uniquename=b"n%d" % number)
    local.note_synced("this")
    assert [found["unsynced_boot"] for found in rows(store)] == ["", "this", "", ""]


def test_the_question_after_earlier_boots_passes_over_what_this_one_delivered(store, local):
    """A first download without fsync leaves a row for each message."""
    for plan in (
        *plans_of(store, lambda: local.unsynced("this")),
        *plans_of(store, lambda: local.note_synced("this")),
    ):
        assert plan.count("pairing_unsynced (pair=? AND unsynced_boot<?)") == 1, plan
        assert plan.count("pairing_unsynced (pair=? AND unsynced_boot>?)") == 1, plan


def test_how_many_files_are_known(store, local):
    put(store, uniquename=b"a")
    put(store, uid=20, uniquename=b"b")
    put(store, uniquename=b"c", gone=1)
    put(store, uid=21)
    assert alive(store) == 2


def test_the_question_after_gone_rows_follows_an_index(store, local):
    (plan,) = plans_of(store, lambda: local.gone_rows_like([b"digest"]))
    assert "pairing_digest" in plan


# --- sets of UIDs -----------------------------------------------------------------------------------------------------

RANGES = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 12)).map(lambda r: (r[0], r[0] + r[1])), max_size=8)


@given(left=RANGES, right=RANGES)
def test_subtract(left, right):
    left, right = UidSet(left), UidSet(right)
    assert subtract(left, right) == UidSet.of(set(left) - set(right))


def test_subtract_costs_ranges_not_uids():
    most = UidSet([(1, 4_294_967_295)])
    assert subtract(most, UidSet.of([1, 7, 4_294_967_295])) == UidSet([(2, 6), (8, 4_294_967_294)])
    assert subtract(most, most) == subtract(UidSet(), most) == UidSet()
    assert subtract(most, UidSet()) == most


# --- transactions -----------------------------------------------------------------------------------------------------


def test_a_batch_that_breaks_off_leaves_nothing(store, remote):
    def broken():
        yield view(5)
        raise ConnectionLost("cut")

    with pytest.raises(ConnectionLost, match="cut"):
        remote.note_views(broken())
    assert rows(store) == []


def test_all_facts_may_join_one_transaction(store, remote, local):
    def both():
        with store.transaction():
            remote.note_views([view(5)])
            load(store, local, file(b"u"))
            local.add_files([(file(b"u"), FINGERPRINT, replace(STAMP, size=1))])
            raise ValueError("mishap")

    with pytest.raises(ValueError, match="mishap"):
        both()
    assert rows(store) == []
