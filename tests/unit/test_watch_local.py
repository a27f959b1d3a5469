# SPDX-License-Identifier: MIT
"""The local watcher, with real folders and the kernel's own events."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from inotify_simple import INotify

from pushpull import watch_local
from pushpull.flags import NONE, SEEN
from pushpull.maildir import Maildir
from pushpull.model import Marker
from pushpull.ports import Delivery
from pushpull.triggers import Kind, Trigger
from pushpull.watch_local import LocalWatcher
from tests.support.waiting import wait_for

WORK, WORK_FULL = Trigger("work", Kind.LOCAL), Trigger("work", Kind.LOCAL, full=True)
HOME, HOME_FULL = Trigger("home", Kind.LOCAL), Trigger("home", Kind.LOCAL, full=True)
END, END_FULL = Trigger("end", Kind.LOCAL), Trigger("end", Kind.LOCAL, full=True)
SOON = 0.02


def make_folder(path: Path) -> Path:
    for leaf in ("tmp", "new", "cur"):
        (path / leaf).mkdir(parents=True)
    return path


@pytest.fixture
def work(tmp_path):
    return make_folder(tmp_path / "mail" / "work")


class Watched:
    """A watcher in its thread, and what it gave and told."""

    def __init__(self, folders, end: Path, on_give=None, **options) -> None:
        self.given, self.told, self.died = [], [], []
        self._on_give, self._end, self._ends = on_give, end, 0
        paths = {pairing: str(path) for pairing, path in folders.items()} | {"end": str(end)}
        self.watcher = LocalWatcher(paths, self._give, self._tell, clock=time.monotonic, **options)
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.watcher.run()
        except BaseException as error:
            self.died.append(error)

    def _give(self, trigger: Trigger) -> None:
        self.given.append(trigger)
        if self._on_give:
            self._on_give(trigger)

    def _tell(self, level: int, text: str) -> None:
        self.told.append((level, text))

    def wait(self, trigger: Trigger) -> None:
        """Until it is given; what was given so far is forgotten."""
        wait_for(lambda: trigger in self.given or self.died, what=str(trigger), detail=lambda: f"{self}")
        assert not self.died
        self.given.clear()

    def wait_told(self, *words: str) -> str:
        def found() -> list[str]:
            return [text for _, text in self.told if all(word in text for word in words)]

        wait_for(found, what=f"{words} to be told", detail=lambda: f"{self}")
        return found()[-1]

    def settled(self) -> list[Trigger]:
        """What was given for all that happened before now: the kernel keeps the order of events."""
        self._ends += 1
        (self._end / "new" / f"end{self._ends}").touch()
        wait_for(lambda: END in self.given or self.died, what="the end", detail=lambda: f"{self}")
        assert not self.died
        given = [trigger for trigger in self.given if trigger.pairing != "end"]
        self.given.clear()
        return given

    def __str__(self) -> str:
        return f"given {self.given}\ntold {self.told}\ndied {self.died}"


@pytest.fixture
def watching(tmp_path):
    """Starts watchers; each gave what it gives at the start. All have ended when the test has."""
    end = make_folder(tmp_path / "end")

    @contextmanager
    def started(folders, **options):
        watched = Watched(folders, end, **options)
        watched.thread.start()
        try:
            wait_for(lambda: END_FULL in watched.given, what="the start", detail=lambda: f"{watched}")
            watched.given.clear()
            yield watched
        finally:
            watched.watcher.stop()
            watched.thread.join(20)
            assert not watched.thread.is_alive()
            assert watched.died == []

    return started


class Kernel:
    """inotify with faults: `refuses` maps the end of a path (or "init") to an errno; counts the looks."""

    def __init__(self, monkeypatch) -> None:
        self.refuses: dict[str, int] = {}
        self.looks = 0
        self.watches: dict[str, int] = {}
        self.real: INotify | None = None
        monkeypatch.setattr(watch_local, "INotify", self.make)

    def make(self) -> Kernel:
        self._check("init")
        self.real = INotify()
        for name in ("fileno", "read", "rm_watch", "close"):
            setattr(self, name, getattr(self.real, name))
        return self

    def add_watch(self, path: str, mask: int) -> int:
        self.looks += 1
        self._check(path)
        assert self.real is not None
        self.watches[path] = self.real.add_watch(path, mask)
        return self.watches[path]

    def _check(self, path: str) -> None:
        for end, number in self.refuses.items():
            if path.endswith(end):
                raise OSError(number, os.strerror(number))


@pytest.fixture
def kernel(monkeypatch):
    return Kernel(monkeypatch)


# --- what is a change -------------------------------------------------------------------------------------------


def write(path: Path) -> None:
    path.write_bytes(b"Subject: x\n\nx\n")


def deliver(folder: Path, directory: str = "new", name: str = "100.M1.host") -> None:
    write(folder / "tmp" / name)
    (folder / "tmp" / name).rename(folder / directory / name)


CHANGES = {
    "delivery": lambda f: (f / "tmp/t").rename(f / "new/t"),
    "delivery by a link": lambda f: os.link(f / "tmp/t", f / "new/t"),
    "written in place": lambda f: write(f / "cur/w"),
    "written over": lambda f: write(f / "cur/c:2,S"),
    "seen by a reader": lambda f: (f / "new/n").rename(f / "cur/n:2,"),
    "flag": lambda f: (f / "cur/c:2,S").rename(f / "cur/c:2,FS"),
    "deleted": lambda f: (f / "cur/c:2,S").unlink(),
    "moved to another folder": lambda f: (f / "cur/c:2,S").rename(f.parent / "c"),
    "moved within a bucket": lambda f: (f / "a3/new/b").rename(f / "a3/cur/b:2,S"),
    "delivery to a bucket": lambda f: (f / "tmp/t").rename(f / "a3/cur/t:2,S"),
    "a name that is not UTF-8": lambda f: write(Path(os.fsdecode(os.fsencode(f) + b"/new/\xff\xfe"))),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_gives_a_trigger(work, watching, change):
    for leaf in ("new", "cur"):
        (work / "a3" / leaf).mkdir(parents=True)
    for name in ("tmp/t", "new/n", "cur/c:2,S", "a3/new/b"):
        write(work / name)
    with watching({"work": work}) as watched:
        change(work)
        given = watched.settled()
        assert set(given) == {WORK}
        assert watched.told == []


def test_the_start_has_everything_looked_at_once_watches_are_up(work, tmp_path, watching):
    seen = threading.Event()

    def arrive(trigger):
        if trigger == WORK_FULL:
            deliver(work)
        elif trigger == WORK:
            seen.set()

    with watching({"work": work}, on_give=arrive):
        assert seen.wait(20)


def test_pairings_are_told_apart(work, tmp_path, watching):
    home = make_folder(tmp_path / "home")
    with watching({"work": work, "home": home}) as watched:
        deliver(home)
        assert set(watched.settled()) == {HOME}
        deliver(work)
        assert set(watched.settled()) == {WORK}


def test_what_is_no_mail_gives_none(work, watching):
    write(work / "cur" / "c:2,S")
    with watching({"work": work}) as watched:
        write(work / "tmp" / "t")
        write(work / ".marker")
        (work / "tmp" / "t").rename(work / ".pushpull")
        (work / "dovecot-uidlist").touch()
        make_folder(work / ".Sent")
        write(work / "cur" / ".hidden")
        (work / "cur" / "c:2,S").read_bytes()
        os.utime(work / "cur" / "c:2,S")
        (work / "cur" / "c:2,S").chmod(0o600)
        os.listdir(work / "cur")
        assert watched.settled() == []


def test_a_cycle_that_changes_nothing_makes_no_event(work, watching):
    """Else each cycle would start the next, for ever."""
    local = Maildir(str(work), buckets=True)
    local.deliver([Delivery(local.stage([b"Subject: x\r\n\r\nx\r\n"], 1.0), SEEN)])
    with watching({"work": work}) as watched:
        local.create()
        local.probe()
        local.clean_tmp()
        local.write_marker(Marker("a" * 32, 1, 2))
        local.read_marker()
        (file,) = local.scan().files.values()
        assert local.fingerprint(file)
        assert local.find(file.uniquename) == file
        stream, _ = local.open_message(file)
        stream.close()
        local.stage([b"Subject: x\r\n\r\nx\r\n"], 0.0).discard()
        local.set_flags(file, add=SEEN, remove=NONE)
        local.sync_renames()
        assert watched.settled() == []
        local.set_flags(file, add=NONE, remove=SEEN)
        assert set(watched.settled()) == {WORK}


def test_a_burst_is_few_triggers(work, watching):
    with watching({"work": work}) as watched:
        for number in range(3000):
            (work / "new" / f"{number}").touch()
        given = watched.settled()
        assert set(given) == {WORK}
        assert len(given) < 1000


# --- directories that come and go -----------------------------------------------------------------------------------


def test_a_bucket_made_later_is_watched(work, watching):
    with watching({"work": work}) as watched:
        (work / "7f").mkdir()
        watched.wait(WORK_FULL)
        (work / "7f" / "cur").mkdir()
        watched.wait(WORK_FULL)
        deliver(work, "7f/cur")
        assert set(watched.settled()) == {WORK}
        (work / "7f" / "tmp").mkdir()
        assert watched.settled() == []


def test_mail_in_a_bucket_that_is_just_made_is_looked_at(work, watching):
    """Its event may be too early for the watch; then it is there when everything is looked at."""
    looks = []
    with watching({"work": work}, on_give=lambda _: looks.append((work / "7f/new/100.M1.host").exists())) as watched:
        for directory in ("7f", "7f/cur", "7f/new"):
            (work / directory).mkdir()
        deliver(work, "7f/new")
        wait_for(lambda: any(looks), what="a trigger after the delivery", detail=lambda: f"{watched}")


@pytest.mark.parametrize("leaf", ["new", "cur"])
def test_a_directory_that_is_replaced(work, watching, leaf):
    with watching({"work": work}) as watched:
        (work / leaf).rename(work / "old")
        watched.wait(WORK_FULL)
        assert "No such file" in watched.wait_told(f"{work}/{leaf}", "waiting for it")
        write(work / "old" / "x")
        assert WORK not in watched.settled()
        (work / leaf).mkdir()
        watched.wait(WORK_FULL)
        watched.wait_told("watched for changes again")
        watched.settled()  # the event and the look for it may both have found it
        deliver(work, leaf)
        assert set(watched.settled()) == {WORK}


def test_a_folder_moved_away_and_back(work, watching):
    with watching({"work": work}) as watched:
        away = work.rename(work.parent / "away")
        watched.wait(WORK_FULL)
        watched.wait_told(f"{work}:", "waiting for it")
        deliver(away)
        assert watched.settled() == []
        away.rename(work)
        watched.wait(WORK_FULL)
        assert [level for level, _ in watched.told] == [logging.WARNING, logging.INFO]
        deliver(work, name="another")
        assert set(watched.settled()) == {WORK}


def test_a_folder_that_stays_away_is_looked_for_with_growing_gaps(work, watching, kernel, monkeypatch):
    monkeypatch.setattr(watch_local, "FIRST_GAP", 0.001)
    with watching({"work": work}) as watched:
        shutil.rmtree(work)
        watched.wait(WORK_FULL)
        watched.settled()
        before = kernel.looks
        wait_for(lambda: kernel.looks >= before + 6, what="six looks")
        start, before = time.monotonic(), kernel.looks
        wait_for(lambda: kernel.looks >= before + 2, what="two more")
        assert time.monotonic() - start > 0.032  # 2 ** 6 thousandths, jittered, at the least
        assert len(watched.told) == 1
        assert watched.settled() == []
        make_folder(work)
        watched.wait(WORK_FULL)
        watched.settled()
        deliver(work)
        assert WORK in watched.settled()


def test_a_folder_that_is_not_there_at_the_start(tmp_path, watching):
    with watching({"work": tmp_path / "later"}) as watched:
        assert "waiting for it" in watched.told[0][1]
        work = make_folder(tmp_path / "later")
        watched.wait(WORK_FULL)
        watched.wait_told("watched for changes again")
        watched.settled()
        deliver(work)
        assert set(watched.settled()) == {WORK}


def test_another_folder_in_its_place(work, watching, kernel):
    other = make_folder(work.parent / "other")
    with watching({"work": work}) as watched:
        before = kernel.watches[f"{work}/cur"]
        work.rename(work.parent / "away")
        other.rename(work)
        wait_for(lambda: kernel.watches[f"{work}/cur"] != before, what="another watch", detail=lambda: f"{watched}")
        assert WORK_FULL in watched.settled()
        deliver(work)
        assert set(watched.settled()) == {WORK}
        deliver(work.parent / "away")
        assert watched.settled() == []


def test_a_parent_that_is_renamed_makes_no_event_and_is_noticed(work, watching):
    with watching({"work": work}, poll_seconds=SOON) as watched:
        mail = work.parent
        mail.rename(mail.parent / "old")
        watched.wait(WORK_FULL)
        watched.wait_told("waiting for it")
        make_folder(work)
        watched.wait(WORK_FULL)
        watched.settled()
        deliver(work)
        watched.wait(WORK)
        deliver(mail.parent / "old" / "work")
        assert watched.settled() == []


def test_a_link_to_the_folder_that_is_turned(work, tmp_path, watching):
    link, other = tmp_path / "link", make_folder(tmp_path / "other")
    link.symlink_to(work)
    with watching({"work": link}, poll_seconds=SOON) as watched:
        deliver(work)
        assert set(watched.settled()) == {WORK}
        (tmp_path / "new link").symlink_to(other)
        (tmp_path / "new link").rename(link)
        watched.wait(WORK_FULL)
        deliver(other)
        watched.wait(WORK)
        deliver(work, name="another")
        assert watched.settled() == []


def test_a_link_in_the_folder_is_not_followed(work, tmp_path, watching):
    (tmp_path / "elsewhere").mkdir()
    (work / "new").rmdir()
    (work / "new").symlink_to(tmp_path / "elsewhere")
    with watching({"work": work}) as watched:
        watched.wait_told(f"{work}/new", "waiting for it")
        write(tmp_path / "elsewhere" / "x")
        assert WORK not in watched.settled()


def test_one_directory_of_two_pairings(work, tmp_path, watching):
    link = tmp_path / "link"
    link.symlink_to(work)
    with watching({"work": work, "home": link}, poll_seconds=SOON) as watched:
        deliver(work)
        assert set(watched.settled()) == {WORK, HOME}
        link.unlink()
        watched.wait(HOME_FULL)
        deliver(work, name="another")
        assert set(watched.settled()) == {WORK}


def test_a_watch_that_the_kernel_took_away(work, watching, kernel):
    """As after an unmount."""
    with watching({"work": work}) as watched:
        kernel.real.rm_watch(kernel.watches[f"{work}/cur"])
        watched.wait(WORK_FULL)
        deliver(work, "cur")
        assert set(watched.settled()) == {WORK}


# --- limits ---------------------------------------------------------------------------------------------------------


def test_more_events_than_the_kernel_holds(work, tmp_path, watching):
    """The watcher is kept busy until the queue has overflowed; new directories were among the lost events."""
    home = make_folder(tmp_path / "home")
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    busy, go_on = threading.Event(), threading.Event()

    def hang(trigger):
        if trigger == WORK:
            busy.set()
            assert go_on.wait(60)

    with watching({"work": work, "home": home}, on_give=hang) as watched:
        deliver(work)
        assert busy.wait(20)
        names = [str(work / "cur" / name) for name in ("a", "b")]
        Path(names[0]).touch()
        for turn in range(limit // 2 + 10):
            os.rename(names[turn % 2], names[1 - turn % 2])
        (home / "3c" / "new").mkdir(parents=True)
        go_on.set()
        watched.wait(HOME_FULL)
        watched.wait_told("more changes", "looking at everything")
        watched.settled()
        deliver(home, "3c/new")
        assert set(watched.settled()) == {HOME}


LIMITS = [
    ("work/cur", errno.ENOSPC, "fs.inotify.max_user_watches"),
    ("work", errno.ENOSPC, "fs.inotify.max_user_watches"),
    ("init", errno.EMFILE, "fs.inotify.max_user_instances"),
    ("work/new", errno.EACCES, "Permission denied"),
    ("a3/cur", errno.EIO, "Input/output error"),
]


@pytest.mark.parametrize(("what", "number", "words"), LIMITS)
def test_what_cannot_be_watched_is_polled(work, watching, kernel, what, number, words):
    (work / "a3" / "cur").mkdir(parents=True)
    kernel.refuses = {what: number}
    with watching({"work": work}, poll_seconds=SOON) as watched:
        watched.wait(WORK_FULL)
        watched.wait(WORK_FULL)
        watched.wait(WORK_FULL)
        errors = [text for level, text in watched.told if level == logging.ERROR and str(work) in text]
        assert len(errors) == 1
        assert words in errors[0]
        kernel.refuses = {}
        watched.wait_told(f"{work}:", "watched for changes again")
        if what == "init":
            watched.wait_told("/end:", "watched for changes again")
        watched.settled()
        deliver(work, "a3/cur")
        assert set(watched.settled()) == {WORK}


def test_a_limit_does_not_take_the_watches_that_there_are(work, watching, kernel):
    (work / "b0" / "cur").mkdir(parents=True)
    with watching({"work": work}) as watched:
        kernel.refuses = {"a3": errno.ENOSPC}
        (work / "a3").mkdir()
        watched.wait(WORK_FULL)
        watched.wait_told("cannot be watched", "looking every 1 min")
        deliver(work, "b0/cur")
        assert set(watched.settled()) == {WORK}


def test_regular_looks_are_silent(work, watching, kernel):
    (work / "a3" / "cur").mkdir(parents=True)
    with watching({"work": work}, poll_seconds=0.001) as watched:
        before = kernel.looks
        wait_for(lambda: kernel.looks > before + 100, what="a hundred looks")
        assert watched.settled() == []
        assert watched.told == []


def test_names_are_escaped(tmp_path, watching):
    with watching({"work": tmp_path / "a\x1b[31m\nb"}) as watched:
        assert r"a\x1b[31m\nb:" in watched.told[0][1]


# --- the end --------------------------------------------------------------------------------------------------------


def descriptors() -> set[str]:
    return {f"{fd}:{target}" for fd in os.listdir("/proc/self/fd") if (target := link_target(fd))}


def link_target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return ""


def test_all_that_was_opened_is_closed(work, watching):
    INotify().close()  # the library keeps what its first use loads
    before = descriptors()
    for _ in range(3):
        with watching({"work": work}) as watched:
            assert descriptors() != before
        watched.watcher.stop()
        assert descriptors() == before


def test_stopping_before_the_start(work):
    given = []
    watcher = LocalWatcher({"work": str(work)}, given.append, lambda *_: None, clock=time.monotonic)
    watcher.stop()
    watcher.run()
    assert given == []


def test_it_ends_at_once_in_the_middle_of_a_burst(work, watching):
    with watching({"work": work}) as watched:
        for number in range(2000):
            (work / "new" / f"{number}").touch()
        start = time.monotonic()
        watched.watcher.stop()
        watched.thread.join(20)
        assert time.monotonic() - start < 10


def test_it_may_run_again_after_an_error(work):
    """A thread that died is started anew."""
    given = []

    def give(trigger):
        given.append(trigger)
        if len(given) == 1:
            raise RuntimeError("a bug")
        watcher.stop()

    before = descriptors()
    watcher = LocalWatcher({"work": str(work)}, give, lambda *_: None, clock=time.monotonic)
    with pytest.raises(RuntimeError, match="a bug"):
        watcher.run()
    assert descriptors() == before
    watcher.run()
    assert given == [WORK_FULL, WORK_FULL]


def test_without_folders_it_waits_for_the_stop():
    watcher = LocalWatcher({}, lambda _: None, lambda *_: None, clock=time.monotonic)
    thread = threading.Thread(target=watcher.run)
    thread.start()
    watcher.stop()
    thread.join(20)
    assert not thread.is_alive()


# --- files that are whole ----------------------------------------------------------------------------------------


def test_what_is_moved_in_is_told_and_nothing_else(work, tmp_path, watching):
    moved = []
    with watching({"work": work}, moved_in=lambda *what: moved.append(what)) as watched:
        (work / "tmp" / "a").touch()
        (work / "tmp" / "a").rename(work / "new" / "a")
        (work / "new" / "a").rename(work / "cur" / "a:2,S")
        (work / "new" / "b").touch()  # may be written to still
        (work / "new" / "b").rename(work / "cur" / "b:2,")  # as some mail readers do while it is
        (tmp_path / "c").touch()
        (tmp_path / "c").rename(work / "cur" / "c:2,")
        watched.settled()
    assert moved == [("work", "a"), ("work", "c:2,")]
