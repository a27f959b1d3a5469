# SPDX-License-Identifier: MIT
from __future__ import annotations

import pytest

from tests.sync.actors import Story


@pytest.fixture
def story(tmp_path) -> Story:
    return Story(tmp_path)
