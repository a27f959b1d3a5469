# SPDX-License-Identifier: MIT
"""Apply flags and deletion marks, on both sides. Every effect repeats harmlessly: relative STORE, renames to computed
names. The base takes only what was shown afterwards, so what got lost on the way is seen by the next plan.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from pushpull import levels
from pushpull.batched import batched
from pushpull.download import local_file, tell_failure
from pushpull.errors import MessageError
from pushpull.flags import DELETED, NONE, Flags
from pushpull.message import Fingerprinter
from pushpull.model import LocalFile, Pairing, RemoteView, Tally, Uid, UidSet
from pushpull.observed import subtract
from pushpull.outcomes import Outcomes
from pushpull.plan import Adopt, SetAside, SetLocal, SetRemote
from pushpull.ports import Local, Remote, Report
from pushpull.values import replace
from pushpull.wording import printable

LOCAL_BATCH = 500


class Applier:
    """Flags, marks and adoptions for one pair, through one session."""

    def __init__(
        self,
        remote: Remote,
        local: Local,
        outcomes: Outcomes,
        *,
        tally: Tally,
        report: Report,
        clock: Callable[[], float],
        check_stop: Callable[[], None],
    ) -> None:
        self._remote, self._local, self._outcomes = remote, local, outcomes
        self._tally, self._report, self._clock, self._check_stop = tally, report, clock, check_stop

    def adopt_by_header(self, actions: Sequence[Adopt]) -> int:
        """Join those whose whole headers agree; the others are compared by body in the next pass."""
        wanted = {action.row.uid: action for action in actions if action.row.uid is not None}
        headers = self._remote.headers(UidSet.of(wanted))
        done = seen = 0
        for batch in batched(headers, LOCAL_BATCH):  # the server need not wait for what is done with them
            self._check_stop()
            with self._outcomes.transaction():
                for uid, header in batch:
                    action = wanted.pop(uid, None)
                    done += self._join(action, header) if action is not None else 0
            seen += len(batch)
            self._report.progress("matching", min(seen, len(actions)), len(actions))
        for action in wanted.values():  # no header came, or one too long to be read: the body decides
            self._outcomes.note_header(action.row, b"")
        return done + len(wanted)

    def _join(self, action: Adopt, header: bytes) -> int:
        fingerprinter = Fingerprinter()
        fingerprinter.feed(header)
        digest = fingerprinter.finish().header_digest
        row, partner = action.row, action.partner
        if digest != partner.header_digest:
            self._outcomes.note_header(row, digest)
            return 1
        if row.uid is None:
            return 0
        view = RemoteView(row.uid, row.remote_flags, row.keywords)
        self._tally.unmarked += self._outcomes.adopt(row, partner, view)
        self._tally.adopted += 1
        return 1

    def set_local(self, actions: Sequence[SetLocal]) -> int:
        """Rename files; durable before it is committed."""
        done = 0
        for start in range(0, len(actions), LOCAL_BATCH):
            self._check_stop()
            renamed: list[tuple[SetLocal, LocalFile]] = []
            for action in actions[start : start + LOCAL_BATCH]:
                file = self._rename(action)
                if file is not None:
                    renamed.append((action, file))
            self._local.sync_renames()
            with self._outcomes.transaction():
                for action, file in renamed:
                    self._outcomes.set_local(action.row, file)
            for action, file in renamed:
                self._tell_local(action, file)
            done += len(renamed)
        return done

    def _rename(self, action: SetLocal) -> LocalFile | None:
        try:
            return self._local.set_flags(local_file(action.row), action.add, action.remove)
        except MessageError as error:
            self._fail(action.row, str(error))
            return None

    def _tell_local(self, action: SetLocal, file: LocalFile) -> None:
        if action.mark:
            self._tally.local_marked += 1
        else:
            self._tally.local_flags += 1
        self._report.line(levels.NOTICE, f"{printable(file.path)}: {action}")

    def set_remote(self, actions: Sequence[SetRemote]) -> int:
        """STORE, grouped by identical change."""
        groups: dict[tuple[Flags, Flags], list[SetRemote]] = defaultdict(list)
        for action in actions:
            if action.add:
                groups[action.add, NONE].append(replace(action, remove=NONE))
            if action.remove:
                groups[NONE, action.remove].append(replace(action, add=NONE))
        return sum(self._store(group, add, remove) for (add, remove), group in groups.items())

    def _store(self, group: Sequence[SetRemote], add: Flags, remove: Flags) -> int:
        self._check_stop()
        uids = UidSet.of(action.row.uid for action in group if action.row.uid is not None)
        try:
            shown = self._remote.store(uids, add=add, remove=remove)
        except MessageError as error:
            if len(group) == 1:
                self._fail(group[0].row, f"the server refuses the flags: {error}")
                return 1
            middle = len(group) // 2
            return self._store(group[:middle], add, remove) + self._store(group[middle:], add, remove)
        self._tally.remote_deleted += len(group) if add & DELETED else 0  # Gmail may show an expunge and no flags
        for lo, hi in subtract(uids, UidSet.of(shown)).ranges:  # acknowledged, not shown: what does it have?
            shown |= {view.uid: view for view in self._remote.views(Uid(lo), Uid(hi))}
        rows = [action.row for action in group]
        taken = self._outcomes.set_remote(rows, add, remove, shown)
        for action in group:
            if action.row.uid in shown:
                self._tell_remote(action, shown[action.row.uid], add, remove)
        return taken

    def _tell_remote(self, action: SetRemote, view: RemoteView, add: Flags, remove: Flags) -> None:
        if (add & ~view.flags) | (remove & view.flags):
            self._report.line(levels.NOTICE, f"uid {view.uid}: the server does not keep the flag; left alone")
            return
        if action.mark:
            self._tally.remote_marked += 1
        else:
            self._tally.remote_flags += 1
        self._report.line(levels.NOTICE, str(action))
        if action.conflict:
            self._report.line(
                levels.NOTICE,
                f"uid {view.uid} was deleted here while its flags changed on the server: the deletion wins",
            )

    def set_aside(self, actions: Sequence[SetAside]) -> int:
        """Keep the reason; tried again much later, from the start: it was not in any complete view since."""
        for action in actions:
            self._outcomes.append_refused([action.row])
            count = self._outcomes.failed(action.row, action.reason, self._clock(), count=3)
            tell_failure(self._report, self._tally, printable(action.row.uniquename or b""), action.reason, count)
        return len(actions)

    def _fail(self, row: Pairing, reason: str) -> None:
        count = self._outcomes.failed(row, reason, self._clock())
        what = printable(row.uniquename) if row.uniquename is not None else f"uid {row.uid}"
        tell_failure(self._report, self._tally, what, reason, count)
