# SPDX-License-Identifier: MIT
"""What to do, decided from what was observed. Pure, total, deterministic: no I/O, no clock, never raises.

The rows given are *candidates*: those whose observation differs from the base or that lack a side. The rule behind
every branch: a side that vanished counts as one that gained DELETED (see `model.Pairing`), so one three-way merge per
flag decides about deletions, undeletions and plain flag changes alike.

Invariants that the rest of the program builds on:

- Without both views complete nothing is appended, adopted by delivery, or marked deleted: half a view shows a message
  as missing that merely was not looked at yet.
- A file is appended only when no undownloaded message could be its twin.
- Appends come before deletion marks: a message moved within a folder exists twice before it is marked once.
- A refusal empties the plan: the pairing stops before anything changes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from pushpull.flags import DELETED, DRAFT, Flags, merge, to_imap, to_letters
from pushpull.model import Counts, Pairing, Policy
from pushpull.values import astuple, field, struct, value

MAX_APPEND_ATTEMPTS = 2
MAX_TWIN_UPLOADS = 50
CLOCK_SECONDS = 60.0
MAX_UNIDENTIFIED = 3  # failures after which a UID that the server does not identify holds up no upload any more
LARGE_EXPUNGE = 1000


@value
class Download:
    """Fetch the body; adopt the first partner it is the same message as, else deliver it."""

    row: Pairing
    partners: tuple[Pairing, ...] = ()

    def __str__(self) -> str:
        return f"download uid {self.row.uid}"


@value
class Adopt:
    """Join a UID and a file after comparing the whole header and the size, without the body."""

    row: Pairing
    partner: Pairing

    def __str__(self) -> str:
        return f"adopt uid {self.row.uid} (also here as a file)"


@value
class Append:
    """Upload the file. `row.append_attempts` earlier attempts got no answer."""

    row: Pairing

    def __str__(self) -> str:
        return "upload"


@value
class SetLocal:
    """Rename the file. `mark`: only because its UID was expunged."""

    row: Pairing
    add: Flags
    remove: Flags
    mark: bool = False

    def __str__(self) -> str:
        change = f"+{to_letters(self.add)}" * bool(self.add) + f"-{to_letters(self.remove)}" * bool(self.remove)
        return f"set {change} on the file" + " (expunged on the server)" * self.mark


@value
class SetRemote:
    """STORE ±FLAGS. `mark`: only because the file is gone; `conflict`: its flags changed on the server meanwhile."""

    row: Pairing
    add: Flags
    remove: Flags
    mark: bool = False
    conflict: bool = False

    def __str__(self) -> str:
        change = [f"+{name}" for name in to_imap(self.add)] + [f"-{name}" for name in to_imap(self.remove)]
        return f"set {' '.join(change)} on uid {self.row.uid}" + " (its file is gone)" * self.mark


@value
class Forget:
    """Drop a row that has nothing left on either side."""

    row: Pairing

    def __str__(self) -> str:
        return "forget a message that is on neither side"


@value
class SetAside:
    """Stop trying; the reason is told and kept."""

    row: Pairing
    reason: str

    def __str__(self) -> str:
        return f"set aside: {self.reason}"


Action = Download | Adopt | Append | SetLocal | SetRemote | Forget | SetAside


@value
class TooManyGone:
    """Files vanished in numbers that look like a mishap; nothing is marked on the server."""

    count: int
    limit: int


@value
class TooManyExpunged:
    """UIDs vanished in numbers that look like a mishap; nothing is marked locally."""

    count: int
    limit: int
    paired: int


Refusal = TooManyGone | TooManyExpunged


@struct
class Plan:
    """Actions in the order in which they are applied, or refusals and no action at all."""

    adopts: list[Adopt] = field(default_factory=list)
    local_flags: list[SetLocal] = field(default_factory=list)
    remote_flags: list[SetRemote] = field(default_factory=list)
    downloads: list[Download] = field(default_factory=list)
    appends: list[Append] = field(default_factory=list)
    local_marks: list[SetLocal] = field(default_factory=list)
    remote_marks: list[SetRemote] = field(default_factory=list)
    later_marks: list[SetRemote] = field(default_factory=list)  # to be planned again in the next pass; not applied
    aside: list[SetAside] = field(default_factory=list)
    forgets: list[Forget] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    unmatched: int = 0  # rows whose UID died with an old UIDVALIDITY and found no partner: held
    twin_uploads: int = 0  # uploads held because their content is paired already, too often for chance
    waiting: int = 0  # appends without an answer or a UID so far
    open_since: float = 0.0  # the latest attempt among them that got no answer; 0: none
    partial: bool = False  # of some arrivals, or some new files, and flags: another plan follows

    @property
    def actions(self) -> Sequence[Action]:
        return (
            *self.adopts,
            *self.local_flags,
            *self.remote_flags,
            *self.downloads,
            *self.appends,
            *self.local_marks,
            *self.remote_marks,
            *self.later_marks,
            *self.aside,
            *self.forgets,
        )


def plan(
    candidates: Iterable[Pairing],
    counts: Counts,
    policy: Policy,
    *,
    complete: bool,
    answered_before: float,
) -> Plan:
    """Decide. `complete`: both sides were observed to their end. `answered_before` (seconds since the epoch): an
    APPEND attempted before then would show in the view that this plan is made from.
    """
    rows = sorted(candidates, key=_order)
    made = Plan()
    meetings = _Meetings(rows)
    for row in rows:
        _plan_row(row, made, meetings, policy, complete=complete, answered_before=answered_before)
    if any(_is_new_draft(row) for row in rows):
        # A draft edited in place: its old copy is marked only when the new one is on the server.
        made.remote_marks = [action for action in made.remote_marks if action.row.uniquename is not None]
    if not policy.readopt:  # the user had both sides matched anew: what is left over is wanted
        _hold_twin_uploads(made, counts)
    _guard(made, counts, policy)
    if (made.adopts or made.downloads) and any(row.gone and seeks_uid(row) for row in rows):
        # A file that is gone may get its UID by these, and is to be counted with the others before one is marked.
        made.later_marks, made.remote_marks = made.remote_marks, []
    made.downloads.sort(key=_newest_first)
    return made


def plan_arrivals(candidates: Iterable[Pairing], policy: Policy) -> Plan:
    """What to do about flags and arrivals alone, given every row that one of those may meet, of a mailbox and a folder
    that were observed to their end. Nothing is uploaded or marked by that, so there is nothing to guard.
    """
    rows = sorted(candidates, key=_order)
    made = Plan(partial=True)
    meetings = _Meetings(rows)
    for row in rows:
        if row.has_remote and row.has_local:
            _plan_flags_in_part(row, made, policy)
        elif row.has_remote and not row.gone:
            _plan_download(row, made, meetings, complete=True)
    made.downloads.sort(key=_newest_first)
    return made


def plan_uploads(candidates: Iterable[Pairing], policy: Policy) -> Plan:
    """What to do about flags and new files alone, given all copies of each of these, where no UID is left that one of
    them could be.
    """
    made = Plan(partial=True)
    for row in sorted(candidates, key=_order):
        if row.has_remote:
            _plan_flags_in_part(row, made, policy)
        elif not policy.read_only:
            made.appends.append(Append(row))
    return made


def _newest_first(action: Download) -> int:
    return -(action.row.uid or 0)


def _is_new_draft(row: Pairing) -> bool:
    """What an edited draft holds now keeps the letter of the old one. No other file may hold up the mark: one that the
    server refuses would do so for ever.
    """
    new = row.has_local and row.uid is None and not row.expunged and not row.old_uidvalidity
    return new and bool(row.local_flags & DRAFT)


def _order(row: Pairing) -> tuple[int, bytes, int]:
    return (row.uid or 0, row.uniquename or b"", row.id)


def _plan_row(
    row: Pairing,
    made: Plan,
    meetings: _Meetings,
    policy: Policy,
    *,
    complete: bool,
    answered_before: float,
) -> None:
    if row.has_remote and row.has_local:
        _plan_flags(row, made, policy)
    elif row.has_remote and row.gone:
        _plan_gone(row, made, policy, complete=complete)
    elif row.has_remote:
        _plan_download(row, made, meetings, complete=complete)
    elif row.has_local and row.expunged:
        _plan_expunged(row, made, meetings, policy, complete=complete)
    elif row.has_local:
        _plan_append(row, made, meetings, policy, complete=complete, answered_before=answered_before)
    else:
        _plan_forget(row, made, meetings, complete=complete, answered_before=answered_before)


def _plan_flags(row: Pairing, made: Plan, policy: Policy) -> None:
    merged = merge(row.base_flags, row.local_flags, row.remote_flags)
    if merged != row.local_flags:
        made.local_flags.append(SetLocal(row, merged & ~row.local_flags, row.local_flags & ~merged))
    sendable = policy.sendable & ~row.refused_flags
    add, remove = merged & ~row.remote_flags & sendable, row.remote_flags & ~merged & sendable
    if (add or remove) and row.due:
        made.remote_flags.append(SetRemote(row, add, remove))


def _plan_flags_in_part(row: Pairing, made: Plan, policy: Policy) -> None:
    """A rename that failed is not tried again in each part."""
    if row.due:
        _plan_flags(row, made, policy)


def _plan_gone(row: Pairing, made: Plan, policy: Policy, *, complete: bool) -> None:
    if row.remote_flags & DELETED or not row.due:
        return
    if row.base_flags & DELETED:  # the mark was taken off on the server: undeleted
        made.downloads.append(Download(row))
    elif complete and not policy.readopt and DELETED & policy.sendable & ~row.refused_flags:
        changed = bool((row.remote_flags ^ row.base_flags) & ~DELETED)
        made.remote_marks.append(SetRemote(row, DELETED, 0, mark=True, conflict=changed))


def _plan_expunged(row: Pairing, made: Plan, meetings: _Meetings, policy: Policy, *, complete: bool) -> None:
    if meetings.may_meet(row):  # expunged here and new there: moved away and back; the meeting decides
        return
    if not row.local_flags & DELETED and row.base_flags & DELETED:  # `T` was taken off the file: undeleted
        if complete and not policy.read_only and row.due:
            made.appends.append(Append(row))
    elif not row.local_flags & DELETED and complete and not policy.readopt:
        made.local_marks.append(SetLocal(row, DELETED, 0, mark=True))


def _plan_download(row: Pairing, made: Plan, meetings: _Meetings, *, complete: bool) -> None:
    partners = meetings.partners(row)
    if not row.due or (partners and not complete):
        return
    if len(partners) == 1 and meetings.header_tells(row, partners[0]):
        made.adopts.append(Adopt(row, partners[0]))
    else:
        made.downloads.append(Download(row, partners))


def _plan_append(
    row: Pairing, made: Plan, meetings: _Meetings, policy: Policy, *, complete: bool, answered_before: float
) -> None:
    if not complete or policy.read_only or meetings.may_meet(row):
        return
    if row.old_uidvalidity:
        made.unmatched += 1
    elif row.append_outcome == "accepted":
        made.waiting += not row.problem_count  # else it is known that none will show up, and told
    elif row.append_outcome == "open" and 0 <= row.append_at - answered_before <= CLOCK_SECONDS:
        made.waiting += 1
        made.open_since = max(made.open_since, row.append_at)
    elif not row.due:
        return
    elif row.append_attempts >= MAX_APPEND_ATTEMPTS:
        made.aside.append(SetAside(row, "the server never said whether it took the upload"))
    else:
        made.appends.append(Append(row))


def _plan_forget(row: Pairing, made: Plan, meetings: _Meetings, *, complete: bool, answered_before: float) -> None:
    """Nothing is left on either side; but an upload that may have arrived, or a deletion whose UID died with an old
    UIDVALIDITY, is remembered until its UID would have shown: else the deleted message comes back.
    """
    unsettled = row.old_uidvalidity or row.append_outcome
    if not unsettled or (complete and not meetings.may_meet(row) and row.append_at < answered_before):
        made.forgets.append(Forget(row))


class _Meetings:
    """Who may turn out to be the same message: rows with a UID and no file, and rows that seek a UID."""

    def __init__(self, rows: Sequence[Pairing]) -> None:
        self._seekers: dict[str, list[Pairing]] = defaultdict(list)
        self._arrivals: dict[str, list[Pairing]] = defaultdict(list)
        self._unidentified = False
        for row in rows:
            if row.has_remote and row.uniquename is None and not row.gone:
                if row.message_id is None:
                    self._unidentified = self._unidentified or row.due or row.problem_count < MAX_UNIDENTIFIED
                else:
                    self._arrivals[row.message_id].append(row)
            elif seeks_uid(row):
                self._seekers[row.message_id or ""].append(row)

    def partners(self, row: Pairing) -> tuple[Pairing, ...]:
        """Rows that may be the same message as this UID, most likely first."""
        if row.message_id is None:
            return ()
        found = [seeker for seeker in self._seekers.get(row.message_id, ()) if _may_be_same(row, seeker)]
        return tuple(sorted(found, key=lambda seeker: (seeker.size != row.size, seeker.id)))

    def may_meet(self, seeker: Pairing) -> bool:
        """A UID that is not downloaded yet could be this message."""
        if self._unidentified:
            return True
        return any(_may_be_same(row, seeker) for row in self._arrivals.get(seeker.message_id or "", ()))

    def header_tells(self, row: Pairing, seeker: Pairing) -> bool:
        """The whole header and the size tell this pair apart from any other: one of each, through a relay, no draft."""
        alone = len(self._arrivals[row.message_id or ""]) == 1 == len(self._seekers[row.message_id or ""])
        draft = (row.remote_flags | seeker.local_flags | seeker.base_flags) & DRAFT
        unread = row.header_digest is None or row.header_digest == seeker.header_digest
        return bool(alone and row.message_id and seeker.received and not draft and unread and row.size == seeker.size)


def seeks_uid(row: Pairing) -> bool:
    """A row without a live UID that one may be found for: a new file, one whose UID vanished, an upload without an
    answer, a row from before a UIDVALIDITY change (gone files too, or their messages would come back).
    """
    if row.has_remote:
        return False
    return row.has_local or bool(row.old_uidvalidity or row.append_outcome)


def _may_be_same(row: Pairing, seeker: Pairing) -> bool:
    answers = bool(seeker.append_outcome) and (row.uid or 0) >= (seeker.append_uidnext or 0)
    if row.digest is not None and seeker.digest is not None and row.digest != seeker.digest:
        return answers  # the server may have rewritten what was uploaded
    return bool(row.message_id) or row.size == seeker.size or answers


def _hold_twin_uploads(made: Plan, counts: Counts) -> None:
    """Two tools on one folder upload each other's copies without end; a few copies are a user's business."""
    twins = [action for action in made.appends if action.row.twins]
    if twins and len(twins) + counts.recent_twins > MAX_TWIN_UPLOADS:
        made.twin_uploads = len(twins)
        made.appends = [action for action in made.appends if not action.row.twins]


def _guard(made: Plan, counts: Counts, policy: Policy) -> None:
    """Refuse deletions in numbers (promise 5). Only vanished messages whose twin would newly be marked count."""
    gone, expunged = len(made.remote_marks), len(made.local_marks)
    refusals: list[Refusal] = []
    if policy.allowed is not None:
        gone_now, expunged_now = gone + counts.done_local, expunged + counts.done_remote
        if gone and gone_now > policy.allowed:
            refusals.append(TooManyGone(gone_now, policy.allowed))
        if expunged and expunged_now > policy.allowed:
            refusals.append(TooManyExpunged(expunged_now, policy.allowed, counts.paired + expunged_now))
    else:
        gone_lately, expunged_lately = gone + counts.recent_local, expunged + counts.recent_remote
        if gone and gone_lately > policy.local_delete_limit:
            refusals.append(TooManyGone(gone_lately, policy.local_delete_limit))
        total = counts.paired + expunged_lately
        share = policy.remote_delete_percent * total / 100
        if expunged and expunged_lately > policy.remote_delete_limit and expunged_lately > min(share, LARGE_EXPUNGE):
            refusals.append(TooManyExpunged(expunged_lately, policy.remote_delete_limit, total))
    if refusals:
        for planned in astuple(made):
            if isinstance(planned, list):
                planned.clear()
        made.refusals = refusals
