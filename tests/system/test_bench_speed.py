# SPDX-License-Identifier: MIT
"""contrib/bench/speed and contrib/bench/scale work: each program did what it was to do, or they fail. What the figures
are is for a quiet machine to tell.

PUSHPULL_BENCH=all (contrib/test --all): each row with each program that is installed, and 20,000 messages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "contrib/bench"
ALL = os.environ.get("PUSHPULL_BENCH") == "all"


def run(script: str, path: Path, *options: str) -> tuple[dict[str, Any], str]:
    """The figures, and what was printed."""
    command = [sys.executable, str(BENCH / script), "--json", str(path / "figures.json"), *options]
    with tempfile.TemporaryDirectory(prefix="pushpull-") as short:  # the name of a socket has 107 bytes at most
        environment = {**os.environ, "TMPDIR": short}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not os.listdir(short)
    return json.loads((path / "figures.json").read_text()), done.stdout


@pytest.mark.timeout(300)
def test_a_program_that_fails_is_told_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    broken = programs / "mbsync"
    broken.write_text("#!/bin/sh\ntest $1 = --version && echo isync 9.9 && exit\necho no more; exit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    figures, said = run("speed", tmp_path, "--quick", "--rows", "nothing-far", "--programs", "mbsync")
    (line,) = figures["lines"]
    assert line["results"]["mbsync"] == {
        "costs": [],
        "traffic": None,
        "failed": "mbsync ended with 3: no more\n",
        "state": 0,
    }
    assert len(line["results"]["pushpull"]["costs"]) == 1
    assert "| mbsync | failed: mbsync ended with 3: no more |" in said


@pytest.mark.timeout(3600 if ALL else 900)
def test_scale(tmp_path: Path) -> None:
    messages = 20_000 if ALL else 300
    sizes = ("--runs", "1", "--sizes", str(messages), "--megabytes", "2")
    figures, said = run("scale", tmp_path, *sizes, "--programs", "pushpull")
    assert [line["name"] for line in figures["lines"]] == ["first", "nothing", "delta", "download", "upload"]
    for line in figures["lines"]:
        assert f"| {line['title']}, {line['messages']:,} | pushpull |" in said
        (result,) = line["results"].values()
        assert not result["failed"]
        assert len(result["costs"]) == 1
        assert line["messages"] == 3 or result["state"] > 20 * messages


@pytest.mark.timeout(3600 if ALL else 900)
def test_speed(tmp_path: Path) -> None:
    options = [] if ALL else ["--programs", "pushpull", "--rows", "download-far,delta,upload,adoption"]
    figures, said = run("speed", tmp_path, "--quick", *options)
    assert len(figures["lines"]) == (9 if ALL else 4)
    for line in figures["lines"]:
        assert f"| {line['title']}, {line['messages']:,} | pushpull |" in said
        for result in line["results"].values():
            assert not result["failed"]
            (cost,) = result["costs"]
            assert cost["cpu"] > 0
            assert 5 < cost["rss"] < 500
            traffic = result["traffic"]
            assert traffic["turns"] > 3
            assert max(traffic["received"], traffic["sent"]) > max(line["size"], 1000)
