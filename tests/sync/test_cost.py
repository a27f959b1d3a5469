# SPDX-License-Identifier: MIT
"""What a run costs SQLite follows what changed, not the mailbox: counted in steps of its virtual machine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pushpull import store
from pushpull.flags import FLAGGED, SEEN
from tests.support.messages import crlf, mail
from tests.sync.actors import Story

FEW, MANY = 100, 600
_VALUE = re.compile(r"x?'[^']*'|\b\d+(\.\d+)?\b")

# A few steps for each message: the count of an index, for the server's EXISTS; the names in a directory that changed.
GROWS = ("SELECT (SELECT count(*) FROM pairing INDEXED BY pairing_uid", "SELECT max(id), CAST(group_concat(")


def filled(directory: Path, messages: int) -> Story:
    directory.mkdir()
    story = Story(directory)
    story.serve("qresync")
    for number in range(messages):
        story.world.server.add(crlf(mail(f"old{number}")), SEEN)
    story.world.settle()
    return story


def cost(story: Story, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Of one run, by statement, its values left out."""
    steps: Counter[str] = Counter()
    statement = ""

    def begin(text: str) -> None:
        nonlocal statement
        statement = _VALUE.sub("?", text)
        steps[statement] += 1

    def step() -> int:
        steps[statement] += 1
        return 0

    configure = store._configure
    with monkeypatch.context() as patch:

        def counted(connection):
            connection.set_trace_callback(begin)
            connection.set_progress_handler(step, 1)
            return configure(connection)

        patch.setattr(store, "_configure", counted)
        ran = story.world.run()
    assert ran.error is None
    assert ran.changes
    return steps


def delivered(story: Story) -> None:
    for number in range(3):
        story.world.folder.put(f"new/fresh{number}".encode(), mail(f"fresh{number}"))


def arrived(story: Story) -> None:
    for number in range(3):
        story.world.server.add(crlf(mail(f"arrived{number}")))


def flagged_there(story: Story) -> None:
    for uid in (3, 40, 77):
        story.world.server.change(uid, add=FLAGGED)


def flagged_here(story: Story) -> None:
    for path in sorted(story.world.folder.files)[10:90:30]:
        story.world.folder.rename(path, path.replace(b":2,S", b":2,FS"))


def removed_here(story: Story) -> None:
    for path in sorted(story.world.folder.files)[10:90:30]:
        story.world.folder.remove(path)


def expunged_there(story: Story) -> None:
    for uid in (3, 40, 77):
        story.world.server.expunge(uid)


def all_of_it(story: Story) -> None:
    for change in (arrived, flagged_there, flagged_here, removed_here, delivered):
        change(story)


@pytest.mark.parametrize(
    "change", [delivered, arrived, flagged_there, flagged_here, removed_here, expunged_there, all_of_it]
)
def test_a_change_costs_no_more_in_a_larger_mailbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Story], None]
) -> None:
    costs = []
    for messages in (FEW, MANY):
        story = filled(tmp_path / str(messages), messages)
        change(story)
        costs.append(cost(story, monkeypatch))
    few, many = costs
    grown = {text: (few[text], steps) for text, steps in many.items() if steps > 2 * few[text] + 200}
    assert sorted(text[:60] for text in grown if not text.startswith(GROWS)) == [], grown
    assert len(few) > 20, few
