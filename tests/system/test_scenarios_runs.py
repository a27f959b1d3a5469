# SPDX-License-Identifier: MIT
"""What a run says and how it ends: exit codes, several pairings, dry runs, hooks, the log, a corrupt state."""

from __future__ import annotations

import contextlib
import sqlite3
import stat

import pytest

from tests.support.run import Setup
from tests.system.conftest import MakeSetup


@pytest.fixture
def two(make_setup: MakeSetup) -> Setup:
    """Two pairings of one account, a message in each."""
    setup = make_setup(pairings={"one": ("one", "INBOX"), "two": ("two", "Two")})
    with setup.client() as client:
        client.create("Two")
    for name in ("one", "two"):
        setup.put_remote(f"A-{name}", pairing=name)
    return setup


# --- several pairings ---------------------------------------------------------------------------------------------


def test_all_pairings_without_a_name(two: Setup) -> None:
    two.sync(names=())
    for name in ("one", "two"):
        two.assert_both(f"A-{name}", name)
    two.sync_again_changes_nothing(names=())


def test_one_pairing_by_its_name(two: Setup) -> None:
    two.sync("two")
    two.assert_both("A-two", "two")
    assert not two.folder("one").exists()
    two.sync_again_changes_nothing("two")


def test_one_pairing_fails_and_the_other_goes_on(two: Setup) -> None:
    with two.client() as client:
        client.delete_mailbox("Two")
    two.pairings = {"two": two.pairings["two"], "one": two.pairings["one"]}
    run = two.sync("two", "one", expect=78)
    assert "two" in run.err
    two.pairings.pop("two")
    two.assert_both("A-one", "one")
    two.sync_again_changes_nothing("one")


def test_removals_stay_in_their_pairing(two: Setup) -> None:
    """Messages of two pairings share a content and a name; what goes in one stays in the other."""
    for name in ("one", "two"):
        two.put_remote("same", "S", pairing=name)
    two.sync("one", "two")
    two.remove_local("same", pairing="one")
    two.expunge_remote("A-one", pairing="one")
    two.sync("one", "two")
    two.assert_state(remote="same:ST", local="A-one:T", pairing="one")
    two.assert_both("A-two same:S", "two")
    two.sync_again_changes_nothing("one", "two")


@pytest.mark.parametrize("order", [("guarded", "missing"), ("missing", "guarded")])
def test_the_exit_code_is_the_worst(make_setup: MakeSetup, order: tuple[str, str]) -> None:
    """78 comes before 65, whatever the order."""
    pairings = {"guarded": ("guarded", "INBOX"), "missing": ("missing", "Not There")}
    setup = make_setup(pairings=pairings, settings={"safety": {"local_delete_limit": "1"}})
    setup.put_remotes(["A", "B", "C"])
    setup.sync("guarded")
    setup.remove_local("A", "B")
    run = setup.sync(*order, expect=78)
    assert "guarded" in run.err
    assert "missing" in run.err


# --- exit codes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [("--no-such-option",), ("--allow-mass-delete=0",), ("--allow-mass-delete=x",), ("--daemon", "--once")],
)
def test_wrong_command_lines(setup: Setup, options: tuple[str, ...]) -> None:
    assert setup.run(*options).code == 64


def test_unknown_pairing(setup: Setup) -> None:
    run = setup.sync(names=("nonsense",), expect=64)
    assert "nonsense" in run.err
    assert "inbox" in run.err, "the known ones are named"


def test_mistakes_in_the_configuration(setup: Setup) -> None:
    """All at once, each with section, key and the nearest known name."""
    setup.settings = {"local": {"fsnyc": "yes"}, "imap": {"port": "many"}}
    run = setup.sync(expect=78)
    assert "fsnyc" in run.err
    assert "fsync" in run.err
    assert "many" in run.err
    assert setup.sent() == []


def test_mailbox_missing(make_setup: MakeSetup) -> None:
    setup = make_setup(pairings={"x": ("x", "Not There")})
    run = setup.sync(expect=78)
    assert "Not There" in run.err


# --- dry runs -----------------------------------------------------------------------------------------------------


def test_dry_run_of_a_first_sync(setup: Setup) -> None:
    setup.put_remotes(["A", "B"])
    setup.settings["log"] = {"file": str(setup.base / "logs" / "log")}
    run = setup.sync("--dry-run")
    assert not (setup.base / "logs").exists()
    assert run.out
    assert not setup.maildir.exists()
    assert not setup.state.exists()
    assert setup.count_sent("SELECT") == 0
    assert setup.count_sent("EXAMINE") >= 1
    setup.sync()
    setup.assert_both("A B")


