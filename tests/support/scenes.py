# SPDX-License-Identifier: MIT
"""What a run is to do when something befalls it, and what both sides hold when it was done.

A `Stage` makes a scene ready once, and before each attempt it puts back files, state and mailbox as they were.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.run import Setup


@dataclass(frozen=True)
class Scene:
    """`prepare` makes work; a run with `args` does it, and leaves `remote` and `local`."""

    name: str
    prepare: Callable[[Setup], None]
    remote: str
    local: str
    args: tuple[str, ...] = ()
    strategy: str = "qresync"
    settings: dict[str, dict[str, str]] = field(default_factory=dict)


def _downloads(setup: Setup) -> None:
    for name, letters in (("A", "S"), ("B", ""), ("C", "FS"), ("D", "T")):
        setup.put_remote(name, letters)


def _uploads(setup: Setup) -> None:
    setup.put_remote("A", "S")
    setup.sync()
    for name, letters in (("O", "S"), ("P", ""), ("Q", "FR")):
        setup.put_local(name, letters)


def _flags(setup: Setup) -> None:
    setup.put_remotes(["A", "B", "C", "D", "E"], "S")
    setup.sync()
    setup.flag_remote("A", "+R")
    setup.flag_local("A", "+P")
    setup.flag_remote("B", "-S")
    setup.flag_local("B", "+R")
    for flag in (setup.flag_remote, setup.flag_local):
        flag("C", "+F")
    setup.flag_local("D", "-S")


def _deletions(setup: Setup) -> None:
    setup.put_remotes(["A", "B", "C", "D", "U", "V"], "S")
    setup.sync()
    setup.remove_local("U")
    setup.expunge_remote("V")
    setup.sync()
    # A removal, an expunge, a mark each way; and two that were deleted come back.
    setup.remove_local("A")
    setup.expunge_remote("B")
    setup.flag_local("C", "+T")
    setup.flag_remote("D", "+T")
    setup.flag_remote("U", "-T")
    setup.flag_local("V", "-T")


def _adoption(setup: Setup) -> None:
    setup.put_remotes(["A", "B", "C", "E"], "S")
    for name, letters in (("A", "S"), ("B", "F"), ("C", ""), ("O", "")):
        setup.put_local(name, letters)
    # Identical copies, which their headers cannot tell apart.
    for letters in ("F", "R"):
        setup.put_remote("D", letters)
        setup.put_local("D", letters)


def _renumbered(setup: Setup) -> None:
    setup.put_remotes(["A", "B", "C", "D"], "S")
    setup.sync()
    setup.flag_local("A", "+F")
    setup.remove_local("B")
    setup.put_local("O")
    setup.put_remote("N")
    setup.server.doveadm("mailbox", "update", "-u", setup.user, "--uid-validity", "777", setup.mailbox())


SCENES = (
    Scene("downloads", _downloads, "A:S B C:FS D:T", "A:S B C:FS D:T", strategy="condstore"),
    Scene(
        "buckets",
        _downloads,
        "A:S B C:FS D:T",
        "A:S B C:FS D:T",
        strategy="plain",
        settings={"local": {"buckets": "yes"}},
    ),
    Scene("uploads", _uploads, "A:S O:S P Q:FR", "A:S O:S P Q:FR"),
    Scene("flags", _flags, "A:PRS B:R C:FS D E:S", "A:PRS B:R C:FS D E:S", strategy="condstore"),
    Scene("deletions", _deletions, "A:ST C:ST D:ST U:S V:S", "B:ST C:ST D:ST U:S V:S", strategy="plain"),
    Scene("adoption", _adoption, "A:S B:FS C:S D:F D:R E:S O", "A:S B:FS C:S D:F D:R E:S O", args=("--yes",)),
    Scene("renumbered", _renumbered, "A:FS B:ST C:S D:S N O", "A:FS C:S D:S N O"),
)


class Stage:
    """One scene on one account; `reset` brings back how it was after `prepare`."""

    def __init__(self, setup: Setup, scene: Scene) -> None:
        self.setup, self.scene = setup, scene
        scene.prepare(setup)
        setup.forget_sent()
        self._store = setup.base / "stage"
        self._store.mkdir()
        home = setup.server.home(setup.user)
        self._kept = {Path("home"): home, Path("mail"): setup.base / "mail"}
        self._kept |= {Path(path.name): path for path in setup.base.glob("state.db*")}
        for name, path in self._kept.items():
            if path.exists():
                _copy(path, self._store / name)

    def reset(self) -> Setup:
        """The setup, with everything as it was prepared."""
        setup = self.setup
        setup.forget_sent()
        for path in setup.base.glob("state.db*"):
            path.unlink()
        for name, path in self._kept.items():
            if path.is_dir():
                shutil.rmtree(path)
            if (self._store / name).exists():
                _copy(self._store / name, path)
        return setup

    def assert_finished(self, *args: str) -> None:
        """One run brings the work to its end, a second one changes nothing."""
        setup = self.setup
        setup.sync(*args)
        setup.assert_state(remote=self.scene.remote, local=self.scene.local)
        setup.sync_again_changes_nothing()


def _copy(source: Path, target: Path) -> None:
    """With owners and times, which belong to the scene."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
