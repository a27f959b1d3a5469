# SPDX-License-Identifier: MIT
"""What befalls a state file: a disk that lies, a copy that was cut, a log that is not there any more."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

PAGE = 4096


def _zeroed_head(path: Path) -> None:
    path.write_bytes(bytes(100) + path.read_bytes()[100:])


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: -2 * PAGE])


def _cut_within_a_page(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: 5 * PAGE + 17])


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    chance = random.Random(3)
    for at in chance.sample([at for at, byte in enumerate(data) if byte], 60):
        data[at] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def _pages_swapped(path: Path) -> None:
    data = path.read_bytes()
    pages = [data[at : at + PAGE] for at in range(0, len(data), PAGE)]
    pages[6], pages[7] = pages[7], pages[6]
    path.write_bytes(b"".join(pages))


def _schema_that_is_no_text(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE pairing", b"CREATE\xc5TABLE pairing"))


def _text(path: Path) -> None:
    path.write_text("so much for my mail\n" * 500)


CORRUPT: dict[str, Callable[[Path], None]] = {
    "its head is zeroes": _zeroed_head,
    "cut": _cut,
    "cut within a page": _cut_within_a_page,
    "bits flipped": _flipped,
    "two pages swapped": _pages_swapped,
    "a schema that is no text": _schema_that_is_no_text,
    "a text": _text,
}
