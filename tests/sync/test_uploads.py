# SPDX-License-Identifier: MIT
"""Uploads in numbers: how many commands and commits they take, and what becomes of a batch that goes wrong."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from pushpull import download, upload
from pushpull.download import MOST_UPLOADS
from pushpull.errors import ConnectionLost, LocalDiskError, MessageError, PushpullError, ServerBusy
from pushpull.flags import SEEN
from pushpull.message import fingerprint
from tests.support.messages import crlf, mail
from tests.sync.actors import Story
from tests.sync.world import Ran
from tests.twins import MemoryRemote

KINDS = {
    "together": {},
    "ahead": {"multiappend": False},
    "without UIDs": {"uidplus": False},
}
BAD = crlf(mail("n017"))


@pytest.fixture(params=KINDS)
def server(request, story) -> Story:
    """What the server takes in one command, or before anything was heard of the first."""
    story.serve("qresync", **KINDS[request.param])
    return story


def names(count: int) -> list[str]:
    return [f"n{number:03}" for number in range(count)]


def put(story: Story, count: int) -> None:
    for name in names(count):
        story.world.folder.put(f"cur/{name}:2,S".encode(), mail(name))


def bodies(story: Story) -> Counter[bytes]:
    return Counter(message.body for message in story.world.server.messages.values())


def whole(count: int) -> Counter[bytes]:
    return Counter(crlf(mail(name)) for name in names(count))


def appends(ran: Ran) -> int:
    return ran.script.steps.count("remote.append<")


def at(name: str, number: int, event: Callable[[], object]) -> dict[int, Callable[[str], None]]:
    """`event` happens at the `number`-th step of that name, once."""
    left = [number]

    def happen(step: str) -> None:
        left[0] -= step == name
        if step == name and left[0] == 0:
            event()

    return dict.fromkeys(range(5000), happen)


def cut() -> None:
    raise ConnectionLost("the link is cut")


def refusing(error: PushpullError) -> Callable[[bytes], PushpullError | None]:
    return lambda body: error if body == BAD else None


def counting(story: Story, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each upload was really sent."""
    sent: Counter[str] = Counter()
    begin = MemoryRemote._store_appended

    def store(self, message):
        sent[fingerprint(message.chunks).message_id] += 1
        return begin(self, message)

    monkeypatch.setattr(MemoryRemote, "_store_appended", store)
    return sent


def test_many_uploads_take_few_commands_and_few_commits(story):
    put(story, 850)
    few, many = story.world.run(), None
    assert (appends(few), bodies(story)) == (3, whole(850))
    commits = few.script.steps.count("commit>")
    for name in (f"m{number:03}" for number in range(50)):
        story.world.folder.put(f"cur/{name}:2,S".encode(), mail(name))
    many = story.world.run()
    assert (many.tally.uploaded, appends(many)) == (50, 1)
    assert commits < many.script.steps.count("commit>") + 10, "as many for 850 as for 50, but for the batches"
    assert story.world.run().changes == []


def test_what_must_wait_for_leave_goes_alone(story):
    story.serve("qresync", unasked=len(crlf(mail("n000"))))
    put(story, 4)
    large = mail("large", body="x" * 1000)
    story.world.folder.put(b"cur/n0015:2,S", large)  # between the others by its name
    ran = story.world.run()
    assert (appends(ran), ran.tally.uploaded) == (3, 5)
    assert bodies(story) == whole(4) + Counter([crlf(large)])


def test_one_refused_message_holds_up_no_other(server):
    """It alone is told and tried again; a batch that was refused for it leaves nothing twice."""
    put(server, 40)
    server.world.server.refuses = refusing(MessageError("not this one"))
    ran = server.world.run()
    assert ran.error is None
    assert (ran.tally.uploaded, ran.tally.failed) == (39, 1)
    assert [line for line in ran.told if "n017" in line and "not this one" in line]
    assert bodies(server) == whole(40) - Counter([BAD])
    assert not [row for row in server.world.rows() if row["append_outcome"] == "open"]
    server.world.server.refuses = lambda _: None
    assert server.world.settle().error is None
    assert bodies(server) == whole(40)


