# SPDX-License-Identifier: MIT
"""What a proxy (`tests.support.proxy`) is told to do with the lines that pass: rules, cuts, and lists of extensions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Direction = Literal["up", "down"]
"""`up` is what the program says, `down` is what the server says."""

How = Literal["close", "reset", "half"]
"""How a link ends. `close`: both sides get what was let through, then the end. `reset`: RST to both sides, what was
still under way is lost. `half`: FIN to the receiver of that direction only; the other direction goes on."""

OWN_TAG = b"proxy"
"""Tags of commands that a proxy sends by itself begin with this."""

LITERAL = re.compile(rb"\{(\d+)(\+?)\}\r\n$")


@dataclass
class Rule:
    """What to do with a line that `pattern` matches (searched, without its tag, any case).

    `skip` lines that match are let through first, then `count` lines are acted upon. Commands: `answer` is sent back
    in place of the server's (its tag before it; `untagged` goes before that); `take` gets the command and its literal,
    and may return such an answer. `lost`: the server acts, its answer is dropped, then the link ends. Answers:
    `replace` is what the match becomes; `drop` swallows the line; `idle` limits the rule to the time of an IDLE. Both:
    `cut` ends the link at the line (True is "close"), `after` it was let through; with `literal` set after so many
    bytes of the line's literal. `stall` lets nothing pass on that link from the line on. `before` is called first.
    """

    pattern: re.Pattern[bytes]
    skip: int = 0
    count: int = 1 << 30
    answer: bytes = b""
    untagged: bytes = b""
    take: Callable[[bytes, bytes], bytes | None] | None = None
    lost: bool = False
    replace: bytes | None = None
    drop: bool = False
    idle: bool = False
    cut: How | bool = False
    after: bool = False
    literal: int | None = None
    stall: bool = False
    before: Callable[[], object] | None = None
    hits: int = field(default=0, init=False)

    @property
    def how(self) -> How:
        return self.cut if isinstance(self.cut, str) else "close"

    @property
    def cuts_line(self) -> bool:
        return bool(self.cut) and self.literal is None

    @property
    def cuts_literal(self) -> int | None:
        return self.literal if self.cut else None

    def takes(self, line: bytes) -> bool:
        if not self.pattern.search(line) or self.skip + self.count <= self.hits:
            return False
        self.hits += 1
        return self.hits > self.skip


@dataclass
class Cut:
    """The end of a link at a place that is counted from now on, over all links; it happens once.

    At the `line`-th line of that direction (the one behind a literal is one too), before or `after` it was let
    through; or after so many `octets`. `gone`: no connection is taken from then on.
    """

    direction: Direction
    how: How = "close"
    line: int = 0
    octets: int = -1
    after: bool = False
    gone: bool = False
    done: bool = field(default=False, init=False)
    seen: int = field(default=0, init=False)
    where: str = field(default="", init=False)  # the line at which it happened

    def at(self, direction: Direction, line: bytes) -> bool:
        """Whether the link ends at this line, which is counted."""
        if self.done or not self.line or direction != self.direction:
            return False
        self.seen += 1
        self.done = self.seen == self.line
        if self.done:
            self.where = line.strip().decode("utf-8", "backslashreplace")
        return self.done

    def within(self, direction: Direction, data: bytes) -> int | None:
        """How much of the data passes before the link ends in it, which is counted; None: all of it."""
        if self.done or self.octets < 0 or direction != self.direction:
            return None
        left = self.octets - self.seen
        self.seen += len(data)
        if len(data) < left:
            return None
        self.done, self.where = True, data[:left][-60:].decode("utf-8", "backslashreplace")
        return left


@dataclass
class Traffic:
    """What passed, over all links. A turn is a command sent, or a literal's permission awaited, when nothing else was
    under way: the times that a program on a long line waits for a whole round trip."""

    lines_up: int = 0
    lines_down: int = 0
    octets_up: int = 0
    octets_down: int = 0
    turns: int = 0

    def line_passed(self, direction: Direction) -> None:
        if direction == "up":
            self.lines_up += 1
        else:
            self.lines_down += 1

    def octets_passed(self, direction: Direction, count: int) -> None:
        if direction == "up":
            self.octets_up += count
        else:
            self.octets_down += count

    def lines(self, direction: Direction) -> int:
        return self.lines_up if direction == "up" else self.lines_down

    def octets(self, direction: Direction) -> int:
        return self.octets_up if direction == "up" else self.octets_down


_CAPABILITIES = re.compile(rb"(^\* |\[)(CAPABILITY )([^\]\r\n]*)", re.IGNORECASE)
_COMMANDS = {
    "BINARY": r"\bBINARY(\.PEEK|\.SIZE)?\[",
    "COMPRESS=DEFLATE": r"^COMPRESS\b",
    "CONDSTORE": r"^(SELECT|EXAMINE) .*\(CONDSTORE\b|\b(UN)?CHANGEDSINCE\b|^(UID )?(FETCH|SEARCH) .*\bMODSEQ\b"
    r"|^STATUS .*\bHIGHESTMODSEQ\b",
    "CREATE-SPECIAL-USE": r"^CREATE .*\(USE\b",
    "ENABLE": r"^ENABLE\b",
    "ESEARCH": r"^(UID )?SEARCH RETURN\b",
    "ID": r"^ID\b",
    "IDLE": r"^IDLE\b",
    "LIST-EXTENDED": r"^LIST \(|^LIST .*\bRETURN \(",
    "LIST-STATUS": r"^LIST .*\bRETURN \(.*\bSTATUS\b",
    "METADATA": r"^(GET|SET)METADATA\b",
    "MOVE": r"^(UID )?MOVE\b",
    "NAMESPACE": r"^NAMESPACE\b",
    "NOTIFY": r"^NOTIFY\b",
    "OBJECTID": r"\b(EMAILID|THREADID|MAILBOXID)\b",
    "QRESYNC": r"\(QRESYNC\b|\bVANISHED\b",
    "QUOTA": r"^(GETQUOTA|SETQUOTA|GETQUOTAROOT)\b",
    "REPLACE": r"^(UID )?REPLACE\b",
    "SASL-IR": r"^AUTHENTICATE \S+ \S",
    "SORT": r"^(UID )?SORT\b",
    "STARTTLS": r"^STARTTLS\b",
    "THREAD": r"^(UID )?THREAD\b",
    "UIDPLUS": r"^UID EXPUNGE\b",
    "UNSELECT": r"^UNSELECT\b",
}
_USES = {name: re.compile(pattern.encode(), re.IGNORECASE) for name, pattern in _COMMANDS.items()}
_ANSWERS = {
    "CONDSTORE": (
        re.compile(rb"^\* OK \[(HIGHESTMODSEQ|NOMODSEQ)[^\r\n]*\r\n| MODSEQ \(\d+\)", re.IGNORECASE),
        re.compile(rb"^\* (OK|\d+ FETCH)", re.IGNORECASE),
    ),
    "UIDPLUS": (re.compile(rb"\[(APPENDUID|COPYUID) [^\]]*\] ?"), re.compile(rb"^\S+ OK")),
}
_NON_SYNCHRONISING = re.compile(rb"\{(\d+)\+\}\r\n$")


@dataclass
class Offer:
    """Which extensions the server has, by its lists; what it has not is refused, and does not show in its answers.

    STARTTLS is never among them: the proxy does not speak it.
    """

    words: tuple[str, ...] | None = None  # after the login; None: the server's own
    before: tuple[str, ...] | None = None  # before it; None: as after it, and the ways to log in
    refusal: bytes = b"BAD Unknown command"
    lacking: set[str] = field(default_factory=lambda: {"STARTTLS"})

    def has(self, name: str) -> bool:
        if name.upper() in self.lacking:
            return False
        return self.words is None or name.upper() in map(str.upper, (*self.words, *(self.before or ())))

    def edit(self, line: bytes) -> bytes:
        """An answer of the server as this one would give it; empty: it would not."""
        if b"CAPABILITY" in line.upper():
            line = _CAPABILITIES.sub(self._list, line)
        for name, (pattern, lines) in _ANSWERS.items():
            if not self.has(name) and lines.match(line):
                line = pattern.sub(b"", line)
        return line

    def _list(self, match: re.Match[bytes]) -> bytes:
        words: Sequence[str] = match[3].decode().split()
        if self.words is not None:
            ways = [word for word in words if word.startswith("AUTH=")]
            words = [*self.words, *ways] if not ways or self.before is None else self.before
        return match[1] + match[2] + " ".join(word for word in words if word.upper() not in self.lacking).encode()

    def refuses(self, command: bytes) -> bool:
        """Whether the command needs what is not offered."""
        literal = _NON_SYNCHRONISING.search(command)
        if literal and not self.has("LITERAL+") and (not self.has("LITERAL-") or int(literal[1]) > 4096):
            return True
        return any(not self.has(name) and pattern.search(command) for name, pattern in _USES.items())

    def edit_command(self, line: bytes) -> bytes:
        """ENABLE names what it likes; what is not there is not enabled (RFC 5161 section 3.1)."""
        tag, _, command = line.partition(b" ")
        if not command.upper().startswith(b"ENABLE "):
            return line
        known = [word for word in command.split()[1:] if self.has(word.decode())]
        return b" ".join([tag, b"ENABLE", *(known or [b"X-NOTHING"])]) + b"\r\n"
