# SPDX-License-Identifier: MIT
"""The proxy itself: each thing that it is told to do to a link, seen from both ends."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.proxy import Proxy
from tests.support.run import Setup
from tests.support.waiting import wait_for

ORDER = ["* 2 FETCH", "* 2 EXPUNGE", "F OK", "* 1 FETCH", "G OK"]
BIG = b"Subject: big\n\n" + b"x" * 5000


class Talk:
    """A program that says line after line, over TLS to the proxy."""

    def __init__(self, setup: Setup, proxy: Proxy, *, select: bool = True) -> None:
        context = ssl.create_default_context(cafile=str(setup.server.ca_file))
        self.sock = context.wrap_socket(
            socket.create_connection(("127.0.0.1", proxy.port), 20), server_hostname="localhost"
        )
        self._file = self.sock.makefile("rb")
        self.greeting = self.line()
        self.login = self.ask(f"L LOGIN {setup.user} {setup.server.password}")
        if select:
            self.ask("S SELECT INBOX")

    def say(self, *lines: str) -> None:
        self.sock.sendall("".join(f"{line}\r\n" for line in lines).encode())

    def line(self) -> str:
        """The next line; "" at an end, also at one that came by force: Python's TLS tells them apart only by luck."""
        try:
            return self._file.readline().decode()
        except (ConnectionResetError, ssl.SSLEOFError):
            return ""

    def rest(self) -> list[str]:
        """All that comes until the end of the link, which is the last of it."""
        found = [self.line()]
        while found[-1]:
            found.append(self.line())
        return found

    def ask(self, *lines: str, tag: str = "") -> list[str]:
        """Say something; what comes up to the answer with that tag (the last line's), or to the end."""
        self.say(*lines)
        tag, found = tag or lines[-1].split(maxsplit=1)[0], [self.line()]
        while found[-1] and not found[-1].startswith(f"{tag} "):
            found.append(self.line())
        return found

    def close(self) -> None:
        self._file.close()
        self.sock.close()


@pytest.fixture
def talk(behind: Setup, proxy: Proxy) -> Iterator[Talk]:
    """A session in an INBOX that holds A, B and a big message."""
    behind.put_remotes(["A", "B", BIG])
    session = Talk(behind, proxy)
    proxy.forget()
    yield session
    session.close()


def stored(behind: Setup, words: str) -> None:
    """What the server acts on after a link ended shows a moment later."""
    behind.know("big", BIG)
    wanted = sorted([*words.split(), "big"])
    wait_for(lambda: behind.remote_state() == wanted, what=words, detail=lambda: str(behind.remote_state()))


# --- cuts ---------------------------------------------------------------------------------------------------------


def test_close_comes_after_what_was_let_through(talk: Talk, proxy: Proxy) -> None:
    proxy.on_answer("FETCH", skip=1, count=1, cut=True)
    assert [line[:9] for line in talk.ask("F FETCH 1:3 (UID)")] == ["* 1 FETCH", ""]


def test_cut_after_a_line_lets_it_through(talk: Talk, proxy: Proxy) -> None:
    proxy.on_answer("FETCH", skip=1, count=1, cut="close", after=True)
    assert [line[:9] for line in talk.ask("F FETCH 1:3 (UID)")] == ["* 1 FETCH", "* 2 FETCH", ""]


def test_reset_is_one(talk: Talk, proxy: Proxy) -> None:
    proxy.on_answer("FETCH", cut="reset")
    talk.say("F FETCH 1:3 (UID)")
    with pytest.raises(ConnectionResetError):
        socket.socket.recv(talk.sock, 100)  # below TLS


def test_half_closed_down_still_takes_commands(behind: Setup, proxy: Proxy, talk: Talk) -> None:
    """What the program says before it has read the end still reaches the server."""
    rule = proxy.on_answer("FETCH", count=1, cut="half", after=True)
    talk.say("F FETCH 1:3 (UID)")
    wait_for(lambda: rule.hits == 1, what="the end")
    talk.say(r"G STORE 2 +FLAGS (\Flagged)")
    stored(behind, "A B:F")
    assert [line[:9] for line in talk.rest()] == ["* 1 FETCH", ""]


