# SPDX-License-Identifier: MIT
"""Disks that are full, read-only, broken in the middle of a directory, or not ours to write on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support import strace
from tests.support.forks import Forks
from tests.support.patched import patched
from tests.support.run import Run, Setup
from tests.support.scenes import SCENES, Scene, Stage
from tests.support.small_disk import SmallDisk, may_mount, mounted
from tests.support.work import with_work
from tests.system.conftest import MakeSetup

KIB = 1024
BY_NAME = {scene.name: scene for scene in SCENES}
DROPPED = "-dac_override,-dac_read_search"


@contextmanager
def on_stage(make_setup: MakeSetup, scene: Scene) -> Iterator[tuple[Stage, SmallDisk | None]]:
    """The scene with all its files on a small disk, where one may be mounted."""
    setup = make_setup(strategy=scene.strategy, settings=scene.settings, env=dict(strace.ENVIRONMENT))
    with ExitStack() as held:
        disk = held.enter_context(mounted(setup.base)) if may_mount() else None
        setup.write_config()
        setup.forks = held.enter_context(Forks(setup))
        yield Stage(setup, scene), disk


def told(run: Run) -> None:
    """Of a disk that is full, if of anything; never a traceback."""
    assert run.code in (0, 74), run
    assert "Traceback" not in run.err, run
    assert run.code == 0 or "space" in run.err or "full" in run.err or "disk" in run.err, run


@pytest.mark.parametrize("name", ["downloads", "deletions"])
def test_a_disk_that_fills_up(make_setup: MakeSetup, name: str) -> None:
    """State, log and Maildir on a disk with a little more room each time: what fits is done, the rest waits."""
    scene = BY_NAME[name]
    with on_stage(make_setup, scene) as (stage, disk):
        codes = []
        if disk:
            for room in (0, 4, 24, 64, 144, 2000):
                setup = stage.reset()
                with disk.filled(room * KIB):
                    run = setup.run(*scene.args)
                told(run)
                codes.append(run.code)
                stage.assert_finished(*scene.args)
        else:
            strace.record(stage.reset(), *scene.args)
            _, calls = strace.record(stage.reset(), *scene.args)
            writes = [call for call in calls if call.name == "pwrite64"]
            for call in [*writes[:: len(writes) // 8], writes[-1]]:
                run = strace.fail_at(stage.reset(), call, "ENOSPC", *scene.args, on=True).run
                told(run)
                codes.append(run.code)
                stage.assert_finished(*scene.args)
        assert {0, 74} == set(codes), codes


def test_a_disk_that_is_read_only(make_setup: MakeSetup) -> None:
    """The whole disk; nothing is sent to the server that changes it."""
    with on_stage(make_setup, BY_NAME["deletions"]) as (stage, disk):
        setup = stage.reset()
        before = setup.freeze()
        with disk.read_only() if disk else denied([setup.base], 0o500):
            run = setup.run()
        assert run.code in (74, 78), run
        assert "Read-only file system" in run.err or "Permission denied" in run.err, run
        assert "Traceback" not in run.err
        assert setup.freeze() == before
        stage.assert_finished()


# --- permissions --------------------------------------------------------------------------------------------------


def as_an_owner() -> tuple[str, ...]:
    """Root is above permissions but for what it gave up."""
    return ("setpriv", f"--bounding-set={DROPPED}", "--inh-caps=-all") if os.getuid() == 0 else ()


@contextmanager
def denied(paths: Sequence[Path], mode: int) -> Iterator[None]:
    """Within, the paths have that mode."""
    before = [path.stat().st_mode for path in paths]
    for path in paths:
        path.chmod(mode)
    try:
        yield
    finally:
        for path, old in zip(paths, before, strict=True):
            path.chmod(old)


WORK = Scene("work", with_work, "A:FS B:RS C:ST N:F O:S", "A:FS B:RS D:ST N:F O:S")
DENIED = (
    ("cur", 0o000),
    ("cur", 0o300),  # may be entered, not listed
    ("cur", 0o500),  # may be listed, not changed
    ("cur", 0o600),  # may be listed, not entered
    ("new", 0o000),
    ("tmp", 0o000),
    ("tmp", 0o500),
    (".", 0o000),
    (".", 0o500),
)


def run_as_an_owner(setup: Setup) -> Run:
    setup.tracer = as_an_owner()
    try:
        return setup.run()
    finally:
        setup.tracer = ()


def test_permissions_bind_here(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0)
    done = subprocess.run([*as_an_owner(), "cat", str(secret)], capture_output=True, text=True, check=False)
    assert "Permission denied" in done.stderr


def test_a_directory_that_is_denied(make_setup: MakeSetup) -> None:
    """The pairing stops and says why; nothing is marked, and with the right again all goes on."""
    with on_stage(make_setup, WORK) as (stage, _):
        for directory, mode in DENIED:
            setup = stage.reset()
            with denied([setup.maildir / directory], mode):
                run = run_as_an_owner(setup)
            assert run.code in (0, 74), run
            assert "Traceback" not in run.err, run
            assert run.code == 0 or "Permission denied" in run.err, run
            marked = [word for word in setup.remote_state() if word.endswith("T")]
            assert set(marked) <= {"C:ST"}, f"{directory} {mode:o}: {marked}"
            stage.assert_finished()


def test_a_file_that_is_denied(make_setup: MakeSetup) -> None:
    """A known one has flags, which need no reading; a new one waits. The others go on."""
    with on_stage(make_setup, WORK) as (stage, _):
        for name in ("A", "B", "O"):
            setup = stage.reset()
            for file in setup.named(name):
                file.path.chmod(0o000)
            run = run_as_an_owner(setup)
            assert run.code in (0, 75), run
            assert ("Permission denied" in run.err) == (name == "O"), run
            remote = setup.remote_state()
            assert {"A:FS", "B:RS", "C:ST", "N:F"} <= set(remote)
            assert ("O:S" in remote) == (name != "O")
            for file in setup.named(name):
                file.path.chmod(0o600)
            stage.assert_finished()


# --- a disk that breaks in the middle ---------------------------------------------------------------------------------


def test_a_directory_that_breaks_off_in_the_middle(make_setup: MakeSetup) -> None:
    """A read of a listing fails once: the pairing stops, and no file counts as gone."""
    scene = BY_NAME["deletions"]
    with on_stage(make_setup, scene) as (stage, _):
        setup = stage.reset()
        strace.record(setup, also=("getdents64",))
        _, calls = strace.record(stage.reset(), also=("getdents64",))
        listings = [call for call in calls if call.name == "getdents64"]
        assert len(listings) >= 8
        for call in listings[::3]:
            setup = stage.reset()
            before = setup.remote()
            injected = strace.fail_at(setup, call, "EIO")
            assert injected.where, call
            assert injected.run.code == 74, injected.run
            assert "Input/output error" in injected.run.err
            assert {uid: message.flags for uid, message in setup.remote().items()} == {
                uid: message.flags for uid, message in before.items()
            }
            stage.assert_finished()


# strace counts reads of the socket too, of which there are now more, now fewer.
_BAD_SECTOR = """
import errno, os, re
real, reads = os.read, 0
def read(fd, size):
    global reads
    if re.search("/(cur|new)/", os.readlink(f"/proc/self/fd/{{fd}}")):
        reads += 1
        with open("{count}", "w") as count:
            count.write(str(reads))
        if reads == {bad}:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
    return real(fd, size)
os.read = read
"""


def test_a_file_that_breaks_off_in_the_middle(make_setup: MakeSetup) -> None:
    """A bad sector is the file's fault: it waits, the others go up, and no half of it."""
    setup = make_setup()
    stage = Stage(setup, BY_NAME["uploads"])
    count = setup.base / "reads"
    setup.program = patched(_BAD_SECTOR.format(count=count, bad=0))
    stage.reset().sync(*stage.scene.args)
    reads = int(count.read_text())
    assert reads >= 6
    for number in (1, reads - 1):  # to know it, and to send it
        setup.program = patched(_BAD_SECTOR.format(count=count, bad=number))
        run = stage.reset().run(*stage.scene.args)
        assert run.code in (0, 75), run
        assert "Input/output error" in run.err, run
        words = setup.remote_state()
        assert set(words) <= {"A:S", "O:S", "P", "Q:FR"}
        assert len(words) >= 3
        setup.assert_state(local="A:S O:S P Q:FR")
