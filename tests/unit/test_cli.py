# SPDX-License-Identifier: MIT
"""The command line: options, exit codes, loading, questions; the service is a stand-in here."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pushpull
from pushpull import cli
from pushpull.accounts import Door
from pushpull.config import Config
from pushpull.errors import ConfigError, Interrupted, LoginRefused, PushpullError, Refused, StateUnusable
from pushpull.options import Asker, Options
from pushpull.output import Output

SAMPLE = Path(__file__).resolve().parents[2] / "pushpull.conf.sample"
USAGE = "    usage: pushpull [OPTIONS] CONFIG-FILE [PAIRING ...]; pushpull --help tells more\n"
CONFIG = """\
[local]
state = s
maildir = m
[imap]
host = h
login_username = u
[pairing INBOX]
local = INBOX
remote = INBOX
[pairing All Mail]
local = All
remote = All
"""

Service = Callable[[Config, Options, Output, Asker, Door], int]


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "my.conf"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Service], None]:
    monkeypatch.setattr(Door, "connect_ahead", lambda self, dialled: None)
    return lambda run: monkeypatch.setattr(pushpull, "service", SimpleNamespace(run=run), raising=False)


@pytest.fixture
def calls(serve: Callable[[Service], None]) -> list[Any]:
    """What the service was called with."""
    seen: list[Any] = []

    def run(config: Config, options: Options, output: Output, asker: Asker, _door: Door) -> int:
        seen.extend((config, options, output, asker))
        return 0

    serve(run)
    return seen


def program(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The real program, as a person starts it."""
    command = [sys.executable, "-m", "pushpull", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


# --- options -------------------------------------------------------------------------------------------------

OPTIONS = [
    ([], Options()),
    (["INBOX"], Options(pairings=("INBOX",))),
    (["All Mail", "INBOX", "All Mail"], Options(pairings=("All Mail", "INBOX"))),
    (["--yes", "INBOX", "--once", "All Mail", "--readopt"], Options(("INBOX", "All Mail"), None, True, True, True)),
    (["--allow-mass-delete=7"], Options(allow_mass_delete=7)),
    (["--allow-mass-delete", "7", "INBOX"], Options(("INBOX",), 7)),
    (["--dry-run"], Options(dry_run=True)),
    (["--test-auth-only"], Options(auth_only=True)),
    (["--once", "--", "INBOX"], Options(("INBOX",), once=True)),
]


@pytest.mark.parametrize(("arguments", "options"), OPTIONS)
def test_options(calls: list[Any], conf: Path, arguments: list[str], options: Options) -> None:
    assert cli.main([str(conf), *arguments]) == 0
    assert calls[1] == options
    assert [pairing.name for pairing in calls[0].pairings] == ["INBOX", "All Mail"]


@pytest.mark.parametrize(
    "arguments", [["CONF", "--", "-x"], ["--", "CONF", "-x"], ["--once", "--", "CONF", "-x", "--"]]
)
def test_after_two_dashes_everything_is_a_name(calls: list[Any], conf: Path, arguments: list[str]) -> None:
    conf.write_text(conf.read_text().replace("INBOX]", "-x]").replace("All Mail]", "--]"))
    assert cli.main([str(conf) if word == "CONF" else word for word in arguments]) == 0
    assert calls[1].pairings == tuple(arguments[arguments.index("-x") :])


def test_options_may_come_first(calls: list[Any], conf: Path) -> None:
    assert cli.main(["--once", "--allow-mass-delete", "3", str(conf), "INBOX"]) == 0
    assert calls[1] == Options(("INBOX",), 3, once=True)


@pytest.mark.parametrize(("value", "traced"), [("1", True), ("yes", True), ("0", False), ("", False), (None, False)])
def test_debug_imap(
    calls: list[Any], conf: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, traced: bool
) -> None:
    monkeypatch.delenv("DEBUG_IMAP", raising=False)
    if value is not None:
        monkeypatch.setenv("DEBUG_IMAP", value)
    assert cli.main([str(conf)]) == 0
    assert calls[1].debug_imap is traced


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [([], "warning\n"), (["-q"], ""), (["-v"], "notice\nwarning\n"), (["-vv"], "debug\nnotice\nwarning\n")],
)
def test_verbosity(
    serve: Callable[[Service], None], conf: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], shown: str
) -> None:
    def run(config: Config, options: Options, output: Output, asker: Asker, _door: Door) -> int:
        for level, word in ((10, "debug"), (25, "notice"), (30, "warning")):
            output.line(level, word)
        return 0

    serve(run)
    assert cli.main([*arguments, str(conf)]) == 0
    assert capsys.readouterr().err.replace("pushpull: warning: ", "") == shown


