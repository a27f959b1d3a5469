# SPDX-License-Identifier: MIT
"""Commands of the configuration: what they give, how they fail, that nothing of them is left."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from pushpull.commands import never, run_hook, run_secret_command
from pushpull.errors import EX_TEMPORARY, CommandFailed, Interrupted
from tests.support.waiting import wait_for

LIMIT = 20.0  # seconds, for what ends by itself


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def gone(pid: int) -> bool:
    """Whether the process has ended; a zombie has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def wait_until_gone(pid_file: Path) -> None:
    pid = int(pid_file.read_text())
    wait_for(lambda: gone(pid), what=f"the end of process {pid}")


def failure(call: Callable[[], object]) -> str:
    with pytest.raises(CommandFailed) as caught:
        call()
    assert caught.value.exit_code == EX_TEMPORARY
    assert caught.value.remedy == "Run the command by hand to see why."
    return str(caught.value)


# --- secrets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "password", "token"),
    [
        ("s3cret\\n", "s3cret", "s3cret"),
        ("s3cret", "s3cret", "s3cret"),
        ("s3cret\\r\\n", "s3cret", "s3cret"),
        (" s 3 \\n", " s 3 ", "s 3"),
        ("caf\\303\\251\\n", "café", "café"),
    ],
)
def test_password_and_token(output: str, password: str, token: str) -> None:
    assert run_secret_command(sh(f"printf '{output}'"), LIMIT, "password").reveal() == password
    assert run_secret_command(sh(f"printf '{output}'"), LIMIT, "token").reveal() == token


