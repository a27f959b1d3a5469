# SPDX-License-Identifier: MIT
"""One server for all histories of a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.model.place import Place
from tests.model.story import Story
from tests.model.world import World

MakeStory = Callable[..., Story]


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    with Place() as there:
        yield there


@pytest.fixture
def make_story(place: Place) -> Iterator[MakeStory]:
    """`make_story(local={"buckets": "yes"}, imap={...})`: nothing on either side yet; lines of the configuration."""
    with ExitStack() as opened:
        yield lambda **settings: Story(opened.enter_context(World(place, settings)))


@pytest.fixture
def story(make_story: MakeStory) -> Story:
    return make_story()
