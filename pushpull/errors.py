# SPDX-License-Identifier: MIT
"""Errors, ordered by their consequence.

    PushpullError                 exit  consequence
    ├ UsageError                   64   stop
    ├ ConfigError(problems)        78   stop
    ├ MailboxMissing               78   hold this pairing
    ├ LoginRefused                 77   stop (never retried in a tight loop)
    ├ LocalDiskError               74   hold this pairing
    ├ StateUnusable                74   stop (corrupt, or newer than this program)
    ├ Refused                      65   hold this pairing: a guard, a marker
    │ └ NotConfirmed               65   a question without an answer
    ├ ServerUnsupported            69   stop
    │ └ CertificateRefused         69   stop
    │   └ CertificateFileUnusable  78   stop
    ├ Temporary                    75   retry
    │ ├ ConnectionLost                  reconnect: end of file, timeout, BYE, a protocol error
    │ │ └ DeltaLost                     the next observation compares everything
    │ ├ ServerBusy(code)                [UNAVAILABLE], [INUSE], [LIMIT], [THROTTLED] ...
    │ ├ CommandFailed                   a password, token or hook command
    │ ├ PairingLocked(pid)              another process works on this pairing
    │ └ StateBusy                       SQLite was busy for too long
    ├ Interrupted                   -   a signal asked the program to stop
    ├ MessageError(reason)          -   skip this message; its base does not advance
    └ ResyncNeeded(reason)          -   internal: the engine answers with a full compare

Anything that is not a PushpullError is a bug: a traceback and exit code 70.

Each error says what went wrong and where (`str(error)`), and what to do (`error.remedy`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

EX_OK = 0
EX_USAGE = 64
EX_REFUSED = 65
EX_UNSUPPORTED = 69
EX_BUG = 70
EX_DISK = 74
EX_TEMPORARY = 75
EX_LOGIN = 77
EX_CONFIG = 78

PRECEDENCE = (EX_BUG, EX_CONFIG, EX_LOGIN, EX_DISK, EX_REFUSED, EX_UNSUPPORTED, EX_TEMPORARY)
"""Of several pairings' exit codes the first of these that occurs is the program's."""


class PushpullError(Exception):
    """Base of everything that the program expects to go wrong."""

    exit_code: ClassVar[int] = EX_BUG

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class UsageError(PushpullError):
    """The command line asks for something impossible."""

    exit_code = EX_USAGE


class ConfigError(PushpullError):
    """The configuration file is wrong; `problems` names every fault found, one line each."""

    exit_code = EX_CONFIG

    def __init__(self, path: str, problems: Iterable[str]) -> None:
        self.path = path
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{path}: {problem}" for problem in self.problems))


class MailboxMissing(PushpullError):
    """The mailbox of a pairing does not exist on the server, or may not be opened."""

    exit_code = EX_CONFIG


class LoginRefused(PushpullError):
    """The server refused the login, or there is no password to log in with."""

    exit_code = EX_LOGIN


class LocalDiskError(PushpullError):
    """The local disk failed: full, read-only, no permission, an I/O error."""

    exit_code = EX_DISK


class StateUnusable(PushpullError):
    """The state file is corrupt, not ours, or was written by a newer pushpull."""

    exit_code = EX_DISK

    def __init__(self, message: str, *, remedy: str = "", corrupt: bool = False) -> None:
        super().__init__(message, remedy=remedy)
        self.corrupt = corrupt


class Refused(PushpullError):
    """Refused for safety; nothing was changed. The remedy names the options that allow it."""

    exit_code = EX_REFUSED


class NotConfirmed(Refused):
    """A question was answered by no, or there was nobody to ask."""


class ServerUnsupported(PushpullError):
    """The server lacks something that the program cannot do without."""

    exit_code = EX_UNSUPPORTED


class CertificateRefused(ServerUnsupported):
    """The server's certificate is not trusted, expired, for another name, or not the pinned one."""


class CertificateFileUnusable(CertificateRefused):
    """`ssl.certificate_file` cannot be read or holds no certificate, so none of the server's can be trusted."""

    exit_code = EX_CONFIG


class Temporary(PushpullError):
    """Likely to go away by itself; tried again with growing gaps."""

    exit_code = EX_TEMPORARY


class ConnectionLost(Temporary):
    """The link to the server is unusable: end of file, timeout, BYE, or an answer out of protocol."""


class DeltaLost(ConnectionLost):
    """The link was lost over the delta: some servers choke on one MODSEQ, each time. Next time compare everything."""


class ServerBusy(Temporary):
    """The server said NO with a code that means 'later'; `code` is upper case, such as UNAVAILABLE."""

    def __init__(self, message: str, *, code: str, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.code = code

    @property
    def throttled(self) -> bool:
        """It is about how much the account did of late: no message is to blame, and asking for less does not help."""
        return self.code == "THROTTLED"


def is_throttled(error: BaseException) -> bool:
    """See `ServerBusy.throttled`."""
    return isinstance(error, ServerBusy) and error.throttled


class Restless(Temporary):
    """A side changed all the while that it was looked at. What was achieved meanwhile gives no right to more attempts:
    whoever changes it may do so for ever.
    """


class CommandFailed(Temporary):
    """A command from the configuration (password, token, hook) failed, hung, or printed nothing."""


class PairingLocked(Temporary):
    """Another process works on the same pairing; `pid` is None when it left no number."""

    def __init__(self, message: str, *, pid: int | None, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.pid = pid


class StateBusy(Temporary):
    """Another process held the state file for longer than the busy timeout."""


class Interrupted(PushpullError):
    """A signal asked the program to stop; durable work was committed."""

    exit_code = EX_TEMPORARY


class MessageError(PushpullError):
    """One message cannot be transferred; the others go on. `permanent` when a retry is pointless soon."""

    exit_code = EX_TEMPORARY

    def __init__(self, reason: str, *, permanent: bool = False, remedy: str = "") -> None:
        super().__init__(reason, remedy=remedy)
        self.permanent = permanent


class ResyncNeeded(PushpullError):
    """The server cannot answer from where we were; the engine compares everything instead."""


def worst(codes: Iterable[int]) -> int:
    """The exit code of a run over several pairings (`PRECEDENCE`); EX_OK when all are well."""
    found = set(codes)
    return next((code for code in PRECEDENCE if code in found), EX_OK)
