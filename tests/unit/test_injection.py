# SPDX-License-Identifier: MIT
"""Names, words and passwords of the configuration and of servers stay one word of the language that carries them."""

from __future__ import annotations

import ast
import base64
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from imap_tools.imap_utf7 import utf7_decode

from pushpull import sasl
from pushpull.errors import LoginRefused, MailboxMissing, ServerUnsupported
from pushpull.login import sign_in
from pushpull.model import PairKey
from pushpull.remote import mailbox_name
from pushpull.shellwords import split
from pushpull.store import Store
from tests.support.scripted import scripted_client

PACKAGE = Path(__file__).resolve().parents[2] / "pushpull"
QUOTED = re.compile(rb'"(?:[^"\\\r\n\0]|\\["\\])*"')  # RFC 9051 section 9, quoted
NASTY = '" \\ {3}\r\nP9 DELETE INBOX\0 (\\Deleted) %*&-\u202e\U0001f4a9'
texts = st.text(st.characters(codec="utf-8"), max_size=40) | st.text(NASTY, max_size=20)


# --- IMAP ----------------------------------------------------------------------------------------------------


@given(texts)
@example(NASTY)
@example('a" "b')
@example("a\\")
@example("{3}")
def test_a_mailbox_is_one_quoted_word(name: str) -> None:
    try:
        sent = mailbox_name(name)
    except MailboxMissing:
        assert set(name) & set("\0\r\n")
        return
    assert QUOTED.fullmatch(sent)
    assert sent.isascii()
    assert utf7_decode(re.sub(rb"\\(.)", rb"\1", sent[1:-1])) == name


@given(texts, texts, st.sampled_from(["password", "oauth2"]))
@example('a" "b', "c\\", "password")
@example("a\r\nP9 DELETE INBOX", "b", "password")
@example("a", "b\r\nP9 DELETE INBOX", "oauth2")
def test_a_login_is_one_command(login: str, secret: str, auth: str) -> None:
    offered = {"AUTH=PLAIN", "AUTH=XOAUTH2"}
    try:
        mechanism = sasl.mechanism(auth, offered, login, secret)
    except (LoginRefused, ServerUnsupported):
        return
    client = scripted_client(b"P1 OK in\r\n")
    client.sasl_ir = True
    sign_in(client, mechanism, login, secret)
    sent = bytes(client.sock.sent)  # type: ignore[attr-defined]
    assert sent.count(b"\r\n") == 1
    assert sent.endswith(b"\r\n")
    assert b"\r" not in sent[:-2]
    assert b"\n" not in sent[:-2]
    if mechanism == "LOGIN":
        words = re.fullmatch(rb"P1 LOGIN (%b) (%b)\r\n" % (QUOTED.pattern, QUOTED.pattern), sent)
        assert words
        assert [re.sub(rb"\\(.)", rb"\1", word[1:-1]).decode() for word in words.groups()] == [login, secret]
    else:
        word, name, initial = sent.split()[1:]
        assert (word, name.decode()) == (b"AUTHENTICATE", mechanism)
        assert secret.encode() in base64.b64decode(initial, validate=True)
    client.shutdown()


# --- SQL -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["'; DROP TABLE pairing; --", '"', "%s :pair ?", "\\", "é\u202e"])
def test_names_are_bound_to_statements(tmp_path: Path, word: str) -> None:
    key = PairKey(word, word, word, word)
    store = Store.open(str(tmp_path / "state"))
    pair = store.add_pair(key)
    assert store.find_pair(key) == pair
    assert pair.key == key
    assert store.db.execute("SELECT count(*) FROM pairing").fetchone() == (0,)
    store.close()


# What is put into the text of a statement: all made here, of constants.
MADE = re.compile(r"_?[a-z]+\(('[a-z_]+'(, )?)*\)")
BUILT = {
    "columns",
    "where",
    "differing",
    "pragma",
    "names",
    "marks",
    "condition",
    "table",
    "sets",
    "drafts",
    "which",
    "row",
    "among",
}


def pieces(code: ast.AST) -> set[str]:
    """What is formatted into strings that begin with a word of SQL, or are part of a call of execute."""
    calls = [node for node in ast.walk(code) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    executed = [node for node in calls if node.func.attr in ("execute", "executemany", "executescript")]
    return {
        ast.unparse(piece.value)
        for call in executed
        for argument in call.args[:1]
        for piece in ast.walk(argument)
        if isinstance(piece, ast.FormattedValue)
    }


@pytest.mark.parametrize("module", ["store", "observed", "observed_local", "outcomes", "schema", "problems"])
def test_statements_are_made_of_constants(module: str) -> None:
    found = pieces(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8")))
    assert {piece for piece in found if not (piece.isupper() or MADE.fullmatch(piece) or piece in BUILT)} == set()


# --- commands ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["$(id)", "`id`", "a;b", "a|b", "a&&b", "a>b", "$HOME", "*", "a\tb", "~root", "{a,b}"])
def test_a_command_is_words_and_nothing_else(text: str) -> None:
    assert split(f"cmd {text}", "/home/me") == ("cmd", *text.split())
    assert split(f"cmd '{text}'", "/home/me") == ("cmd", text)
