# SPDX-License-Identifier: MIT
"""contrib/bench/latency measures what it says; what the figures are is for a quiet machine to tell."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

LATENCY = Path(__file__).resolve().parents[2] / "contrib/bench/latency"


def run(*options: str) -> str:
    done = subprocess.run(
        [sys.executable, str(LATENCY), *options], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_latency_of_each_kind_of_change() -> None:
    said = run("--count", "2", "--messages", "20")
    titles = [line for line in said.splitlines() if " -> " in line]
    assert len(titles) == 6
    medians = {title: float(value) for title, value in re.findall(r"^ {4}(\S.*?) {2,}(\d+\.\d)", said, re.MULTILINE)}
    assert 400 < medians["until Dovecot announces it"] < 5000
    assert 0 < medians["beyond the announcement"] < 5000
    assert 0 < medians["beyond quiesce_seconds"] < 5000


@pytest.mark.parametrize("options", [("--idle", "0.5", "--messages", "5"), ("--pairings", "3")])
def test_costs(options: tuple[str, ...]) -> None:
    said = run(*options)
    figures = dict(re.findall(r"^ {4}(\S.*?) {2,}(\d+)", said, re.MULTILINE))
    watched = 3 if "--pairings" in options else 1
    assert int(figures["connections"]) == watched + 1
    assert int(figures["threads"]) == watched + 3
    assert int(figures["descriptors"]) > watched
