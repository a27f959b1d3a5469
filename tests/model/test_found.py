# SPDX-License-Identifier: MIT
"""Histories in which random search over the real server once found a fault, each as short as it gets."""

from __future__ import annotations

from pushpull.flags import DELETED


def test_a_restored_folder_that_lacks_a_bucket(make_story):
    """What an older copy lacks is downloaded again, also where it lacks the whole directory."""
    story = make_story(local={"buckets": "yes"})
    story.edit("client_adds")
    story.sync()
    story.copy_folder()
    story.edit("client_adds", 1)
    story.sync()
    story.restore_folder()
    story.sync()
    assert len(story.world.folder.files) == 2


def test_a_restored_folder_with_a_draft_as_it_was_before_it_was_one(story):
    """The name is known, its file holds other content than it did: that of the copy, without the letter D."""
    story.edit("client_adds")
    story.sync()
    story.copy_folder()
    story.edit("user_flags", on=True)  # D
    story.sync()
    story.edit("user_edits_draft")
    story.sync()
    story.restore_folder()
    story.sync()


def test_a_restored_folder_with_an_earlier_draft_deletes_no_later_one(story):
    """What an older copy lacks was never deleted: no more was what its draft says since."""
    story.edit("client_adds", what=3)  # D
    story.sync()
    story.copy_folder()
    story.edit("user_edits_draft")
    story.sync()
    edited = [uid for uid, shown in story.world.server.messages.items() if not shown.flags & DELETED]
    story.restore_folder()
    story.sync()
    assert not story.world.server.messages[edited[0]].flags & DELETED


def test_an_edit_that_nobody_saw_goes_with_the_folder(story):
    """A copy put in the place of a draft that was edited since, and a mailbox that is empty meanwhile: what the copy
    holds is mail, the edit was nobody's to keep."""
    story.edit("client_adds", what=3)  # D
    story.sync()
    story.copy_folder()
    story.edit("user_edits_draft")
    story.renumber("empty")
    story.restore_folder()
    story.sync()
