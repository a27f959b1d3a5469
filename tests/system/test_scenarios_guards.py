# SPDX-License-Identifier: MIT
"""Too many deletions at once, in either direction, stop a pairing before anything is changed."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.support.proxy import Proxy
from tests.support.run import Run, Setup
from tests.system.conftest import MakeSetup


def names(count: int, start: int = 0) -> list[str]:
    return [f"M{number}" for number in range(start, start + count)]


def filled(setup: Setup, count: int, letters: str = "") -> Setup:
    """`count` messages on both sides."""
    setup.put_remotes(names(count), letters)
    setup.sync()
    assert len(setup.assert_equal_sides()) == count
    return setup


def refused(setup: Setup, *args: str) -> Run:
    """A run that is refused and changes nothing on either side."""
    before = setup.freeze()
    run = setup.sync(*args, expect=65)
    assert setup.freeze() == before, "refused, yet something changed"
    return run


def marked(words: list[str]) -> int:
    return sum(word.endswith("T") and ":" in word for word in words)


def test_51_files_removed_are_refused(each: Setup) -> None:
    filled(each, 60)
    each.remove_local(*names(51))
    run = refused(each)
    assert "51" in run.err
    assert "inbox" in run.err
    assert "--allow-mass-delete" in run.err
    refused(each)  # and again: it is not believed the second time either
    refused(each, "--allow-mass-delete=50")
    each.sync("--allow-mass-delete=51")
    assert marked(each.remote_state()) == 51
    assert len(each.local_state()) == 9
    each.sync_again_changes_nothing()


def test_50_files_removed_are_marked(each: Setup) -> None:
    filled(each, 60)
    each.remove_local(*names(50))
    each.sync()
    assert marked(each.remote_state()) == 50
    each.sync_again_changes_nothing()


def test_51_expunged_of_60_are_refused(each: Setup) -> None:
    filled(each, 60)
    each.expunge_remote(*names(51))
    run = refused(each)
    assert "51" in run.err
    assert "--allow-mass-delete" in run.err
    refused(each)
    refused(each, "--allow-mass-delete=50")
    each.sync("--allow-mass-delete=51")
    assert marked(each.local_state()) == 51
    assert len(each.remote_state()) == 9
    each.sync_again_changes_nothing()


def test_50_expunged_of_60_are_marked(each: Setup) -> None:
    filled(each, 60)
    each.expunge_remote(*names(50))
    each.sync()
    assert marked(each.local_state()) == 50
    each.sync_again_changes_nothing()


@pytest.mark.parametrize(("total", "code"), [(160, 0), (150, 65)])
def test_51_expunged_count_against_a_third_of_the_mailbox(setup: Setup, total: int, code: int) -> None:
    filled(setup, total)
    setup.expunge_remote(*names(51))
    setup.sync(expect=code)
    assert marked(setup.local_state()) == (0 if code else 51)
    if not code:
        setup.sync_again_changes_nothing()


def test_slices_add_up_within_the_window(setup: Setup) -> None:
    filled(setup, 80)
    setup.remove_local(*names(30))
    setup.sync()
    setup.remove_local(*names(30, start=30))
    run = refused(setup)
    assert "--allow-mass-delete" in run.err
    assert marked(setup.remote_state()) == 30
    setup.sync_again_changes_nothing(expect=65, quiet=False)


def test_slices_of_expunges_add_up_within_the_window(setup: Setup) -> None:
    filled(setup, 80)
    setup.expunge_remote(*names(30))
    setup.sync()
    setup.expunge_remote(*names(30, start=30))
    refused(setup)
    assert marked(setup.local_state()) == 30
    setup.sync_again_changes_nothing(expect=65, quiet=False)


def test_what_is_allowed_is_allowed_once_in_a_run(behind: Setup, proxy: Proxy) -> None:
    """Messages that vanish while the run is under way do not get an allowance of their own."""
    proxy.lack("UIDPLUS")  # so the mailbox is looked at again after the upload
    proxy.on_answer(r"\[APPENDUID [^]]*\] ?", replace=b"")
    filled(behind, 10)
    behind.expunge_remote(*names(3))
    behind.put_local("new")
    proxy.on_command(r"APPEND", count=1, before=lambda: behind.expunge_remote(*names(3, start=3)))
    run = behind.sync("--allow-mass-delete=3", expect=65)
    assert "--allow-mass-delete=6" in run.err
    assert marked(behind.local_state()) == 3
    behind.sync("--allow-mass-delete=3")
    assert marked(behind.local_state()) == 6
    behind.sync_again_changes_nothing()


def test_flags_that_a_user_sets_never_count(each: Setup) -> None:
    filled(each, 60)
    for name in names(60):
        each.flag_local(name, "+T")
    each.sync()
    assert marked(each.remote_state()) == 60
    each.sync_again_changes_nothing()


def test_purging_what_was_marked_before_never_counts(each: Setup) -> None:
    """A mail program that cleans up 60 files that both sides know as deleted is everyday life."""
    filled(each, 60, "T")
    each.remove_local(*names(60))
    each.sync()
    assert marked(each.remote_state()) == 60
    each.sync_again_changes_nothing()


def test_expunging_what_was_marked_before_never_counts(each: Setup) -> None:
    filled(each, 60, "T")
    each.put_remote("keep")
    each.sync()
    each.expunge_remote(*names(60))
    each.sync()
    each.assert_state(remote="keep")
    assert marked(each.local_state()) == 60
    each.sync_again_changes_nothing()


@pytest.mark.parametrize("section", ["safety", "pairing inbox"])
def test_limits_of_the_configuration(make_setup: MakeSetup, section: str) -> None:
    setup = make_setup(
        settings={section: {"local_delete_limit": "3", "remote_delete_limit": "2", "remote_delete_percent": "10"}}
    )
    filled(setup, 20)
    setup.remove_local(*names(4))
    refused(setup)
    setup.sync("--allow-mass-delete=4")
    setup.expunge_remote(*names(3, start=10))
    refused(setup)
    setup.sync("--allow-mass-delete=3")
    setup.sync_again_changes_nothing()


def test_a_refusal_ends_when_the_files_are_back(setup: Setup) -> None:
    filled(setup, 60)
    aside = setup.base / "aside"
    shutil.copytree(setup.maildir / "new", aside)
    setup.remove_local(*names(60))
    refused(setup)
    for path in aside.iterdir():
        shutil.copy2(path, setup.maildir / "new" / path.name)
    setup.sync()
    assert len(setup.assert_equal_sides()) == 60
    assert marked(setup.remote_state()) == 0
    setup.sync_again_changes_nothing()


def test_the_limit_applies_to_each_pairing_by_itself(make_setup: MakeSetup) -> None:
    setup = make_setup(pairings={"one": ("one", "INBOX"), "two": ("two", "Two")})
    with setup.client() as client:
        client.create("Two")
    for pairing in ("one", "two"):
        setup.put_remotes(names(60), pairing=pairing)
    setup.sync("one", "two")
    setup.remove_local(*names(51), pairing="one")
    setup.flag_local("M59", "+F", pairing="one")
    setup.remove_local(*names(2), pairing="two")
    run = setup.sync("one", "two", expect=65)
    assert "one" in run.err
    assert marked(setup.remote_state("one")) == 0
    assert "M59:F" not in setup.remote_state("one"), "a refused pairing sends nothing at all"
    assert marked(setup.remote_state("two")) == 2, "the other one goes on"


def test_expunged_all_of_few_is_believed_after_a_second_look(each: Setup) -> None:
    filled(each, 4)
    each.expunge_remote(*names(4))
    each.sync()
    each.assert_state(remote="", local=" ".join(f"{name}:T" for name in names(4)))
    each.sync_again_changes_nothing()


# --- the folder is not the one it was -------------------------------------------------------------------------


def test_folder_renamed_and_a_fresh_one_in_its_place(setup: Setup) -> None:
    """The story that the original's manual warns of; and both of its ways out."""
    filled(setup, 60)
    setup.maildir.rename(setup.maildir.with_name("kept"))
    setup.make_folder()
    run = refused(setup)
    assert "--allow-mass-delete" in run.err
    assert "--readopt" in run.err
    assert "60" in run.err
    setup.sync("--readopt")
    assert len(setup.assert_equal_sides()) == 60
    assert marked(setup.remote_state()) == 0
    setup.sync_again_changes_nothing()


