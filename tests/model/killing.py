# SPDX-License-Identifier: MIT
"""Ends a process that was forked off, with SIGKILL, at its so-and-so-many-th effect on the world: a commit, a rename, a
flush, a file that is written or removed, a piece that is sent. Each counts twice, before and after it."""

from __future__ import annotations

import os
import signal
import sqlite3
import ssl
from collections.abc import Callable
from typing import Any

from pushpull import durable

_FILE_OPERATIONS = ("rename", "link", "unlink", "mkdir", "write", "fsync", "utime")
_LIBRARY_CALLS = ("_renameat2", "_syncfs")


def die_at(effect: int) -> None:
    """For the child of a fork alone: its functions are replaced for good."""
    left = effect

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            count()
            result = call(*args, **options)
            count()
            return result

        return counted

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> Any:
            call = super().execute
            return (around(call) if sql == "COMMIT" else call)(sql, *args)

    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **options: connect(*args, **{"factory": Connection, **options})
    for name in _FILE_OPERATIONS:
        setattr(os, name, around(getattr(os, name)))
    for name in _LIBRARY_CALLS:
        setattr(durable, name, around(getattr(durable, name)))
    ssl.SSLSocket.sendall = around(ssl.SSLSocket.sendall)  # type: ignore[method-assign]
