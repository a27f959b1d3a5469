# SPDX-License-Identifier: MIT
"""What was measured, as it is kept in a file and as it is shown: medians, ratios, targets. Pure, but for the file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OWN, RIVAL = "pushpull", "mbsync"


@dataclass(frozen=True)
class Cost:
    """Of one run: seconds of wall time, and of processor time of all its processes; peak RSS of the largest, MiB."""

    wall: float
    cpu: float
    rss: float


@dataclass(frozen=True)
class Traffic:
    """Bytes to and from the server, and how often the program spoke after it had heard from the server."""

    turns: int
    sent: int
    received: int


@dataclass
class Result:
    """Of one program at one piece of work. `failed` is what went wrong; then there are no costs, or too few."""

    costs: list[Cost] = field(default_factory=list)
    traffic: Traffic | None = None
    failed: str = ""

    def median(self, figure: str) -> float:
        return statistics.median(getattr(cost, figure) for cost in self.costs)

    @property
    def rss(self) -> float:
        return max(cost.rss for cost in self.costs)

    @property
    def complete(self) -> bool:
        return bool(self.costs) and not self.failed


@dataclass
class Line:
    """The same work for each program. `targets` are limits for pushpull: `ratio` at least, all others at most.

    `size` is the bytes that have to be moved, 0 if that says nothing.
    """

    name: str
    title: str
    messages: int
    size: int = 0
    targets: Mapping[str, float] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)

    def ratio(self, name: str, figure: str = "wall") -> float | None:
        """How many times what pushpull takes the other program takes; None when one of them failed."""
        own, other = self.results.get(OWN), self.results.get(name)
        if own is None or other is None or not own.complete or not other.complete:
            return None
        return other.median(figure) / own.median(figure) if own.median(figure) else None

    def reached(self, target: str) -> float | None:
        """What pushpull came to."""
        own = self.results.get(OWN)
        if target == "ratio":
            return self.ratio(RIVAL)
        if own is None or not own.complete:
            return None
        if target == "rss":
            return own.rss
        if own.traffic is None:
            return None
        return own.traffic.turns if target == "turns" else own.traffic.received / 1000

    def met(self, target: str) -> bool | None:
        reached = self.reached(target)
        if reached is None:
            return None
        # As it is shown: a figure that reads as the target has met it.
        return round(reached, 2) >= self.targets[target] if target == "ratio" else reached <= self.targets[target]


@dataclass
class Report:
    """A whole run of the benchmark. `kind` is speed or scale; `programs` maps a name to what its version says."""

    kind: str
    command: str
    date: str
    machine: str
    programs: dict[str, str]
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Whole or not at all: it is called again and again while the run goes on."""
        new = path.with_name(path.name + ".new")
        new.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        new.replace(path)


def load(path: Path) -> Report:
    values = json.loads(path.read_text(encoding="utf-8"))
    return Report(**{**values, "lines": [_line(line) for line in values["lines"]]})


def _line(values: dict[str, Any]) -> Line:
    return Line(**{**values, "results": {name: _result(result) for name, result in values["results"].items()}})


def _result(values: dict[str, Any]) -> Result:
    traffic = values["traffic"]
    costs = [Cost(**cost) for cost in values["costs"]]
    return Result(costs, Traffic(**traffic) if traffic else None, values["failed"])


# --- as a table --------------------------------------------------------------------------------------------------

COLUMNS = (
    "work",
    "program",
    "s (median; least–most)",
    "others / pushpull",
    "messages/s",
    "MB/s",
    "CPU s",
    "peak MiB",
    "kB in",
    "kB out",
    "turns",
)
_TARGETS = {
    "ratio": "mbsync / pushpull ≥ {:g}",
    "turns": "turns ≤ {:g}",
    "received": "kB in ≤ {:g}",
    "rss": "peak MiB ≤ {:g}",
}


def header(columns: Sequence[str] = COLUMNS) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]


def rows(line: Line) -> Iterator[str]:
    """The lines of the table, one a program; the title stands in the first."""
    title = f"{line.title}, {line.messages:,}"
    for name, result in line.results.items():
        yield f"| {' | '.join([title, *_cells(line, name, result)])} |"
        title = ""


def _cells(line: Line, name: str, result: Result) -> list[str]:
    if not result.complete:
        return [name, f"failed: {result.failed.splitlines()[0] if result.failed else 'no run'}", *[""] * 8]
    walls = [cost.wall for cost in result.costs]
    ratio = line.ratio(name) if name != OWN else None
    wall = result.median("wall")
    traffic = result.traffic
    return [
        name,
        f"{wall:.2f}" + (f" ({min(walls):.2f}–{max(walls):.2f})" if len(walls) > 1 else ""),
        f"{ratio:.2f}" if ratio else "",
        f"{line.messages / wall:,.0f}" if line.size else "",
        f"{line.size / wall / 1e6:,.1f}" if line.size else "",
        f"{result.median('cpu'):.2f}",
        f"{result.rss:.0f}",
        f"{traffic.received / 1000:,.0f}" if traffic else "",
        f"{traffic.sent / 1000:,.0f}" if traffic else "",
        str(traffic.turns) if traffic else "",
    ]


def targets(lines: Sequence[Line]) -> Iterator[str]:
    """A table of what was aimed at."""
    yield from header(("work", "target", "reached", ""))
    for line in lines:
        for target, limit in line.targets.items():
            reached, met = line.reached(target), line.met(target)
            shown = "–" if reached is None else f"{reached:.2f}" if target == "ratio" else f"{reached:,.0f}"
            verdict = {True: "met", False: "**missed**", None: "not measured"}[met]
            yield f"| {line.title}, {line.messages:,} | {_TARGETS[target].format(limit)} | {shown} | {verdict} |"
