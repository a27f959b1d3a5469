# SPDX-License-Identifier: MIT
"""The fuzzer from a fixed seed: the same inputs each time, as many as a part of a minute allows. `contrib/fuzz` runs
more, from other seeds.
"""

from __future__ import annotations

import os

import pytest

from tests.fuzz.campaign import Campaign, Finding, recorded
from tests.fuzz.targets import CONVERSATIONS, outcome

EXECUTIONS = int(os.environ.get("PUSHPULL_FUZZ") or 180_000)


@pytest.mark.timeout(3600)
def test_nothing_is_found() -> None:
    campaign = Campaign(seed=4)
    campaign.run(EXECUTIONS)
    assert len(campaign.outcomes) > 1000  # it reaches more than the first error


@pytest.mark.parametrize(
    ("name", "server", "stream"), recorded(), ids=[f"{name}-{server}" for name, server, _ in recorded()]
)
def test_what_real_servers_say_is_understood(name: str, server: str, stream: bytes) -> None:
    """Else the fuzzer would start from nothing."""
    found, end = outcome(name, stream)
    assert not end or server in ("gmail", "cyrus")
    assert found or end


def test_the_corpus_holds_every_conversation() -> None:
    assert {name for name, _, _ in recorded()} == set(CONVERSATIONS)


@pytest.mark.parametrize(
    ("broken", "by"),
    [
        ("pushpull.wire.number", int),
        ("pushpull.wire.printable", lambda data: data.decode("utf-8", "replace")),
        ("pushpull.wire.uid_of", lambda data: int(data) if data.isdigit() else 1),
        ("pushpull.framing.Reader.line", lambda reader: reader.some(4096).rstrip(b"\r\n")),
    ],
)
def test_a_fault_is_found(broken, by, monkeypatch) -> None:
    """The fuzzer sees faults: a parser that takes what int() takes, and the like."""
    monkeypatch.setattr(broken, by)
    with pytest.raises(Finding):
        Campaign(seed=4, share=50).run(20_000)
