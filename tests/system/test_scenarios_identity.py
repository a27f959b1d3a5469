# SPDX-License-Identifier: MIT
"""Which message is which: UIDVALIDITY changes, reused UIDs, lost counters, adoption, copies, Message-IDs."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from tests.support.messages import mail
from tests.support.run import Setup
from tests.system.conftest import MakeSetup


def moved_to_new_numbers(setup: Setup, names: list[str]) -> None:
    """Messages first in line are expunged and the rest renumbered, so that every UID means another message."""
    before = setup.uids(*names)
    setup.server.renumber(setup.user)
    assert setup.uids(*names) != before


# --- UIDVALIDITY --------------------------------------------------------------------------------------------------


def test_uidvalidity_changes_and_uids_stay(each: Setup) -> None:
    each.put_remotes([f"M{number}" for number in range(20)], "S")
    each.sync()
    each.server.new_uidvalidity(each.user)
    each.forget_sent()
    each.sync()
    assert each.downloads() == []
    assert each.count_sent("APPEND") == 0
    each.assert_both(" ".join(f"M{number}:S" for number in range(20)))
    each.sync_again_changes_nothing()


def test_uids_are_renumbered(each: Setup) -> None:
    names = [f"M{number}" for number in range(10)]
    each.put_remotes(["X", "Y", *names], "S")
    each.sync()
    each.expunge_remote("X", "Y")
    each.sync()
    moved_to_new_numbers(each, names)
    each.forget_sent()
    each.sync()
    assert each.count_sent("APPEND") == 0
    each.assert_state(remote=" ".join(f"{name}:S" for name in names))
    survivors = [word for word in each.local_state() if word[0] == "M"]
    assert survivors == each.remote_state()
    each.sync_again_changes_nothing(quiet=False)


def test_uids_are_renumbered_without_message_ids(each: Setup) -> None:
    names = ["M1", "M2", "M3"]
    bodies = {name: each.know(name, mail(name, message_id=None)) for name in [*names, "X"]}
    each.put_remotes([bodies["X"], *(bodies[name] for name in names)], "S")
    each.sync()
    each.expunge_remote("X")
    each.sync()
    each.remove_local("X")
    each.sync()
    moved_to_new_numbers(each, names)
    each.forget_sent()
    each.sync()
    assert each.count_sent("APPEND") == 0
    each.assert_both("M1:S M2:S M3:S")
    each.sync_again_changes_nothing()


def test_uidvalidity_changes_while_changes_wait(each: Setup) -> None:
    """What was not yet synchronised survives: flags taken off and put on, removals, new mail, on either side."""
    each.put_remotes(["A", "B", "C", "D"], "S")
    each.sync()
    each.flag_local("A", "-S")
    each.flag_local("B", "+F")
    each.remove_local("C")
    each.flag_remote("D", "+R")
    each.put_local("N")
    each.put_remote("O")
    each.server.new_uidvalidity(each.user)
    each.sync()
    each.assert_state(remote="A B:FS C:ST D:RS N O", local="A B:FS D:RS N O")
    each.sync_again_changes_nothing()


def test_uidvalidity_changes_and_known_but_gone_mail_stays_gone(setup: Setup) -> None:
    setup.put_remotes(["A", "B"])
    setup.sync()
    setup.remove_local("A")
    setup.sync()
    setup.assert_state(remote="A:T B", local="B")
    setup.server.new_uidvalidity(setup.user)
    setup.sync()
    setup.assert_state(remote="A:T B", local="B")
    setup.sync_again_changes_nothing()


def test_guard_survives_a_uidvalidity_change(setup: Setup) -> None:
    names = [f"M{number}" for number in range(60)]
    setup.put_remotes(names)
    setup.sync()
    setup.remove_local(*names[:51])
    setup.server.new_uidvalidity(setup.user)
    setup.sync(expect=65)
    assert not [word for word in setup.remote_state() if word.endswith(":T")]


def test_mailbox_deleted_and_made_anew(make_setup: MakeSetup) -> None:
    """Old messages have no partner: neither uploaded nor marked, but held and told."""
    setup = make_setup(pairings={"work": ("work", "Work")})
    with setup.client() as client:
        client.create("Work")
    setup.put_remotes(["A", "B", "C"])
    setup.sync()
    with setup.client() as client:
        client.delete_mailbox("Work")
        client.create("Work")
    setup.put_remote("N")
    run = setup.run()
    assert run.code in (0, 65), run
    assert run.err, "it is told"
    assert "--readopt" in run.err
    setup.assert_state(remote="N")
    assert [word for word in setup.local_state() if word != "N"] == ["A", "B", "C"]
    setup.sync("--readopt")
    setup.assert_both("A B C N")
    setup.sync_again_changes_nothing()


def test_mailbox_deleted(make_setup: MakeSetup) -> None:
    setup = make_setup(pairings={"work": ("work", "Work")})
    with setup.client() as client:
        client.create("Work")
    setup.put_remotes(["A", "B", "C"])
    setup.sync()
    with setup.client() as client:
        client.delete_mailbox("Work")
    run = setup.sync(expect=78)
    assert "Work" in run.err
    assert setup.local_state() == ["A", "B", "C"]


# --- a server that went back in time ------------------------------------------------------------------------------


def test_uids_reused_under_one_uidvalidity(each: Setup) -> None:
    """The server's files restored to an older copy, then other mail: all counters equal the saved ones, yet the
    last UIDs are other mail."""
    each.put_remotes(["A", "B", "C"])
    each.sync()
    backup = each.base / "server-backup"
    each.server.back_up(each.user, backup)
    each.put_remotes(["D", "E", "F"])
    each.sync()
    each.assert_both("A B C D E F")
    before = each.uids("D", "E", "F")
    each.server.restore(each.user, backup)
    each.put_remotes(["X", "Y", "Z"])
    assert each.uids("X", "Y", "Z") == before
    each.remove_local("E")
    each.run()
    remote, local = each.remote_state(), each.local_state()
    assert remote == ["A", "B", "C", "X", "Y", "Z"], "a stranger was marked"
    assert set(local) == {"A", "B", "C", "D", "F", "X", "Y", "Z"}
    each.sync("--readopt")
    each.assert_both("A B C D F X Y Z")
    each.sync_again_changes_nothing()


@pytest.mark.needs("lose_modseq")
def test_modseq_falls_and_climbs_back(each: Setup) -> None:
    """The index is lost, and with it HIGHESTMODSEQ; meanwhile an expunge, a new message and a flag, which no delta
    will name."""
    each.put_remotes(["A", "B", "C"])
    each.sync()
    for _ in range(5):
        each.flag_remote("A", "+F")
        each.flag_remote("A", "-F")
    each.sync()
    each.expunge_remote("B")
    each.server.lose_modseq(each.user)
    each.put_remote("D")
    each.flag_remote("C", "+R")
    each.sync()
    each.assert_state(remote="A C:R D", local="A B:T C:R D")
    each.sync_again_changes_nothing()


# --- the state file is tampered with ------------------------------------------------------------------------------


def test_watermark_reset(each: Setup) -> None:
    """UIDNEXT and MODSEQ forgotten: everything is looked at again, nothing is copied again."""
    each.put_remotes(["A", "B", "C"], "S")
    each.put_local("D")
    each.sync("--yes")
    with contextlib.closing(sqlite3.connect(each.state)) as state, state:
        state.execute("UPDATE pair SET uidnext = 1, modseq = 0, scan_modseq = 0, scan_uid = 0")
    each.sync_again_changes_nothing()
    each.assert_both("A:S B:S C:S D")


# --- adoption -----------------------------------------------------------------------------------------------------


def test_100_messages_on_both_sides_are_adopted_without_a_download(each: Setup) -> None:
    names = [f"M{number}" for number in range(100)]
    each.put_remotes(names, "S")
    for name in names:
        each.put_local(name, "F")
    inodes = {file.path.stat().st_ino for file in each.files()}
    each.sync(expect=65)
    each.forget_sent()
    each.sync("--yes")
    assert each.downloads() == []
    assert each.count_sent("APPEND") == 0
    each.assert_both(" ".join(f"{name}:FS" for name in names))
    assert {file.path.stat().st_ino for file in each.files()} == inodes
    each.sync_again_changes_nothing()


@pytest.mark.parametrize(("there", "here"), [(3, 2), (2, 3), (3, 0), (0, 3), (1, 1)])
def test_identical_copies_are_as_many_on_each_side(setup: Setup, there: int, here: int) -> None:
    setup.put_remotes(["A"] * there)
    for _ in range(here):
        setup.put_local("A")
    setup.put_remote("B")
    setup.sync("--yes")
    setup.assert_both(" ".join(["A"] * max(there, here)) + " B")
    setup.sync_again_changes_nothing()


def test_one_of_identical_copies_is_removed(setup: Setup) -> None:
    setup.put_remotes(["A", "A", "A"])
    setup.sync()
    setup.named("A")[1].path.unlink()
    setup.sync()
    setup.assert_state(remote="A A A:T", local="A A")
    setup.sync_again_changes_nothing()


def test_another_identical_copy_arrives(each: Setup) -> None:
    each.put_remote("A")
    each.sync()
    each.put_local("A")
    each.sync()
    each.assert_both("A A")
    each.put_remote("A")
    each.sync()
    each.assert_both("A A A")
    each.sync_again_changes_nothing()


def test_many_identical_copies_are_held_until_readopted(setup: Setup) -> None:
    """Another tool on the folder would look like this; who wants the copies says so, and it is not held against the
    next one."""
    names = [f"m{number}" for number in range(51)]
    setup.put_remotes(names)
    setup.sync()
    for name in names:
        setup.put_local(name)
    run = setup.sync()
    assert "held: 51" in run.err
    assert "--readopt uploads them" in run.err
    assert len(setup.remote()) == 51
    setup.sync("--readopt")
    setup.assert_both(" ".join(2 * names))
    setup.sync_again_changes_nothing()
    setup.put_local("m0")
    setup.sync()
    setup.assert_both(" ".join([*(2 * names), "m0"]))


def test_one_message_id_and_two_bodies(each: Setup) -> None:
    """A draft and its edit: the same header, one digit differs. Neither may take the other's place."""
    one = each.know("one", mail("draft", body="Pay 100.", received=False))
    two = each.know("two", mail("draft", body="Pay 200.", received=False))
    each.put_remote(one)
    each.put_local(two)
    each.sync("--yes")
    each.assert_both("one two")
    each.sync_again_changes_nothing()


