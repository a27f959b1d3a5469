# SPDX-License-Identifier: MIT
"""All that a one-shot run imports when it needs it, if it does.

A process that stays imports it before it stays: hours later the files may be those of another version, or gone.
"""

from __future__ import annotations

from importlib import import_module

_NAMES = """
    encodings.ascii encodings.idna encodings.utf_16_be random tempfile tenacity traceback
    pushpull.commands pushpull.deflate pushpull.helpers
"""


def load() -> None:
    """Import all of it."""
    for name in _NAMES.split():
        import_module(name)