def test_a_password_is_the_first_line() -> None:
    argv = sh("printf 's3cret\\nuser: me\\n'")
    assert run_secret_command(argv, LIMIT, "password").reveal() == "s3cret"
    assert failure(lambda: run_secret_command(argv, LIMIT, "token")) == (
        "the token command '/bin/sh' printed a token with a line end or a control character in it"
    )


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ("exit 3", "failed with exit status 3"),
        ("echo s3cret; exit 1", "failed with exit status 1"),
        ("echo s3cret; kill -KILL $$", "was killed by SIGKILL"),
        ("echo s3cret; kill -40 $$", "was killed by signal 40"),
        ("true", "printed no password"),
        ("echo; echo s3cret", "printed no password"),
        ("printf 's3cret\\377'", "printed a password that is not UTF-8"),
        ("printf 's3\\000cret'", "printed a password with a line end or a control character in it"),
    ],
)
def test_failures_name_the_command_and_never_its_output(script: str, how: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        run_secret_command(sh(script), LIMIT, "password")
    assert str(caught.value) == f"the password command '/bin/sh' {how}"
    assert "s3cret" not in "".join(traceback.format_exception(caught.value)).replace(script, "")
    assert caught.value.__cause__ is None


def test_a_command_that_is_not_there() -> None:
    assert failure(lambda: run_secret_command(["/nowhere/a\x1b", "arg"], LIMIT, "token")) == (
        "the token command '/nowhere/a\\x1b' cannot be run: No such file or directory"
    )
    assert failure(lambda: run_secret_command([os.path.dirname(__file__)], LIMIT, "token")).endswith(
        "cannot be run: Permission denied"
    )


def test_the_path_is_searched_and_there_is_no_shell() -> None:
    assert run_secret_command(["echo", "$HOME", "a;b"], LIMIT, "token").reveal() == "$HOME a;b"


def test_standard_input_is_empty_and_standard_error_is_ours(capfd: pytest.CaptureFixture[str]) -> None:
    script = "echo told >&2; wc -c; wc -c < /dev/stdin >&2"
    assert run_secret_command(sh(script), LIMIT, "token").reveal() == "0"
    assert capfd.readouterr().err == "told\n0\n"


def test_a_command_has_a_session_of_its_own() -> None:
    script = "import os; print(os.getsid(0) == os.getpid() == os.getpgrp())"
    assert run_secret_command([sys.executable, "-c", script], LIMIT, "token").reveal() == "True"


def test_what_a_command_leaves_running_is_not_waited_for_nor_ended() -> None:
    """As gpg leaves an agent; it holds the pipe open."""
    token = run_secret_command(sh("sleep 300 & echo $!"), LIMIT, "token").reveal()
    try:
        os.kill(int(token), 0)
    finally:
        os.kill(int(token), signal.SIGKILL)


def test_a_command_that_prints_without_end_runs_into_the_limit() -> None:
    with pytest.raises(CommandFailed, match="was not done after 0 s, and was ended"):
        run_secret_command(["yes"], 0.3, "password")


def test_an_answer_of_many_kilobytes() -> None:
    assert len(run_secret_command(sh("head -c 60000 /dev/zero | tr '\\0' x"), LIMIT, "token").reveal()) == 60_000


# --- limits --------------------------------------------------------------------------------------------------


def test_the_limit_ends_all_that_the_command_started(tmp_path: Path) -> None:
    script = f"sleep 300 & echo $! > {tmp_path}/pid; wait"
    began = time.monotonic()
    assert failure(lambda: run_secret_command(sh(script), 1, "password")) == (
        "the password command '/bin/sh' was not done after 1 s, and was ended"
    )
    assert time.monotonic() - began < LIMIT / 2
    wait_until_gone(tmp_path / "pid")


def test_the_limit_ends_what_does_not_want_to(tmp_path: Path) -> None:
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.1; done"
    assert "was ended" in failure(lambda: run_hook(sh(script), 0.5, {}))
    wait_until_gone(tmp_path / "pid")


def test_a_command_may_tidy_up_before_it_ends(tmp_path: Path) -> None:
    script = f"trap 'echo tidy > {tmp_path}/done; exit 0' TERM; while :; do sleep 0.1; done"
    assert "was ended" in failure(lambda: run_hook(sh(script), 0.5, {}))
    assert (tmp_path / "done").read_text() == "tidy\n"


def test_a_signal_to_the_program_ends_the_command(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    def written() -> bool:
        return pid.exists() and pid.read_text().endswith("\n")

    with pytest.raises(Interrupted, match=r"^the hook command '/bin/sh' was ended$"):
        run_hook(sh(f"echo $$ > {pid}; exec sleep 300"), LIMIT, {}, written)
    wait_until_gone(pid)


def test_an_exception_in_between_leaves_nothing_running(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    def broken() -> bool:
        if pid.exists() and pid.read_text().endswith("\n"):
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run_secret_command(sh(f"echo $$ > {pid}; exec sleep 300"), LIMIT, "token", broken)
    wait_until_gone(pid)


# --- hooks ---------------------------------------------------------------------------------------------------


def test_a_hook_gets_its_words_and_its_environment(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INHERITED", "too")
    script = 'echo "$PUSHPULL_PAIRING|$PUSHPULL_FOLDER|$INHERITED|$1"; cat'
    run_hook([*sh(script), "x", "a b"], LIMIT, {"PUSHPULL_PAIRING": "In box", "PUSHPULL_FOLDER": "/m/ü"})
    told = capfd.readouterr()
    assert (told.out, told.err) == ("", "In box|/m/ü|too|a b\n")
    assert "PUSHPULL_PAIRING" not in os.environ


def test_a_hook_that_fails() -> None:
    assert failure(lambda: run_hook(sh("exit 7"), LIMIT, {})) == "the hook command '/bin/sh' failed with exit status 7"


def test_no_descriptor_of_ours_reaches_a_command(tmp_path: Path) -> None:
    with open(tmp_path / "state", "w") as file:
        os.set_inheritable(file.fileno(), True)
        found = run_secret_command(sh(f"ls /proc/$$/fd/{file.fileno()} 2>/dev/null || echo none"), LIMIT, "token")
    assert found.reveal() == "none"


def test_nothing_is_left_open() -> None:
    before = os.listdir("/proc/self/fd")
    run_secret_command(sh("echo x"), LIMIT, "token")
    failure(lambda: run_secret_command(sh("sleep 300"), 0.1, "token"))
    run_hook(sh("true"), LIMIT, {})
    assert os.listdir("/proc/self/fd") == before
    assert not never()
