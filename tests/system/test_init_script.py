# SPDX-License-Identifier: MIT
"""contrib/init.d/pushpull and contrib/logrotate/pushpull: run by a shell, with real daemons of two users.

A stand-in for the program detaches as the program does. As root everything is real. As anyone else the script is made
to believe that it is root, and all daemons are one's own. Nothing is mounted and no namespace is made: neither can be
done in every chroot and container.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "contrib/init.d/pushpull"
AS_ROOT = os.getuid() == 0
ME = pwd.getpwuid(os.getuid()).pw_name
OWNER, OTHER = ("mail", "daemon") if AS_ROOT else (ME, ME)

# Reads its configuration (JSON) and tells in `run` what it is. `fail`: exit code and words of a failed start; `slow`:
# on SIGTERM it waits for a fifo; `stubborn`: it does not heed SIGTERM.
STAND_IN = """import sys
sys.path[:0] = {path!r}
import json, os, queue, signal
from pathlib import Path
from pushpull.daemonize import start_daemon

config = sys.argv[sys.argv.index("--daemon") + 1]
told = json.loads(Path(config).read_text())
place = {run!r} + "/" + os.path.basename(config)
signals = queue.SimpleQueue()
handlers = {{number: lambda number, frame: signals.put(number) for number in (signal.SIGTERM, signal.SIGHUP)}}

def body(readiness):
    if "fail" in told:
        readiness.failed(*told["fail"])
        return 1
    with open(place + ".new", "w") as file:
        json.dump({{
            "pid": os.getpid(), "ids": [*os.getresuid(), *os.getresgid()], "groups": os.getgroups(),
            "env": dict(os.environ), "argv": sys.argv[1:], "front": FRONT,
        }}, file)
    os.rename(place + ".new", place)
    readiness.ready()
    while True:
        number = signals.get()
        with open(place + ".signals", "a") as file:
            file.write(signal.Signals(number).name + "\\n")
        if "slow" in told and number == signal.SIGTERM:
            Path(told["slow"]).read_text()
        if "stubborn" not in told and number == signal.SIGTERM:
            return 0

terminal = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[4])
FRONT = {{"terminal": terminal, "sid": os.getsid(0), "cwd": os.getcwd()}}
sys.exit(start_daemon(body, pidfile=place + ".pid", signals=handlers))
"""

# What makes the script believe that it is root, for who is not.
STUBS = {
    "id": 'if [ "$*" = -u ]; then echo 0; else exec {real} "$@"; fi',
    "stat": 'if [ "$3" = %u:%A ]; then echo "0:$({real} -L -c %A -- "$5")"; else exec {real} "$@"; fi',
    "setpriv": 'while [ "$1" != -- ]; do shift; done; shift; exec env -i HOME="$HOME" USER="$USER" PATH="$PATH" "$@"',
}


@dataclass(frozen=True)
class Python:
    """An interpreter that the owners of the configurations may run, and the directory of its packages."""

    program: Path
    library: Path  # a shared one of this Python, lest another Python's is taken
    packages: Path

    def command(self, script: Path) -> str:
        return f"exec env LD_LIBRARY_PATH='{self.library}' '{self.program}' -W error '{script}' \"$@\""


# What a daemon has no use for; all of it would be some 900 MB.
LEFT_OUT = shutil.ignore_patterns(
    "site-packages", "dist-packages", "test", "config-*", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtledemo"
)


def copy_python(to: Path) -> Python:
    """This one, and the packages that the stand-in imports: they may lie where only root can look."""
    prefix, standard = (Path(path).resolve() for path in (sys.base_prefix, sysconfig.get_path("stdlib")))
    program = Path(sys.executable).resolve()
    copied = Python(to / program.relative_to(prefix), to / "lib", to / "packages")
    shutil.copytree(standard, to / standard.relative_to(prefix), ignore=LEFT_OUT, ignore_dangling_symlinks=True)
    copied.program.parent.mkdir()
    shutil.copy(program, copied.program)
    for library in (prefix / "lib").glob("libpython*.so*"):
        shutil.copy(library, to / "lib")
    for name in ("pushpull", "daemon", "lockfile"):
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        shutil.copytree(Path(spec.origin).parent, copied.packages / name)
    for path in (to, *to.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | 0o444 | (0o111 if mode & 0o100 else 0))
    return copied


def open_to_all(directory: Path) -> bool:
    return all(place.stat().st_mode & stat.S_IXOTH for place in (directory, *directory.parents))


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A directory that every user may enter; pytest's own is closed to others."""
    candidates = [Path(name).resolve() for name in (tempfile.gettempdir(), "/tmp", "/var/tmp")]
    chosen = next((path for path in candidates if path.is_dir() and open_to_all(path)), candidates[0])
    with tempfile.TemporaryDirectory(prefix="pushpull-init-", dir=chosen) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def python(place: Path) -> Python:
    if AS_ROOT:
        return copy_python(place / "python")
    spec = find_spec("daemon")
    assert spec is not None
    assert spec.origin is not None
    return Python(Path(sys.executable).resolve(), Path(sys.base_prefix, "lib"), Path(spec.origin).parents[1])


