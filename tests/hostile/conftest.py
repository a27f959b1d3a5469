# SPDX-License-Identifier: MIT
"""One honest run for all tests; each gets a copy of what it left, and a server of its own.

A sixteenth of the tests runs by default, the same each time; PUSHPULL_HOSTILE=all (`contrib/test --all`) runs them all.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.hostile import Hostile
from tests.support.victim import Victim, copied, equal_sides, fill, victim_of

MakeVictim = Callable[..., Victim]
HERE = Path(__file__).parent
SHARE = 16


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test that is named on the command line runs in any case."""
    if os.environ.get("PUSHPULL_HOSTILE") == "all" or any("::" in argument for argument in config.args):
        return
    others = [item for item in items if HERE in item.path.parents and zlib.crc32(item.name.encode()) % SHARE]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


@pytest.fixture(scope="session")
def synchronised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("honest")
    with Hostile() as server:
        fill(server)
        victim = victim_of(server, base)
        run = victim.run()
        assert run.code == 0, run
        equal_sides(victim)
    return base


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    with Hostile() as server:
        fill(server)
        yield server


@pytest.fixture
def make_victim(hostile: Hostile, synchronised: Path, tmp_path: Path) -> MakeVictim:
    return lambda **settings: copied(hostile, synchronised, tmp_path / "victim", **settings)


@pytest.fixture
def victim(make_victim: MakeVictim) -> Victim:
    """As the honest run left it; what it asks next is answered by `hostile`."""
    return make_victim()