def test_half_closed_up_still_brings_answers(behind: Setup, proxy: Proxy, talk: Talk) -> None:
    """The server gets no more of it, and what it says until it sees the end still comes."""
    proxy.on_command("^STORE", cut="half")
    gate = threading.Event()
    proxy.on_answer("FETCH", count=1, before=lambda: gate.wait(10))
    talk.say("F FETCH 1:2 (UID)", r"G STORE 2 +FLAGS (\Flagged)", r"H STORE 1 +FLAGS (\Flagged)")
    wait_for(lambda: len(proxy.seen) >= 2, what="the STORE at the proxy")
    gate.set()
    assert [line[:9] for line in talk.rest()][:3] == ["* 1 FETCH", "* 2 FETCH", "F OK Fetc"]
    stored(behind, "A B")


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_the_answer_is_lost_after_the_server_acted(behind: Setup, proxy: Proxy, talk: Talk, how: str) -> None:
    proxy.on_command("^STORE", lost=True, cut=how)
    assert talk.ask(r"G STORE 2 +FLAGS (\Flagged)")[-1] == ""
    stored(behind, "A B:F")


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_cut_at_the_nth_line(talk: Talk, proxy: Proxy, how: str) -> None:
    cut = proxy.cut_at("down", line=4, how=how)  # type: ignore[arg-type]
    found = [line[:9] for line in talk.ask("F FETCH 1:3 (UID)")]
    if how != "reset":  # which may take along what was not read yet
        assert found == ["* 1 FETCH", "* 2 FETCH", "* 3 FETCH", ""]
    assert (cut.done, cut.where[:4]) == (True, "F OK")
    assert proxy.traffic.lines_down == 4


def test_cut_at_a_line_of_the_program(behind: Setup, proxy: Proxy, talk: Talk) -> None:
    """A line behind a literal is one, too."""
    cut = proxy.cut_at("up", line=2, how="close")
    talk.say("F APPEND INBOX {5+}", "hello", r"G STORE 2 +FLAGS (\Flagged)")
    assert talk.rest()[-1] == ""
    assert (cut.done, cut.where) == (True, "")
    stored(behind, "A B")


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_cut_after_octets_within_a_literal(talk: Talk, proxy: Proxy, how: str) -> None:
    cut = proxy.cut_at("down", octets=1000, how=how)  # type: ignore[arg-type]
    found = talk.ask("F FETCH 3 BODY.PEEK[]")
    if how != "reset":  # which may take along what was not read yet
        assert sum(map(len, found)) == 1000
        assert found[-2].endswith("xxxx")
    assert cut.done
    assert proxy.traffic.octets_down == 1000


def test_cut_after_octets_of_an_upload(behind: Setup, proxy: Proxy, talk: Talk) -> None:
    proxy.cut_at("up", octets=40, how="half")
    talk.say("F APPEND INBOX {100+}", "y" * 100)
    assert "F OK" not in "".join(talk.rest())
    stored(behind, "A B")


def test_a_cut_happens_once(behind: Setup, proxy: Proxy, talk: Talk) -> None:
    proxy.cut_at("up", line=1)
    assert talk.ask("F NOOP") == [""]
    again = Talk(behind, proxy)
    assert again.ask("F NOOP")[-1].startswith("F OK")
    again.close()


def test_stalled_from_a_line_on(talk: Talk, proxy: Proxy) -> None:
    """The link stays open, and nothing passes: neither the rest nor later answers."""
    proxy.on_answer(r"\* \d FETCH", skip=1, stall=True)
    assert talk.ask("F FETCH 1:1 (UID)")[-1].startswith("F OK")
    talk.say("G FETCH 1:2 (UID)", "H NOOP")
    talk.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        talk.line()


# --- pace and counts ----------------------------------------------------------------------------------------------


def test_turns_are_waits_for_a_round_trip(talk: Talk, proxy: Proxy) -> None:
    proxy.slow(delay_ms=50)
    began = time.monotonic()
    talk.ask(*(f"N{number} NOOP" for number in range(20)))
    assert time.monotonic() - began >= 0.1
    assert proxy.traffic.turns == 1
    for number in range(3):
        talk.ask(f"M{number} NOOP")
    assert proxy.traffic.turns == 4
    talk.say("F APPEND INBOX {5}")
    assert talk.line().startswith("+")
    talk.ask("hello", tag="F")
    assert proxy.traffic.turns == 6, "one for the command, one for the permission"


def test_bandwidth(talk: Talk, proxy: Proxy) -> None:
    proxy.slow(kilobytes=10, direction="down")
    began = time.monotonic()
    talk.ask("F FETCH 3 BODY.PEEK[]")
    assert time.monotonic() - began >= proxy.traffic.octets_down / 10_000
    assert proxy.traffic.octets_down > 5000


def test_raw_links_only_know_octets(behind: Setup) -> None:
    behind.put_remote("A")
    with Proxy(behind.server.starttls_port, raw=True) as proxy:
        proxy.slow(delay_ms=50)
        talk = Talk(behind, proxy)
        octets = proxy.traffic.octets_up
        began = time.monotonic()
        assert talk.ask("F NOOP")[-1].startswith("F OK")
        assert time.monotonic() - began >= 0.1
        assert (proxy.traffic.octets_up, proxy.seen) == (octets + 8, [])
        talk.close()


# --- another server -----------------------------------------------------------------------------------------------


