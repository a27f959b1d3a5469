# SPDX-License-Identifier: MIT
"""docs/algorithm.md names functions and tests: they exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "algorithm.md").read_text(encoding="utf-8")
STEPS = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]


def listed(kind: str, step: str) -> list[str]:
    found = re.search(rf"^- {kind}: ((?:.|\n  )*)", step, flags=re.MULTILINE)
    return re.findall(r"`([^`]+)`", found[1]) if found else []


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.splitlines()[0])
def test_each_step_names_its_code_and_its_tests(step: str) -> None:
    assert listed("Code", step)
    assert listed("Tests", step)


@pytest.mark.parametrize("name", sorted({name for step in STEPS for name in listed("Code", step)}))
def test_the_code_exists(name: str) -> None:
    module, *path = name.split(".")
    found: object = importlib.import_module(f"pushpull.{module}")
    for part in path:
        found = getattr(found, part)


@pytest.mark.parametrize("name", sorted({name for step in STEPS for name in listed("Tests", step)}))
def test_the_tests_exist(name: str) -> None:
    path, _, function = name.partition("::")
    text = (ROOT / path).read_text(encoding="utf-8")
    assert not function or f"def {function}(" in text
