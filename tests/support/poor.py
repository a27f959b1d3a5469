# SPDX-License-Identifier: MIT
"""Servers that are too poor, or too odd, for the scenarios: what has to hold on every server is played on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pysasl.hashing import BuiltinHash

from tests.support import namespace
from tests.support.recorder import RecordedServer
from tests.support.server import certificates, free_ports, unpacked


class _Poor(RecordedServer):
    """One process, whose output is the log."""

    poor: ClassVar[bool] = True

    def __init__(self, base: Path | None = None) -> None:
        super().__init__(base)
        (self.plain_port,) = free_ports(1)

    def _run(self, *command: str | Path) -> subprocess.Popen[bytes]:
        with open(self.base / "log", "ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=self.base
            )


class Pymap(_Poor):
    """pymap of PyPI, which is among the tests' own requirements, with its Maildir backend."""

    name = "pymap"
    lacks: ClassVar[Mapping[str, str]] = {
        "keywords": "it drops keywords without a word",
        "tls": "its STARTTLS is not looked at, and it has no port for TLS",
    }

    def launch(self) -> subprocess.Popen[bytes]:
        pymap = Path(sys.executable).with_name("pymap")
        address = ("--host", "127.0.0.1", "--port", str(self.plain_port))
        files = ("--cert", certificates().pem("good"), "--key", certificates().key("good"))
        return self._run(pymap, *address, *files, "maildir", self.base)

    def add_user(self, user: str, password: str | None = None) -> str:
        self.users[user] = password or self.password
        secret = BuiltinHash(hash_name="sha256", salt_len=16, rounds=1).hash(self.users[user])
        for name, line in (("passwd", f"{user}:x::::{user}:"), ("shadow", f"{user}:{secret}:::::::"), ("group", "")):
            with open(self.base / f"pymap-etc-{name}", "a", encoding="utf-8") as file:
                file.write(line + "\n" * bool(line))
        return user


class Imap4d(_Poor):
    """imap4d of GNU mailutils, with Maildir folders. Root only: see namespace.py."""

    name = "imap4d"
    lacks: ClassVar[Mapping[str, str]] = {
        "keywords": "it refuses keywords",
        "tls": "its TLS is not looked at",
        "dates": "it shows the time when its file was last touched as the date",
    }

    def launch(self) -> subprocess.Popen[bytes]:
        for name in ("home", "spool"):
            (self.base / name).mkdir(exist_ok=True)
        (self.base / "imap4d.conf").write_text(_IMAP4D.format(base=self.base, port=self.plain_port))
        passwd = self.base / "passwd"
        if not passwd.exists():
            passwd.write_bytes(Path("/etc/passwd").read_bytes())
        script = f"mount --bind {passwd} /etc/passwd; exec /usr/sbin/imap4d --config-file={self.base}/imap4d.conf"
        return namespace.start("imap4d", script, self.base / "log")

    def add_user(self, user: str, password: str | None = None) -> str:
        """A line in the passwd file that only the server sees."""
        self.users[user] = password or self.password
        done = subprocess.run(
            ["openssl", "passwd", "-6", "-stdin"], input=self.users[user].encode(), capture_output=True, check=True
        )
        uid = 2000 + len(self.users)
        home = self.base / "home" / user
        (home / "Mail").mkdir(parents=True)
        spool = self.base / "spool" / user
        for directory in (spool / "cur", spool / "new", spool / "tmp"):
            directory.mkdir(parents=True)
        for path in (home, *home.rglob("*"), spool, *spool.rglob("*")):
            os.chown(path, uid, 8)
        line = f"{user}:{done.stdout.decode().strip()}:{uid}:8::{home}:/bin/sh\n"
        with open(self.base / "passwd", "a", encoding="utf-8") as file:
            file.write(line)
        return user


_IMAP4D = """
mode daemon; foreground yes; max-children 40; timeout 1800;
auth {{ authentication generic:system; authorization system; }};
mailbox {{
  mailbox-type maildir;
  mail-spool {base}/spool;
  mailbox-pattern "maildir:{base}/spool/${{user}}";
}};
namespace personal {{
  prefix "" {{ directory "{base}/home/$user/Mail"; delimiter "/"; mailbox-type maildir; }};
}};
logging {{ syslog no; }};
server 127.0.0.1:{port} {{ tls-mode no; }};
"""


class Hoodiecrow(_Poor):
    """hoodiecrow-imap of the npm registry, which all users share: a new one finds it empty."""

    name = "hoodiecrow"
    lacks: ClassVar[Mapping[str, str]] = {
        "keywords": "not looked at",
        "tls": "its certificate is its own",
        "qresync": "it has no QRESYNC",
    }

    def launch(self) -> subprocess.Popen[bytes]:
        plugins = (
            "ID SASL-IR AUTH-PLAIN NAMESPACE IDLE ENABLE CONDSTORE LITERALPLUS UNSELECT SPECIAL-USE CREATE-SPECIAL-USE"
            " UIDPLUS MOVE"
        )
        options = {
            "plugins": plugins.split(),
            "users": {user: {"password": password} for user, password in self.users.items()},
            "storage": {"INBOX": {}, "": {"separator": "/", "folders": {}}},
        }
        program = "require(process.argv[1])(JSON.parse(process.argv[2])).listen(Number(process.argv[3]), '127.0.0.1')"
        package = unpacked("hoodiecrow") / "node_modules/hoodiecrow-imap"
        return self._run("node", "-e", program, package, json.dumps(options), str(self.plain_port))

    def add_user(self, user: str, password: str | None = None) -> str:
        self.users[user] = password or self.password
        self.restart()
        return user
