# SPDX-License-Identifier: MIT
"""The figures as pictures. Text and axes have the reader's colour, light or dark; one report, one picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from results import OWN, Report, peaks

_INK = "#24292f"  # becomes `currentColor`
_STYLE = (
    f"<style>svg {{ color: {_INK} }} @media (prefers-color-scheme: dark) {{ svg {{ color: #e6edf3 }} }}"
    " text { font-family: sans-serif }</style>"
)
# Told apart on white and on black, by those who see no red or no green too.
_COLOURS = {OWN: "#d9730d", "mbsync": "#3d85c6", "offlineimap": "#8f6bb8", "interimap": "#3a9e77"}
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pushpull",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
}


def draw(report: Report, directory: Path) -> None:
    """`directory`/KIND.svg."""
    with mpl.rc_context(_SETTINGS):
        figure = _bars(report) if report.kind == "speed" else _curves(report)
        _save(figure, directory / f"{report.kind}.svg")


def _save(figure: Figure, path: Path) -> None:
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    text = drawn.getvalue().replace(_INK, "currentColor").replace("<defs>", f"{_STYLE}<defs>", 1)
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


def _bars(report: Report) -> Figure:
    """How many times pushpull's time each other program takes."""
    others = [name for name in report.programs if name != OWN]
    bars = [(line, name, ratio) for line in report.lines for name in others if (ratio := line.ratio(name))]
    figure = Figure(figsize=(7.2, 0.9 + 0.15 * len(bars) + 0.12 * len(report.lines)), layout="constrained")
    axes = figure.add_subplot()
    place, ticks = 0.0, {}
    for line in report.lines:
        own = [(name, ratio) for each, name, ratio in bars if each is line]
        ticks[place + (len(own) - 1) / 2] = f"{line.title}, {line.messages:,}"
        for name, ratio in own:
            axes.barh(place, ratio - 1, left=1, color=_COLOURS[name], height=0.85, label=name)
            axes.text(ratio, place, f" {ratio:.2g} ", va="center", ha="left" if ratio >= 1 else "right", fontsize=7)
            place += 1
        place += 0.8
    axes.axvline(1, color=_INK, linewidth=0.8)
    axes.set_xscale("log")
    axes.margins(x=0.08, y=0.02)
    _plain_numbers(axes.xaxis, (1, 2, 5))
    axes.invert_yaxis()
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("times what pushpull takes (right of 1: pushpull is faster)")
    _legend(figure, axes)
    return figure


_PANELS = {
    "first": "first synchronisation, s",
    "nothing": "nothing to do, s",
    "delta": "50 new, 200 flags, s",
    "": "peak memory, MiB",
}


def _curves(report: Report) -> Figure:
    """Each kind of work over the number of messages."""
    figure = Figure(figsize=(7.2, 5.2), layout="constrained")
    panels = figure.subplots(2, 2)
    for axes, (name, title) in zip(panels.flat, _PANELS.items(), strict=True):
        for program in report.programs:
            points = _seconds(report, name, program) if name else peaks(report.lines, program)
            axes.plot(points.keys(), points.values(), "o-", color=_COLOURS[program], markersize=3, label=program)
        axes.set_title(title, fontsize=9)
        axes.set_xscale("log")
        axes.set_yscale("log")
        _plain_numbers(axes.xaxis, (1,))
        _plain_numbers(axes.yaxis, (1, 3))
        axes.grid(color=_INK, alpha=0.15, linewidth=0.5)
    for axes in panels[1]:
        axes.set_xlabel("messages")
    _legend(figure, panels.flat[0])
    return figure


def _seconds(report: Report, name: str, program: str) -> dict[int, float]:
    """By the number of messages."""
    found = [(line.messages, line.results[program]) for line in report.lines if line.name == name]
    return {messages: result.median("wall") for messages, result in found if result.complete}


def _plain_numbers(axis: Any, subs: tuple[int, ...]) -> None:
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def _legend(figure: Figure, axes: Any) -> None:
    """One entry a program, above all."""
    entries = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside upper center",
        ncols=len(entries),
        frameon=False,
    )
