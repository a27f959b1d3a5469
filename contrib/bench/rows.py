# SPDX-License-Identifier: MIT
"""The work that all programs are given in turn: how each run is prepared, and how what it did is checked."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from corpora import letters
from lab import Lab, fill_folder, say
from meter import Failed, link
from peers import Peer, Pushpull
from results import Cost, Line, Result, Traffic

DELAY, MEGABITS = 20.0, 100.0  # one way, ms: 40 ms for a round trip
# What counts bytes and turns has some delay too: else what a program sends in two pieces may be answered in between.
COUNTING_DELAY = 2.5
MEAN, SMALL = 12_000, 1_500  # bytes a message
NEW, FLAGGED = 50, 200


@dataclass(frozen=True)
class Sizes:
    """How much there is to do. `many` small messages are in the large mailbox."""

    download: int = 10_000
    far: int = 2_000
    upload: int = 2_000
    many: int = 100_000


QUICK = Sizes(download=300, far=100, upload=100, many=1_000)


class Row:
    """A line of the table: the same work for each program. `targets` as in `results.Line`."""

    def __init__(self, name: str, title: str, targets: Mapping[str, float], *, far: bool = False) -> None:
        self.name, self.title, self.targets, self.far = name, title, targets, far
        self.messages = self.size = 0

    def begin(self, lab: Lab, sizes: Sizes) -> None:
        """Once, before all programs."""
        raise NotImplementedError

    def once(self, lab: Lab, peer: Peer, port: int) -> Cost:
        """One run, prepared and checked."""
        raise NotImplementedError


class FirstDownload(Row):
    def __init__(
        self, name: str, title: str, targets: Mapping[str, float], *, far: bool = False, fsync: bool = True
    ) -> None:
        super().__init__(name, title, targets, far=far)
        self._fsync = fsync

    def begin(self, lab: Lab, sizes: Sizes) -> None:
        self.messages = sizes.far if self.far else sizes.download
        self.size = sum(len(each.body) for each in letters(self.messages, MEAN))
        self._user = lab.source(self.messages, MEAN)

    def once(self, lab: Lab, peer: Peer, port: int) -> Cost:
        place = lab.place(peer, self._user, fsync=self._fsync)
        cost = lab.run(peer, place, port)
        lab.check_folder(peer, place)
        return cost


class Kept(Row):
    """Each program has one copy of the mailbox for all runs, synchronised before."""

    def begin(self, lab: Lab, sizes: Sizes) -> None:
        self.messages = sizes.far if self.far else sizes.many
        self._source = lab.source(self.messages, MEAN if self.far else SMALL)


class NothingToDo(Kept):
    def once(self, lab: Lab, peer: Peer, port: int) -> Cost:
        place = lab.kept(peer, self._source)
        cost = lab.run(peer, place, port)
        lab.check_folder(peer, place)
        return cost


class Delta(Kept):
    """New messages and changed flags on the server."""

    def begin(self, lab: Lab, sizes: Sizes) -> None:
        super().begin(lab, sizes)
        self._taken = itertools.count(1000)

    def once(self, lab: Lab, peer: Peer, port: int) -> Cost:
        place = lab.kept(peer, self._source)
        lab.change(place.user, letters(NEW, SMALL, seed=next(self._taken)), FLAGGED)
        cost = lab.run(peer, place, port)
        lab.check_folder(peer, place)
        return cost


class Upload(Row):
    def begin(self, _lab: Lab, sizes: Sizes) -> None:
        self.messages = sizes.upload
        self._letters = list(letters(sizes.upload, MEAN, seed=7))
        self.size = sum(len(each.body) for each in self._letters)

    def once(self, lab: Lab, peer: Peer, port: int) -> Cost:
        place = lab.place(peer, lab.user())
        lab.run(peer, place)
        fill_folder(place.folder, self._letters)
        cost = lab.run(peer, place, port)
        lab.check_mailbox(peer, place, self._letters)
        return cost


class Adoption(Row):
    """All messages are on both sides already. Only pushpull knows how to do without downloading them."""

    def begin(self, lab: Lab, sizes: Sizes) -> None:
        self.messages = sizes.download
        self._letters = list(letters(sizes.download, MEAN))
        self._user = lab.source(sizes.download, MEAN)

    def once(self, lab: Lab, peer: Peer, port: int) -> Cost:
        place = lab.place(peer, self._user)
        if isinstance(peer, Pushpull):
            fill_folder(place.folder, self._letters)
        cost = lab.run(peer, place, port)
        lab.check_folder(peer, place)
        return cost


ROWS: tuple[Row, ...] = (
    FirstDownload("download", "first download", {"ratio": 3.5}),
    FirstDownload("download-nosync", "first download, fsync off", {"ratio": 1.1}, fsync=False),
    FirstDownload("download-far", "first download, 40 ms, 100 Mbit/s", {"ratio": 1.0, "turns": 14}, far=True),
    NothingToDo("nothing", "nothing to do", {"ratio": 2.0, "received": 20, "rss": 90}),
    NothingToDo("nothing-far", "nothing to do, 40 ms, 100 Mbit/s", {"ratio": 1.3, "turns": 9}, far=True),
    Delta("delta", f"{NEW} new, {FLAGGED} flags changed", {"ratio": 2.0, "rss": 90}),
    Upload("upload", "upload", {"ratio": 3.0}),
    Upload("upload-far", "upload, 40 ms, 100 Mbit/s", {"ratio": 1.0}, far=True),
    Adoption("adoption", "on both sides already (others: download)", {}),
)


def measure_row(lab: Lab, row: Row, peers: Sequence[Peer], sizes: Sizes, runs: int) -> Line:
    """All programs in turn, each time another first; then once more through a link that counts."""
    row.begin(lab, sizes)
    able = [peer for peer in peers if row.messages <= peer.most]
    targets = row.targets if sizes == Sizes() else {}  # they are meant for the whole work
    line = Line(row.name, row.title, row.messages, row.size, targets, {peer.name: Result() for peer in able})
    for number in range(runs + 1):
        for peer in able[number % len(able) :] + able[: number % len(able)]:
            result = line.results[peer.name]
            counting = number == runs
            if not result.failed and (counting or number < peer.most_runs):
                say(f"{row.title}: {'counting' if counting else f'run {number + 1} of {runs}'}, {peer.name}")
                _run(lab, row, peer, result, counting=counting)
    return line


def _run(lab: Lab, row: Row, peer: Peer, result: Result, *, counting: bool) -> None:
    try:
        with _line(lab, row, counting=counting) as (port, traffic):
            cost = row.once(lab, peer, port)
    except Failed as failure:
        say(f"FAILED: {failure}")
        result.failed = str(failure)
        lab.forget(peer)
        return
    if counting:
        result.traffic = traffic[0]
    else:
        result.costs.append(cost)


@contextmanager
def _line(lab: Lab, row: Row, *, counting: bool) -> Iterator[tuple[int, list[Traffic | None]]]:
    """The port to connect to, and afterwards what went over it."""
    traffic: list[Traffic | None] = []
    if row.far:
        wire_or_none = link(lab.server.port, delay=DELAY, megabits=MEGABITS)
    elif counting:
        wire_or_none = link(lab.server.port, delay=COUNTING_DELAY)
    else:
        wire_or_none = nullcontext()
    with wire_or_none as wire:
        yield wire.port if wire else 0, traffic
    if wire:
        traffic.append(wire.traffic)
