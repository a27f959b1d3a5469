# SPDX-License-Identifier: MIT
"""What somebody else puts into the Maildir, and what somebody else can read of a run, with the real program."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

import pytest

from tests.support.live import Live
from tests.support.messages import mail
from tests.support.patched import patched
from tests.support.run import Setup
from tests.support.waiting import wait_for
from tests.system.conftest import MakeSetup

# --- the Maildir -------------------------------------------------------------------------------------------------


@pytest.fixture
def outside(setup: Setup) -> Path:
    """A directory of somebody else, with mail and a secret in it."""
    directory = setup.base / "outside"
    for name in ("cur", "new", "tmp"):
        (directory / name).mkdir(parents=True)
    (directory / "passwd").write_bytes(mail("secret"))
    (directory / "cur" / "1.theirs:2,S").write_bytes(mail("theirs"))
    return directory


def contents(directory: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(directory.rglob("*"))}


def test_nothing_but_plain_files_is_mail(setup: Setup, outside: Path) -> None:
    """Links to other people's files are not uploaded; pipes, sockets and devices are not waited for."""
    setup.put_local("A", "S")
    setup.put_remote("B", "S")
    setup.sync("--yes")
    (setup.maildir / "cur" / "1.link:2,S").symlink_to(outside / "passwd")
    (setup.maildir / "new" / "2.link").symlink_to(outside / "passwd")
    (setup.maildir / "cur" / "3.directory:2,S").symlink_to(outside / "cur")
    os.mkfifo(setup.maildir / "cur" / "4.pipe:2,S")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.open(setup.maildir / "cur", os.O_RDONLY)
        listening.bind(f"/proc/self/fd/{here}/5.socket")
        os.close(here)
    if os.getuid() == 0:
        os.mknod(setup.maildir / "cur" / "6.device:2,S", stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero
    before = contents(outside)
    setup.flag_remote("B", "+F")
    run = setup.sync("-vv")
    assert run.err.count("left alone: ") >= 5
    setup.assert_state(remote="A:S B:FS")
    assert contents(outside) == before
    setup.sync_again_changes_nothing()


def test_a_file_that_becomes_a_link_is_not_followed(setup: Setup, outside: Path) -> None:
    """The state still knows the name: neither its flags nor its contents are those of what the link leads to."""
    setup.put_remotes(["A", "D"], "S")
    setup.flag_remote("D", "+D")  # drafts are read again
    setup.sync()
    for file in setup.files():
        file.path.unlink()
        file.path.symlink_to(outside / "passwd")
    before = contents(outside)
    setup.flag_remote("A", "+F")
    setup.sync()
    # No file any more: marked, as what was removed is.
    assert sorted(setup.remote_state()) == ["A:FST", "D:DST"]
    assert contents(outside) == before


@pytest.mark.parametrize("name", ["cur", "tmp", "a3"])
def test_a_directory_that_is_a_link_stops_the_pairing(setup: Setup, outside: Path, name: str) -> None:
    setup.put_local("A", "S")
    setup.put_local("X", "S", directory="a3/cur")
    (setup.maildir / "a3" / "new").mkdir()
    setup.sync("--yes")
    setup.put_remote("B", "S")
    (setup.maildir / name).rename(setup.base / "kept")
    (setup.maildir / name).symlink_to(outside)
    before = contents(outside)
    run = setup.sync(expect=74)
    assert "symbolic link, which is not followed" in run.err
    assert contents(outside) == before
    setup.assert_state(remote="A:S B:S X:S")
    (setup.maildir / name).unlink()
    (setup.base / "kept").rename(setup.maildir / name)
    setup.sync()
    setup.assert_both("A:S B:S X:S")


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_a_marker_that_is_no_file_stops_the_pairing(setup: Setup, outside: Path, kind: str) -> None:
    setup.put_remote("A", "S")
    setup.sync()
    marker = setup.maildir / ".pushpull"
    marker.unlink()
    {
        "link": lambda: marker.symlink_to(outside / "passwd"),
        "pipe": lambda: os.mkfifo(marker),
        "directory": marker.mkdir,
    }[kind]()
    before = contents(outside)
    setup.put_remote("B", "S")
    setup.sync(expect=74)
    assert contents(outside) == before
    setup.assert_state(remote="A:S B:S", local="A:S")


# --- secrets -----------------------------------------------------------------------------------------------------


def test_a_password_is_nowhere_to_be_seen(make_setup: MakeSetup) -> None:
    """Not in arguments, environments, descriptors, logs, traces, nor in what the hook is told."""
    setup = make_setup(settings={"imap": {"idle": "yes"}, "log": {"level": "debug"}})
    secret = setup.server.users.get(setup.user, setup.server.password)
    assert len(secret) > 6
    key = setup.base / "key"
    key.write_text(secret + "\n")
    hook = setup.base / "hook"
    told = setup.base / "told"
    hook.write_text(f"#!/bin/sh\n{{ env; tr '\\0' '\\n' </proc/$PPID/cmdline; cat; ls -l /proc/$$/fd; }} >{told}.new\n")
    hook.write_text(hook.read_text() + f"mv {told}.new {told}\n")
    hook.chmod(0o700)
    setup.settings["imap"] |= {"login_password": "", "login_password_command": f"cat {key}"}
    setup.settings["command"] = {"post_sync_local_change": str(hook)}
    setup.env["DEBUG_IMAP"] = "1"
    with Live(setup, "-vv") as live:
        setup.put_remote("A")
        wait_for(told.exists, what="the hook")
        process = Path(f"/proc/{live.process.pid}")
        seen = [process.joinpath(name).read_bytes().decode() for name in ("cmdline", "environ")]
        for descriptor in process.joinpath("fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                seen.append(os.readlink(descriptor))
    seen += [told.read_text(), live.stderr.read_text(), (setup.base / "log").read_text()]
    assert "LOGIN ***" in live.stderr.read_text()
    assert "PUSHPULL_FOLDER" in told.read_text()
    assert not [text for text in seen if secret in text]


_BUG = """
from pushpull import {module}
def fails(*arguments, **named):
    raise RuntimeError("a bug")
{module}.{name} = fails
"""


@pytest.mark.parametrize(("module", "name"), [("connect", "sign_in"), ("commands", "_answer"), ("sasl", "forms")])
def test_a_bug_where_the_password_is_at_hand_does_not_show_it(setup: Setup, module: str, name: str) -> None:
    setup.settings["imap"] = {"login_password": "", "login_password_command": "echo hunter2-hunter2"}
    setup.program = patched(_BUG.format(module=module, name=name))
    setup.env["PYTHONFAULTHANDLER"] = "1"
    run = setup.run("-vv")
    assert run.code == 70, run
    assert "RuntimeError: a bug" in run.err
    assert "hunter2" not in run.err + (setup.base / "log").read_text()


# --- texts of strangers --------------------------------------------------------------------------------------------

NASTY = "\x1b]0;owned\x07\x9b2J\u202e\u2028\r\n2026-01-01T00:00:00 error: forged"


def test_a_senders_words_stay_words(setup: Setup) -> None:
    """Headers, file names and mailboxes are told on one line each, without a control character."""
    header = f"Message-ID: <a\x1b[2J@x>\nSubject: {NASTY[:12]}\nFrom: \x07\n\nbody\n".encode()
    setup.put_remote(setup.know("A", header))
    setup.put_local(b"", name="1.evil\x1b[2J\n2026-01-01T00:00:00.000+00:00 error: forged")
    setup.put_local("B", name="2.evil\x9b\u202e")
    run = setup.run("--yes", "-vv")
    log = (setup.base / "log").read_text(encoding="utf-8")
    for text in (run.err, run.out, log):
        assert not set(text) & set("\x1b\x07\x9b\u202e\u2028\r")
    assert all(line[:4].isdigit() and line[19] == "." and "T" in line for line in log.splitlines())
    assert not [line for line in log.splitlines() if line.startswith("2026-01-01T00:00:00.000+00:00")]
    assert "evil" in log


def test_names_that_could_be_more_than_names(make_setup: MakeSetup) -> None:
    """Of folders, pairings and mailboxes: nothing in them reaches a shell, SQL or the server as more than a name."""
    local, remote = 'it\'s "$(touch shell)" `id` ; -- %s', 'it\'s "quoted" \\Deleted) {3} %s'
    name = "'; DELETE FROM pairing; -- $(touch shell)"
    setup = make_setup(pairings={name: (local, remote)})
    with setup.client() as client:
        client.create(remote)
    hook, told = setup.base / "hook", setup.base / "told"
    hook.write_text(f'#!/bin/sh\nprintf "%s\\n" "$PUSHPULL_PAIRING" "$PUSHPULL_FOLDER" "$#" >{told}\n')
    hook.chmod(0o700)
    setup.settings = {"command": {"post_sync_local_change": f"{hook} '$(touch shell)' ; `id`"}}
    setup.put_remotes(["A", "B"], "S")
    setup.put_local("C", "S")
    setup.sync("--yes", names=[name])
    setup.assert_both("A:S B:S C:S")
    assert told.read_text().splitlines() == [name, str(setup.base / "mail" / local), "3"]
    assert not list(setup.base.rglob("shell"))
    setup.sync_again_changes_nothing(names=[name])
