# SPDX-License-Identifier: MIT
"""Configuration text -> values, or one error that names every fault in it.

The format: each line is stripped of blanks; empty lines and lines that start with `#` are skipped; `[section]` or
`[pairing NAME]` up to the *last* `]` of the line; else `key = value`, split at the first `=`. Upper and lower case
differ, no line goes on on the next one, there are no quotes (but in commands) and no comments after a value. A
section that comes again goes on; a key that comes again is an error. An empty value is as good as none.

No value of an unknown key or of a line that cannot be read is ever shown: it may be a mistyped password.
"""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from pushpull.config_keys import BY_NAME, KEYS, SAFETY, SECTIONS, Key, Place, Secret
from pushpull.errors import ConfigError
from pushpull.values import field, struct, value
from pushpull.wording import nearest, printable

__all__ = [
    "Command",
    "Config",
    "Daemon",
    "General",
    "Imap",
    "Local",
    "Log",
    "PairingConfig",
    "Safety",
    "Secret",
    "Ssl",
    "parse",
]

_BLANKS = " \t\r\v\f"
_LAST = 1 << 62  # what is missing has no line, and is told after what is there
_MAILDIR_PARTS = frozenset({"cur", "new", "tmp"})
_HEX = frozenset("0123456789abcdef")
# Anything else before the = may be a part of a password ("login_password: top=secret") and is not shown.
_LIKE_A_KEY = re.compile(r"[A-Za-z0-9_.-]{1,60}")


@value
class General:
    """`[general]`."""

    restart_after_error_seconds: int


@value
class Log:
    """`[log]`; `level` in lower case."""

    file: str | None
    syslog: bool
    level: str


@value
class Ssl:
    """`[ssl]`; fingerprints are 64 lower-case hex digits, none when the chain is to be checked."""

    certificate_file: str | None
    certificate_sha256: tuple[str, ...]


@value
class Local:
    """`[local]`; the paths are absolute."""

    state: str
    maildir: str
    fsync: bool
    buckets: bool
    quiesce_seconds: int


@value
class Imap:
    """`[imap]`. Exactly one of the two usernames is set; commands are words, none when unset."""

    host: str
    port: int
    tls: str  # "implicit" or "starttls"
    login_username: str | None
    login_password: Secret | None
    login_password_command: tuple[str, ...] = field(repr=False)  # its words may hold a secret
    oauth2_username: str | None
    oauth2_refresh_command: tuple[str, ...] = field(repr=False)
    timeout_seconds: int
    disable_extensions: frozenset[str]  # upper case
    idle: bool
    idle_timeout_minutes: float
    sync_on_idle_timeout: bool
    poll_seconds: int
    max_connections: int

    @property
    def login(self) -> str:
        """Whom the account belongs to, however the login is done."""
        return self.login_username or self.oauth2_username or ""

    @property
    def idle_timeout_seconds(self) -> int:
        """1 to 1740: a server may drop a client that is silent for 30 minutes (RFC 2177)."""
        return max(1, min(int(60 * self.idle_timeout_minutes), 1740))


@value
class Command:
    """`[command]`."""

    post_sync_local_change: tuple[str, ...]
    timeout_seconds: int


@value
class Daemon:
    """`[daemon]`; `pidfile` is absolute, `umask` a number."""

    pidfile: str
    umask: int


@value
class Safety:
    """The guards' limits, of `[safety]` or of one pairing."""

    local_delete_limit: int
    remote_delete_limit: int
    remote_delete_percent: int
    window_minutes: int


@value
class PairingConfig:
    """`[pairing NAME]`; `local` relative to the Maildir in one spelling, `folder` the absolute path of it."""

    name: str
    local: str
    remote: str
    folder: str
    safety: Safety

    @property
    def environment(self) -> dict[str, str]:
        """What the post-sync command is told of it."""
        return {"PUSHPULL_PAIRING": self.name, "PUSHPULL_FOLDER": self.folder}


@value
class Config:
    """A whole configuration without a fault in it; `pairings` in the order of the file, at least one."""

    path: str
    general: General
    log: Log
    ssl: Ssl
    local: Local
    imap: Imap
    pairings: tuple[PairingConfig, ...]
    command: Command
    daemon: Daemon
    safety: Safety

    @property
    def holds_password(self) -> bool:
        return self.imap.login_password is not None


def parse(text: str, path: str, home: str, cwd: str = "/") -> Config:
    """The configuration in `text`. `path` is its file, for messages; relative paths in it are below `cwd`.

    ConfigError with all faults, in the order of their lines, then what is missing.
    """
    return _Parser(text, path, Place(home, cwd)).config()


