# SPDX-License-Identifier: MIT
"""The program with a few of its parts replaced: for `Setup.program`."""

from __future__ import annotations

_RUN = "\nimport sys\nfrom pushpull.cli import program\nsys.exit(program())\n"


def patched(code: str) -> tuple[str, ...]:
    """The program, after `code` was run in its process."""
    return ("-c", code + _RUN)
