# SPDX-License-Identifier: MIT
"""A first download of 10,000 messages (about 120 MB) over TLS with `fsync = yes`, killed five times on the way."""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.support.dovecot import mail_ids
from tests.support.messages import crlf, mail
from tests.support.run import Setup
from tests.support.waiting import wait_for

MESSAGES = 10_000
MEAN_BYTES = 12_000
KILL_AT = (700, 2_200, 4_000, 6_000, 8_500)  # files delivered
PEAK_MEGABYTES = 120


def fill(setup: Setup) -> Counter[bytes]:
    """Messages of log-normal size, put straight into the server's Maildir; the digests of their bytes."""
    chance = random.Random(2026)
    uid, gid = mail_ids()
    cur = setup.server.home(setup.user) / "Maildir" / "cur"
    digests: Counter[bytes] = Counter()
    setup.remote()  # makes the home
    for number in range(MESSAGES):
        size = int(chance.lognormvariate(8.7, 1.17))
        body = "\n".join(chance.randbytes(36).hex() for _ in range(min(size, 2_000_000) // 73))
        message = mail(f"big{number}", body=body + "\n")
        digests[hashlib.sha256(message).digest()] += 1
        path = cur / f"{1_600_000_000 + number}.M{number}P1.host,S={len(message)},W={len(crlf(message))}:2,"
        path.write_bytes(message)
        os.chown(path, uid, gid)
    return digests


class Peak:
    """The peak of a process's resident memory. `ru_maxrss` would be no measure: it begins with the size of the test
    program that forked."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self.megabytes = 0

    def look(self) -> None:
        try:
            found = re.search(r"^VmHWM:\s+(\d+) kB$", self._status.read_text(), re.MULTILINE)
        except OSError:
            return
        if found:
            self.megabytes = max(self.megabytes, int(found[1]) // 1024)


def delivered(folder: Path) -> list[Path]:
    return [path for name in ("cur", "new") if (folder / name).is_dir() for path in (folder / name).iterdir()]


@pytest.mark.timeout(600)
def test_a_first_download_killed_five_times(setup: Setup) -> None:
    digests = fill(setup)
    total = sum(path.stat().st_size for path in (setup.server.home(setup.user) / "Maildir" / "cur").iterdir())
    peaks = []
    for limit in (*KILL_AT, None):
        process = setup.start()
        peak = Peak(process.pid)
        if limit is None:
            wait_for(lambda p=process, peak=peak: peak.look() or p.poll() is not None, what="the end", seconds=240)
        else:
            enough = limit
            wait_for(
                lambda peak=peak, enough=enough: peak.look() or len(delivered(setup.maildir)) >= enough,
                what=f"{limit} files",
                seconds=120,
            )
            process.send_signal(signal.SIGKILL)
        out, err = process.communicate()
        assert process.returncode == (0 if limit is None else -signal.SIGKILL), (out, err)
        peaks.append(peak.megabytes)
    found = Counter(hashlib.sha256(path.read_bytes()).digest() for path in delivered(setup.maildir))
    assert found == digests
    setup.sync_again_changes_nothing()
    print(f"{MESSAGES} messages, {total / 1e6:.0f} MB; peak memory (VmHWM) of the six runs: {peaks} MB")
    assert max(peaks) < PEAK_MEGABYTES
