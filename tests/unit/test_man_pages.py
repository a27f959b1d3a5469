# SPDX-License-Identifier: MIT
"""The manual says what the program does: every option, every key with its default, every exit code, nothing else."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pushpull import errors
from pushpull.cli import make_parser
from pushpull.config_keys import KEYS, SECTIONS

ROOT = Path(__file__).resolve().parents[2]
PAGES = {name: (ROOT / "docs" / "man" / name).read_text(encoding="utf-8") for name in ("pushpull.1", "pushpull.conf.5")}


def plain(roff: str) -> str:
    """A line of roff without its macro and escapes."""
    text = re.sub(r"^\.[A-Z]{1,2} ", "", roff)
    return text.replace("\\-", "-").replace("\\(ti", "~").replace('"', "")


def sections(page: str, macro: str) -> dict[str, str]:
    parts = re.split(rf"^\.{macro} (.+)$", page, flags=re.MULTILINE)
    return dict(zip(map(plain, parts[1::2]), parts[2::2], strict=True))


def tags(text: str) -> list[str]:
    """What the .TP entries are about."""
    return [plain(line) for line in re.findall(r"^\.TP\n(.+)$", text, flags=re.MULTILINE)]


def test_every_option_is_in_the_manual_and_no_other() -> None:
    documented = set(
        re.findall(r"(?<![\w-])--?[a-z][a-z-]*", " ".join(tags(sections(PAGES["pushpull.1"], "SH")["OPTIONS"])))
    )
    known = {name for action in make_parser()._actions for name in action.option_strings}
    assert documented == known


def test_no_page_names_an_option_that_there_is_not() -> None:
    known = {name for action in make_parser()._actions for name in action.option_strings} | {"--"}
    for page in PAGES.values():
        assert {name.rstrip("=") for name in re.findall(r"--[a-z-]*", plain(page))} <= known


def test_every_exit_code_is_in_the_manual_and_no_other() -> None:
    documented = tags(sections(PAGES["pushpull.1"], "SH")["EXIT STATUS"])
    known = {value for name, value in vars(errors).items() if name.startswith("EX_")}
    assert [int(code) for code in documented] == sorted(known)
    order = ", ".join(map(str, errors.PRECEDENCE[:-1])) + f" and {errors.PRECEDENCE[-1]}"
    assert f"the first of {order} that applies" in PAGES["pushpull.1"]


@pytest.mark.parametrize("variable", ["DEBUG_IMAP", "NO_COLOR", "TERM", "HOME"])
def test_the_environment_is_in_the_manual(variable: str) -> None:
    assert variable in tags(sections(PAGES["pushpull.1"], "SH")["ENVIRONMENT"])


def test_every_section_is_in_the_manual_in_the_order_of_the_table() -> None:
    titles = [title for title in sections(PAGES["pushpull.conf.5"], "SS") if title.startswith("[")]
    assert titles == ["[pairing NAME]" if section == "pairing" else f"[{section}]" for section in SECTIONS]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_in_the_manual_with_its_default_and_no_other(section: str) -> None:
    title = "[pairing NAME]" if section == "pairing" else f"[{section}]"
    text = sections(PAGES["pushpull.conf.5"].split("\n.SH EXAMPLE")[0], "SS")[title]
    expected = [
        f"{key.name} = {'(required)' if key.required else key.default or '(none)'}"
        for key in KEYS
        if key.section == section
    ]
    assert tags(text) == expected


def test_the_example_is_a_configuration() -> None:
    from pushpull.config import parse

    example = re.search(r"^\.nf\n(.+?)^\.fi$", PAGES["pushpull.conf.5"], flags=re.MULTILINE | re.DOTALL)
    assert example is not None
    config = parse(plain(example[1]), "pushpull.conf.5", "/home/user")
    assert config.local.maildir == "/home/user/Maildir"
    assert config.pairings[1].safety.local_delete_limit == 500


@pytest.mark.parametrize("name", PAGES)
def test_pages_have_their_form(name: str) -> None:
    """What every renderer needs; where groff is there, it has the last word."""
    page = PAGES[name]
    stem, _, number = name.rpartition(".")
    assert page.splitlines()[1].startswith(f".TH {stem.upper()} {number} ")
    assert f".SH NAME\n{stem} \\- " in page
    known = r"\.(\\\"|(TH|SH|SS|TP|PP|B|I|BR|RB|BI|IB|RI|IR|nf|fi|br|RS|RE)( |$))"
    assert [line for line in page.splitlines() if line.startswith((".", "'")) and not re.match(known, line)] == []
    assert "~" not in page, "renders as an accent; \\(ti is the character"
    groff = shutil.which("groff")
    if groff is not None:
        done = subprocess.run(
            [groff, "-man", "-Tutf8", "-ww", "-Kutf8", "-z"], input=page, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
