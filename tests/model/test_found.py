# SPDX-License-Identifier: MIT
"""Histories in which random search over the real server once found a fault, each as short as it gets."""

from __future__ import annotations


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
