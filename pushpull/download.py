# SPDX-License-Identifier: MIT
"""Apply downloads: bodies stream to tmp/, become durable in batches, are renamed into place, then committed.

Crash anywhere: what is in tmp/ never counted; what was renamed but not committed is found by the next scan as a new
file and adopted by content, since a body is compared with every file that seeks a UID before it is delivered.

A batch that the server refuses or that kills the link is halved until the message at fault stands alone; its failure is
kept in its row, and the others go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from functools import partial
from typing import BinaryIO

from pushpull import levels
from pushpull.aside import Aside
from pushpull.dates import to_epoch
from pushpull.errors import ConnectionLost, MessageError, ServerBusy, is_throttled
from pushpull.flags import ALL, DELETED, DRAFT, Flags
from pushpull.message import Likeness, same_message
from pushpull.model import FileStamp, LocalFile, Pairing, Tally, Uid, UidSet
from pushpull.outcomes import SET_ASIDE_AFTER, Outcomes
from pushpull.plan import Download
from pushpull.ports import Delivery, Local, Message, Remote, Report, StagedFile
from pushpull.values import struct, value
from pushpull.wording import printable

BATCH_MESSAGES = 500
BATCH_BYTES = 8 << 20
MOST_UPLOADS = 400
_PIECE = 1 << 16
_USUAL_SIZE = 10_000  # octets of a message of which nothing is known yet
_ANSWERS = ("accepted", "open", "")


@struct
class Pace:
    """How many messages are asked for at once, up to `most`, and sent at once; survives a reconnect, so a poisonous
    message is narrowed down.

    `suspect` is a row over which, alone, the link was lost or the server was busy once: that may happen to any.
    """

    messages: int = BATCH_MESSAGES
    suspect: int | None = None
    most: int = BATCH_MESSAGES
    uploads: int = MOST_UPLOADS

    def suspected(self, row: Pairing) -> bool:
        """Whether the row was the last one at fault too; remembers it."""
        again = self.suspect == row.id
        self.suspect = row.id
        return again

    def slower(self, asked: int) -> None:
        self.messages = max(1, asked // 2)

    def faster(self) -> None:
        self.messages = min(self.most, self.messages * 2)

    def fewer_uploads(self, sent: int) -> None:
        self.uploads = max(1, min(self.uploads, sent // 2))

    def more_uploads(self) -> None:
        self.uploads = min(MOST_UPLOADS, self.uploads * 2)


@value
class _Arrived:
    action: Download
    message: Message
    staged: StagedFile


class Downloader:
    """Downloads for one pair, through one session."""

    def __init__(
        self,
        remote: Remote,
        local: Local,
        outcomes: Outcomes,
        *,
        tally: Tally,
        pace: Pace,
        report: Report,
        clock: Callable[[], float],
        unsynced_boot: str,
        before_delivery: Callable[[], None],
        check_stop: Callable[[], None],
        breathe: Callable[[], None],
        awaited: Callable[[], bool],
    ) -> None:
        self._remote, self._local, self._outcomes = remote, local, outcomes
        self._tally, self._pace, self._report, self._clock = tally, pace, report, clock
        self._boot = unsynced_boot
        self._before_delivery, self._check_stop = before_delivery, check_stop
        self._breathe, self._awaited = breathe, awaited
        self._done = self._total = self._bytes = 0
        self._rest: deque[Download] = deque()
        self._delivering: tuple[list[_Arrived], Callable[[], list[LocalFile]]] | None = None

    def run(self, actions: Sequence[Download], *, total: int) -> int:
        """Returns how many messages were delivered, adopted or found to fail. `total` is for the progress line."""
        self._done, self._total = 0, max(total, len(actions))
        self._rest = deque(actions)
        self._remote.expect(sum(action.row.size or _USUAL_SIZE for action in actions))
        while self._rest:
            self._check_stop()
            self._batch(self._next_batch(), ahead=self._pace.messages >= self._pace.most)
            self._pace.faster()
            if self._rest:
                self._breathe()
        return self._done

    def _next_batch(self) -> list[Download]:
        return [self._rest.popleft() for _ in range(min(len(self._rest), self._pace.messages))]

    def _batch(self, batch: Sequence[Download], *, ahead: bool = False) -> None:
        """With `ahead`, what comes after it is asked for before it has come whole, and is its part. Not after a
        failure, whose cause is narrowed down."""
        wanted = _by_uid(batch)
        try:
            self._stream(wanted, ahead=ahead)
        except MessageError as error:
            self._narrow(list(wanted.values()), error)
        except (ConnectionLost, ServerBusy) as error:
            if len(batch) == 1 and wanted:
                row = next(iter(wanted.values())).row
                if not is_throttled(error) and self._pace.suspected(row):
                    self._fail(row, f"the server does not give it: {error}")
            self._pace.slower(min(len(wanted), self._pace.messages))
            raise
        else:
            self._missing(wanted)

    def _more(self, wanted: dict[Uid, Download]) -> list[Uid]:
        """The next UIDs to ask for. No more when others wait: their turn is once what was asked for has come, for until
        then it is under way."""
        if self._awaited():
            return []
        further = _by_uid(self._next_batch())
        wanted.update(further)
        return sorted(further)

    def _stream(self, wanted: dict[Uid, Download], *, ahead: bool) -> None:
        """Take messages off `wanted` as they are delivered; what arrived before a failure is delivered too."""
        arrived: list[_Arrived] = []
        size = 0
        more = partial(self._more, wanted) if ahead else None
        try:
            for message in self._remote.messages(sorted(wanted), more):
                action = wanted[message.view.uid]
                arrived.append(_Arrived(action, message, self._local.stage(message.body, self._mtime(message))))
                size += message.size
                if len(arrived) >= self._pace.most or size >= BATCH_BYTES:
                    self._publish(arrived, wanted, aside=True)
                    arrived, size = [], 0
                    self._check_stop()
        except (MessageError, ConnectionLost, ServerBusy):
            self._publish(arrived, wanted)
            self._settle(wanted)
            raise
        except BaseException:
            _discard(arrived)
            self._settle(wanted)
            raise
        self._publish(arrived, wanted)
        self._settle(wanted)

    def _publish(self, arrived: Sequence[_Arrived], wanted: dict[Uid, Download], *, aside: bool = False) -> None:
        """Adopt what is here already, and deliver the rest: with `aside` while the next messages come, else as soon as
        it is to be settled."""
        try:
            self._settle(wanted)
        except BaseException:
            _discard(arrived)
            raise
        fresh: list[_Arrived] = []
        sought = self._outcomes.sought(each.staged.fingerprint.digest for each in arrived)
        for each in arrived:
            partner = self._partner(each, sought)
            if partner is None:
                fresh.append(each)
            else:
                each.staged.discard()
                self._tally.unmarked += self._outcomes.adopt(each.action.row, partner, each.message.view)
                self._tally.adopted += 1
                self._report.line(levels.NOTICE, f"uid {each.message.view.uid} is here already: {_name(partner)}")
                self._arrived(each, wanted)
                self._advance(1)
        if fresh:
            self._before_delivery()
            deliveries = [Delivery(each.staged, each.message.view.flags & ALL) for each in fresh]
            self._local.write(deliveries)
            deliver = partial(self._local.deliver, deliveries)
            # A thread gains where it waits for the disk. Where it does not, it costs: the interpreter is handed over at
            # each call of the kernel, several for each message that is written.
            self._delivering = fresh, Aside(deliver).result if aside and not self._boot else deliver

    def _settle(self, wanted: dict[Uid, Download]) -> None:
        """Wait until the last batch is in place, and commit it."""
        if self._delivering is None:
            return
        (fresh, delivery), self._delivering = self._delivering, None
        files = delivery()
        self._outcomes.delivered(
            [
                (each.action.row, file, each.staged.fingerprint, self._stamp(each, file), each.message.view)
                for each, file in zip(fresh, files, strict=True)
            ],
            self._boot,
        )
        for each, file in zip(fresh, files, strict=True):
            self._tally.downloaded += 1
            self._tally.bytes_down += each.message.size
            self._report.line(levels.NOTICE, f"downloaded uid {each.message.view.uid} to {printable(file.path)}")
            self._arrived(each, wanted)
        self._advance(len(fresh))

    def _arrived(self, each: _Arrived, wanted: dict[Uid, Download]) -> None:
        wanted.pop(each.message.view.uid, None)
        self._bytes += each.message.size

    def _stamp(self, each: _Arrived, file: LocalFile) -> FileStamp:
        """Only drafts (edited in place) and files that are not on disk yet are ever compared with a stamp."""
        return each.staged.stamp if file.flags & DRAFT or self._boot else FileStamp(0, 0, 0)

    def _mtime(self, message: Message) -> float:
        date = to_epoch(message.internaldate)
        return self._clock() if date is None else date

    # --- adoption by content -------------------------------------------------------------------------------------

    def _partner(self, arrived: _Arrived, sought: Container[bytes]) -> Pairing | None:
        digest = arrived.staged.fingerprint.digest
        exact = self._outcomes.seekers_like(digest) if digest in sought else []
        if exact:
            return min(exact, key=lambda row: _preference(row, arrived.message.view.flags))
        for partner in arrived.action.partners:
            if partner.has_local and self._outcomes.still_seeks(partner) and self._same(arrived.staged, partner):
                return partner
        return None

    def _same(self, staged: StagedFile, partner: Pairing) -> bool:
        try:
            opened = self._local.open_message(local_file(partner))
            if opened is None:
                return False
            handle, _ = opened
            with handle:
                return same_message(staged.chunks(), pieces(handle)) is not Likeness.DIFFERENT
        except MessageError:  # the file cannot be read: nothing says that it is the same
            return False

    # --- failures ------------------------------------------------------------------------------------------------

    def _narrow(self, batch: list[Download], error: MessageError) -> None:
        """The server refused the command: ask for halves, until the message at fault stands alone."""
        if len(batch) == 1:
            self._fail(batch[0].row, str(error))
            return
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]):
            self._check_stop()
            self._batch(half)

    def _missing(self, wanted: dict[Uid, Download]) -> None:
        """What was asked for and not sent: expunged meanwhile (the next observation says so), or withheld."""
        for lo, hi in UidSet.of(wanted).ranges:
            for view in self._remote.views(Uid(lo), Uid(hi)):
                if view.uid in wanted:
                    self._fail(wanted[view.uid].row, "the server lists it, but does not send it")

    def _fail(self, row: Pairing, reason: str) -> None:
        count = self._outcomes.failed(row, reason, self._clock())
        tell_failure(self._report, self._tally, f"uid {row.uid}", reason, count)
        self._advance(1)

    def _advance(self, count: int) -> None:
        self._done += count
        self._report.progress("downloading", min(self._done, self._total), self._total, self._bytes)


def _discard(arrived: Iterable[_Arrived]) -> None:
    for each in arrived:
        each.staged.discard()


def _by_uid(batch: Sequence[Download]) -> dict[Uid, Download]:
    return {action.row.uid: action for action in batch if action.row.uid is not None}


def pieces(handle: BinaryIO) -> Iterator[bytes]:
    """What is left to read of a message file."""
    return iter(lambda: handle.read(_PIECE), b"")


def local_file(row: Pairing) -> LocalFile:
    """Where a row's file was last seen."""
    assert row.uniquename is not None  # noqa: S101 - asked of rows with a file
    return LocalFile(row.uniquename, row.directory, row.info, row.local_flags)


def tell_failure(report: Report, tally: Tally, what: str, reason: str, count: int) -> None:
    """Tell that a message failed for the `count`-th time. From the third time on it is set aside."""
    if count >= SET_ASIDE_AFTER:
        tally.set_aside += 1
        report.line(levels.WARNING, f"set aside: {what}: {printable(reason)} (failed {count} times; tried again later)")
    else:
        tally.failed += 1
        report.line(levels.WARNING, f"failed: {what}: {printable(reason)}; it will be tried again")


def _preference(row: Pairing, flags: Flags) -> tuple[int, int, bool, int]:
    """Which of identical copies a UID belongs to: one that the server took, one that it may have taken, any; then the
    one whose flags agree, so each keeps its own.
    """
    known = row.base_flags if row.old_uidvalidity else row.local_flags
    if row.gone:
        known |= DELETED
    return (_ANSWERS.index(row.append_outcome), (known ^ flags).bit_count(), not row.has_local, row.id)


def _name(row: Pairing) -> str:
    return printable(row.uniquename) if row.uniquename is not None else "a file that is gone"
