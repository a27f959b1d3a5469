# SPDX-License-Identifier: MIT
"""The program against a hostile server: what it may do, how long, with how much memory, and what must be left of it."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.hostile import Hostile
from tests.support.messages import letters_of, lf, mail
from tests.support.patched import patched
from tests.support.run import Run, Setup

NAMES = [f"m{number:02}" for number in range(60)]
LARGE = mail("large", body="A line of text that is long enough.\n" * 12_000)
MEMORY_MB = 200
"""What a run may take: an honest one takes 32, and a line of UIDs may have 20, which is looked at in several copies."""
SECONDS = 60.0

# The limit of the address space is the net below the measured one: who falls into it has a MemoryError. Gaps between
# attempts, and what a server may talk, are shortened: they are long for people.
_CODE = """
import atexit, resource
resource.setrlimit(resource.RLIMIT_AS, (700 << 20, 700 << 20))
def tell():
    lines = open('/proc/self/status').read().splitlines()
    open('peak', 'w').write(next(line.split()[1] for line in lines if line.startswith('VmHWM')))
atexit.register(tell)
import pushpull.retry, pushpull.transport, pushpull.engine
pushpull.retry.LONGEST_GAP = 0.02
pushpull.transport.TALK = 1.0
pushpull.engine.ANSWER_SECONDS = 0.1
"""


@dataclass
class Victim:
    """A Maildir that was synchronised honestly, and the server that it is to be synchronised with again."""

    server: Hostile
    setup: Setup
    before: dict[str, bytes] = field(default_factory=dict)
    mailbox: dict[int, tuple[frozenset[str], bytes]] = field(default_factory=dict)
    seconds: float = 0.0

    def remember(self) -> None:
        """What must be left as it is."""
        self.before, self.mailbox = self.files(), self.kept()

    def files(self) -> dict[str, bytes]:
        """Every mail file, by its path with its flags."""
        top = self.setup.base / "mail"
        return {
            str(path.relative_to(top)): path.read_bytes()
            for path in sorted(top.rglob("*"))
            if path.is_file() and path.name != ".pushpull"
        }

    def kept(self) -> dict[int, tuple[frozenset[str], bytes]]:
        return {uid: (message.flags, message.body) for uid, message in self.server.snapshot().items()}

    def run(self, *args: str) -> Run:
        began = time.monotonic()
        run = self.setup.run(*args)
        self.seconds = time.monotonic() - began
        return run

    def suffers(self, *codes: int, words: str = "") -> Run:
        """One run against the lie, which must be seen as `codes` (0: nothing was noticed, nothing done)."""
        run = self.run()
        self.demand_sane(run)
        assert run.code in codes, run
        if run.code:
            assert "inbox: " in run.err, f"the pairing is not named\n{run}"
        assert re.search(words, run.err, re.DOTALL), f"{words!r} is not told\n{run}"
        self.demand_unharmed(run)
        return run

    def heals(self, *, quiet: bool = True) -> None:
        """An honest server afterwards: all is well, and nothing was done to get there."""
        self.server.be_honest()
        run = self.run()
        self.demand_sane(run)
        assert run.code == 0, run
        self.demand_unharmed(run)
        if quiet:
            again = self.run()
            assert (again.code, again.err) == (0, ""), again

    def demand_sane(self, run: Run) -> None:
        """Bounded in time and memory, no bug, no word that a person could not read, nothing destructive sent."""
        assert "Traceback" not in run.err, run
        assert run.code != 70, run
        assert self.seconds < SECONDS, f"{self.seconds:.0f} s\n{run}"
        peak = int((self.setup.base / "peak").read_text()) // 1024
        assert peak < MEMORY_MB, f"{peak} MB"
        for line in run.err.splitlines():
            assert line.isprintable(), line
            assert len(line) < 1500, len(line)
        self.setup.assert_nothing_destroyed()

    def demand_unharmed(self, run: Run) -> None:
        """Each file and each message as before, with its flags; nothing else anywhere."""
        assert self.files() == self.before, f"{sorted({*self.files()} ^ {*self.before})}\n{run}"
        assert self.kept() == self.mailbox, run
        self.demand_nothing_outside()

    def demand_nothing_outside(self) -> None:
        top = sorted(path.name for path in self.setup.base.iterdir())
        allowed = {"mail", "state.db", "state.db-wal", "state.db-shm", "pushpull.conf", "log", "peak", "stderr"}
        assert not [name for name in top if name not in allowed and not name.startswith("state.db.")], top
        folders = sorted(path.name for path in (self.setup.base / "mail").iterdir())
        assert folders == ["inbox"]


def fill(server: Hostile) -> None:
    """Sixty messages, more than the guards' limits; one is large."""
    for number, name in enumerate(NAMES):
        server.put(mail(name), *((rb"\Seen",) if number % 3 else ()))
    server.put(LARGE, rb"\Flagged")


def victim_of(server: Hostile, base: Path, **settings: str) -> Victim:
    """Nothing is synchronised yet."""
    setup = Setup(server, "alice", base, port=server.port, program=patched(_CODE))  # type: ignore[arg-type]
    setup.settings = {"imap": {"timeout_seconds": "2", **settings}}
    return Victim(server, setup)


def copied(server: Hostile, source: Path, base: Path, **settings: str) -> Victim:
    """As the honest run in `source` left it."""
    shutil.copytree(source, base, symlinks=True, dirs_exist_ok=True)
    victim = victim_of(server, base, **settings)
    victim.remember()
    return victim


def equal_sides(victim: Victim) -> None:
    remote = sorted((lf(body), letters_of(flags)) for flags, body in victim.kept().values())
    local = sorted((file.body, file.letters) for file in victim.setup.files())
    assert local == remote
