# SPDX-License-Identifier: MIT
"""SIGKILL at the effects of a run: commits, renames, deliveries, commands sent. Nothing may be lost or doubled.

Every run here has all kinds of work to do. A sample of its effects is tried; `PUSHPULL_KILLS=all` tries every one.
"""

from __future__ import annotations

import os
import random
import signal

import pytest

from tests.support.run import ROOT, Setup
from tests.system.conftest import MakeSetup

KILLER = str(ROOT / "tests" / "support" / "killer.py")
EFFECTS = 200  # more than there are; kills beyond the last effect let the run end
WANTED = os.environ.get("PUSHPULL_KILLS", "12")
SAMPLE = range(1, EFFECTS + 1) if WANTED == "all" else random.Random(20261122).sample(range(1, 161), int(WANTED))


def with_work(setup: Setup) -> None:
    """Both sides were synchronised once, and every kind of change waits."""
    setup.put_remotes(["A", "B", "C", "D", "E", "F", "U", "V"], "S")
    setup.sync()
    setup.remove_local("U")
    setup.expunge_remote("V")
    setup.sync()
    # Flags both ways, a removal, an expunge, two undeletions, new messages both ways.
    setup.flag_remote("A", "+R")
    setup.flag_local("A", "+P")
    setup.flag_remote("B", "-S")
    setup.flag_local("B", "+R")
    setup.remove_local("C")
    setup.flag_local("D", "-S")
    setup.expunge_remote("E")
    for flag in (setup.flag_remote, setup.flag_local):
        flag("F", "+F")
    setup.flag_remote("U", "-T")
    setup.flag_local("V", "-T")
    for name, letters in (("N1", "S"), ("N2", ""), ("N3", "F")):
        setup.put_remote(name, letters)
    for name, letters in (("O1", "S"), ("O2", ""), ("O3", "F")):
        setup.put_local(name, letters)


DONE_REMOTE = "A:PRS B:R C:ST D F:FS U:S V:S N1:S N2 N3:F O1:S O2 O3:F"
DONE_LOCAL = "A:PRS B:R D E:ST F:FS U:S V:S N1:S N2 N3:F O1:S O2 O3:F"


def kill_at(setup: Setup, effect: int, *args: str) -> str:
    """A run that is killed at an effect; what it was doing, "" when it came to its end before."""
    log = setup.base / "effects"
    setup.program = (KILLER, str(effect), str(log))
    run = setup.run(*args)
    setup.program = ("-m", "pushpull")
    if run.code == 0:
        return ""
    assert run.code == -signal.SIGKILL, run
    return log.read_text().splitlines()[-1]


def test_the_killer_sees_the_effects(setup: Setup) -> None:
    """The sample must reach to the end, and there is each kind of effect."""
    with_work(setup)
    assert kill_at(setup, 0) == ""
    effects = (setup.base / "effects").read_text().splitlines()
    assert len(effects) <= EFFECTS
    assert len(effects) >= 100, "the sample is drawn from the first 160"
    for word in ("COMMIT", "rename", "APPEND", "STORE", "fsync"):
        assert any(word in effect for effect in effects), word
    setup.assert_state(remote=DONE_REMOTE, local=DONE_LOCAL)
    setup.sync_again_changes_nothing()


@pytest.mark.parametrize("effect", sorted(SAMPLE))
def test_killed_in_the_midst_of_all_kinds_of_work(make_setup: MakeSetup, effect: int) -> None:
    strategy = ("qresync", "condstore", "plain")[effect % 3]
    setup = make_setup(strategy=strategy)
    with_work(setup)
    where = kill_at(setup, effect)
    try:
        setup.sync()
        setup.assert_state(remote=DONE_REMOTE, local=DONE_LOCAL)
        setup.sync_again_changes_nothing()
    except AssertionError as error:
        raise AssertionError(f"killed {where or 'nowhere'}: {error}") from error


@pytest.mark.parametrize("effect", random.Random(7).sample(range(1, 80), 5))
def test_killed_in_the_first_run(make_setup: MakeSetup, effect: int) -> None:
    """Also in the midst of making the state file, the folder and the marker."""
    setup = make_setup()
    setup.put_remotes([f"M{number}" for number in range(30)], "S")
    where = kill_at(setup, effect)
    try:
        setup.sync("--yes")
        assert len(setup.assert_equal_sides()) == 30
        setup.sync_again_changes_nothing()
    except AssertionError as error:
        raise AssertionError(f"killed {where or 'nowhere'}: {error}") from error


@pytest.mark.parametrize("effect", random.Random(8).sample(range(1, 60), 3))
def test_killed_while_matching_again(make_setup: MakeSetup, effect: int) -> None:
    """A UIDVALIDITY change is half worked off."""
    setup = make_setup()
    setup.put_remotes([f"M{number}" for number in range(20)], "S")
    setup.sync()
    setup.flag_local("M1", "+F")
    setup.remove_local("M2")
    setup.put_local("new")
    setup.server.doveadm("mailbox", "update", "-u", setup.user, "--uid-validity", "777", "INBOX")
    where = kill_at(setup, effect)
    try:
        setup.sync()
        found = ["M1:FS", "new", *(f"M{number}:S" for number in range(20) if number not in (1, 2))]
        setup.assert_state(remote=" ".join([*found, "M2:ST"]), local=" ".join(found))
        setup.sync_again_changes_nothing()
    except AssertionError as error:
        raise AssertionError(f"killed {where or 'nowhere'}: {error}") from error


def test_killed_again_and_again(setup: Setup) -> None:
    """Each run gets a little further than the one before; what was done stays done."""
    setup.put_remotes([f"M{number}" for number in range(60)], "S")
    for effect in (20, 35, 50, 65, 80):
        kill_at(setup, effect, "--yes")
    setup.sync("--yes")
    assert len(setup.assert_equal_sides()) == 60
    setup.sync_again_changes_nothing()
