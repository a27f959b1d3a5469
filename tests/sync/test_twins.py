# SPDX-License-Identifier: MIT
"""The twins object to misuse, and the oracle to faults of an engine; what both sides have in common with the real ones
is in tests/contract."""

from __future__ import annotations

import pytest

from pushpull import plan
from pushpull.errors import ConnectionLost
from pushpull.flags import DELETED, SEEN
from pushpull.message import fingerprint
from pushpull.model import NEVER, Uid, UidSet
from pushpull.outcomes import Outcomes
from pushpull.ports import Delivery, Since
from tests.twins import Killed, MemoryFolder, MemoryLocal, MemoryRemote, MemoryServer, Script


def test_answers_to_select_are_taken_in_their_order_and_at_once():
    remote = MemoryRemote(MemoryServer())
    opening = remote.open("INBOX", Since(1, Uid(1), NEVER))
    assert list(opening.arrived()) == []
    with pytest.raises(AssertionError, match="order"):
        opening.canary()
    remote.uids()
    with pytest.raises(AssertionError, match="another command"):
        list(opening.changed())


def test_no_command_after_the_link_was_lost():
    script = Script()
    remote = MemoryRemote(MemoryServer(), script)
    remote.open("INBOX", None)

    def cut(_step):
        raise ConnectionLost("cut")

    script.events = {len(script.steps): cut}
    with pytest.raises(ConnectionLost):
        remote.uids()
    with pytest.raises(AssertionError, match="after ConnectionLost"):
        remote.uids()
    remote.close()


def test_what_a_dead_program_does_has_no_effect():
    script, folder = Script(), MemoryFolder()
    local = MemoryLocal(folder, script)
    local.create()
    staged = local.stage([b"a: b\r\n\r\n"], 0.0)
    script.events = {len(script.steps): script.kill}
    with pytest.raises(Killed):
        local.deliver([Delivery(staged, 0)])
    staged.discard()
    assert [path[:4] for path in folder.files] == [b"tmp/"]
    with pytest.raises(Killed):
        local.scan()


def test_an_upload_that_was_not_announced_is_caught(story, monkeypatch):
    monkeypatch.setattr(Outcomes, "append_begins", lambda *_: None)
    story.user_adds(0)
    with pytest.raises(AssertionError, match="without a committed attempt"):
        story.world.run()


def test_renames_committed_before_they_are_durable_are_caught(story, monkeypatch):
    story.client_adds(0)
    story.sync()
    story.client_flags(0, SEEN)
    monkeypatch.setattr(MemoryLocal, "sync_renames", lambda _: None)
    with pytest.raises(AssertionError, match="durable"):
        story.world.run()


@pytest.mark.parametrize(
    ("harm", "verdict"),
    [
        (lambda story: story.world.server.change(1, DELETED), "merge is wrong|sides differ|copies were lost"),
        (lambda story: story.world.server.add(story.world.server.messages[1].body), "there twice|copies|other UIDs"),
        (lambda story: story.world.folder.remove(next(iter(story.world.folder.files))), "other files|copies|differ"),
    ],
    ids=["marked", "doubled", "removed"],
)
def test_the_oracle_sees_what_nobody_told_it(story, harm, verdict):
    story.client_adds(0)
    story.sync()
    expected = story.oracle.expect()
    harm(story)
    story.world.settle()
    with pytest.raises(AssertionError, match=verdict):
        story.oracle.verify(expected)


def test_the_oracle_sees_a_wrong_merge(story, monkeypatch):
    story.client_adds(0)
    story.sync()
    story.client_flags(0, SEEN)
    monkeypatch.setattr(plan, "merge", lambda base, local, remote: base)
    with pytest.raises(AssertionError):
        story.sync()


def test_uids_and_bytes_of_the_server():
    server = MemoryServer()
    first, second = server.add(b"a\r\n"), server.add(b"b\r\n", SEEN)
    server.expunge(first)
    remote = MemoryRemote(server)
    assert remote.open("INBOX", None).state.exists == 1
    assert remote.uids() == UidSet.of([second])
    assert server.renumber() == {second: 1}
    assert fingerprint([server.messages[1].body]) == fingerprint([b"b\n"])