class Machine:
    """A directory with all that the script knows of: /etc/pushpull, /etc/default/pushpull, a program."""

    def __init__(self, base: Path, python: Python) -> None:
        self.base = base
        self.etc, self.ran, self.stubs = base / "etc.d", base / "run", base / "stubs"
        for directory in (self.etc, self.ran, self.stubs):
            directory.mkdir()
        self.etc.chmod(0o755)
        self.ran.chmod(0o1777)
        self.program = base / "push pull"  # a blank, as far as one may be there
        self.defaults = base / "default"
        self.script = base / "init"
        text = SCRIPT.read_text()
        assert text.count("/etc/default/pushpull") == 3
        self.script.write_text(text.replace("/etc/default/pushpull", str(self.defaults)))
        self.script.chmod(0o755)
        stand_in = base / "stand_in.py"
        path = [str(python.packages), str(ROOT)]
        stand_in.write_text(STAND_IN.format(path=path, run=str(self.ran)))
        self.program.write_text(f"#!/bin/sh\n{python.command(stand_in)}\n")
        self.program.chmod(0o755)
        self.set_defaults()

    def set_defaults(self, **settings: object) -> None:
        path = "/usr/sbin:/usr/bin:/sbin:/bin"
        if not AS_ROOT:
            for name, text in STUBS.items():
                real = shutil.which(name, path=path)
                (self.stubs / name).write_text(f"#!/bin/sh\n{text.format(real=real)}\n")
                (self.stubs / name).chmod(0o755)
            path = f"{self.stubs}:{path}"
        values = {"CONFIG_DIR": self.etc, "DAEMON": self.program, "PATH": path, **settings}
        self.defaults.write_text("".join(f'{name}="{value}"\n' for name, value in values.items()))

    def configure(self, name: str, owner: str = OWNER, **told: object) -> Path:
        path = self.etc / f"{name}.conf"
        path.write_text(json.dumps(told))
        path.chmod(0o600)
        shutil.chown(path, owner)
        return path

    def command(self, *arguments: str, shell: tuple[str, ...] = ()) -> list[str]:
        return [*shell, str(self.script), *arguments]

    def popen(self, *arguments: str, **options):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        env = os.environ | {"SECRET": "of root"}
        return subprocess.Popen(self.command(*arguments, **options), env=env, **pipes)

    def run(self, *arguments: str, **options) -> tuple[int, list[str], list[str]]:
        with self.popen(*arguments, **options) as process:
            out, err = process.communicate(timeout=60)
        return process.returncode, sorted(out.splitlines()), sorted(err.splitlines())

    def code(self, *arguments: str) -> int:
        return self.run(*arguments)[0]

    def told(self, name: str) -> dict:
        return json.loads((self.ran / f"{name}.conf").read_text())

    def pid(self, name: str) -> int:
        return self.told(name)["pid"]

    def signals(self, name: str) -> list[str]:
        path = self.ran / f"{name}.conf.signals"
        return path.read_text().split() if path.exists() else []

    def alive(self, pid: int) -> bool:
        """Whether the process is one of this machine's; a zombie is none."""
        try:
            return str(self.base).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False

    def all_pids(self) -> set[int]:
        return {int(entry.name) for entry in Path("/proc").glob("[0-9]*") if self.alive(int(entry.name))}

    def clean(self) -> None:
        for pid in self.all_pids():
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self.all_pids(), what="the end of all daemons")