def test_one_message_id_twice_on_one_side(each: Setup) -> None:
    one = each.know("one", mail("list", headers="List-Id: a"))
    two = each.know("two", mail("list", headers="List-Id: b"))
    each.put_remotes([one, two])
    each.sync()
    each.assert_both("one two")
    each.expunge_remote("one")
    each.sync()
    each.assert_state(remote="two", local="one:T two")
    each.sync_again_changes_nothing()


MALFORMED = [
    "Message-ID: <a@b@c>",
    "Message-ID: no-brackets@example.org",
    "Message-ID: <x@example.org> (a comment)",
    "Message-ID: (nested (comment)) <x@example.org>",
    "Message-ID:",
    "Message-ID: <>",
    "Message-Id: <first@example.org>\nMESSAGE-ID: <second@example.org>",
    "Message-ID:\n <folded@example.org>",
    "Message-ID: <with space@example.org>",
    "Message-ID: <unclosed@example.org",
    "Message-ID: <" + "x" * 2000 + "@example.org>",
]


def test_malformed_message_ids(each: Setup) -> None:
    """Both sides read the same out of them, so both copies are one message."""
    names = [f"M{number}" for number in range(len(MALFORMED))]
    for name, fields in zip(names, MALFORMED, strict=True):
        body = each.know(name, mail(name, headers=fields, message_id=None))
        each.put_remote(body, "S")
        each.put_local(body)
    each.sync("--yes")
    each.assert_both(" ".join(f"{name}:S" for name in names))
    each.sync_again_changes_nothing()


