# SPDX-License-Identifier: MIT
"""The house, as DESIGN draws it: imports go downwards only, foreign libraries stay in their one module."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "pushpull"

LEVELS = (
    "errors levels values batched model flags",
    "ports filenames message wire wire_fetch wording dates shellwords plan trust config config_keys options",
    "private store schema soundness observed observed_local candidates outcomes"
    " durable folder own_changes maildir marker staging dial deflate framing sasl aside tls refusal trace transport"
    " helpers login remote_append remote_fetch remote connect commands"
    " retry locks accounts problems",
    "engine observe_remote observe_local adopt apply download upload second_look triggers",
    "watch_local watch_link watch_remote watch_status",
    "cycles events hooks prepare service live late harness worker daemonize notify stopping output progress system_log",
    "cli",
)
ANYWHERE = {"__init__"}  # holds the version, imports nothing
ENTRY = {"__main__"}  # imports cli, and nothing imports it

# Who may import whom on its own level. A module of another level needs no entry.
SIBLINGS = {
    "model": "flags values",
    "filenames": "ports",
    "message": "ports",
    "wire": "ports",
    "wire_fetch": "ports wire",
    "wording": "ports",
    "plan": "ports",
    "config": "config_keys shellwords wording",
    "config_keys": "shellwords",
    "store": "private schema soundness",
    "observed": "store schema",
    "observed_local": "observed schema store",
    "candidates": "observed store schema",
    "outcomes": "candidates observed_local store schema",
    "folder": "durable",
    "staging": "durable folder",
    "own_changes": "aside folder",
    "maildir": "durable folder marker own_changes staging",
    "trace": "sasl",
    "framing": "deflate dial",
    "transport": "deflate dial framing sasl trace",
    "helpers": "dial framing transport",
    "login": "framing helpers sasl transport",
    "tls": "dial",
    "refusal": "framing",
    "remote_fetch": "framing refusal transport",
    "remote_append": "framing refusal transport",
    "remote": "framing helpers refusal remote_append remote_fetch transport",
    "connect": "dial framing login refusal remote sasl tls transport",
    "engine": "observe_remote observe_local adopt apply download upload second_look triggers",
    "apply": "adopt download upload",
    "download": "adopt",
    "upload": "adopt download",
    "watch_remote": "watch_link watch_status",
    "watch_status": "watch_link",
    "accounts": "aside commands connect dial remote transport",
    "problems": "outcomes store",
    "cycles": "prepare",
    "service": "cycles output prepare stopping",
    "worker": "cycles hooks output prepare",
    "harness": "daemonize events hooks notify output prepare worker",
    "live": "daemonize harness late notify output prepare service",
    "output": "progress system_log",
}

NETWORK = {"dial", "deflate", "framing", "tls", "transport", "connect"}
CONFINED = {
    "imap_tools": {"helpers"},
    "imaplib": set(),
    "ssl": NETWORK,
    "socket": NETWORK | {"notify", "system_log"},
    "inotify_simple": {"own_changes", "watch_local"},
    "tenacity": {"retry"},
    "daemon": {"daemonize"},
    "lockfile": {"daemonize"},
    "sqlite3": {"store", "schema"},
    "email": set(),  # messages are opaque
}

# What was only observed is observed again after a power cut; what was done is not.
NOT_FLUSHED = {"observation", "note_pair"}
OBSERVERS = {"observe_local", "observe_remote", "observed", "observed_local", "store"}

# No I/O, no clock, no chance on the two lowest levels. (`datetime` reads the clock only through the calls below.)
PURE_LEVELS = 2
_IMPURE = """
    asyncio ctypes fcntl glob io logging mmap multiprocessing os pathlib pwd random secrets select selectors shutil
    signal socket sqlite3 ssl subprocess sys tempfile threading time uuid
