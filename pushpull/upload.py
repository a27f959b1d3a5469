# SPDX-License-Identifier: MIT
"""Apply uploads. APPEND is the one effect that does not repeat harmlessly.

The attempt is committed before a byte is sent. Then there are three outcomes: refused (nothing is there), accepted
(never sent again; without APPENDUID its UID is awaited), or no answer: the row stays open, nothing is replayed, and
a later plan decides from a fresh view whether the message arrived (RFC 9051 section 6.3.12, RFC 4315).

A file is sent only if its size, mtime and inode are those of when it was last read, before and after; a file younger
than two seconds may still be written to, and is looked at again a second later, unless it was seen to be moved in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import BinaryIO

from pushpull import levels
from pushpull.dates import from_epoch
from pushpull.download import Pace, local_file, tell_failure
from pushpull.errors import MailboxMissing, MessageError, ServerBusy
from pushpull.flags import DELETED
from pushpull.message import to_crlf
from pushpull.model import FileStamp, MailboxState, Pair, Pairing, Tally, Uid
from pushpull.observed_local import LocalRows
from pushpull.outcomes import Outcomes
from pushpull.plan import Append
from pushpull.ports import Local, Remote, Report
from pushpull.wording import printable

YOUNG_SECONDS = 2.0


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
        self.uploaded: list[Uid] = []
        self.awaiting = False
        self.reread = 0

    def run(self, actions: Sequence[Append]) -> int:
        """Returns how many rows got an outcome: an upload or a refusal. `reread` counts files found changed."""
        if not actions:
            return 0
        self._before_upload()
        done = 0
        self._let_settle(actions)
        for number, action in enumerate(actions, 1):
            self._check_stop()
            done += self._one(action.row)
            self._report.progress("uploading", number, len(actions), self._tally.bytes_up)
            if number < len(actions):
                self._breathe()
        return done

    def _let_settle(self, actions: Sequence[Append]) -> None:
        """Give files that were just written a second, once for all of them."""
        now = self._clock()
        for action in actions:
            if self._whole(action.row.uniquename or b""):
                continue
            stamp = self._stamp(action.row)
            if stamp is not None and abs(now - stamp.mtime_ns / 1e9) < YOUNG_SECONDS:
                self._pause(1.0)
                return

    def _one(self, row: Pairing) -> bool:
        opened = self._open(row)
        if opened is None:
            return False  # gone or renamed beyond finding: the next scan tells
        handle, stamp = opened
        with handle:
            if stamp != row.stamp:
                return self._read_again(row)
            self._outcomes.append_begins(row, self._pair.uidnext, self._clock())
            try:
                appended = self._remote.append(
                    self._pair.key.remote,
                    row.local_flags & self._state.mask,
                    self._storable(row.keywords),
                    _internaldate(stamp),
                    row.size or 0,
                    to_crlf(_chunks(handle)),
                )
            except MessageError as error:
                self._outcomes.append_refused(row)
                self._fail(row, f"the server refuses it: {error}")
                return True
            except (ServerBusy, MailboxMissing) as error:
                self._outcomes.append_refused(row)
                throttled = isinstance(error, ServerBusy) and error.throttled
                if not throttled and self._pace.suspected(row):
                    self._fail(row, str(error))  # not due now: a new session goes on with the others
                raise
        uid = appended.uid if appended.uidvalidity in (None, self._state.uidvalidity) else None
        self._accepted(row, uid, stamp)
        return True

    def _stamp(self, row: Pairing) -> FileStamp | None:
        try:
            return self._local.stamp(local_file(row))
        except MessageError:
            return None

    def _open(self, row: Pairing) -> tuple[BinaryIO, FileStamp] | None:
        try:
            return self._local.open_message(local_file(row))
        except MessageError as error:  # this file's own fault
            self._fail(row, str(error))
            return None

    def _read_again(self, row: Pairing) -> bool:
        """The file was written to since it was read: take in what it is now; a fresh plan decides."""
        try:
            read = self._local.fingerprint(local_file(row))
        except MessageError as error:
            self._fail(row, str(error))
            return True
        if read is None:
            return False
        self._outcomes.content_changed(row, *read)
        self.reread += 1
        return False

    def _accepted(self, row: Pairing, uid: Uid | None, stamp: FileStamp) -> None:
        name = printable(row.uniquename or b"")
        if not self._outcomes.appended(row, uid):
            self._fail(row, f"the server keeps one copy of two identical messages (uid {uid})", aside=True)
            return
        self._tally.uploaded += 1
        self._tally.bytes_up += row.size or 0
        self._tally.remote_deleted += bool(row.local_flags & self._state.mask & DELETED)
        if uid is None:
            self.awaiting = True
            self._report.line(levels.NOTICE, f"uploaded {name}")
        else:
            self.uploaded.append(uid)
            self._report.line(levels.NOTICE, f"uploaded {name} as uid {uid}")
        if self._stamp(row) not in (stamp, None):
            self._report.line(levels.WARNING, f"{name} was written to while it was uploaded; its new content follows")
            self._rows.note_changed_content(row.id)

    def _storable(self, keywords: Sequence[str]) -> tuple[str, ...]:
        """Keywords that the mailbox takes (PERMANENTFLAGS); system flags beyond the six are the server's own."""
        allowed = (word for word in keywords if not word.startswith("\\"))
        if self._state.any_keyword:
            return tuple(allowed)
        return tuple(word for word in allowed if word.lower() in self._state.keywords)

    def _fail(self, row: Pairing, reason: str, *, aside: bool = False) -> None:
        count = self._outcomes.failed(row, reason, self._clock(), count=3 if aside else 0)
        tell_failure(self._report, self._tally, printable(row.uniquename or b""), reason, count)


def _chunks(handle: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: handle.read(1 << 16), b"")


def _internaldate(stamp: FileStamp) -> str:
    """The file's mtime in the zone that was local then (RFC 9051 section 6.3.12)."""
    seconds = stamp.mtime_ns // 1_000_000_000
    try:
        offset = datetime.fromtimestamp(seconds, UTC).astimezone().utcoffset()
    except (OverflowError, ValueError, OSError):
        offset = None
    return from_epoch(seconds, int(offset.total_seconds() // 60) if offset else 0)
