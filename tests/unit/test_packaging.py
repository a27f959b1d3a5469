# SPDX-License-Identifier: MIT
"""What setup.py, tox.ini, contrib/test and the documents say of one thing has to be one thing.

That sdist and wheel build and install is `contrib/check-package`'s to show (`tox -e package`).
"""

import ast
import configparser
import re
from pathlib import Path
from typing import Any

import pytest

import pushpull
from pushpull import cli, config

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETUP_PY = (ROOT / "setup.py").read_text(encoding="utf-8")


def setup_arguments() -> dict[str, Any]:
    """The literal arguments of setup.py's setup(); what it computes is left out."""
    calls = [node for node in ast.walk(ast.parse(SETUP_PY)) if isinstance(node, ast.Call)]
    (call,) = [call for call in calls if ast.unparse(call.func) == "setup"]
    arguments = {}
    for keyword in call.keywords:
        try:
            arguments[keyword.arg or ""] = ast.literal_eval(keyword.value)
        except ValueError:
            continue
    return arguments


SETUP = setup_arguments()
PYTHONS = [found[1] for line in SETUP["classifiers"] if (found := re.search(r"Python :: (3\.\d+)$", line))]
PINNED = (ROOT / "contrib/constraints.txt").read_text(encoding="utf-8").splitlines()
CONSTRAINTS = dict(line.split("==") for line in PINNED if not line.startswith("#"))
REQUIREMENTS = SETUP["install_requires"] + [line for lines in SETUP["extras_require"].values() for line in lines]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def test_one_place_for_the_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", pushpull.__version__)
    texts = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("*.*") if path.is_file()}
    assert [name for name, text in texts.items() if f'"{pushpull.__version__}"' in text] == []


def test_news_starts_with_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "NEWS.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == pushpull.__version__


def test_classifiers_are_the_pythons_that_are_tested() -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    tested = re.findall(r"py3(\d+)", tox["tox"]["env_list"])
    assert [f"3.{minor}" for minor in tested] == PYTHONS
    setup_lib = (ROOT / "contrib/setup-lib.sh").read_text(encoding="utf-8")
    assert f'PYTHONS="{" ".join(PYTHONS)}"' in setup_lib
    assert SETUP["python_requires"] == f">={PYTHONS[0]}"


def test_readme_names_the_pythons() -> None:
    assert f"Python {', '.join(PYTHONS[:-1])} or {PYTHONS[-1]}" in README


def test_readme_configuration_loads() -> None:
    (block,) = re.findall(r"^    \[local\]\n(?:    .+\n)+", README, re.MULTILINE)
    loaded = config.parse(block, "README.md", home="/home/me")
    assert [(pairing.name, pairing.remote) for pairing in loaded.pairings] == [("INBOX", "INBOX")]


OF_OTHERS = {"--quiet", "--batch", "--user", "--now"}  # notmuch's, systemctl's


def test_readme_names_options_that_exist() -> None:
    named = set(re.findall(r"(?<=[ `])--[a-z][a-z-]+", README)) - OF_OTHERS
    assert named >= {"--dry-run", "--test-auth-only", "--allow-mass-delete", "--readopt"}
    assert named <= set(re.findall(r"--[a-z-]+", cli.make_parser().format_help()))


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_constraints_satisfy_the_lower_bounds(requirement: str) -> None:
    name, lowest = requirement.split(">=")
    pinned = {canonical(key): value for key, value in CONSTRAINTS.items()}[canonical(name)]
    assert numbers(pinned) >= numbers(lowest)


def test_distribution_and_command_names() -> None:
    assert SETUP["name"] == "pushpull-mail"
    assert SETUP["packages"] == ["pushpull"]
    assert SETUP["entry_points"] == {"console_scripts": ["pushpull = pushpull.cli:program"]}
    assert (ROOT / "pushpull/py.typed").exists()
    assert set(SETUP["extras_require"]) == {"demo", "bench", "test"}


def test_every_runtime_dependency_has_its_module() -> None:
    """`imap-tools` is imported as `imap_tools`, `python-daemon` as `daemon`: declared means installed here."""
    for module in ("imap_tools", "inotify_simple", "daemon", "tenacity"):
        assert __import__(module)
