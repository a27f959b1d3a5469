# SPDX-License-Identifier: MIT
"""The server that all programs are run against, the mailboxes on it, and whether a run did what it was to do."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import count, islice
from pathlib import Path

from corpora import Letter
from meter import Cost, Failed, measure
from peers import Peer, Place
from rig import Wire

from tests.support.dovecot import Dovecot, open_directory
from tests.support.messages import crlf, imap_flags, letters_of, lf

# Dovecot's own format: with a Maildir as its store, what is measured would be how Dovecot reads a large directory.
SETTINGS = "mail_location = mdbox:~/mdbox\nmdbox_rotate_size = 64M\ndefault_vsz_limit = 4G\n"
_BATCH = 500

Content = tuple[bytes, str]  # a message's digest, and its letters in order


class Lab:
    """Context manager. Nothing that it made is removed before its end: on ext4 what is created just after a mass
    deletion takes several times as long.
    """

    def __init__(self) -> None:
        self.base = open_directory("pushpull-bench-")
        self.server = Dovecot(settings=SETTINGS)
        self._numbers = count()
        self._filled: dict[str, list[Content]] = {}  # by UID, from 1

    def __enter__(self) -> Lab:
        self.server.__enter__()
        return self

    def __exit__(self, *about: object) -> None:
        self.server.__exit__(None, None, None)
        shutil.rmtree(self.base, ignore_errors=True)

    # --- the server ----------------------------------------------------------------------------------------------

    def wire(self, user: str) -> Wire:
        """A connection beside those of the programs."""
        return Wire(self.server.starttls_port, user, self.server.password)

    def fill(self, user: str, letters: Iterable[Letter]) -> None:
        """APPEND to the user's INBOX."""
        waiting = iter(letters)
        with closing(self.wire(user)) as wire:
            while batch := list(islice(waiting, _BATCH)):
                wire.append_all("INBOX", [(crlf(each.body), imap_flags(each.letters), each.date) for each in batch])
                self._filled[user] += [content(each.body, each.letters) for each in batch]

    def copy(self, source: str) -> str:
        """A new user with the mailboxes of another, who has no session open. Returns its name."""
        user = f"u{next(self._numbers)}"
        shutil.copytree(self.server.home(source), self.server.home(user))
        for path in (self.server.home(user), *self.server.home(user).rglob("*")):
            shutil.chown(path, *_owner(self.server.home(source)))
        self._filled[user] = self._filled[source].copy()
        return user

    def user(self) -> str:
        """A new user without mail."""
        user = f"u{next(self._numbers)}"
        self._filled[user] = []
        return user

    def change(self, user: str, arrivals: Iterable[Letter], flagged: Sequence[int]) -> None:
        """As another client does: new mail, and \\Flagged for these UIDs."""
        self.fill(user, arrivals)
        contents = self._filled[user]
        with closing(self.wire(user)) as wire:
            wire.command("SELECT INBOX")
            wire.command(f"UID STORE {','.join(map(str, flagged))} +FLAGS.SILENT (\\Flagged)")
        for uid in flagged:
            body, letters = contents[uid - 1]
            contents[uid - 1] = body, "".join(sorted({*letters, "F"}))

    # --- a run ---------------------------------------------------------------------------------------------------

    def place(self, peer: Peer, user: str, *, fsync: bool = True) -> Place:
        """A directory for one program."""
        base = self.base / f"{next(self._numbers)}-{peer.name}"
        place = Place(base, user, self.server.password, self.server.ca_file, fsync)
        peer.prepare(place)
        return place

    def run(self, peer: Peer, place: Place, port: int = 0) -> Cost:
        """One run, measured. What others wrote before is on the disk by then."""
        command = peer.command(place, port or self.server.port)
        os.sync()
        return measure(command, peer.environment(place), place.base / "output")

    def check_folder(self, peer: Peer, place: Place) -> None:
        """The folder holds what the mailbox held last, byte for byte, with its flags."""
        paths = [path for name in ("new", "cur") for path in (place.folder / name).iterdir()]
        there = Counter(content(peer.content(path.read_bytes()), path.name.partition(":2,")[2]) for path in paths)
        wanted = Counter(self._filled[place.user])
        if there != wanted:
            raise Failed(
                f"{peer.name}: {(wanted - there).total()} messages are missing or differ in {place.folder},"
                f" {(there - wanted).total()} are not those of the server"
            )

    def check_mailbox(self, peer: Peer, place: Place, letters: Iterable[Letter]) -> None:
        """The mailbox holds these, byte for byte, with their flags."""
        wanted = Counter(content(each.body, each.letters) for each in letters)
        there = Counter(
            content(peer.content(lf(remote.body)), letters_of(remote.flags))
            for remote in self.server.snapshot(user=place.user).values()
        )
        if there != wanted:
            raise Failed(f"{peer.name}: {(wanted - there).total()} of {wanted.total()} messages are not on the server")


def fill_folder(folder: Path, letters: Iterable[Letter]) -> None:
    """A Maildir as another program leaves it."""
    for name in ("new", "cur", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(letters):
        path = folder / "cur" / f"{each.date}.M{number}.example:2,{each.letters}"
        path.write_bytes(each.body)
        os.utime(path, (each.date, each.date))
    os.sync()
    time.sleep(2.1)  # a file that was just written may be written to still


def content(body: bytes, letters: str) -> Content:
    return hashlib.blake2b(body, digest_size=16).digest(), "".join(sorted(letters))


def _owner(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_uid, stat.st_gid
