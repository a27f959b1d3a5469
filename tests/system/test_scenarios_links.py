# SPDX-License-Identifier: MIT
"""Links cut at any point of a run, and servers that lack things or answer oddly."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.proxy import Proxy, Rule
from tests.support.run import Setup
from tests.support.work import assert_done, with_work
from tests.system.conftest import MakeSetup

# --- the link is cut ----------------------------------------------------------------------------------------------

CUTS: dict[str, Callable[[Proxy], Rule]] = {
    "greeting": lambda proxy: proxy.on_answer(r"^\* OK", count=1, cut=True),
    "login": lambda proxy: proxy.on_command(r"^LOGIN", count=1, cut=True),
    "login-answer": lambda proxy: proxy.on_command(r"^LOGIN", count=1, lost=True, cut=True),
    "enable": lambda proxy: proxy.on_command(r"^ENABLE", count=1, cut=True),
    "select": lambda proxy: proxy.on_command(r"^SELECT", count=1, cut=True),
    "select-answer": lambda proxy: proxy.on_answer(r"EXISTS", count=1, cut=True),
    "flags": lambda proxy: proxy.on_command(r"^UID FETCH .*FLAGS", count=1, cut=True),
    "flags-answer": lambda proxy: proxy.on_answer(r"FETCH \(.*FLAGS", count=1, cut=True),
    "second-flags-answer": lambda proxy: proxy.on_answer(r"FETCH \(.*FLAGS", skip=1, count=1, cut=True),
    "body": lambda proxy: proxy.on_command(r"^UID FETCH .*BODY\.PEEK\[\]", count=1, cut=True),
    "start-of-body": lambda proxy: proxy.on_answer(r"BODY\[\] \{", count=1, cut=True, literal=0),
    "mid-body": lambda proxy: proxy.on_answer(r"BODY\[\] \{", count=1, cut=True, literal=100),
    "end-of-body": lambda proxy: proxy.on_answer(r"BODY\[\] \{", count=1, cut=True, literal=185),
    "store": lambda proxy: proxy.on_command(r"^UID STORE", count=1, cut=True),
    "store-answer": lambda proxy: proxy.on_command(r"^UID STORE", count=1, lost=True, cut=True),
    "append": lambda proxy: proxy.on_command(r"^APPEND", count=1, cut=True),
    "mid-append": lambda proxy: proxy.on_command(r"^APPEND", count=1, cut=True, literal=50),
    "append-answer": lambda proxy: proxy.on_answer(r"APPENDUID", count=1, cut=True),
    "logout": lambda proxy: proxy.on_command(r"^LOGOUT", count=1, cut=True),
}


@pytest.mark.parametrize(
    "where", [pytest.param(where, marks=pytest.mark.needs("condstore") if where == "enable" else ()) for where in CUTS]
)
def test_link_cut_once(behind: Setup, proxy: Proxy, where: str) -> None:
    """One run gets over it by itself: it connects again and goes on, nothing is lost or there twice."""
    behind.strategy = "qresync"  # ENABLE is sent for CONDSTORE alone; the other ways follow below
    with_work(behind)
    rule = CUTS[where](proxy)
    run = behind.sync()
    assert rule.hits >= 1, f"nothing was cut\n{run}"
    assert_done(behind)


@pytest.mark.parametrize("where", ["flags-answer", "mid-body", "store", "mid-append", "append-answer"])
@pytest.mark.parametrize("strategy", ["condstore", "plain"])
def test_link_cut_once_with_other_strategies(make_setup: MakeSetup, proxy: Proxy, where: str, strategy: str) -> None:
    setup = make_setup(port=proxy.port, strategy=strategy)
    with_work(setup)
    CUTS[where](proxy)
    setup.sync()
    assert_done(setup)


def test_link_cut_each_time(behind: Setup, proxy: Proxy) -> None:
    """A one-shot run gives up in the end with 75; the next one, on a good link, does it all."""
    with_work(behind)
    rule = proxy.on_command(r"^UID STORE", cut=True)
    run = behind.sync(expect=75)
    assert run.err
    assert 1 < rule.hits <= 5, "a few attempts, not one and not many"
    rule.count = 0
    behind.sync()
    assert_done(behind)


def test_server_that_is_not_there(behind: Setup, proxy: Proxy) -> None:
    with_work(behind)
    proxy.refuse = True
    behind.sync(expect=75)
    assert 1 < proxy.connections <= 4
    proxy.refuse = False
    behind.sync()
    assert_done(behind)


def test_append_that_arrives_after_the_link_died(behind: Setup, proxy: Proxy) -> None:
    """The answer to APPEND is lost, the message is there: it is found, not sent again."""
    behind.put_remote("A")
    behind.sync()
    behind.put_local("new", "F")
    behind.forget_sent()
    proxy.on_answer(r"APPENDUID", count=1, cut=True)
    behind.sync()
    behind.assert_both("A new:F")
    assert behind.count_sent("APPEND") == 1
    behind.sync_again_changes_nothing()


def test_append_unanswered_and_then_removed(behind: Setup, proxy: Proxy) -> None:
    """Its file goes before the next run: the message there is then a deleted one, not a new one."""
    behind.put_remote("A")
    behind.sync()
    behind.put_local("new", "S")
    proxy.on_answer(r"APPENDUID", count=1, cut=True, before=lambda: setattr(proxy, "refuse", True))
    behind.sync(expect=75)
    assert behind.remote_state() == ["A", "new:S"]
    behind.remove_local("new")
    proxy.refuse = False
    behind.sync()
    behind.assert_state(remote="A new:ST", local="A")
    behind.sync_again_changes_nothing()


# --- servers that lack things -------------------------------------------------------------------------------------


def test_server_without_uidplus(each_behind: Setup, proxy: Proxy) -> None:
    proxy.lack("UIDPLUS")
    proxy.on_answer(r"\[APPENDUID [^]]*\] ?", replace=b"")
    with_work(each_behind)
    each_behind.sync()
    assert_done(each_behind)
    for name in ("P", "P", "Q"):
        each_behind.put_local(name, "F")
    each_behind.sync()
    found = each_behind.local_state()
    assert sorted(word for word in each_behind.remote_state() if word[0] in "PQ") == ["P:F", "P:F", "Q:F"]
    assert [word for word in found if word[0] in "PQ"] == ["P:F", "P:F", "Q:F"]
    each_behind.sync_again_changes_nothing()


def test_poor_server(behind: Setup, proxy: Proxy) -> None:
    """Nothing but IMAP4rev1, and what is not offered is refused."""
    proxy.on_answer(r"IMAP4rev1 [^]\r]*", replace=b"IMAP4rev1")
    proxy.on_answer(r"\[(APPENDUID|HIGHESTMODSEQ)[^]]*\] ?", replace=b"")
    proxy.on_command(r"^(ENABLE|ID|UID (MOVE|EXPUNGE)|IDLE|NOTIFY|COMPRESS|UNSELECT|NAMESPACE)\b", answer=b"BAD what?")
    proxy.on_command(r"CONDSTORE|QRESYNC|CHANGEDSINCE|MODSEQ|RETURN", answer=b"BAD what?")
    with_work(behind)
    behind.sync()
    assert_done(behind)


def test_server_that_shows_an_upload_only_after_noop(each_behind: Setup, proxy: Proxy) -> None:
    """Courier. What it shows then is the base of both sides: a flag taken off here before the next run stays off."""
    each_behind.put_remote("A")
    each_behind.sync()
    hidden = proxy.on_answer(r"^\* \d+ (FETCH|EXISTS)", drop=True, count=0)
    proxy.on_command(r"^APPEND", before=lambda: setattr(hidden, "count", 1 << 30))
    noop = proxy.on_command(r"^NOOP", before=lambda: setattr(hidden, "count", 0))
    each_behind.put_local("B", "FS")
    each_behind.sync()
    assert noop.hits
    hidden.count = 0
    each_behind.flag_local("B", "-S")
    each_behind.sync()
    each_behind.assert_both("A B:F")
    each_behind.sync_again_changes_nothing()


def test_server_that_chokes_on_one_delta(each_behind: Setup, proxy: Proxy) -> None:
    """Gmail has said BYE to one MODSEQ value, for ever: a full compare comes by itself."""
    with_work(each_behind)
    proxy.on_command(r"CHANGEDSINCE", answer=b"NO System Error", untagged=b"* BYE System Error\r\n")
    each_behind.sync()
    each_behind.assert_state(remote="A:FS B:RS C:ST N:F O:S", local="A:FS B:RS D:ST N:F O:S")
    each_behind.sync_again_changes_nothing(quiet=False)


def test_codes_without_text(behind: Setup, proxy: Proxy) -> None:
    proxy.on_answer(r"^(\S+ OK \[[^]]*\]) [^\r\n]+", replace=rb"\1")
    with_work(behind)
    behind.sync()
    assert_done(behind)


def test_unsolicited_answers_in_between(behind: Setup, proxy: Proxy) -> None:
    """Flag news of some other message, and untagged OKs, may come at any time."""
    with_work(behind)
    # In the words of Dovecot, Courier and Cyrus.
    proxy.on_answer(
        r"^(\S+ OK (Fetch|Store|Completed))", replace=rb"* OK Still here\r\n* 1 FETCH (FLAGS (\\Seen \\Flagged))\r\n\1"
    )
    behind.sync()
    assert_done(behind)
