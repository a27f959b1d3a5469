# SPDX-License-Identifier: MIT
"""A byte read is a byte stored: strange messages, dates, file names, keywords, buckets."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from tests.support.messages import crlf, lf, mail
from tests.support.run import Setup
from tests.system.conftest import MakeSetup

STRANGE = {
    "no-body": b"Subject: x\nMessage-ID: <a@b>\n",
    "no-blank-line-no-end": b"Subject: x",
    "no-final-line-end": mail("x").rstrip(b"\n"),
    "only-a-body": b"\nThere is no header here.\n",
    "no-colon": b"this is not a header field\nnor is this\n\nbody\n",
    "from-line": b"From someone Mon Jan  1 00:00:00 2024\nSubject: x\n\nFrom here on\n>From there\n",
    "one-byte": b"x",
    "one-line-end": b"\n",
    "empty-lines": b"\n\n\n\n",
    "8-bit": "Subject: Grüße\nMessage-ID: <ü@example.org>\n\nHéllo wörld ☃\n".encode(),
    "latin-1": "Subject: Grüße\nX: \xff\xfe\n\nH\xe9llo\n".encode("latin-1"),
    "every-byte": b"Subject: x\n\n" + bytes(byte for byte in range(1, 256) if byte != 13) + b"\n",
    "huge-header": b"Subject: x\n" + b"".join(b"X-%d: %s\n" % (n, b"y" * 900) for n in range(300)) + b"\nbody\n",
    "huge-line": b"Subject: x\n\n" + b"z" * 200_000 + b"\n",
    "long-folded": b"Subject: x\nTo:" + b"\n a@example.org," * 3000 + b"\n b@c\n\nbody\n",
    "looks-like-imap": b"Subject: x\n\n* 1 EXPUNGE\nA1 OK done\n)\n{10}\n+ go on\n",
    "dots": b"Subject: x\n\n.\n..\n.\n",
    "control-characters": b"Subject: \x1b[31mred\x07\n\n\x01\x02\x1b]0;x\x07\n",
    "tabs-and-trailing-blanks": b"Subject:\tx \t\n\n a \t\n\t\n",
    "two-megabytes": b"Subject: x\n\n" + b"0123456789abcdef\n" * 125_000,
}


def strange(setup: Setup) -> dict[str, bytes]:
    """Those that the server takes. test_servers_cyrus.py is about the others."""
    return {name: body for name, body in STRANGE.items() if setup.server.takes(body)}


def stored(setup: Setup) -> dict[str, bytes]:
    """What the server makes of them."""
    return {name: setup.know(name, setup.server.stored(body)) for name, body in strange(setup).items()}


def test_strange_messages_down(each: Setup) -> None:
    each.put_remotes(strange(each).values(), "S")
    each.sync()
    wanted = stored(each)
    assert {each.name_of(file.body): file.body for file in each.files()} == wanted
    each.assert_both(" ".join(f"{name}:S" for name in wanted))
    each.sync_again_changes_nothing()


def test_strange_messages_up(each: Setup) -> None:
    paths = {name: each.put_local(each.know(name, body), "S") for name, body in strange(each).items()}
    each.sync("--yes")
    wanted = stored(each)
    found = {each.name_of(message.body): message.body for message in each.remote().values()}
    assert found == {name: crlf(body) for name, body in wanted.items()}
    assert {name: path.read_bytes() for name, path in paths.items()} == strange(each)
    each.assert_both(" ".join(f"{name}:S" for name in wanted))
    each.sync_again_changes_nothing()


def test_strange_messages_on_both_sides(each: Setup) -> None:
    wanted = stored(each)
    each.put_remotes(strange(each).values(), "S")
    for body in wanted.values():
        each.put_local(body, "F")
    each.forget_sent()
    each.sync("--yes")
    assert each.count_sent("APPEND") == 0
    each.assert_both(" ".join(f"{name}:FS" for name in wanted))
    each.sync_again_changes_nothing()


STRAY = b"Subject: x\r\r\nX-A: b\r\n\r\r\nbody\r\r\r\nrest\r\n"


def unix(body: bytes) -> bytes:
    return re.sub(rb"\r*\n", b"\n", body)


def test_stray_carriage_returns_down(setup: Setup) -> None:
    """CR CR LF in the header and the body; a line of CRs ends the header."""
    setup.put_remote(STRAY)
    setup.sync()
    assert [unix(file.body) for file in setup.files()] == [unix(STRAY)]
    setup.sync_again_changes_nothing()


@pytest.mark.parametrize("body", [b"Subject: x\r\n\r\nall\r\nCRLF\r\n", b"Subject: x\n\r\nmixed\r\nand\nmore\r\r\n"])
def test_carriage_returns_in_a_file(setup: Setup, body: bytes) -> None:
    path = setup.put_local(body, "S")
    setup.sync("--yes")
    assert [unix(message.body) for message in setup.remote().values()] == [unix(body)]
    assert path.read_bytes() == body, "the file is the user's"
    setup.sync_again_changes_nothing()


@pytest.mark.needs("lone CR")
def test_carriage_returns_alone_are_kept(setup: Setup) -> None:
    body = setup.know("cr", b"Subject: x\n\na\rb\n\rc\n")
    setup.put_remote(body)
    setup.sync()
    assert [file.body for file in setup.files()] == [body]
    setup.sync_again_changes_nothing()


@pytest.mark.needs("dovecot")
def test_nul_in_a_file(setup: Setup) -> None:
    """Dovecot stores another byte for it: still the same message, neither sent nor fetched again."""
    body = b"Subject: x\nMessage-ID: <nul@example.org>\n\nbefore\0after\n"
    path = setup.put_local(body)
    setup.put_local("plain")
    setup.sync("--yes")
    assert len(setup.remote()) == 2
    assert path.exists() or any(file.body == body for file in setup.files())
    setup.sync_again_changes_nothing()
    assert len(setup.files()) == 2


@pytest.mark.needs("refuses empty")
def test_empty_file_is_set_aside(setup: Setup) -> None:
    """Dovecot refuses a message of no bytes; the others go on, and it is not forgotten."""
    setup.put_local(b"", "S", name="empty.1.host")
    setup.put_local("plain")
    run = setup.run("--yes")
    assert run.code in (0, 75), run
    assert "empty.1.host" in run.err
    setup.assert_state(remote="plain")
    assert len(setup.files()) == 2
    again = setup.sync(expect=0)
    assert again.err, "it is told again"
    setup.sync_again_changes_nothing(quiet=False)


def test_downloading_does_not_mark_as_seen(each: Setup) -> None:
    each.put_remotes(["A", "B"])
    each.sync()
    each.assert_both("A B")


# --- dates --------------------------------------------------------------------------------------------------------

ZONES = [timezone(timedelta(hours=9, minutes=30)), timezone(-timedelta(hours=7)), UTC]


@pytest.mark.parametrize("here", ["UTC", "Australia/Adelaide", "America/New_York"])
def test_dates_down(setup: Setup, here: str) -> None:
    """mtime is the instant of INTERNALDATE, whatever zones the server and this machine use; also in summer."""
    setup.env = {"TZ": here}
    wanted = {}
    for number, zone in enumerate(ZONES):
        for month in (1, 7):
            name = f"M{number}{month}"
            wanted[name] = datetime(2024, month, 1, 2, 30, 5, tzinfo=zone)
            setup.put_remote(name, date=wanted[name])
    setup.sync()
    found = {setup.name_of(file.body): file.path.stat().st_mtime for file in setup.files()}
    assert found == {name: date.timestamp() for name, date in wanted.items()}
    setup.sync_again_changes_nothing()


@pytest.mark.parametrize("here", ["UTC", "Australia/Adelaide", "America/New_York"])
def test_dates_up(setup: Setup, here: str) -> None:
    setup.env = {"TZ": here}
    wanted = {
        f"M{month}{day}": datetime(2023, month, day, 23, 59, 59, tzinfo=UTC) for month in (1, 7) for day in (1, 31)
    }
    # A time that New York had twice, and one that it never had.
    wanted |= {"twice": datetime(2024, 11, 3, 6, 30, tzinfo=UTC), "never": datetime(2024, 3, 10, 7, 30, tzinfo=UTC)}
    for name, date in wanted.items():
        setup.put_local(name, mtime=date.timestamp())
    setup.sync("--yes")
    found = {setup.name_of(message.body): message.date for message in setup.remote().values()}
    assert found == wanted
    setup.sync_again_changes_nothing()


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "de_DE.UTF-8"])
def test_dates_have_english_months(setup: Setup, locale: str) -> None:
    setup.env = {"LC_ALL": locale}
    date = datetime(2024, 3, 5, 1, 2, 3, tzinfo=UTC)
    setup.put_local("ä-local", mtime=date.timestamp())
    setup.sync("--yes")
    assert [message.date for message in setup.remote().values()] == [date]


# --- file names ---------------------------------------------------------------------------------------------------


def test_names_that_other_programs_make(setup: Setup) -> None:
    """No info, unsorted and foreign letters, prefixes of each other, two colons, commas, any bytes."""
    cur = setup.make_folder() / "cur"
    made = {
        "A": b"noinfo",
        "B": b"unsorted:2,SRF",
        "C": b"foreign:2,FSabX",
        "D": b"1",
        "E": b"1.1:2,S",
        "F": b"1.1.1:2,",
        "G": b"two:colons:2,S",
        "H": b"sizes,S=123,W=130,U=7:2,S",
        "I": b"latin-\xe9\xff:2,S",
        "J": b"with space, [brackets] and 'quotes':2,S",
        "K": b"experimental:1,foo",
        "L": b"x" * 200 + b":2,S",
        "M": b"-looks-like-an-option:2,S",
        "N": b"line\nend:2,S",
    }
    for name, path in made.items():
        (cur / os.fsdecode(path)).write_bytes(mail(name))
        setup.known[mail(name)] = name
    setup.sync("--yes")
    assert sorted(setup.name_of(message.body) for message in setup.remote().values()) == sorted(made)
    flags = {word.partition(":")[0]: word.partition(":")[2] for word in setup.remote_state()}
    assert flags["B"] == "FRS"
    assert flags["C"] == "FS"
    assert flags["E"] == flags["L"] == flags["I"] == "S"
    assert {os.fsencode(path.name) for path in cur.iterdir()} == set(made.values()), "nothing was renamed"
    setup.sync_again_changes_nothing()


def test_foreign_letters_are_kept(each: Setup) -> None:
    each.put_remotes(["A", "B"], "S")
    each.sync()
    for file in each.files():
        file.path.rename(file.path.with_name(f"{file.name}:2,Sabz"))
    each.sync()
    each.flag_remote("A", "+F")
    each.flag_remote("B", "-S")
    each.sync()
    assert {each.name_of(file.body): sorted(file.letters) for file in each.files()} == {
        "A": sorted("FSabz"),
        "B": sorted("abz"),
    }
    each.sync_again_changes_nothing()


def test_unsorted_letters_are_written_sorted(setup: Setup) -> None:
    setup.put_local("A", "SF")
    setup.sync("--yes")
    setup.flag_remote("A", "+R")
    setup.sync()
    assert [file.letters for file in setup.files()] == ["FRS"]
    setup.sync_again_changes_nothing()


def test_what_is_not_mail_is_left_alone(setup: Setup) -> None:
    folder = setup.make_folder()
    setup.put_local("A")
    strangers = [
        folder / ".Sub" / "cur" / "1.sub:2,S",
        folder / "cur" / "directory" / "1.inner:2,S",
        folder / "cur" / ".hidden",
        folder / "notes.txt",
        folder / "tmp" / "1.unfinished",
    ]
    for path in strangers:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mail("stranger"))
    (folder / "cur" / "dangling:2,S").symlink_to("nowhere")
    os.mkfifo(folder / "new" / "pipe")
    setup.sync("--yes")
    setup.assert_state(remote="A")
    assert all(path.exists() for path in strangers)
    setup.sync_again_changes_nothing(quiet=False)


def test_one_name_in_two_directories(setup: Setup) -> None:
    """cur/x and new/x, two different messages: neither may be overwritten, whatever flags arrive."""
    setup.put_local("A", name="same.1.host", directory="new")
    setup.put_local("B", "", name="same.1.host")
    setup.run("--yes")
    for name in ("A", "B"):
        if setup.uids(name):
            setup.flag_remote(name, "+F")
    setup.run()
    assert {setup.name_of(file.body) for file in setup.files()} == {"A", "B"}
    setup.sync_again_changes_nothing(quiet=False)


def test_unread_mail_is_delivered_to_new(setup: Setup) -> None:
    setup.put_remote("unread")
    setup.put_remote("flagged", "F")
    setup.sync()
    assert {setup.name_of(file.body): file.path.parent.name for file in setup.files()} == {
        "unread": "new",
        "flagged": "cur",
    }
    assert not any(file.path.name.endswith(":2,") for file in setup.files() if file.path.parent.name == "new")
    setup.sync_again_changes_nothing()


def test_mail_program_moves_new_to_cur(each: Setup) -> None:
    each.put_remotes(["A", "B"])
    each.sync()
    file = each.named("A")[0]
    file.path.rename(each.maildir / "cur" / f"{file.name}:2,S")
    file = each.named("B")[0]
    file.path.rename(each.maildir / "cur" / f"{file.name}:2,")
    each.forget_sent()
    each.sync()
    assert each.count_sent("UID STORE") == 1
    each.assert_both("A:S B")
    each.sync_again_changes_nothing()


def test_file_half_written_into_cur(setup: Setup) -> None:
    """A program that copies straight into cur/: what is uploaded at last is the whole file."""
    path = setup.make_folder() / "cur" / "copied.1.host:2,S"
    whole = setup.know("whole", mail("whole", body="line\n" * 1000))
    path.write_bytes(whole[:500])
    process = setup.start("--yes")
    path.write_bytes(whole)
    assert setup.finish(process).code == 0
    setup.sync()
    bodies = [lf(message.body) for message in setup.remote().values() if "\\Deleted" not in message.flags]
    assert bodies == [whole]
    setup.sync_again_changes_nothing()


def test_draft_edited_in_place(each: Setup) -> None:
    """The same name, other content: a new message there, and the old one is marked."""
    path = each.put_local("draft", "D")
    each.sync("--yes")
    path.write_bytes(each.know("edited", mail("draft", body="edited")))
    each.sync()
    each.assert_state(remote="draft:DT edited:D", local="edited:D")
    each.sync_again_changes_nothing()


@pytest.mark.needs("refuses empty")
def test_draft_edited_beside_a_file_that_is_refused(setup: Setup) -> None:
    """A message that the server never takes does not keep the old copy of a draft alive."""
    setup.put_local(b"", "S", name="empty.1.host")
    path = setup.put_local("draft", "D")
    setup.run("--yes")
    path.write_bytes(setup.know("edited", mail("draft", body="edited")))
    setup.sync()
    setup.assert_state(remote="draft:DT edited:D")
    setup.sync_again_changes_nothing(quiet=False)


# --- buckets ------------------------------------------------------------------------------------------------------


def test_buckets(make_setup: MakeSetup) -> None:
    setup = make_setup(settings={"local": {"buckets": "yes"}})
    names = [f"M{number}" for number in range(30)]
    setup.put_remotes(names, "S")
    setup.sync()
    directories = {file.path.relative_to(setup.maildir).parts[0] for file in setup.files()}
    assert len(directories) > 5
    assert all(re.fullmatch(r"[0-9a-f]{2}", name) for name in directories)
    setup.flag_local("M1", "+F")
    setup.flag_remote("M2", "+R")
    setup.remove_local("M3")
    setup.expunge_remote("M4")
    setup.put_local("plain", "S")
    setup.put_local("inside", "S", directory="ab/cur")
    setup.put_local("fresh", directory="cd/new")
    setup.sync()
    common = ["M1:FS", "M2:RS", *(f"{name}:S" for name in names[5:] + names[:1]), "plain:S", "inside:S", "fresh"]
    setup.assert_state(remote=" ".join([*common, "M3:ST"]), local=" ".join([*common, "M4:ST"]))
    setup.sync_again_changes_nothing()


def test_buckets_switched_on_and_off(make_setup: MakeSetup) -> None:
    setup = make_setup(settings={"local": {"buckets": "no"}})
    setup.put_remotes(["A", "B"], "S")
    setup.sync()
    setup.settings["local"]["buckets"] = "yes"
    setup.put_remote("C", "S")
    setup.sync()
    setup.assert_both("A:S B:S C:S")
    setup.sync_again_changes_nothing()


def test_a_bucket_that_is_not_readable_gives_no_absences(make_setup: MakeSetup) -> None:
    setup = make_setup(settings={"local": {"buckets": "yes"}})
    setup.put_remotes([f"M{number}" for number in range(10)], "S")
    setup.sync()
    bucket = setup.files()[0].path.parent
    aside = setup.base / "aside"
    bucket.rename(aside)
    bucket.symlink_to("/nowhere/at/all")
    run = setup.run()
    assert run.code in (65, 74), run
    assert not [word for word in setup.remote_state() if "T" in word.partition(":")[2]]
    bucket.unlink()
    aside.rename(bucket)
    setup.sync()
    assert len(setup.assert_equal_sides()) == 10


# --- keywords -----------------------------------------------------------------------------------------------------


def keywords(setup: Setup, name: str) -> set[str]:
    return {
        flag for message in setup.remote().values() if setup.name_of(message.body) == name for flag in message.flags
    }


def test_keywords_survive_flags_and_a_second_life(each: Setup) -> None:
    """Nothing shows them locally, yet they are there again when the message is."""
    each.put_remote("A", keywords="$Label1 Custom")
    each.sync()
    each.flag_local("A", "+F")
    each.sync()
    assert keywords(each, "A") == {"$Label1", "Custom", "\\Flagged"}
    each.flag_remote("A", "+$Junk")
    each.sync()
    each.assert_both("A:F")
    each.expunge_remote("A")
    each.sync()
    each.flag_local("A", "-T")
    each.sync()
    each.assert_both("A:F")
    assert keywords(each, "A") == {"$Label1", "Custom", "$Junk", "\\Flagged"}
    each.sync_again_changes_nothing()


def test_keywords_survive_a_uidvalidity_change(setup: Setup) -> None:
    setup.put_remote("A", keywords="$Label1")
    setup.sync()
    setup.server.new_uidvalidity(setup.user)
    setup.flag_local("A", "+S")
    setup.sync()
    assert keywords(setup, "A") == {"$Label1", "\\Seen"}
    setup.sync_again_changes_nothing()


@pytest.mark.needs("odd names")
def test_mailbox_names_of_any_script(make_setup: MakeSetup) -> None:
    mailbox = 'Entwürfe & 草稿/[Google Mail] "x"'
    setup = make_setup(pairings={"odd": ("Entwürfe", mailbox)})
    with setup.client() as client:
        client.create(mailbox)
    setup.put_remote("A", "S")
    setup.put_local("B", "F")
    setup.sync("--yes")
    setup.assert_both("A:S B:F")
    assert Path(setup.folder(), "cur").is_dir()
    setup.sync_again_changes_nothing()
