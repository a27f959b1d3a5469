# SPDX-License-Identifier: MIT
"""Every key that a configuration may hold: its section, how its text is read, its default, what it is for.

The table drives the parser (`pushpull.config`), the sample and the manual are tested against it. A converter takes
the text (never empty) and the `Place` that relative things refer to; it raises ValueError worded as what the value
must be: "must be yes or no".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn

from pushpull import shellwords
from pushpull.values import value


class Secret:
    """A text that no message, log, traceback or pickle shows by accident; only `reveal` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _: object) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not written anywhere")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


@value
class Place:
    """What `~` and a relative path refer to; both absolute."""

    home: str
    cwd: str


Converter = Callable[[str, Place], object]


@value
class Key:
    """`default` is text as in the file; "" leaves the key unset. A `secret` value is never shown."""

    section: str
    name: str
    convert: Converter
    default: str
    help: str
    required: bool = False
    secret: bool = False


# --- converters ----------------------------------------------------------------------------------------------


def _text(text: str, _: Place) -> str:
    return text


def _secret(text: str, _: Place) -> Secret:
    return Secret(text)


def _boolean(text: str, _: Place) -> bool:
    if text.lower() not in ("yes", "no", "true", "false"):
        raise ValueError("must be yes or no")
    return text.lower() in ("yes", "true")


def _whole(lowest: int, highest: int) -> Converter:
    def convert(text: str, _: Place) -> int:
        # int() alone takes "1_0", " 5" and digits of every script, and refuses very long ones in its own way.
        number = int(text) if re.fullmatch("[0-9]{1,18}", text) else -1
        if not lowest <= number <= highest:
            raise ValueError(f"must be a whole number from {lowest} to {highest}")
        return number

    return convert


def _minutes(text: str, _: Place) -> float:
    number = float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}", text) else 0.0
    if number <= 0:
        raise ValueError("must be a number of minutes above 0, such as 29 or 4.5")
    return number


def _one_of(*words: str) -> Converter:
    listed = ", ".join(words[:-1]) + " or " + words[-1]

    def convert(text: str, _: Place) -> str:
        if text.lower() not in words:
            raise ValueError(f"must be {listed}")
        return text.lower()

    return convert


def _umask(text: str, _: Place) -> int:
    if not re.fullmatch("[0-7]{1,4}", text) or int(text, 8) > 0o777:
        raise ValueError("must be octal digits, from 000 to 777")
    if int(text, 8) & 0o700:
        raise ValueError("must leave the owner every permission, such as 077 or 027")
    return int(text, 8)


def _path(text: str, place: Place) -> str:
    path = shellwords.expand_tilde(text, place.home)
    return path if path.startswith("/") else f"{place.cwd.rstrip('/')}/{path}"


def _command(text: str, place: Place) -> tuple[str, ...]:
    try:
        words = shellwords.split(text, place.home)
    except ValueError as problem:
        raise ValueError(f"must be words as a shell reads them, but has {problem}") from None
    if not words[0]:
        raise ValueError("must start with the name of a program")
    return words


def _host(text: str, _: Place) -> str:
    if re.search(r"[\s/@]", text):
        raise ValueError("must be the name or address of a server, without blanks, '/' or '@'")
    return text


def _names(text: str, _: Place) -> frozenset[str]:
    """Capabilities (RFC 9051 section 9: atoms). QRESYNC implies CONDSTORE (RFC 7162 section 3.2.3)."""
    names = frozenset(text.upper().replace(",", " ").split())
    if not names or not all(re.fullmatch("[A-Z0-9+=_.-]+", name) for name in names):
        raise ValueError("must be names of IMAP extensions with blanks or commas between them")
    return names | {"QRESYNC"} if "CONDSTORE" in names else names


def _fingerprints(text: str, _: Place) -> tuple[str, ...]:
    found = tuple(word.replace(":", "").lower() for word in text.replace(",", " ").split())
    if not found or not all(re.fullmatch("[0-9a-f]{64}", word) for word in found):
        raise ValueError("must be SHA-256 fingerprints of 64 hex digits, with blanks or commas between them")
    return found


def _mailbox(text: str, _: Place) -> str:
    """INBOX is the one name without case (RFC 9051 section 5.1)."""
    return "INBOX" if text.upper() == "INBOX" else text


def _folder(text: str, _: Place) -> str:
    """A path below local.maildir, `.` for the Maildir itself; in one spelling, since the state knows it by that."""
    parts = text.split("/")
    if text.startswith("/") or parts[0] == "~" or ".." in parts:
        raise ValueError("must be a folder inside local.maildir, without a leading '/' or '~' and without '..'")
    return "/".join(part for part in parts if part not in ("", ".")) or "."


# --- the table -----------------------------------------------------------------------------------------------

_SECONDS = _whole(1, 1_000_000)
_COUNT = _whole(0, 1_000_000_000)

