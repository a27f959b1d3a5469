# SPDX-License-Identifier: MIT
"""Hypothesis profiles, and which tests run on every supported Python."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.support.expressed"]

UNIT = Path(__file__).parent / "unit"

# No deadline anywhere: a loaded machine is no fault of the code.
_SLOW = [HealthCheck.too_slow]
settings.register_profile("dev", deadline=None, suppress_health_check=_SLOW, print_blob=True)
settings.register_profile("ci", parent=settings.get_profile("dev"), max_examples=500, database=None)
settings.register_profile("deterministic", parent=settings.get_profile("dev"), derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests run on every Python; of the slower ones those that carry the mark themselves."""
    for item in items:
        if UNIT in item.path.parents:
            item.add_marker(pytest.mark.every_python)
