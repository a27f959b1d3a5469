# SPDX-License-Identifier: MIT
"""docs/reliability.md and SECURITY.md name tests and functions: they exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/reliability.md", "SECURITY.md")
WORD = re.compile(r"`((?:tests|contrib|docs|pushpull)/[^`\s]+)`")
NAMED = sorted({(page, word) for page in PAGES for word in WORD.findall((ROOT / page).read_text(encoding="utf-8"))})


def test_something_is_named() -> None:
    assert {page for page, _ in NAMED} == set(PAGES)


@pytest.mark.parametrize(("page", "word"), NAMED)
def test_what_is_named_exists(page: str, word: str) -> None:
    path, _, function = word.partition("::")
    found = list(ROOT.glob(path))
    assert found
    name = function.rpartition("::")[2].partition("[")[0]
    assert not name or any(f"def {name}(" in file.read_text(encoding="utf-8") for file in found)


def attacks() -> list[str]:
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    return re.findall(r"^\| (\d+) \|.*$", text.partition("## The 34 attacks")[2], re.MULTILINE)


def test_every_attack_has_its_row() -> None:
    assert attacks() == [str(number) for number in range(1, 35)]
