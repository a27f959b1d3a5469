# SPDX-License-Identifier: MIT
"""Programs with paths compiled in, from packages that were unpacked and not installed: they see a root of their own.

In a private mount namespace the unpacked tree is laid over a copy-on-write view of /; /tmp, /dev, /proc and /sys are
the machine's, /run is empty. Nothing of it is to be seen outside, and it goes when its last process ends. Root only.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.server import unpacked

# A layer of an overlay must not lie inside another one (the checkout may lie anywhere below /): it is copied.
_ENTER = r"""
tree=$1; script=$2; work=/mnt
mount -t tmpfs tmpfs "$work"
mkdir "$work/tree" "$work/upper" "$work/scratch" "$work/root"
cp -a "$tree/." "$work/tree"
mount -t overlay -o "lowerdir=$work/tree:/,upperdir=$work/upper,workdir=$work/scratch" overlay "$work/root"
for directory in tmp dev proc sys; do mount --rbind "/$directory" "$work/root/$directory"; done
mount -t tmpfs tmpfs "$work/root/run"
exec chroot "$work/root" /bin/sh -e -c "$script"
"""


def start(name: str, script: str, log: Path) -> subprocess.Popen[bytes]:
    """Run a shell script where the server's packages are as installed. It leads a session of its own."""
    if os.getuid() != 0:
        raise RuntimeError(f"{name} has its paths compiled in: only root can give it a root directory of its own")
    with open(log, "ab") as output:
        return subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-eu", "-c", _ENTER, "sh",
             str(unpacked(name) / "root"), script],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )  # fmt: skip
