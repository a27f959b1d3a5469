# SPDX-License-Identifier: MIT
"""What a server says reaches terminal and log in words that harm nobody: no escape sequence, no secret, no flood."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable

import pytest

from tests.support.hostile import Asked, Hostile
from tests.support.victim import Victim

Lie = Callable[[Asked], Iterable[bytes]]

EVIL = b"\x1b]0;owned\x07\x1b[2J\rpushpull: all is well\x9b31m \xe2\x80\xae \xff " + b"long " * 100_000


def no(text: bytes) -> Lie:
    return lambda asked: [asked.tag + b" NO " + text + b"\r\n"]


def bye(text: bytes) -> Lie:
    return lambda asked: [b"* BYE " + text + b"\r\n"]


WHERE: dict[str, tuple[bytes, Callable[[bytes], Lie], tuple[int, ...]]] = {
    "login": (rb"^LOGIN", no, (77,)),
    "bye to the login": (rb"^LOGIN", bye, (75,)),
    "select": (rb"^SELECT", no, (78,)),
    "bye to the select": (rb"^SELECT", bye, (75,)),
    "a code": (rb"^SELECT", lambda text: no(b"[X" + text.replace(b"]", b"") + b"] no"), (78,)),
    "out of protocol": (rb"^SELECT", lambda text: lambda _: [text + b"\r\n"], (75,)),
    "malformed": (rb"^SELECT", lambda text: lambda _: [b"* (" + text + b"\r\n"], (75,)),
    "alert": (
        rb"^LOGIN",
        lambda text: lambda asked: [b"* OK [ALERT] " + text + b"\r\n", asked.tag + b" NO no\r\n"],
        (77,),
    ),
}


@pytest.mark.parametrize("where", WHERE)
def test_sequences_that_steer_a_terminal(hostile: Hostile, victim: Victim, where: str) -> None:
    pattern, lie, codes = WHERE[where]
    hostile.lie(pattern, lie(EVIL.replace(b"\r", b" ")))
    run = victim.suffers(*codes)
    log = (victim.setup.base / "log").read_text()
    for text in (run.err, log):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\u202e" not in text
    assert max(map(len, log.splitlines())) < 1500
    victim.heals()


SPELLINGS = (b"alicepw", b'"alicepw"', base64.b64encode(b"alicepw"), base64.b64encode(b"\0alice\0alicepw"))


@pytest.mark.parametrize("where", WHERE)
def test_the_password_that_is_said_again(hostile: Hostile, victim: Victim, where: str) -> None:
    """In the terminal, the log, and the trace."""
    pattern, lie, codes = WHERE[where]
    hostile.lie(pattern, lie(b"you said " + b" and ".join(SPELLINGS)))
    victim.setup.env = {"DEBUG_IMAP": "1"}
    run = victim.run()
    victim.setup.env = {}
    assert run.code in codes, run
    for text in (run.err, (victim.setup.base / "log").read_text()):
        for secret in SPELLINGS:
            assert secret.strip(b'"').decode() not in text
    assert "***" in run.err
