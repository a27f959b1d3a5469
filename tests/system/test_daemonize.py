# SPDX-License-Identifier: MIT
"""Detaching and the readiness pipe, with real processes: a program that does what the command line will do."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pushpull import daemonize
from pushpull.daemonize import PidFile, Readiness, start_daemon
from pushpull.errors import LocalDiskError, PairingLocked, Temporary
from pushpull.locks import pair_lock
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
DIED = "pushpull: the daemon died during start-up\n"

# Runs `steps` in the daemon, with a lock taken before. `before` is run in the foreground. It reports what the daemon
# is, and goes on until SIGTERM.
PROGRAM = """
import fcntl, json, os, queue, resource, signal, sys
from pushpull import errors
from pushpull.daemonize import start_daemon

base, umask, before, steps = sys.argv[1], int(sys.argv[2], 8), sys.argv[3], sys.argv[4]
for number in (0, 1, 2):
    try:
        os.fstat(number)
    except OSError:
        os.open(os.devnull, os.O_RDWR)
lock = os.open(base + "/state.1.lock", os.O_RDWR | os.O_CREAT, 0o600)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(75)
left_open = os.open(base + "/left-open", os.O_WRONLY | os.O_CREAT)
signals = queue.SimpleQueue()
handlers = {signal.SIGTERM: lambda number, frame: signals.put(number)}

def report():
    fds = {int(fd): os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
           if os.path.exists(f"/proc/self/fd/{fd}")}
    told = {
        "pid": os.getpid(), "ppid": os.getppid(), "sid": os.getsid(0), "cwd": os.getcwd(), "fds": fds,
        "umask": os.umask(0), "groups": os.getgroups(), "ids": [os.getresuid(), os.getresgid()],
        "env": dict(os.environ), "core": resource.getrlimit(resource.RLIMIT_CORE),
        "terminal": int(open("/proc/self/stat").read().rpartition(")")[2].split()[4]),
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "streams": [sys.stdin.fileno(), sys.stdout.fileno(), sys.stderr.fileno()],
        "inheritable": [os.get_inheritable(fd) for fd in (0, 1, 2, lock)],
    }
    os.umask(told["umask"])
    open(base + "/made", "w").close()
    with open(base + "/report.new", "w") as file:
        json.dump(told, file)
    os.rename(base + "/report.new", base + "/report")

def body(readiness):
    global end
    os.pwrite(lock, b"%d\\n" % os.getpid(), 0)
    report()
    end = 0
    exec(steps, globals() | {"readiness": readiness})
    print("into the void")
    while signals.get() != signal.SIGTERM:
        pass
    return 0

