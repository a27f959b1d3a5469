# SPDX-License-Identifier: MIT
"""Two fences that another one hides from view: servers that do not keep what they acknowledge, and clocks too coarse to
show a change."""

from __future__ import annotations

from tests.support.patched import patched
from tests.support.proxy import Proxy
from tests.support.run import Setup


def stores(proxy: Proxy) -> int:
    return sum(command.startswith("UID STORE") for command in proxy.seen)


def test_flags_that_the_server_acknowledges_and_does_not_keep(behind: Setup, proxy: Proxy) -> None:
    """They stay in the file, are asked for once, and nothing else that happens to the message is held up by them."""
    setup = behind
    setup.put_remotes(["A", "B"], "S")
    setup.sync()
    proxy.on_command(r"UID STORE .*\\Flagged", answer=b"OK Store completed")
    setup.flag_local("A", "+F")
    setup.flag_local("B", "+R")
    setup.sync()
    setup.assert_state(remote="A:S B:RS", local="A:FS B:RS")
    asked = stores(proxy)
    setup.sync_again_changes_nothing()
    assert stores(proxy) == asked
    setup.flag_remote("A", "+R")
    setup.flag_remote("A", "-S")
    setup.sync()
    setup.assert_state(remote="A:R B:RS", local="A:FR B:RS")
    setup.remove_local("A")
    setup.sync()
    setup.assert_state(remote="A:RT B:RS", local="B:RS")


def test_flags_of_an_upload_that_the_server_does_not_keep(behind: Setup, proxy: Proxy) -> None:
    setup = behind
    proxy.on_answer("APPENDUID", before=lambda: setup.flag_remote("A", "-FS"))
    proxy.on_command(r"UID STORE .*\\Flagged", answer=b"OK Store completed")
    setup.put_local("A", "FS")
    setup.sync("--yes")
    setup.assert_state(remote="A", local="A:FS")
    setup.sync_again_changes_nothing()


_COARSE = """
from pushpull import folder

exact = folder.Folder._stamps

def coarse(self, directories):
    return {name: stamp and (*stamp[:2], stamp[2] // 10**9 * 10**9) for name, stamp in exact(self, directories).items()}

folder.Folder._stamps = coarse
"""


def test_changes_that_no_time_of_a_directory_shows(setup: Setup) -> None:
    """A clock so coarse (a second) that a change after our own renames leaves every time as it was."""
    setup.program = patched(_COARSE)
    setup.put_remotes(["A", "B", "C"], "S")
    setup.sync()
    setup.flag_remote("A", "+F")  # renames a file
    setup.sync()
    setup.flag_local("A", "+R")
    setup.flag_local("B", "-S")
    setup.remove_local("C")
    setup.put_local("D")
    setup.sync()
    setup.assert_state(remote="A:FRS B C:ST D", local="A:FRS B D")
    setup.sync_again_changes_nothing()
