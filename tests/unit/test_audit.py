# SPDX-License-Identifier: MIT
"""`contrib/audit`: a known vulnerability fails, what could not be asked is told and does not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WELL = {"name": "one", "version": "1.0", "vulns": []}
BAD = {"name": "two", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"], "description": "x"}]}
UNKNOWN = {"name": "three", "skip_reason": "Dependency not found on PyPI and could not be audited: three (3.0)"}


def audit(tmp_path: Path, answer: str, error: str = "", code: int = 0) -> tuple[int, str]:
    """With a pip-audit that says this."""
    stand_in = f"import sys\nsys.stdout.write({answer!r})\nsys.stderr.write({error!r})\nsys.exit({code})\n"
    (tmp_path / "pip_audit.py").write_text(stand_in)
    done = subprocess.run(
        [sys.executable, ROOT / "contrib/audit"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_all_that_is_installed_with_it_is_asked_for() -> None:
    text = (ROOT / "contrib/audit").read_text()
    (named,) = re.findall(r"^RUNTIME = \((.*)\)$", text, re.MULTILINE)
    setup = (ROOT / "setup.py").read_text()
    (required,) = re.findall(r"install_requires=\[(.*?)\]", setup, re.DOTALL)
    wanted = {name.replace("_", "-") for name in re.findall(r'"([\w-]+)>=', required)}
    assert set(re.findall(r'"([\w-]+)"', named)) == wanted | {"lockfile"}  # which python-daemon needs


@pytest.mark.parametrize(
    ("packages", "code", "told"),
    [
        ([WELL], 0, "audit: 1 packages, no known vulnerability\n"),
        ([WELL, BAD], 1, "audit: two 2.0: PYSEC-1, mended in 2.1\n"),
        (
            [WELL, UNKNOWN],
            0,
            "audit: not audited: 1 of 2 packages, unknown to the service: three\n"
            "audit: 1 packages, no known vulnerability\n",
        ),
        ([UNKNOWN], 0, "audit: not audited: 1 of 1 packages, unknown to the service: three\n"),
        (
            [BAD, UNKNOWN],
            1,
            "audit: two 2.0: PYSEC-1, mended in 2.1\n"
            "audit: not audited: 1 of 2 packages, unknown to the service: three\n",
        ),
    ],
)
def test_answers(tmp_path: Path, packages: list[object], code: int, told: str) -> None:
    answer = json.dumps({"dependencies": packages, "fixes": []})
    assert audit(tmp_path, answer, "Found some\n", int(BAD in packages)) == (code, told)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("Traceback\nConnectionError: no name\n", "audit: not audited: ConnectionError: no name\n"),
        ("", "audit: not audited: pip-audit ended with 1\n"),
    ],
)
def test_no_answer_is_told_and_is_no_failure(tmp_path: Path, error: str, told: str) -> None:
    assert audit(tmp_path, "", error, 1) == (0, told)
