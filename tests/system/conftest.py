# SPDX-License-Identifier: MIT
"""One server for the whole session; each test has its own user, so nothing is shared and nothing restarts.

`PUSHPULL_SERVER` chooses it. What the chosen one cannot express is taken out while tests are collected, and each
reason is told at the end with its count: it is no success, and no failure.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.dovecot import Dovecot
from tests.support.proxy import Proxy
from tests.support.run import STRATEGIES, Setup
from tests.support.server import Server
from tests.support.servers import SERVERS, chosen

_NUMBERS = itertools.count(1)
HERE = Path(__file__).parent
NOT_EXPRESSED = pytest.StashKey["collections.Counter[str]"]()

MakeSetup = Callable[..., Setup]


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
    reasons = {item: unmet(item) for item in items if HERE in item.path.parents}
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


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The chosen server; every user that is added logs in with the password `alicepw`."""
    with chosen()() as server:
        yield server


@pytest.fixture(scope="session")
def dovecot(server: Server) -> Dovecot:
    """The chosen server, for tests about Dovecot; it accepts every user name with the password `alicepw`."""
    assert isinstance(server, Dovecot)
    return server


@pytest.fixture
def account(server: Server) -> str:
    """The name of a user that no other test uses, with an empty INBOX."""
    return server.add_user(f"user{next(_NUMBERS)}")


@pytest.fixture(params=STRATEGIES)
def strategy(request: pytest.FixtureRequest) -> str:
    """The ways to observe a mailbox; a test that asks for it runs with each."""
    return str(request.param)


@pytest.fixture
def make_setup(server: Server, tmp_path: Path) -> Iterator[MakeSetup]:
    """`make_setup(strategy=..., server=..., pairings=..., settings=...)`: an account and a Maildir of their own.

    After the test the wire is looked at: whatever the test was about, nothing may have been destroyed.
    """
    made: list[Setup] = []

    chosen_server = server

    def make(*, server: Server = chosen_server, **options: object) -> Setup:
        base = tmp_path / f"setup{len(made)}"
        base.mkdir()
        setup = Setup(server, server.add_user(f"user{next(_NUMBERS)}"), base, **options)  # type: ignore[arg-type]
        made.append(setup)
        return setup

    yield make
    for setup in made:
        setup.assert_nothing_destroyed()


@pytest.fixture
def setup(make_setup: MakeSetup) -> Setup:
    """One account and one Maildir, observed by QRESYNC."""
    return make_setup()


@pytest.fixture
def each(make_setup: MakeSetup, strategy: str) -> Setup:
    """One account and one Maildir; the test runs with each of the three strategies."""
    return make_setup(strategy=strategy)


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A man in the middle, who lets everything pass until told."""
    with Proxy(server.starttls_port) as middle:
        yield middle


@pytest.fixture
def behind(make_setup: MakeSetup, proxy: Proxy) -> Setup:
    """As `setup`; the program talks through the proxy."""
    return make_setup(port=proxy.port)


@pytest.fixture
def each_behind(make_setup: MakeSetup, proxy: Proxy, strategy: str) -> Setup:
    """As `each`; the program talks through the proxy."""
    return make_setup(port=proxy.port, strategy=strategy)
