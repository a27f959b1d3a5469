# SPDX-License-Identifier: MIT
"""What a connection shows of itself: a trace for whoever asks for one, and never a secret, also when a server says it.

A server may echo the line that it does not understand, the password with it, in the answer to the login or in any
other, and what it says goes to terminals, logs and bug reports.
"""

from __future__ import annotations

from collections.abc import Callable

from pushpull import sasl, wire

_SHOWN = 1000  # characters of a line


class Trace:
    """Of one connection. `write` gets each line sent ("C: ...") and received ("S: ..."), None: nobody wants them."""

    def __init__(self, write: Callable[[str], None] | None) -> None:
        self.hidden: tuple[str, ...] = ()  # while credentials are exchanged: what no trace may show
        self._write = write
        self._secrets: tuple[str, ...] = ()

    @property
    def wanted(self) -> bool:
        """Somebody reads it."""
        return self._write is not None

    def keep_secret(self, *secrets: str) -> None:
        """Never show these, from now on."""
        self._secrets = tuple(sorted({*self._secrets, *filter(None, secrets)}, key=len, reverse=True))

    def conceal(self, text: str) -> str:
        """The text without the secrets."""
        return sasl.conceal(text, self._secrets)

    def sent(self, data: bytes) -> None:
        if self._write is not None:
            self._write("C: " + wire.printable(data))

    def received(self, line: bytes) -> None:
        if self._write is None:
            return
        if self.hidden and line.startswith(b"+"):
            line = b"+ ***"
        text = self.conceal(wire.printable(line[: 2 * _SHOWN]))
        text = sasl.conceal(text, filter(None, self.hidden))
        self._write("S: " + text[:_SHOWN] + (" ..." if len(text) > _SHOWN or len(line) > 2 * _SHOWN else ""))
