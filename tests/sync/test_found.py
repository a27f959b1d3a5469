# SPDX-License-Identifier: MIT
"""Stories in which random search once found a fault, each as short as it gets."""

from __future__ import annotations

import pytest

from pushpull.flags import DELETED
from tests.sync.actors import Story


def live_uids(story: Story) -> list[int]:
    return [uid for uid, message in story.world.server.messages.items() if not message.flags & DELETED]


def at(name: str, event):
    """Events for every step; the event happens at the first one of that name."""
    done = []

    def happen(step: str) -> None:
        if step == name and not done:
            done.append(step)
            event(step)

    return dict.fromkeys(range(1000), happen)


def test_a_rename_in_a_folder_that_never_rests_is_no_new_message(story):
    """No scan was undisturbed, so nothing is known to be missing; then nothing is known to be new either."""
    story.client_adds(0)
    story.sync()
    story.user_renames(0)
    story.world.folder.busy_scans = 100
    story.sync_with({})
    assert len(story.world.server.messages) == 1
    story.world.folder.busy_scans = 0
    story.sync()
    assert live_uids(story) == [1]


def test_a_deletion_after_a_first_run_that_could_not_write_its_marker(story):
    """The state counted the generation, the folder never got its marker: it is not another folder."""
    story.client_adds(0)
    story.user_adds(1)
    story.sync_with(at("local.write_marker<", story.fault("lost")))
    story.user_unlinks(0)
    story.sync()


def test_an_upload_that_is_expunged_before_its_uid_was_told(story):
    story.serve(uidplus=False)
    story.user_adds(0)
    story.sync_with(at("remote.append>", lambda _: story.client_expunges(0)))
    story.sync()


def test_the_uid_of_a_copy_that_was_uploaded_goes_to_no_copy_that_never_was(story):
    """The attempt of the first was committed, then the program died; the second was uploaded by the next run."""
    story.serve(uidplus=False)
    story.user_adds(0)
    story.user_adds(0)
    story.sync_with(at("remote.append<", story.fault("kill")))
    story.sync()
    assert len(live_uids(story)) == 2


def test_a_new_file_that_is_renamed_before_it_is_read(story):
    """It was delivered, its row was not committed: only its content tells that it is no other message."""
    story.client_adds(0)
    story.sync_with(at("local.deliver>", story.fault("lost")))
    assert len(story.world.folder.files) == 1
    story.sync_with(at("local.scan>", lambda _: story.user_renames(0)))
    story.sync()
    assert len(story.world.folder.files) == len(story.world.server.messages) == 1


@pytest.mark.parametrize("which", [0, 1])
def test_a_deleted_copy_does_not_take_the_other_one_along_when_uids_change(story, which):
    story.client_adds(0)
    story.client_adds(0)
    story.sync()
    story.user_unlinks(which)
    story.sync()
    assert len(live_uids(story)) == 1
    story.renumber()
    story.sync()
    assert len(live_uids(story)) == 1


def test_one_unreadable_file_does_not_stop_the_others(story):
    story.user_adds(0)
    story.user_adds(1)
    story.client_adds(2)
    story.world.folder.files[b"new/user1"].unreadable = True
    ran = story.world.run()
    assert ran.error is None
    assert (ran.tally.downloaded, ran.tally.uploaded, ran.tally.set_aside) == (1, 1, 1)
    story.world.folder.files[b"new/user1"].unreadable = False
    story.sync()


def test_a_message_that_comes_back_after_its_own_mark_was_half_done(story):
    """The server shows the mark that the program itself set before it died; nobody else deleted the message."""
    story.user_adds(0)
    story.sync()
    story.user_unlinks(0)
    story.sync_with(at("remote.store>", story.fault("kill")))
    story.user_adds(0)
    story.sync()
    assert len(live_uids(story)) == 1


def test_a_message_that_comes_back_after_its_mark_was_done_and_not_settled(story):
    story.user_adds(0)
    story.sync()
    story.user_unlinks(0)
    stored = []

    def die_after_the_next_commit(step: str) -> None:
        stored.append(step)
        if stored[0] == "remote.store>" and step == "commit>":
            story.world.runs[-1].script.kill()
        if step != "remote.store>" and stored[0] != "remote.store>":
            stored.clear()

    story.sync_with(dict.fromkeys(range(1000), die_after_the_next_commit))
    story.user_adds(0)
    story.sync()
    assert len(live_uids(story)) == 1


def test_what_came_and_went_in_a_round_of_new_uids_is_not_expected(story):
    """A fault of the model, not of the program: it counted on the message that the client had expunged itself."""
    story.client_adds(0)
    story.client_adds(1)
    story.client_expunges(1)
    story.renumber()
    story.renumber()
    story.client_adds(2)
    story.client_expunges(1)
    story.sync()
