# SPDX-License-Identifier: MIT
"""When to try again. The unit of a retry is a whole attempt with a new session: what was done is in the state, so a
fresh observation and a fresh plan decide, and no single command is ever replayed.

tenacity is imported when something failed: with asyncio in its train it takes long, and most runs do without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pushpull.errors import CommandFailed, PairingLocked, Restless, Temporary

if TYPE_CHECKING:
    from tenacity import RetryCallState

ATTEMPTS = 3
SECONDS = 60.0
LONGEST_GAP = 16.0

T = TypeVar("T")


def passes_by_itself(error: BaseException) -> bool:
    """Whether trying again soon may help. A failed password command would only ask its owner again; a lock is held by
    another pushpull that does the work.
    """
    return isinstance(error, Temporary) and not isinstance(error, CommandFailed | PairingLocked)


class Patience:
    """A one-shot run's patience: three attempts and 60 seconds (two attempts at least), counted from the last progress.

    `progress` returns a value that differs whenever something was achieved since; `pause` waits so many seconds and
    raises when the program is to stop (an exception from there ends the retrying at once).
    """

    def __init__(
        self,
        progress: Callable[[], object],
        *,
        attempts: int = ATTEMPTS,
        clock: Callable[[], float],
        pause: Callable[[float], None],
        tell: Callable[[BaseException, float], None],
    ) -> None:
        self._progress, self._clock, self._tell = progress, clock, tell
        self._seen = progress()
        self._since = clock()
        self._attempts = 0
        self._allowed, self._pause = attempts, pause

    def __call__(self, attempt: Callable[[], T]) -> T:
        """Run it until it succeeds or patience ends; then its last error is raised."""
        try:
            return attempt()
        except Temporary as error:
            failures = [error]
        from tenacity import Retrying, retry_if_exception

        def again() -> T:
            if failures:
                raise failures.pop()
            return attempt()

        retrying = Retrying(
            retry=retry_if_exception(passes_by_itself),
            stop=self._exhausted,
            wait=self._gap,
            sleep=self._pause,
            before_sleep=self._announce,
            reraise=True,
        )
        return retrying(again)

    def _exhausted(self, _state: RetryCallState) -> bool:
        patient = self._attempts < 2 or self._clock() - self._since < SECONDS  # one stall may last a minute
        return self._attempts >= self._allowed or not patient

    def _gap(self, state: RetryCallState) -> float:
        """Jittered exponential: programs that were cut off together do not come back together. Asked before
        `_exhausted`, so the failed attempt is counted here.
        """
        seen = self._progress()
        restless = state.outcome is not None and isinstance(state.outcome.exception(), Restless)
        if seen != self._seen and not restless:
            self._seen, self._since, self._attempts = seen, self._clock(), 0
        else:
            self._attempts += 1
        import random

        longest = min(2.0**self._attempts, LONGEST_GAP)
        return random.uniform(longest / 2, longest)  # noqa: S311 - jitter is no secret

    def _announce(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if error is not None:
            self._tell(error, state.upcoming_sleep)