@pytest.fixture
def machine(place: Path, python: Python) -> Iterator[Machine]:
    before = os.umask(0o022)
    try:
        with tempfile.TemporaryDirectory(dir=place) as name:
            base = Path(name)
            base.chmod(0o755)
            machine = Machine(base, python)
            try:
                yield machine
            finally:
                machine.clean()
    finally:
        os.umask(before)


@pytest.fixture
def two(machine) -> Machine:
    """With daemons of alice and bob, who are two users, that run."""
    machine.configure("alice", OWNER)
    machine.configure("bob", OTHER)
    assert machine.code("start") == 0
    return machine


# --- start ---------------------------------------------------------------------------------------------------


def test_one_daemon_for_each_configuration(machine):
    machine.configure("alice", OWNER)
    machine.configure("bob", OTHER)
    for ignored in ("alice.conf~", "bob.conf.dpkg-old", "README"):
        (machine.etc / ignored).write_text("{}")
    code, out, err = machine.run("start")
    assert (code, err) == (0, [])
    assert out == [f"pushpull: alice: started for {OWNER}", f"pushpull: bob: started for {OTHER}"]
    assert machine.all_pids() == {machine.pid("alice"), machine.pid("bob")}


def test_it_runs_as_the_owner(two):
    for name, owner in (("alice", OWNER), ("bob", OTHER)):
        user, told = pwd.getpwnam(owner), two.told(name)
        assert told["ids"] == [user.pw_uid] * 3 + [user.pw_gid] * 3
        if AS_ROOT:  # else nothing had to be changed
            assert sorted(told["groups"]) == sorted(os.getgrouplist(owner, user.pw_gid))
            assert (told["env"]["HOME"], told["env"]["USER"]) == (user.pw_dir, owner)
        assert "SECRET" not in told["env"]
        assert told["front"]["cwd"] == "/"
        assert told["argv"] == ["--daemon", str(two.etc / f"{name}.conf")]


def test_it_cannot_reach_the_terminal_of_root(two):
    front = two.told("alice")["front"]
    assert front["terminal"] == 0
    assert front["sid"] != os.getsid(0)


def test_options(machine):
    machine.set_defaults(OPTIONS="-q --yes")
    machine.configure("alice")
    assert machine.code("start") == 0
    assert machine.told("alice")["argv"] == ["-q", "--yes", "--daemon", str(machine.etc / "alice.conf")]
    assert machine.code("status") == 0
    assert machine.code("stop") == 0
    assert not machine.all_pids()


def test_what_runs_is_left_alone(two):
    before = two.all_pids()
    code, out, _ = two.run("start")
    assert code == 0
    assert out == [f"pushpull: {name}: runs already (pid {two.pid(name)})" for name in ("alice", "bob")]
    assert two.all_pids() == before


def test_only_those_that_do_not_run_are_started(two):
    before = two.pid("bob")
    os.kill(two.pid("alice"), signal.SIGKILL)  # leaves its pid file
    wait_for(lambda: len(two.all_pids()) == 1, what="the end of alice")
    assert two.code("start") == 0
    assert two.pid("bob") == before
    assert two.all_pids() == {two.pid("alice"), before}


def test_one_that_fails_does_not_keep_the_others(machine):
    machine.configure("alice", fail=[77, "login refused\n    correct the password"])
    machine.configure("bob", OTHER)
    code, out, err = machine.run("start")
    assert code == 1
    assert out == [f"pushpull: bob: started for {OTHER}"]
    assert err == [
        "    correct the password",
        "pushpull: alice: not started (exit code 77)",
        "pushpull: login refused",
    ]
    assert machine.all_pids() == {machine.pid("bob")}


