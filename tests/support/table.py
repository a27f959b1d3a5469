# SPDX-License-Identifier: MIT
"""Scenarios as rows: what both sides agree on, what changes, what must stand afterwards.

    row("9 removed here, flagged there", "A", ("remote A+F, local A!", "A:FT |"))

A row's start is on both sides. Then come steps: changes, one synchronisation, the outcome. Changes are separated by
commas: `remote` or `local`, then

    A+FS  flags added        A!    expunged, or its file removed
    A-F   flags taken off    A*FS  a new message, with these flags

An outcome names what the remote | the local side holds; without a bar it is the same on both.

Many rows share one mailbox and its few synchronisations: cheap, and closer to life than one message at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tests.support.run import Setup

_CHANGE = re.compile(r"(remote|local) ([A-Z])([-+*!])([A-Z]*)")


@dataclass(frozen=True)
class Row:
    """`start` and outcomes in words; messages are single capital letters."""

    what: str
    start: str
    steps: tuple[tuple[str, str], ...]

    def stage(self, number: int) -> tuple[str, str]:
        """Changes and outcome of a stage; a row with fewer steps changes no more."""
        if number < len(self.steps):
            return self.steps[number]
        return "", self.steps[-1][1]


def row(what: str, start: str, *steps: tuple[str, str]) -> Row:
    return Row(what, start, steps)


@dataclass(frozen=True)
class Outcome:
    """What a row's messages looked like after each stage: [(remote, local), ...] in words."""

    stages: tuple[tuple[list[str], list[str]], ...]


@dataclass(frozen=True)
class Played:
    """Outcomes by the rows' titles; and the faults of second runs, which are no single row's."""

    outcomes: dict[str, Outcome]
    restless: list[str]


def play(rows: Sequence[Row], setup: Setup, *, start_local: bool = False) -> Played:
    """Play all rows together in one mailbox; each stage ends with a run that must change nothing."""
    restless: list[str] = []
    for number, each in enumerate(rows):
        for word in each.start.split():
            letter, _, letters = word.partition(":")
            _put(setup, "local" if start_local else "remote", _name(number, letter), letters)
    setup.sync("--yes")
    seen = [_look(setup, len(rows))]
    for stage in range(max(len(each.steps) for each in rows)):
        _apply(setup, rows, stage)
        setup.sync()
        seen.append(_look(setup, len(rows)))
        try:
            setup.sync_again_changes_nothing()
        except AssertionError as error:
            restless.append(f"after stage {stage + 1}: {error}")
    return Played(
        {each.what: Outcome(tuple(look[number] for look in seen)) for number, each in enumerate(rows)}, restless
    )


def check(each: Row, outcome: Outcome) -> None:
    """The row's messages were as its start and its steps say, after each stage."""
    wanted = [each.start, *(each.stage(number)[1] for number in range(len(outcome.stages) - 1))]
    for number, (words, found) in enumerate(zip(wanted, outcome.stages, strict=True)):
        remote, bar, local = words.partition("|")
        expected = (sorted(remote.split()), sorted((local if bar else remote).split()))
        changes = each.stage(number - 1)[0] if number else "the first run"
        assert found == expected, f"{each.what}: after {changes or 'nothing'}: (remote, local) = {found}"


def _apply(setup: Setup, rows: Sequence[Row], stage: int) -> None:
    for number, each in enumerate(rows):
        changes, _ = each.stage(stage)
        for side, letter, kind, letters in _parse(changes):
            name = _name(number, letter)
            if kind == "*":
                _put(setup, side, name, letters)
            elif kind == "!":
                (setup.expunge_remote if side == "remote" else setup.remove_local)(name)
            else:
                (setup.flag_remote if side == "remote" else setup.flag_local)(name, kind + letters)


def _parse(changes: str) -> Iterator[tuple[str, str, str, str]]:
    for change in filter(None, changes.split(", ")):
        found = _CHANGE.fullmatch(change)
        assert found, f"not a change: {change!r}"
        yield found[1], found[2], found[3], found[4]


def _put(setup: Setup, side: str, name: str, letters: str) -> None:
    if side == "remote":
        setup.put_remote(name, letters)
    else:
        setup.put_local(name, letters)


def _look(setup: Setup, count: int) -> list[tuple[list[str], list[str]]]:
    remote, local = setup.remote_state(), setup.local_state()
    strangers = [word for word in (*remote, *local) if not re.match(r"[A-Z]\d+(:|$)", word)]
    assert not strangers, f"messages that nobody made: {strangers}"
    return [(_of(number, remote), _of(number, local)) for number in range(count)]


def _of(number: int, words: Iterable[str]) -> list[str]:
    own = re.compile(rf"([A-Z]){number}(:|$)")
    return sorted(own.sub(r"\1\2", word) for word in words if own.match(word))


def _name(number: int, letter: str) -> str:
    return f"{letter}{number}"
