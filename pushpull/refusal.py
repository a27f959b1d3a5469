# SPDX-License-Identifier: MIT
"""What a server's NO and BAD mean: response codes of RFC 5530, RFC 3501 and RFC 9051, and of servers in the field."""

from __future__ import annotations

import re

from pushpull.errors import MailboxMissing, MessageError, PushpullError, ServerBusy, ServerUnsupported
from pushpull.framing import Command

LATER = frozenset({"UNAVAILABLE", "INUSE", "LIMIT", "THROTTLED", "SERVERBUG"})
_MAILBOX = frozenset({"TRYCREATE", "NONEXISTENT"})
_FULL = frozenset({"OVERQUOTA"})
# Exchange, Cyrus, Gmail and others say 'later' in words only.
_LATER_WORDS = re.compile(
    r"unavailable|try (?:again|later)|temporar|too many (?:simultaneous |concurrent |open )?(?:connections|requests)"
    r"|too busy|timed? ?out",
    re.IGNORECASE,
)
_TOO_MUCH_WORDS = re.compile(r"command or bandwidth limit|bandwidth limit|rate limit|throttled", re.IGNORECASE)


def busy(command: Command, peer: str, *, stores: bool = False) -> ServerBusy | None:
    """ServerBusy for a NO that means 'later', by its code or, when it has none, by its words.

    Gmail says OVERQUOTA, to any command, to an account that asked or fetched too much. Of a command that `stores`
    nothing it cannot mean that there is no room.
    """
    if command.status == "OK":
        return None
    code = command.code
    if code in ("", "ALERT", *_FULL) and command.status == "NO":
        if (code in _FULL and not stores) or _TOO_MUCH_WORDS.search(command.text):
            code = "THROTTLED"
        elif code not in _FULL and _LATER_WORDS.search(command.text):
            code = "UNAVAILABLE"
    if code not in LATER:
        return None
    return ServerBusy(f"{peer} is busy ({command.name}): {command.answer}", code=code)


def demand_ok(command: Command, peer: str) -> None:
    """For commands that have no reason to fail: ServerBusy for NO, ServerUnsupported for BAD."""
    if command.status == "NO":
        raise busy(command, peer) or ServerBusy(
            f"{peer} refused {command.name}: {command.answer}", code=command.code or "NO"
        )
    if command.status != "OK":
        raise ServerUnsupported(f"{peer} does not understand {command.name}: {command.answer}")


def of_select(command: Command, peer: str, mailbox: str) -> PushpullError:
    """The error for a SELECT that was refused."""
    if later := busy(command, peer):
        return later
    if command.status == "NO":
        return MailboxMissing(
            f"mailbox {mailbox!r} cannot be opened: {command.answer}",
            remedy="check the name of the mailbox in the pairing",
        )
    return ServerUnsupported(
        f"{peer} does not understand {command.name}: {command.answer}",
        remedy="if it offers what it cannot do, try imap.disable_extensions = CONDSTORE",
    )


def of_fetch(command: Command, peer: str) -> PushpullError:
    """The error for a FETCH of bodies that was refused. An internal error is often one message's: it is that
    message's trouble, or it would hold up all others for ever."""
    later = busy(command, peer)
    if later is not None and later.code != "SERVERBUG":
        return later
    return MessageError(f"the server refused to hand it out: {command.answer}", permanent=command.status == "BAD")


def of_store(command: Command, peer: str) -> PushpullError:
    """The error for a STORE that was refused."""
    return busy(command, peer, stores=True) or MessageError(
        f"the server refused its flags: {command.answer}", permanent=command.status == "BAD"
    )


def of_append(command: Command, peer: str, mailbox: str) -> PushpullError:
    """The error for an APPEND that was refused."""
    if later := busy(command, peer, stores=True):
        return later
    if command.code in _MAILBOX:
        return MailboxMissing(f"mailbox {mailbox!r} does not exist any more: {command.answer}")
    return MessageError(f"the server refused it: {command.answer}", permanent=command.code not in _FULL)
