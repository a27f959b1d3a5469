# SPDX-License-Identifier: MIT
"""Dovecot with settings that few have, each met by the program."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.dovecot import Dovecot
from tests.support.messages import crlf, mail
from tests.system.conftest import MakeSetup

pytestmark = pytest.mark.needs("dovecot")


@pytest.fixture(scope="module")
def strict() -> Iterator[Dovecot]:
    """LITERAL- taken at its word (RFC 7888 section 5): a literal of more than 4096 octets that was not asked for ends
    the session. And two sessions for each user."""
    with Dovecot(settings="imap_literal_minus = yes\nmail_max_userip_connections = 2") as server:
        yield server


@pytest.mark.parametrize("octets", [4095, 4096, 4097, 9000])
def test_literals_around_4096_octets(make_setup: MakeSetup, strict: Dovecot, octets: int) -> None:
    setup = make_setup(server=strict)
    with setup.client() as client:
        assert {"LITERAL-", "LITERAL+"} & client.capabilities == {"LITERAL-"}
    short = mail("A")
    body = mail("A", body="x" * (octets - len(crlf(short)) + len("The body of A.")))
    assert len(crlf(body)) == octets
    setup.put_local(setup.know("A", body), "S")
    run = setup.sync("--yes")
    assert "trying again" not in run.err
    setup.assert_both("A:S")
    setup.sync_again_changes_nothing()


def test_no_more_sessions_than_it_allows(make_setup: MakeSetup, strict: Dovecot) -> None:
    """[LIMIT] is no wrong password: it is tried again, and told as what it is."""
    setup = make_setup(server=strict)
    setup.put_remote("A")
    with setup.client(), setup.client():
        run = setup.sync(expect=75)
    assert "Maximum number of connections" in run.err
    setup.sync()
    setup.assert_both("A")
