# SPDX-License-Identifier: MIT
"""contrib/bench: what it makes of what it measured, and how its link counts. No time is measured here."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parents[2] / "contrib/bench"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


results = load("results")
link = load("link")
corpora = load("corpora")


def line(own: list[float], other: list[float], **targets: float) -> results.Line:
    traffic = results.Traffic(turns=9, sent=1500, received=20_400)
    return results.Line(
        "download",
        "first download",
        messages=100,
        size=3_000_000,
        targets=targets,
        results={
            "pushpull": results.Result([results.Cost(wall, wall / 2, 30) for wall in own], traffic),
            "mbsync": results.Result([results.Cost(wall, wall / 4, 10) for wall in other], traffic),
        },
    )


def test_ratio_is_that_of_the_medians() -> None:
    measured = line([1.0, 2.0, 30.0], [3.0, 5.0, 4.0])
    assert measured.ratio("mbsync") == 2.0
    assert measured.ratio("mbsync", "cpu") == 1.0
    assert measured.ratio("offlineimap") is None


def test_what_failed_has_no_ratio() -> None:
    measured = line([1.0], [2.0], ratio=1.5)
    measured.results["mbsync"].failed = "it ended with 1\nmore"
    assert measured.ratio("mbsync") is measured.met("ratio") is None
    assert "failed: it ended with 1 |" in list(results.rows("speed", measured))[1]


def test_targets_are_limits_from_below_and_above() -> None:
    measured = line([1.0], [2.0], ratio=2.0, turns=9, received=20, rss=29)
    assert [measured.met(target) for target in ("ratio", "turns", "received", "rss")] == [True, True, False, False]
    verdicts = [row.split(" | ")[-1] for row in results.targets([measured])][3:]
    assert verdicts == ["met |", "met |", "**missed** |", "**missed** |"]


def test_rows() -> None:
    own, other = results.rows("speed", line([1.0, 2.0, 1.5], [3.0]))
    assert own == ("| first download, 100 | pushpull | 1.50 (1.00–2.00) |  | 67 | 2.0 | 0.75 | 30 | 20 | 2 | 9 |")
    assert other == "|  | mbsync | 3.00 | 2.00 | 33 | 1.0 | 0.75 | 10 | 20 | 2 | 9 |"


def test_growth_is_from_the_smallest_mailbox_to_the_largest() -> None:
    def peak(messages: int, mib: float) -> results.Line:
        return results.Line("x", "x", messages, results={"pushpull": results.Result([results.Cost(1, 1, mib)])})

    lines = [peak(1000, 20), peak(1000, 30), peak(5000, 90), peak(9000, 31)]
    assert results.growth(lines, "pushpull") == (1 << 20) / 8000
    assert results.growth(lines, "mbsync") is results.growth(lines[:2], "pushpull") is None


def test_a_report_is_read_as_it_was_saved(tmp_path: Path) -> None:
    report = results.Report("speed", "command", "2026-01-01", "machine", {"pushpull": "1"}, [line([1.0], [2.0], rss=1)])
    report.lines[0].results["offlineimap"] = results.Result(failed="why")
    report.save(tmp_path / "x.json")
    assert results.load(tmp_path / "x.json") == report
    assert list(tmp_path.iterdir()) == [tmp_path / "x.json"]


def test_figures_are_put_into_the_page_in_place_of_the_last_ones(tmp_path: Path) -> None:
    bench, page = tmp_path / "contrib/bench", tmp_path / "docs/performance.md"
    bench.mkdir(parents=True)
    page.parent.mkdir()
    for name in ("report", "results.py"):
        shutil.copy(BENCH / name, bench)
    shutil.copy(BENCH.parents[1] / "docs/performance.md", page)
    before = page.read_text()
    figures = tmp_path / "figures.json"
    for kind, title in (("speed", "first title"), ("scale", "another"), ("speed", "second title")):
        measured = line([1.0], [2.0], rss=1)
        measured.title = title
        results.Report(kind, "command", "2026-01-01", "machine", {"pushpull": "1"}, [measured]).save(figures)
        subprocess.run([sys.executable, bench / "report", "--no-plots", figures], check=True)
    after = page.read_text()
    blocks = dict(re.findall(r"<!-- (\w+): .*?-->\n(.*?)<!-- end of \1", after, re.DOTALL))
    assert "| second title, 100 | pushpull | 1.00 |" in blocks["speed"]
    assert "| another, 100 | pushpull | 1.00 |" in blocks["scale"]
    assert "first title" not in after
    marks = re.compile(r"(<!-- (\w+): .*?-->\n).*?(?=<!-- end of \2)", re.DOTALL)
    assert marks.sub(r"\1", after) == marks.sub(r"\1", before)


# --- the link ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "turns"), [("", 0), ("u", 1), ("uu", 1), ("ud", 1), ("uddu", 2), ("udud", 2), ("du", 1)]
)
def test_a_turn_is_to_speak_after_the_server_was_heard(said: str, turns: int) -> None:
    count = link.Count()
    turn = link.Turn(count)
    for each in said:
        (turn.spoke if each == "u" else turn.heard)(10)
    assert (count.turns, count.up, count.down) == (turns, 10 * said.count("u"), 10 * said.count("d"))


def test_bandwidth_is_shared_and_used_without_gaps() -> None:
    direction = link.Direction(rate=100)
    assert [direction.sent(50, now) for now in (1.0, 1.0, 1.2, 9.0)] == [1.5, 2.0, 2.5, 9.5]
    assert link.Direction(rate=0).sent(50, 1.0) == 1.0


# --- the corpora -------------------------------------------------------------------------------------------------


def test_corpora_are_the_same_each_time_and_as_they_say() -> None:
    mail = list(corpora.letters(400, 12_000))
    assert mail == list(corpora.letters(400, 12_000))
    assert mail != list(corpora.letters(400, 12_000, seed=2))
    sizes = sorted(len(each.body) for each in mail)
    assert 9_000 < sum(sizes) / len(sizes) < 15_000
    assert sizes[200] < 8_500  # log-normal: half of it is far smaller
    assert len({each.date for each in mail}) == 400
    assert any(b"multipart/mixed" in each.body for each in mail)
    assert any(max(each.body) > 127 for each in mail)
    assert {"", "S", "RS", "FS"} == {each.letters for each in mail}
    assert not any(b"\r" in each.body for each in mail)