@value
class _Entry:
    line: int
    text: str


@struct
class _Section:
    kind: str  # "imap", "pairing"
    name: str  # of a pairing, else ""
    line: int
    entries: dict[str, _Entry] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)  # without those that could not be read

    @property
    def title(self) -> str:
        return f"[{printable(f'{self.kind} {self.name}'.rstrip())}]"

    def has(self, name: str) -> bool:
        """Whether a value was written, well or not."""
        return name in self.entries and self.entries[name].text != ""

    def line_of(self, name: str) -> int:
        return self.entries[name].line if name in self.entries else self.line


class _Parser:
    def __init__(self, text: str, path: str, place: Place) -> None:
        self.path = path
        self.place = place
        self.problems: list[tuple[int, str]] = []
        self.sections = {(kind, ""): _Section(kind, "", _LAST) for kind in SECTIONS if kind != "pairing"}
        self._read(text.removeprefix("\ufeff"))

    @property
    def pairings(self) -> list[_Section]:
        return [section for section in self.sections.values() if section.kind == "pairing"]

    def config(self) -> Config:
        for section in self.sections.values():
            self._convert(section)
        self._check_login()
        self._check_files()
        self._check_pairings()
        if self.problems:
            # Stable: several faults of one line stay in the order of the checks.
            told = sorted(self.problems, key=lambda problem: problem[0])
            raise ConfigError(self.path, [text if line == _LAST else f"line {line}: {text}" for line, text in told])
        return self._build()

    def _problem(self, line: int, text: str) -> None:
        self.problems.append((line, text))

    # --- lines -> entries

    def _read(self, text: str) -> None:
        section: _Section | None = None
        ignored = False  # below a heading that cannot be read one fault is enough
        for number, raw in enumerate(text.split("\n"), 1):
            line = raw.strip(_BLANKS)
            if not line or line.startswith("#"):
                continue
            if fault := _unreadable(line):
                self._problem(number, fault)
            elif line.startswith("["):
                section = self._heading(line, number)
                ignored = section is None
            elif section is not None:
                self._entry(section, line, number)
            elif not ignored:
                self._problem(number, "stands before the first [section]")

    def _heading(self, line: str, number: int) -> _Section | None:
        title, bracket, rest = line[1:].rpartition("]")
        kind, _, name = title.strip(_BLANKS).partition(" ")
        name = name.strip(_BLANKS)
        if not bracket:
            self._problem(number, "a [section] without its ']'")
        elif rest:
            self._problem(number, "text after the ']' of a [section]")
        elif kind == "pairing" and not name:
            self._problem(number, "[pairing] needs a name: [pairing NAME]")
        elif kind not in SECTIONS or (name and kind != "pairing"):
            shown = printable(title.strip(_BLANKS))
            self._problem(number, f"[{shown}]: unknown section{nearest(kind, SECTIONS)}")
        else:
            return self.sections.setdefault((kind, name), _Section(kind, name, number))
        return None

    def _entry(self, section: _Section, line: str, number: int) -> None:
        key, equals, value = line.partition("=")
        key, value = key.rstrip(_BLANKS), value.lstrip(_BLANKS)
        if not equals or not _LIKE_A_KEY.fullmatch(key):
            self._problem(number, f"{section.title}: neither a comment, nor a [section], nor key = value")
        elif (section.kind, key) not in BY_NAME:
            self._problem(number, f"{section.title} {key}: unknown key{_hint(section.kind, key)}")
        elif key in section.entries:
            first = section.entries[key].line
            self._problem(number, f"{section.title} {key}: given twice, first on line {first}")
        else:
            section.entries[key] = _Entry(number, value)

    # --- entries -> values

    def _convert(self, section: _Section) -> None:
        for key in KEYS:
            if key.section == section.kind:
                self._convert_key(section, key)
        if section.kind == "pairing":
            for key in SAFETY:
                if section.has(key.name):
                    self._convert_key(section, key)

    def _convert_key(self, section: _Section, key: Key) -> None:
        text = section.entries[key.name].text if section.has(key.name) else key.default
        if not text:
            if key.required:
                self._problem(section.line_of(key.name), f"{section.title} {key.name}: missing")
            return
        try:
            section.values[key.name] = key.convert(text, self.place)
        except ValueError as problem:
            shown = "***" if key.secret else printable(text)
            self._problem(section.line_of(key.name), f"{section.title} {key.name} = {shown}: {problem}")

    # --- what one key alone cannot tell

    def _check_login(self) -> None:
        imap = self.sections["imap", ""]
        login, oauth2 = imap.has("login_username"), imap.has("oauth2_username")
        if login and oauth2:
            self._problem(imap.line_of("oauth2_username"), "[imap] oauth2_username: not together with login_username")
        if not login and not oauth2:
            self._problem(_LAST, "[imap] login_username or oauth2_username: missing")
        if oauth2 and not imap.has("oauth2_refresh_command"):
            self._problem(_LAST, "[imap] oauth2_refresh_command: missing, oauth2_username needs it")
        if imap.has("login_password") and imap.has("login_password_command"):
            line = imap.line_of("login_password_command")
            self._problem(line, "[imap] login_password_command: not together with login_password")

    def _check_files(self) -> None:
        log, state = self.sections["log", ""], self.sections["local", ""].values.get("state")
        file = log.values.get("file")
        if file and state and posixpath.normpath(file) == posixpath.normpath(state):
            self._problem(
                log.line_of("file"), f"[log] file = {printable(file)}: is local.state, which it would destroy"
            )

    def _check_pairings(self) -> None:
        if not self.pairings:
            self._problem(_LAST, "[pairing NAME]: missing, nothing is to be synchronised")
        for one, other in combinations(self.pairings, 2):
            for key in ("local", "remote"):
                if key in one.values and one.values[key] == other.values.get(key):
                    shown = printable(other.values[key])
                    fault = f"{other.title} {key} = {shown}: {one.title} has it already"
                    self._problem(other.line_of(key), fault)
            for outer, inner in ((one, other), (other, one)):
                if _swallows(outer.values.get("local"), inner.values.get("local")):
                    shown = printable(inner.values["local"])
                    fault = f"{inner.title} local = {shown}: is where {outer.title} keeps its messages"
                    self._problem(inner.line_of("local"), fault)

    # --- texts -> values of our own

    def _values(self, kind: str) -> dict[str, Any]:
        """All values of a section; an unset command, set or list is empty, anything else unset is None."""
        return {key.name: None for key in KEYS if key.section == kind} | self.sections[kind, ""].values

    def _build(self) -> Config:
        local = Local(**self._values("local"))
        safety = self._values("safety")
        return Config(
            path=self.path,
            general=General(**self._values("general")),
            log=Log(**self._values("log")),
            ssl=Ssl(**_filled(self._values("ssl"), certificate_sha256=())),
            local=local,
            imap=self._imap(),
            pairings=tuple(_pairing(section, local.maildir, safety) for section in self.pairings),
            command=Command(**_filled(self._values("command"), post_sync_local_change=())),
            daemon=Daemon(**_filled(self._values("daemon"), pidfile=f"{local.state}.pid")),
            safety=Safety(**safety),
        )

    def _imap(self) -> Imap:
        values = self._values("imap")
        if values["tls"] == "starttls" and not self.sections["imap", ""].has("port"):
            values["port"] = 143
        empty = {"login_password_command": (), "oauth2_refresh_command": (), "disable_extensions": frozenset()}
        return Imap(**_filled(values, **empty))


