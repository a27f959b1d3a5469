# SPDX-License-Identifier: MIT
"""Runs of the program without the start of Python, which costs more than a run itself: one process has imported the
program, and each run is a fork of it, with arguments, environment, directory and output of its own.

For tests that run it hundreds of times. What a start does is tried by all the others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

from tests.support.run import Run, Setup


class Forks:
    """Context manager; `Setup.forks` takes it, and then untraced runs are forks. `code` is run once before them, as
    with `patched`."""

    def __init__(self, setup: Setup, code: str = "") -> None:
        command = [sys.executable, "-m", "tests.support.forks", code]
        self._output = tempfile.TemporaryDirectory(prefix="pushpull-forks-")
        self._process = subprocess.Popen(
            command, env=setup.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Forks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()
        self._output.cleanup()

    def run(self, arguments: list[str], environment: dict[str, str], base: Path) -> Run:
        """One run in the directory `base`."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([arguments, environment, str(base), self._output.name]) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        out, err = (Path(self._output.name, name).read_text(errors="backslashreplace") for name in ("out", "err"))
        return Run(code, out, err)


def _serve() -> None:
    import pushpull.cli
    import pushpull.service

    exec(sys.argv[1], {})
    for line in sys.stdin:
        arguments, environment, base, output = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_child(pushpull.cli.main, arguments, environment, base, output))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _child(main: object, arguments: list[str], environment: dict[str, str], base: str, output: str) -> int:
    os.setsid()
    os.chdir(base)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    for descriptor, name in ((1, f"{output}/out"), (2, f"{output}/err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        code = main(arguments)  # type: ignore[operator]
        sys.stdout.flush()
        sys.stderr.flush()
        return int(code)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        return 1


if __name__ == "__main__":
    _serve()
