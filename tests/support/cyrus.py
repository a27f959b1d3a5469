# SPDX-License-Identifier: MIT
"""A private Cyrus IMAP on loopback, from packages that contrib/get-server unpacked."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tests.support.client import Client
from tests.support.recorder import RecordedServer
from tests.support.server import (
    certificates,
    free_ports,
    mail_ids,
    open_directory,
    unpacked,
)
from tests.support.waiting import wait_for

_IMAPD = """
configdirectory: {base}/conf
proc_path: {base}/proc
mboxname_lockpath: {base}/lock
idlesocket: {run}/idle
lmtpsocket: {run}/lmtp
notifysocket: {run}/notify
sievedir: {base}/sieve
defaultpartition: default
partition-default: {base}/spool
cyrus_user: {owner}
servername: localhost
admins: cyrus
altnamespace: yes
unixhierarchysep: yes
hashimapspool: true
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: {base}/sasldb2
sasl_mech_list: PLAIN LOGIN
allowplaintext: yes
failedloginpause: 0
autocreate_quota: 0
autocreate_post: yes
duplicatesuppression: no
tls_server_cert: {pem}
tls_server_key: {base}/server.key
skiplist_unsafe: yes
delete_mode: immediate
expunge_mode: immediate
{settings}
"""
_MASTER = """
START {{
  recover cmd="{bin}/ctl_cyrusdb -C {base}/imapd.conf -r"
}}
SERVICES {{
  imap cmd="{bin}/imapd -C {base}/imapd.conf -U 100" listen="127.0.0.1:{plain}" prefork=1 maxchild=60
  imaps cmd="{bin}/imapd -C {base}/imapd.conf -s -U 100" listen="127.0.0.1:{tls}" prefork=0 maxchild=60
}}
DAEMON {{
  idled cmd="{bin}/idled -C {base}/imapd.conf"
}}
EVENTS {{
}}
"""


class Cyrus(RecordedServer):
    """`settings` is appended to imapd.conf."""

    name = "cyrus"
    tells_read_only = False
    lacks: ClassVar[Mapping[str, str]] = {
        "odd names": "it refuses some characters in the names of mailboxes",
        "lose_modseq": "its HIGHESTMODSEQ cannot be made to fall by losing an index",
    }

    def __init__(self, base: Path | None = None, settings: str = "") -> None:
        super().__init__(base)
        self._settings = settings
        self._root = unpacked("cyrus") / "root"
        # Socket paths are limited to 107 bytes, so they get a short directory.
        self._run = open_directory("ppc-")
        self.plain_port, self.tls_port = free_ports(2)

    # --- the process ------------------------------------------------------------------------------------------

    def launch(self) -> subprocess.Popen[bytes]:
        uid, gid = mail_ids()
        fresh = not (self.base / "imapd.conf").exists()
        if fresh:
            self._write_files()
            for path in (self.base, *self.base.rglob("*"), self._run):
                os.chown(path, uid, gid)
            self._set_password("cyrus", self.password)
        with open(self.base / "log", "ab") as log:
            return subprocess.Popen(
                [
                    self._bin / "master",
                    "-C",
                    self.base / "imapd.conf",
                    "-M",
                    self.base / "cyrus.conf",
                    "-p",
                    self.base / "master.pid",
                    "-D",
                ],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def remove(self) -> None:
        shutil.rmtree(self._run, ignore_errors=True)
        super().remove()

    @property
    def _bin(self) -> Path:
        return self._root / "usr/lib/cyrus/bin"

    def _environment(self) -> dict[str, str]:
        machine = os.uname().machine + "-linux-gnu"
        libraries = [self._root / "usr/lib", self._root / "usr/lib" / machine]
        return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries))}

    def _write_files(self) -> None:
        for name in ("conf/socket", "conf/db", "conf/log", "conf/proc", "conf/msg", "proc", "lock", "sieve", "spool"):
            (self.base / name).mkdir(parents=True)
        (self.base / "server.key").write_bytes(certificates().key("good").read_bytes())
        (self.base / "server.key").chmod(0o600)
        names = {
            "base": self.base,
            "run": self._run,
            "bin": self._bin,
            "owner": pwd.getpwuid(mail_ids()[0]).pw_name,
            "pem": certificates().pem("good"),
            "plain": self.plain_port,
            "tls": self.tls_port,
            "settings": self._settings,
        }
        (self.base / "imapd.conf").write_text(_IMAPD.format(**names))
        (self.base / "cyrus.conf").write_text(_MASTER.format(**names))

    # --- users and mail ---------------------------------------------------------------------------------------

    def add_user(self, user: str, password: str | None = None) -> str:
        self.users[user] = password or self.password
        self._set_password(user, self.users[user])
        return user

    def _set_password(self, user: str, password: str) -> None:
        self._run_tool(
            self._root / "usr/sbin/saslpasswd2", "-p", "-c", "-f", self.base / "sasldb2", "-u", "localhost", user,
            input=password.encode(),
        )  # fmt: skip
        os.chown(self.base / "sasldb2", *mail_ids())

    def _run_tool(self, *command: str | Path, input: bytes | None = None) -> None:
        done = subprocess.run(
            command, env=self._environment(), input=input, capture_output=True, timeout=60, check=False
        )
        if done.returncode:
            raise AssertionError(f"{command}: {done.stderr.decode(errors='replace')}")

    def takes(self, body: bytes) -> bool:
        """Only with a header that is one, and without NUL."""
        header = body.partition(b"\n\n")[0]
        fields = all(line[:1] in b" \t" or b":" in line or line.startswith(b"From ") for line in header.split(b"\n"))
        return body.endswith(b"\n") and b"\0" not in body and (fields or body.startswith(b"\n"))

    def stored(self, body: bytes) -> bytes:
        """With an X for every byte of the header that is not ASCII."""
        header, empty, rest = body.partition(b"\n\n")
        return re.sub(rb"[\x80-\xff]", b"X", header) + empty + rest

    # --- what no client can do --------------------------------------------------------------------------------

    def admin(self) -> Client:
        return Client(self.tls_port, self.ca_file, "cyrus", self.password)

    def kick(self, user: str | None = None) -> None:
        """Without a BYE: each session is a process, which is ended."""
        pids = [int(path.name) for path in (self.base / "proc").iterdir() if _is_of(path, user or self.user)]
        assert pids, "no session"
        for pid in pids:
            os.kill(pid, signal.SIGTERM)

    def new_uidvalidity(self, user: str, mailbox: str = "INBOX") -> None:
        assert mailbox == "INBOX"
        self.renumber(user)

    def renumber(self, user: str) -> None:
        """The administrator deletes the account's mail, and it is put into the INBOX that the next login makes."""
        with self.client(user) as client:
            old, messages = client.status("INBOX")["UIDVALIDITY"], client.snapshot("INBOX")
        wait_for(lambda: self._emptied(user) != old, what="another UIDVALIDITY")
        with self.client(user) as client:
            for _, message in sorted(messages.items()):
                client.append("INBOX", message.body, " ".join(message.flags), message.date)

    def _emptied(self, user: str) -> int:
        """UIDVALIDITY of a new INBOX. It is a time: within a second it may be the same again."""
        with self.admin() as admin:
            admin.command("SETACL", f"user/{user}", "cyrus", "lrswipkxtecda")
            admin.command("DELETE", f"user/{user}")
        with self.client(user) as client:
            return client.status("INBOX")["UIDVALIDITY"]

    def back_up(self, user: str, backup: Path) -> None:
        """Of all users: their databases are one."""
        self.stop()
        for name in ("conf", "spool"):
            shutil.copytree(self.base / name, backup / name)
        self.start()

    def restore(self, user: str, backup: Path) -> None:
        self.stop()
        for name in ("conf", "spool"):
            shutil.rmtree(self.base / name)
            shutil.copytree(backup / name, self.base / name)
            for path in (self.base / name, *(self.base / name).rglob("*")):
                os.chown(path, *mail_ids())
        self.start()

    def set_quota(self, user: str, kilobytes: int) -> None:
        with self.admin() as admin:
            admin.command("SETQUOTA", f"user/{user}", f"(STORAGE {kilobytes})")

    def set_read_only(self, user: str, on: bool) -> None:
        with self.admin() as admin:
            admin.command("SETACL", f"user/{user}", user, "lr" if on else "lrswipkxtecdan")


def _is_of(path: Path, user: str) -> bool:
    """A file of proc/, named by its process: service, client, user, mailbox, between tabs."""
    try:
        return user in path.read_text().split()
    except (FileNotFoundError, UnicodeDecodeError):
        return False
