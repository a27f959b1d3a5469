# SPDX-License-Identifier: MIT
"""contrib/bench/speed and its report work; what the figures are is for a quiet machine to tell.

PUSHPULL_BENCH=all (contrib/test --all): each row, and with each program that is installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "contrib/bench"
ALL = os.environ.get("PUSHPULL_BENCH") == "all"


def run(script: str, path: Path, *options: str) -> tuple[dict[str, Any], str]:
    """The figures, and what was printed."""
    command = [sys.executable, str(BENCH / script), "--json", str(path / "figures.json"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": str(path)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(path.glob("pushpull-bench-*"))
    return json.loads((path / "figures.json").read_text()), done.stdout


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