# fmt: off
KEYS: tuple[Key, ...] = (
    Key(
        "general", "restart_after_error_seconds", _whole(0, 1_000_000), "300",
        "The longest gap between two attempts after errors, in seconds.",
    ),
    Key("log", "file", _path, "", "The log file; none is written without it."),
    Key("log", "syslog", _boolean, "no", "Whether to write to the system log, too."),
    Key(
        "log", "level", _one_of("error", "warning", "notice", "info", "debug"), "info",
        "What goes to the log: error, warning, notice, info or debug.",
    ),
    Key(
        "ssl", "certificate_file", _path, "",
        "Certificates of the authorities to trust (PEM); the system's own without it.",
    ),
    Key(
        "ssl", "certificate_sha256", _fingerprints, "",
        "SHA-256 fingerprints of the server's certificate; they replace all other checks of it.",
    ),
    Key("local", "state", _path, "", "The file that remembers what both sides agreed on.", required=True),
    Key("local", "maildir", _path, "", "The directory that holds the folders.", required=True),
    Key("local", "fsync", _boolean, "yes", "Whether mail is on the disk for certain before it counts as delivered."),
    Key("local", "buckets", _boolean, "no", "Whether new mail is spread over 256 directories in each folder."),
    Key(
        "local", "quiesce_seconds", _whole(0, 86_400), "1",
        "How long a folder has to be quiet before its changes are looked at, in seconds.",
    ),
    Key("imap", "host", _host, "", "The server.", required=True),
    Key("imap", "port", _whole(1, 65535), "993", "The server's port; 143 with tls = starttls."),
    Key(
        "imap", "tls", _one_of("implicit", "starttls"), "implicit",
        "Whether TLS starts with the first byte (implicit) or by the command STARTTLS (starttls).",
    ),
    Key("imap", "login_username", _text, "", "The user to log in as with a password."),
    Key("imap", "login_password", _secret, "", "The password; asked for at the terminal without it.", secret=True),
    Key(
        "imap", "login_password_command", _command, "",
        "A command that prints the password as its first line.", secret=True,
    ),
    Key("imap", "oauth2_username", _text, "", "The user to log in as with an OAuth2 token instead of a password."),
    Key(
        "imap", "oauth2_refresh_command", _command, "",
        "A command that prints an OAuth2 access token; run before each connection.", secret=True,
    ),
    Key("imap", "timeout_seconds", _SECONDS, "60", "How long the server may stay silent, in seconds."),
    Key("imap", "disable_extensions", _names, "", "Extensions not to use even if the server offers them."),
    Key("imap", "idle", _boolean, "no", "Whether to stay and synchronise changes as they happen."),
    Key(
        "imap", "idle_timeout_minutes", _minutes, "29",
        "After how many minutes the wait for changes (IDLE) is renewed; 29 at most.",
    ),
    Key(
        "imap", "sync_on_idle_timeout", _boolean, "no",
        "Whether to look for changes on the server each time that the wait is renewed.",
    ),
    Key(
        "imap", "poll_seconds", _SECONDS, "60",
        "How often a mailbox is asked for changes where the server or max_connections allow no IDLE, in seconds.",
    ),
    Key(
        "imap", "max_connections", _whole(2, 1000), "8",
        "How many connections to the server the live mode makes at most.",
    ),
    Key("pairing", "local", _folder, "", "The folder, relative to local.maildir.", required=True),
    Key("pairing", "remote", _mailbox, "", "The mailbox on the server, in UTF-8.", required=True),
    Key(
        "command", "post_sync_local_change", _command, "",
        "A command to run after a cycle that changed local files.",
    ),
    Key(
        "command", "timeout_seconds", _SECONDS, "600",
        "How long that command may run, in seconds.",
    ),
    Key("daemon", "pidfile", _path, "", "The file that holds the number of the daemon; local.state.pid without it."),
    Key("daemon", "umask", _umask, "077", "Which permissions files of the daemon lack, in octal digits."),
    Key(
        "safety", "local_delete_limit", _COUNT, "50",
        "How many vanished files may mark messages deleted on the server.",
    ),
    Key(
        "safety", "remote_delete_limit", _COUNT, "50",
        "How many expunged messages may mark files deleted; more may if they stay within the percentage.",
    ),
    Key(
        "safety", "remote_delete_percent", _whole(0, 100), "33",
        "The percentage of a pairing's messages that may go beyond remote_delete_limit, up to 1,000 messages.",
    ),
    Key(
        "safety", "window_minutes", _whole(0, 1_000_000), "10",
        "The minutes over which deletions are added up.",
    ),
)
# fmt: on

SAFETY = tuple(key for key in KEYS if key.section == "safety")
BY_NAME = {(key.section, key.name): key for key in KEYS} | {("pairing", key.name): key for key in SAFETY}
"""The limits may stand in a pairing too."""
SECTIONS = tuple(dict.fromkeys(key.section for key in KEYS))
