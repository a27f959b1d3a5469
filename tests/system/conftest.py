# SPDX-License-Identifier: MIT
"""One server for the whole session; each test has its own user, so nothing is shared and nothing restarts.

`PUSHPULL_SERVER` chooses it; tests/support/expressed.py takes out what it cannot express.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.dovecot import Dovecot
from tests.support.proxy import Proxy
from tests.support.run import STRATEGIES, Setup
from tests.support.server import Server
from tests.support.servers import chosen

_NUMBERS = itertools.count(1)

MakeSetup = Callable[..., Setup]


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
