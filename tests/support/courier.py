# SPDX-License-Identifier: MIT
"""A private Courier IMAP on loopback, from packages that contrib/get-server unpacked. Root only: see namespace.py."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tests.support import namespace
from tests.support.recorder import RecordedServer
from tests.support.server import (
    alive,
    certificates,
    free_ports,
    mail_ids,
    processes,
    unpacked,
)

_CAPABILITY = "IMAP4rev1 UIDPLUS CHILDREN NAMESPACE THREAD=ORDEREDSUBJECT THREAD=REFERENCES SORT QUOTA IDLE"

# The login process asks authdaemond, which finds the users in {base}/etc (bound to /etc/courier). Without a gam_server
# a session starts one that outlives the test; without its program, each login and lock looks for one for a second.
_INSIDE = """
mount --bind {base}/etc /etc/courier
echo 'courier:x:991:8::/var/lib/courier:/bin/false' >>/etc/passwd
mkdir -p /run/courier/authdaemon
chown 991:8 /run/courier/authdaemon
set -a
. /etc/courier/authdaemonrc
/usr/lib/courier/courier-authlib/authdaemond &
until [ -S /run/courier/authdaemon/socket ]; do sleep 0.02; done
GAM_CLIENT_ID={tls}
setpriv --reuid={uid} --regid={gid} --clear-groups /usr/libexec/gam_server --notimeout $GAM_CLIENT_ID &
prefix=/usr exec_prefix=/usr sbindir=/usr/sbin bindir=/usr/bin
. /etc/courier/imapd
. /etc/courier/imapd-ssl
tcpd='/usr/sbin/couriertcpd -address=127.0.0.1 -maxprocs=100 -maxperip={per_address} -nodnslookup -noidentlookup'
login='/usr/lib/courier/courier/imaplogin /usr/bin/imapd Maildir'
IMAP_TLS=1 $tcpd {tls} /usr/bin/couriertls -server -tcpd $login &
IMAP_STARTTLS=YES exec $tcpd {plain} $login
"""

_AUTHDAEMONRC = """
authmodulelist="authuserdb"
authmodulelistorig="authuserdb"
daemons=2
authdaemonvar=/run/courier/authdaemon
subsystem=mail
DEBUG_LOGIN=0
DEFAULTOPTIONS=""
LOGGEROPTS=""
"""


class Courier(RecordedServer):
    """`settings` are shell assignments appended to the file `imapd`; `per_address` is MAXPERIP."""

    name = "courier"
    lacks: ClassVar[Mapping[str, str]] = {
        "qresync": "it has no QRESYNC",
        "condstore": "it has no CONDSTORE",
        "lose_modseq": "it has no MODSEQ",
        "lone CR": "it drops a CR that stands alone",
        "refuses empty": "it stores a line end for an empty file, and refuses nothing",
        "set_quota": "its quota is not looked at",
        "set_read_only": "its access rights are not looked at",
    }

    def __init__(self, base: Path | None = None, settings: str = "", *, per_address: int = 100) -> None:
        super().__init__(base)
        self._settings = settings
        self._per_address = per_address
        self._root = unpacked("courier") / "root"
        self.plain_port, self.tls_port = free_ports(2)

    # --- the process ------------------------------------------------------------------------------------------

    def launch(self) -> subprocess.Popen[bytes]:
        if not (self.base / "etc").exists():
            self._write_files()
            self._write_users()
        uid, gid = mail_ids()
        script = _INSIDE.format(
            base=self.base,
            tls=self.tls_port,
            plain=self.plain_port,
            per_address=self._per_address,
            uid=uid,
            gid=gid,
        )
        return namespace.start("courier", script, self.base / "log")

    def _write_files(self) -> None:
        etc, packaged = self.base / "etc", self._root / "etc/courier"
        (self.base / "home").mkdir()
        etc.mkdir()
        (etc / "shared").mkdir()
        (etc / "authdaemonrc").write_text(_AUTHDAEMONRC)
        pem = certificates().pem("good").read_bytes() + certificates().key("good").read_bytes()
        (etc / "imapd.pem").write_bytes(pem)
        # What is appended last counts. Without EMPTYTRASH= the trash is emptied of what is a week old.
        (etc / "imapd").write_text(
            f"{(packaged / 'imapd').read_text()}\n"
            f'IMAP_CAPABILITY="{_CAPABILITY}"\nIMAP_IDLE_TIMEOUT=1\nIMAP_EMPTYTRASH=\n{self._settings}\n'
        )
        (etc / "imapd-ssl").write_text(
            f"{(packaged / 'imapd-ssl').read_text()}\n"
            "TLS_CERTFILE=/etc/courier/imapd.pem\nTLS_CACHEFILE=\nTLS_DHPARAMS=\nTLS_TRUSTCERTS=\n"
        )

    # --- users and mail ---------------------------------------------------------------------------------------

    def add_user(self, user: str, password: str | None = None) -> str:
        self.users[user] = password or self.password
        home = self.base / "home" / user
        home.mkdir(exist_ok=True)
        if not (home / "Maildir").exists():
            self._run_tool(self._root / "usr/bin/maildirmake.courier", home / "Maildir")
            for path in (home, *home.rglob("*")):
                os.chown(path, *mail_ids())
        self._write_users()
        return user

    def _write_users(self) -> None:
        """Two databases, as `makeuserdb` makes them: what is known of a user, and the passwords."""
        uid, gid = mail_ids()
        known = [f"{name}\tuid={uid}|gid={gid}|home={self.base}/home/{name}|shell=/bin/sh|_=" for name in self.users]
        secret = [f"{name}\timappw={_crypt(password)}" for name, password in self.users.items()]
        for database, lines in (("userdb", known), ("userdbshadow", secret)):
            self._run_tool(
                self._root / "usr/lib/courier/courier-authlib/makedatprog",
                "-", self.base / "etc" / f"{database}.tmp", self.base / "etc" / f"{database}.dat",
                input="".join(f"{line}\n" for line in [*lines, "."]).encode(),
            )  # fmt: skip

    def _run_tool(self, *command: str | Path, input: bytes | None = None) -> None:
        machine = os.uname().machine + "-linux-gnu"
        libraries = [self._root / "usr/lib" / machine, self._root / "usr/lib/courier-authlib",
                     self._root / "usr/lib" / machine / "courier-authlib"]  # fmt: skip
        environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries))}
        done = subprocess.run(command, env=environment, input=input, capture_output=True, timeout=60, check=False)
        if done.returncode:
            raise AssertionError(f"{command}: {done.stderr.decode(errors='replace')}")

    def remote_name(self, mailbox: str) -> str:
        """Below INBOX, with dots."""
        return mailbox if mailbox == "INBOX" else "INBOX." + mailbox.replace("/", ".")

    def takes(self, body: bytes) -> bool:
        return True

    def stored(self, body: bytes) -> bytes:
        """With a line end at its end."""
        return body if body.endswith(b"\n") else body + b"\n"

    def maildir(self, user: str) -> Path:
        return self.base / "home" / user / "Maildir"

    # --- what no client can do --------------------------------------------------------------------------------

    def kick(self, user: str | None = None) -> None:
        """Without a BYE: each session is a process that works in the user's Maildir."""
        maildir = str(self.maildir(user or self.user))
        pids = [pid for pid in processes() if _directory(pid).endswith(maildir)]
        assert pids, "no session"
        for pid in pids:
            os.kill(pid, signal.SIGTERM)

    def new_uidvalidity(self, user: str, mailbox: str = "INBOX") -> None:
        assert mailbox == "INBOX"
        path = self.maildir(user) / "courierimapuiddb"
        first, rest = path.read_bytes().split(b"\n", 1)
        version, _, uidnext = first.split(b" ", 2)
        path.write_bytes(b" ".join([version, b"777", uidnext]) + b"\n" + rest)

    def renumber(self, user: str) -> None:
        self.new_uidvalidity(user)
        path = self.maildir(user) / "courierimapuiddb"
        first, *messages = path.read_bytes().splitlines()
        version = first.split(b" ")[0]
        names = [line.split(b" ", 1)[1] for line in messages]
        numbered = [b"%d %s" % (uid, name) for uid, name in enumerate(names, 1)]
        path.write_bytes(b"\n".join([b"%s 777 %d" % (version, len(names) + 1), *numbered]) + b"\n")

    def back_up(self, user: str, backup: Path) -> None:
        shutil.copytree(self.maildir(user), backup)

    def restore(self, user: str, backup: Path) -> None:
        maildir = self.maildir(user)
        shutil.rmtree(maildir)
        shutil.copytree(backup, maildir)
        for path in (maildir, *maildir.rglob("*")):
            os.chown(path, *mail_ids())


def _crypt(password: str) -> str:
    done = subprocess.run(
        ["openssl", "passwd", "-1", "-stdin"], input=password.encode(), capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def _directory(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd") if alive(pid) else ""
    except (FileNotFoundError, PermissionError):
        return ""
