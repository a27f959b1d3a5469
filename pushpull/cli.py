# SPDX-License-Identifier: MIT
"""The command line: options, loading of the configuration, questions, exit codes.

What only some runs need is imported late: `--help`, `--version` and a mistyped option answer at once.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import signal
import stat
import sys
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from pushpull import __version__, levels
from pushpull.errors import EX_BUG, EX_OK, EX_UNSUPPORTED, ConfigError, Interrupted, PushpullError, UsageError
from pushpull.options import Options

if TYPE_CHECKING:
    from pushpull.config import Config
    from pushpull.output import Output

_EPILOG = """\
PAIRING is the name of a [pairing NAME] section of CONFIG-FILE. Without one, all
of them are synchronised, one after another.
See pushpull(1) for signals and exit codes, pushpull.conf(5) for the configuration.
"""


def program() -> int:
    """`main` as a whole process; the exit code."""
    code = main()
    # Else the interpreter, before it ends, looks through all that it holds for what could be thrown away: 25 ms.
    gc.freeze()
    return code


def main(argv: list[str] | None = None) -> int:
    """Run the program; the exit code. `argv` is without the program's name."""
    _open_standard_descriptors()
    _keep_private()
    parser = make_parser()
    try:
        arguments = parse_arguments(parser, argv)
    except SystemExit as end:  # --help, --version
        return _end_of_help(end)
    except UsageError as error:
        return _usage_error(parser, error)
    from pushpull.output import Output

    output = Output(arguments.verbose - arguments.quiet)
    try:
        return _run(arguments, output)
    except PushpullError as error:
        output.error(error)
        return error.exit_code
    except KeyboardInterrupt:  # before the service handles signals: nothing was begun
        output.error(Interrupted("interrupted"))
        return Interrupted.exit_code
    except Exception as error:
        output.bug(error)
        return EX_BUG
    finally:
        output.close()


def _run(arguments: argparse.Namespace, output: Output) -> int:
    platform = sys.platform
    if platform != "linux":
        output.error(PushpullError("pushpull runs on Linux only; it needs its file system semantics and inotify"))
        return EX_UNSUPPORTED
    # A parent that ignores SIGCHLD would make each failing command of ours look like a success.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    config = load(arguments.config, output)
    options = make_options(arguments, config, os.environ)
    asker = TerminalAsker(output)
    if (config.imap.idle or options.daemon) and not (options.one_cycle and not options.daemon):
        from pushpull import live

        return live.run(config, options, output, asker)
    if not options.dry_run:
        output.open_logs(config.log)
    from pushpull.aside import Aside
    from pushpull.dial import dial

    dialled = Aside(partial(dial, config.imap.host, config.imap.port, float(config.imap.timeout_seconds)))
    from pushpull.accounts import Credentials, Door, account_of  # which takes as long as the network

    credentials = Credentials(config.imap, asker)
    door = Door(account_of(config, credentials, output.trace if options.debug_imap else None), credentials)
    door.connect_ahead(dialled.result)  # and so does the other half of the imports
    from pushpull import service

    return service.run(config, options, output, asker, door)


# --- arguments -----------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """The parser of the library would exit with 2 here."""
        raise UsageError(message)


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pushpull",
        usage="pushpull [OPTIONS] CONFIG-FILE [PAIRING ...]",
        description="Synchronise an IMAP account with Maildir folders, both ways.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a cut-off --allow-mass-delete is a mistake
    )
    add = parser.add_argument
    # One list: of two positionals some versions of the library call the optional one required.
    add("operands", nargs="*", help=argparse.SUPPRESS)
    add("--version", action="version", version=f"pushpull {__version__}")
    add("--test-auth-only", action="store_true", help="log in, log out")
    add(
        "--allow-mass-delete",
        metavar="NUM",
        type=_positive,
        help="let up to NUM deletions pass in each pairing, for one cycle; then quit",
    )
    add(
        "--readopt",
        action="store_true",
        help="forget what both sides agreed on and match messages by content anew; deletes and marks nothing",
    )
    add(
        "--yes",
        action="store_true",
        help="answer yes to questions: first sync, changed account, rebuilding a corrupt state; lifts no guard",
    )
    add("--once", action="store_true", help="one cycle, even with idle = yes")
    add("--daemon", action="store_true", help="detach, and stay in the background (with idle = yes)")
    add("--dry-run", action="store_true", help="print what would be done; change nothing on either side")
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("-v", dest="verbose", action="count", default=0, help="tell of each message; -vv of more")
    loudness.add_argument("-q", dest="quiet", action="store_const", const=1, default=0, help="tell of errors only")
    return parser


