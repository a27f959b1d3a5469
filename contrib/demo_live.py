# SPDX-License-Identifier: MIT
"""The demo's live mode: the real pushpull stays, and how long each change takes to be on the other side is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from demo_server import OtherProgram
from demo_stage import Broken, Stage

THERE, HERE = "on the server", "here"
_PATIENCE = 20.0
_END_SECONDS = 5.0
# It ends when the demo does, however that ends: PR_SET_PDEATHSIG stays over exec.
_FATED = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class Live:
    """Context manager; inside it pushpull watches both sides. `times` are the seconds that changes took."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.screen = stage, stage.screen
        self.times: list[float] = []
        self._log = stage.directory / "live.log"
        self._told = 0
        self._answer = OtherProgram(stage.server)  # its look at the server disturbs nobody else's

    def __enter__(self) -> Live:
        self.screen.say(f"   {self.screen.paint('$ pushpull -v demo.conf &', 'cyan')}")
        command = [str(self.stage.pushpull), "-v", "demo.conf"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _FATED, str(os.getpid()), *command],
                cwd=self.stage.directory,
                env={key: value for key, value in os.environ.items() if key != "DEBUG_IMAP"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._until(lambda: self.commands("IDLE") > 0, "it does not wait for the server's news")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._answer.__exit__()

    def end(self) -> tuple[int, float]:
        """Ask it to end. Its exit code, and how long it took."""
        began = time.monotonic()
        self._process.terminate()
        return self._process.wait(_PATIENCE), time.monotonic() - began

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGKILL)
                self._process.wait()

    def commands(self, name: str = "") -> int:
        """How many commands pushpull has given so far: of one name, or all."""
        counted = self.stage.server.commands_of_pushpull()
        return counted[name] if name else counted.total()

    def processor_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # --- what happens

    def push(self, where: str, what: str, act: Callable[[], object], key: str, wanted: str) -> None:
        """Do something on one side, and tell how long it takes until the other one has the message with these flags."""
        self.rest()
        self.screen.done_by_hand(where, what)
        began = time.perf_counter()
        act()
        self.arrives(HERE if where == THERE else THERE, key, wanted, began)

    def arrives(self, where: str, key: str, wanted: str, began: float) -> None:
        """Wait for it there, and tell when it came."""
        look = self._here if where == HERE else self._there
        self._until(lambda: look(key) == wanted, f"{key!r} did not come to be {wanted!r} {where}")
        seconds = time.perf_counter() - began
        self.times.append(seconds)
        arrow = "-->" if where == HERE else "<--"
        later = self.screen.paint(f"{seconds:.2f} s later", "bold")
        self.screen.say(f"   {self.screen.paint('ok', 'green')}  {arrow} {where}, {later}")
        self.screen.checks += 1

    def rest(self) -> None:
        """Until it has asked nothing of the server for a while: what follows from the last change is over."""
        known, since = -1, time.monotonic()
        while time.monotonic() - since < 0.25:
            if (now := self.commands()) != known:
                known, since = now, time.monotonic()
            time.sleep(0.02)

    def tell(self) -> None:
        """Show what pushpull itself said meanwhile."""
        self.rest()
        said = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        self.screen.quote(said[self._told :])
        self._told = len(said)

    def _here(self, key: str) -> str | None:
        return self.stage.letters_here().get(key)

    def _there(self, key: str) -> str | None:
        return self.stage.letters_there(self._answer).get(key)

    def _until(self, condition: Callable[[], bool], trouble: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            if self._process.poll() is not None:
                raise Broken(f"pushpull ended with exit code {self._process.returncode}; it should stay")
            if time.monotonic() > deadline:
                raise Broken(f"NOT true in step {self.screen.steps}: {trouble} within {_PATIENCE:.0f} s")
            time.sleep(0.005)