USAGE_ERRORS = [
    ([], "CONFIG-FILE is missing"),
    (["--once"], "CONFIG-FILE is missing"),
    (["x", "--onc"], "unrecognized arguments: --onc"),
    (["x", "--allow-mass-delete"], "argument --allow-mass-delete: expected one argument"),
    (["x", "-q", "-v"], "argument -v: not allowed with argument -q"),
    (["x", "--bad\x1b"], "unrecognized arguments: --bad\\x1b"),
    *[
        (
            ["x", f"--allow-mass-delete={number}"],
            "argument --allow-mass-delete: NUM must be a whole number of at least 1",
        )
        for number in ("0", "-1", "1.5", "x", "", "٣", "1_0", "9" * 19)
    ],
]


@pytest.mark.parametrize(("arguments", "message"), USAGE_ERRORS)
def test_usage_errors(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert cli.main(arguments) == 64
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"pushpull: {message}\n{USAGE}")


def test_a_pairing_that_there_is_not(calls: list[Any], conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([str(conf), "INBOX", "all mial"]) == 64
    assert capsys.readouterr().err == (
        f"pushpull: no pairing 'all mial' in {conf} (did you mean 'All Mail'?)\n    Known: INBOX, All Mail.\n"
    )
    assert calls == []


# --- the program as a process --------------------------------------------------------------------------------


def test_help_and_version_go_to_standard_output() -> None:
    done = program("--help", "and", "--nonsense")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: pushpull [OPTIONS] CONFIG-FILE [PAIRING ...]\n")
    assert program("-h").stdout == done.stdout
    done = program("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"pushpull {pushpull.__version__}\n", "")


def test_usage_errors_go_to_standard_error() -> None:
    done = program("--nonsense", "x")
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr == f"pushpull: unrecognized arguments: --nonsense\n{USAGE}"


def test_help_into_a_closed_pipe_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "pushpull", "--help"], stdout=pipe, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_wrong_configuration_with_narrow_streams(tmp_path: Path) -> None:
    conf = tmp_path / "a.conf"
    conf.write_text("[log]\nlevel = é\n", encoding="utf-8")
    done = program(str(conf), env=os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict"})
    assert done.returncode == 78
    told = f"pushpull: {conf}: line 2: [log] level = \\xe9: must be error, warning, notice, info or debug\n"
    assert done.stderr.startswith(told)


def test_closed_standard_descriptors_are_opened_on_the_null_device() -> None:
    code = (
        "import os, sys; from pushpull.cli import _open_standard_descriptors as o; o();"
        " sys.exit(''.join(os.readlink(f'/proc/self/fd/{n}') for n in (0, 1, 2)) != '/dev/null' * 3)"
    )
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code], timeout=60, check=False
    )
    assert done.returncode == 0


def test_a_start_without_standard_error_is_quiet(tmp_path: Path) -> None:
    script = 'exec "$0" -m pushpull "$1" 2>&-'
    command = ["/bin/sh", "-c", script, sys.executable, str(tmp_path / "nothing")]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (78, b"", b"")


def test_a_start_imports_little() -> None:
    """`--version` and a mistyped option answer at once: 50 ms here, of which Python itself takes 20."""
    code = "import sys; from pushpull.cli import main; main(['--version']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    modules = set(loaded.stdout.split())
    assert "pushpull.cli" in modules
    heavy = {"imap_tools", "imaplib", "ssl", "sqlite3", "tenacity", "email", "asyncio", "logging", "pushpull.config"}
    assert modules & heavy == set()


