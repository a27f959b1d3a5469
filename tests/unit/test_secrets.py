# SPDX-License-Identifier: MIT
"""Passwords and tokens show nowhere: not in objects, nor in what a server says back, whatever it says them in."""

from __future__ import annotations

import base64
import copy
import pickle
import traceback

import pytest

from pushpull import config, connect
from pushpull.accounts import Credentials
from pushpull.config import Secret
from pushpull.connect import Account
from pushpull.errors import ConnectionLost, PushpullError
from pushpull.framing import Command
from pushpull.login import sign_in
from pushpull.values import astuple
from tests.support.scripted import scripted_client

CONFIG = """
[local]
state = /s
maildir = /m
[imap]
host = h
login_username = joe
{}
[pairing P]
local = l
remote = r
"""


def parsed(line: str) -> config.Config:
    return config.parse(CONFIG.format(line), "c", "/home")


# --- objects -------------------------------------------------------------------------------------------------


def test_a_secret_is_not_pickled_and_a_copy_is_itself() -> None:
    secret = Secret("s3cret")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="not written anywhere"):
            pickle.dumps(secret, protocol)
    assert copy.copy(secret) is copy.deepcopy(secret) is secret
    with pytest.raises(TypeError):
        vars(secret)


@pytest.mark.parametrize(
    "line",
    [
        "login_password = s3cret",
        "login_password_command = echo s3cret",
        "oauth2_username = joe\noauth2_refresh_command = curl -d refresh_token=s3cret https://x.example/",
    ],
)
def test_no_view_of_a_configuration_shows_it(line: str) -> None:
    text = CONFIG.replace("login_username = joe\n", "") if "oauth2" in line else CONFIG
    made = config.parse(text.format(line), "c", "/home")
    assert "s3cret" in "".join([*made.imap.login_password_command, *made.imap.oauth2_refresh_command]) or (
        made.imap.login_password == Secret("s3cret")
    )
    for view in (repr(made), str(made), repr(made.imap), f"{made.imap}", repr([made])):
        assert "s3cret" not in view
    if made.imap.login_password is not None:
        assert "s3cret" not in repr(astuple(made))
        with pytest.raises(TypeError, match="not written anywhere"):
            pickle.dumps(made)


def test_what_hands_a_password_out_does_not_show_it() -> None:
    credentials = Credentials(parsed("login_password = s3cret").imap, asker=None)  # type: ignore[arg-type]
    assert credentials.secret() == "s3cret"
    assert "s3cret" not in repr(vars(credentials))


# --- what a server says back ---------------------------------------------------------------------------------

LOGIN, SECRET = "joe", 'hun"t\\er2 x'


def said_back() -> dict[str, bytes]:
    plain = SECRET.encode()
    quoted = plain.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    xoauth2 = b"user=joe\1auth=Bearer " + plain + b"\1\1"
    oauthbearer = b"n,a=joe,\1auth=Bearer " + plain + b"\1\1"
    encoded = {
        "as PLAIN sent it": b"\0joe\0" + plain,
        "as XOAUTH2 sent it": xoauth2,
        "as OAUTHBEARER sent it": oauthbearer,
        "in base64": plain,
    }
    return {"as it is": plain, "quoted": quoted} | {how: base64.b64encode(text) for how, text in encoded.items()}


def gives_away(text: str) -> list[str]:
    return [how for how, form in said_back().items() if form.decode() in text or "hun" in text]


ANSWERS = (b"P1 NO what is %b", b"P1 BAD [ALERT] %b", b"* BYE %b", b"P9 NO what is %b", b"* NO %b\r\nP1 NO no", b"* %b")
ACCOUNT = Account("h", 993, "implicit", None, (), 1.0, frozenset(), LOGIN, "password", lambda: SECRET)


@pytest.mark.parametrize("mechanism", ["LOGIN", "PLAIN", "XOAUTH2", "OAUTHBEARER"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_server_that_says_the_password_back(mechanism: str, answer: bytes) -> None:
    for form in said_back().values():
        trace: list[str] = []
        client = scripted_client(answer % form + b"\r\n", trace=trace)
        client.sasl_ir = True
        error: PushpullError
        try:
            command = sign_in(client, mechanism, LOGIN, SECRET)
            error = connect._refused(client, ACCOUNT, command, SECRET)
        except ConnectionLost as lost:
            error = lost
        told = "".join(traceback.format_exception(error)) + "\n".join(trace)
        assert gives_away(told) == []
        assert "***" in "\n".join(trace)
        client.shutdown()


def test_an_empty_password_hides_nothing() -> None:
    client = scripted_client(b"P1 NO no such user\r\n")
    command: Command = sign_in(client, "LOGIN", LOGIN, "")
    assert "no such user" in str(connect._refused(client, ACCOUNT, command, ""))
    client.shutdown()
