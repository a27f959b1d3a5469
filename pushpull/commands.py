# SPDX-License-Identifier: MIT
"""Runs the commands of the configuration: those that print a password or a token, and the post-sync hook.

No shell, nothing on standard input, a time limit. A command gets a session (hence a process group) of its own, so
that at the limit all that it started ends with it, and so that Ctrl-C at the terminal is ours alone to handle. What
a command printed is never part of an error; its standard error goes where ours goes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Literal, cast

from pushpull.config import Secret
from pushpull.errors import CommandFailed, Interrupted
from pushpull.wording import human_duration, printable

_STEP = 0.1  # seconds between two looks at the stop flag
_GRACE = 2.0  # seconds from SIGTERM to SIGKILL
_LONGEST_ANSWER = 1 << 16  # bytes, the capacity of a pipe
_STDERR = 2  # the descriptor: `sys.stderr` may be something else

Stopped = Callable[[], bool]


def never() -> bool:
    """The `stopped` of a run that no signal stops."""
    return False


def run_secret_command(
    argv: Sequence[str], timeout: float, what: Literal["password", "token"], stopped: Stopped = never
) -> Secret:
    """The first line that the command prints (a password), or all of it without blanks at the ends (a token).

    `timeout` in seconds. CommandFailed when the command cannot be run, fails, takes too long, or prints nothing
    usable; Interrupted when `stopped()` becomes true meanwhile.
    """
    with _running(argv, what, stdout=subprocess.PIPE) as process:
        _wait(process, argv, what, timeout, stopped)
        output = _drain(cast(IO[bytes], process.stdout))
    return Secret(_answer(output, argv, what))


def run_hook(argv: Sequence[str], timeout: float, env_extra: Mapping[str, str], stopped: Stopped = never) -> None:
    """Run a command for its effect; what it prints goes to our standard error. Errors as `run_secret_command`."""
    with _running(argv, "hook", stdout=_STDERR, env=os.environ | env_extra) as process:
        _wait(process, argv, "hook", timeout, stopped)


@contextmanager
def _running(
    argv: Sequence[str], what: str, *, stdout: int, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The command's process; however the block is left, its group is gone if the command had not ended."""
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own words, and no shell
            list(argv), stdin=subprocess.DEVNULL, stdout=stdout, env=env, start_new_session=True, bufsize=0
        )
    except OSError as error:
        raise _failed(argv, what, f"cannot be run: {error.strerror or error}") from error
    try:
        yield process
    finally:
        if process.returncode is None:
            _end_group(process)
        if process.stdout is not None:
            process.stdout.close()


def _wait(process: subprocess.Popen[bytes], argv: Sequence[str], what: str, timeout: float, stopped: Stopped) -> None:
    deadline = time.monotonic() + timeout
    while not _ended_within(process, min(_STEP, deadline - time.monotonic())):
        if stopped():
            raise Interrupted(f"the {what} command {_name(argv)} was ended")
        if time.monotonic() >= deadline:
            raise _failed(argv, what, f"was not done after {human_duration(timeout)}, and was ended")
    if process.returncode < 0:
        raise _failed(argv, what, f"was killed by {_signal_name(-process.returncode)}")
    if process.returncode > 0:
        raise _failed(argv, what, f"failed with exit status {process.returncode}")


def _ended_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(max(seconds, 0))
    except subprocess.TimeoutExpired:
        return False
    return True


def _drain(pipe: IO[bytes]) -> bytes:
    """What is in the pipe, without waiting for its end: something that the command left running, such as an agent,
    may hold it open. A pipe holds any answer there can be; a command that prints more blocks until the limit."""
    os.set_blocking(pipe.fileno(), False)
    return pipe.read(_LONGEST_ANSWER) or b""


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL, to all that the command started.

    The leader is not reaped before the last signal is sent: until then the number of its group cannot be another's.
    """
    _signal_group(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            break
        time.sleep(_STEP / 10)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # all of it ended; or what is left is another user's (sudo)
        return


def _answer(output: bytes, argv: Sequence[str], what: str) -> str:
    text = output.decode("utf-8", "surrogateescape")  # an error of the decoder would hold the output
    answer = text.strip() if what == "token" else text.split("\n", 1)[0].removesuffix("\r")
    if not answer:
        raise _failed(argv, what, f"printed no {what}")
    categories = {unicodedata.category(char) for char in answer}
    if "Cs" in categories:
        raise _failed(argv, what, f"printed a {what} that is not UTF-8")
    if "Cc" in categories:
        raise _failed(argv, what, f"printed a {what} with a line end or a control character in it")
    return answer


def _failed(argv: Sequence[str], what: str, how: str) -> CommandFailed:
    return CommandFailed(f"the {what} command {_name(argv)} {how}", remedy="Run the command by hand to see why.")


def _name(argv: Sequence[str]) -> str:
    """The program alone: its arguments may hold a secret."""
    return f"'{printable(argv[0])}'"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
