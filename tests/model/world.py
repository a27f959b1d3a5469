# SPDX-License-Identifier: MIT
"""One example: a mailbox of a real server, a folder, a state file, and runs of the real program on them.

A run is `pushpull.cli.main()` in this process, with a configuration file, a new state connection and a new link each
time; one that is to be killed is the same in a forked process. It talks through the fault proxy. `World` has what
`tests.sync.oracle` looks at: server, folder, rows.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import sqlite3
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pushpull import cli
from pushpull.flags import ALL
from tests.model.clock import ModelClock
from tests.model.folder import Found, UserFolder
from tests.model.place import USER, Place, Shown
from tests.support.proxy import Proxy
from tests.support.rules import How
from tests.support.waiting import wait_for

DESTRUCTIVE = re.compile(r"(UID )?(EXPUNGE|CLOSE|MOVE|DELETE|REPLACE|RENAME)\b", re.IGNORECASE)
CHANGING = re.compile(r"(UID )?(STORE|APPEND|COPY|CREATE|SETMETADATA|SUBSCRIBE)\b", re.IGNORECASE)
DOWNLOADING = re.compile(r"UID FETCH .*(BODY(\.PEEK)?\[\]|RFC822(?!\.)|BINARY)", re.IGNORECASE)
DISTURBED = (0, 75)
KILLED = -9
STATE_FILES = ("", "-wal", "-shm")


@dataclass
class Ran:
    """One finished run. `sent` are its commands without tags; `code` is KILLED for one that was."""

    code: int
    err: str
    sent: list[str]

    @property
    def changes(self) -> list[str]:
        """Commands that change something, or fetch whole messages."""
        return [command for command in self.sent if CHANGING.match(command) or DOWNLOADING.match(command)]


@dataclass(frozen=True)
class Happening:
    """What the proxy does with the line after the first `line` ones of a side ("up": commands, "down": answers)."""

    side: str
    line: int
    pattern: str = "."
    before: Callable[[], object] | None = None
    cut: How | Literal[False] = False
    after: bool = False
    lost: bool = False
    answer: bytes = b""


class Server:
    """The mailbox, as the oracle looks at it."""

    mask = ALL

    def __init__(self, place: Place, mailbox: str) -> None:
        self._place, self.mailbox = place, mailbox
        self._seen: dict[int, Shown] | None = None

    @property
    def messages(self) -> dict[int, Shown]:
        if self._seen is None:
            self._seen = self._place.other.messages(self.mailbox)
        return self._seen

    def changed(self) -> None:
        self._seen = None


@dataclass
class World:
    """Context manager. `settings` are lines for sections of the configuration."""

    place: Place
    settings: dict[str, dict[str, str]] = field(default_factory=dict)

    def __enter__(self) -> World:
        self.place.examples += 1
        number = self.place.examples
        self.directory = self.place.base / f"example{number}"
        self.directory.mkdir()
        self.server = Server(self.place, f"m{number}")
        self.folder = UserFolder(self.directory / "mail" / "inbox")
        self.state = self.directory / "state"
        self.clock = ModelClock(self.place.wait_for_sessions)
        self.runs: list[Ran] = []
        self.removed: set[int] = set()  # inodes that the user took away or wrote into
        self.expunged: set[int] = set()  # UIDs that other clients took away
        self.renumbered = False  # the UIDs mean other messages now
        self.errors: list[BaseException] = []
        self._one_at_a_time, self._over = threading.Lock(), threading.Event()
        self.place.other.create(self.server.mailbox)
        with ExitStack() as opened:
            self.proxy = opened.enter_context(Proxy(self.place.server.starttls_port))
            opened.enter_context(self.clock.in_charge())
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._opened.close()
        self.place.wait_for_sessions()
        self.place.other.leave()
        self.place.other.delete_mailbox(self.server.mailbox)
        shutil.rmtree(self.directory)

    # --- runs ------------------------------------------------------------------------------------------------------

    def run(self, *args: str, happenings: Sequence[Happening] = (), kill: Callable[[], object] | None = None) -> Ran:
        """One run, whatever its exit code. With `kill` it is a process of its own, in which that is called first."""
        self.clock.pass_by(5.0)
        before, uids = self.folder.files, self.server.messages
        self.removed.clear()
        self.expunged.clear()
        self.renumbered = False
        already = len(self.proxy.seen)
        arguments = ["-vv", "--yes", *args, str(self._config())]
        with self._disturbed(happenings):
            code, err = _forked(arguments, kill) if kill else _called(arguments)
        self.place.wait_for_sessions()
        self.server.changed()
        ran = Ran(code, err, self.proxy.seen[already:])
        self.runs.append(ran)
        self._nothing_was_destroyed(ran, before, uids)
        return ran

    @contextmanager
    def _disturbed(self, happenings: Sequence[Happening]) -> Iterator[None]:
        lists = {"up": self.proxy.commands, "down": self.proxy.answers}
        kept = {side: list(rules) for side, rules in lists.items()}
        self.errors.clear()
        self._over.clear()
        for each in happenings:
            add = self.proxy.on_command if each.side == "up" else self.proxy.on_answer
            add(
                each.pattern,
                skip=each.line,
                count=1,
                before=each.before and self._guarded(each.before),
                cut=each.cut,
                after=each.after,
                lost=each.lost,
                answer=each.answer,
            )
        try:
            yield
        finally:
            for side, rules in lists.items():
                rules[:] = kept[side]
            with self._one_at_a_time:  # one that began in time is finished
                self._over.set()
        if self.errors:
            raise self.errors[0]

    def _guarded(self, act: Callable[[], object]) -> Callable[[], object]:
        """What goes wrong in the proxy's thread is an error of the test, not a cut link."""

        def guarded() -> None:
            with self._one_at_a_time:
                try:
                    if not self._over.is_set():
                        act()
                except BaseException as error:
                    self.errors.append(error)

        return guarded

    def _config(self) -> Path:
        path = self.directory / "config"
        sections = {
            "ssl": {"certificate_file": str(self.place.server.ca_file)},
            "local": {"state": str(self.state), "maildir": str(self.directory / "mail")},
            "imap": {
                "host": "localhost",
                "port": str(self.proxy.port),
                "login_username": USER,
                "login_password": self.place.server.password,
                "idle": "no",
            },
            "safety": dict.fromkeys(("local_delete_limit", "remote_delete_limit"), "100000"),
            "pairing inbox": {"local": "inbox", "remote": self.server.mailbox},
        }
        for name, keys in self.settings.items():
            sections.setdefault(name, {}).update(keys)
        lines = [
            line
            for name, keys in sections.items()
            for line in (f"[{name}]", *(f"{key} = {value}" for key, value in keys.items()))
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        path.chmod(0o600)
        return path

    def _nothing_was_destroyed(self, ran: Ran, before: dict[bytes, Found], uids: dict[int, Shown]) -> None:
        """Promises 1 and 3, of each run: what was there is there, byte for byte, unless somebody else took it away."""
        assert ran.code != 70, ran.err
        assert "Traceback" not in ran.err, ran.err
        destroying = [command for command in ran.sent if DESTRUCTIVE.match(command)]
        assert not destroying, destroying
        reading = [command for command in ran.sent if re.search(r"BODY\[|RFC822(?!\.(SIZE|HEADER))", command)]
        assert not reading, ("a FETCH that sets \\Seen", reading)
        after = {found.inode: found for found in self.folder.files.values()}
        for path, found in before.items():
            if found.inode not in self.removed:
                assert found.inode in after, ("a file was removed", path)
                assert after[found.inode].data == found.data, ("a file was written into", path)
                assert after[found.inode].stamps[0] == found.stamps[0], ("a file's time changed", path)
        for uid, shown in uids.items():
            if not self.renumbered and uid not in self.expunged:
                there = self.server.messages.get(uid)
                assert there is not None, ("a message went", uid)
                assert there.body == shown.body, ("a message changed", uid, there)

    def run_frozen(self) -> tuple[bool, Ran]:
        """A run, and whether it changed nothing on either side and sent nothing that might."""
        before, uids = self.folder.frozen(), self.server.messages
        ran = self.run()
        return not ran.changes and self.folder.frozen() == before and self.server.messages == uids, ran

    def told(self) -> str:
        """Both sides and the state, for a failure."""
        lines = [f"{path!r} {_subject(found.data)}" for path, found in sorted(self.folder.files.items())]
        lines += [f"{uid} {shown.flags} {_subject(shown.body)}" for uid, shown in self.server.messages.items()]
        if self.state.exists():
            lines += [str({key: value for key, value in row.items() if value}) for row in self.rows()]
        return "\n".join(lines)

    # --- the state file ----------------------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, object]]:
        with closing(sqlite3.connect(self.state)) as state:
            state.row_factory = sqlite3.Row
            return [dict(row) for row in state.execute("SELECT * FROM pairing ORDER BY id")]

    def next_try(self) -> float:
        """When the last of those that failed may be tried again; 0 when none waits."""
        query = "SELECT max(next_try) FROM pairing WHERE problem <> '' AND next_try > ?"
        with closing(sqlite3.connect(self.state)) as state:
            (due,) = state.execute(query, (self.clock.time(),)).fetchone()
        return due or 0.0

    def copy_state(self) -> None:
        self._replace(self.state, self.directory / "state.copy")

    def restore_state(self) -> None:
        self._replace(self.directory / "state.copy", self.state)

    def lose_state(self) -> None:
        for suffix in STATE_FILES:
            Path(f"{self.state}{suffix}").unlink(missing_ok=True)

    @staticmethod
    def _replace(source: Path, target: Path) -> None:
        for suffix in STATE_FILES:
            Path(f"{target}{suffix}").unlink(missing_ok=True)
            if Path(f"{source}{suffix}").exists():
                shutil.copyfile(f"{source}{suffix}", f"{target}{suffix}")


def _subject(body: bytes) -> str:
    return next((line.decode(errors="replace") for line in body.splitlines() if line.startswith(b"Subject")), "")


def _called(arguments: list[str]) -> tuple[int, str]:
    with _signals_kept(), redirect_stderr(io.StringIO()) as err, redirect_stdout(io.StringIO()):
        code = cli.main(arguments)
    return code, err.getvalue()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """The program takes over the signals of its process; this one is the tests'."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
    kept = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _forked(arguments: list[str], kill: Callable[[], object]) -> tuple[int, str]:
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reading)
            kill()
            code, err = _called(arguments)
            os.write(writing, err.encode()[-30000:])
            os._exit(code)
        except BaseException:
            os.write(writing, traceback.format_exc().encode())
            sys.stderr.flush()
        finally:
            os._exit(70)
    os.close(writing)
    ended: list[int] = []

    def over() -> bool:
        done, status = os.waitpid(pid, os.WNOHANG)
        ended.extend([os.waitstatus_to_exitcode(status)] if done else [])
        return bool(done)

    try:
        wait_for(over, what="the end of a run that is to be killed", seconds=60)
    finally:
        if not ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        err = os.read(reading, 40000).decode(errors="replace")
        os.close(reading)
    return ended[0], err