def test_to_systemd_the_service_runs_if_one_does(machine):
    machine.configure("alice", fail=[77, "login refused"])
    machine.configure("bob", OTHER)
    systemd = ("sh", "-c", 'SYSTEMD_EXEC_PID=$$ exec "$@"', "sh")
    assert machine.run("start", "alice", shell=systemd)[0] == 1
    code, _, err = machine.run("start", shell=systemd)
    assert code == 0
    assert "pushpull: alice: not started (exit code 77)" in err
    assert machine.all_pids() == {machine.pid("bob")}


def test_names_that_need_quotes(machine):
    names = ["my mail", "a*", "$(echo x)", "-n"]
    for name in names:
        machine.configure(name)
    assert machine.code("start") == 0
    assert machine.all_pids() == {machine.pid(name) for name in names}
    assert machine.code("status") == 0
    assert machine.code("stop", "a*") == 0
    assert machine.all_pids() == {machine.pid(name) for name in names if name != "a*"}
    assert machine.code("stop") == 0
    assert not machine.all_pids()


def test_a_directory_with_signs_of_regular_expressions(machine):
    machine.etc = machine.etc.rename(machine.base / "e+[c] (x).d")
    machine.set_defaults()
    machine.configure("alice")
    assert machine.code("start") == 0
    assert machine.code("reload") == 0
    assert machine.code("stop") == 0
    assert not machine.all_pids()


# --- what is not started -------------------------------------------------------------------------------------


def test_a_link_is_not_followed(machine):
    elsewhere = machine.configure("elsewhere").rename(machine.base / "elsewhere")
    (machine.etc / "alice.conf").symlink_to(elsewhere)
    code, out, err = machine.run("start")
    assert (code, out) == (1, [])
    assert re.match(r"pushpull: alice: .*alice.conf is not a file", err[0])
    assert not machine.all_pids()


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_directory_that_others_may_write(machine, mode):
    machine.configure("alice")
    machine.etc.chmod(mode)
    code, _, err = machine.run("start")
    assert code == 6
    assert err == [f"pushpull: {machine.etc} is not root's alone to write: nothing is started"]
    assert not machine.all_pids()


def test_a_directory_of_another_user(machine):
    machine.configure("alice")
    if AS_ROOT:
        shutil.chown(machine.etc, OWNER)
    else:
        (machine.stubs / "stat").unlink()
    assert machine.code("start") == 6
    assert not machine.all_pids()


def test_an_owner_that_is_no_user(machine):
    path = machine.configure("alice")
    if AS_ROOT:
        os.chown(path, 54321, 54321)
    else:
        (machine.stubs / "id").write_text('#!/bin/sh\n[ "$*" = -u ] && echo 0\n')
    code, _, err = machine.run("start")
    assert (code, err) == (1, [f"pushpull: alice: the owner of {path} is no user"])


def test_nothing_to_start(machine):
    code, out, err = machine.run("start")
    assert (code, out, err) == (6, [], [f"pushpull: no *.conf in {machine.etc}"])
    assert machine.code("restart") == 6
    assert machine.code("stop") == 0
    assert machine.code("try-restart") == 0
    assert machine.code("status") == 3


def test_the_program_was_removed(two):
    two.program.rename(two.base / "gone")
    assert two.run("restart") == (5, [], [f"pushpull: {two.program} is not installed"])
    assert len(two.all_pids()) == 2  # else nothing would run now
    assert two.code("stop") == 0
    assert not two.all_pids()


# --- status --------------------------------------------------------------------------------------------------


def test_status(two):
    assert two.run("status") == (0, [f"pushpull: {name}: runs (pid {two.pid(name)})" for name in ("alice", "bob")], [])
    assert two.code("stop", "alice") == 0
    code, out, _ = two.run("status")
    assert (code, out[0]) == (3, "pushpull: alice: does not run")
    assert two.code("status", "bob") == 0
    assert two.code("status", "alice") == 3
    assert two.code("status", "nobody") == 3


