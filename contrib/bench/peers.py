# SPDX-License-Identifier: MIT
"""The programs that are compared: how each is configured, run, and told where its folder is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.server import mail_ids

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Place:
    """Where one program keeps one copy of one mailbox: an account on the server, a directory here."""

    base: Path
    user: str
    password: str
    ca_file: Path
    fsync: bool = True
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.base.mkdir(parents=True)
        self.folder = self.base / "mail" / "inbox"


class Peer:
    """A program that synchronises. `port` is given with each run: it may be that of a link."""

    name = ""
    most = 1 << 30  # messages beyond which it takes too long to be waited for
    most_runs = 1 << 30
    keeps_dates = True  # of what it downloads

    def version(self) -> str:
        """A number as it tells; nothing when it is not installed."""
        raise NotImplementedError

    def command(self, place: Place, port: int) -> list[str]:
        """Write the configuration; the command that synchronises once."""
        raise NotImplementedError

    def environment(self, place: Place) -> Mapping[str, str]:
        return {**os.environ, "HOME": str(place.base), "TZ": "UTC", "LC_ALL": "C.UTF-8"}

    def content(self, body: bytes) -> bytes:
        """What the program stored, as the message that it was."""
        return body

    def prepare(self, place: Place) -> None:
        """Before the first run, the folder being there or not."""

    def state(self, place: Place) -> Iterable[Path]:
        """The files in which it remembers what was synchronised."""
        raise NotImplementedError


class Pushpull(Peer):
    name = "pushpull"

    def version(self) -> str:
        return _version_in([sys.executable, "-m", "pushpull", "--version"])

    def command(self, place: Place, port: int) -> list[str]:
        text = f"""
            [ssl]
            certificate_file = {place.ca_file}
            [local]
            state = {place.base}/state.db
            maildir = {place.base}/mail
            fsync = {"yes" if place.fsync else "no"}
            [imap]
            host = localhost
            port = {port}
            login_username = {place.user}
            login_password = {place.password}
            idle = no
            [pairing inbox]
            local = inbox
            remote = INBOX
            """
        return [sys.executable, "-m", "pushpull", "--yes", str(_written(place.base / "pushpull.conf", text))]

    def environment(self, place: Place) -> Mapping[str, str]:
        return {**super().environment(place), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}

    def state(self, place: Place) -> Iterable[Path]:
        return place.base.glob("state.db*")


class Mbsync(Peer):
    name = "mbsync"

    def version(self) -> str:
        return _version_in(["mbsync", "--version"])

    def command(self, place: Place, port: int) -> list[str]:
        text = f"""
            FSync {"yes" if place.fsync else "no"}
            IMAPAccount bench
            Host localhost
            Port {port}
            User {place.user}
            Pass {place.password}
            SSLType IMAPS
            CertificateFile {place.ca_file}
            SystemCertificates no

            IMAPStore far
            Account bench

            MaildirStore near
            Path {place.base}/mail/
            Inbox {place.folder}

            Channel bench
            Far :far:
            Near :near:
            Patterns INBOX
            Create Near
            Sync All
            SyncState *
            CopyArrivalDate yes
            """
        return ["mbsync", "-q", "-c", str(_written(place.base / "mbsyncrc", text)), "-a"]

    def content(self, body: bytes) -> bytes:
        return re.sub(rb"(?m)^X-TUID: \S+\n", b"", body, count=1)

    def prepare(self, place: Place) -> None:
        (place.base / "mail").mkdir(exist_ok=True)

    def state(self, place: Place) -> Iterable[Path]:
        return place.folder.glob(".mbsyncstate*")


class OfflineImap(Peer):
    name = "offlineimap"
    most, most_runs = 20_000, 2
    keeps_dates = False

    def version(self) -> str:
        return _version_in(["offlineimap", "--version"])

    def command(self, place: Place, port: int) -> list[str]:
        text = f"""
            [general]
            accounts = bench
            metadata = {place.base}/metadata
            fsync = {place.fsync}
            [Account bench]
            localrepository = near
            remoterepository = far
            [Repository near]
            type = Maildir
            localfolders = {place.base}/mail
            nametrans = lambda name: 'INBOX' if name == 'inbox' else name
            [Repository far]
            type = IMAP
            remotehost = localhost
            remoteport = {port}
            remoteuser = {place.user}
            remotepass = {place.password}
            ssl = yes
            sslcacertfile = {place.ca_file}
            nametrans = lambda name: 'inbox' if name == 'INBOX' else name
            folderfilter = lambda name: name == 'INBOX'
            """
        return ["offlineimap", "-o", "-u", "quiet", "-c", str(_written(place.base / "offlineimaprc", text))]

    def state(self, place: Place) -> Iterable[Path]:
        return (path for path in (place.base / "metadata").rglob("*") if path.is_file())


class InterImap(Peer):
    """Between two IMAP servers; so the folder is that of a Dovecot of its own, which it runs without a network."""

    name = "interimap"

    def version(self) -> str:
        return _version_in(["interimap", "--version"]) if shutil.which("doveadm") else ""

    def command(self, place: Place, port: int) -> list[str]:
        dovecot = f"""
            base_dir = {place.base}/run
            log_path = /dev/stderr
            ssl = no
            mail_location = maildir:{place.folder}
            mail_fsync = {"optimized" if place.fsync else "never"}
            mail_save_crlf = no
            default_vsz_limit = 4G
            first_valid_uid = 1
            mail_home = {place.base}/mail
            """
        local = _written(place.base / "dovecot.conf", dovecot)
        local.chmod(0o644)
        # Root's imap refuses to speak to a socket.
        uid, gid = mail_ids()
        become = "" if os.getuid() else f"setpriv --reuid={uid} --regid={gid} --clear-groups"
        text = f"""
            database = {place.base}/interimap.db
            list-mailbox = INBOX
            [local]
            type = tunnel
            command = exec {become} doveadm -c {local} exec imap
            [remote]
            type = imaps
            host = localhost
            port = {port}
            username = {place.user}
            password = {place.password}
            SSL_CAfile = {place.ca_file}
            """
        return ["interimap", "--quiet", "--config", str(_written(place.base / "interimap.conf", text))]

    def environment(self, place: Place) -> Mapping[str, str]:
        return {**super().environment(place), "USER": "bench"}

    def prepare(self, place: Place) -> None:
        place.folder.parent.mkdir(exist_ok=True)
        os.chown(place.folder.parent, *mail_ids())

    def state(self, place: Place) -> Iterable[Path]:
        return place.base.glob("interimap.db*")


PEERS: tuple[type[Peer], ...] = (Pushpull, Mbsync, OfflineImap, InterImap)


def installed(wanted: str) -> list[Peer]:
    """Those of the wanted that are here, as names with commas between them; pushpull is the first of them always."""
    names = {Pushpull.name, *wanted.split(",")}
    return [peer for peer in (kind() for kind in PEERS) if peer.name in names and peer.version()]


def _written(path: Path, text: str) -> Path:
    path.write_text("\n".join(line.strip() for line in text.splitlines()) + "\n", encoding="utf-8")
    path.chmod(0o600)
    return path


def _version_in(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    found = re.search(r"\d+(\.\d+)+\S*", done.stdout + done.stderr)
    return found[0] if found and done.returncode == 0 else ""
