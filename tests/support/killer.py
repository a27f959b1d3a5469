# SPDX-License-Identifier: MIT
"""Runs the real program and kills it, with SIGKILL, at its K-th effect:

    python killer.py K LOG [arguments of pushpull ...]

Effects are commits, file operations, and whatever is sent; each counts twice, before and after it. LOG gets a line for
each, so its last line says where the end came. With K = 0 nothing is killed and LOG lists all there are.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sqlite3
import ssl
import sys
from collections.abc import Callable
from typing import Any

_FILE_OPERATIONS = ("rename", "replace", "link", "unlink", "fsync", "fdatasync", "mkdir")
_LIBRARY_CALLS = ("renameat2", "syncfs")
_READING = ("SELECT", "PRAGMA", "BEGIN", "WITH")


class Counter:
    def __init__(self, limit: int, log: str) -> None:
        self._left = limit
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)

    def hit(self, what: str) -> None:
        os.write(self._log, what.encode("ascii", "backslashreplace") + b"\n")
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            self.hit(f"before {what}")
            result = call(*args, **options)
            self.hit(f"after {what}")
            return result

        return counted


def hook_files(counter: Counter) -> None:
    for name in _FILE_OPERATIONS:
        setattr(os, name, counter.around(name, getattr(os, name)))

    class Library(ctypes.CDLL):
        """Some of libc's functions are called by name."""

        def __getattr__(self, name: str) -> Any:
            function = super().__getattr__(name)
            return _Function(function, counter) if name in _LIBRARY_CALLS else function

    ctypes.CDLL = Library  # type: ignore[misc]


class _Function:
    """A function of a C library that counts; its attributes are the function's."""

    def __init__(self, function: Any, counter: Counter) -> None:
        self.__dict__ |= {"_function": function, "_call": counter.around(function.__name__, function)}

    def __call__(self, *args: Any) -> Any:
        return self.__dict__["_call"](*args)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["_function"], name, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_function"], name)


def hook_state(counter: Counter) -> None:
    class Connection(sqlite3.Connection):
        """Writes within a transaction are lost with it, so commits are what counts, and writes outside of one."""

        def execute(self, sql: str, *args: Any) -> Any:
            call = super().execute
            word = sql.split(None, 1)[0].upper()
            if word == "COMMIT" or (not self.in_transaction and word not in _READING):
                call = counter.around(f"{word} of the state", call)
            return call(sql, *args)

    connect = sqlite3.connect

    def connect_hooked(*args: Any, **options: Any) -> Any:
        return connect(*args, **{"factory": Connection, **options})

    sqlite3.connect = connect_hooked


def hook_network(counter: Counter) -> None:
    send = ssl.SSLSocket.sendall

    def sendall(self: ssl.SSLSocket, data: Any, flags: int = 0) -> None:
        first = bytes(data[:60]).split(b"\r\n")[0]
        counter.around(f"sending {first!r}", send)(self, data, flags)

    ssl.SSLSocket.sendall = sendall  # type: ignore[method-assign]


def main() -> None:
    limit, log, *arguments = sys.argv[1:]
    counter = Counter(int(limit), log)
    hook_files(counter)
    hook_state(counter)
    hook_network(counter)
    del sys.path[0]  # this file's own directory
    sys.argv[1:] = arguments
    runpy.run_module("pushpull", run_name="__main__")


if __name__ == "__main__":
    main()