def parse_arguments(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """With `config` and `pairings` taken from the operands. UsageError; SystemExit after --help and --version."""
    given = sys.argv[1:] if argv is None else argv
    end = given.index("--") if "--" in given else len(given)
    arguments = parser.parse_intermixed_args(given[:end])
    arguments.operands += given[end + 1 :]  # the library would take names that begin with - for options
    if not arguments.operands:
        raise UsageError("CONFIG-FILE is missing")
    arguments.config, *arguments.pairings = arguments.operands
    return arguments


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) >= 1):
        raise argparse.ArgumentTypeError("NUM must be a whole number of at least 1")
    return int(text)


def make_options(arguments: argparse.Namespace, config: Config, environ: Mapping[str, str]) -> Options:
    """UsageError for a pairing that the configuration does not have."""
    known = [pairing.name for pairing in config.pairings]
    for name in arguments.pairings:
        if name not in known:
            from pushpull.wording import nearest, printable

            raise UsageError(
                f"no pairing '{printable(name)}' in {printable(config.path)}{nearest(name, known)}",
                remedy=f"Known: {', '.join(known)}.",
            )
    return Options(
        pairings=tuple(dict.fromkeys(arguments.pairings)),
        allow_mass_delete=arguments.allow_mass_delete,
        readopt=arguments.readopt,
        yes=arguments.yes,
        once=arguments.once,
        daemon=arguments.daemon,
        dry_run=arguments.dry_run,
        auth_only=arguments.test_auth_only,
        debug_imap=environ.get("DEBUG_IMAP", "") not in ("", "0"),
    )


def _end_of_help(end: SystemExit) -> int:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # its reader has seen enough; Python would complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return EX_OK if end.code is None else int(end.code)


def _usage_error(parser: argparse.ArgumentParser, error: UsageError) -> int:
    from pushpull.output import Output

    error.remedy = f"{parser.format_usage().strip()}; pushpull --help tells more"
    Output().error(error)
    return error.exit_code


# --- the configuration ---------------------------------------------------------------------------------------


def load(path: str, output: Output) -> Config:
    """The configuration in the file; warns of a password that others can read, and of a file that they can change.

    ConfigError with all faults of it, also when it cannot be read at all.
    """
    from pushpull.config import parse

    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            text = file.read().decode("utf-8", "surrogateescape")  # the parser tells the line that is not UTF-8
        cwd = os.getcwd()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a NUL in its name"
        raise ConfigError(path, [f"cannot be read: {reason}"]) from error
    config = parse(text, path, home=os.path.expanduser("~"), cwd=cwd)
    _warn_of_others(path, status.st_mode, config, output)
    return config


def _warn_of_others(path: str, mode: int, config: Config, output: Output) -> None:
    if not stat.S_ISREG(mode):
        return
    if config.holds_password and mode & (stat.S_IRGRP | stat.S_IROTH):
        output.line(levels.WARNING, f"{path} holds a password and can be read by others; chmod 600 mends that")
    if mode & (stat.S_IWGRP | stat.S_IWOTH):  # its commands, its server
        output.line(levels.WARNING, f"{path} can be changed by others, who then act as you; chmod go-w mends that")


# --- questions -----------------------------------------------------------------------------------------------


class TerminalAsker:
    """Asks on standard error, if that and standard input are a terminal; `options.Asker`."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def confirm(self, question: str) -> bool | None:
        """Asked again until the answer is y, yes, n or no."""
        while self._can_ask():
            self._output.question(f"{question} [y/n]")
            answer = sys.stdin.readline()
            if not answer:
                return None
            match answer.strip().lower():
                case "y" | "yes":
                    return True
                case "n" | "no":
                    return False
        return None

    def password(self, prompt: str) -> str | None:
        if not self._can_ask():
            return None
        from getpass import getpass

        from pushpull.wording import printable

        self._output.wipe()
        try:
            # getpass shows the prompt after it switched the echo off, and drops what was typed before.
            return getpass(f"{printable(prompt)} ", stream=sys.stderr) or None
        except EOFError:
            return None

    def _can_ask(self) -> bool:
        return self._output.on_terminal and sys.stdin is not None and sys.stdin.isatty()


def _keep_private() -> None:
    """No core dump: passwords are in memory. And no umask that takes what we make from ourselves."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    os.umask(os.umask(0o077) & 0o077)


def _open_standard_descriptors() -> None:
    """Open 0, 1 and 2 on /dev/null where they are closed.

    Else the next file opened, such as the state, would be standard error to every command that we run.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
