# SPDX-License-Identifier: MIT
"""Attacks in which one line of defence stands in front of another: here each has to hold by itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest

from pushpull.errors import ConnectionLost, MessageError
from pushpull.filenames import split
from pushpull.flags import DELETED, FLAGGED, SEEN
from pushpull.model import Scan, Uid
from pushpull.ports import Known, Message
from pushpull.values import replace
from tests.support.messages import crlf
from tests.sync.actors import STRATEGIES, Story
from tests.twins import MemoryLocal, MemoryRemote, MemoryServer


def told(story: Story) -> str:
    return "\n".join(story.world.runs[-1].told)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_mailbox_that_went_back_in_time_and_got_no_mail_since(story, strategy):
    """The newest UIDs are not there yet, so no canary sings and every count agrees: only UIDNEXT tells. What the older
    copy lacks is neither marked nor uploaded, whatever happens to its files before the user decides."""
    story.serve(strategy)
    for body in range(4):
        story.client_adds(body)
    story.sync()
    server = story.world.server
    for uid in (3, 4):
        del server.messages[uid]
    server.uidnext = 3
    assert story.world.run().error is None
    assert "UIDNEXT fell from 5 to 3" in told(story)
    assert "held: 2 messages" in told(story)
    assert len(story.world.folder.files) == 4
    assert not [path for path in story.world.folder.files if b"T" in path.partition(b":2,")[2]]
    assert [message.flags & DELETED for message in server.messages.values()] == [0, 0]
    assert list(server.messages) == [1, 2]


def keeps_only(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server says OK to each STORE and APPEND, and keeps not all of the flags."""
    add, change = MemoryServer.add, MemoryServer.change
    monkeypatch.setattr(MemoryServer, "add", lambda self, body, flags=0, *more: add(self, body, flags & kept, *more))
    monkeypatch.setattr(
        MemoryServer, "change", lambda self, uid, add=0, remove=0: change(self, uid, add & kept, remove & kept)
    )


@pytest.mark.parametrize("uidplus", [True, False])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_flags_that_are_acknowledged_and_not_kept(story, monkeypatch, strategy, uidplus):
    """They stay here, they are not asked for again and again, and what else is set on either side still passes."""
    story.serve(strategy, uidplus=uidplus)
    story.client_adds(0)
    story.sync()
    keeps_only(SEEN, monkeypatch)
    story.user_flags(0, FLAGGED)
    story.user_flags(0, SEEN)
    story.user_adds(1, FLAGGED | SEEN)
    for _ in range(3):
        ran = story.world.run()
        assert ran.error is None
    assert ran.changes == []
    assert sorted(path.partition(b":2,")[2] for path in story.world.folder.files) == [b"FS", b"FS"]
    assert [message.flags for message in story.world.server.messages.values()] == [SEEN, SEEN]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("here", "there"),
    [(b"X-Price: 100", b"X-Price: 900"), (b"To: alice@x", b"To: mallo@x"), (b"Subject: yes", b"Subject: no!")],
)
def test_one_digit_of_a_header_makes_another_message(story, strategy, here, there):
    """Message-ID, size and relay agree, so only the whole header can tell; both messages are kept on both sides."""
    story.serve(strategy)
    text = b"Received: from a by b\n%b\nMessage-ID: <same@x>\n\nbody\n"
    story.world.folder.put(b"cur/mine:2,S", text % here)
    story.world.server.add(crlf(text % there), SEEN)
    for _ in range(3):
        assert story.world.run().error is None
    wanted = sorted([text % here, text % there])
    assert sorted(file.data for file in story.world.folder.files.values()) == wanted
    assert sorted(message.body for message in story.world.server.messages.values()) == [crlf(text) for text in wanted]


@pytest.mark.parametrize("noticed", [True, False])
def test_a_scan_that_misses_a_file_is_not_believed(story, monkeypatch, noticed):
    """readdir() skips what is renamed meanwhile, and the clock may be too coarse to show it."""
    for body in range(3):
        story.client_adds(body)
    story.sync()
    scan, missed = MemoryLocal.scan, []

    def once_less(self: MemoryLocal, known: Known) -> Scan:
        whole = scan(self, known)
        if missed:
            return whole
        missed.append(split(min(known.names("new") | known.names("cur")))[0])
        return replace(whole, missing=frozenset(missed), moved=noticed)

    monkeypatch.setattr(MemoryLocal, "scan", once_less)
    ran = story.world.run()
    assert missed
    assert (ran.error, ran.changes) == (None, [])
    assert [message.flags & DELETED for message in story.world.server.messages.values()] == [0] * 3


