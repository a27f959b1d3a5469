# SPDX-License-Identifier: MIT
"""What is imported when. What stays has everything it will ever need: by the time of a later import, the program may
have been replaced. What looks and goes takes no more than it needs.
"""

from __future__ import annotations

import re

from tests.support.live import Live
from tests.support.proxy import Proxy
from tests.support.run import Setup

HEAVY = {"asyncio", "daemon", "dataclasses", "email", "imap_tools", "imaplib", "inotify_simple", "inspect"}
HEAVY |= {"encodings.idna", "logging", "subprocess", "tempfile", "tenacity", "traceback"}


def test_a_run_with_nothing_to_do_imports_little(setup: Setup):
    """Half of its time went into imports once."""
    setup.put_remotes(["A", "B"])
    setup.sync()
    setup.env["PYTHONPROFILEIMPORTTIME"] = "1"
    imported = set(re.findall(r"\| +([\w.]+)$", setup.sync().err, re.MULTILINE))
    assert {"pushpull.service", "ssl", "sqlite3"} <= imported
    assert imported & HEAVY == set()


def test_nothing_is_imported_once_it_stays(behind: Setup, proxy: Proxy):
    behind.env["PYTHONPROFILEIMPORTTIME"] = "1"  # tells of each import on standard error
    behind.settings["command"] = {"post_sync_local_change": "true"}
    with Live(behind) as live:
        before = len(live.stderr.read_text())
        behind.put_remote("down")
        live.wait_local("down")
        behind.put_local("up", "F")
        live.wait_both("down up:F")
        behind.flag_remote("up", "+S")
        live.wait_local("down up:FS")
        proxy.refuse = True
        proxy.cut_all()
        behind.put_local("again")
        live.wait_log("warning: localhost")
        proxy.refuse = False
        live.wait_both("down up:FS again")
    assert "| pushpull.live\n" in live.stderr.read_text()[:before]
    assert "import time:" not in live.stderr.read_text()[before:], live.story()
