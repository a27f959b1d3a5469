# SPDX-License-Identifier: MIT
"""A plugin of pytest: what the chosen server cannot express is taken out while tests are collected, and each reason is
told at the end with its count. It is no success, and no failure.
"""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import pytest

from tests.support.run import STRATEGIES
from tests.support.servers import SERVERS, chosen

SYSTEM = Path(__file__).parents[1] / "system"
NOT_EXPRESSED = pytest.StashKey["collections.Counter[str]"]()


def unmet(item: pytest.Item) -> str | None:
    """Why the server cannot express a test; None if it can."""
    if chosen().poor and not item.path.name.startswith("test_servers"):
        return "only what has to hold on every server is played on it"
    features = [str(feature) for mark in item.iter_markers("needs") for feature in mark.args]
    if "dovecot" in getattr(item, "fixturenames", ()):
        features.append("dovecot")
    params = item.callspec.params.values() if hasattr(item, "callspec") else ()
    # A strategy stands alone among a test's parameters, or in a tuple.
    values = [word for param in params for word in (param if isinstance(param, tuple) else (param,))]
    features += [word for word in values if word in list(STRATEGIES)]
    return next(filter(None, map(reason_against, features)), None)


def reason_against(feature: str) -> str | None:
    """A feature may be a server's name: the test is about that one's own ways."""
    if feature in SERVERS:
        return f"about {feature}" if feature != chosen().name else None
    return chosen().lacks.get(feature)


@pytest.hookimpl(trylast=True)  # what -k and -m left
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {item: unmet(item) for item in items if SYSTEM in item.path.parents}
    out = [item for item, reason in reasons.items() if reason]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if not reasons.get(item)]
    config.stash[NOT_EXPRESSED] = collections.Counter(reason for reason in reasons.values() if reason)


@pytest.hookimpl
def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["not expressed"] = dict(session.config.stash.get(NOT_EXPRESSED, {}))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """xdist: each worker collects all of the tests, the session that prints the summary none."""
    node.config.stash[NOT_EXPRESSED] = collections.Counter(getattr(node, "workeroutput", {}).get("not expressed", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = config.stash.get(NOT_EXPRESSED, collections.Counter())
    if not counts:
        return
    terminalreporter.section(f"cannot be expressed on {chosen().name}: {counts.total()} tests")
    for reason, count in counts.most_common():
        terminalreporter.line(f"{count:5} {reason}")
