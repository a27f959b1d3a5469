# SPDX-License-Identifier: MIT
"""Other mail clients and the user at work on both sides, and the mishaps; each tells the oracle what it did.

Every action takes small numbers and chooses among what is there, so any sequence of numbers is a story. An action that
finds nothing to act on does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pushpull.errors import ConnectionLost, LocalDiskError, ServerBusy
from pushpull.flags import ALL, DELETED, Flags, to_letters
from tests.support.messages import crlf, mail
from tests.sync.oracle import Oracle
from tests.sync.world import Ran, World
from tests.twins import MemoryFolder, Mute, local_file

# Shared Message-IDs with other bodies, none at all, drafts that no relay has touched, equal sizes.
BODIES = (
    *(mail(f"plain{number}") for number in range(4)),
    *(mail(f"twin{number}", message_id="<shared@example.org>") for number in range(3)),
    *(mail(f"draft{number}", received=False) for number in range(2)),
    *(mail(f"draft{number}", message_id="<shared@example.org>", received=False) for number in range(2)),
    *(mail(f"bare{number}", message_id=None) for number in range(3)),
    mail("bare", message_id=None, received=False),
    mail("same", body="one", received=False),
    mail("same", body="two", received=False),
    b"",
)
FLAGS = (1, 2, 4, 8, 16, DELETED)
STRATEGIES = ("plain", "condstore", "qresync")


class Story:
    """One world and all that happens in it."""

    def __init__(self, directory: Path) -> None:
        self.world = World(directory)
        self.oracle = Oracle(self.world)
        self._names = 0
        self._folder_copy: MemoryFolder | None = None
        self._state_copied = False

    def serve(
        self,
        strategy: str = "plain",
        *,
        uidplus: bool = True,
        multiappend: bool = True,
        unasked: int = 1 << 18,
        tells_uidnext: bool = True,
        forgetful: bool = False,
        mask: Flags = ALL,
    ) -> None:
        """What the server is capable of, from now on."""
        server = self.world.server
        server.condstore, server.qresync = strategy != "plain", strategy == "qresync"
        server.multiappend, server.unasked = multiappend, unasked
        server.uidplus, server.tells_uidnext, server.forgetful, server.mask = uidplus, tells_uidnext, forgetful, mask

    # --- other clients -------------------------------------------------------------------------------------------

    def client_adds(self, body: int, flags: Flags = 0) -> None:
        data = BODIES[body % len(BODIES)]
        self.oracle.born_remotely(data, self.world.server.add(crlf(data), flags))

    def client_flags(self, which: int, flag: Flags, *, on: bool = True) -> None:
        uids = sorted(self.world.server.messages)
        if uids:
            uid = uids[which % len(uids)]
            self.oracle.touch_remote(uid, flag)
            self.world.server.change(uid, *((flag, 0) if on else (0, flag)))

    def client_expunges(self, which: int) -> None:
        uids = sorted(self.world.server.messages)
        if uids:
            uid = uids[which % len(uids)]
            self.oracle.touch_remote(uid, DELETED)
            self.world.server.expunge(uid)

    # --- the user ------------------------------------------------------------------------------------------------

    def _file(self, which: int) -> bytes | None:
        paths = sorted(path for path in self.world.folder.files if not path.startswith(b"tmp/"))
        return paths[which % len(paths)] if paths else None

    def user_adds(self, body: int, flags: Flags = 0) -> None:
        self._names += 1
        name, data = b"user%d" % self._names, BODIES[body % len(BODIES)]
        path = b"cur/" + name + b":2," + to_letters(flags).encode() if flags else b"new/" + name
        self.world.folder.put(path, data)
        self.oracle.born_locally(data, name, flags)

    def user_flags(self, which: int, flag: Flags, *, on: bool = True) -> None:
        path = self._file(which)
        if path is not None:
            file = local_file(path)
            flags = file.flags | flag if on else file.flags & ~flag
            self.oracle.touch_local(file.uniquename, flag, self.world.folder.files[path].data)
            self.world.folder.rename(path, b"cur/" + file.uniquename + b":2," + to_letters(flags).encode())

    def user_reads(self, which: int) -> None:
        """From new/ to cur/, no flag."""
        path = self._file(which)
        if path is not None and path.startswith(b"new/"):
            self.world.folder.rename(path, b"cur/" + local_file(path).uniquename + b":2,")

    def user_unlinks(self, which: int) -> None:
        path = self._file(which)
        if path is not None:
            self.oracle.touch_local(local_file(path).uniquename, DELETED, self.world.folder.files[path].data)
            self.world.folder.remove(path)

    def user_renames(self, which: int) -> None:
        """Another uniquename, the same content."""
        path = self._file(which)
        if path is not None:
            self._names += 1
            file = local_file(path)
            name = b"user%d" % self._names
            self.world.folder.rename(path, file.directory.encode() + b"/" + name + file.info)
            tale = self.oracle.of_name(file.uniquename)
            if tale is not None:
                tale.name, tale.renamed = name, True

    # --- mishaps -------------------------------------------------------------------------------------------------

    def renumber(self, *, lose_flags: bool = False) -> None:
        self.oracle.renumber(self.world.server.renumber(lose_flags=lose_flags), lose_flags=lose_flags)

    def lose_state(self) -> None:
        self.world.lose_state()
        self.oracle.noisy = self.oracle.reset = True

    def copy_state(self) -> None:
        if self.world.state.exists():
            self.world.copy_state("copy")
            self._state_copied = True

    def restore_state(self) -> None:
        if self._state_copied:
            self.world.restore_state("copy")
            self.oracle.noisy = self.oracle.reset = True

    def copy_folder(self) -> None:
        self._folder_copy = self.world.folder.copy()

    def restore_folder(self) -> None:
        """All flags that differ from the copy count as touched, and so do deaths of what was never uploaded."""
        if self._folder_copy is None or self._folder_copy.marker is None:
            return
        before = self.oracle.files()
        self.world.folder.restore(self._folder_copy)
        after = self.oracle.files()
        self.oracle.noisy = self.oracle.reset = True
        for name in before.keys() | after.keys():
            tale = self.oracle.of_name(name)
            if tale is None:
                self._returned(name, after)
            elif name not in after and (tale.new or tale.held):
                tale.local_touched |= DELETED
            elif name not in after:
                tale.name, tale.new = None, True  # only on the server, and so a new copy here may be it
            elif name in before:
                tale.local_touched |= before[name][0] ^ after[name][0]

    def _returned(self, name: bytes, files: dict[bytes, tuple[Flags, object]]) -> None:
        """A file that nobody remembers came back: it may be a copy of any message of its content."""
        if name in files:
            flags, file = files[name]
            self.oracle.born_locally(file.data, name, flags)  # type: ignore[attr-defined]
            for tale in self.oracle.tales:
                if tale.body == file.data:  # type: ignore[attr-defined]
                    tale.renamed, tale.local_touched = True, ALL

    # --- runs ----------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Undisturbed, until nothing is left to do; then everything must be as it ought to."""
        if self.world.is_a_strangers():
            self.readopt()
        expected = self.oracle.expect()
        ran = self.world.settle()
        assert ran.changes == []
        self.oracle.verify(expected)

    def readopt(self) -> None:
        """What the program advises when it refuses a folder; allowed at any time."""
        self.oracle.noisy = self.oracle.reset = True
        ran = self.world.run(readopt=True)
        assert ran.error is None, (ran.error, ran.told)
        assert (ran.tally.local_marked, ran.tally.remote_marked) == (0, 0)

    def sync_with(self, events: dict[int, Callable[[str], None]]) -> Ran:
        """One run during which something happens."""
        self.oracle.noisy = True
        return self.world.run(events)

    def fault(self, kind: str) -> Callable[[str], None]:
        """An event: what fails at a step depends on the step."""

        def happen(step: str) -> None:
            if step.startswith("remote.append"):
                self.oracle.lost_appends += 1
            if kind == "kill":
                self.world.runs[-1].script.kill()
            elif kind == "mute" and step in ("remote.uids", "remote.status"):
                raise Mute
            elif step.startswith("remote."):
                if kind == "busy" and step.endswith(("<", "views", "messages", "headers", "identities")):
                    raise ServerBusy("later", code="UNAVAILABLE")
                raise ConnectionLost("the link is cut")
            elif step.startswith("local.") or step == "commit<":
                raise LocalDiskError("the disk is full")

        return happen