def test_folder_renamed_and_its_loss_accepted(setup: Setup) -> None:
    filled(setup, 60)
    setup.maildir.rename(setup.maildir.with_name("kept"))
    setup.make_folder()
    refused(setup, "--allow-mass-delete=59")
    setup.sync("--allow-mass-delete=60")
    assert marked(setup.remote_state()) == 60
    setup.sync_again_changes_nothing()


def test_folder_renamed_with_few_messages_is_no_less_refused(setup: Setup) -> None:
    filled(setup, 3)
    setup.maildir.rename(setup.maildir.with_name("kept"))
    setup.make_folder()
    run = refused(setup)
    assert "--readopt" in run.err


@pytest.mark.parametrize("option", [(), ("--yes",)])
def test_folder_missing(setup: Setup, option: tuple[str, ...]) -> None:
    filled(setup, 3)
    setup.maildir.rename(setup.base / "elsewhere")
    run = refused(setup, *option)
    assert "--readopt" in run.err
    assert not setup.maildir.exists()
    (setup.base / "elsewhere").rename(setup.maildir)
    setup.sync_again_changes_nothing()


def test_all_of_the_maildir_missing(setup: Setup) -> None:
    """A disk that is not mounted."""
    filled(setup, 3)
    (setup.base / "mail").rename(setup.base / "unmounted")
    setup.sync(expect=65)
    assert marked(setup.remote_state()) == 0
    (setup.base / "mail").mkdir()
    setup.sync(expect=65)
    assert marked(setup.remote_state()) == 0


@pytest.mark.parametrize("directory", ["cur", "new"])
def test_directory_that_leads_nowhere(setup: Setup, directory: str) -> None:
    """A dangling symlink in place of a directory, the marker still there: no knowledge, so no absence."""
    filled(setup, 2, "S")
    setup.put_remote("unread")
    setup.sync()
    (setup.maildir / directory).rename(setup.base / "aside")
    os.symlink("/nowhere/at/all", setup.maildir / directory)
    run = setup.run()
    assert run.code in (65, 74), run
    assert marked(setup.remote_state()) == 0
    (setup.maildir / directory).unlink()
    (setup.base / "aside").rename(setup.maildir / directory)
    setup.sync()
    assert len(setup.assert_equal_sides()) == 3
    setup.sync_again_changes_nothing()