def test_a_server_that_refuses_a_batch_and_keeps_some_of_it_gets_none_twice(story, monkeypatch):
    sent = counting(story, monkeypatch)
    put(story, 40)
    story.world.server.refuses, story.world.server.takes_some = refusing(MessageError("no")), True
    ran = story.world.run()
    assert ran.error is None, ran.error
    assert bodies(story) == whole(40) - Counter([BAD])
    assert max(sent.values()) == 1, "the rest went after the batch was looked for"
    story.world.server.refuses = lambda _: None
    story.world.settle()
    assert bodies(story) == whole(40)


@pytest.mark.parametrize("code", ["UNAVAILABLE", "SERVERBUG"])
def test_a_message_that_the_server_is_always_busy_for_is_found(server, code):
    put(server, 40)
    server.world.server.refuses = refusing(ServerBusy("later", code=code))
    for _ in range(2):
        server.world.run()
    assert bodies(server) == whole(40) - Counter([BAD])
    (row,) = [row for row in server.world.rows() if row["problem"]]
    assert row["uniquename"] == b"n017"


def test_a_server_that_is_throttled_is_left_alone(story):
    put(story, 40)
    story.world.server.refuses = lambda _: ServerBusy("too much", code="THROTTLED")
    ran = story.world.run()
    assert isinstance(ran.error, ServerBusy)
    assert appends(ran) == 3, "once for each session, of which there are three"
    assert not [row for row in story.world.rows() if row["problem"] or row["append_outcome"]]


@pytest.mark.parametrize("where", ["append<", "append>"])
def test_a_cut_in_a_batch(server, monkeypatch, where):
    """All of it is looked for once, for ten seconds; what is there is joined, what is not goes alone."""
    sent = counting(server, monkeypatch)
    put(server, 30)
    began = server.world.clock()
    ran = server.world.run(at(f"remote.{where}", 1, cut))
    assert ran.error is None, ran.error
    assert bodies(server) == whole(30)
    assert max(sent.values()) == 1
    assert server.world.clock() - began < 30, "waited once, not for each"
    assert server.world.run().changes == []


def test_what_took_long_to_send_may_still_surface_late(story, monkeypatch):
    """The ten seconds count from the cut, not from the first octet."""
    clock, pause, server = story.world.clock, story.world.clock.pause, story.world.server
    late = [clock() + 30.0]

    def wait(seconds: float) -> None:
        pause(seconds)
        if late and clock() >= late[0]:
            late.clear()
            server.add(crlf(mail("n000")), SEEN)

    def slow() -> None:
        clock.now += 20.0
        cut()

    monkeypatch.setattr(clock, "pause", wait)
    put(story, 1)
    ran = story.world.run(at("remote.append<", 1, slow))
    assert ran.error is None, ran.error
    assert (late, bodies(story)) == ([], whole(1))


def test_a_message_that_kills_the_link_takes_no_other_with_it(server):
    """Its batch dies with it. Then each goes alone, and it is set aside."""

    def kill(body: bytes) -> None:
        if body == BAD:
            cut()

    put(server, 30)
    server.world.server.refuses = kill
    for _ in range(3):
        server.world.run()
    assert [row["uniquename"] for row in server.world.rows() if row["problem"]] == [b"n017"]
    assert bodies(server) == whole(30) - Counter([BAD])


