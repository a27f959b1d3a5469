# SPDX-License-Identifier: MIT
"""What has to hold on every server, also on those that are too poor for the scenarios. `PUSHPULL_SERVER` chooses.

First synchronisation, a second run that does nothing, flags and new mail both ways, deletion marks; nothing lost.
"""

from __future__ import annotations

import pytest

from tests.support.messages import mail
from tests.support.run import Setup
from tests.system.conftest import MakeSetup


@pytest.fixture
def filled(setup: Setup) -> Setup:
    """A to E on both sides, after a first run that brought some of them down and others up."""
    setup.put_remotes(["A", "B", "C"], "S")
    setup.put_local("D", "S")
    setup.put_local("E", "FS")
    setup.sync("--yes")
    return setup


@pytest.mark.every_server
def test_first_run_and_a_second_that_changes_nothing(filled: Setup) -> None:
    filled.assert_both("A:S B:S C:S D:S E:FS")
    filled.sync_again_changes_nothing()


@pytest.mark.every_server
def test_flags_both_ways(filled: Setup) -> None:
    filled.flag_remote("A", "+F")
    filled.flag_remote("B", "-S")
    filled.flag_local("C", "+R")
    filled.flag_local("D", "-S")
    filled.sync()
    filled.assert_both("A:FS B C:RS D E:FS")
    filled.sync_again_changes_nothing()


def test_new_mail_both_ways(filled: Setup) -> None:
    filled.put_remote("F", "F")
    filled.put_remote("G")
    filled.put_local("H", "R")
    filled.put_local("I", directory="new")
    filled.sync()
    filled.assert_both("A:S B:S C:S D:S E:FS F:F G H:R I")
    filled.sync_again_changes_nothing()


@pytest.mark.every_server
def test_deletions_are_marks_both_ways(filled: Setup) -> None:
    filled.remove_local("A")
    filled.expunge_remote("B")
    filled.flag_local("C", "+T")
    filled.flag_remote("D", "+T")
    filled.sync()
    filled.assert_state(remote="A:ST C:ST D:ST E:FS", local="B:ST C:ST D:ST E:FS")
    filled.sync_again_changes_nothing()


def test_a_mark_taken_off_brings_the_message_back(filled: Setup) -> None:
    filled.remove_local("A")
    filled.expunge_remote("B")
    filled.sync()
    filled.flag_remote("A", "-T")
    filled.flag_local("B", "-T")
    filled.sync()
    filled.assert_both("A:S B:S C:S D:S E:FS")
    filled.sync_again_changes_nothing()


def test_another_mailbox(make_setup: MakeSetup) -> None:
    setup = make_setup(pairings={"work": ("work", "Work")})
    with setup.client() as client:
        client.create("Work")
    setup.put_remotes(["A", "B"], "S")
    setup.put_local("C", "F")
    setup.sync("--yes")
    setup.assert_both("A:S B:S C:F")
    setup.sync_again_changes_nothing()


def test_many_and_big(setup: Setup) -> None:
    """More than a batch, a line longer than any buffer, and a megabyte."""
    big = [setup.know(f"big{n}", mail(f"big{n}", body=f"{n}" * 500_000 + "\n" + "line\n" * 100_000)) for n in (1, 2)]
    names = [f"M{number}" for number in range(60)]
    setup.put_remotes([*names, big[0]], "S")
    setup.put_local(big[1], "S")
    setup.sync("--yes")
    setup.assert_both(" ".join(f"{name}:S" for name in [*names, "big1", "big2"]))
    setup.sync_again_changes_nothing()


def test_the_guard_holds(setup: Setup) -> None:
    names = [f"M{number}" for number in range(60)]
    setup.put_remotes(names, "S")
    setup.sync()
    setup.expunge_remote(*names[:51])
    run = setup.sync(expect=65)
    assert "--allow-mass-delete" in run.err
    assert not [word for word in setup.local_state() if word.endswith("T")]


@pytest.mark.every_server
@pytest.mark.needs("tls")
@pytest.mark.parametrize("how", ["implicit", "starttls"])
def test_over_the_servers_own_tls(setup: Setup, how: str) -> None:
    """The certificate is checked, and nothing is recorded in between."""
    port = setup.server.own_ports[how == "starttls"]
    setup.settings = {"imap": {"tls": how, "port": str(port)}}
    setup.put_remote("A", "S")
    setup.put_local("B", "F")
    setup.sync("--yes")
    setup.assert_both("A:S B:F")
    setup.settings["ssl"] = {"certificate_file": "/etc/ssl/certs/ca-certificates.crt"}
    setup.sync(expect=69)


@pytest.mark.parametrize("letters", ["P", "DFPRS"])
def test_a_flag_that_it_may_not_keep(setup: Setup, letters: str) -> None:
    """Where $Forwarded is dropped or refused, the file keeps its letter, and it is not tried for ever."""
    setup.put_local("A", letters)
    setup.sync("--yes")
    setup.assert_state(local=f"A:{letters}")
    kept = letters if "keywords" not in setup.server.lacks else letters.replace("P", "")
    (word,) = setup.remote_state()
    assert word.partition(":")[2] in (kept, letters)
    setup.sync_again_changes_nothing()
