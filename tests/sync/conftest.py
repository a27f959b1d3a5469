# SPDX-License-Identifier: MIT
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.memory import memory_directory
from tests.sync.actors import Story


@pytest.fixture
def story(tmp_path) -> Story:
    return Story(tmp_path)


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """For thousands of state files, none of them for long."""
    with memory_directory() as path:
        yield path