def test_a_disk_that_fails_while_the_server_is_busy(story, monkeypatch):
    """The next batch is read while the last one is under way: what that got is written down all the same."""
    sent = counting(story, monkeypatch)
    opened = 0

    def failing(step: str) -> None:
        nonlocal opened
        opened += step == "local.open_message"
        if step == "local.open_message" and opened > 850 + MOST_UPLOADS + 50:
            raise LocalDiskError("the disk fails")

    put(story, 850)
    ran = story.world.run(dict.fromkeys(range(20_000), failing))
    assert isinstance(ran.error, LocalDiskError)
    assert len(story.world.server.messages) == ran.tally.uploaded == MOST_UPLOADS
    assert story.world.run().error is None
    assert bodies(story) == whole(850)
    assert set(sent.values()) == {1}


def test_batches_shrink_when_they_kill_the_link(story, monkeypatch):
    """A server that dies of many messages in one command gets fewer each time."""
    monkeypatch.setattr(download, "MOST_UPLOADS", 8)
    sizes: list[int] = []
    append_all = MemoryRemote.append_all

    def dying(self, mailbox, messages, meanwhile=None):
        sizes.append(len(messages))
        if len(messages) > 2:
            self._lost = True
            cut()
        return append_all(self, mailbox, messages, meanwhile)

    monkeypatch.setattr(MemoryRemote, "append_all", dying)
    put(story, 850)
    for _ in range(3):
        story.world.run()
    assert sizes[:3] == [400, 200, 100]
    story.world.settle()
    assert bodies(story) == whole(850)


@pytest.mark.parametrize(
    ("octets_a_second", "octets"),
    [(1e8, 1 << 22), (2e6, 1 << 20), (2e5, 2e5), (1e3, 1 << 16)],
)
def test_a_batch_is_as_large_as_its_line_is_fast(story, monkeypatch, octets_a_second, octets):
    """The second one is ready before it is known what the first took."""
    now, sizes = 0.0, []
    append_all = MemoryRemote.append_all

    def slow(self, mailbox, messages, meanwhile=None):
        nonlocal now
        sizes.append(sum(message.size for message in messages))
        now += sizes[-1] / octets_a_second
        return append_all(self, mailbox, messages, meanwhile)

    monkeypatch.setattr(MemoryRemote, "append_all", slow)
    monkeypatch.setattr(upload, "time", SimpleNamespace(monotonic=lambda: now, localtime=time.localtime))
    for name in names(480):
        story.world.folder.put(f"cur/{name}:2,S".encode(), mail(name, body="x" * 18_000))
    assert story.world.run().error is None
    assert sizes[:2] == pytest.approx([1 << 20] * 2, rel=0.05)
    assert sizes[2:-1] == pytest.approx([octets] * (len(sizes) - 3), rel=0.2)


def test_identical_messages_in_one_batch_of_a_server_that_keeps_one_copy(story, monkeypatch):
    add = type(story.world.server).add

    def one_copy(self, body, *more):
        known = [uid for uid, message in self.messages.items() if message.body == body]
        return known[0] if known else add(self, body, *more)

    monkeypatch.setattr(type(story.world.server), "add", one_copy)
    for name in (b"a", b"b", b"c"):
        story.world.folder.put(b"cur/" + name + b":2,S", mail("same"))
    ran = story.world.run()
    assert (ran.tally.uploaded, ran.tally.set_aside) == (1, 2)
    assert len(story.world.server.messages) == 1
    assert story.world.run().changes == []


def test_young_files_go_last_and_are_waited_for_once(story, monkeypatch):
    pauses: list[float] = []
    pause = story.world.clock.pause
    monkeypatch.setattr(story.world.clock, "pause", lambda seconds: (pauses.append(seconds), pause(seconds)))
    put(story, 20)
    young = [mail(f"young{number}") for number in range(3)]

    def deliver() -> None:
        for number, body in enumerate(young):
            story.world.folder.put(f"cur/a{number}:2,S".encode(), body)

    ran = story.world.run(at("local.scan<", 1, deliver))
    assert ran.error is None
    assert pauses == [1.0]
    order = [message.body for _, message in sorted(story.world.server.messages.items())]
    assert order[-3:] == [crlf(body) for body in young]
