# SPDX-License-Identifier: MIT
"""Mailboxes and folders so large that they are planned in parts: with parts of a few messages."""

from __future__ import annotations

from collections import Counter

import pytest

from pushpull import candidates, observe_local
from pushpull.candidates import Candidates
from pushpull.errors import MessageError, Refused
from pushpull.flags import DELETED, FLAGGED, SEEN
from pushpull.model import Policy
from tests.support.messages import crlf, mail
from tests.sync.world import World
from tests.twins import MemoryLocal, MemoryRemote

PART = 5


class Paused(Exception):
    """Somebody else's turn."""


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    monkeypatch.setattr(candidates, "AT_ONCE", PART)
    monkeypatch.setattr(observe_local, "_HELD", PART)
    return World(tmp_path)


@pytest.fixture
def planned(monkeypatch) -> list[int]:
    """How many rows each plan was made from."""
    sizes: list[int] = []
    rows = Candidates._rows

    def counted(self, *given, **values):
        found = rows(self, *given, **values)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(Candidates, "_rows", counted)
    return sizes


def put(world: World, *names: str) -> None:
    for name in names:
        world.folder.put(f"cur/{name}:2,S".encode(), mail(name))


def arrive(world: World, *names: str) -> None:
    for name in names:
        world.server.add(crlf(mail(name)), SEEN)


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number:03}" for number in range(count)]


def both(world: World) -> tuple[Counter[bytes], Counter[bytes]]:
    remote = Counter(message.body.replace(b"\r\n", b"\n") for message in world.server.messages.values())
    return remote, Counter(file.data for file in world.folder.files.values())


def numbered_anew(world: World, arrivals: list[str], gone: slice) -> None:
    """All was on both sides; then the UIDs changed, and these files, in the order of their names, were removed."""
    arrive(world, *arrivals)
    world.settle()
    world.server.renumber()
    for path in sorted(world.folder.files)[gone]:
        world.folder.remove(path)


def test_a_mailbox_that_is_numbered_anew_hides_no_deletion_from_the_guard(world):
    """Files that are gone get their UIDs part by part: none is marked before all of them can be counted."""
    world.policy = Policy(local_delete_limit=10)
    numbered_anew(world, names("m", 12 * PART), slice(20))
    ran = world.run()
    assert isinstance(ran.error, Refused)
    assert "20 messages are gone" in str(ran.error)
    assert not [uid for uid, message in world.server.messages.items() if message.flags & DELETED]


def test_nor_when_nobody_knows_which_uid_is_whose(world, monkeypatch):
    """The server does not identify them: only the bodies tell."""
    world.policy = Policy(local_delete_limit=10)
    numbered_anew(world, names("m", 12 * PART), slice(20))
    monkeypatch.setattr(MemoryRemote, "identities", lambda self, uids: iter(()))
    ran = world.run()
    assert isinstance(ran.error, Refused)
    assert not [uid for uid, message in world.server.messages.items() if message.flags & DELETED]


def test_a_header_that_never_comes_holds_up_no_mark(world, monkeypatch):
    numbered_anew(world, ["a", "b", "c"], slice(2))
    monkeypatch.setattr(MemoryRemote, "headers", lambda self, uids: iter(()))
    world.settle()
    assert sorted(bool(message.flags & DELETED) for message in world.server.messages.values()) == [False, True, True]


def test_a_message_that_never_comes_holds_up_no_mark(world, monkeypatch):
    numbered_anew(world, ["a", "b", "c"], slice(2))
    [stuck] = [uid for uid, message in world.server.messages.items() if message.body == crlf(mail("a"))]
    whole = MemoryRemote.messages

    def all_but_one(self, uids, more=None):
        return (message for message in whole(self, uids, more) if message.view.uid != stuck)

    monkeypatch.setattr(MemoryRemote, "headers", lambda self, uids: iter(()))
    monkeypatch.setattr(MemoryRemote, "messages", all_but_one)
    for _ in range(2):
        assert world.run().error is None
    marked = [message.body for message in world.server.messages.values() if message.flags & DELETED]
    assert marked == [crlf(mail("b"))]


