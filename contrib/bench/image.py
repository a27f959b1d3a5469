# SPDX-License-Identifier: MIT
"""A file system of its own in a file: to remove it takes no time, however many files are in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def image(directory: Path | None, size: int) -> Iterator[tuple[Path, str]]:
    """An empty directory on an ext4 that has room for so many bytes in files of any size, and what is to be told of it.
    Who is not root, or has no loop device, gets a plain directory.
    """
    base = Path(tempfile.mkdtemp(prefix="pushpull-bench-", dir=directory))
    base.chmod(0o755)
    place = base / "mail"
    place.mkdir()
    try:
        mounted = _mount(base / "image", place, size)
        try:
            yield place, "ext4 in a file of its own" if mounted else "a plain directory"
        finally:
            if mounted:
                # A program that was killed may not be gone yet; then it is unmounted when it is.
                subprocess.run(["umount", "--lazy", str(place)], check=True)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _mount(path: Path, place: Path, size: int) -> bool:
    """What ext4 leaves to be done later would be done while something is measured: so it is done now, or not at all."""
    if os.getuid() or not all(shutil.which(program) for program in ("mkfs.ext4", "mount", "umount")):
        return False
    with path.open("wb") as file:
        file.truncate((256 << 20) + 2 * size)
    make = ["mkfs.ext4", "-q", "-F", "-i", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(path)]
    mount = ["mount", "-o", "loop", str(path), str(place)]
    return all(subprocess.run(command, capture_output=True, check=False).returncode == 0 for command in (make, mount))
