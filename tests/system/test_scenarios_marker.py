# SPDX-License-Identifier: MIT
"""The marker in the folder against the state file: which of them is older, whose they are, and what follows.

Row by row the table of docs/algorithm.md. (Same generation with nothing missing is every other test's second run;
with messages missing it is test_scenarios_guards.py.)
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.run import Setup
from tests.system.conftest import MakeSetup

MARKER = ".pushpull"


@pytest.fixture
def synced(setup: Setup) -> Setup:
    """A, B and C on both sides."""
    setup.put_remotes(["A", "B", "C"])
    setup.sync()
    setup.assert_both("A B C")
    return setup


def keep_folder(setup: Setup) -> Path:
    """A backup of the Maildir folder, marker and all."""
    backup = setup.base / "backup"
    shutil.copytree(setup.maildir, backup, symlinks=True)
    return backup


def restore_folder(setup: Setup, backup: Path) -> None:
    shutil.rmtree(setup.maildir)
    shutil.copytree(backup, setup.maildir, symlinks=True)


def keep_state(setup: Setup) -> Path:
    backup = setup.base / "old-state"
    backup.mkdir()
    for path in setup.base.glob("state.db*"):
        shutil.copy2(path, backup / path.name)
    return backup


def lose_state(setup: Setup) -> None:
    for path in setup.base.glob("state.db*"):
        path.unlink()


def restore_state(setup: Setup, backup: Path) -> None:
    lose_state(setup)
    for path in backup.iterdir():
        shutil.copy2(path, setup.base / path.name)


def test_marker_is_no_mail(synced: Setup) -> None:
    marker = synced.maildir / MARKER
    assert marker.is_file()
    first = marker.read_bytes().split(b"\n")[0]
    assert b":" not in first, "must never look like a header field"
    assert len(synced.files()) == 3


def test_generation_rises_only_with_deliveries_and_uploads(synced: Setup) -> None:
    marker = synced.maildir / MARKER
    before = marker.read_bytes()
    synced.flag_remote("A", "+F")
    synced.flag_local("B", "+S")
    synced.sync()
    assert marker.read_bytes() == before
    synced.put_remote("D")
    synced.sync()
    after_delivery = marker.read_bytes()
    assert after_delivery != before
    synced.put_local("E")
    synced.sync()
    assert marker.read_bytes() != after_delivery


# --- ours, behind the state: the folder was restored from a backup ----------------------------------------------


def test_folder_restored_and_nothing_missing(synced: Setup) -> None:
    """Nothing is missing, since what came later is gone on both sides: remote flags win."""
    backup = keep_folder(synced)
    synced.put_remote("D")
    synced.flag_remote("A", "+FS")
    synced.sync()
    synced.flag_local("A", "-F")
    synced.sync()
    synced.remove_local("D")
    synced.sync()
    synced.expunge_remote("D")
    synced.sync()
    synced.assert_both("A:S B C")
    restore_folder(synced, backup)
    synced.sync()
    synced.assert_both("A:S B C")
    synced.sync_again_changes_nothing()


def test_folder_restored_fetches_again_what_came_since(synced: Setup) -> None:
    backup = keep_folder(synced)
    synced.put_remotes(["D", "E"])
    synced.put_local("F", "S")
    synced.flag_remote("A", "+F")
    synced.sync()
    synced.flag_remote("B", "+R")
    restore_folder(synced, backup)
    synced.sync()
    synced.assert_both("A:F B:R C D E F:S")
    synced.sync_again_changes_nothing()


def test_folder_restored_from_before_a_removal(synced: Setup) -> None:
    """A file that had been removed is back: its message is marked there, and remote flags win."""
    backup = keep_folder(synced)
    synced.remove_local("A")
    synced.put_remote("D")
    synced.sync()
    synced.assert_state(remote="A:T B C D", local="B C D")
    restore_folder(synced, backup)
    synced.sync()
    found = synced.assert_equal_sides()
    assert [word.partition(":")[0] for word in found] == ["A", "B", "C", "D"]
    synced.sync_again_changes_nothing()


# --- ours, ahead of the state: the state was restored from a backup ----------------------------------------------


def test_state_restored_is_rebuilt_by_adoption(synced: Setup) -> None:
    backup = keep_state(synced)
    synced.put_remote("D")
    synced.put_local("E")
    synced.flag_remote("A", "+F")
    synced.sync()
    synced.put_remote("G")
    synced.sync()
    restore_state(synced, backup)
    synced.forget_sent()
    synced.sync("--yes")
    assert synced.count_sent("APPEND") == 0
    synced.assert_both("A:F B C D E G")
    synced.sync_again_changes_nothing()


def test_state_restored_and_messages_missing_are_fetched_again(synced: Setup) -> None:
    backup = keep_state(synced)
    synced.put_remote("D")
    synced.sync()
    restore_state(synced, backup)
    synced.remove_local("B", "D")
    synced.sync("--yes")
    synced.assert_both("A B C D")
    synced.sync_again_changes_nothing()


# --- none, and the state knows the pairing ------------------------------------------------------------------------


def test_marker_lost_is_written_anew(synced: Setup) -> None:
    (synced.maildir / MARKER).unlink()
    run = synced.sync()
    assert run.err, "it is told"
    assert (synced.maildir / MARKER).is_file()
    synced.assert_both("A B C")
    synced.sync_again_changes_nothing()


def test_marker_lost_and_messages_missing(synced: Setup) -> None:
    (synced.maildir / MARKER).unlink()
    synced.remove_local("A", "B")
    run = synced.sync(expect=65)
    assert "--allow-mass-delete" in run.err
    assert "--readopt" in run.err
    synced.assert_state(remote="A B C", local="C")
    synced.sync("--allow-mass-delete=1", expect=65)
    synced.assert_state(remote="A B C", local="C")
    synced.sync("--allow-mass-delete=2")
    synced.assert_state(remote="A:T B:T C", local="C")
    synced.sync_again_changes_nothing()


def test_marker_lost_and_messages_downloaded_again(synced: Setup) -> None:
    (synced.maildir / MARKER).unlink()
    synced.remove_local("A", "B")
    synced.sync(expect=65)
    synced.sync("--readopt")
    synced.assert_both("A B C")
    synced.sync_again_changes_nothing()


# --- somebody else's ------------------------------------------------------------------------------------------------


def test_folders_of_two_pairings_swapped(make_setup: MakeSetup) -> None:
    setup = make_setup(pairings={"one": ("one", "INBOX"), "two": ("two", "Two")})
    with setup.client() as client:
        client.create("Two")
    setup.put_remotes(["A", "B"], pairing="one")
    setup.put_remotes(["C", "D"], pairing="two")
    setup.sync("one", "two")
    one, two, aside = setup.folder("one"), setup.folder("two"), setup.base / "aside"
    one.rename(aside)
    two.rename(one)
    aside.rename(two)
    run = setup.sync("one", "two", expect=65)
    assert "--readopt" in run.err
    setup.assert_state(remote="A B", local="C D", pairing="one")
    setup.assert_state(remote="C D", local="A B", pairing="two")
    setup.sync("one", "two", "--readopt")
    for pairing in ("one", "two"):
        setup.assert_both("A B C D", pairing)
    setup.sync_again_changes_nothing("one", "two")


def test_marker_of_an_unknown_state(synced: Setup, make_setup: MakeSetup) -> None:
    other = make_setup()
    other.put_remote("X")
    other.sync()
    shutil.copy2(other.maildir / MARKER, synced.maildir / MARKER)
    before = synced.freeze()
    run = synced.sync(expect=65)
    assert "--readopt" in run.err
    assert synced.freeze() == before
    synced.sync("--readopt")
    synced.assert_both("A B C")
    synced.sync_again_changes_nothing()


def test_marker_of_an_unknown_state_is_not_lifted_by_yes(synced: Setup, make_setup: MakeSetup) -> None:
    other = make_setup()
    other.put_remote("X")
    other.sync()
    shutil.copy2(other.maildir / MARKER, synced.maildir / MARKER)
    synced.remove_local("A")
    synced.sync("--yes", expect=65)
    synced.assert_state(remote="A B C", local="B C")


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"garbage\n" * 1000])
def test_marker_that_is_damaged(synced: Setup, content: bytes) -> None:
    """Whatever it is taken for, nothing may be lost: damaged is not ours."""
    (synced.maildir / MARKER).write_bytes(content)
    synced.remove_local("A")
    run = synced.sync(expect=65)
    assert "--readopt" in run.err
    synced.assert_state(remote="A B C", local="B C")
    synced.sync("--readopt")
    synced.assert_both("A B C")
    synced.sync_again_changes_nothing()


# --- the state does not know the pairing ----------------------------------------------------------------------------


def test_state_lost_asks_and_adopts(synced: Setup) -> None:
    synced.flag_local("A", "+F")
    lose_state(synced)
    run = synced.sync(expect=65)
    assert "--yes" in run.err
    synced.forget_sent()
    synced.sync("--yes")
    assert synced.downloads() == []
    assert synced.count_sent("APPEND") == 0
    synced.assert_both("A:F B C")
    synced.sync_again_changes_nothing()


def test_state_lost_and_messages_removed_since_come_back(synced: Setup) -> None:
    """Nobody remembers that they were there, so nothing is believed deleted."""
    synced.remove_local("A")
    synced.expunge_remote("B")
    lose_state(synced)
    synced.sync("--yes")
    synced.assert_both("A B C")
    synced.sync_again_changes_nothing()


def test_copied_folder_under_another_configuration(synced: Setup, make_setup: MakeSetup) -> None:
    other = make_setup()
    shutil.copytree(synced.maildir, other.maildir)
    other.known = synced.known
    other.sync(expect=65)
    other.sync("--yes")
    other.assert_both("A B C")
    other.sync_again_changes_nothing()
    synced.sync_again_changes_nothing()


def test_first_sync_of_an_empty_folder_asks_nothing(setup: Setup) -> None:
    setup.put_remote("A")
    setup.make_folder()
    setup.sync()
    setup.assert_both("A")


def test_first_sync_makes_the_folder(setup: Setup) -> None:
    setup.sync()
    assert sorted(path.name for path in setup.maildir.iterdir() if path.is_dir()) == ["cur", "new", "tmp"]
    setup.sync_again_changes_nothing()


def test_first_sync_of_a_folder_with_mail_needs_yes(setup: Setup) -> None:
    setup.put_local("A")
    setup.put_remote("B")
    run = setup.sync(expect=65)
    assert "--yes" in run.err
    setup.assert_state(remote="B", local="A")
    setup.sync("--yes")
    setup.assert_both("A B")
    setup.sync_again_changes_nothing()


def test_readopt_alone_changes_nothing(synced: Setup) -> None:
    synced.flag_remote("A", "+F")
    synced.sync()
    synced.forget_sent()
    synced.sync("--readopt")
    assert synced.downloads() == []
    assert synced.count_sent("APPEND") == 0
    synced.assert_both("A:F B C")
    synced.sync_again_changes_nothing()


def test_moved_maildir_and_state(synced: Setup) -> None:
    """Nothing remembers an absolute path."""
    moved = synced.base / "moved"
    moved.mkdir()
    for path in [synced.base / "mail", *synced.base.glob("state.db*")]:
        path.rename(moved / path.name)
    synced.base = moved
    synced.sync_again_changes_nothing()


def test_another_account_under_the_old_name(make_setup: MakeSetup) -> None:
    """The user edits the login: another account's UIDs must not pass as known."""
    first, second = make_setup(), make_setup()
    first.put_remotes(["A", "B", "C"])
    second.put_remotes(["X", "Y", "Z"])
    first.sync()
    first.user, first.known = second.user, first.known | second.known
    run = first.sync(expect=65)
    assert "--yes" in run.err
    first.assert_state(remote="X Y Z", local="A B C")
    first.sync("--yes")
    first.assert_both("A B C X Y Z")
    first.sync_again_changes_nothing()


def test_mailbox_paired_with_another_folder(synced: Setup) -> None:
    """State is of a pair: the old folder's rows mean nothing for the new one."""
    synced.pairings = {"inbox": ("other", "INBOX")}
    synced.sync()
    synced.assert_both("A B C")
    synced.remove_local("A")
    synced.sync()
    synced.assert_state(remote="A:T B C", local="B C")
    synced.pairings = {"inbox": ("inbox", "INBOX")}
    synced.sync()
    synced.assert_both("A:T B C")
    synced.sync_again_changes_nothing()
