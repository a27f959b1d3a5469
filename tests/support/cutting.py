# SPDX-License-Identifier: MIT
"""Runs whose link is cut: the places where a cut may come, and what must come of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.support.messages import mail
from tests.support.proxy import Proxy
from tests.support.rules import Direction, How, Traffic
from tests.support.run import Setup
from tests.support.scenes import Scene, Stage

HASTE = """
from types import SimpleNamespace
from pushpull import engine, retry
engine.ANSWER_SECONDS = 2.0
retry.random = SimpleNamespace(uniform=lambda low, high: 0.01)
"""
"""An APPEND without an answer is looked for two seconds later, not ten, and between attempts nobody waits."""

DIRECTIONS: tuple[Direction, ...] = ("up", "down")
HOWS: tuple[How, ...] = ("reset", "half")
_TOLD = re.compile(
    r"closed the connection|connection (was )?(closed|reset|cut)|cannot connect|Connection reset|Broken pipe"
    r"|EOF occurred"
)


def _all_kinds(setup: Setup) -> None:
    """Flags both ways, deletions and undeletions both ways, uploads, downloads, and messages that are on both sides."""
    setup.put_remotes(["A", "B", "C", "E", "F", "U", "V"], "S")
    setup.sync()
    setup.remove_local("U")
    setup.expunge_remote("V")
    setup.sync()
    setup.flag_remote("A", "+R")
    setup.flag_local("A", "+P")
    setup.flag_remote("B", "-S")
    setup.flag_local("B", "+R")
    setup.remove_local("C")
    setup.expunge_remote("E")
    setup.flag_remote("U", "-T")
    setup.flag_local("V", "-T")
    for put in (setup.put_remote, setup.put_local):
        put("X", "S")
        put(setup.know("Y", mail("Y", received=False)), "S")
    for name, letters in (("N1", "S"), ("N2", "")):
        setup.put_remote(name, letters)
    for name, letters in (("O1", "F"), ("O2", "")):
        setup.put_local(name, letters)


ALL_KINDS = Scene(
    "all kinds",
    _all_kinds,
    remote="A:PRS B:R C:ST F:S U:S V:S X:S Y:S N1:S N2 O1:F O2",
    local="A:PRS B:R E:ST F:S U:S V:S X:S Y:S N1:S N2 O1:F O2",
)


@dataclass(frozen=True)
class Point:
    """Where the link ends. `gone`: the server takes no connection any more in that run."""

    direction: Direction
    how: How
    line: int = 0
    octets: int = -1
    after: bool = False
    gone: bool = False


def points(traffic: Traffic, *, apart: int) -> Iterator[Point]:
    """Before and after each line of an undisturbed run's conversation, and every `apart` octets of it; in both
    directions, both ways. In every third the server takes no other connection in that run."""
    places = [
        Point(direction, how, **place)  # type: ignore[arg-type]
        for direction in DIRECTIONS
        for how in HOWS
        for place in (
            *({"line": line, "after": True} for line in range(1, traffic.lines(direction) + 1)),
            *({"line": line, "after": False} for line in range(1, traffic.lines(direction) + 1)),
            *({"octets": octets} for octets in range(0, traffic.octets(direction), apart)),
        )
    ]
    for number, place in enumerate(places):
        yield replace(place, gone=number % 3 == 0)


def cut_once(stage: Stage, proxy: Proxy, point: Point) -> bool:
    """A run with the cut, one that is left alone, one that changes nothing. Returns whether the cut came at all: a
    conversation may be a line shorter than the one that was recorded."""
    setup, args = stage.reset(), stage.scene.args
    proxy.forget()
    cut = proxy.cut_at(
        point.direction, line=point.line, octets=point.octets, how=point.how, after=point.after, gone=point.gone
    )
    run = setup.run(*args)
    try:
        assert run.code in (0, 75), run
        assert "Traceback" not in run.err, run
        if run.code or "trying again" in run.err:
            assert _TOLD.search(run.err), f"not told what happened\n{run}"
        setup.assert_nothing_destroyed()
        proxy.forget()
        stage.assert_finished(*args)
    except AssertionError as error:
        raise AssertionError(f"{point}, at {cut.where!r}, first {run}\n{error}") from error
    return cut.done