@pytest.mark.parametrize("given", ["what comes before it", "nothing"])
def test_a_batch_that_is_refused_for_one_message_is_halved(story, monkeypatch, given):
    """The server says NO to the whole command: all others come down in the same run, and the one is told."""
    for body in range(4):
        story.client_adds(body)
        story.client_adds(body)
    poison, messages = 5, MemoryRemote.messages

    def refusing(self: MemoryRemote, uids: Sequence[Uid], _more: object) -> Iterator[Message]:
        if poison not in uids:
            yield from messages(self, uids)
            return
        if given != "nothing":
            yield from messages(self, [uid for uid in uids if uid < poison])
        raise MessageError("the server refused to hand it out: Internal error")

    monkeypatch.setattr(MemoryRemote, "messages", refusing)
    ran = story.world.run()
    assert ran.error is None
    assert (len(story.world.folder.files), ran.tally.failed) == (7, 1)
    assert [row["problem"] for row in story.world.rows() if row["uid"] == poison] != [""]
    monkeypatch.undo()
    story.sync()
    assert len(story.world.folder.files) == 8


def test_a_message_that_ends_the_link_each_time_holds_up_no_other(story, monkeypatch):
    """Not even older ones, which are asked for after it; and it is told, and kept."""
    for body in range(4):
        story.client_adds(body)
        story.client_adds(body)
    poison, messages = 5, MemoryRemote.messages

    def deadly(self: MemoryRemote, uids: Sequence[Uid], _more: object) -> Iterator[Message]:
        if poison in uids:
            self.cut()
            raise ConnectionLost("the server closed the connection")
        yield from messages(self, uids)

    monkeypatch.setattr(MemoryRemote, "messages", deadly)
    for _ in range(3):
        ran = story.world.run()
    assert ran.error is None
    assert len(story.world.folder.files) == 7
    [problem] = [row["problem"] for row in story.world.rows() if row["uid"] == poison]
    assert "the server does not give it" in problem
    monkeypatch.undo()
    story.sync()
    assert len(story.world.folder.files) == 8


@pytest.mark.parametrize(
    ("here", "there"),
    [(b"body", b"body\n"), (b"body\n", b"body\n\n"), (b"bo\0dy\n", b"bo\x80dy\n")],
    ids=["final newline", "one more newline", "NUL"],
)
def test_what_the_server_rewrote_is_not_copied_again(story, here, there):
    """The state was lost, or is not made yet: the same message on both sides, as the server keeps it and as it was."""
    head = b"Subject: s\nMessage-ID: <a@x>\n\n"
    story.world.folder.put(b"cur/mine:2,S", head + here)
    story.world.server.add(crlf(head + there), SEEN)
    for _ in range(2):
        assert story.world.run().error is None
    assert (len(story.world.folder.files), len(story.world.server.messages)) == (1, 1)
    story.lose_state()
    assert story.world.run().error is None
    assert story.world.run().changes == []
    assert (len(story.world.folder.files), len(story.world.server.messages)) == (1, 1)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nobody_else_waits_for_the_state_while_the_network_is_waited_for(story, strategy):
    """At each word to and from the server another process may write to the state file."""
    story.serve(strategy)
    steps = []

    def others_may_write(step: str) -> None:
        if step.startswith("remote."):
            steps.append(step)
            with closing(sqlite3.connect(story.world.state, timeout=0, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                other.execute("ROLLBACK")

    events = dict.fromkeys(range(2000), others_may_write)
    for body in range(3):
        story.client_adds(body)
        story.user_adds(body + 1)
    assert story.world.run(events).error is None  # matches, downloads and uploads
    story.client_flags(0, FLAGGED)
    story.user_flags(1, SEEN)
    story.client_expunges(0)
    story.user_unlinks(1)
    assert story.world.run(events).error is None
    assert {step.partition(".")[2].rstrip("<>") for step in steps} >= {
        "open",
        "identities",
        "messages",
        "store",
        "append",
    }
