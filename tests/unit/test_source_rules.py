# SPDX-License-Identifier: MIT
"""Rules for every file of the project that no linter knows."""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIRECTORIES = (".ci", "contrib", "docs", "pushpull", "tests")
NOT_OURS = re.compile(r"__pycache__|.*\.py[co]|\.[a-z]+_cache")
# No room for a comment, or the licence itself. Mail and certificates kept as test data stay as they are.
NO_LICENCE_LINE = {"LICENSE", "py.typed", ".gitignore", "PKG-INFO", "setup.cfg"}
DATA = (".eml", ".pem", ".json", ".svg", ".png")


def files() -> Iterator[Path]:
    yield from (path for path in sorted(ROOT.glob("[!.]*")) if path.is_file())
    for directory in DIRECTORIES:
        for top, below, names in os.walk(ROOT / directory):
            below[:] = sorted(name for name in below if not NOT_OURS.fullmatch(name))
            yield from (Path(top, name) for name in sorted(names) if not NOT_OURS.fullmatch(name))


TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files() if path.suffix not in DATA}
TESTS = {name: text for name, text in TEXTS.items() if re.fullmatch(r"tests/.*\.py", name)}


@pytest.mark.parametrize("name", [name for name in TEXTS if Path(name).name not in NO_LICENCE_LINE])
def test_licence_line(name: str) -> None:
    lines = TEXTS[name].splitlines()
    first = lines[1] if lines[0].startswith("#!") else lines[0]
    assert re.fullmatch(r'(# |<!-- |\.\\" |-- )SPDX-License-Identifier: MIT( -->)?', first), first


def untidiness(text: str) -> list[str]:
    problems = [f"line {at}: a tab or CR" for at, line in enumerate(text.split("\n"), 1) if re.search(r"[\t\r]", line)]
    problems += [f"line {at}: ends with blanks" for at, line in enumerate(text.split("\n"), 1) if line.endswith(" ")]
    if text and not re.search(r"[^\n]\n\Z", text):
        problems.append("the last line ends with other than one line end")
    return problems


@pytest.mark.parametrize("name", TEXTS)
def test_text_is_tidy(name: str) -> None:
    assert untidiness(TEXTS[name]) == []


def test_untidiness_is_caught() -> None:
    assert untidiness("") == untidiness("a\n\n b\n") == []
    assert [len(untidiness(text)) for text in ("a", "a\n\n", "a \n", "\ta\n", "a\r\n")] == [1, 1, 1, 1, 1]


WORDS = "|".join(word.replace(" ", "") for word in ("T ODO", "F IXME", "X XX"))  # lest this line is found
LATER = re.compile(rf'(#|--|""")\s?.*\b({WORDS})\b|\b({WORDS})[:(]')


def leftovers(text: str) -> list[str]:
    return [line for line in text.splitlines() if LATER.search(line)]


@pytest.mark.parametrize("name", TEXTS)
def test_nothing_is_left_for_later(name: str) -> None:
    assert leftovers(TEXTS[name]) == []


def test_leftovers_are_caught() -> None:
    word = "TO" + "DO"
    assert len(leftovers(f'x = 1  # {word} later\n{word}: more\nfine\n""" {word}\n')) == 3


@pytest.mark.parametrize("name", [name for name in TEXTS if TEXTS[name].startswith("#!")])
def test_scripts_can_be_run(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)


def calls(code: str) -> set[str]:
    """Dotted names of what is called or stands as a decorator: {"time.sleep", "pytest.mark.skip"}."""
    nodes = list(ast.walk(ast.parse(code)))
    used = [node.func for node in nodes if isinstance(node, ast.Call)]
    used += [mark for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef) for mark in node.decorator_list]
    return {ast.unparse(node) for node in used}


FORBIDDEN = re.compile(r"(time\.)?sleep|(pytest\.)?(mark\.)?(skip|skipif|xfail|importorskip)|unittest\.skip.*")


@pytest.mark.parametrize("name", TESTS)
def test_tests_wait_for_conditions_and_are_never_skipped(name: str) -> None:
    allowed = {"time.sleep"} if name.startswith("tests/support/") else set()  # the helper that waits for a condition
    assert {call for call in calls(TESTS[name]) if FORBIDDEN.fullmatch(call)} <= allowed


def test_a_system_test_runs_on_every_python() -> None:
    marked = [name for name in TESTS if "@pytest.mark.every_python" in TESTS[name] and name.startswith("tests/system/")]
    assert marked


def test_forbidden_calls_are_caught() -> None:
    code = "import time\n@pytest.mark.skip\ndef f(): time.sleep(1)\n@pytest.mark.skipif(True)\ndef g(): pytest.skip()"
    caught = {call for call in calls(code) if FORBIDDEN.fullmatch(call)}
    assert caught == {"pytest.mark.skip", "time.sleep", "pytest.mark.skipif", "pytest.skip"}
