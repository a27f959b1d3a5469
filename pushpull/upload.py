# SPDX-License-Identifier: MIT
"""Apply uploads. APPEND is the one effect that does not repeat harmlessly.

They go in batches: one command for all of a batch (MULTIAPPEND), or many sent ahead of their answers, where the server
can. The attempts of a batch are committed before a byte of it is sent, the outcomes in one transaction after it. Each
message has one of three: refused (nothing is there), accepted (never sent again; without APPENDUID its UID is awaited),
or no answer: the row stays open, nothing is replayed, and a later plan decides from a fresh view whether the message
arrived (RFC 9051 section 6.3.12, RFC 4315). What got no answer once goes alone from then on, so one message that kills
the link takes no other with it a second time.

A batch that is refused as a whole is sent one by one, so the message at fault stands alone; but only when nothing new
is in the mailbox: a server that said no and took some all the same would get them twice.

A file is sent only if its size, mtime and inode are those of when it was last read, before and after; a file younger
than two seconds may still be written to, and goes a second later than it was met, unless it was seen to be moved in.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from pushpull import levels
from pushpull.dates import from_epoch
from pushpull.download import Pace, local_file, pieces, tell_failure
from pushpull.errors import (
    ConnectionLost,
    LocalDiskError,
    MailboxMissing,
    MessageError,
    PushpullError,
    ServerBusy,
    is_throttled,
)
from pushpull.flags import DELETED
from pushpull.message import to_crlf
from pushpull.model import FileStamp, MailboxState, Pair, Pairing, Tally, Uid
from pushpull.observed_local import LocalRows
from pushpull.outcomes import SET_ASIDE_AFTER, Outcomes
from pushpull.plan import Append
from pushpull.ports import Answer, Appended, Local, Outgoing, Remote, Report
from pushpull.values import value
from pushpull.wording import printable

YOUNG_SECONDS = 2.0
# A batch is to take no longer than new mail may be held up, and no shorter than its round trip and commits pay for. The
# first is of a size that a single message may have anyway.
_FEW_OCTETS, _FIRST_OCTETS, _MANY_OCTETS = 1 << 16, 1 << 20, 1 << 22
_SHORT_SECONDS, _LONG_SECONDS = 0.3, 1.0


@value
class _Ready:
    """A row whose file is as it was last read, and the message to send."""

    row: Pairing
    stamp: FileStamp
    message: Outgoing


@value
class _Batch:
    """What goes together. `failed`: rows that got their outcome by that. `files`: what is read while it is sent."""

    rows: list[Pairing]
    ready: list[_Ready]
    failed: int
    files: ExitStack


class Uploader:
    """Uploads for one pair, through one session. `uploaded` are the UIDs that the server told."""

    def __init__(
        self,
        remote: Remote,
        local: Local,
        outcomes: Outcomes,
        rows: LocalRows,
        *,
        pair: Pair,
        state: MailboxState,
        tally: Tally,
        pace: Pace,
        report: Report,
        clock: Callable[[], float],
        pause: Callable[[float], None],
        before_upload: Callable[[], None],
        check_stop: Callable[[], None],
        breathe: Callable[[], None],
        whole: Callable[[bytes], bool],
    ) -> None:
        self._remote, self._local, self._outcomes, self._rows = remote, local, outcomes, rows
        self._pair, self._state = pair, state
        self._tally, self._pace = tally, pace
        self._report, self._clock, self._pause = report, clock, pause
        self._before_upload, self._check_stop = before_upload, check_stop
        self._breathe, self._whole = breathe, whole
        self._octets = _FIRST_OCTETS
        self._done = self._planned = self._total = 0
        self._ahead: _Batch | None = None
        self.uploaded: list[Uid] = []
        self.awaiting = False
        self.reread = 0

    def run(self, actions: Sequence[Append], *, total: int) -> int:
        """Returns how many rows got an outcome: an upload or a refusal. `total` is for the progress line. `reread`
        counts files found changed."""
        if not actions:
            return 0
        self._before_upload()
        self._remote.expect(sum(action.row.size or 0 for action in actions))
        began, self._planned, self._total = self._clock(), len(actions), max(total, len(actions))
        rows = [action.row for action in actions]
        young = {row.id for row in rows if self._is_young(row, began)}
        done = self._upload([row for row in rows if row.id not in young])
        if young:
            waited = self._clock() - began
            if 0.0 <= waited < 1.0:  # once for all of them
                self._pause(1.0 - waited)
            done += self._upload([row for row in rows if row.id in young])
        return done

    def _is_young(self, row: Pairing, now: float) -> bool:
        """By the time that the file had when it was read; a later one shows when it is opened."""
        return abs(now - row.stamp.mtime_ns / 1e9) < YOUNG_SECONDS and not self._whole(row.uniquename or b"")

    def _upload(self, rows: Sequence[Pairing]) -> int:
        rest = deque(sorted(rows, key=lambda row: row.append_attempts))
        done = 0
        while rest or self._ahead:
            self._check_stop()
            batch, self._ahead = self._ahead or self._prepared(self._next(rest)), None
            with batch.files:
                if batch.ready:
                    done += self._attempt(batch.ready, partial(self._prepare_ahead, rest))
            done += batch.failed
            self._done += len(batch.rows)
            self._report.progress("uploading", self._done, self._total, self._tally.bytes_up)
            if self._done < self._planned:
                self._breathe()
        return done

    def _next(self, rest: deque[Pairing]) -> list[Pairing]:
        """Take off `rest` what goes together: as much as the last batches took well."""
        batch: list[Pairing] = []
        octets = 0
        while rest and len(batch) < self._pace.uploads:
            size = rest[0].size or 0
            alone = not self._goes_along(rest[0])
            if batch and (alone or octets + size > self._octets):
                break
            batch.append(rest.popleft())
            octets += size
            if alone:
                break
        return batch

    # --- files -----------------------------------------------------------------------------------------------------

    def _prepared(self, rows: list[Pairing]) -> _Batch:
        batch: list[_Ready] = []
        failed = 0
        with ExitStack() as files, self._local.at_hand():
            for row in rows:
                try:
                    ready = self._ready(row, files)
                except MessageError as error:  # this file's own fault
                    self._fail(row, str(error))
                    failed += 1
                    continue
                if ready is not None:
                    batch.append(ready)
            return _Batch(rows, batch, failed, files.pop_all())

    def _prepare_ahead(self, rest: deque[Pairing]) -> None:
        """Read the next batch while the server is busy with the last one; not what is read while it is sent. A disk
        that fails is met again when its turn comes: until then a command is under way.
        """
        if not rest or not self._goes_along(rest[0]):
            return
        rows = self._next(rest)
        try:
            self._ahead = self._prepared(rows)
        except LocalDiskError:
            rest.extendleft(reversed(rows))

    def _goes_along(self, row: Pairing) -> bool:
        """With others, and before anything is heard of those before it."""
        return not row.append_attempts and self._remote.unasked(row.size or 0)

    def _ready(self, row: Pairing, files: ExitStack) -> _Ready | None:
        """None when there is nothing to send: gone or renamed beyond finding, which the next scan tells, or written to
        since it was read. What goes in a batch is read here, so that it is of the size that was announced.
        """
        opened = self._local.open_message(local_file(row))
        if opened is None:
            return None
        handle, stamp = opened
        size, chunks = row.size or 0, to_crlf(pieces(handle))
        whole = None
        if self._remote.unasked(size):
            with handle:
                whole = list(chunks) if stamp == row.stamp else None
        else:
            files.enter_context(handle)
        if stamp != row.stamp or (whole is not None and sum(map(len, whole)) != size):
            self._read_again(row)
            return None
        flags, keywords = row.local_flags & self._state.mask, self._storable(row.keywords)
        return _Ready(row, stamp, Outgoing(flags, keywords, _internaldate(stamp), size, whole or chunks))

    def _read_again(self, row: Pairing) -> None:
        """The file was written to since it was read: take in what it is now; a fresh plan decides."""
        read = self._local.fingerprint(local_file(row))
        if read is not None:
            self._outcomes.content_changed(row, *read)
            self.reread += 1

    def _stamp(self, row: Pairing) -> FileStamp | None:
        try:
            return self._local.stamp(local_file(row))
        except MessageError:
            return None

    # --- the server ------------------------------------------------------------------------------------------------

    def _attempt(self, batch: Sequence[_Ready], meanwhile: Callable[[], None] | None = None) -> int:
        """Send what is ready; returns how many got an outcome. Raises when the link or the server failed. `meanwhile`
        is for the time in which the server is busy with it.
        """
        began = time.monotonic()
        self._outcomes.append_begins([each.row for each in batch], self._pair.uidnext, self._clock())
        try:
            together = len(batch) > 1 and self._remote.multiappend
            done = self._together(batch, meanwhile) if together else self._each(batch, meanwhile)
        except ConnectionLost:
            self._pace.fewer_uploads(len(batch))
            self._outcomes.append_unanswered((each.row for each in batch), self._clock())
            raise
        self._learn(batch, time.monotonic() - began)
        return done

    def _learn(self, batch: Sequence[_Ready], seconds: float) -> None:
        """How many octets go together from now on, by what these took. One message may be one that is hard to take, and
        little that is quick says nothing of much."""
        sent = sum(each.message.size for each in batch)
        if seconds > _LONG_SECONDS and len(batch) > 1:
            self._octets = min(max(int(sent / seconds), _FEW_OCTETS), _MANY_OCTETS)
        elif seconds < _SHORT_SECONDS and sent > self._octets // 2:
            self._octets = min(self._octets * 4, _MANY_OCTETS)

    def _each(self, batch: Sequence[_Ready], meanwhile: Callable[[], None] | None = None) -> int:
        answers: list[Answer] = []
        try:
            answers.extend(self._remote.append(self._pair.key.remote, [each.message for each in batch], meanwhile))
        except MessageError as error:  # the file could not be read to its end, so the server did not get the end
            answers.append(error)
        except ConnectionLost:
            self._take(batch, answers)
            raise
        self._pace.more_uploads()
        return self._take(batch, answers)

    def _together(self, batch: Sequence[_Ready], meanwhile: Callable[[], None] | None = None) -> int:
        """One command for the batch. When it is refused, one for each message."""
        before = self._remote.exists
        try:
            answers = self._remote.append_all(self._pair.key.remote, [each.message for each in batch], meanwhile)
        except (MessageError, MailboxMissing, ServerBusy) as error:
            self._remote.catch_up()
            grew = self._remote.exists > before
            if grew:
                self.awaiting = True
            else:
                self._outcomes.append_refused(each.row for each in batch)
            if not isinstance(error, MessageError):
                self._pace.fewer_uploads(1)  # it may be one message that the server is always too busy for
                raise
            self._pace.fewer_uploads(len(batch))
            return 0 if grew else self._one_by_one(batch)
        self._pace.more_uploads()
        return self._take(batch, answers)

    def _one_by_one(self, batch: Sequence[_Ready]) -> int:
        done = 0
        for each in batch:
            self._check_stop()
            done += self._attempt([each])
        return done

    def _take(self, batch: Sequence[_Ready], answers: Sequence[Answer]) -> int:
        """Write down what became of those that have an answer, then tell it. Raises what is no single message's fault,
        as the server said it first.
        """
        later = next((error for error in answers if isinstance(error, ServerBusy | MailboxMissing)), None)
        done = list(zip(batch, answers, strict=False))
        taken = [(each.row, self._uid(answer)) for each, answer in done if isinstance(answer, Appended)]
        with self._local.at_hand():
            rewritten = [isinstance(answer, Appended) and self._rewritten(each) for each, answer in done]
        with self._outcomes.transaction():
            own = iter(self._outcomes.appended(taken))
            failures = [
                self._twin(each.row, answer, own=next(own))
                if isinstance(answer, Appended)
                else self._refused(each.row, answer, later)
                for each, answer in done
            ]
            for (each, _), new, (_, count) in zip(done, rewritten, failures, strict=True):
                if new and not count:
                    self._rows.note_changed_content(each.row.id)
        for (each, answer), new, (reason, count) in zip(done, rewritten, failures, strict=True):
            if count:
                tell_failure(self._report, self._tally, printable(each.row.uniquename or b""), reason, count)
            elif isinstance(answer, Appended):
                self._accepted(each, self._uid(answer), rewritten=new)
        if later is not None:
            raise later
        return len(answers)

    def _twin(self, row: Pairing, answer: Appended, *, own: bool) -> tuple[str, int]:
        """Why a row failed whose message was taken, and how often by now; 0: it did not, the UID is its `own`."""
        if own:
            return "", 0
        reason = f"the server keeps one copy of two identical messages (uid {answer.uid})"
        return reason, self._outcomes.failed(row, reason, self._clock(), count=SET_ASIDE_AFTER)

    def _refused(self, row: Pairing, answer: PushpullError, later: PushpullError | None) -> tuple[str, int]:
        """Why a row failed whose message was not taken, and how often by now; 0: it did not, it is tried again."""
        self._outcomes.append_refused([row])
        if isinstance(answer, MessageError):
            reason = f"the server refuses it: {answer}"
        elif answer is later and not is_throttled(answer) and self._pace.suspected(row):
            reason = str(answer)  # not due now: a new session goes on with the others
        else:
            return "", 0
        return reason, self._outcomes.failed(row, reason, self._clock())

    def _uid(self, answer: Appended) -> Uid | None:
        return answer.uid if answer.uidvalidity in (None, self._state.uidvalidity) else None

    def _rewritten(self, each: _Ready) -> bool:
        return self._stamp(each.row) not in (each.stamp, None)

    def _accepted(self, each: _Ready, uid: Uid | None, *, rewritten: bool) -> None:
        row, name = each.row, printable(each.row.uniquename or b"")
        self._tally.uploaded += 1
        self._tally.bytes_up += row.size or 0
        self._tally.remote_deleted += bool(row.local_flags & self._state.mask & DELETED)
        if uid is None:
            self.awaiting = True
            self._report.line(levels.NOTICE, f"uploaded {name}")
        else:
            self.uploaded.append(uid)
            self._report.line(levels.NOTICE, f"uploaded {name} as uid {uid}")
        if rewritten:
            self._report.line(levels.WARNING, f"{name} was written to while it was uploaded; its new content follows")

    def _storable(self, keywords: Sequence[str]) -> tuple[str, ...]:
        """Keywords that the mailbox takes (PERMANENTFLAGS); system flags beyond the six are the server's own."""
        allowed = (word for word in keywords if not word.startswith("\\"))
        if self._state.any_keyword:
            return tuple(allowed)
        return tuple(word for word in allowed if word.lower() in self._state.keywords)

    def _fail(self, row: Pairing, reason: str) -> None:
        count = self._outcomes.failed(row, reason, self._clock())
        tell_failure(self._report, self._tally, printable(row.uniquename or b""), reason, count)


def _internaldate(stamp: FileStamp) -> str:
    """The file's mtime in the zone that was local then (RFC 9051 section 6.3.12)."""
    seconds = stamp.mtime_ns // 1_000_000_000
    try:
        offset = time.localtime(seconds).tm_gmtoff
    except (OverflowError, ValueError, OSError):
        offset = 0
    return from_epoch(seconds, offset // 60)
