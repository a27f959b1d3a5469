# SPDX-License-Identifier: MIT
"""The state file is damaged, lost, or not what it was: told, kept aside, and rebuilt only when the user says so.

How each kind of damage is recognised: tests/unit/test_store_damage.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import strace
from tests.support.damage import CORRUPT
from tests.support.forks import Forks
from tests.support.run import Setup
from tests.support.scenes import SCENES, Scene, Stage
from tests.system.conftest import MakeSetup

WORDS = "A:S B:F C D:R"


def _synced(setup: Setup) -> None:
    for name, letters in (("A", "S"), ("B", "F")):
        setup.put_remote(name, letters)
    for name, letters in (("C", ""), ("D", "R")):
        setup.put_local(name, letters)
    setup.sync("--yes")


SYNCED = Scene("synced", _synced, WORDS, WORDS)


@pytest.fixture
def stage(make_setup: MakeSetup) -> Iterator[Stage]:
    setup = make_setup(env=dict(strace.ENVIRONMENT))
    with Forks(setup) as setup.forks:
        yield Stage(setup, SYNCED)


def assert_refused(setup: Setup, *args: str, words: str) -> None:
    """The run says why, and changed nothing: neither the file nor a side."""
    before, state = setup.freeze(), setup.state.read_bytes()
    run = setup.sync(*args, expect=74)
    assert words in run.err, run
    assert setup.state.read_bytes() == state
    assert setup.freeze() == before
    assert setup.sent() == []


def assert_rebuilt(setup: Setup) -> None:
    """Both sides were compared; no message was moved for that, and none was marked."""
    setup.forget_sent()
    setup.sync("--yes")
    assert setup.downloads() == []
    assert setup.count_sent("APPEND") == setup.count_sent("UID STORE") == 0
    setup.assert_both(WORDS)
    setup.sync_again_changes_nothing()


def test_damage_is_told_and_kept_aside(stage: Stage) -> None:
    for what, damage in CORRUPT.items():
        setup = stage.reset()
        for path in setup.base.glob("state.db.corrupt-*"):
            path.unlink()
        damage(setup.state)
        damaged = setup.state.read_bytes()
        try:
            assert_refused(setup, words="--yes")
            assert_rebuilt(setup)
            assert [path.read_bytes() for path in setup.base.glob("state.db.corrupt-*")] == [damaged]
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}") from error


def test_an_empty_file_is_a_lost_state(stage: Stage) -> None:
    """Asked, as at the first synchronisation of a folder with mail in it."""
    setup = stage.reset()
    setup.state.write_bytes(b"")
    before = setup.freeze()
    assert "--yes" in setup.sync(expect=65).err
    assert setup.freeze() == before
    assert_rebuilt(setup)


def test_a_directory_in_its_place(stage: Stage) -> None:
    """Not ours to move, whatever was answered."""
    setup = stage.reset()
    setup.state.unlink()
    setup.state.mkdir()
    before = setup.freeze()
    for args in ((), ("--yes",)):
        run = setup.sync(*args, expect=74)
        assert str(setup.state) in run.err
    assert setup.freeze() == before
    assert list(setup.state.iterdir()) == []
    setup.state.rmdir()


@pytest.mark.parametrize("damage", ["lost", "garbage", "cut"])
def test_the_log_of_a_killed_run(make_setup: MakeSetup, damage: str) -> None:
    """What was committed is in the log alone until the end of the run. Without it the state is an older copy."""
    setup = make_setup(env=dict(strace.ENVIRONMENT))
    stage = Stage(setup, SCENES[2])  # uploads
    strace.record(setup)
    _, calls = strace.record(stage.reset())
    checkpoint = next(call for call in calls if call.name == "pwrite64" and "state.db>" in call.text)
    assert strace.kill_at(stage.reset(), checkpoint).where
    log = Path(f"{setup.state}-wal")
    assert log.stat().st_size > 10_000
    if damage == "lost":
        log.unlink()
    elif damage == "garbage":
        log.write_bytes(b"\xa5" * log.stat().st_size)
    else:
        log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])
    stage.assert_finished()
