# SPDX-License-Identifier: MIT
"""What was measured, as it is kept in a file and as it is shown: medians, ratios, targets. Pure, but for the file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """Of one program at one piece of work. `failed` is what went wrong; then there are no costs, or too few. `state` is
    the bytes that it keeps to remember what was synchronised, if that was looked at.
    """

    costs: list[Cost] = field(default_factory=list)
    traffic: Traffic | None = None
    failed: str = ""
    state: int = 0

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
    """A whole run of the benchmark. `kind` is speed or scale; `programs` are names and versions, pushpull's first."""

    kind: str
    command: str
    date: str
    machine: str
    programs: dict[str, str]
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def ground(self) -> str:
        """What it stands on, in a line."""
        return "; ".join([self.machine, ", ".join(f"{name} {version}" for name, version in self.programs.items())])

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
    return Result(**{**values, "costs": costs, "traffic": Traffic(**traffic) if traffic else None})


# --- as a table --------------------------------------------------------------------------------------------------

Cell = Callable[[Line, str, Result], str]


def _wall(_line: Line, _name: str, result: Result) -> str:
    walls = [cost.wall for cost in result.costs]
    return f"{result.median('wall'):.2f}" + (f" ({min(walls):.2f}–{max(walls):.2f})" if len(walls) > 1 else "")


def _ratio(line: Line, name: str, _result: Result) -> str:
    ratio = line.ratio(name)
    return "" if name == OWN or ratio is None else f"{ratio:.2f}"


def _rate(amount: float, digits: int, line: Line, result: Result) -> str:
    return f"{amount / result.median('wall'):,.{digits}f}" if line.size else ""


_CELLS: dict[str, Cell] = {
    "s (least–most)": _wall,
    "others / pushpull": _ratio,
    "messages/s": lambda line, _, result: _rate(line.messages, 0, line, result),
    "MB/s": lambda line, _, result: _rate(line.size / 1e6, 1, line, result),
    "CPU s": lambda _line, _, result: f"{result.median('cpu'):.2f}",
    "peak MiB": lambda _line, _, result: f"{result.rss:.0f}",
    "kB in": lambda _line, _, result: f"{result.traffic.received / 1000:,.0f}" if result.traffic else "",
    "kB out": lambda _line, _, result: f"{result.traffic.sent / 1000:,.0f}" if result.traffic else "",
    "turns": lambda _line, _, result: str(result.traffic.turns) if result.traffic else "",
    "state MB": lambda _line, _, result: f"{result.state / 1e6:,.1f}" if result.state else "",
}
COLUMNS = {
    "speed": [name for name in _CELLS if name != "state MB"],
    "scale": ["s (least–most)", "others / pushpull", "CPU s", "peak MiB", "state MB"],
}
_TARGETS = {
    "ratio": "mbsync / pushpull ≥ {:g}",
    "turns": "turns ≤ {:g}",
    "received": "kB in ≤ {:g}",
    "rss": "peak MiB ≤ {:g}",
}


def header(kind: str) -> list[str]:
    return _header(["work", "program", *COLUMNS[kind]])


def _header(columns: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]


def rows(kind: str, line: Line) -> Iterator[str]:
    """The lines of the table, one a program; the title stands in the first."""
    title = f"{line.title}, {line.messages:,}"
    for name, result in line.results.items():
        if result.complete:
            cells = [_CELLS[column](line, name, result) for column in COLUMNS[kind]]
        else:
            cells = [f"failed: {result.failed.splitlines()[0] if result.failed else 'no run'}"]
            cells += [""] * (len(COLUMNS[kind]) - 1)
        yield f"| {' | '.join([title, name, *cells])} |"
        title = ""


def memory(report: Report) -> Iterator[str]:
    """How much of it each message takes, after an empty line; nothing if there is nothing to compare."""
    grown = [(name, size) for name in report.programs if (size := growth(report.lines, name)) is not None]
    if grown:
        yield ""
        yield f"Memory for each message more: {', '.join(f'{name} {size:.0f} bytes' for name, size in grown)}."


def growth(lines: Sequence[Line], program: str) -> float | None:
    """Bytes of peak memory for each message more, from the smallest mailbox to the largest."""
    found = peaks(lines, program)
    if len(found) < 2:
        return None
    least, most = min(found), max(found)
    return (found[most] - found[least]) * (1 << 20) / (most - least)


def peaks(lines: Sequence[Line], program: str) -> dict[int, float]:
    """Peak memory in all that was done with so many messages, in MiB; work with large messages does not count."""
    found: dict[int, float] = {}
    for line in lines:
        if not line.size and program in line.results and line.results[program].complete:
            found[line.messages] = max(found.get(line.messages, 0), line.results[program].rss)
    return found


def targets(lines: Sequence[Line]) -> Iterator[str]:
    """A table of what was aimed at, after an empty line; nothing if it was nothing."""
    if not any(line.targets for line in lines):
        return
    yield ""
    yield from _header(("work", "target", "reached", ""))
    for line in lines:
        for target, limit in line.targets.items():
            reached, met = line.reached(target), line.met(target)
            shown = "–" if reached is None else f"{reached:.2f}" if target == "ratio" else f"{reached:,.0f}"
            verdict = {True: "met", False: "**missed**", None: "not measured"}[met]
            yield f"| {line.title}, {line.messages:,} | {_TARGETS[target].format(limit)} | {shown} | {verdict} |"