def test_anybody_may_ask_for_it(two):
    command = [str(two.script), "status"]
    if AS_ROOT:
        command = ["setpriv", "--reuid=nobody", "--clear-groups", *command]
    assert subprocess.run(command, check=False, timeout=60, stdout=subprocess.DEVNULL).returncode == 0


def test_what_only_looks_like_a_daemon(machine):
    """Not the same file, not the option, part of the name, or another user's, who would keep alice's from starting."""
    path = machine.configure("alice")
    program = str(machine.program)
    lookalikes = [["--daemon", f"{path}x"], [str(path)], [f"--daemon={path}"], [f"--daemon {path}"]]
    commands = [["sh", "-c", "read line", program, *arguments] for arguments in lookalikes]
    if AS_ROOT:
        commands.append(
            ["setpriv", "--reuid=nobody", "--clear-groups", "sh", "-c", "read line", program, "--daemon", str(path)]
        )
    started = [subprocess.Popen(command, stdin=subprocess.PIPE) for command in commands]
    try:
        wait_for(lambda: len(machine.all_pids()) == len(commands), what="all processes")
        assert machine.code("status") == 3
        assert machine.code("start") == 0
        assert machine.code("status") == 0
        for process in started[: len(lookalikes)]:
            assert process.poll() is None
        assert machine.code("stop") == 0
        assert [process.poll() for process in started[: len(lookalikes)]] == [None] * len(lookalikes)
    finally:
        for process in started:
            process.communicate()


if AS_ROOT:  # nobody else may change the root directory

    def test_a_daemon_of_a_chroot_is_its_own(two):
        """A container's have the same arguments, too, as seen from outside."""
        elsewhere = two.base / "chroot"
        elsewhere.mkdir()
        code = "import os, sys; os.chroot(sys.argv[1]); print(flush=True); sys.stdin.read()"
        config = str(two.etc / "alice.conf")
        command = [sys.executable, "-c", code, str(elsewhere), "--daemon", config]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"\n"
            assert two.code("stop") == 0
            assert two.all_pids() == {process.pid}
            process.communicate()
            assert process.returncode == 0


# --- stop ----------------------------------------------------------------------------------------------------


def test_stop(two):
    code, out, err = two.run("stop")
    assert (code, out, err) == (0, ["pushpull: stopped"], [])
    assert not two.all_pids()
    assert not list(two.ran.glob("*.pid"))
    assert two.signals("alice") == two.signals("bob") == ["SIGTERM"]
    assert two.run("stop") == (0, ["pushpull: none runs"], [])


def test_stop_waits_until_it_is_gone(machine):
    gate = machine.base / "gate"
    os.mkfifo(gate)
    gate.chmod(0o644)
    machine.configure("alice", slow=str(gate))
    assert machine.code("start") == 0
    with machine.popen("stop") as process:
        wait_for(lambda: machine.signals("alice"), what="SIGTERM")
        assert process.poll() is None
        assert machine.alive(machine.pid("alice"))
        gate.write_text("go")
        assert process.wait(30) == 0
        process.communicate()
    assert machine.signals("alice") == ["SIGTERM"]
    assert not machine.all_pids()


def test_one_that_does_not_heed_sigterm(machine):
    machine.set_defaults(STOP_SECONDS=1)
    machine.configure("alice", stubborn=True)
    machine.configure("bob", OTHER)
    assert machine.code("start") == 0
    assert machine.code("stop") == 0
    assert not machine.all_pids()
    assert machine.signals("alice") == ["SIGTERM"]


def test_one_whose_configuration_was_removed(two):
    (two.etc / "alice.conf").unlink()
    assert two.code("stop", "alice") == 0
    assert two.all_pids() == {two.pid("bob")}
    (two.etc / "bob.conf").unlink()
    assert two.code("stop") == 0
    assert not two.all_pids()


# --- restart, reload -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["restart", "force-reload"])
def test_restart(two, action):
    before = two.all_pids()
    assert two.code(action) == 0
    assert two.all_pids() == {two.pid("alice"), two.pid("bob")}
    assert not two.all_pids() & before
    assert two.code("stop") == 0
    assert two.code(action) == 0
    assert len(two.all_pids()) == 2


