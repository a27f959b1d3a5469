# SPDX-License-Identifier: MIT
"""The demo's stage: both sides of one mailbox, the real pushpull command, and how all of it is shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message as Parsed
from pathlib import Path

from demo_server import FLAGS, MAILBOX, PASSWORD, USER, OtherProgram, Server

_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_SUBJECT, _REMOTE = 27, 30
_RUN_SECONDS = 60


class Broken(Exception):
    """Something is not as the demo promises."""


class Screen:
    """Standard output; colours only on a terminal that can, and not if NO_COLOR is set."""

    def __init__(self) -> None:
        able = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._colour = able and not os.environ.get("NO_COLOR")
        self.steps = 0
        self.checks = 0

    def paint(self, text: str, colour: str) -> str:
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self._colour and text else text

    def say(self, text: str = "", colour: str = "") -> None:
        print(self.paint(text, colour) if colour else text, flush=True)

    def step(self, title: str) -> None:
        self.steps += 1
        self.say()
        self.say(f"{self.steps}. {title}", "bold")

    def done_by_hand(self, where: str, what: str) -> None:
        self.say(f"   {self.paint(f'{where:<14}', 'yellow')} {what}")

    def quote(self, lines: Iterable[str]) -> None:
        """What pushpull says, within 80 columns."""
        for line in lines:
            for part in textwrap.wrap(line, 75, subsequent_indent="        ", break_on_hyphens=False):
                self.say(f"   {self.paint('|', 'dim')} {part}")

    def check(self, promise: str, *, kept: bool, instead: object = "") -> None:
        """Tell a promise that is kept; Broken with what is there instead when it is not."""
        if not kept:
            raise Broken(f"NOT true in step {self.steps}: {promise}{f'; instead: {instead}' if instead else ''}")
        self.checks += 1
        self.say(f"   {self.paint('ok', 'green')}  {promise}")


@dataclass
class Message:
    """One message on both sides; a side that has none is None. `file` is below the Maildir folder."""

    subject: str
    uid: int = 0
    remote: str | None = None
    local: str | None = None
    file: Path | None = None
    remote_bytes: bytes = b""
    local_bytes: bytes = b""


@dataclass
class Stage:
    """Messages are known by the first part of their Message-ID; flags by the Maildir's letters."""

    directory: Path
    server: Server
    other: OtherProgram
    pushpull: Path
    screen: Screen
    shown: dict[str, tuple[object, ...]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.directory / "Mail" / MAILBOX

    # --- pushpull

    def write_configuration(self) -> None:
        path = self.directory / "demo.conf"
        path.touch(0o600)
        lines = [
            "[ssl]",
            f"    certificate_file = {self.server.certificate.name}",
            "[local]",
            "    maildir = Mail",
            "    state = state.db",
            "[imap]",
            "    host = localhost",
            f"    port = {self.server.port}",
            "    tls = starttls",
            f"    login_username = {USER}",
            f"    login_password = {PASSWORD}",
            f"[pairing {MAILBOX}]",
            f"    local = {MAILBOX}",
            f"    remote = {MAILBOX}",
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.screen.say(f"   {path}:")
        for line in lines:
            self.screen.say(f"   | {line}", "dim")

    def stay(self) -> None:
        """Have pushpull stay from now on, and watch."""
        path = self.directory / "demo.conf"
        text = path.read_text(encoding="utf-8")
        for section, added in (("[local]\n", "    quiesce_seconds = 0\n"), ("[imap]\n", "    idle = yes\n")):
            text = text.replace(section, section + added)
            self.screen.say(f"   | {section}   | {added.rstrip()}", "dim")
        path.write_text(text, encoding="utf-8")

    def run(self, *options: str, expected: int = 0) -> str:
        """Run the real command, show what it says, and give that; its exit code is a promise, too."""
        arguments = [*options, "demo.conf"]
        self.screen.say(f"   {self.screen.paint('$ pushpull ' + ' '.join(arguments), 'cyan')}")
        done = subprocess.run(
            [self.pushpull, *arguments],
            check=False,
            cwd=self.directory,
            env={key: value for key, value in os.environ.items() if key != "DEBUG_IMAP"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_RUN_SECONDS,
        )
        said = done.stdout.decode("utf-8", "replace")
        self.screen.quote(said.splitlines() or ["(it says nothing: there was nothing to do)"] * (done.returncode == 0))
        if done.returncode != expected:
            raise Broken(f"pushpull ended with exit code {done.returncode}, not {expected}")
        return said

    # --- both sides

    def look(self) -> dict[str, Message]:
        """Everything that both sides hold."""
        found: dict[str, Message] = {}
        for uid, letters, data in self.other.look():
            message = self._of(found, data)
            self._demand_single(message.remote, message, "on the server")
            message.uid, message.remote, message.remote_bytes = uid, letters, data
        for path, data in self._files():
            message = self._of(found, data)
            self._demand_single(message.local, message, "here")
            letters = path.name.partition(":2,")[2]
            message.local, message.file, message.local_bytes = letters, path.relative_to(self.folder), data
        return found

    def letters_here(self) -> dict[str, str]:
        """As `look`, of this side alone and quicker; for waiting while it changes."""
        return {key_of(data): path.name.partition(":2,")[2] for path, data in self._files()}

    @staticmethod
    def letters_there(eyes: OtherProgram) -> dict[str, str]:
        """The same of the server."""
        return {key_of(data): letters for _, letters, data in eyes.look()}

    def _files(self) -> list[tuple[Path, bytes]]:
        """Every message file, looked for again when one was renamed meanwhile."""
        while True:
            paths = sorted(self.folder.glob("new/*")) + sorted(self.folder.glob("cur/*"))
            with suppress(FileNotFoundError):
                return [(path, path.read_bytes()) for path in paths]

    @staticmethod
    def _of(found: dict[str, Message], data: bytes) -> Message:
        subject = str(make_header(decode_header(header_of(data)["Subject"])))
        return found.setdefault(key_of(data), Message(subject))

    @staticmethod
    def _demand_single(already: str | None, message: Message, where: str) -> None:
        if already is not None:
            raise Broken(f"{message.subject!r} is twice {where}")

    def flags(self) -> dict[str, tuple[str | None, str | None]]:
        """Letters on the server and here of each message; None where it is not."""
        return {key: (message.remote, message.local) for key, message in self.look().items()}

    def same_bytes(self) -> bool:
        """Whether each message that is on both sides is the same one, line ends (CRLF there, LF here) apart."""
        pairs = [each for each in self.look().values() if each.remote is not None and each.local is not None]
        return bool(pairs) and all(each.remote_bytes == each.local_bytes.replace(b"\n", b"\r\n") for each in pairs)

    def fingerprint(self) -> object:
        """Changes with anything on either side: UIDs and flags there, names and inodes and times here."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        local = {(str(path), path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in files}
        return self.other.look(), local

    # --- what a person does here

    def flag_file(self, key: str, change: str) -> None:
        """`+S` or `-T`, as a mail reader does it: by renaming the file, into cur/, or whatever it is called by then."""
        while True:
            message = self._here(key)
            letters = set(message.local or "")
            letters = letters | set(change[1:]) if change[0] == "+" else letters - set(change[1:])
            old = self.folder / str(message.file)
            name = old.name.partition(":2,")[0]
            with suppress(FileNotFoundError):  # pushpull was quicker
                old.rename(self.folder / "cur" / f"{name}:2,{''.join(sorted(letters))}")
                return

    def remove_file(self, key: str) -> None:
        (self.folder / str(self._here(key).file)).unlink()

    def put_file(self, name: str, data: bytes, letters: str, seconds: float) -> None:
        """Store a message as a mail reader does: whole in tmp/, then moved; its date is the file's."""
        part = self.folder / "tmp" / name
        part.write_bytes(data)
        os.utime(part, (seconds, seconds))
        part.rename(self.folder / "cur" / f"{name}:2,{letters}")

    def _here(self, key: str) -> Message:
        message = self.look()[key]
        if message.file is None:
            raise Broken(f"{message.subject!r} is not here")
        return message

    # --- the table

    def show(self) -> None:
        """Both sides, a message a line; `>` where something is other than when last shown."""
        paint, seen = self.screen.paint, self.shown
        self.screen.say()
        self.screen.say(f"   {pad('message', _SUBJECT)} {pad('on the server', _REMOTE)} here, Mail/{MAILBOX}", "dim")
        found = self.look()
        for key, message in sorted(found.items(), key=lambda pair: pair[1].uid or 1000):
            now = (message.uid, message.remote, message.local)
            changed = seen.get(key) != now
            there = "-"
            if message.remote is not None:
                there = f"{message.uid}  {' '.join(FLAGS[letter] for letter in message.remote)}"
            line = f"{pad(message.subject, _SUBJECT)} {pad(there, _REMOTE)} {short_name(message.file)}"
            marked = "T" in (message.remote or "") + (message.local or "")
            self.screen.say(f" {paint('>', 'yellow') if changed else ' '} {paint(line, 'red') if marked else line}")
            seen[key] = now
        self.screen.say()


def header_of(data: bytes) -> Parsed:
    return message_from_bytes(data.partition(b"\r\n\r\n" if b"\r\n" in data else b"\n\n")[0])


def key_of(data: bytes) -> str:
    return re.sub(r"[<>]|@.*", "", str(header_of(data)["Message-ID"]))


def short_name(file: Path | None) -> str:
    """`cur/...:2,S`: what stands in the middle matters to nobody."""
    if file is None:
        return "-"
    _, mark, letters = file.name.partition(":")
    return f"{file.parent}/...{mark}{letters}"


def pad(text: str, width: int) -> str:
    """Fill, or cut, to a number of terminal columns."""
    out = ""
    for char in text:
        if columns(out + char) > width:
            break
        out += char
    return out + " " * (width - columns(out))


def columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