def test_what_is_not_offered_is_refused(behind: Setup, proxy: Proxy) -> None:
    proxy.offers("IMAP4rev1 ENABLE CONDSTORE X-OWN", refusal=b"NO Error in IMAP command")
    behind.put_remote("A")
    talk = Talk(behind, proxy)
    lists = [talk.greeting, *talk.login, *talk.ask("C CAPABILITY")]
    assert sum("CAPABILITY IMAP4rev1 ENABLE CONDSTORE X-OWN" in line for line in lists) == 3
    assert "AUTH=" in talk.greeting
    assert "* ENABLED CONDSTORE\r\n" in talk.ask("E ENABLE CONDSTORE QRESYNC")
    refused = ["ID NIL", "SELECT INBOX (QRESYNC (1 1))", "UID SEARCH RETURN (ALL) ALL", "APPEND INBOX {3+}\r\nabc"]
    for command in refused:
        assert talk.ask(f"X {command}") == ["X NO Error in IMAP command\r\n"]
    assert any("HIGHESTMODSEQ" in line for line in talk.ask("S SELECT INBOX"))
    assert talk.ask("F UID FETCH 1:* (FLAGS) (CHANGEDSINCE 1)")[-1].startswith("F OK")
    proxy.lack("CONDSTORE", "UIDPLUS")
    assert not any("MODSEQ" in line for line in talk.ask("T SELECT INBOX"))
    assert talk.ask("F UID FETCH 1:* (FLAGS) (CHANGEDSINCE 1)") == ["F NO Error in IMAP command\r\n"]
    talk.say("A APPEND INBOX {5}")
    assert talk.line().startswith("+")
    assert "APPENDUID" not in talk.ask("hello", tag="A")[-1]
    talk.close()


def test_a_mark_expunges_before_it_is_answered(behind: Setup, proxy: Proxy, talk: Talk) -> None:
    proxy.auto_expunge = True
    found = talk.ask(r"F STORE 2 +FLAGS (\Deleted)", r"G STORE 1 +FLAGS (\Flagged)")
    order = [next(at for at, line in enumerate(found) if line.startswith(start)) for start in ORDER]
    assert order == sorted(order), found
    stored(behind, "A:F")
    talk.close()
    assert not any("EXPUNGE" in command for command in behind.sent()), "what the proxy sends is not the program's"
    assert any(b"EXPUNGE" in line for line in behind.server.rawlog(behind.user))


def test_an_upload_with_a_mark_is_gone_at_once(behind: Setup, proxy: Proxy, talk: Talk) -> None:
    proxy.auto_expunge = True
    found = talk.ask(r"F APPEND INBOX (\Deleted) {5+}", "hello", tag="F")
    assert "* 4 EXPUNGE\r\n" in found
    assert "APPENDUID" in found[-1]
    stored(behind, "A B")


def test_a_mark_that_is_refused_expunges_nothing(behind: Setup, proxy: Proxy, talk: Talk) -> None:
    proxy.auto_expunge = True
    assert talk.ask(r"F STORE 9 +FLAGS (\Deleted)")[-1][:5] in ("F BAD", "F NO ")
    assert talk.ask(r"G STORE 1 -FLAGS (\Deleted)")[-1].startswith("G OK")
    stored(behind, "A B")


def test_a_rule_may_answer_for_what_a_literal_holds(behind: Setup, proxy: Proxy, talk: Talk) -> None:
    proxy.on_command("^APPEND", take=lambda _, body: b"OK [APPENDUID 1 7] I have it" if body == b"known" else None)
    for number, plus in enumerate(("+", "")):
        talk.say(f"F{number} APPEND INBOX {{5{plus}}}", "known")
        found = talk.line()
        assert (found if plus else talk.line()) == f"F{number} OK [APPENDUID 1 7] I have it\r\n"
    stored(behind, "A B")
    behind.know("other", b"other")
    talk.say("G APPEND INBOX {5}", "other")
    stored(behind, "A B other")
    assert talk.ask("H NOOP")[-1].startswith("H OK")


def test_rules_for_the_time_of_an_idle(behind: Setup, proxy: Proxy, talk: Talk) -> None:
    proxy.on_answer(r"^\* \d+ FETCH", idle=True, drop=True)
    talk.say("I IDLE")
    assert talk.line().startswith("+")
    behind.flag_remote("A", "+F")
    behind.put_remote("C")
    while "EXISTS" not in (line := talk.line()):
        assert "FETCH" not in line
    assert not any("FETCH" in line for line in talk.ask("DONE", tag="I"))
    assert any("FETCH" in line for line in talk.ask("F FETCH 1 FLAGS"))


def test_answers_with_codes_and_bye(talk: Talk, proxy: Proxy) -> None:
    proxy.on_command("^NOOP", count=1, answer=b"NO [OVERQUOTA]")
    proxy.on_command("^NOOP", untagged=b"* BYE [UNAVAILABLE] Not now\r\n", cut=True)
    assert talk.ask("F NOOP") == ["F NO [OVERQUOTA]\r\n"]
    assert talk.ask("G NOOP") == ["* BYE [UNAVAILABLE] Not now\r\n", ""]