"""
IMPURE = set(_IMPURE.split())
CLOCK_CALLS = {"now", "utcnow", "today", "open", "input", "print"}

MAX_FUNCTION_LINES = 60
MAX_MODULE_LINES = 450

LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names.split()}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))
TABLED = [name for name in MODULES if name in LEVEL_OF]


@cache
def tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def imports(code: ast.AST) -> Iterator[tuple[str, str]]:
    """Each import, wherever it stands (also under TYPE_CHECKING), as (top-level package, module of ours or "")."""
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top, _, rest = alias.name.partition(".")
                yield top, rest.partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            top, _, rest = (node.module or "").partition(".")
            top, rest = ("pushpull", node.module or "") if node.level else (top, rest)
            for alias in node.names:
                yield top, rest.partition(".")[0] or alias.name


def edge_allowed(module: str, other: str) -> bool:
    if other not in LEVEL_OF:
        return other.startswith("__")  # __version__
    if LEVEL_OF[other] == LEVEL_OF[module]:
        return other in SIBLINGS.get(module, "").split()
    return LEVEL_OF[other] < LEVEL_OF[module]


def forbidden_edges(module: str, code: ast.AST) -> set[str]:
    ours = {other for top, other in imports(code) if top == "pushpull"}
    return {f"{module} -> {other}" for other in ours if not edge_allowed(module, other)}


def strays(module: str, code: ast.AST) -> set[str]:
    """Foreign packages that this module may not import: confined ones, and third-party ones that nobody named."""
    tops = {top for top, _ in imports(code)} - {"pushpull", "_typeshed"}
    confined = {top for top in tops & CONFINED.keys() if module not in CONFINED[top]}
    return confined | {top for top in tops if top not in CONFINED and top not in sys.stdlib_module_names}


def impurities(code: ast.AST) -> set[str]:
    called = {node.func for node in ast.walk(code) if isinstance(node, ast.Call)}
    names = {getattr(func, "attr", getattr(func, "id", "")) for func in called}
    return ({top for top, _ in imports(code)} & IMPURE) | (names & CLOCK_CALLS)


def long_functions(code: ast.AST) -> dict[str, int]:
    functions = [node for node in ast.walk(code) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    sizes = {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions}
    return {name: size for name, size in sizes.items() if size > MAX_FUNCTION_LINES}


def test_every_module_has_a_level() -> None:
    assert set(MODULES) - LEVEL_OF.keys() - ANYWHERE - ENTRY == set()
    assert not [path for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"], (
        "the package is flat"
    )


def test_no_module_has_two_levels_and_siblings_are_siblings() -> None:
    named = " ".join(LEVELS).split()
    assert len(named) == len(set(named))
    for module, others in SIBLINGS.items():
        assert {LEVEL_OF[other] for other in others.split()} == {LEVEL_OF[module]}, module


@pytest.mark.parametrize("module", TABLED)
def test_imports_go_downwards(module: str) -> None:
    assert forbidden_edges(module, tree(module)) == set()


def test_entry_points_import_little() -> None:
    assert set(imports(tree("__main__"))) <= {("sys", ""), ("pushpull", "cli")}
    assert set(imports(tree("__init__"))) == set()


def test_no_cycle_among_siblings() -> None:
    seen: set[str] = set()
    waiting = {module: {other for _, other in imports(tree(module))} & set(TABLED) for module in TABLED}
    while waiting:
        free = {module for module, others in waiting.items() if others <= seen}
        assert free, f"these import each other: {sorted(waiting)}"
        seen |= free
        waiting = {module: others for module, others in waiting.items() if module not in free}


@pytest.mark.parametrize("module", MODULES)
def test_foreign_libraries_are_confined(module: str) -> None:
    assert strays(module, tree(module)) == set()


@pytest.mark.parametrize("module", [name for name in TABLED if LEVEL_OF[name] < PURE_LEVELS])
def test_low_levels_do_no_io_and_read_no_clock(module: str) -> None:
    assert impurities(tree(module)) == set()


@pytest.mark.parametrize("module", [name for name in MODULES if name not in OBSERVERS])
def test_only_observations_wait_for_their_flush(module: str) -> None:
    assert NOT_FLUSHED.isdisjoint(node.attr for node in ast.walk(tree(module)) if isinstance(node, ast.Attribute))


@pytest.mark.parametrize("module", MODULES)
def test_sizes(module: str) -> None:
    assert long_functions(tree(module)) == {}
    assert len((PACKAGE / f"{module}.py").read_text(encoding="utf-8").splitlines()) <= MAX_MODULE_LINES


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("plan", "from pushpull.store import Store"),
        ("plan", "from pushpull import store"),
        ("plan", "import pushpull.store"),
        ("plan", "from . import store"),
        ("plan", "from .store import Store"),
        ("plan", "def late():\n    import pushpull.cli"),
        ("upload", "from pushpull.engine import Engine"),
        ("engine", "from pushpull.unheard_of import x"),
    ],
)
def test_the_table_catches_a_forbidden_edge(module: str, code: str) -> None:
    assert len(forbidden_edges(module, ast.parse(code))) == 1


def test_the_table_lets_the_right_edges_pass() -> None:
    code = (
        "from pushpull import __version__, store\nimport pushpull.plan\nfrom pushpull.upload import send\nimport json"
    )
    assert forbidden_edges("engine", ast.parse(code)) == set()


def test_strays_and_impurities_are_caught() -> None:
    assert strays("engine", ast.parse("import sqlite3, json\nfrom email.header import Header\nimport numpy.fft")) == {
        "sqlite3",
        "email",
        "numpy",
    }
    assert strays("store", ast.parse("from sqlite3 import connect")) == set()
    assert impurities(ast.parse("from os import path\nimport re\nd = datetime.now()")) == {"os", "now"}
    assert long_functions(ast.parse("def f():\n" + "    x = 1\n" * 60)) == {"f": 61}
