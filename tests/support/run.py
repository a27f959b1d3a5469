# SPDX-License-Identifier: MIT
"""One user's account, one Maildir, one configuration: runs the real program on them and looks at both sides.

What a side holds is written as words: `A` is the message A without flags, `A:FS` is it with \\Flagged and \\Seen,
`A:S A` are two copies. `assert_both("A:F B")` compares.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.client import Client, Remote
from tests.support.messages import imap_flags, letters_of, lf, mail
from tests.support.server import Server

if TYPE_CHECKING:
    from tests.support.forks import Forks

ROOT = Path(__file__).resolve().parents[2]
STRATEGIES = {"qresync": "", "condstore": "QRESYNC", "plain": "CONDSTORE"}
"""What `imap.disable_extensions` says to make the program observe in each of the three ways."""

LONG_AGO = 1_600_000_000
_DESTRUCTIVE = re.compile(r"(UID )?(EXPUNGE|CLOSE|MOVE|DELETE|REPLACE|RENAME)\b", re.IGNORECASE)
_CHANGING = re.compile(
    r"(UID )?(STORE|APPEND|COPY|CREATE|EXPUNGE|CLOSE|MOVE|DELETE|RENAME|SETMETADATA)\b", re.IGNORECASE
)
_DOWNLOADING = re.compile(r"UID FETCH .*(BODY(\.PEEK)?\[\]|RFC822(?!\.)|BINARY)", re.IGNORECASE)


@dataclass(frozen=True)
class Run:
    """One finished run of the program."""

    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}--- stderr\n{self.err}"


@dataclass
class File:
    """One file of cur/ or new/, of the folder or a bucket."""

    path: Path
    name: str  # before the first ':'
    letters: str
    body: bytes


@dataclass
class Setup:
    """`pairings` maps a pairing's name to its local folder and its mailbox; the first is what helpers mean unless
    told. `settings` are sections of the configuration that override the defaults."""

    server: Server
    user: str
    base: Path
    strategy: str = field(default_factory=lambda: os.environ.get("PUSHPULL_STRATEGY", "qresync"))
    pairings: dict[str, tuple[str, str]] = field(default_factory=lambda: {"inbox": ("inbox", "INBOX")})
    settings: dict[str, dict[str, str]] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    port: int = 0  # of a proxy; 0: the server's
    program: tuple[str, ...] = ("-m", "pushpull")
    tracer: tuple[str, ...] = ()  # a command line that runs the program's
    forks: Forks | None = None
    known: dict[bytes, str] = field(default_factory=dict)
    _serial: int = 0

    # --- the program ------------------------------------------------------------------------------------------

    @property
    def config(self) -> Path:
        return self.base / "pushpull.conf"

    @property
    def state(self) -> Path:
        return self.base / "state.db"

    @property
    def maildir(self) -> Path:
        """The local folder of the first pairing."""
        return self.folder()

    def folder(self, pairing: str = "") -> Path:
        local, _ = self._pairing(pairing)
        return self.base / "mail" / local

    def configuration(self) -> dict[str, dict[str, str]]:
        sections: dict[str, dict[str, str]] = {
            "log": {"file": str(self.base / "log"), "level": "debug"},
            "ssl": {"certificate_file": str(self.server.ca_file)},
            "local": {"state": str(self.state), "maildir": str(self.base / "mail"), "fsync": "yes"},
            "imap": {
                "host": self.server.host,
                "port": str(self.port or self.server.port),
                "login_username": self.user,
                "login_password": self.server.users.get(self.user, self.server.password),
                "idle": "no",
                "disable_extensions": STRATEGIES[self.strategy],
            },
        }
        for name, (local, remote) in self.pairings.items():
            sections[f"pairing {name}"] = {"local": local, "remote": self.server.remote_name(remote)}
        for section, keys in self.settings.items():
            sections.setdefault(section, {}).update(keys)
        return sections

    def write_config(self) -> Path:
        lines: list[str] = []
        for section, keys in self.configuration().items():
            lines += [f"[{section}]", *(f"    {key} = {value}".rstrip() for key, value in keys.items()), ""]
        text = "\n".join(lines)
        if not self.config.exists() or self.config.read_text(encoding="utf-8") != text:  # the disk may be full
            self.config.write_text(text, encoding="utf-8")
            self.config.chmod(0o600)
        return self.config

    def command(self, *args: str, names: Sequence[str] | None = None) -> list[str]:
        """The command line. `names` are those of pairings; None: those among `args`, else the first pairing's."""
        options = [arg for arg in args if arg not in self.pairings]
        if names is None:
            names = [arg for arg in args if arg in self.pairings] or [next(iter(self.pairings))]
        return [*self.tracer, sys.executable, *self.program, *options, str(self.config), *names]

    def environment(self) -> dict[str, str]:
        unwanted = ("DEBUG_IMAP", "NO_COLOR", "PYTHONDONTWRITEBYTECODE")  # the last would compile the program each time
        inherited = {key: value for key, value in os.environ.items() if key not in unwanted}
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {**inherited, "PYTHONPATH": paths, "TZ": "UTC", **self.env}

    def start(self, *args: str, names: Sequence[str] | None = None) -> subprocess.Popen[str]:
        """Start the program and return at once."""
        self.write_config()
        return subprocess.Popen(
            self.command(*args, names=names),
            env=self.environment(),
            cwd=self.base,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str], *, timeout: float = 90) -> Run:
        """Wait for its end; a program that hangs is killed and is an AssertionError."""
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"no end after {timeout:g} s\n{Run(process.returncode, out, err)}") from None
        return Run(process.returncode, out, err)

    def run(self, *args: str, names: Sequence[str] | None = None) -> Run:
        """One run, whatever its exit code."""
        if self.forks and not self.tracer:
            self.write_config()
            return self.forks.run(self.command(*args, names=names)[3:], self.environment(), self.base)
        return self.finish(self.start(*args, names=names))

    def sync(self, *args: str, expect: int = 0, names: Sequence[str] | None = None) -> Run:
        """One run that must end with the exit code `expect`."""
        run = self.run(*args, names=names)
        assert run.code == expect, f"exit code {run.code} instead of {expect}\n{run}"
        assert "Traceback" not in run.err, run
        return run

    def sync_again_changes_nothing(
        self, *args: str, expect: int = 0, quiet: bool = True, names: Sequence[str] | None = None
    ) -> Run:
        """A run now must change neither side, send nothing that could, and download no message. It prints nothing
        either, unless something is set aside or held, which is told each time (`quiet=False`)."""
        before = self.freeze()
        self.forget_sent()
        run = self.sync(*args, expect=expect, names=names)
        sent = self.sent()
        changing = [command for command in sent if _CHANGING.match(command) or _DOWNLOADING.match(command)]
        assert not changing, f"sent {changing}\n{run}"
        after = self.freeze()
        assert after == before, f"changed: {_difference(before, after)}\n{run}"
        if quiet:
            assert (run.out, run.err) == ("", ""), run
        return run

    # --- the wire ---------------------------------------------------------------------------------------------

    def sent(self) -> list[str]:
        """Commands that the program sent since `forget_sent`, without tags; literals as `(n bytes)`."""
        return self.server.commands(self.user)

    def forget_sent(self) -> None:
        self.assert_nothing_destroyed()
        self.server.forget_rawlog(self.user)

    def downloads(self) -> list[str]:
        """Commands sent that fetch whole messages."""
        return [command for command in self.sent() if _DOWNLOADING.match(command)]

    def count_sent(self, word: str) -> int:
        """How often a command was sent: `UID STORE`, `APPEND`."""
        return sum(command.upper().startswith(word) for command in self.sent())

    def assert_nothing_destroyed(self) -> None:
        """No EXPUNGE, CLOSE, MOVE, DELETE ... was ever sent, and every FETCH of a body was a PEEK."""
        sent = self.sent()
        assert not [command for command in sent if _DESTRUCTIVE.match(command)]
        assert not [command for command in sent if re.search(r"BODY\[|RFC822(?!\.(SIZE|HEADER))", command)]

    # --- the remote side --------------------------------------------------------------------------------------

    def client(self) -> Client:
        return self.server.client(self.user)

    def mailbox(self, pairing: str = "") -> str:
        return self._pairing(pairing)[1]

    def put_remote(
        self,
        message: str | bytes,
        letters: str = "",
        *,
        keywords: str = "",
        date: datetime | None = None,
        pairing: str = "",
    ) -> int:
        """Another client's APPEND; a str is the name of a message made by `mail`. Returns the UID."""
        body = self._message(message)
        when = date or datetime.fromtimestamp(LONG_AGO + self._next(), UTC)
        with self.client() as client:
            return client.append(self.mailbox(pairing), body, f"{imap_flags(letters)} {keywords}".strip(), when)

    def put_remotes(self, messages: Iterable[str | bytes], letters: str = "", *, pairing: str = "") -> list[int]:
        """Many at once, over one connection."""
        with self.client() as client:
            return [
                client.append(
                    self.mailbox(pairing),
                    self._message(message),
                    imap_flags(letters),
                    datetime.fromtimestamp(LONG_AGO + self._next(), UTC),
                )
                for message in messages
            ]

    def remote(self, pairing: str = "") -> Mapping[int, Remote]:
        return self.server.snapshot(self.mailbox(pairing), user=self.user)

    def uids(self, *names: str, pairing: str = "") -> list[int]:
        """UIDs of all messages with these names, ascending."""
        found = self.remote(pairing)
        return [uid for uid in sorted(found) if self.name_of(found[uid].body) in names]

    def flag_remote(self, name: str, change: str, *, pairing: str = "") -> None:
        """Another client's STORE: `change` is such as `+FS` or `-T`, or `+$Label1`."""
        sign, what = change[0], change[1:]
        flags = what if what.startswith("$") else imap_flags(what)
        with self.client() as client:
            store = client.add_flags if sign == "+" else client.remove_flags
            store(self.mailbox(pairing), self.uids(name, pairing=pairing), flags)

    def expunge_remote(self, *names: str, pairing: str = "") -> None:
        with self.client() as client:
            client.expunge(self.mailbox(pairing), self.uids(*names, pairing=pairing))

    def remote_state(self, pairing: str = "") -> list[str]:
        """The mailbox in words, sorted."""
        return sorted(_word(self.name_of(m.body), letters_of(m.flags)) for m in self.remote(pairing).values())

    # --- the local side ---------------------------------------------------------------------------------------

    def make_folder(self, pairing: str = "") -> Path:
        folder = self.folder(pairing)
        for name in ("cur", "new", "tmp"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        return folder

    def put_local(
        self,
        message: str | bytes,
        letters: str = "",
        *,
        directory: str = "cur",
        name: str = "",
        mtime: float | None = None,
        pairing: str = "",
    ) -> Path:
        """Deliver as a mail program does: write to tmp/, set the time, rename. In new/ there is no info part."""
        folder = self.make_folder(pairing)
        serial = self._next()
        name = name or f"{LONG_AGO + serial}.M{serial}P1.testhost"
        (folder / directory).mkdir(parents=True, exist_ok=True)
        path = folder / "tmp" / f"staged{serial}"
        path.write_bytes(self._message(message))
        when = LONG_AGO + serial if mtime is None else mtime
        os.utime(path, (when, when))
        target = folder / directory / (name if directory.endswith("new") else f"{name}:2,{letters}")
        path.rename(target)
        return target

    def files(self, pairing: str = "") -> list[File]:
        """Every file of the folder's cur/ and new/, with its bytes as they are."""
        found = []
        folder = self.folder(pairing)
        for path in sorted([*folder.glob("*/*"), *folder.glob("[0-9a-f][0-9a-f]/*/*")]):
            if path.parent.name in ("cur", "new") and path.is_file():
                name, _, info = path.name.partition(":")
                found.append(File(path, name, info.removeprefix("2,"), path.read_bytes()))
        return found

    def named(self, name: str, pairing: str = "") -> list[File]:
        """The files of a message, most often one."""
        return [file for file in self.files(pairing) if self.name_of(file.body) == name]

    def flag_local(self, name: str, change: str, *, pairing: str = "") -> None:
        """A mail program's rename: `change` is such as `+FS` or `-T`."""
        for file in self.named(name, pairing):
            letters = set(file.letters) | set(change[1:]) if change[0] == "+" else set(file.letters) - set(change[1:])
            file.path.rename(file.path.parent.parent / "cur" / f"{file.name}:2,{''.join(sorted(letters))}")

    def remove_local(self, *names: str, pairing: str = "") -> None:
        for name in names:
            for file in self.named(name, pairing):
                file.path.unlink()

    def local_state(self, pairing: str = "") -> list[str]:
        """The folder in words, sorted."""
        return sorted(_word(self.name_of(file.body), file.letters) for file in self.files(pairing))

    # --- both -------------------------------------------------------------------------------------------------

    def assert_state(self, *, remote: str | None = None, local: str | None = None, pairing: str = "") -> None:
        """Each side holds just this; None: whatever it holds."""
        found = {"remote": self.remote_state(pairing), "local": self.local_state(pairing)}
        wanted = {"remote": remote, "local": local}
        for side, words in wanted.items():
            if words is not None:
                assert found[side] == sorted(words.split()), f"{side}: {found}"

    def assert_both(self, words: str, pairing: str = "") -> None:
        self.assert_state(remote=words, local=words, pairing=pairing)

    def assert_equal_sides(self, pairing: str = "") -> list[str]:
        """Both sides hold the same messages (byte for byte but for line ends) with the same flags."""
        remote, local = self.remote_state(pairing), self.local_state(pairing)
        assert remote == local
        return local

    def name_of(self, body: bytes) -> str:
        """The name of a message that this test made; what nobody made is a `?` with a piece of its digest."""
        text = lf(body)
        return self.known.get(text) or "?" + hashlib.sha256(text).hexdigest()[:8]

    def freeze(self) -> dict[str, object]:
        """All that a run without changes must leave alone: names, inodes, times and sizes of the mail files and of
        the marker; every UID's flags and MODSEQ; the mailboxes' counters."""
        seen: dict[str, object] = {}
        top = self.base / "mail"
        for path in sorted(top.glob("**/*")):
            stat = path.lstat()
            whole = (stat.st_ino, stat.st_mtime_ns, stat.st_size, stat.st_mode)
            # A directory's time shows a file that came and went; in tmp/ that is nobody's business.
            seen[str(path.relative_to(top))] = whole if path.name != "tmp" else None
        with self.client() as client:
            for name, (_, mailbox) in self.pairings.items():
                seen[f"{name} counters"] = client.status(mailbox)
                for uid, message in client.snapshot(mailbox).items():
                    dated = "dates" not in self.server.lacks
                    seen[f"{name} {uid}"] = message if dated else replace(message, date=datetime.fromtimestamp(0, UTC))
        return seen

    def _pairing(self, name: str) -> tuple[str, str]:
        return self.pairings[name or next(iter(self.pairings))]

    def _message(self, message: str | bytes) -> bytes:
        body = mail(message) if isinstance(message, str) else message
        if isinstance(message, str):
            self.known.setdefault(lf(body), message)
        return body

    def know(self, name: str, body: bytes) -> bytes:
        """Give a message of one's own a name for the words; returns it."""
        self.known[lf(body)] = name
        return body

    def _next(self) -> int:
        self._serial += 1
        return self._serial


def _word(name: str, letters: str) -> str:
    return f"{name}:{letters}" if letters else name


def _difference(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    keys = sorted({*before, *after})
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys if before.get(key) != after.get(key)]