# --- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (Refused("60 files are gone", remedy="give --yes"), 65, "pushpull: 60 files are gone\n    give --yes\n"),
        (LoginRefused("no\x1b"), 77, "pushpull: no\\x1b\n"),
        (StateUnusable("newer"), 74, "pushpull: newer\n"),
        (Interrupted("interrupted"), 75, "pushpull: interrupted\n"),
        (KeyboardInterrupt(), 75, "pushpull: interrupted\n"),
    ],
)
def test_errors_of_the_service(
    serve: Callable[[Service], None],
    conf: Path,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    told: str,
) -> None:
    def run(*_: object) -> int:
        raise error

    serve(run)
    assert cli.main([str(conf)]) == code
    assert capsys.readouterr().err == told


def test_a_bug_is_told_with_its_traceback_and_without_secrets(
    serve: Callable[[Service], None], conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf.write_text(CONFIG + f"[log]\nfile = {conf.parent}/log\n[imap]\nlogin_password = s3cret\n")
    conf.chmod(0o600)

    def run(config: Config, *_: object) -> int:
        raise KeyError(config.imap.login_password)

    serve(run)
    assert cli.main([str(conf)]) == 70
    told = capsys.readouterr().err
    assert told.startswith("pushpull: this is a bug in pushpull")
    assert told.endswith("KeyError: ***\n")
    logged = (conf.parent / "log").read_text()
    assert "KeyError: ***" in logged
    assert "s3cret" not in told + logged


@pytest.mark.parametrize("code", [0, 65, 75])
def test_the_code_of_the_service_is_the_programs(serve: Callable[[Service], None], conf: Path, code: int) -> None:
    serve(lambda *_: code)
    assert cli.main([str(conf)]) == code


def test_elsewhere_than_on_linux(
    calls: list[Any], conf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cli.main([str(conf)]) == 69
    assert capsys.readouterr().err.count("\n") == 1
    assert calls == []


def test_a_parent_that_ignores_sigchld_hides_no_failing_command(calls: list[Any], conf: Path) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert cli.main([str(conf)]) == 0
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGCHLD, before)


# --- the configuration file ----------------------------------------------------------------------------------


def loaded(path: str, capsys: pytest.CaptureFixture[str]) -> tuple[Config, str]:
    return cli.load(path, Output()), capsys.readouterr().err


def test_relative_paths_start_at_the_working_directory(
    conf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(conf.parent)
    monkeypatch.setenv("HOME", "/home/someone")
    conf.write_text(CONFIG.replace("maildir = m", "maildir = ~/m"))
    config, told = loaded("my.conf", capsys)
    assert (config.path, config.local.state, config.local.maildir) == ("my.conf", f"{conf.parent}/s", "/home/someone/m")
    assert told == ""


@pytest.mark.parametrize(
    ("mode", "password", "warned"),
    [
        (0o600, "login_password = p", False),
        (0o640, "login_password = p", True),
        (0o604, "login_password = p", True),
        (0o600, "login_password =", False),
        (0o644, "login_password =", False),
        (0o644, "login_password_command = p", False),
    ],
)
def test_a_password_that_others_can_read(
    conf: Path, capsys: pytest.CaptureFixture[str], mode: int, password: str, warned: bool
) -> None:
    conf.write_text(CONFIG + f"[imap]\n{password}\n")
    conf.chmod(mode)
    _, told = loaded(str(conf), capsys)
    warning = f"pushpull: warning: {conf} holds a password and can be read by others; chmod 600 mends that\n"
    assert told == (warning if warned else "")


def test_a_configuration_from_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.write(writer, (CONFIG + "[imap]\nlogin_password = p\n").encode())
    os.close(writer)
    config, told = loaded(f"/dev/fd/{reader}", capsys)
    os.close(reader)
    assert (config.holds_password, told) == (True, "")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing", "No such file or directory"), (".", "Is a directory"), ("a\0b", "a NUL in its name")],
)
def test_a_configuration_that_cannot_be_read(tmp_path: Path, name: str, reason: str) -> None:
    path = f"{tmp_path}/{name}"
    with pytest.raises(ConfigError) as caught:
        cli.load(path, Output())
    assert caught.value.problems == (f"cannot be read: {reason}",)


def test_a_configuration_that_is_not_utf_8(conf: Path) -> None:
    conf.write_bytes(b"# caf\xe9\n" + CONFIG.encode() + b"[log]\nfile = caf\xe9\n")
    with pytest.raises(ConfigError) as caught:
        cli.load(str(conf), Output())
    assert caught.value.problems == (f"line {CONFIG.count(chr(10)) + 3}: is not UTF-8",)


def test_a_log_file_that_cannot_be_opened_ends_the_run(
    calls: list[Any], conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf.write_text(CONFIG + f"[log]\nfile = {conf.parent}\n")
    assert cli.main([str(conf)]) == 74
    assert "the log file" in capsys.readouterr().err
    assert calls == []


def test_all_faults_are_told(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf.write_text("[imap]\nport = x\nidle = x\n")
    assert cli.main([str(conf)]) == 78
    assert capsys.readouterr().err.count(f"pushpull: {conf}: ") == 7


# --- questions -----------------------------------------------------------------------------------------------

ASK = (
    "import signal, sys; signal.alarm(30); from pushpull.cli import TerminalAsker; from pushpull.output import Output;"
    " a = TerminalAsker(Output()); open(sys.argv[1], 'w').write(repr({}))"
)


def on_terminal(code: str, typed: bytes, result: Path) -> tuple[str, bytes]:
    """Run code on a pseudo-terminal of its own, as its controlling one; the result it wrote, and what was shown."""
    child, master = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", code, str(result)])
    shown = b""
    try:
        while part := os.read(master, 4096):
            shown += part
            if shown.rstrip().endswith((b"[y/n]", b"Password of u:")) and typed:
                line, newline, typed = typed.partition(b"\n")
                os.write(master, line + newline)
    except OSError:  # EIO: the child has ended
        pass
    os.close(master)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, shown
    return result.read_text(), shown


@pytest.mark.parametrize(
    ("typed", "answer", "asked"),
    [
        (b"y\n", "True", 1),
        (b" YES \n", "True", 1),
        (b"no\n", "False", 1),
        (b"N\n", "False", 1),
        (b"\nmaybe\ny\n", "True", 3),
        (b"\x04", "None", 1),
    ],
)
def test_a_question(tmp_path: Path, typed: bytes, answer: str, asked: int) -> None:
    result, shown = on_terminal(ASK.format("a.confirm('Match\\x1b it?')"), typed, tmp_path / "result")
    assert result == answer
    assert shown.count(b"Match\\x1b it? [y/n] ") == asked


@pytest.mark.parametrize(("typed", "answer"), [(b"s3 cret\n", "'s3 cret'"), (b"\n", "None"), (b"\x04", "None")])
def test_a_password_is_typed_without_echo(tmp_path: Path, typed: bytes, answer: str) -> None:
    result, shown = on_terminal(ASK.format("a.password('Password of u:')"), typed, tmp_path / "result")
    assert result == answer
    assert shown.startswith(b"Password of u: ")
    assert b"s3 cret" not in shown


def test_without_a_terminal_nothing_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    asker = cli.TerminalAsker(Output())
    assert (asker.confirm("Well?"), asker.password("Password:")) == (None, None)
    assert capsys.readouterr().err == ""


def test_every_error_class_has_an_exit_code_of_the_table() -> None:
    def below(kind: type[PushpullError]) -> set[type[PushpullError]]:
        return {kind}.union(*(below(sub) for sub in kind.__subclasses__()))

    assert {kind.exit_code for kind in below(PushpullError)} == {64, 65, 69, 70, 74, 75, 77, 78}
