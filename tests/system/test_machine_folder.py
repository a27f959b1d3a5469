# SPDX-License-Identifier: MIT
"""Folders that are large, hold the longest names, or are worked on by another program all the while."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.dovecot import mail_ids
from tests.support.live import Live
from tests.support.messages import mail
from tests.support.patched import patched
from tests.support.run import ROOT, Setup
from tests.support.waiting import wait_for

READER = str(ROOT / "tests" / "support" / "busy_reader.py")
LARGE = 100_000 if os.environ.get("PUSHPULL_LARGE") == "all" else 1_000
MEMORY = """
import atexit, resource

def tell():
    with open("memory", "w") as file:
        file.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))

atexit.register(tell)
"""

# --- another program --------------------------------------------------------------------------------------------------


@contextmanager
def busy_reader(setup: Setup, seed: int, removals: int) -> Iterator[list[str]]:
    """Within, it works on the folder; the list is then filled with the names of what it unlinked."""
    command = [sys.executable, READER, str(setup.maildir), str(seed), str(removals)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    unlinked: list[str] = []
    try:
        yield unlinked
    finally:
        process.terminate()
        out, _ = process.communicate(timeout=30)
        unlinked += out.split()
    assert process.returncode == 0


def assert_settled(setup: Setup, unlinked: list[str], names: list[str]) -> None:
    """Every message is on the server once, and in the folder once unless it was unlinked, with the same flags. A file
    that was unlinked before it was ever uploaded is nowhere."""
    for _ in range(2):
        setup.sync("--once")
    remote, local = setup.remote_state(), setup.local_state()
    there = Counter(word.partition(":")[0] for word in remote)
    never = [name for name in unlinked if name.startswith("L") and name not in there]
    assert there == Counter(name for name in names if name not in never)
    unlinked = [name for name in unlinked if name not in never]
    marked = [word for word in remote if word.partition(":")[0] in unlinked]
    assert len(marked) == len(unlinked)
    assert all("T" in word.partition(":")[2] for word in marked), marked
    assert local == [word for word in remote if word not in marked]
    assert not any("T" in word.partition(":")[2] for word in local), "marked though nobody deleted it"
    setup.sync_again_changes_nothing("--once")


@pytest.mark.parametrize("seed", [1, 2])
def test_another_program_during_the_cycles(setup: Setup, seed: int) -> None:
    names = [f"M{number}" for number in range(40)]
    setup.put_remotes(names[:30])
    for name in names[30:]:
        setup.put_local(name, directory="new")
    setup.sync("--yes")
    with busy_reader(setup, seed, removals=10) as unlinked:
        for number in range(5):
            for where, put in (("L", setup.put_local), ("R", setup.put_remote)):
                names.append(f"{where}{number}")
                put(names[-1])
            run = setup.run()
            assert run.code in (0, 75), run
            assert "Traceback" not in run.err, run
    assert_settled(setup, unlinked, names)


def test_another_program_in_the_live_mode(setup: Setup) -> None:
    names = [f"M{number}" for number in range(30)]
    setup.put_remotes(names)
    with Live(setup) as live, busy_reader(setup, 3, removals=10) as unlinked:
        for number in range(4):
            for where, put in (("L", setup.put_local), ("R", setup.put_remote)):
                names.append(f"{where}{number}")
                put(names[-1])
            sent = f"R{number}"
            wait_for(
                lambda sent=sent: f"downloaded uid {setup.uids(sent)[0]} " in live.log,
                what=f"{sent} downloaded",
                seconds=60,
                detail=live.story,
            )
    assert_settled(setup, unlinked, names)


# --- names of 255 bytes -----------------------------------------------------------------------------------------------


def long_name(info: str) -> str:
    """A uniquename that makes a file name of 255 bytes with this info."""
    return "1600000000.M1P1.host,".ljust(255 - len(f":2,{info}"), "x")


def test_the_longest_names(setup: Setup) -> None:
    """They go up and lose letters; one more letter has no room, is told, and holds nobody up."""
    setup.put_local("A", "S", name=long_name("S"))
    setup.put_local("B", "S", name=long_name("S").replace("M1P1", "M2P1"))
    setup.put_local("C", "S")
    setup.sync("--yes")
    setup.assert_both("A:S B:S C:S")
    setup.flag_remote("A", "+F")
    setup.flag_remote("B", "-S")
    setup.flag_remote("C", "+F")
    run = setup.run()
    assert run.code in (0, 75), run
    assert "name too long" in run.err, run
    setup.assert_state(remote="A:FS B C:FS", local="A:S B C:FS")
    setup.sync_again_changes_nothing(quiet=False)
    setup.expunge_remote("A")
    setup.run()
    setup.assert_state(remote="B C:FS", local="A:S B C:FS")
    # A shorter name ends it.
    (file,) = setup.named("A")
    file.path.rename(file.path.with_name("short.1.host:2,S"))
    setup.sync()
    setup.assert_state(remote="B C:FS", local="A:ST B C:FS")
    setup.sync_again_changes_nothing()


# --- many files -------------------------------------------------------------------------------------------------------


def fill(directory: Path, count: int) -> None:
    """Files of a server's Maildir, made directly."""
    for number in range(count):
        path = directory / f"{1_600_000_000 + number}.M{number}P1.server:2,S"
        path.write_bytes(mail(f"N{number}").replace(b"\n", b"\r\n"))
        os.chown(path, *mail_ids())


@pytest.mark.timeout(3600)
def test_a_large_folder(setup: Setup) -> None:
    """All come down, a second run moves nothing, one change costs no more than one; the memory stays bounded."""
    setup.put_remote("first", "S")
    fill(setup.server.home(setup.user) / "Maildir" / "cur", LARGE - 1)
    setup.program = patched(MEMORY)
    told = []

    def timed(what: str) -> None:
        began = time.monotonic()
        run = setup.finish(setup.start(), timeout=3000)
        assert run.code == 0, run
        told.append(f"{what} {time.monotonic() - began:.1f} s, {int((setup.base / 'memory').read_text()) // 1024} MiB")

    timed("first run")
    assert len(os.listdir(setup.maildir / "cur")) == LARGE
    setup.forget_sent()
    timed("nothing to do")
    assert not any(command.startswith(("UID STORE", "APPEND")) for command in setup.sent())
    assert setup.downloads() == []
    some = sorted(os.listdir(setup.maildir / "cur"))[:3]
    for name in some:
        (setup.maildir / "cur" / name).rename(setup.maildir / "cur" / name.replace(":2,S", ":2,FS"))
    timed("three flags")
    assert setup.count_sent("UID STORE") == 1
    assert int((setup.base / "memory").read_text()) < 400 * 1024
    print(f"{LARGE} messages: {'; '.join(told)}")
