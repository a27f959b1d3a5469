# SPDX-License-Identifier: MIT
"""A private Dovecot 2.3 on loopback, for one test session or one test.

Nothing outside `base` (and one short directory for its sockets) is touched, and nothing but 127.0.0.1 is
listened on. As root the mail belongs to the user `mail`; as anyone else everything runs as oneself.
"""

from __future__ import annotations

import atexit
import os
import pwd
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from types import TracebackType

from tests.support.certificates import Certificates, make_certificates
from tests.support.client import Client, Remote
from tests.support.rules import OWN_TAG
from tests.support.waiting import wait_for

_PROGRAM = "/usr/sbin/dovecot"
_STARTS = 8
_PORTS = range(20000, 32000)  # below the ephemeral range, so no outgoing connection takes one meanwhile
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


def certificates() -> Certificates:
    """The certificates of this test session; made once, also when a server and a client ask at the same time."""
    with _CERTIFICATES_LOCK:
        return _certificates()


@cache
def _certificates() -> Certificates:
    directory = open_directory("pushpull-certs-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return make_certificates(directory)


_CERTIFICATES_LOCK = threading.Lock()


class Dovecot:
    """Context manager; inside it the server answers.

    `settings` is appended to the configuration; `certificate` is one of good, wronghost, expired, stranger.
    `base` must be a directory that every user may enter (`open_directory()` makes one); None makes one.
    Every user name logs in with the password `alicepw`; `add_user` gives a name another password.
    """

    host = "localhost"
    user = "alice"
    password = "alicepw"

    def __init__(self, base: Path | None = None, settings: str = "", *, certificate: str = "good") -> None:
        self._own_base = base is None
        self.base = base or open_directory()
        self._settings = settings
        self._certificate = certificate
        self.ca_file = certificates().ca_file
        self.port = 0
        self.starttls_port = 0
        self.users: dict[str, str] = {self.user: self.password}
        self._seen: dict[str, int] = {}
        # Socket paths are limited to 107 bytes, so they get a short directory.
        self._run = open_directory("ppd-")

    def __enter__(self) -> Dovecot:
        uid, gid = mail_ids()
        for name in ("state", "home", "rawlog"):
            path = self.base / name
            path.mkdir(exist_ok=True)
            os.chown(path, uid, gid)
        (self.base / "users").touch()
        self.add_user(self.user, self.password)
        try:
            self._start()
        except BaseException:
            self.stop()
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            self._remove()

    # --- the process ------------------------------------------------------------------------------------------

    def _start(self) -> None:
        for _ in range(_STARTS):
            self.starttls_port, self.port = _free_ports(2)
            self._write_config()
            if self._run_master():
                break
            if "in use" not in self.log():
                raise RuntimeError(f"dovecot did not start: {self.log()}")
        else:
            raise RuntimeError(f"no free port in {_STARTS} attempts\n{self.log()}")
        wait_for(self._greets, what="dovecot's greeting", detail=self.log)

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
        wait_for(lambda: not _alive(pid), what=f"end of dovecot {pid}", detail=self.log)

    def restart(self) -> None:
        """Stop and start again on the same ports, with the mail that is there."""
        self.stop()
        assert self._run_master(), self.log()
        wait_for(self._greets, what="dovecot's greeting", detail=self.log)

    def kick(self, user: str | None = None) -> None:
        """End the sessions of a user with a BYE; AssertionError when there is none."""
        self.doveadm("kick", user or self.user)

    def log(self) -> str:
        try:
            return (self.base / "log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def _greets(self) -> bool:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with (
                socket.create_connection(("127.0.0.1", self.port), 5) as plain,
                context.wrap_socket(plain) as tls,
                socket.create_connection(("127.0.0.1", self.starttls_port), 5) as other,
            ):
                return tls.recv(1024).startswith(b"* OK") and other.recv(1024).startswith(b"* OK")
        except OSError:
            return False

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

    def _remove(self) -> None:
        shutil.rmtree(self._run, ignore_errors=True)
        if self._own_base:
            shutil.rmtree(self.base, ignore_errors=True)

    # --- users and mail ---------------------------------------------------------------------------------------

    def add_user(self, user: str, password: str | None = None) -> str:
        """Let `user` log in with `password`, and log what it sends. Returns its name."""
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
        """A session of the tester as `user`, which does not show in `rawlog`."""
        return Client(self.port, self.ca_file, f"{user or self.user}*{_TESTER}", self.password)

    def save(
        self,
        message: bytes,
        *,
        mailbox: str = "INBOX",
        flags: str = "",
        date: datetime | None = None,
        user: str | None = None,
    ) -> int:
        """APPEND one message (CRLF is made of LF); returns its UID."""
        with self.client(user) as client:
            return client.append(mailbox, message, flags, date)

    def snapshot(self, mailbox: str = "INBOX", *, user: str | None = None) -> Mapping[int, Remote]:
        """Every message of the mailbox by UID."""
        with self.client(user) as client:
            return client.snapshot(mailbox)

    # --- what was sent ----------------------------------------------------------------------------------------

    def rawlog(self, user: str | None = None) -> list[bytes]:
        """Every line that the user's programs sent since the last `forget_rawlog`, oldest session first.

        Waits for the sessions to end first: Dovecot writes the log's last bytes when it closes it. Literals'
        lines are among them; LOGIN is not (it is the login process's).
        """
        return [line.rstrip(b"\r") for sent in self._sent(user) for line in sent.split(b"\n") if line]

    def commands(self, user: str | None = None) -> list[str]:
        """As `rawlog`, one string a command, without its tag and with each literal as `(n bytes)`; without what a
        proxy sends by itself."""
        return [command for sent in self._sent(user) for command in _commands(sent)]

    def _sent(self, user: str | None) -> list[bytes]:
        sent = [path.read_bytes()[self._seen.get(str(path), 0) :] for path in self._rawlog_files(user)]
        return [_TIME.sub(b"", data) for data in sent]

    def forget_rawlog(self, user: str | None = None) -> None:
        """`rawlog` shows only what is sent from now on."""
        for path in self._rawlog_files(user):
            self._seen[str(path)] = path.stat().st_size

    def _rawlog_files(self, user: str | None) -> list[Path]:
        directory = self.base / "rawlog" / (user or self.user)
        files = sorted(directory.glob("*.in"), key=lambda path: path.stat().st_mtime_ns)
        pids = {path.name.split(".")[1] for path in files}
        wait_for(
            lambda: not any(_alive(int(pid)) for pid in pids),
            what=f"the end of the sessions of {user or self.user}",
        )
        return files


_TIME = re.compile(rb"^\d+\.\d{6} ", re.MULTILINE)  # Dovecot puts one before each line, also a literal's
_LITERAL = re.compile(rb"\{(\d+)\+?\}\r\n")


def _commands(sent: bytes) -> Iterator[str]:
    line, at = b"", 0
    while at < len(sent):
        end = sent.find(b"\n", at) + 1 or len(sent)
        line += sent[at:end]
        at = end
        literal = _LITERAL.search(line, max(0, len(line) - 24))
        if literal and literal.end() == len(line):
            line = line[: literal.start()] + b"(" + literal[1] + b" bytes)"
            at += int(literal[1])
            continue
        tag, _, rest = line.strip().partition(b" ")
        if not tag.startswith(OWN_TAG):
            yield (rest or tag).decode("utf-8", "backslashreplace")
        line = b""


def _alive(pid: int) -> bool:
    """Running, and not just waiting for its parent to notice its end."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def open_directory(prefix: str = "pushpull-") -> Path:
    """A fresh temporary directory that Dovecot's users may enter (pytest's own are 0700)."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    path.chmod(0o755)
    return path


def mail_ids() -> tuple[int, int]:
    """uid and gid of the server's mail files."""
    if os.getuid() == 0:
        entry = pwd.getpwnam("mail")
        return entry.pw_uid, entry.pw_gid
    return os.getuid(), os.getgid()


def _free_ports(count: int) -> list[int]:
    ports: list[int] = []
    while len(ports) < count:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


__all__ = ["Dovecot", "certificates", "mail_ids", "open_directory"]
