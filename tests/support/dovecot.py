# SPDX-License-Identifier: MIT
"""A private Dovecot 2.3 on loopback, for one test session or one test.

Nothing outside `base` (and one short directory for its sockets) is touched, and nothing but 127.0.0.1 is
listened on. As root the mail belongs to the user `mail`; as anyone else everything runs as oneself.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

from tests.support.client import Client
from tests.support.server import (
    Server,
    alive,
    certificates,
    free_ports,
    mail_ids,
    open_directory,
    started,
    wait_for_greetings,
)
from tests.support.waiting import wait_for

_PROGRAM = "/usr/sbin/dovecot"
_STARTS = 8
_TESTER = "tester"

_CONFIG = """
base_dir = {run}
state_dir = {base}/state
log_path = {base}/log
protocols = imap
listen = 127.0.0.1
auth_mechanisms = plain login
disable_plaintext_auth = no
auth_failure_delay = 0
auth_verbose = yes
auth_username_chars =
auth_master_user_separator = *
ssl = yes
ssl_cert = <{pem}
ssl_key = <{key}
default_internal_user = {internal_user}
default_internal_group = {internal_group}
default_login_user = {login_user}
mail_uid = {uid}
mail_gid = {gid}
first_valid_uid = 1
mail_home = {base}/home/%u
mail_location = maildir:~/Maildir
mail_fsync = never
# Else a stray CR of a message is lost on the way to the server's disk.
mail_save_crlf = yes
mail_max_userip_connections = 50
namespace inbox {{
  inbox = yes
  separator = /
  prefix =
}}
# The tester's own sessions must not show in the log of what a program sent: they log in as `user*tester`, and
# their directory does not exist.
passdb {{
  driver = static
  args = user={tester} password={tester_password}
  master = yes
  username_filter = {tester}
}}
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {base}/users
}}
passdb {{
  driver = static
  args = password=alicepw
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={base}/home/%u allow_all_users=yes
}}
protocol imap {{
  rawlog_dir = {base}/rawlog/%{{auth_user}}
}}
service imap-login {{
  chroot = {login_chroot}
  service_count = 0
  process_min_avail = 1
  inet_listener imap {{
    port = {starttls_port}
  }}
  inet_listener imaps {{
    port = {port}
    ssl = yes
  }}
}}
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  chroot =
}}
{settings}
"""


STRICT = """
mail_plugins = $mail_plugins quota acl
plugin {{
  quota = count:User quota
  quota_rule = *:storage={kilobytes}K
  quota_vsizes = yes
  acl = vfile
  acl_user = %u
}}
protocol imap {{
  mail_plugins = $mail_plugins imap_quota imap_acl
}}
"""
"""Settings for `set_quota` and `set_read_only`."""


class Dovecot(Server):
    """Context manager; inside it the server answers.

    `settings` is appended to the configuration; `certificate` is one of good, wronghost, expired, stranger.
    Every user name logs in with the password `alicepw`; `add_user` gives a name another password.
    """

    name = "dovecot"
    lacks: ClassVar[Mapping[str, str]] = {}

    def __init__(self, base: Path | None = None, settings: str = "", *, certificate: str = "good") -> None:
        super().__init__(base)
        self._settings = settings
        self._certificate = certificate
        self._seen: dict[str, int] = {}
        # Socket paths are limited to 107 bytes, so they get a short directory.
        self._run = open_directory("ppd-")

    def __enter__(self) -> Self:
        uid, gid = mail_ids()
        for name in ("state", "home", "rawlog"):
            path = self.base / name
            path.mkdir(exist_ok=True)
            os.chown(path, uid, gid)
        (self.base / "users").touch()
        return super().__enter__()

    # --- the process ------------------------------------------------------------------------------------------

    def start(self) -> None:
        for _ in range(_STARTS):
            self.starttls_port, self.port = free_ports(2)
            self._write_config()
            if self._run_master():
                break
            if "in use" not in self.log():
                raise RuntimeError(f"dovecot did not start: {self.log()}")
        else:
            raise RuntimeError(f"no free port in {_STARTS} attempts\n{self.log()}")
        self._wait()

    def _run_master(self) -> bool:
        # Into a file: the daemon inherits the descriptors, and a pipe would never end.
        with open(self.base / "log", "ab") as log:
            done = subprocess.run([_PROGRAM, "-c", str(self._config)], stdout=log, stderr=log, timeout=30, check=False)
        return done.returncode == 0

    def stop(self) -> None:
        """Kill the master by its pid and wait until it and its listeners are gone."""
        pid = self._master_pid()
        if pid is None:
            return
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not alive(pid), what=f"end of dovecot {pid}", detail=self.log)

    def restart(self) -> None:
        self.stop()
        assert self._run_master(), self.log()
        self._wait()

    def kick(self, user: str | None = None) -> None:
        self.doveadm("kick", user or self.user)

    def _wait(self) -> None:
        wait_for_greetings(tls_port=self.port, plain_port=self.starttls_port, what="dovecot", detail=self.log)

    def _master_pid(self) -> int | None:
        try:
            return int((self._run / "master.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    @property
    def _config(self) -> Path:
        return self.base / "dovecot.conf"

    def _write_config(self) -> None:
        uid, gid = mail_ids()
        if os.getuid() == 0:
            names = {
                "internal_user": "dovecot",
                "internal_group": "dovecot",
                "login_user": "dovenull",
                "login_chroot": "login",
            }
        else:
            me = pwd.getpwuid(os.getuid()).pw_name
            group = subprocess.run(["id", "-gn"], capture_output=True, text=True, check=True).stdout.strip()
            names = {"internal_user": me, "internal_group": group, "login_user": me, "login_chroot": ""}
        self._config.write_text(
            _CONFIG.format(
                run=self._run,
                base=self.base,
                uid=uid,
                gid=gid,
                port=self.port,
                starttls_port=self.starttls_port,
                pem=certificates().pem(self._certificate),
                key=certificates().key(self._certificate),
                tester=_TESTER,
                tester_password=self.password,
                settings=self._settings,
                **names,
            )
        )

    def remove(self) -> None:
        shutil.rmtree(self._run, ignore_errors=True)
        super().remove()

    # --- users and mail ---------------------------------------------------------------------------------------

    def add_user(self, user: str, password: str | None = None) -> str:
        self.users[user] = password or self.password
        rawlog = self.base / "rawlog" / user
        rawlog.mkdir(exist_ok=True)
        os.chown(rawlog, *mail_ids())
        lines = [f"{name}:{{PLAIN}}{secret}\n" for name, secret in self.users.items() if secret != self.password]
        (self.base / "users").write_text("".join(lines), encoding="utf-8")
        return user

    @property
    def mail_home(self) -> Path:
        """Home of `user` alice; its Maildir is in `Maildir`."""
        return self.home()

    def home(self, user: str | None = None) -> Path:
        return self.base / "home" / (user or self.user)

    def doveadm(self, *args: str, input: bytes | None = None) -> str:
        """Run doveadm on this server; returns its stdout, AssertionError when it fails."""
        done = subprocess.run(
            ["doveadm", "-c", str(self._config), *args], input=input, capture_output=True, timeout=60, check=False
        )
        if done.returncode:
            raise AssertionError(f"doveadm {' '.join(args)}: {done.stderr.decode(errors='replace')}")
        return done.stdout.decode(errors="replace")

    def client(self, user: str | None = None) -> Client:
        return Client(self.port, self.ca_file, f"{user or self.user}*{_TESTER}", self.password)

    # --- what no client can do --------------------------------------------------------------------------------

    def new_uidvalidity(self, user: str, mailbox: str = "INBOX") -> None:
        self.doveadm("mailbox", "update", "-u", user, "--uid-validity", "777", mailbox)

    def renumber(self, user: str) -> None:
        self._forget(user, "dovecot-uidlist*", "dovecot.index*")

    def lose_modseq(self, user: str) -> None:
        self._forget(user, "dovecot.index*")

    def _forget(self, user: str, *patterns: str) -> None:
        for pattern in patterns:
            for path in (self.home(user) / "Maildir").glob(pattern):
                path.unlink()

    def back_up(self, user: str, backup: Path) -> None:
        shutil.copytree(self.home(user) / "Maildir", backup)

    def restore(self, user: str, backup: Path) -> None:
        maildir = self.home(user) / "Maildir"
        shutil.rmtree(maildir)
        shutil.copytree(backup, maildir)
        for path in (maildir, *maildir.rglob("*")):
            shutil.chown(path, *mail_ids())

    def set_quota(self, user: str, kilobytes: int) -> None:
        assert self._settings == STRICT.format(kilobytes=kilobytes), "the quota is the same for all of its users"

    def set_read_only(self, user: str, on: bool) -> None:
        path = self.home(user) / "Maildir" / "dovecot-acl"
        if on:
            path.write_text("owner lr\n")
            os.chown(path, *mail_ids())
        else:
            path.unlink()

    # --- what was sent ----------------------------------------------------------------------------------------

    def sent(self, user: str | None = None) -> list[bytes]:
        # Waits for the sessions to end: Dovecot writes the log's last bytes when it closes it. LOGIN is not among
        # them, it is the login process's.
        sent = [path.read_bytes()[self._seen.get(str(path), 0) :] for path in self._rawlog_files(user)]
        return [_TIME.sub(b"", data) for data in sent]

    def forget_rawlog(self, user: str | None = None) -> None:
        for path in self._rawlog_files(user):
            self._seen[str(path)] = path.stat().st_size

    def _rawlog_files(self, user: str | None) -> list[Path]:
        directory = self.base / "rawlog" / (user or self.user)
        files = sorted(directory.glob("*.in"), key=lambda path: path.stat().st_mtime_ns)
        sessions = [(int(path.name.split(".")[1]), path.stat().st_mtime) for path in files]
        wait_for(
            # A process that began after the log was written to last has the number of one that ended.
            lambda: not any(alive(pid) and started(pid) <= written + 1 for pid, written in sessions),
            what=f"the end of the sessions of {user or self.user}",
            detail=self.log,
        )
        return files


_TIME = re.compile(rb"^\d+\.\d{6} ", re.MULTILINE)  # Dovecot puts one before each line, also a literal's

__all__ = ["Dovecot", "certificates", "mail_ids", "open_directory"]
