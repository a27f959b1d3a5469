# SPDX-License-Identifier: MIT
"""The link cut at each line of the conversation, and in the midst of it, both ways of cutting, in both directions.

After each cut one run brings both sides together, and a second changes nothing. A seeded sample is tried;
`PUSHPULL_CUTS=all` (`contrib/test --all`) tries every place.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.cutting import ALL_KINDS, HASTE, Point, cut_once, points
from tests.support.forks import Forks
from tests.support.proxy import Proxy
from tests.support.rules import Traffic
from tests.support.run import STRATEGIES
from tests.support.scenes import SCENES, Scene, Stage
from tests.system.conftest import MakeSetup

ALL = os.environ.get("PUSHPULL_CUTS") == "all"
CUTS = 4  # of each scene
SEED = 20261127
APART = 101
# All kinds of work at once in each way to observe a mailbox.
CASES = [*SCENES, *(replace(ALL_KINDS, name=f"all-{strategy}", strategy=strategy) for strategy in STRATEGIES)]


@pytest.fixture(params=CASES, ids=lambda scene: scene.name)
def stage(request: pytest.FixtureRequest, make_setup: MakeSetup, proxy: Proxy) -> Iterator[Stage]:
    scene: Scene = request.param
    setup = make_setup(strategy=scene.strategy, settings=scene.settings, port=proxy.port)
    with Forks(setup, HASTE) as setup.forks:
        yield Stage(setup, scene)


def recorded(stage: Stage, proxy: Proxy) -> Traffic:
    """What passes in a run that nobody disturbs."""
    proxy.forget()
    stage.reset().sync(*stage.scene.args)
    traffic = proxy.traffic
    proxy.forget()
    stage.assert_finished(*stage.scene.args)
    return traffic


def drawn(stage: Stage, traffic: Traffic) -> list[Point]:
    """All places, or a sample that is the same each time."""
    everything = list(points(traffic, apart=APART))
    if ALL:
        return everything
    return random.Random(f"{SEED} {stage.scene.name}").sample(everything, CUTS)


@pytest.mark.timeout(7200)
def test_cut_at_any_line(stage: Stage, proxy: Proxy) -> None:
    places = drawn(stage, recorded(stage, proxy))
    came, failures = 0, []
    for place in places:
        try:
            came += cut_once(stage, proxy, place)
        except AssertionError as error:
            failures.append(str(error))
    print(f"{stage.scene.name}: {came} cuts at {len(places)} places")
    assert not failures, "\n\n".join([f"{len(failures)} of {len(places)}", *failures])
    assert came >= 0.8 * len(places), f"{len(places)} places of another conversation, {came} reached"
