# SPDX-License-Identifier: MIT
"""Waiting for a condition with a deadline; tests never sleep for a guessed time."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(
    condition: Callable[[], object],
    *,
    what: str,
    seconds: float = 20.0,
    detail: Callable[[], str] | None = None,
) -> None:
    """Look again and again until `condition()` is true; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    gap = 0.002
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain for {what}\n{detail() if detail else ''}")
        time.sleep(gap)
        gap = min(gap * 1.5, 0.1)