def test_restart_of_one(two):
    alice, bob = two.pid("alice"), two.pid("bob")
    assert two.code("restart", "alice") == 0
    assert two.pid("bob") == bob
    assert two.pid("alice") != alice
    assert two.all_pids() == {two.pid("alice"), bob}


def test_try_restart(two):
    alice = two.pid("alice")
    assert two.code("stop", "bob") == 0
    assert two.code("try-restart") == 0
    assert two.all_pids() == {two.pid("alice")}
    assert two.pid("alice") != alice


def test_reload(two):
    before = two.all_pids()
    assert two.code("reload", "alice") == 0
    wait_for(lambda: two.signals("alice") == ["SIGHUP"], what="SIGHUP")
    assert two.signals("bob") == []
    assert two.code("reload") == 0
    wait_for(lambda: two.signals("bob") == ["SIGHUP"], what="SIGHUP")
    assert two.all_pids() == before
    assert two.code("stop") == 0
    assert two.code("reload") == 7


# --- the command line ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["begin"], 3), (["start", "../x"], 2), (["stop", ""], 2)])
def test_usage(machine, arguments, code):
    assert machine.code(*arguments) == code


def test_an_unknown_name(machine):
    machine.configure("alice")
    code, _, err = machine.run("start", "carol")
    assert code == 1
    assert err[0].startswith("pushpull: carol: ")
    assert not machine.all_pids()


@pytest.mark.parametrize("action", ["start", "stop", "restart", "reload"])
def test_only_root_may(machine, action):
    machine.configure("alice")
    (machine.stubs / "id").unlink(missing_ok=True)
    command = [str(machine.script), action]
    if AS_ROOT:
        command = ["setpriv", "--reuid=nobody", "--clear-groups", *command]
    done = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (4, f"pushpull: only root can {action} daemons\n")


@pytest.mark.parametrize("shell", [("sh",), ("bash", "--posix"), ("sh", "-u")], ids=" ".join)
def test_shells(machine, shell):
    machine.configure("alice")
    codes = [machine.run(action, shell=shell)[0] for action in ("start", "status", "restart", "stop", "stop")]
    assert codes == [0] * 5
    assert not machine.all_pids()


def test_the_headers_of_the_lsb():
    text = SCRIPT.read_text()
    (block,) = re.findall(r"^### BEGIN INIT INFO\n(.*?)^### END INIT INFO$", text, re.MULTILINE | re.DOTALL)
    headers = dict(re.findall(r"^# ([\w-]+): +(\S.*)$", block, re.MULTILINE))
    assert headers["Provides"] == "pushpull"
    assert {"Required-Start", "Required-Stop", "Default-Start", "Default-Stop", "Short-Description"} <= headers.keys()
    assert "$network" in headers["Required-Start"].split()
    assert not set(headers["Default-Start"].split()) & set(headers["Default-Stop"].split())
    assert SCRIPT.stat().st_mode & stat.S_IXUSR


# --- logrotate -----------------------------------------------------------------------------------------------


def after_rotation(machine: Machine) -> int:
    """The exit code of what logrotate runs by sh when it has moved the logs."""
    text = (ROOT / "contrib/logrotate/pushpull").read_text()
    rules = text[text.index("\n/var/log") :]
    (commands,) = re.findall(r"^ +postrotate\n(.*?)^ +endscript$", rules, re.MULTILINE | re.DOTALL)
    assert commands.count("/etc/init.d/pushpull") == 2
    command = ["sh", "-c", commands.replace("/etc/init.d/pushpull", f"'{machine.script}'"), "logrotate_script"]
    return subprocess.run(command, check=False, timeout=60).returncode


def test_rotated_logs_are_opened_anew(two, capfd):
    assert after_rotation(two) == 0
    wait_for(lambda: two.signals("alice") == two.signals("bob") == ["SIGHUP"], what="SIGHUP")
    assert two.code("stop") == 0
    assert after_rotation(two) == 0
    two.script.unlink()
    assert after_rotation(two) == 0
