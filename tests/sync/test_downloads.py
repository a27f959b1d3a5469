# SPDX-License-Identifier: MIT
"""Downloads of several batches, each made durable and committed while the next one comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest

from pushpull.errors import ConnectionLost, LocalDiskError
from pushpull.flags import SEEN
from pushpull.model import LocalFile, Uid
from pushpull.ports import Delivery, Message
from tests.sync.world import World
from tests.twins import MemoryLocal, MemoryRemote, Script

MESSAGES = 5


class Paused(Exception):
    """Somebody else's turn."""


def world_of(directory, batch: int = 2) -> World:
    world = World(directory, batch=batch)
    for number in range(MESSAGES):
        world.server.add(b"Subject: %d\r\n\r\n" % number, SEEN if number % 2 else 0)
    return world


def wanted(world: World) -> Counter[bytes]:
    return Counter(message.body.replace(b"\r\n", b"\n") for message in world.server.messages.values())


def delivered(world: World) -> Counter[bytes]:
    return Counter(file.data for path, file in world.folder.files.items() if not path.startswith(b"tmp/"))


def known(world: World) -> int:
    """Rows that say where the file of a message is; each of them is there."""
    names = {path.rpartition(b"/")[2].partition(b":")[0] for path in world.folder.files}
    rows = [row for row in world.rows() if row["uniquename"] is not None]
    assert {row["uniquename"] for row in rows} <= names
    return len(rows)


def test_all_comes_whatever_the_batch(memory_path):
    for batch in (1, 2, 3, 5, 500):
        directory = memory_path / str(batch)
        directory.mkdir()
        world = world_of(directory, batch)
        ran = world.run()
        assert ran.error is None
        assert ran.tally.downloaded == MESSAGES
        assert delivered(world) == wanted(world)
        assert not world.run().changes


def test_killed_at_any_step(memory_path):
    steps = world_of(memory_path).run().script.steps
    for step in range(steps.index("local.stage<"), len(steps)):
        directory = memory_path / str(step)
        directory.mkdir()
        world, script = world_of(directory), Script()
        assert world.run({step: script.kill}, script=script).killed
        known(world)
        world.run()
        assert delivered(world) == wanted(world), f"killed at step {step}"


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_disk_that_fails_while_the_next_batch_comes(memory_path, monkeypatch, failing):
    world, deliver, calls = world_of(memory_path), MemoryLocal.deliver, []

    def full(self: MemoryLocal, deliveries: Sequence[Delivery]) -> list[LocalFile]:
        calls.append(len(deliveries))
        if len(calls) == failing:
            for delivery in deliveries:
                delivery.staged.discard()
            raise LocalDiskError("No space left on device")
        return deliver(self, deliveries)

    monkeypatch.setattr(MemoryLocal, "deliver", full)
    assert isinstance(world.run().error, LocalDiskError)
    assert calls == [2, 2, 1][:failing]
    assert delivered(world).total() == known(world) == 2 * (failing - 1)
    assert not any(path.startswith(b"tmp/") for path in world.folder.files)
    world.settle()
    assert delivered(world) == wanted(world)


@pytest.mark.parametrize("calls", [1, 2])
def test_a_turn_that_ends_leaves_nothing_under_way(memory_path, calls):
    world = world_of(memory_path)
    asked = 0

    def awaited() -> bool:
        nonlocal asked
        asked += 1
        return asked >= calls

    def breathe() -> None:
        raise Paused

    world.awaited, world.breathe = awaited, breathe
    with pytest.raises(Paused):
        world.run()
    assert delivered(world).total() == known(world) == 2 * calls
    assert not any(path.startswith(b"tmp/") for path in world.folder.files)
    world.awaited, world.breathe = lambda: False, lambda: None
    world.settle()
    assert delivered(world) == wanted(world)


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_one_that_ends_the_link_each_time_holds_up_no_other(memory_path, monkeypatch, batch):
    world, poison, messages = world_of(memory_path, batch), 4, MemoryRemote.messages

    def deadly(self: MemoryRemote, uids: Sequence[Uid], more: Callable[[], Sequence[Uid]] | None) -> Iterator[Message]:
        for message in messages(self, uids, more):
            if message.view.uid == poison:
                self.cut()
                raise ConnectionLost("the server closed the connection")
            yield message

    monkeypatch.setattr(MemoryRemote, "messages", deadly)
    for _ in range(4):
        world.run()
    assert wanted(world) - delivered(world) == Counter([b"Subject: 3\n\n"])
    assert not delivered(world) - wanted(world)
    [problem] = [row["problem"] for row in world.rows() if row["uid"] == poison]
    assert "the server does not give it" in problem
    monkeypatch.undo()
    world.settle()
    assert delivered(world) == wanted(world)
