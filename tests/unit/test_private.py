# SPDX-License-Identifier: MIT
"""Files are their user's alone, whatever the umask, and whatever another user of the machine put in their place."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushpull import cli, private
from pushpull.daemonize import PidFile
from pushpull.errors import LocalDiskError
from pushpull.locks import pair_lock
from pushpull.maildir import Maildir
from pushpull.model import Marker
from pushpull.output import Output
from pushpull.ports import Delivery
from pushpull.staging import HELD
from pushpull.store import Store, keep_corrupt_aside

ROOT = Path(__file__).resolve().parents[2]
WIRE = b"Subject: s\r\n\r\nbody\r\n"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory as /tmp is."""
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o1777)
    return directory


@pytest.fixture
def as_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there already belongs to another user than the one who runs the program."""
    monkeypatch.setattr(private.os, "geteuid", lambda: os.getuid() + 1)


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o277, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """One that a user may have, after the program was started with it."""
    before = os.umask(request.param)
    cores = resource.getrlimit(resource.RLIMIT_CORE)
    try:
        cli._keep_private()
        yield request.param
    finally:
        os.umask(before)
        resource.setrlimit(resource.RLIMIT_CORE, cores)


# --- permissions ---------------------------------------------------------------------------------------------


def test_all_that_is_made_is_private(umask: int, tmp_path: Path) -> None:
    base = tmp_path / "above" / "base"
    state = str(base / "state")
    store = Store.open(state)
    output = Output(-1, stderr=None)
    output.open_log(str(tmp_path / "logs" / "of" / "log"), "info")
    local = Maildir(str(tmp_path / "mail" / "folder"), buckets=True)
    local.create()
    local.write_marker(Marker("id", 1, 1))
    local.deliver([Delivery(local.stage([WIRE], 0.0), 0)])
    local.stage([b"x" * (HELD + 1)], 0.0)
    with pair_lock(state, 1):
        files = {path.name: oct(mode(path)) for path in tmp_path.rglob("*") if path.is_file()}
        directories = {path: oct(mode(path)) for path in tmp_path.rglob("*") if path.is_dir()}
        store.close()
    output.close()
    assert {"state", "state-wal", "state-shm", "state.sound", "state.1.lock", "log", ".pushpull"} <= files.keys()
    assert len(files) == 9  # and a message in new/, and one in tmp/
    assert set(files.values()) == {oct(0o600)}
    assert len(directories) == 13  # above/base, logs/of, mail/folder with tmp, new, cur and a bucket of three
    assert set(directories.values()) == {oct(0o700)}


def test_the_pid_file_follows_the_umask_of_the_daemon(tmp_path: Path) -> None:
    for umask, expected in ((0o077, 0o600), (0o027, 0o640), (0o000, 0o644)):
        before = os.umask(umask)
        try:
            with PidFile(str(tmp_path / "pid")):
                assert mode(tmp_path / "pid") == expected
        finally:
            os.umask(before)


def test_a_restored_state_loses_what_permissions_others_got(tmp_path: Path) -> None:
    path = tmp_path / "state"
    Store.open(str(path)).close()
    path.chmod(0o644)
    second = Store.open(str(path))
    second.db.execute("INSERT INTO meta VALUES ('written', '')")
    third = Store.open(str(path))  # whose start gave no lock of the second away
    assert [mode(tmp_path / name) for name in ("state", "state-wal", "state-shm")] == [0o600] * 3
    second.db.execute("BEGIN IMMEDIATE")
    busy = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
    again = Store.open(str(path))
    done = subprocess.run([sys.executable, "-c", busy, str(path)], capture_output=True, text=True, check=False)
    assert "database is locked" in done.stderr
    for store in (second, third, again):
        store.db.close()


def test_a_corrupt_state_is_kept_private_and_over_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for content in ("one", "two", "three"):
        path.write_text(content)
        path.chmod(0o644)
        keep_corrupt_aside(str(path), "x")
    kept = {found.name: found.read_text() for found in tmp_path.iterdir()}
    assert kept == {"state.corrupt-x": "one", "state.corrupt-x-2": "two", "state.corrupt-x-3": "three"}
    assert {mode(found) for found in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize(("bits", "warned"), [(0o600, False), (0o644, False), (0o620, True), (0o602, True)])
def test_a_configuration_that_others_can_change_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bits: int, warned: bool
) -> None:
    conf = tmp_path / "conf"
    conf.write_text(
        "[local]\nstate = s\nmaildir = m\n[imap]\nhost = h\nlogin_username = u\n[pairing P]\nlocal = l\nremote = r\n"
    )
    conf.chmod(bits)
    cli.load(str(conf), Output())
    told = f"pushpull: warning: {conf} can be changed by others, who then act as you; chmod go-w mends that\n"
    assert capsys.readouterr().err == (told if warned else "")


def test_there_is_no_core_dump() -> None:
    code = (
        "import resource, sys; from pushpull import cli; cli.main(['--version']);"
        " sys.exit(resource.getrlimit(resource.RLIMIT_CORE)[0])"
    )

    def allow() -> None:
        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False, preexec_fn=allow)
    assert done.returncode == 0


# --- what others put in the place of a file ------------------------------------------------------------------


def logged(path: Path) -> None:
    output = Output(-1, stderr=None)
    try:
        output.open_log(str(path), "info")
        output.line(40, "a line")
    finally:
        output.close()


def test_a_log_in_a_shared_directory_is_no_link(shared: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine\n")
    for plant in ("symlink_to", "hardlink_to"):
        getattr(shared / "log", plant)(victim)
        with pytest.raises(LocalDiskError, match="cannot be opened"):
            logged(shared / "log")
        (shared / "log").unlink()
    assert victim.read_text() == "mine\n"
    logged(shared / "log")
    assert "a line" in (shared / "log").read_text()


@pytest.mark.usefixtures("as_another")
def test_a_log_that_another_user_laid_out_is_not_written_to(shared: Path) -> None:
    (shared / "log").touch()
    with pytest.raises(LocalDiskError, match="not a file of its user's own"):
        logged(shared / "log")
    assert (shared / "log").read_text() == ""


def test_a_directory_of_another_user_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    assert not private._is_shared(str(tmp_path))
    real = os.stat
    changed = os.stat_result([*real(tmp_path)[:4], os.getuid() + 1, *real(tmp_path)[5:10]])
    monkeypatch.setattr(private.os, "stat", lambda path: changed if path == str(tmp_path) else real(path))
    assert private._is_shared(str(tmp_path))


def test_a_log_in_a_directory_of_ones_own_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    logged(tmp_path / "log")
    assert "a line" in (tmp_path / "elsewhere").read_text()


def test_a_pipe_in_the_place_of_the_log_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    with pytest.raises(LocalDiskError, match="cannot be opened"):
        logged(tmp_path / "log")


def test_a_state_in_a_directory_that_everybody_can_write_to_is_refused(shared: Path) -> None:
    with pytest.raises(LocalDiskError, match="everybody can write to its directory") as caught:
        Store.open(str(shared / "state"))
    assert str(shared) in caught.value.remedy
    assert list(shared.iterdir()) == []
    (shared / "below").mkdir()
    Store.open(str(shared / "below" / "state")).close()


@pytest.mark.parametrize("tail", ["-wal", "-shm", "-journal"])
def test_no_link_beside_the_state_is_followed(tmp_path: Path, tail: str) -> None:
    Store.open(str(tmp_path / "state")).close()
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / f"state{tail}").symlink_to(victim)
    try:
        store = Store.open(str(tmp_path / "state"))
        store.db.execute("INSERT INTO meta VALUES ('written', '')")
        store.db.close()
    except LocalDiskError:
        pass
    assert victim.read_bytes() == b"mine"


@pytest.mark.parametrize("plant", ["symlink", "pipe"])
def test_lock_and_pid_file_follow_no_link_and_wait_for_no_pipe(shared: Path, tmp_path: Path, plant: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("state.1.lock", "pid", f"pid.{os.getpid()}"):
        if plant == "symlink":
            (shared / name).symlink_to(victim)
        else:
            os.mkfifo(shared / name)
    with pytest.raises(LocalDiskError, match="lock file"), pair_lock(str(shared / "state"), 1):
        pass
    with PidFile(str(shared / "pid")):
        assert (shared / "pid").read_text() == f"{os.getpid()}\n"
        assert not (shared / "pid").is_symlink()
    assert victim.read_text() == "mine"
