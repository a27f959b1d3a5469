# SPDX-License-Identifier: MIT
"""A kill before and after every effect, every commit, and everything else that a run does: the next run comes to the
same end as if nothing had happened, and the one after that changes nothing."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pushpull import candidates, observe_local
from pushpull.flags import ANSWERED, DELETED, FLAGGED, FORWARDED, SEEN
from tests.support.messages import crlf
from tests.sync.actors import BODIES, Story
from tests.twins import Script


def download(story: Story) -> None:
    for body, flags in enumerate((0, SEEN, FLAGGED | SEEN, DELETED, 0)):
        story.client_adds(body, flags)


def upload(story: Story) -> None:
    for body, flags in ((4, 0), (8, SEEN), (12, FLAGGED | FORWARDED)):
        story.user_adds(body, flags)


def identical_copies(story: Story) -> None:
    for _ in range(2):
        story.user_adds(0)
        story.client_adds(1)
    story.user_adds(1)


def flags_both_ways(story: Story) -> None:
    download(story)
    story.sync()
    story.client_flags(0, SEEN)
    story.client_flags(1, SEEN, on=False)
    story.client_flags(2, ANSWERED)
    story.user_flags(2, FLAGGED)
    story.user_flags(3, FORWARDED)
    story.user_flags(4, SEEN, on=False)


def deletions_both_ways(story: Story) -> None:
    download(story)
    upload(story)
    story.sync()
    story.client_expunges(0)
    story.client_flags(0, DELETED)
    story.user_unlinks(0)
    story.user_flags(6, DELETED)


def moved_away_and_back(story: Story) -> None:
    """New, renamed and deleted, all in one run."""
    download(story)
    story.sync()
    story.client_expunges(1)
    story.client_adds(1, SEEN)
    story.user_renames(0)
    story.user_adds(2)
    story.user_unlinks(3)


def adoption(story: Story) -> None:
    for body in (0, 4, 5, 7, 11):
        story.user_adds(body, SEEN)
        story.client_adds(body, FLAGGED)


def uidvalidity_change(story: Story) -> None:
    download(story)
    upload(story)
    story.sync()
    story.user_unlinks(0)
    story.user_flags(2, FLAGGED)
    story.renumber()


def undelete(story: Story) -> None:
    download(story)
    story.sync()
    story.user_unlinks(0)
    story.client_expunges(1)
    story.sync()
    story.client_flags(0, DELETED, on=False)
    for which in range(4):
        story.user_flags(which, DELETED, on=False)


def lost_state(story: Story) -> None:
    download(story)
    upload(story)
    story.sync()
    story.lose_state()


def restored_folder(story: Story) -> None:
    upload(story)
    story.sync()
    story.copy_folder()
    download(story)
    story.client_flags(0, ANSWERED)
    story.sync()
    story.restore_folder()


SCENARIOS = (
    download,
    upload,
    identical_copies,
    flags_both_ways,
    deletions_both_ways,
    moved_away_and_back,
    adoption,
    uidvalidity_change,
    undelete,
    lost_state,
    restored_folder,
)
SERVERS = {
    "qresync": {"strategy": "qresync"},
    "condstore": {"strategy": "condstore", "uidplus": False, "multiappend": False},
    "plain": {"strategy": "plain", "uidplus": False, "unasked": -1, "tells_uidnext": False},
}


class Crashes:
    """One scenario on one kind of server, as often as it takes."""

    def __init__(self, directory: Path, scenario: Callable[[Story], None], server: dict[str, object]) -> None:
        self._directory, self._scenario, self._server = directory, scenario, server
        self._made = 0

    def begin(self) -> Story:
        self._made += 1
        directory = self._directory / str(self._made)
        directory.mkdir()
        story = Story(directory)
        story.serve(**self._server)  # type: ignore[arg-type]
        self._scenario(story)
        return story

    def run(self, steps: tuple[int, ...], *, power_cut: bool = False) -> tuple[int, object]:
        """Runs killed at these steps, then undisturbed ones. Returns how many steps a run to its end had, and the
        end."""
        story = self.begin()
        length = 0
        for step in steps:
            script = Script()
            story.oracle.noisy = True
            ran = story.world.run({step: script.kill}, script=script, power_cut=power_cut)
            length = len(script.steps)
            assert ran.error is None
            assert ran.killed == (length > step), "the kill was caught"
        story.sync()
        end = end_of(story)
        shutil.rmtree(story.world.directory)
        return length, end


def end_of(story: Story) -> object:
    messages = Counter((message.body, message.flags) for message in story.world.server.messages.values())
    files = Counter((file.data, flags) for flags, file in story.oracle.files().values())
    return messages, files


def at_every_step(crashes: Crashes, *, power_cut: bool = False) -> None:
    length, undisturbed = crashes.run((10_000,))
    assert length > 20
    for step in range(length):
        _, end = crashes.run((step,), power_cut=power_cut)
        assert end == undisturbed, f"killed at step {step}"


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_killed_at_every_step(memory_path, scenario, server):
    at_every_step(Crashes(memory_path, scenario, SERVERS[server]))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_power_cut_at_every_step(memory_path, scenario):
    """The state is as the last flush left it, and so older than what it had observed."""
    at_every_step(Crashes(memory_path, scenario, SERVERS["qresync"]), power_cut=True)


@pytest.mark.parametrize(
    "scenario", [upload, adoption, identical_copies, lost_state], ids=lambda scenario: scenario.__name__
)
def test_killed_at_every_step_of_many_parts(memory_path, monkeypatch, scenario):
    """A mailbox and a folder so large that neither is taken in, or planned, at once."""
    monkeypatch.setattr(candidates, "AT_ONCE", 1)
    monkeypatch.setattr(observe_local, "_HELD", 1)
    at_every_step(Crashes(memory_path, scenario, SERVERS["qresync"]))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_killed_again_and_again(memory_path, scenario):
    """Every run dies a little later than the one before."""
    crashes = Crashes(memory_path, scenario, SERVERS["condstore"])
    length, undisturbed = crashes.run((10_000,))
    _, end = crashes.run(tuple(range(0, length, 7)))
    assert end == undisturbed


# --- files that are written to ------------------------------------------------------------------------------------

PATH = b"cur/user1:2,"


def a_draft_is_edited_and_sent(story: Story) -> dict[int, Callable[[str], None]]:
    """In place, and it is no draft any more before anybody looked again."""
    folder = story.world.folder
    folder.put(PATH + b"D", BODIES[4])
    story.world.settle()
    folder.put(PATH + b"D", BODIES[5])
    folder.rename(PATH + b"D", PATH)
    folder.put(b"cur/user2:2,", BODIES[8])
    return {}


def a_file_is_rewritten_while_it_is_uploaded(story: Story) -> dict[int, Callable[[str], None]]:
    story.world.folder.put(PATH, BODIES[4])
    waiting = [lambda: story.world.folder.put(PATH, BODIES[5])]

    def happen(step: str) -> None:
        if step == "remote.append>" and waiting:
            waiting.pop()()

    return dict.fromkeys(range(1000), happen)


@pytest.mark.parametrize("power_cut", [False, True], ids=["kill", "power"])
@pytest.mark.parametrize("edit", [a_draft_is_edited_and_sent, a_file_is_rewritten_while_it_is_uploaded])
def test_what_was_written_is_not_forgotten(memory_path, edit, power_cut):
    """Nobody compares the content of a file that is no draft again."""
    step, killed = 0, True
    while killed:
        (memory_path / str(step)).mkdir()
        story = Story(memory_path / str(step))
        events, script = edit(story), Script()
        other = events.get(step, lambda _: None)

        def end(name: str, other: Callable[[str], None] = other, script: Script = script) -> None:
            other(name)
            script.kill(name)

        killed = story.world.run(events | {step: end}, script=script, power_cut=power_cut).killed
        story.world.settle()
        live = [message.body for message in story.world.server.messages.values() if not message.flags & DELETED]
        assert sorted(live) == sorted(crlf(file.data) for file in story.world.folder.files.values()), script.steps[-3:]
        step += 1
    assert step > 20
