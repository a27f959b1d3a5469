# SPDX-License-Identifier: MIT
"""Temporary directories that need no disk, where what is tested is not the disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MEMORY = "/dev/shm"


@contextmanager
def memory_directory() -> Iterator[Path]:
    """A directory in memory, where the machine has such; it is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if os.path.isdir(_MEMORY) else None, prefix="pushpull-") as path:
        yield Path(path)
