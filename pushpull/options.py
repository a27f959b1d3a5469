# SPDX-License-Identifier: MIT
"""What the command line asks for, and who can be asked in return."""

from __future__ import annotations

from typing import Protocol

from pushpull.values import value


@value
class Options:
    """The command line, checked: each name in `pairings` is in the configuration, once; none means all."""

    pairings: tuple[str, ...] = ()
    allow_mass_delete: int | None = None  # at least 1
    readopt: bool = False
    yes: bool = False
    once: bool = False
    daemon: bool = False
    dry_run: bool = False
    auth_only: bool = False
    debug_imap: bool = False

    def chosen(self, pairing: str) -> bool:
        """Whether the pairing of that name is to be synchronised."""
        return not self.pairings or pairing in self.pairings

    @property
    def one_cycle(self) -> bool:
        """The program ends after one cycle, whatever `imap.idle` says."""
        return self.once or self.dry_run or self.auth_only or self.allow_mass_delete is not None


class Asker(Protocol):
    """Asks the person at the terminal; None where there is no terminal, or no answer (end of file)."""

    def confirm(self, question: str) -> bool | None:
        """A question to be answered by yes or no."""

    def password(self, prompt: str) -> str | None:
        """A line typed without echo; never empty."""
