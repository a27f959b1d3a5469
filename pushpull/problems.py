# SPDX-License-Identifier: MIT
"""What is set aside is never forgotten."""

from __future__ import annotations

import time

from pushpull import levels
from pushpull.outcomes import Outcomes
from pushpull.ports import Report
from pushpull.store import Store
from pushpull.wording import printable


def tell_problems(store: Store, pair_id: int, report: Report, now: float) -> float | None:
    """One line about the messages that are set aside, details at NOTICE. `now` and what is returned, when the first of
    all that failed is to be tried again (None: nothing failed), are seconds since the epoch.
    """
    problems = Outcomes(store, pair_id).earlier_problems()
    waiting = [(row, at) for row, at in problems if at > now]
    if waiting:
        report.line(
            levels.WARNING,
            f"{len(waiting)} message{'s are' if len(waiting) > 1 else ' is'} set aside and tried again later"
            " (-v tells which and why)",
        )
    for row, at in waiting:
        what = printable(row.uniquename) if row.uniquename is not None else f"uid {row.uid}"
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
        report.line(levels.NOTICE, f"set aside: {what}: {printable(row.problem)} (next try after {when})")
    return min((at for _, at in problems), default=None)