def _pairing(section: _Section, maildir: str, safety: dict[str, Any]) -> PairingConfig:
    local, remote = section.values["local"], section.values["remote"]
    own = {key.name: section.values[key.name] for key in SAFETY if key.name in section.values}
    folder = maildir if local == "." else f"{maildir.rstrip('/')}/{local}"
    return PairingConfig(section.name, local, remote, folder, Safety(**(safety | own)))


def _filled(values: dict[str, Any], **empty: Any) -> dict[str, Any]:
    return values | {name: value for name, value in empty.items() if values[name] is None}


def _unreadable(line: str) -> str:
    for char in line:
        category = unicodedata.category(char)
        if category == "Cs":
            return "is not UTF-8"
        if category == "Cc" and char != "\t":
            return "holds a control character"
    return ""


def _hint(kind: str, key: str) -> str:
    elsewhere = [f"[{section}]" for section in SECTIONS if (section, key) in BY_NAME]
    if elsewhere:
        return f" (it belongs in {elsewhere[0]})"
    return nearest(key, list(_names(kind)))


def _names(kind: str) -> Iterator[str]:
    return (name for section, name in BY_NAME if section == kind)


def _swallows(outer: str | None, inner: str | None) -> bool:
    """Whether the folder `inner` is a directory that a scan of `outer` takes for its own: cur, or a bucket."""
    if outer is None or inner is None or outer == inner:
        return False
    prefix = "" if outer == "." else outer + "/"
    if not inner.startswith(prefix) or inner == ".":
        return False
    first = inner[len(prefix) :].split("/")[0]
    return first in _MAILDIR_PARTS or (len(first) == 2 and _HEX.issuperset(first))
