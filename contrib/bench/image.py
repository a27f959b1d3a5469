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

_A_FILE = 4096 + 512  # octets for a small message: its block, its inode, its name


@contextmanager
def image(directory: Path | None, files: int) -> Iterator[tuple[Path, str]]:
    """An empty directory on an ext4 that has room for so many small files, and what is to be told of it. Who is not
    root, or has no loop device, gets a plain directory.
    """
    base = Path(tempfile.mkdtemp(prefix="pushpull-bench-", dir=directory))
    base.chmod(0o755)
    place = base / "mail"
    place.mkdir()
    try:
        mounted = _mount(base / "image", place, files)
        try:
            yield place, "ext4 in a file of its own" if mounted else "a plain directory"
        finally:
            if mounted:
                # A program that was killed may not be gone yet; then it is unmounted when it is.
                subprocess.run(["umount", "--lazy", str(place)], check=True)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _mount(path: Path, place: Path, files: int) -> bool:
    """What ext4 leaves to be done later would be done while something is measured: so it is done now, or not at all."""
    if os.getuid() or not all(shutil.which(program) for program in ("mkfs.ext4", "mount", "umount")):
        return False
    inodes = 2 * files + 10_000
    with path.open("wb") as file:
        file.truncate((256 << 20) + 2 * files * _A_FILE)
    make = ["mkfs.ext4", "-q", "-F", "-N", str(inodes), "-E", "lazy_itable_init=0,lazy_journal_init=0", str(path)]
    mount = ["mount", "-o", "loop", str(path), str(place)]
    return all(subprocess.run(command, capture_output=True, check=False).returncode == 0 for command in (make, mount))
