# SPDX-License-Identifier: MIT
"""Whose turn it is, of the pairings that are due."""

from __future__ import annotations

import pytest

from pushpull.worker import next_turn

FRESH, RESUMED = False, True


@pytest.mark.parametrize(
    ("due", "last", "turn"),
    [
        ({}, "a", None),
        ({"a": FRESH}, "a", "a"),
        ({"a": RESUMED}, "a", "a"),
        ({"a": FRESH, "b": FRESH}, "", "a"),
        ({"a": FRESH, "b": FRESH}, "a", "b"),  # "a" has a download under way, whose files are news
        ({"a": RESUMED, "b": FRESH}, "a", "b"),
        ({"a": RESUMED, "b": FRESH}, "c", "b"),
        ({"a": RESUMED, "b": FRESH}, "b", "a"),  # news without an end hold nobody up
        ({"a": RESUMED, "b": RESUMED}, "a", "b"),
        ({"a": RESUMED, "b": RESUMED, "c": FRESH}, "a", "c"),
    ],
)
def test_turns(due, last, turn):
    assert next_turn(due, last) == turn
