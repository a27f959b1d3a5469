# SPDX-License-Identifier: MIT
"""One process a pairing: with real processes."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager

import pytest

from pushpull import locks
from pushpull.errors import EX_TEMPORARY, LocalDiskError, PairingLocked
from pushpull.locks import pair_lock

HOLD = """
import sys
from pushpull.locks import pair_lock
with pair_lock(sys.argv[1], int(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
print("released", flush=True)
sys.stdin.close()
"""


@pytest.fixture
def state(tmp_path) -> str:
    return str(tmp_path / "state")


@contextmanager
def holder(state: str, pair: int = 1):
    """Another process that holds the lock until its stdin is closed."""
    command = [sys.executable, "-c", HOLD, state, str(pair)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def refusal(state: str, pair: int = 1) -> PairingLocked:
    with pytest.raises(PairingLocked) as caught, pair_lock(state, pair):
        raise AssertionError("two hold the lock")
    return caught.value


def take(state: str, pair: int = 1) -> str:
    """The text of the lock file while it is held here."""
    with pair_lock(state, pair), open(f"{state}.{pair}.lock") as file:
        return file.read()


def test_a_second_process_is_told_who_holds_it(state):
    with holder(state) as process:
        error = refusal(state)
    assert error.pid == process.pid
    assert f"pid {process.pid}" in str(error)
    assert f"kill -USR1 {process.pid}" in error.remedy
    assert error.exit_code == EX_TEMPORARY


def test_it_is_free_when_its_holder_is_done(state):
    with holder(state) as process:
        process.stdin.close()
        assert process.stdout.readline() == "released\n"
        assert take(state) == f"{os.getpid()}\n"


def test_it_dies_with_its_holder(state):
    with holder(state) as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait(20) == -signal.SIGKILL
        assert take(state) == f"{os.getpid()}\n"


def test_two_pairings_of_one_state_do_not_wait_for_each_other(state):
    with holder(state, 1):
        assert take(state, 2) == f"{os.getpid()}\n"


def test_it_holds_within_one_process_too(state):
    with pair_lock(state, 1):
        assert refusal(state).pid == os.getpid()
    assert take(state)


def test_it_is_released_by_an_exception(state):
    with pytest.raises(ValueError, match="mishap"), pair_lock(state, 1):
        raise ValueError("mishap")
    assert take(state)


def test_a_refused_one_leaves_the_holders_number_and_lock_alone(state):
    with holder(state) as process:
        assert refusal(state).pid == refusal(state).pid == process.pid


def test_a_shorter_number_leaves_nothing_of_a_longer_one(state):
    with open(f"{state}.1.lock", "w") as file:
        file.write("123456789012345678\n")
    assert take(state) == f"{os.getpid()}\n"


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"-5", b"many\n"])
def test_a_holder_that_left_no_number(state, text):
    with open(f"{state}.1.lock", "wb") as file:
        file.write(text)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        error = refusal(state)
    assert error.pid is None
    assert str(error).isprintable()


def test_the_lock_file_is_private_and_stays(state):
    take(state)
    assert stat.S_IMODE(os.stat(f"{state}.1.lock").st_mode) == 0o600


def test_a_child_does_not_inherit_it(state):
    with pair_lock(state, 1):
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
    try:
        assert take(state)
    finally:
        child.communicate(timeout=20)


OBSTACLES = {
    "a link": lambda path: os.symlink("elsewhere", path),
    "a directory": os.mkdir,
}


@pytest.mark.parametrize("obstacle", OBSTACLES.values(), ids=OBSTACLES)
def test_what_cannot_be_opened_is_a_disk_error(state, obstacle):
    obstacle(f"{state}.1.lock")
    with pytest.raises(LocalDiskError, match="lock file"):
        take(state)


FAILING = {
    "a full disk": ("pwrite", os, errno.ENOSPC),
    "a full disk that cannot cut a file": ("ftruncate", os, errno.EIO),
    "a file system without locks": ("flock", fcntl, errno.ENOLCK),
}


@pytest.mark.parametrize(("name", "module", "number"), FAILING.values(), ids=FAILING)
def test_a_disk_that_fails_is_a_disk_error(state, monkeypatch, name, module, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    assert getattr(locks, module.__name__) is module
    monkeypatch.setattr(module, name, fail)
    with pytest.raises(LocalDiskError, match="lock file"):
        take(state)
