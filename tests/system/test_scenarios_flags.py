# SPDX-License-Identifier: MIT
"""Tables of what changes on the two sides between two runs, and what both must hold afterwards.

Each table is played once for each strategy and each side that the messages come from; a row is a test of its own.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.support.run import STRATEGIES, Setup
from tests.support.server import Server
from tests.support.table import Outcome, Played, Row, check, play, row

ROWS = [
    # One side changes.
    row("flag there", "A", ("remote A+F", "A:F")),
    row("flag here", "A", ("local A+F", "A:F")),
    row("flag off there", "A:FS", ("remote A-F", "A:S")),
    row("flag off here", "A:FS", ("local A-S", "A:F")),
    row("all flags there", "A", ("remote A+DFPRS", "A:DFPRS")),
    row("all flags here", "A", ("local A+DFPRS", "A:DFPRS")),
    row("all flags off there", "A:DFPRS", ("remote A-DFPRS", "A")),
    row("all flags off here", "A:DFPRS", ("local A-DFPRS", "A")),
    row("on, then off there", "A", ("remote A+F", "A:F"), ("remote A-F", "A")),
    row("on here, then off there", "A", ("local A+F", "A:F"), ("remote A-F", "A")),
    row("on there, off here, on there", "A", ("remote A+F", "A:F"), ("local A-F", "A"), ("remote A+F", "A:F")),
    row("nothing changes", "A:RS B", ("", "A:RS B")),
    # Both change.
    row("FS there, F here", "A", ("remote A+FS, local A+F", "A:FS")),
    row("F there while S is taken off here", "A:S", ("remote A+F, local A-S", "A:F")),
    row("the same flag on both", "A", ("remote A+F, local A+F", "A:F")),
    row("the same flag off on both", "A:F", ("remote A-F, local A-F", "A")),
    row("F kept there, dropped here", "A:F", ("remote A+S, local A-F", "A:S")),
    row("different flags", "A", ("remote A+R, local A+S", "A:RS")),
    row("read there, answered here, unflagged there", "A:F", ("remote A+S, local A+R, remote A-F", "A:RS")),
    # Marked as deleted: a flag as any other.
    row("T there", "A", ("remote A+T", "A:T")),
    row("T here", "A", ("local A+T", "A:T")),
    row("T on both, nothing to do", "A:T", ("", "A:T")),
    row("F and T there", "A", ("remote A+FT", "A:FT")),
    row("T there, off there", "A", ("remote A+T", "A:T"), ("remote A-T", "A")),
    row("T there, off here", "A", ("remote A+T", "A:T"), ("local A-T", "A")),
    row("T here, off there", "A", ("local A+T", "A:T"), ("remote A-T", "A")),
    row("T there, F here", "A", ("remote A+T, local A+F", "A:FT")),
    # New messages carry their flags.
    row("new there", "A", ("remote B*", "A B")),
    row("new here", "A", ("local B*", "A B")),
    row("new there with flags", "", ("remote A*FRS", "A:FRS")),
    row("new here with flags", "", ("local A*FRS", "A:FRS")),
    row("new there, forwarded", "", ("remote A*P", "A:P")),
    row("new here, forwarded", "", ("local A*PS", "A:PS")),
    row("new there, already T", "", ("remote A*T", "A:T")),
    row("new here, already T", "", ("local A*T", "A:T")),
    row("new there as a draft, sent later", "", ("remote A*D", "A:D"), ("remote A-D, remote A+S", "A:S")),
    row("new on both, different", "", ("remote A*, local B*S", "A B:S")),
    row("new on both, the same", "", ("remote A*F, local A*S", "A:FS")),
    # A new message that both have and one side marked: nobody's deletion is believed.
    row("new on both, T only here", "", ("remote A*, local A*T", "A")),
    row("new on both, T only there", "", ("remote A*T, local A*", "A")),
    row("new on both, T on both", "", ("remote A*T, local A*T", "A:T")),
]

VANISHED = [
    row("expunged there", "A", ("remote A!", " | A:T")),
    row("expunged there, flagged here", "A", ("remote A!, local A+F", " | A:FT")),
    row("expunged there, T here before", "A:T", ("remote A!", " | A:T")),
    row("removed here", "A", ("local A!", "A:T | ")),
    row("removed here, flagged there", "A", ("remote A+F, local A!", "A:FT | ")),
    row("removed here, T there before", "A:T", ("local A!", "A:T | ")),
    row("T here, then removed", "A", ("local A+T", "A:T"), ("local A!", "A:T | ")),
    row("T there, then expunged", "A", ("remote A+T", "A:T"), ("remote A!", " | A:T")),
    row("both vanished", "A B", ("remote A!, local A!", "B")),
    row("T there while removed here", "A", ("remote A+T, local A!", "A:T | ")),
    row("T here while expunged there", "A", ("remote A!, local A+T", " | A:T")),
    row("expunged there, then removed here", "A B", ("remote A!", "B | A:T B"), ("local A!", "B")),
    row("removed here, then expunged there", "A B", ("local A!", "A:T B | B"), ("remote A!", "B")),
    # Taking the mark off the survivor brings the message back.
    row("removed here, undeleted there", "A:S", ("local A!", "A:ST | "), ("remote A-T", "A:S")),
    row("expunged there, undeleted here", "A:S", ("remote A!", " | A:ST"), ("local A-T", "A:S")),
    row(
        "undeleted there, removed again",
        "A",
        ("local A!", "A:T | "),
        ("remote A-T", "A"),
        ("local A!", "A:T | "),
    ),
    row(
        "undeleted here, expunged again",
        "A",
        ("remote A!", " | A:T"),
        ("local A-T", "A"),
        ("remote A!", " | A:T"),
    ),
    row("undeleted there with other flags", "A", ("local A!", "A:T | "), ("remote A-T, remote A+F", "A:F")),
    row("undeleted here with other flags", "A", ("remote A!", " | A:T"), ("local A-T, local A+R", "A:R")),
    # Only marked: flags still go up and down, the marked one's life is over on the other side.
    row("removed here, flagged there later", "A", ("local A!", "A:T | "), ("remote A+F", "A:FT | ")),
    row("expunged there, flagged here later", "A", ("remote A!", " | A:T"), ("local A+F", " | A:FT")),
    row("new there while its elder is removed here", "A", ("local A!, remote B*", "A:T B | B")),
    row("new here while its elder is expunged there", "A", ("remote A!, local B*", "B | A:T B")),
]

WORLDS = [(strategy, side) for strategy in STRATEGIES for side in ("remote", "local")]


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: f"{world[0]}-from-{world[1]}")
def world(request: pytest.FixtureRequest, server: Server) -> Played:
    """Both tables played in one way; the wire must show no destruction."""
    strategy, side = request.param
    outcomes: dict[str, Outcome] = {}
    restless: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        for title, rows in (("flags", ROWS), ("vanished", VANISHED)):
            base = Path(directory, title)
            base.mkdir()
            setup = Setup(server, server.add_user(f"{title}-{strategy}-{side}"), base, strategy)
            played = play(rows, setup, start_local=side == "local")
            setup.assert_nothing_destroyed()
            outcomes |= played.outcomes
            restless += played.restless
    return Played(outcomes, restless)


@pytest.mark.parametrize("each", [pytest.param(each, id=each.what.replace(" ", "-")) for each in ROWS + VANISHED])
def test_row(each: Row, world: Played) -> None:
    check(each, world.outcomes[each.what])


def test_second_runs_change_nothing(world: Played) -> None:
    assert not world.restless, "\n".join(world.restless)


def test_titles_are_unique() -> None:
    titles = [each.what for each in ROWS + VANISHED]
    assert len(set(titles)) == len(titles)
