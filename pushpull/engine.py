# SPDX-License-Identifier: MIT
"""One cycle of one pair: observe both sides, plan, apply, until a fresh plan is empty or nothing moves any more.

docs/algorithm.md tells the same in prose, step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pushpull import levels
from pushpull.apply import Applier
from pushpull.candidates import AT_ONCE, Candidates
from pushpull.download import Downloader, Pace
from pushpull.errors import Refused, Restless
from pushpull.model import Marker, Pair, Policy, Tally
from pushpull.observe_local import LocalObserver
from pushpull.observe_remote import RemoteObserver, RemoteSight
from pushpull.observed_local import KnownFiles, LocalRows
from pushpull.outcomes import Outcomes
from pushpull.plan import (
    Append,
    Plan,
    SetLocal,
    SetRemote,
    TooManyExpunged,
    TooManyGone,
    plan,
    plan_arrivals,
    plan_uploads,
)
from pushpull.ports import Local, Remote, Report
from pushpull.store import Store
from pushpull.trust import Trust, judge
from pushpull.upload import Uploader
from pushpull.values import replace, value
from pushpull.wording import plural, printable

ANSWER_SECONDS = 10.0
MAX_QUIET_PASSES = 3
MAX_WAITS = 2
MAX_LOOKS = 5


@value
class Settings:
    """How a pair is to be synchronised. `boot` names this boot of the machine; `synced` is `local.fsync`; `stays` tells
    that the program goes on after the cycle, and looks again in time; `whole_folder` that each directory is to be read,
    however it looks.
    """

    name: str
    folder: str
    policy: Policy
    window_seconds: float
    boot: str
    synced: bool
    dry_run: bool = False
    stays: bool = False
    whole_folder: bool = False


@value
class Tools:
    """What a cycle gets from outside: time, and the wish to stop.

    `pause` waits so many seconds, `check_stop` raises Interrupted when a signal asked for an end, `show_plan` prints
    a line of a dry run. `breathe` is called between two batches: it may raise to end the cycle there, where nothing is
    under way and all that was done is in the state. `awaited`: it would, once a batch is done. `whole` tells of a
    uniquename whether its file is known to be complete, however young.
    """

    report: Report
    clock: Callable[[], float]
    pause: Callable[[float], None]
    check_stop: Callable[[], None]
    show_plan: Callable[[str], None]
    breathe: Callable[[], None] = lambda: None
    awaited: Callable[[], bool] = lambda: False
    whole: Callable[[bytes], bool] = lambda _uniquename: False


class Cycle:
    """One cycle. A cycle that lost its link is simply run again with a new session: what it did is in the state."""

    def __init__(
        self, remote: Remote, local: Local, store: Store, pair: Pair, trust: Trust, settings: Settings, tools: Tools
    ) -> None:
        self._remote, self._local, self._store = remote, local, store
        self.trust = trust
        self._pair, self._settings, self._tools = pair, settings, tools
        self._report = tools.report
        self._candidates, self._outcomes = Candidates(store, pair.id), Outcomes(store, pair.id)
        self._known = KnownFiles(
            store, pair.id, now=tools.clock(), whole=settings.whole_folder or trust is not Trust.SAME
        )
        self._generation_raised = False
        self._awaiting_uids = False
        self._reread = 0
        self._by_meetings = True  # while parts of the arrivals come to something
        self._uploads_due: int | None = None
        self._parted = 0  # the last row of the last part of the new files
        self._hook_due = pair.hook_due
        self.look_again: float | None = None  # seconds from now, when `stays`
        self._observer = RemoteObserver(
            remote, store, pair, read_only=settings.dry_run, report=tools.report, clock=tools.clock
        )

    def run(self, tally: Tally, pace: Pace) -> None:
        """Bring both sides together. `tally` and `pace` survive a reconnect.

        Raises Refused before anything was changed, Temporary when the link or the server failed.
        """
        sight = self._observer.observe()
        whole_folder = self._take_in_local(tally)
        with self._local.own_changes(self._known.stamps()) as own:
            made, complete = self._bring_together(sight, tally, pace, complete=whole_folder and sight.complete)
            self._known.moved_on(own.settle())
        self._tell_held(made, tally)
        if not complete:
            what = f"mailbox {self._pair.key.remote}" if whole_folder else f"folder {self._settings.folder}"
            raise Restless(
                f"the {printable(what)} could not be read to its end; nothing was uploaded or marked deleted",
                remedy="try again when nothing changes it all the time",
            )

    def _bring_together(self, sight: RemoteSight, tally: Tally, pace: Pace, *, complete: bool) -> tuple[Plan, bool]:
        """Until a plan has nothing more to do: that plan, and whether all that it saw was `complete`."""
        quiet = waits = 0
        while True:
            self._tools.check_stop()
            made = self._plan(sight, tally, complete=complete)
            if self._settings.dry_run:
                self._show(made)
                return made, complete
            moved, transferred = self._apply(made, sight, tally, pace)
            quiet = 0 if transferred or made.partial else quiet + 1
            if self._awaiting_uids:
                self._awaiting_uids = False
                sight = self._observer.observe()
                complete = complete and sight.complete
            elif made.partial:
                self._by_meetings = bool(moved or made.appends)
                self._tools.breathe()
            elif not moved or quiet >= MAX_QUIET_PASSES:
                if not made.open_since or waits >= MAX_WAITS:
                    return made, complete
                if self._settings.stays:
                    self.look_again = self._answer_due(made.open_since)
                    return made, complete
                self._await_answer(made.open_since)
                sight = self._observer.observe()
                complete = complete and sight.complete
                quiet, waits = 0, waits + 1

    # --- observe -------------------------------------------------------------------------------------------------

    def _take_in_local(self, tally: Tally) -> bool:
        """Returns whether the folder was read to its end."""
        settings = self._settings
        if settings.dry_run and not self._local.exists():
            return True
        observer = LocalObserver(
            self._local,
            self._store,
            self._pair.id,
            known=self._known,
            boot=settings.boot,
            repair=not settings.dry_run,
            report=self._report,
        )
        for _ in range(MAX_LOOKS):
            look = observer.look(older=self.trust is Trust.OLDER)
            self._check_marker()
            if not look.complete and self.trust is not Trust.SAME:
                raise self._restless()
            if self.trust is Trust.UNMARKED:
                self._unmarked(len(look.absent))
            tally.renamed += observer.take_in(look, believe=self.trust is not Trust.OLDER)
            if not observer.missed:
                break
        else:
            raise self._restless()
        tally.set_aside += observer.unreadable
        if self.trust is not Trust.SAME:
            self._raise_generation()
            self.trust = Trust.SAME
        return look.complete

    def _restless(self) -> Restless:
        return Restless(
            f"{printable(self._settings.folder)} changes too fast to tell what is in it; nothing was changed",
            remedy="try again when no other program works in it",
        )

    def _check_marker(self) -> None:
        """The folder was judged before the connection was made; it is still the one that the scan showed."""
        if self.trust not in (Trust.SAME, Trust.OLDER, Trust.UNMARKED):
            return
        pair = self._store.pair(self._pair.id)
        marker = self._local.read_marker()
        trust = judge(marker, pair, pair.key, state_id=self._store.state_id, others=(), exists=self._local.exists())
        if trust is not self.trust:
            raise Refused(
                f"{printable(self._settings.folder)} was replaced while it was looked at; nothing was changed",
                remedy="run it again",
            )

    def _unmarked(self, missing: int) -> None:
        allowed = self._settings.policy.allowed
        if missing <= (allowed or 0):
            self._report.line(
                levels.WARNING,
                f"{printable(self._settings.folder)} lacked its .pushpull file; it is written anew",
            )
            return
        raise Refused(
            f"{printable(self._settings.folder)} is not the folder it was: it lacks its .pushpull file, and {missing}"
            " messages that were in it are missing; nothing was changed",
            remedy=f"if it is a new folder, --readopt downloads them again; if they are to be marked deleted on the"
            f" server, --allow-mass-delete={missing}",
        )

    # --- plan ----------------------------------------------------------------------------------------------------

    def _plan(self, sight: RemoteSight, tally: Tally, *, complete: bool) -> Plan:
        self._observer.identify()
        self._outcomes.settle()
        policy = self._settings.policy
        if not self._settings.dry_run:  # EXAMINE shows every mailbox as read-only
            policy = replace(policy, mask=sight.state.mask, read_only=sight.state.read_only)
        now = self._tools.clock()
        if complete and not self._settings.dry_run and (part := self._part(policy, now)):
            return part
        rows = self._candidates.all(policy.sendable, now, whole=self._settings.dry_run)
        counts = self._candidates.counts(
            now - self._settings.window_seconds,
            now,
            expunged=sum(row.expunged for row in rows) + tally.local_marked,
            limit=policy.remote_delete_limit if policy.allowed is None else policy.allowed,
        )
        made = plan(
            rows,
            replace(counts, done_local=tally.remote_marked, done_remote=tally.local_marked),
            policy,
            complete=complete,
            answered_before=sight.seen_at - ANSWER_SECONDS,
        )
        if made.refusals:
            raise self._refused(made, "nothing more" if tally.anything else "nothing")
        return made

    def _part(self, policy: Policy, now: float) -> Plan | None:
        """A plan of a part, where so much is to be done that all of it would not fit into memory."""
        if self._by_meetings and (met := self._candidates.meetings(policy.sendable, now)):
            return plan_arrivals(met, policy)
        if new := self._candidates.new_files(policy.sendable, now, self._parted):
            made = plan_uploads(new, policy)
            files = sorted(row.id for row in new if not row.has_remote)
            self._parted = files[min(len(files), AT_ONCE) - 1]
            return made
        return None

    def _refused(self, made: Plan, nothing: str) -> Refused:
        words, most = [], 0
        folder, mailbox = printable(self._settings.folder), printable(self._pair.key.remote)
        for refusal in made.refusals:
            most = max(most, refusal.count)
            if isinstance(refusal, TooManyGone):
                gone = plural(refusal.count, "message is", "messages are")
                words.append(f"{gone} gone from the folder {folder} (limit {refusal.limit})")
            elif isinstance(refusal, TooManyExpunged):
                words.append(
                    f"{refusal.count} of {refusal.paired} messages are gone from the mailbox {mailbox}"
                    f" (limit {refusal.limit})"
                )
        return Refused(
            f"{'; '.join(words)}; {nothing} was changed",
            remedy=f"if they are to be marked deleted on the other side too, run with --allow-mass-delete={most};"
            " if the folder or the mailbox is not the one it was, --readopt matches both by content anew",
        )

    def _show(self, made: Plan) -> None:
        for action in made.actions:
            name = f" [{printable(action.row.uniquename)}]" if action.row.uniquename is not None else ""
            self._tools.show_plan(f"{printable(self._settings.name)}: {action}{name}")

    # --- apply ---------------------------------------------------------------------------------------------------

    def _apply(self, made: Plan, sight: RemoteSight, tally: Tally, pace: Pace) -> tuple[int, int]:
        """The plan, in the order that keeps it safe: nothing is marked deleted before what is new was copied."""
        tools = self._tools
        applier = Applier(
            self._remote,
            self._local,
            self._outcomes,
            tally=tally,
            report=self._report,
            clock=tools.clock,
            check_stop=tools.check_stop,
        )
        moved = applier.adopt_by_header(made.adopts)
        if made.local_flags:
            self._local_change_begins()
        moved += applier.set_local(made.local_flags)
        moved += applier.set_remote(made.remote_flags)
        transferred = self._download(made, tally, pace)
        self._reread = 0
        transferred += self._upload(made, sight, tally, pace)
        if made.local_marks:
            self._local_change_begins()
            self._marking("remote", made.local_marks)
            moved += applier.set_local(made.local_marks)
        # What comes to nothing tells of no file whose mark it should wait for.
        marks = made.remote_marks if moved or transferred else [*made.remote_marks, *made.later_marks]
        if marks:
            self._marking("local", marks)
            moved += applier.set_remote(marks)
        moved += applier.set_aside(made.aside)
        self._outcomes.forget(action.row for action in made.forgets)
        return moved + transferred + self._reread, transferred

    def _marking(self, side: str, actions: Iterable[SetLocal | SetRemote | Append]) -> None:
        """Remember what is marked; the guards count it, unless the user allowed it."""
        counted = self._settings.policy.allowed is None
        self._outcomes.marking(side, [action.row for action in actions], self._tools.clock(), counted=counted)

    def _download(self, made: Plan, tally: Tally, pace: Pace) -> int:
        if not made.downloads:
            return 0
        downloader = Downloader(
            self._remote,
            self._local,
            self._outcomes,
            tally=tally,
            pace=pace,
            report=self._report,
            clock=self._tools.clock,
            unsynced_boot="" if self._settings.synced else self._settings.boot,
            before_delivery=self._delivery_begins,
            check_stop=self._tools.check_stop,
            breathe=self._tools.breathe,
            awaited=self._tools.awaited,
        )
        return downloader.run(made.downloads, total=self._candidates.arrivals(self._tools.clock()))

    def _upload(self, made: Plan, sight: RemoteSight, tally: Tally, pace: Pace) -> int:
        if not made.appends:
            return 0
        uploader = Uploader(
            self._remote,
            self._local,
            self._outcomes,
            LocalRows(self._store, self._pair.id),
            pair=sight.pair,
            state=sight.state,
            tally=tally,
            pace=pace,
            report=self._report,
            clock=self._tools.clock,
            pause=self._tools.pause,
            before_upload=self._raise_generation,
            check_stop=self._tools.check_stop,
            breathe=self._tools.breathe,
            whole=self._tools.whole,
        )
        twins = [action for action in made.appends if action.row.twins]
        if twins:
            wanted = self._settings.policy.readopt
            rows = [action.row for action in twins]
            self._outcomes.marking("twin", rows, self._tools.clock(), counted=not wanted)
        done = uploader.run(made.appends, total=self._uploads_left(tally))
        self._observer.look_at(uploader.uploaded)
        self._awaiting_uids = uploader.awaiting
        self._reread = uploader.reread
        return done

    def _uploads_left(self, tally: Tally) -> int:
        """Counted once a cycle: each new file is looked at for it."""
        if self._uploads_due is None:
            self._uploads_due = self._candidates.uploads(self._tools.clock()) + tally.uploaded
        return self._uploads_due - tally.uploaded

    def _delivery_begins(self) -> None:
        self._raise_generation()
        self._local_change_begins()

    def _raise_generation(self) -> None:
        """Before the first delivery or upload of a cycle: state first, then marker (see `trust`)."""
        if self._generation_raised or self._settings.dry_run:
            return
        self._pair = raise_generation(self._store, self._local, self._pair)
        self._generation_raised = True

    def _local_change_begins(self) -> None:
        """The post-sync command is due, even if this cycle fails later or the program dies now."""
        if not self._hook_due:
            self._pair = self._store.update_pair(self._pair, hook_due=True)
            self._hook_due = True

    # --- end -----------------------------------------------------------------------------------------------------

    def _await_answer(self, attempted: float) -> None:
        """A message whose APPEND was cut may surface seconds later: look again ten seconds after the attempt."""
        self._report.line(levels.INFO, "waiting to see whether an interrupted upload arrived")
        self._tools.pause(self._answer_due(attempted))

    def _answer_due(self, attempted: float) -> float:
        """Seconds from now."""
        wait = attempted + ANSWER_SECONDS - self._tools.clock()
        return min(max(wait, 0.0), ANSWER_SECONDS) + 0.1

    def _tell_held(self, made: Plan, tally: Tally) -> None:
        if tally.unmarked:
            tally.notes.append(
                f"{plural(tally.unmarked, 'message was', 'messages were')} marked deleted on one side only at the first"
                " meeting; the mark was taken off"
            )
        if tally.remote_deleted and self._remote.gmail:
            tally.notes.append("Gmail expunges what is marked deleted, unless its Auto-Expunge is off")
        if made.waiting:
            tally.held += made.waiting
            self._report.line(
                levels.WARNING,
                f"held: {plural(made.waiting, 'uploaded message')} did not show up on the server yet; they are"
                " not sent again, unless --readopt asks for it",
            )
        if made.unmatched:
            tally.held += made.unmatched
            self._report.line(
                levels.WARNING,
                f"held: {plural(made.unmatched, 'message')} of {printable(self._settings.folder)}, known before the"
                " server numbered its messages anew or a full folder pushed them out, and not on it any more;"
                " --readopt uploads them as new",
            )
        if made.twin_uploads:
            tally.held += made.twin_uploads
            self._report.line(
                levels.WARNING,
                f"held: {made.twin_uploads} new files are copies of messages that are on the server already;"
                " does another tool synchronise this folder too? --readopt uploads them",
            )


def raise_generation(store: Store, local: Local, pair: Pair) -> Pair:
    """Write the folder's marker one generation newer."""
    pair = store.update_pair(pair, generation=pair.generation + 1)
    local.write_marker(Marker(store.state_id, pair.id, pair.generation))
    return store.update_pair(pair, marker_generation=pair.generation)
