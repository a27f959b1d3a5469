# SPDX-License-Identifier: MIT
"""Rules that only matter when a server or a mail program misbehaves at one moment: a story for each, in which what the
rule forbids would happen without it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pushpull import observe_remote
from pushpull.errors import ConnectionLost, Temporary
from pushpull.flags import DELETED, FLAGGED, SEEN
from pushpull.model import Uid
from tests.support.messages import crlf
from tests.sync.actors import BODIES, STRATEGIES, Story
from tests.twins import MemoryFile, MemoryMessage, MemoryRemote, Mute

Event = Callable[[str], None]


def events(happen: Event) -> dict[int, Event]:
    """`happen` is called at every step."""
    return dict.fromkeys(range(2000), happen)


def once(name: str, event: Callable[[], object], *, after: str = "") -> dict[int, Event]:
    """`event` happens at the first step of that name; `after`: at the first since a step of that name."""
    pending, armed = [event], [not after]

    def happen(step: str) -> None:
        if armed[0] and step == name and pending:
            pending.pop()()
        armed[0] = armed[0] or step == after

    return events(happen)


def when_waiting(story: Story, monkeypatch: pytest.MonkeyPatch, event: Callable[[], None]) -> None:
    """`event` happens whenever the program has waited for something."""
    clock = story.world.clock
    pause = clock.pause

    def wait(seconds: float) -> None:
        pause(seconds)
        event()

    monkeypatch.setattr(clock, "pause", wait)


def synced(story: Story, strategy: str = "qresync", *, messages: int = 4) -> None:
    story.serve(strategy)
    for body in range(messages):
        story.client_adds(body)
    story.sync()


def marked_files(story: Story) -> list[bytes]:
    return [path for path in story.world.folder.files if path.endswith(b"T")]


def live_bodies(story: Story) -> list[bytes]:
    return [message.body for message in story.world.server.messages.values() if not message.flags & DELETED]


def marked_bodies(story: Story) -> list[bytes]:
    return [message.body for message in story.world.server.messages.values() if message.flags & DELETED]


# --- a large absence ----------------------------------------------------------------------------------------------


class Hidden:
    """Messages that the server does not show for a while, and says that they were expunged."""

    def __init__(self, story: Story, count: int) -> None:
        self._server = story.world.server
        self._kept: dict[int, MemoryMessage] = {}
        for uid in sorted(self._server.messages)[:count]:
            self._kept[uid] = self._server.messages[uid]
            self._server.expunge(uid)

    def show(self) -> None:
        self._server.messages = dict(sorted({**self._server.messages, **self._kept}.items()))
        for uid in self._kept:
            self._server.expunged.pop(uid, None)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_large_absence_is_looked_at_twice(story, strategy):
    """Most of the mailbox seems to be expunged, and is there again at the second look."""
    synced(story, strategy)
    hidden = Hidden(story, 3)
    ran = story.world.run(once("remote.status", hidden.show))
    assert "remote.status" in ran.script.steps
    assert marked_files(story) == []
    story.sync()
    assert marked_files(story) == []


def test_fifty_one_of_many_are_a_large_absence(story):
    """Less than half of the mailbox, but more than fifty."""
    synced(story, messages=120)
    hidden = Hidden(story, 51)
    story.world.run(once("remote.status", hidden.show))
    assert marked_files(story) == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_large_absence_without_a_second_list_is_not_believed(story, strategy):
    synced(story, strategy)
    hidden = Hidden(story, 3)
    asked = []

    def silent(step: str) -> None:
        asked.append(step)
        if step == "remote.uids" and "remote.status" in asked:
            raise Mute

    ran = story.world.run(events(silent))
    assert isinstance(ran.error, Temporary)
    assert (marked_files(story), ran.tally.local_marked) == ([], 0)
    hidden.show()
    story.sync()
    assert marked_files(story) == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_large_absence_that_two_answers_tell_differently_is_not_believed(story, strategy):
    """STATUS and the list that follows it disagree each time."""
    synced(story, strategy)
    hidden = Hidden(story, 3)
    server = story.world.server
    ghost: list[int] = []

    def flicker(step: str) -> None:
        """One message more than anything else says, for the length of a STATUS."""
        if step == "remote.status":
            ghost.append(10_000)
            server.messages[10_000] = next(iter(server.messages.values()))
        elif ghost:
            del server.messages[ghost.pop()]

    ran = story.world.run(events(flicker))
    assert isinstance(ran.error, Temporary)
    assert (marked_files(story), ran.tally.local_marked) == ([], 0)
    hidden.show()
    story.sync()
    assert marked_files(story) == []


def test_a_mailbox_that_was_replaced_is_no_large_absence(story):
    """A server may announce the messages of a deleted mailbox as expunged; only the second look shows another one."""
    synced(story)
    Hidden(story, 3)
    ran = story.world.run(once("remote.status", story.world.server.renumber))
    assert (marked_files(story), ran.tally.local_marked) == ([], 0)
    assert story.world.run().tally.local_marked == 0


def test_a_large_absence_that_is_confirmed_is_believed(story):
    synced(story)
    for _ in range(3):
        story.client_expunges(0)
    story.sync()
    assert len(marked_files(story)) == 3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_empty_mailbox_is_believed_when_seen_twice(story, strategy):
    """The first SELECT of the session shows nothing, whatever is asked until the next one."""
    synced(story, strategy)
    server = story.world.server
    kept = dict(server.messages)
    opened = []

    def select(step: str) -> None:
        if step == "remote.open<":
            opened.append(step)
            server.messages = {} if len(opened) == 1 else dict(kept)

    ran = story.world.run(events(select))
    assert ran.error is None
    assert len(opened) > 1
    assert (marked_files(story), ran.tally.local_marked) == ([], 0)
    story.sync()
    assert marked_files(story) == []


# --- the remote side is looked at as a whole ----------------------------------------------------------------------


def change_in_silence(story: Story) -> None:
    """A change that the server forgets to number: no delta shows it."""
    story.oracle.touch_remote(1, SEEN)
    story.world.server.messages[1].flags |= SEEN


@pytest.mark.parametrize("strategy", ["condstore", "qresync"])
def test_what_no_delta_shows_is_found_within_a_day(story, strategy):
    synced(story, strategy)
    change_in_silence(story)
    story.world.clock.now += observe_remote.COMPARE_SECONDS - 60
    assert "remote.views" not in story.world.run().script.steps, "a delta is enough today"
    story.world.clock.now += 60
    assert story.world.run().tally.local_flags == 1
    story.sync()
    assert "remote.views" not in story.world.run().script.steps, "once a day"


def test_a_clock_that_was_set_back_puts_no_compare_off(story):
    """The last one was in the future; who knows how long ago that is."""
    synced(story)
    change_in_silence(story)
    story.world.clock.now -= 10 * observe_remote.COMPARE_SECONDS
    assert story.world.run().tally.local_flags == 1
    story.sync()


# --- an interrupted first scan ------------------------------------------------------------------------------------


@pytest.fixture
def windows(monkeypatch) -> list[Uid]:
    """The lowest UID of each window that is asked for; a window is two UIDs wide."""
    monkeypatch.setattr(observe_remote, "WINDOW", 2)
    asked: list[Uid] = []
    views = MemoryRemote.views

    def remember(self, lo, hi):
        asked.append(lo)
        return views(self, lo, hi)

    monkeypatch.setattr(MemoryRemote, "views", remember)
    return asked


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("end", ["kill", "lost"])
def test_a_first_scan_goes_on_where_it_was_interrupted(story, windows, strategy, end):
    """What changed meanwhile in the windows that it had read is seen too, and in the same run: every message has its
    file already, so no download shows the flags once more."""
    story.serve(strategy)
    for body in range(6):
        story.client_adds(body)
        story.user_adds(body)

    def interrupt() -> None:
        if windows[-1] == 5:
            story.client_flags(0, FLAGGED)
            story.fault(end)("remote.views")

    before: list[int] = []

    def third(step: str) -> None:
        if step == "remote.views" and windows[-1] == 5 and not before:
            before.append(len(windows))
            interrupt()

    ran = story.sync_with(events(third))
    assert before == [3], windows
    if ran.killed:
        ran = story.world.run()
    assert ran.error is None
    assert windows[3] == 5, "from the first window that is missing"
    assert (len(story.world.folder.files), len(story.world.server.messages)) == (6, 6)
    flagged = [file.data for path, file in story.world.folder.files.items() if path.endswith(b":2,F")]
    assert flagged == [BODIES[0]]
    story.sync()


# --- files that are written to ------------------------------------------------------------------------------------

HALF, WHOLE = BODIES[0][: len(BODIES[0]) // 2], BODIES[0]
OTHER = WHOLE.replace(b"plain0", b"PLAIN0")
assert len(OTHER) == len(WHOLE) != len(HALF)

REWRITES: dict[str, Callable[[MemoryFile], MemoryFile]] = {
    "size": lambda old: MemoryFile(OTHER + b"more\n", old.mtime_ns, old.inode),
    "mtime": lambda old: MemoryFile(OTHER, old.mtime_ns + 1, old.inode),
    "inode": lambda old: MemoryFile(OTHER, old.mtime_ns, old.inode + 1000),
}
PATH = b"cur/user1:2,S"


def rewrite(story: Story, kind: str) -> None:
    """The file holds another message now, which shows in its size, its time or its inode alone."""
    story.world.folder.files[PATH] = REWRITES[kind](story.world.folder.files[PATH])


def test_a_file_half_written_into_cur_is_not_uploaded_truncated(story, monkeypatch):
    """A mail program that ignores tmp/ has written the first half when the run begins, the rest a second later."""
    synced(story, messages=0)
    folder = story.world.folder

    def write_the_rest() -> None:
        if folder.files[PATH].data == HALF:
            folder.put(PATH, WHOLE)

    when_waiting(story, monkeypatch, write_the_rest)
    ran = story.world.run(once("local.scan<", lambda: folder.put(PATH, HALF)))
    assert ran.error is None, ran.error
    assert [message.body for message in story.world.server.messages.values()] == [crlf(WHOLE)]
    assert story.world.settle().changes == []
    assert live_bodies(story) == [crlf(WHOLE)]


def test_an_old_file_is_not_waited_for(story, monkeypatch):
    waited: list[bool] = []
    when_waiting(story, monkeypatch, lambda: waited.append(True))
    story.user_adds(0)
    story.world.run()
    assert (len(live_bodies(story)), waited) == (1, [])


@pytest.mark.parametrize("kind", REWRITES)
def test_a_file_written_to_before_its_upload(story, kind):
    """It was read by the scan, and is another message when its upload begins: only what it is now is sent."""
    story.world.folder.put(PATH, WHOLE)
    ran = story.world.run(once("local.open_message", lambda: rewrite(story, kind), after="local.write_marker>"))
    assert ran.error is None, ran.error
    assert [message.body for message in story.world.server.messages.values()] == [
        crlf(story.world.folder.files[PATH].data)
    ]
    assert story.world.settle().changes == []


@pytest.mark.parametrize("kind", REWRITES)
@pytest.mark.parametrize("moment", ["remote.append<", "remote.append>"])
def test_a_file_written_to_while_it_is_uploaded(story, moment, kind):
    """The new content follows, and the copy of the old one is marked; nobody has to run it by hand."""
    story.world.folder.put(PATH, WHOLE)
    ran = story.world.run(once(moment, lambda: rewrite(story, kind)))
    assert ran.error is None, ran.error
    assert any("written to while it was uploaded" in line for line in ran.told)
    story.world.settle()
    assert live_bodies(story) == [crlf(story.world.folder.files[PATH].data)]
    assert marked_bodies(story) == [crlf(WHOLE)]
    assert list(story.world.folder.files) == [PATH]


# --- an upload without an answer ----------------------------------------------------------------------------------


class LateArrival:
    """The link is cut after the literal; the server adds the message `seconds` later."""

    def __init__(self, story: Story, seconds: float) -> None:
        self._server, self._clock, self._seconds = story.world.server, story.world.clock, seconds
        self._due: float | None = None
        self.arrived_at = 0.0

    def cut(self) -> None:
        self._due = self._clock() + self._seconds
        raise ConnectionLost("the link is cut")

    def look(self, _step: str = "") -> None:
        if self._due is not None and self._clock() >= self._due:
            self._due, self.arrived_at = None, self._clock()
            self._server.add(crlf(BODIES[0]), SEEN)


@pytest.mark.parametrize("seconds", [0.1, 4.0, 9.5])
@pytest.mark.parametrize("uidplus", [True, False])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_message_that_surfaces_after_its_upload_was_cut(story, monkeypatch, strategy, uidplus, seconds):
    """A new session does not show it yet; within ten seconds it is there, and it is never sent again."""
    story.serve(strategy, uidplus=uidplus)
    story.user_adds(0, SEEN)
    late = LateArrival(story, seconds)
    when_waiting(story, monkeypatch, late.look)
    ran = story.world.run(once("remote.append<", late.cut))
    assert ran.error is None, ran.error
    assert late.arrived_at
    assert (len(story.world.server.messages), len(story.world.folder.files)) == (1, 1)
    assert ran.script.steps.count("remote.append<") == 1
    assert story.world.settle().changes == []
    assert len(live_bodies(story)) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_message_that_surfaces_in_the_run_after_its_upload_was_cut(story, monkeypatch, strategy):
    """The program died over it; the next run comes five seconds later, its SELECT is older than the message."""
    story.serve(strategy)
    story.user_adds(0, SEEN)
    late = LateArrival(story, 8.0)
    when_waiting(story, monkeypatch, late.look)

    def die() -> None:
        with pytest.raises(ConnectionLost):
            late.cut()
        story.world.runs[-1].script.kill()

    assert story.world.run(once("remote.append<", die)).killed
    ran = story.world.run()
    assert ran.error is None, ran.error
    assert late.arrived_at
    assert "remote.append<" not in ran.script.steps
    assert len(story.world.server.messages) == 1
    assert story.world.settle().changes == []


def test_a_message_that_never_surfaces_is_sent_again(story):
    """Ten seconds on nothing has come: then it is known not to be there, and the same run sends it."""
    story.user_adds(0, SEEN)
    began = story.world.clock()
    ran = story.world.run(once("remote.append<", LateArrival(story, 1e9).cut))
    assert ran.error is None, ran.error
    assert ran.script.steps.count("remote.append<") == 2
    assert story.world.clock() - began > 10
    assert len(live_bodies(story)) == 1
    story.world.settle()


# --- a link that stalls -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["remote.open<", "remote.view", "remote.literal", "remote.message"])
def test_a_stall_of_a_minute_is_retried_within_the_run(story, step):
    """As long as the whole patience without progress; nothing came through before."""
    story.client_adds(0)

    def stall() -> None:
        story.world.clock.now += 60.0
        raise ConnectionLost("no answer within 60 s")

    ran = story.world.run(once(step, stall))
    assert ran.error is None, ran.error
    assert len(story.world.folder.files) == 1
    story.sync()


# --- Gmail --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gmail", [True, False])
def test_who_marks_at_gmail_is_told_what_it_does_with_marks(story, monkeypatch, gmail):
    monkeypatch.setattr(MemoryRemote, "gmail", property(lambda _: gmail))
    synced(story)
    story.user_flags(0, SEEN)
    assert story.world.run().tally.notes == [], "nothing was marked"
    story.user_unlinks(0)
    ran = story.world.run()
    assert ran.tally.remote_marked == 1
    assert any("Gmail" in note for note in ran.tally.notes) is gmail
    assert story.world.run().tally.notes == []