def test_no_message_id_on_both_sides(each: Setup) -> None:
    bodies = [each.know(name, mail(name, message_id=None)) for name in ("A", "B")]
    each.put_remotes(bodies)
    each.put_local(bodies[0], "F")
    each.sync("--yes")
    each.assert_both("A:F B")
    each.sync_again_changes_nothing()


# --- files that are renamed ---------------------------------------------------------------------------------------


def test_file_renamed_is_the_same_message(each: Setup) -> None:
    """Another uniquename for the same bytes: no upload, no deletion."""
    each.put_remotes(["A", "B"], "S")
    each.sync()
    for number, file in enumerate(each.named("A")):
        file.path.rename(file.path.with_name(f"1234567890.renamed{number}.host:2,FS"))
    each.forget_sent()
    each.sync()
    assert each.count_sent("APPEND") == 0
    each.assert_both("A:FS B:S")
    each.sync_again_changes_nothing()


def test_moved_between_folders(make_setup: MakeSetup) -> None:
    """A file moved to another folder, its name kept: copied there, marked here, lost nowhere."""
    setup = make_setup(pairings={"one": ("one", "INBOX"), "two": ("two", "Two")})
    with setup.client() as client:
        client.create("Two")
    setup.put_remotes(["A", "B"], "S", pairing="one")
    setup.sync("one", "two")
    moved = setup.named("A", "one")[0].path
    moved.rename(setup.folder("two") / "cur" / moved.name)
    setup.sync("one", "two")
    setup.assert_state(remote="A:ST B:S", local="B:S", pairing="one")
    setup.assert_both("A:S", pairing="two")
    setup.sync_again_changes_nothing("one", "two")