exec(before)
sys.exit(start_daemon(body, umask=umask, preserve=[lock], pidfile=base + "/pid", signals=handlers))
"""
READY = "readiness.ready()"


class Stage:
    """Runs the program in a directory of its own, and ends all that it left behind."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.pidfile = base / "pid"
        self._seen: set[int] = set()

    def popen(self, steps: str = READY, *, before: str = "", umask: int = 0o077, shell: str = "", **options):
        (self.base / "report").unlink(missing_ok=True)
        command = [sys.executable, "-W", "error", "-c", PROGRAM, str(self.base), f"{umask:o}", before, steps]
        if shell:
            command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
        env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(self.base), "MARK": "kept"}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=env, cwd=self.base, **(pipes | options))

    def run(self, steps: str = READY, **options) -> tuple[int, str, str]:
        """The exit code of the foreground and what it wrote; ends when the daemon, too, has let go of the pipes."""
        with self.popen(steps, **options) as process:
            out, err = process.communicate(timeout=30)
        if (self.base / "report").exists():
            self._seen.add(self.report()["pid"])
        return process.returncode, out or "", err or ""

    def report(self) -> dict:
        return json.loads((self.base / "report").read_text())

    def wait_for_report(self) -> dict:
        wait_for((self.base / "report").exists, what="the daemon's report")
        self._seen.add(self.report()["pid"])
        return self.report()

    def stop(self, number: int = signal.SIGTERM) -> None:
        pid = self.report()["pid"]
        os.kill(pid, number)
        wait_for(lambda: not alive(pid), what="the end of the daemon")

    def lock_is_free(self) -> bool:
        with (self.base / "state.1.lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def clean(self) -> None:
        for pid in self._seen:
            if alive(pid) and str(self.base).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                wait_for(lambda pid=pid: not alive(pid), what="the end of a daemon")


def alive(pid: int) -> bool:
    """Not for a zombie: what adopts orphans here may be slow to bury them."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@pytest.fixture
def stage(tmp_path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.clean()


# --- a start that goes well ----------------------------------------------------------------------------------


@pytest.mark.every_python
def test_a_daemon(stage):
    assert stage.run() == (0, "", "")
    daemon = stage.report()
    pid = daemon["pid"]
    assert alive(pid)
    assert daemon["ppid"] != os.getpid()
    assert daemon["sid"] not in (pid, os.getsid(0))  # no session leader: it can never get a terminal
    assert daemon["terminal"] == 0
    assert daemon["cwd"] == "/"
    assert daemon["core"] == [0, 0]
    assert stage.pidfile.read_text() == f"{pid}\n"
    stage.stop()
    assert not stage.pidfile.exists()
    assert stage.lock_is_free()


def test_nothing_is_open_but_dev_null_and_what_was_preserved(stage):
    assert stage.run()[0] == 0
    daemon = stage.report()
    fds = daemon["fds"]
    assert {fds.pop(number) for number in "012"} == {"/dev/null"}
    (pipe,) = [number for number, file in fds.items() if file.startswith("pipe:")]  # ready() has yet to close it
    del fds[pipe]
    assert list(fds.values()) == [str(stage.base / "state.1.lock")]
    assert daemon["streams"] == [0, 1, 2]
    assert daemon["inheritable"] == [True, True, True, False]
    open_now = Path(f"/proc/{daemon['pid']}/fd")
    expected = {"/dev/null", str(stage.base / "state.1.lock")}
    wait_for(lambda: {os.readlink(fd) for fd in open_now.iterdir()} == expected, what="the end of the pipe")


def test_the_lock_survives_and_names_the_daemon(stage):
    assert stage.run()[0] == 0
    with pytest.raises(PairingLocked) as caught, pair_lock(str(stage.base / "state"), 1):
        raise AssertionError("two hold the lock")
    assert caught.value.pid == stage.report()["pid"]


def test_environment_user_and_groups_stay(stage):
    groups = [0, 7, 4711] if os.getuid() == 0 else os.getgroups()
    assert stage.run(before=f"os.setgroups({groups})" if os.getuid() == 0 else "")[0] == 0
    daemon = stage.report()
    assert daemon["env"]["MARK"] == "kept"
    assert {name: daemon["env"].get(name) for name in ("HOME", "PATH")} == {
        name: os.environ.get(name) for name in ("HOME", "PATH")
    }
    assert daemon["ids"] == [list(os.getresuid()), list(os.getresgid())]
    assert sorted(daemon["groups"]) == sorted(groups)


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o027, 0o640), (0o000, 0o666)])
def test_the_umask(stage, umask, mode):
    assert stage.run(umask=umask, preexec_fn=lambda: os.umask(0o022))[0] == 0
    assert stage.report()["umask"] == umask
    assert stat.S_IMODE((stage.base / "made").stat().st_mode) == mode
    assert stat.S_IMODE(stage.pidfile.stat().st_mode) == 0o644 & ~umask


def test_a_blocked_signal_does_not_make_it_deaf(stage):
    assert stage.run(before="signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])")[0] == 0
    assert stage.report()["mask"] == []
    stage.stop()


def test_a_signal_before_it_is_ready_is_handled(stage):
    steps = "os.kill(os.getpid(), signal.SIGTERM); readiness.ready()"
    assert stage.run(steps) == (0, "", "")
    wait_for(lambda: not alive(stage.report()["pid"]), what="the end of the daemon")
    assert not stage.pidfile.exists()


def test_the_foreground_waits_until_it_is_ready(stage):
    gate = stage.base / "gate"
    os.mkfifo(gate)
    steps = f"open({str(gate)!r}).read(); readiness.ready()"
    with stage.popen(steps) as process:
        stage.wait_for_report()
        assert process.poll() is None
        gate.write_text("go")
        assert process.wait(30) == 0
    assert alive(stage.report()["pid"])


def test_what_was_not_flushed_is_written_once(stage):
    code, out, err = stage.run(before="sys.stdout.write('out'); sys.stderr.write('err')")
    assert (code, out, err) == (0, "out", "err")


CLOSED = {
    "stdin": "<&-",
    "stdout": ">&-",
    "stderr": "2>&-",
    "stdin and stderr": "<&- 2>&-",
    "all": "<&- >&- 2>&-",
}


@pytest.mark.every_python
@pytest.mark.parametrize("shell", CLOSED.values(), ids=CLOSED)
def test_closed_standard_streams(stage, shell):
    assert stage.run(shell=shell) == (0, "", "")
    daemon = stage.report()
    assert alive(daemon["pid"])
    assert [daemon["fds"][number] for number in "012"] == ["/dev/null"] * 3
    assert not stage.lock_is_free()


def test_a_pipe_does_not_get_the_number_of_a_closed_stream():
    code = (
        "import sys; from pushpull.daemonize import start_daemon;"
        " sys.exit(start_daemon(lambda readiness: readiness.ready() or 0))"
    )
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-W", "error", "-c", code]
    assert subprocess.run(command, cwd=ROOT, check=False, timeout=30).returncode == 0


def test_replaced_standard_streams(stage):
    assert stage.run(before="import io; sys.stdin, sys.stdout, sys.stderr = io.StringIO(), None, io.StringIO()")[0] == 0
    assert alive(stage.report()["pid"])
    assert stage.report()["streams"] == [0, 1, 2]


def test_a_failure_without_standard_error(stage):
    assert stage.run("raise errors.Refused('no')", shell="2>&-") == (65, "", "")


# --- a start that fails --------------------------------------------------------------------------------------

FAILURES = {
    "refused login": (
        "raise errors.LoginRefused('login as alice refused', remedy='correct the password')",
        77,
        "pushpull: login as alice refused\n    correct the password\n",
    ),
    "several lines": (
        "raise errors.ConfigError('/c', ['line 1: one', 'line 2: two'])",
        78,
        "pushpull: /c: line 1: one\n/c: line 2: two\n",
    ),
    "foreign text": (
        r"raise errors.Refused('caf\xe9 \x1b[2J \udcff \x00.')",
        65,
        "pushpull: café \\x1b[2J \\udcff .\n",
    ),
    "told": ("readiness.failed(69, 'server unsupported')", 69, "pushpull: server unsupported\n"),
    "told twice": ("readiness.failed(69, 'a'); readiness.failed(78, 'b'); readiness.ready()", 69, "pushpull: a\n"),
    "told as none": ("readiness.failed(0, 'odd')", 70, "pushpull: odd\n"),
    "told as too much": ("readiness.failed(256, 'odd')", 70, "pushpull: odd\n"),
    "interrupted": ("raise KeyboardInterrupt", 75, "pushpull: interrupted\n"),
    "ended": ("signals.put(signal.SIGTERM)", 75, "pushpull: the daemon ended before it was ready\n"),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", 70, DIED),
    "gone": ("os._exit(0)", 70, DIED),
    "gone in the middle of its words": (
        "os.write(readiness._descriptor, b'77\\nlogin ref'); os._exit(0)",
        70,
        DIED,
    ),
}


@pytest.mark.parametrize(("steps", "code", "err"), FAILURES.values(), ids=FAILURES)
def test_a_failure_is_told_in_front(stage, steps, code, err):
    stop = "" if code in (70, 75, 77, 78, 65) else "; signals.put(signal.SIGTERM)"
    assert stage.run(f"{steps}{stop}") == (code, "", err)


def test_a_failed_start_leaves_nothing(stage):
    assert stage.run("raise errors.Refused('no')")[0] == 65
    wait_for(lambda: not alive(stage.report()["pid"]), what="the end of the daemon")
    assert not stage.pidfile.exists()
    assert stage.lock_is_free()


def test_a_bug_shows_its_traceback(stage):
    code, _, err = stage.run("signals.nonsense")
    assert code == 70
    assert err.startswith("pushpull: this is a bug in pushpull")
    assert "AttributeError" in err
    assert not stage.pidfile.exists()


def test_long_words_arrive_whole(stage):
    code, _, err = stage.run("raise errors.Refused('x' * 1_000_000)")  # many times what a pipe holds
    assert (code, len(err)) == (65, len("pushpull: \n") + 1_000_000)


def test_a_pid_file_that_cannot_be_written(stage):
    stage.pidfile.mkdir()
    code, _, err = stage.run()
    assert code == 74
    assert err.startswith(f"pushpull: the pid file {stage.pidfile} cannot be written: Is a directory\n    ")
    assert not (stage.base / "report").exists()
    assert stage.lock_is_free()
    assert os.listdir(stage.base / "pid") == []


FORKS = """
fork, left = os.fork, [{0}]

def failing():
    left[0] -= 1
    if left[0] < 0:
        raise BlockingIOError(11, "busy")
    return fork()

os.fork = failing
"""


@pytest.mark.parametrize("forks", [1, 2])
def test_no_process_left_for_the_daemon(stage, forks):
    code, _, err = stage.run(before=FORKS.format(forks))
    assert code == 75
    assert err.startswith("pushpull: the daemon cannot be detached: ")
    assert "busy" in err
    assert stage.lock_is_free()


def test_a_start_that_was_given_up_leaves_no_daemon(stage):
    gate = stage.base / "gate"
    os.mkfifo(gate)
    with stage.popen(f"open({str(gate)!r}).read(); readiness.ready()") as process:
        pid = stage.wait_for_report()["pid"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM
        assert alive(pid)
        gate.write_text("go")
    wait_for(lambda: not alive(pid), what="the end of the daemon")
    assert not stage.pidfile.exists()
    assert stage.lock_is_free()


def test_an_exception_out_of_a_signal_handler_ends_the_wait(stage):
    handler = "def end(*_):\n    raise errors.Interrupted('enough')\nsignal.signal(signal.SIGINT, end)"
    with stage.popen("import time\nwhile True: time.sleep(60)", before=handler) as process:
        pid = stage.wait_for_report()["pid"]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert "Interrupted: enough" in err
    os.kill(pid, signal.SIGKILL)


# --- starts and ends, one after another ----------------------------------------------------------------------


def test_two_starts(stage):
    assert stage.run()[0] == 0
    first = stage.report()
    assert stage.run()[0] == 75
    assert not (stage.base / "report").exists()
    assert stage.pidfile.read_text() == f"{first['pid']}\n"
    assert alive(first["pid"])
    os.kill(first["pid"], signal.SIGTERM)
    wait_for(lambda: not alive(first["pid"]), what="the end of the daemon")
    assert stage.run()[0] == 0


def test_many_starts_at_once_give_one_daemon(stage):
    started = [stage.popen() for _ in range(4)]
    codes = sorted(process.wait(60) for process in started)
    for process in started:
        process.communicate()
    assert codes == [0, 75, 75, 75]
    stage.wait_for_report()
    assert stage.pidfile.read_text() == f"{stage.report()['pid']}\n"


def test_a_pid_file_that_a_kill_left_is_no_obstacle(stage):
    assert stage.run()[0] == 0
    killed = stage.report()["pid"]
    stage.stop(signal.SIGKILL)
    assert stage.pidfile.read_text() == f"{killed}\n"
    assert stage.run()[0] == 0
    assert stage.pidfile.read_text() == f"{stage.report()['pid']}\n"


def test_another_ones_pid_file_is_left_alone(stage):
    assert stage.run()[0] == 0
    stage.pidfile.write_text("1\n")
    stage.stop()
    assert stage.pidfile.read_text() == "1\n"


def test_a_removed_pid_file_is_no_obstacle(stage):
    assert stage.run()[0] == 0
    stage.pidfile.unlink()
    stage.stop()
    assert os.path.lexists(stage.pidfile) is False


# --- the pid file, alone -------------------------------------------------------------------------------------

OBSTACLES: dict[str, Callable[[Path], object]] = {
    "a stale one": lambda path: path.write_text("1\n"),
    "nonsense": lambda path: path.write_bytes(b"\xff" * 1000),
    "a link": lambda path: path.symlink_to(path.with_name("victim")),
    "a fifo": os.mkfifo,
    "what a killed process left beside it": lambda path: Path(f"{path}.{os.getpid()}").write_text("half"),
}


@pytest.mark.parametrize("obstacle", OBSTACLES.values(), ids=OBSTACLES)
def test_whatever_was_there_is_replaced(tmp_path, obstacle):
    path, victim = tmp_path / "pid", tmp_path / "victim"
    victim.write_text("precious")
    obstacle(path)
    with PidFile(str(path)):
        assert stat.S_ISREG(path.lstat().st_mode)
        assert path.read_text() == f"{os.getpid()}\n"
    assert sorted(tmp_path.iterdir()) == [victim]
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("replace", OBSTACLES.values(), ids=OBSTACLES)
def test_what_replaced_it_stays(tmp_path, replace):
    path = tmp_path / "pid"
    with PidFile(str(path)):
        path.unlink()
        replace(path)
        before = sorted(tmp_path.iterdir())
    assert sorted(tmp_path.iterdir()) == before


def test_a_longer_number_that_begins_like_ours_is_not_ours(tmp_path):
    path = tmp_path / "pid"
    with PidFile(str(path)):
        path.write_text(f"{os.getpid()}0\n")
    assert path.exists()


def test_a_child_does_not_remove_it(tmp_path):
    path = tmp_path / "pid"
    with PidFile(str(path)) as file:
        child = os.fork()
        if child == 0:
            try:
                file.__exit__()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert path.exists()


def test_a_relative_path_is_one_of_the_foreground(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = PidFile("pid")
    monkeypatch.chdir("/")
    with file:
        assert (tmp_path / "pid").exists()
    assert not (tmp_path / "pid").exists()


def test_a_failed_rename_leaves_nothing(tmp_path):
    (tmp_path / "pid").mkdir()
    with pytest.raises(LocalDiskError, match="pid file"), PidFile(str(tmp_path / "pid")):
        raise AssertionError("no error")
    assert os.listdir(tmp_path) == ["pid"]


def test_a_missing_directory(tmp_path):
    path = tmp_path / "missing" / "pid"
    with pytest.raises(LocalDiskError, match="No such file") as caught, PidFile(str(path)):
        raise AssertionError("no error")
    assert "[daemon] pidfile" in caught.value.remedy


# --- what is refused in front --------------------------------------------------------------------------------


def never(_readiness: Readiness) -> int:
    os._exit(99)


def test_threads_do_not_survive_a_fork():
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="threads"):
            start_daemon(never)
    finally:
        end.set()
        thread.join()


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_a_lock_in_the_place_of_a_standard_stream_would_be_lost(descriptor):
    with pytest.raises(ValueError, match="0 to 2"):
        start_daemon(never, preserve=[descriptor])


@pytest.mark.parametrize("name", ["fork", "pipe"])
def test_nothing_left_to_start_with(monkeypatch, name):
    def failing():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(daemonize.os, name, failing)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(Temporary, match="Resource temporarily unavailable"):
        start_daemon(never)
    assert os.listdir("/proc/self/fd") == before


def test_in_the_foreground_nobody_waits_for_the_verdict():
    readiness = Readiness()
    readiness.ready()
    readiness.failed(77, "x")


def test_words_for_another_place_than_standard_error(stage):
    tell = (
        "real = start_daemon\n"
        "def start_daemon(*a, **k): return real(*a, **k, tell=lambda text: print('told', repr(text), flush=True))"
    )
    assert stage.run("raise errors.Refused('no', remedy='yes')", before=tell) == (65, "told 'no\\n    yes'\n", "")