def test_a_rename_that_fails_is_tried_once_however_many_parts_there_are(world, monkeypatch):
    arrive(world, "a")
    world.settle()
    world.server.change(1, add=FLAGGED)
    put(world, *names("here", 6 * PART))
    tried = []

    def refusing(self, file, add, remove):
        tried.append(file)
        raise MessageError("two files of one name")

    monkeypatch.setattr(MemoryLocal, "set_flags", refusing)
    ran = world.run()
    assert ran.tally.uploaded == 6 * PART
    assert len(tried) <= 3, "once in a part, and in the plans of everything"


def test_an_arrival_that_is_gone_meanwhile_ends_no_parts(world, planned, monkeypatch):
    put(world, *names("here", 8 * PART))
    arrive(world, "lost")

    def vanishing(self, uids, more=None):
        self.server.messages.pop(1, None)
        return iter(())

    monkeypatch.setattr(MemoryRemote, "messages", vanishing)
    assert world.run().tally.uploaded == 8 * PART
    assert max(planned) <= 4 * PART


def test_a_few_that_are_gone_are_marked_once_all_are_found(world):
    numbered_anew(world, names("m", 6 * PART), slice(None, None, 9))
    world.settle()
    marked = [message for message in world.server.messages.values() if message.flags & DELETED]
    assert (len(marked), len(world.folder.files)) == (4, 6 * PART - 4)


@pytest.mark.parametrize("uidplus", [True, False])
def test_no_plan_is_of_much_more_than_a_part(world, planned, uidplus):
    """Of a folder with much mail and a mailbox with some, some of it the same."""
    world.server.uidplus = uidplus
    put(world, *names("here", 8 * PART), *names("both", 3 * PART))
    arrive(world, *names("both", 3 * PART), *names("there", PART - 2))
    assert world.run().error is None
    assert max(planned) <= 4 * PART
    remote, local = both(world)
    assert remote == local
    assert len(local) == sum(local.values()) == 12 * PART - 2
    world.settle()


def test_an_arrival_that_fails_for_ever_holds_up_no_more_than_itself(world, planned):
    put(world, *names("here", 6 * PART))
    arrive(world, "bad")
    world.run()
    assert max(planned) <= 4 * PART


def test_flags_do_not_wait_for_the_end_of_many_uploads(world):
    arrive(world, *names("m", 4))
    world.settle()
    put(world, *names("here", 6 * PART))
    world.server.change(2, add=FLAGGED)
    path = sorted(path for path in world.folder.files if b"here" not in path)[3]
    world.folder.rename(path, path.replace(b":2,S", b":2,RS"))
    turns = 0

    def breathe() -> None:
        nonlocal turns
        turns += 1
        raise Paused

    world.breathe = breathe
    with pytest.raises(Paused):
        world.run()
    assert turns == 1
    flags = Counter(path.rpartition(b":2,")[2] for path in world.folder.files if b"here" not in path)
    assert flags == {b"S": 2, b"FS": 1, b"RS": 1}
    assert len({message.flags for message in world.server.messages.values()}) > 2


def test_copies_of_what_is_paired_hold_up_no_other_file(world):
    """More of them than a part holds, and too many to be a user's: they are held, the others go."""
    arrive(world, "twin")
    world.settle()
    for number in range(60):
        world.folder.put(b"cur/%03d:2,S" % number, mail("twin"))
    put(world, *names("x", 6 * PART))
    ran = world.run()
    assert ran.error is None
    assert ran.tally.uploaded == 6 * PART
    assert ran.tally.held == 60


def test_copies_of_one_new_file_are_all_uploaded(world):
    for number in range(60):
        world.folder.put(b"cur/%03d:2,S" % number, mail("twin"))
    put(world, *names("x", 2 * PART))
    assert world.run().tally.uploaded == 60 + 2 * PART
