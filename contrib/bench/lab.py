# SPDX-License-Identifier: MIT
"""The server that all programs are run against, the mailboxes on it, and whether a run did what it was to do.

The programs keep their mail in a directory, the server keeps its own in memory (/dev/shm) where there is room. For
pushpull makes mail durable with syncfs(), which writes all that is unwritten on the file system, whosever it is: on one
file system with the server it would write the server's mail too, and wait for it. For the same reason everything is
written before each run.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from itertools import count, islice
from pathlib import Path

from corpora import Letter, letters
from meter import Failed, measure
from peers import Peer, Place
from results import Cost
from rig import Wire, file_system

from tests.support.dovecot import Dovecot
from tests.support.messages import crlf, imap_flags, letters_of, lf

# Dovecot's own format: with a Maildir as its store, what is measured would be how Dovecot reads a large directory.
SETTINGS = "mail_location = mdbox:~/mdbox\nmdbox_rotate_size = 64M\ndefault_vsz_limit = 4G\n"
FLUSHED = "mail_fsync = optimized\n"  # Dovecot's default
MEMORY = Path("/dev/shm")
_BATCH = 500

Content = tuple[bytes, str, int]  # a message's digest, its letters in order, its date


class Lab:
    """Context manager. Nothing that it made is removed before its end: on ext4 what is created just after a mass
    deletion takes several times as long.
    """

    def __init__(
        self, directory: Path | None = None, *, server_directory: Path | None = None, need: int = 2 << 30
    ) -> None:
        """In `directory`. `need` is how many bytes the server may come to hold. With a `server_directory` it keeps its
        mail there and flushes it, as servers do.
        """
        self.base = _made(directory)
        store = server_directory or (MEMORY if _room_in_memory(need) else directory)
        self.server = Dovecot(_made(store), settings=SETTINGS + (FLUSHED if server_directory else ""))
        places = [file_system(each) for each in (self.base, self.server.base)]
        self.notes = ["mail of the programs on {}, of the server on {}".format(*places)]
        if server_directory:
            self.notes.append("the server flushes its mail")
        self._numbers = count()
        self._filled: dict[str, list[Content]] = {}  # by UID, from 1
        self._sources: dict[tuple[int, int], str] = {}
        self._kept: dict[tuple[str, str], Place] = {}

    def __enter__(self) -> Lab:
        try:
            self.server.__enter__()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *about: object) -> None:
        try:
            self.server.__exit__(None, None, None)
        finally:
            self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.server.base, ignore_errors=True)
        shutil.rmtree(self.base, ignore_errors=True)

    # --- the server ----------------------------------------------------------------------------------------------

    def wire(self, user: str) -> Wire:
        """A connection beside those of the programs."""
        return Wire(self.server.starttls_port, user, self.server.password)

    def source(self, number: int, mean: int) -> str:
        """A user with such a mailbox, which is filled once, and never changed."""
        key = (number, mean)
        if key not in self._sources:
            say(f"filling a mailbox with {number:,} messages")
            user = self.user()
            self.fill(user, letters(number, mean))
            self._sources[key] = user
        return self._sources[key]

    def fill(self, user: str, mail: Iterable[Letter]) -> None:
        """APPEND to the user's INBOX."""
        waiting = iter(mail)
        with closing(self.wire(user)) as wire:
            while batch := list(islice(waiting, _BATCH)):
                wire.append_all("INBOX", [(crlf(each.body), imap_flags(each.letters), each.date) for each in batch])
                self._filled[user] += [content(each.body, each.letters, each.date) for each in batch]

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

    def held(self, user: str) -> int:
        """How many messages are in the user's INBOX."""
        return len(self._filled[user])

    def change(self, user: str, arrivals: Iterable[Letter], flags: int) -> None:
        """As another client does: new mail, and \\Flagged for so many messages all over the mailbox."""
        self.fill(user, arrivals)
        contents = self._filled[user]
        plain = [uid for uid, (_, there, _) in enumerate(contents, 1) if "F" not in there]
        uids = plain[:: max(1, len(plain) // flags)][:flags]
        with closing(self.wire(user)) as wire:
            wire.command("SELECT INBOX")
            wire.command(f"UID STORE {','.join(map(str, uids))} +FLAGS.SILENT (\\Flagged)")
        for uid in uids:
            body, there, date = contents[uid - 1]
            contents[uid - 1] = body, "".join(sorted(f"{there}F")), date

    # --- a run ---------------------------------------------------------------------------------------------------

    def place(self, peer: Peer, user: str, *, fsync: bool = True) -> Place:
        """A directory for one program."""
        base = self.base / f"{next(self._numbers)}-{peer.name}"
        place = Place(base, user, self.server.password, self.server.ca_file, fsync)
        peer.prepare(place)
        return place

    def kept(self, peer: Peer, source: str) -> Place:
        """The program's one copy of the source for all runs, synchronised already."""
        key = (peer.name, source)
        if key not in self._kept:
            place = self.place(peer, self.copy(source), fsync=False)
            self.run(peer, place)
            self.run(peer, place)
            place.fsync = True
            self._kept[key] = place
        return self._kept[key]

    def forget(self, peer: Peer) -> None:
        """After a run that failed, what it leaves is no ground for another."""
        self._kept = {key: place for key, place in self._kept.items() if key[0] != peer.name}

    def run(self, peer: Peer, place: Place, port: int = 0) -> Cost:
        """One run, measured. What others wrote before is on the disk by then."""
        command = peer.command(place, port or self.server.port)
        os.sync()
        return measure(command, peer.environment(place), place.base / "output")

    def check_folder(self, peer: Peer, place: Place) -> None:
        """The folder holds what the mailbox held last, byte for byte, with its flags and dates."""
        there: Counter[Content] = Counter()
        for path in (path for name in ("new", "cur") for path in (place.folder / name).iterdir()):
            date = int(path.stat().st_mtime) if peer.keeps_dates else 0
            there[content(peer.content(path.read_bytes()), path.name.partition(":2,")[2], date)] += 1
        wanted = Counter(self._filled[place.user])
        if not peer.keeps_dates:
            wanted = Counter((body, letters, 0) for body, letters, _ in wanted.elements())
        if there != wanted:
            raise Failed(
                f"{peer.name}: {(wanted - there).total()} messages are missing or differ in {place.folder},"
                f" {(there - wanted).total()} are not those of the server"
            )

    def check_count(self, peer: Peer, place: Place) -> None:
        """The folder holds as many messages as the mailbox did: for where nothing was to change."""
        there = sum(len(os.listdir(place.folder / name)) for name in ("new", "cur"))
        if there != self.held(place.user):
            raise Failed(f"{peer.name}: {there} files for {self.held(place.user)} messages in {place.folder}")

    def check_mailbox(self, peer: Peer, place: Place, mail: Iterable[Letter]) -> None:
        """The mailbox holds these, byte for byte, with their flags and dates."""
        wanted = Counter(content(each.body, each.letters, each.date) for each in mail)
        there = Counter(
            content(peer.content(lf(remote.body)), letters_of(remote.flags), int(remote.date.timestamp()))
            for remote in self.server.snapshot(user=place.user).values()
        )
        if there != wanted:
            raise Failed(f"{peer.name}: {(wanted - there).total()} of {wanted.total()} messages are not on the server")


def fill_folder(folder: Path, mail: Iterable[Letter]) -> None:
    """A Maildir as another program leaves it."""
    for name in ("new", "cur", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(mail):
        path = folder / "cur" / f"{each.date}.M{number}.example:2,{each.letters}"
        path.write_bytes(each.body)
        os.utime(path, (each.date, each.date))
    os.sync()
    time.sleep(2.1)  # a file that was just written may be written to still


def content(body: bytes, there: str, date: int) -> Content:
    return hashlib.blake2b(body, digest_size=16).digest(), "".join(sorted(there)), date


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _made(directory: Path | None) -> Path:
    """A new directory that the server's users may enter too."""
    path = Path(tempfile.mkdtemp(prefix="pushpull-bench-", dir=directory))
    path.chmod(0o755)
    return path


def _room_in_memory(need: int) -> bool:
    """Twice what is needed, of the memory and of the file system in it."""
    if not MEMORY.is_dir():
        return False
    available = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"))
    return available is not None and min(shutil.disk_usage(MEMORY).free, int(available[1]) * 1024) > 2 * need


def _owner(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_uid, stat.st_gid
