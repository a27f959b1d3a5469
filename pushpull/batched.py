# SPDX-License-Identifier: MIT
"""`itertools.batched`, which Python 3.11 lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batched(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """The values in lists of `size`, the last one with what is left."""
    rest = iter(values)
    while batch := list(islice(rest, size)):
        yield batch