def test_dry_run_changes_nothing(each: Setup) -> None:
    each.put_remotes(["A", "B", "C", "D"], "S")
    each.sync()
    each.flag_remote("A", "+F")
    each.flag_local("B", "+R")
    each.remove_local("C")
    each.expunge_remote("D")
    each.put_remote("N")
    each.put_local("O")
    before, state = each.freeze(), each.state.read_bytes()
    each.forget_sent()
    run = each.sync("--dry-run")
    assert len(run.out.splitlines()) >= 6
    assert each.freeze() == before
    assert each.state.read_bytes() == state
    assert each.count_sent("SELECT") == each.count_sent("UID STORE") == each.count_sent("APPEND") == 0
    each.sync()
    each.assert_state(remote="A:FS B:RS C:ST N O", local="A:FS B:RS D:ST N O")


def test_dry_run_without_changes_says_so(setup: Setup) -> None:
    setup.put_remote("A")
    setup.sync()
    before = setup.freeze()
    setup.sync("--dry-run")
    assert setup.freeze() == before


# --- the command after local changes --------------------------------------------------------------------------------


def hooked(make_setup: MakeSetup, script: str = "echo ran >> $OUT") -> Setup:
    setup = make_setup()
    path = setup.base / "hook"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    setup.env["OUT"] = str(setup.base / "ran")
    setup.settings = {"command": {"post_sync_local_change": str(path)}}
    return setup


def times_run(setup: Setup) -> int:
    path = setup.base / "ran"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_hook_runs_after_local_changes_only(make_setup: MakeSetup) -> None:
    setup = hooked(make_setup)
    setup.put_remote("A")
    setup.sync()
    assert times_run(setup) == 1, "a download"
    setup.sync()
    assert times_run(setup) == 1, "nothing"
    setup.put_local("B")
    setup.flag_local("A", "+S")
    setup.sync()
    assert times_run(setup) == 1, "changes there only"
    setup.flag_remote("A", "+F")
    setup.sync()
    assert times_run(setup) == 2, "a flag here"
    setup.expunge_remote("A")
    setup.sync()
    assert times_run(setup) == 3, "a deletion mark here"
    setup.sync_again_changes_nothing()


def test_hook_that_fails_is_told(make_setup: MakeSetup) -> None:
    setup = hooked(make_setup, "exit 3")
    setup.put_remote("A")
    run = setup.run()
    assert "3" in run.err
    setup.assert_both("A")
    setup.sync_again_changes_nothing(expect=run.code, quiet=False)


def test_hook_is_no_shell_command(make_setup: MakeSetup) -> None:
    setup = hooked(make_setup)
    setup.settings["command"]["post_sync_local_change"] += " ; touch " + str(setup.base / "shell")
    setup.put_remote("A")
    setup.run()
    assert not (setup.base / "shell").exists()


# --- the state file and the log -------------------------------------------------------------------------------------


def test_state_and_log_are_private(setup: Setup) -> None:
    setup.put_remote("A")
    setup.sync()
    for path in [setup.state, setup.base / "log", *(file.path for file in setup.files())]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.parametrize("damage", [b"not a database at all" * 200, b"SQLite format 3\0" + b"\xff" * 5000])
def test_corrupt_state_is_kept_aside_and_rebuilt(setup: Setup, damage: bytes) -> None:
    setup.put_remotes(["A", "B"], "S")
    setup.sync()
    for path in setup.base.glob("state.db-*"):
        path.unlink()
    setup.state.write_bytes(damage)
    setup.sync(expect=74)
    assert setup.state.read_bytes() == damage
    setup.forget_sent()
    setup.sync("--yes")
    assert setup.downloads() == []
    assert setup.count_sent("APPEND") == 0
    assert damage in [path.read_bytes() for path in setup.base.glob("state.db*") if path != setup.state]
    setup.assert_both("A:S B:S")
    setup.sync_again_changes_nothing()


def test_newer_state_is_left_alone(setup: Setup) -> None:
    setup.put_remote("A")
    setup.sync()
    with contextlib.closing(sqlite3.connect(setup.state)) as state, state:
        state.execute("PRAGMA user_version = 999")
    before = setup.state.read_bytes()
    setup.sync("--yes", expect=74)
    assert setup.state.read_bytes() == before


@pytest.mark.needs("refuses empty")
def test_control_characters_never_reach_the_terminal(setup: Setup) -> None:
    """A file name and a mailbox's words are strangers' text."""
    setup.put_local(b"", name="evil\x1b[2J.1.host")
    run = setup.run("--yes", "-vv")
    assert "\x1b" not in run.err + run.out
    assert "evil" in run.err


def test_stdout_is_empty_and_passwords_are_not_in_the_trace(setup: Setup) -> None:
    setup.env["DEBUG_IMAP"] = "1"
    setup.put_remote("A")
    run = setup.sync()
    assert run.out == ""
    assert "SELECT" in run.err
    assert setup.server.password not in run.err
    assert setup.server.password not in (setup.base / "log").read_text()
