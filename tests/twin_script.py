# SPDX-License-Identifier: MIT
"""What goes wrong when: the steps of a run, and time that passes only when somebody waits."""

from __future__ import annotations

from collections.abc import Callable


class Killed(BaseException):
    """The process is dead: nothing that it still runs has any effect."""


class Mute(Exception):
    """The server gives no usable answer to a question that may stay unanswered (`uids`, `status`)."""


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        assert 0 <= seconds < 3600
        self.now += seconds


class Script:
    """The steps of a run, numbered from 0; `events` run when their step is reached. `changes` are the effects that the
    program had on either side."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.events: dict[int, Callable[[str], None]] = {}
        self.changes: list[str] = []
        self.dead = False

    def step(self, name: str) -> None:
        """One point of the run, such as "remote.append<" (before its effect) or "local.deliver>" (after it)."""
        if self.dead:
            raise Killed
        number = len(self.steps)
        self.steps.append(name)
        event = self.events.get(number)
        if event is not None:
            event(name)

    def kill(self, _name: str = "") -> None:
        self.dead = True
        raise Killed
