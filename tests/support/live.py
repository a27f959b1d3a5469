# SPDX-License-Identifier: MIT
"""The program in its live mode, on a `Setup`: started, waited for, ended."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.support.run import Run, Setup
from tests.support.waiting import wait_for


class Live:
    """Context manager; inside it the program watches. After it, its end by SIGTERM has to be well."""

    def __init__(
        self, setup: Setup, *args: str, names: Sequence[str] | None = None, code: int = 0, bugs: bool = False
    ) -> None:
        setup.settings.setdefault("imap", {}).setdefault("idle", "yes")
        setup.settings.setdefault("local", {}).setdefault("quiesce_seconds", "0")
        self.setup, self._args, self._names, self._code, self._bugs = setup, args, names, code, bugs
        self.run: Run | None = None

    def __enter__(self) -> Live:
        setup = self.setup
        setup.write_config()
        self.stderr = setup.base / "stderr"
        names = list(setup.pairings) if self._names is None else self._names
        with open(self.stderr, "ab") as stderr:
            self.process = subprocess.Popen(
                setup.command(*self._args, names=names),
                env=setup.environment(),
                cwd=setup.base,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            self.wait_log("watching")
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.process.kill()
            self.process.wait()
            return
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        code = self.process.wait(10)
        assert code == self._code, self.story()
        assert self._bugs or "Traceback" not in self.story(), self.story()

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    @property
    def log(self) -> str:
        try:
            return (self.setup.base / "log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def story(self) -> str:
        """What it told, for a failure."""
        return f"--- stderr\n{self.stderr.read_text(errors='replace')}--- log\n{self.log[-6000:]}"

    def wait_log(self, words: str, count: int = 1, *, seconds: float = 20.0) -> None:
        """Until the log, from its beginning, holds the words so often."""

        def said() -> bool:
            assert self.process.poll() is None or words in self.log, self.story()
            return self.log.count(words) >= count

        wait_for(said, seconds=seconds, what=f"{words!r} in the log", detail=self.story)

    def wait_remote(self, words: str, pairing: str = "", *, seconds: float = 20.0) -> None:
        """Until the mailbox holds just this (`Setup.remote_state`)."""
        wanted = sorted(words.split())
        wait_for(
            lambda: self.setup.remote_state(pairing) == wanted,
            seconds=seconds,
            what=f"{wanted} on the server",
            detail=lambda: f"{self.setup.remote_state(pairing)}\n{self.story()}",
        )

    def wait_local(self, words: str, pairing: str = "", *, seconds: float = 20.0) -> None:
        """Until the folder holds just this (`Setup.local_state`)."""
        wanted = sorted(words.split())
        wait_for(
            lambda: self._local(pairing) == wanted,
            seconds=seconds,
            what=f"{wanted} in the folder",
            detail=lambda: f"{self._local(pairing)}\n{self.story()}",
        )

    def _local(self, pairing: str) -> list[str]:
        try:
            return self.setup.local_state(pairing)
        except FileNotFoundError:  # renamed while it was looked at
            return []

    def wait_both(self, words: str, pairing: str = "", *, seconds: float = 20.0) -> None:
        self.wait_local(words, pairing, seconds=seconds)
        self.wait_remote(words, pairing, seconds=seconds)


def cpu_seconds(pid: int) -> float:
    """User and system time that the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
