# SPDX-License-Identifier: MIT
"""Observe the remote side: bring every row up to what one SELECT showed, and decide which UIDs are gone.

Three strategies, chosen by what the server offers and by what it really answers, with the same outcome:

- delta: `UID FETCH ... (CHANGEDSINCE n)`, with VANISHED under QRESYNC (RFC 7162);
- full compare: the flags of all UIDs in windows; always possible, on every server, and done daily anyway;
- in both, UIDs from the saved UIDNEXT up are asked for without CHANGEDSINCE: a server whose MODSEQ fell and climbed
  back names neither a new UID nor an expunge in any delta.

Then the count must come out: rows believed alive below the SELECT's UIDNEXT against its EXISTS. If not, the UID list
decides, both ways: listed but unknown is new, listed but 'expunged' is alive, unlisted is expunged. A missing answer is
no knowledge, never 'empty'. Absences in numbers are looked at twice: a server may announce a deleted or replaced
mailbox as an expunge of every message.

The canary (identities of the highest known UIDs, asked for with each SELECT) and a UIDNEXT that fell tell that the UIDs
mean other messages now, though the UIDVALIDITY is the same: then everything is matched by content, as after a change
of the UIDVALIDITY.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from pushpull import levels
from pushpull.batched import batched
from pushpull.dates import to_epoch
from pushpull.errors import DeltaLost, ResyncNeeded, ServerBusy, Temporary
from pushpull.model import NEVER, Identity, MailboxState, ModSeq, Pair, RemoteView, Uid, UidSet
from pushpull.observed import RemoteRows, subtract
from pushpull.ports import Arrival, Opening, Remote, Report, Since, Vanished
from pushpull.store import Store
from pushpull.values import value
from pushpull.wording import printable

BATCH = 1000
WINDOW = 20_000
MAX_LOOKS = 3
CANARIES = 3
LARGE_ABSENCE = 50
COMPARE_SECONDS = 86_400.0
FOLDER_LIMITS = (1000, 2000, 5000, 10_000)
"""What Gmail offers as the number of messages that a folder may show."""


@value
class RemoteSight:
    """One complete look (or an incomplete one). `seen_at` is the time of its SELECT, seconds since the epoch."""

    pair: Pair
    state: MailboxState
    complete: bool
    seen_at: float


class RemoteObserver:
    """Looks at one mailbox through one session."""

    def __init__(
        self, remote: Remote, store: Store, pair: Pair, *, read_only: bool, report: Report, clock: Callable[[], float]
    ) -> None:
        self._remote, self._store, self._report, self._clock = remote, store, report, clock
        self._rows = RemoteRows(store, pair.id)
        self._pair = pair
        self._read_only = read_only
        self._identities: dict[Uid, Identity] = {}
        self._resumed = False

    def observe(self) -> RemoteSight:
        """Look until nothing moved meanwhile (at most a few times)."""
        for _ in range(MAX_LOOKS):
            self._resumed = False
            sight = self._look()
            moved = self._remote.moved()
            if sight.complete and not self._resumed and not moved:
                break
        self._renew_canary()
        return RemoteSight(self._pair, sight.state, sight.complete and not moved, sight.seen_at)

    def identify(self) -> None:
        """Look at size and Message-ID of UIDs that may be the same message as some file."""
        if wanted := self._rows.unidentified():
            for batch in batched(self._remote.identities(wanted), BATCH):
                self._rows.note_identities(batch)  # no transaction spans the network

    def look_at(self, uids: Iterable[Uid]) -> None:
        """Take in the flags of a few UIDs, just uploaded. Some servers (Courier) do not show what was appended before
        they were asked for news: without it the first to show the flags would be a later run, and flags taken off here
        meanwhile would come back.
        """
        wanted = UidSet.of(uids)
        if self._note_all(wanted) < len(wanted):
            self._remote.catch_up()
            self._note_all(wanted)

    def _note_all(self, uids: UidSet) -> int:
        return sum(self._note(self._remote.views(Uid(lo), Uid(hi))) for lo, hi in uids.ranges)

    # --- one look ------------------------------------------------------------------------------------------------

    def _look(self) -> RemoteSight:
        try:
            return self._take_in(self._open())
        except DeltaLost:
            self._choked()
            raise

    def _choked(self) -> None:
        """The next look compares everything, and that MODSEQ is not asked for again."""
        pair = self._pair
        self._pair = self._store.note_pair(pair, modseq=NEVER, choked_modseq=pair.modseq or pair.choked_modseq)

    def _take_in(self, opening: Opening) -> RemoteSight:
        seen_at = self._clock()
        state = opening.state
        reason = self._other_messages(opening)
        if reason:
            self._detach(reason, state)
        elif not self._pair.uidvalidity:
            self._pair = self._store.note_pair(self._pair, uidvalidity=state.uidvalidity)
        if self._pair.uidnext > 1:
            reason = self._note_arrivals(opening.arrived())
            if reason:
                self._detach(reason, state)
        vanished = self._delta(opening)
        modseq = state.highestmodseq
        if vanished is None:
            modseq = self._compare_all(state)
            vanished = UidSet()
        complete = self._reconcile(state, vanished)
        if complete:
            self._advance(state, modseq or NEVER)
        return RemoteSight(self._pair, state, complete, seen_at)

    def _open(self) -> Opening:
        pair = self._pair
        since = None
        if pair.uidvalidity and pair.uidnext > 1:
            modseq = pair.modseq if self._remote.condstore else NEVER
            canary = tuple(identity.uid for identity in pair.canary)
            since = Since(pair.uidvalidity, pair.uidnext, modseq, canary)
        opening = self._remote.open(pair.key.remote, since, read_only=self._read_only)
        if opening.state.exists == 0 and pair.uidvalidity == opening.state.uidvalidity and self._rows.alive(None):
            opening = self._remote.open(pair.key.remote, since, read_only=self._read_only)  # empty only if seen twice
        return opening

    def _other_messages(self, opening: Opening) -> str:
        """Why the saved UIDs mean nothing any more, or ""."""
        pair, state = self._pair, opening.state
        if not pair.uidvalidity:
            return ""
        if state.uidvalidity != pair.uidvalidity:
            return f"UIDVALIDITY changed from {pair.uidvalidity} to {state.uidvalidity}"
        if state.uidnext is not None and state.uidnext < pair.uidnext:
            return f"UIDNEXT fell from {pair.uidnext} to {state.uidnext}"
        saved = {identity.uid: identity for identity in pair.canary}
        for shown in opening.canary():
            if shown.uid in saved and not _same_identity(saved[shown.uid], shown):
                return f"UID {shown.uid} is another message now"
        return ""

    def _detach(self, reason: str, state: MailboxState) -> None:
        with self._store.transaction():
            waiting = self._rows.detach(self._pair.uidvalidity)
            self._pair = self._store.update_pair(
                self._pair,
                uidvalidity=state.uidvalidity,
                uidnext=Uid(1),
                modseq=NEVER,
                scan_modseq=NEVER,
                scan_uid=Uid(0),
                canary=(),
            )
        self._identities.clear()
        self._report.line(
            levels.WARNING,
            f"the server numbers its messages anew ({reason}); {waiting} known messages are matched by content,"
            " nothing is deleted",
        )

    def _note_arrivals(self, arrivals: Iterator[Arrival]) -> str:
        """Take in the new UIDs. Returns why they contradict what is known of them (our own uploads since the last
        observation are among them, and no canary stood for those), or "".
        """
        for batch in batched(arrivals, BATCH):
            stranger = self._rows.contradicted(arrival.identity for arrival in batch)
            if stranger is not None:
                return f"UID {stranger} is another message now"
            with self._store.observation():
                self._rows.note_views(arrival.view for arrival in batch)
                self._rows.note_identities(arrival.identity for arrival in batch)
            self._keep_identities(arrival.identity for arrival in batch)
        return ""

    def _note(self, views: Iterator[RemoteView]) -> int:
        count = 0
        for batch in batched(views, BATCH):
            self._rows.note_views(batch)
            count += len(batch)
        return count

    # --- delta ---------------------------------------------------------------------------------------------------

    def _delta(self, opening: Opening) -> UidSet | None:
        """Take in the changes since the saved MODSEQ. Returns what VANISHED, or None when a full compare is due."""
        if not self._delta_serves(opening.state):
            return None
        vanished = UidSet()
        try:
            for batch in batched(opening.changed(), BATCH):
                self._rows.note_views(change for change in batch if isinstance(change, RemoteView))
                gone = [change.uids.ranges for change in batch if isinstance(change, Vanished)]
                vanished = UidSet(chain(vanished.ranges, *gone)) if gone else vanished
        except ResyncNeeded as error:
            self._report.line(levels.INFO, f"the server gives no changes ({error}); comparing everything")
            return None
        except ServerBusy as error:
            if not error.throttled:  # 'later' may be its word for never
                self._choked()
            raise
        return vanished

    def _delta_serves(self, state: MailboxState) -> bool:
        pair = self._pair
        if (
            pair.uidnext == 1
            or pair.modseq == NEVER
            or state.highestmodseq is None
            or state.highestmodseq < pair.modseq
        ):
            return False
        return 0 <= self._clock() - pair.compared_at < COMPARE_SECONDS

    # --- full compare --------------------------------------------------------------------------------------------

    def _compare_all(self, state: MailboxState) -> ModSeq:
        """The flags of every UID, in windows; returns the MODSEQ that all rows are at least as new as.

        A first scan remembers how far it came, and resumes with its old target: rows seen before the interruption are
        only as new as its start. What changed since comes with the look that follows.
        """
        pair = self._pair
        first = pair.uidnext == 1
        self._resumed = first and pair.scan_uid > 0
        if not self._resumed:
            pair = self._store.note_pair(pair, scan_modseq=state.highestmodseq or NEVER, scan_uid=Uid(0))
        lo = pair.scan_uid + 1
        width = WINDOW
        top = state.uidnext - 1 if state.uidnext is not None else None
        while top is None or lo <= top:
            hi = None if top is None else min(lo + width - 1, top)
            seen = self._note(self._remote.views(Uid(lo), None if hi is None else Uid(hi)))
            if hi is None or top is None:
                break
            if seen < width // 4:
                width *= 2  # UIDs are sparse here
            lo = hi + 1
            if first:
                pair = self._store.note_pair(pair, scan_uid=Uid(hi))
            if top >= WINDOW:
                self._report.progress("reading the mailbox", hi, top)
        target = pair.scan_modseq
        self._pair = self._store.note_pair(pair, scan_modseq=NEVER, scan_uid=Uid(0), compared_at=self._clock())
        return target

    # --- absences ------------------------------------------------------------------------------------------------

    def _reconcile(self, state: MailboxState, vanished: UidSet) -> bool:
        """Make the count come out. False: the server gave no usable answer, so nothing is known of absences."""
        named = self._rows.alive_in(vanished)
        if named:
            self._believe(named, state)
        if self._rows.alive(state.uidnext) == state.exists:
            return True
        listed = self._remote.uids()
        if listed is None or len(listed) != self._remote.exists:  # empty or capped answers are no list
            self._report.line(levels.WARNING, "the server did not list its messages; looking again later")
            return False
        for lo, hi in _union(self._rows.unknown_in(listed), self._rows.revived_by(listed)).ranges:
            self._note(self._remote.views(Uid(lo), Uid(hi)))
        absent = self._rows.absent_from(listed, state.uidnext)
        if self._remote.gmail and state.exists in FOLDER_LIMITS:
            absent = subtract(absent, self._pushed_out(absent, listed, state))
        if absent:
            self._believe(absent, state)
        return True

    def _pushed_out(self, absent: UidSet, listed: UidSet, state: MailboxState) -> UidSet:
        """What a full folder of Gmail does not show any more was not deleted: it shows its newest messages only, if so
        told in its settings. Their files stay as they are, and are matched by content if they show again."""
        lowest = listed.ranges[0][0]
        pushed = self._rows.let_go(UidSet.of(uid for uid in absent if uid < lowest), state.uidvalidity)
        if pushed:
            mailbox = printable(self._pair.key.remote)
            self._report.line(
                levels.WARNING,
                f"Gmail shows only the newest {state.exists} messages of {mailbox} (its setting 'Folder size limits'):"
                f" older ones left it, {len(pushed)} of which stay here as they are",
            )
        return pushed

    def _believe(self, absent: UidSet, state: MailboxState) -> None:
        if len(absent) > LARGE_ABSENCE or 2 * len(absent) > self._rows.alive(state.uidnext):
            absent = self._second_look(absent, state)
        self._rows.note_expunged(absent)

    def _second_look(self, absent: UidSet, state: MailboxState) -> UidSet:
        """Ask again, afresh, before believing a large absence. Returns what is still absent."""
        mailbox = self._pair.key.remote
        status = self._remote.status(mailbox)
        if status is None:  # some servers refuse STATUS of the open mailbox
            status = self._remote.open(mailbox, None, read_only=self._read_only).state
        listed = self._remote.uids()
        if listed is None or status.uidvalidity != state.uidvalidity or status.exists != len(listed):
            raise Temporary(
                f"{len(absent)} messages seem to have vanished from the mailbox, and the server does not confirm it",
                remedy="nothing was changed; try again later",
            )
        return subtract(absent, listed)

    # --- afterwards ----------------------------------------------------------------------------------------------

    def _advance(self, state: MailboxState, modseq: ModSeq) -> None:
        """Everything below UIDNEXT was observed, and every row is at least as new as `modseq`."""
        uidnext = state.uidnext
        if uidnext is None:
            highest = self._rows.highest(1)
            uidnext = Uid(highest[0] + 1) if highest else Uid(1)
        if modseq == self._pair.choked_modseq:
            modseq = ModSeq(max(modseq - 1, NEVER))  # every row is as new as that, too
        if (uidnext, modseq) != (self._pair.uidnext, self._pair.modseq):
            self._pair = self._store.note_pair(self._pair, uidnext=uidnext, modseq=modseq)

    def _keep_identities(self, identities: Iterable[Identity]) -> None:
        self._identities.update({identity.uid: identity for identity in identities})
        for uid in sorted(self._identities)[:-CANARIES]:
            del self._identities[uid]

    def _renew_canary(self) -> None:
        top = self._rows.highest(CANARIES)
        known = {identity.uid: identity for identity in self._pair.canary} | self._identities
        missing = [uid for uid in top if uid not in known]
        if missing:
            known |= {identity.uid: identity for identity in self._remote.identities(UidSet.of(missing))}
        canary = tuple(known[uid] for uid in top if uid in known)
        if canary != self._pair.canary:
            self._pair = self._store.note_pair(self._pair, canary=canary)


def _same_identity(saved: Identity, shown: Identity) -> bool:
    """Some servers correct a size after the first download, or show a date in another zone: one of the two may differ,
    if the Message-ID agrees.
    """
    same_date = to_epoch(saved.internaldate) == to_epoch(shown.internaldate)
    return saved.message_id == shown.message_id and (
        (same_date or saved.size == shown.size) if saved.message_id else (same_date and saved.size == shown.size)
    )


def _union(left: UidSet, right: UidSet) -> UidSet:
    return UidSet((*left.ranges, *right.ranges))
