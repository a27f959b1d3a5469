# SPDX-License-Identifier: MIT
"""Mishaps, and runs in whose middle anything may happen, with what must be true after them."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pushpull.flags import ALL, DELETED, Flags
from pushpull.maildir import Maildir
from pushpull.model import PairKey
from pushpull.store import Store
from pushpull.trust import Trust, judge
from tests.model.edits import Edits
from tests.model.folder import Found
from tests.model.killing import die_at
from tests.model.place import USER
from tests.model.world import KILLED, Happening, Ran, World

RENUMBERINGS = ("validity", "copied", "flagless", "empty")
CUTS = ("close", "reset", "half")
REFUSALS = (b"NO [UNAVAILABLE] later", b"NO [INUSE] by somebody else", b"NO no", b"BAD what")
ROUGH = ("renumber", "restore_folder")
CODES = {"renumber": (78,), "restore_folder": (65, 74), "refuse": (69, 78)}
"""How a run may end but well, or for now."""


@dataclass(frozen=True)
class Event:
    """Happens in the middle of a run, when `line` lines of that side have passed: "up" commands, "down" answers. `kind`
    is one of EDITS or ROUGH, "cut", or of commands "refuse" or "lose_answer"."""

    side: str
    line: int
    kind: str
    which: int = 0
    what: int = 0
    on: bool = True


class Story(Edits):
    """Edits, mishaps, and runs, with what must be true after them."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._folder_copy = world.directory / "folder.copy"

    def disable(self, extensions: str) -> None:
        """Extensions that the program does not use from now on, though the server offers them."""
        self.world.settings.setdefault("imap", {})["disable_extensions"] = extensions

    # --- mishaps -----------------------------------------------------------------------------------------------------

    def renumber(self, how: str) -> None:
        """The UIDs mean nothing any more: another UIDVALIDITY for the same mailbox, one that was made anew and filled
        from a copy, with or without its flags, or one that was made anew and is empty."""
        fresh = {
            "validity": self._change_validity,
            "copied": self._copy_mailbox,
            "flagless": self._copy_mailbox,
            "empty": self._empty_mailbox,
        }[how]()
        server, other = self.world.server, self.world.place.other
        other.reconnect()
        if how == "flagless" and fresh:
            other.strip(server.mailbox)
        if how == "empty":
            for tale in self.oracle.tales:
                if tale.name is None:
                    tale.remote_touched |= DELETED
                elif tale.uid is not None:
                    tale.held = True  # until a copy of it appears on the server
        server.changed()
        self.world.renumbered = True
        self.oracle.renumber(fresh, lose_flags=how == "flagless")

    def _change_validity(self) -> dict[int, int]:
        server, place = self.world.server, self.world.place
        same = {uid: uid for uid in server.messages}
        place.other.leave()
        # Far below those that the server gives to mailboxes that it makes: it would give the next one again.
        place.renumberings += 1
        validity = 1_000_000 + place.renumberings
        place.server.doveadm("mailbox", "update", "-u", USER, "--uid-validity", str(validity), server.mailbox)
        return same

    def _copy_mailbox(self) -> dict[int, int]:
        """In another order."""
        server, other = self.world.server, self.world.place.other
        uids = sorted(server.messages, reverse=True)
        other.leave()
        other.rename(server.mailbox, f"{server.mailbox}-old")
        other.create(server.mailbox)
        for uid in uids:
            other.copy(f"{server.mailbox}-old", str(uid), server.mailbox)
        other.leave()
        other.delete_mailbox(f"{server.mailbox}-old")
        server.changed()
        return dict(zip(uids, sorted(server.messages), strict=True))

    def _empty_mailbox(self) -> dict[int, int]:
        server, other = self.world.server, self.world.place.other
        other.leave()
        other.delete_mailbox(server.mailbox)
        other.create(server.mailbox)
        return {}

    def day_passes(self) -> None:
        self.world.clock.pass_by(86_400.0)

    def lose_state(self) -> None:
        self.world.lose_state()
        self.oracle.noisy = self.oracle.reset = True

    def copy_state(self) -> None:
        if self.world.state.exists():
            self.world.copy_state()

    def restore_state(self) -> None:
        if Path(f"{self.world.state}.copy").exists():
            self.world.restore_state()
            self.oracle.noisy = self.oracle.reset = True

    def copy_folder(self) -> None:
        if (self.world.folder.path / ".pushpull").exists():
            self.world.folder.copy_to(self._folder_copy)

    def restore_folder(self) -> None:
        """All flags that differ from the copy count as touched, and so do deaths of what was never uploaded."""
        if not self._folder_copy.exists():
            return
        before = self.oracle.files()
        self.world.removed.update(found.inode for found in self.world.folder.files.values())
        self.world.folder.restore_from(self._folder_copy)
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
            elif name not in before:
                continue
            elif before[name][1].data == after[name][1].data:
                tale.local_touched |= before[name][0] ^ after[name][0]
            else:  # a draft as it was before it was edited
                if tale.new or tale.held:
                    tale.local_touched |= DELETED
                tale.name, tale.new = None, True
                self._returned(name, after)

    def _returned(self, name: bytes, files: dict[bytes, tuple[Flags, Found]]) -> None:
        """A file that nobody remembers came back: it may be a copy of any message of its content."""
        if name in files:
            flags, file = files[name]
            self.oracle.born_locally(file.data, name, flags)
            for tale in self.oracle.tales:
                if tale.body == file.data:
                    tale.renamed, tale.local_touched = True, ALL

    # --- runs --------------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Undisturbed: then everything is as it ought to be, and another run has nothing to do (promises 2 and 4)."""
        world = self.world
        if self._is_a_strangers():
            self.readopt()
        expected = self.oracle.expect()
        labels = {uid: shown.keywords for uid, shown in world.server.messages.items()}
        for _ in range(6):
            frozen, ran = world.run_frozen()
            assert ran.code in (0, 75), ran
            due = world.next_try()
            if ran.code == 0 and not due:
                break
            world.clock.pass_by(due - world.clock.time() + 1)
        assert ran.code == 0, ran
        if not frozen:
            frozen, again = world.run_frozen()
            assert frozen, ("a second run is not idle", ran, again)
        self.oracle.verify(expected)
        for uid, keywords in labels.items():
            assert world.server.messages[uid].keywords == keywords, ("a keyword was lost", uid, keywords)

    def sync_with(self, *events: Event) -> Ran:
        """A run during which things happen, each when so many lines have passed."""
        self.oracle.noisy = True
        happenings = [Happening(event.side, event.line, **self._options(event)) for event in events]
        ran = self.world.run(happenings=happenings)
        allowed = {0, 75, *self._refusals}.union(*(CODES.get(event.kind, ()) for event in events))
        assert ran.code in allowed, ran
        return ran

    def _options(self, event: Event) -> dict[str, object]:
        """What the proxy is to do."""
        match event.kind:
            case "cut":
                self.oracle.lost_appends += 1
                return {"cut": CUTS[event.which % len(CUTS)], "after": event.on}
            case "lose_answer":
                self.oracle.lost_appends += 1
                return {"pattern": r"^(UID|APPEND|SELECT)", "lost": True, "cut": CUTS[event.which % len(CUTS)]}
            case "refuse":
                return {"pattern": r"^(UID|APPEND|SELECT)", "answer": REFUSALS[event.which % len(REFUSALS)]}
            case "renumber":
                return {"before": lambda: self.renumber(RENUMBERINGS[event.which % len(RENUMBERINGS)])}
            case "restore_folder":
                return {"before": self.restore_folder}
            case name:
                return {"before": lambda: self.edit(name, event.which, event.what, event.on)}

    def sync_killed(self, effect: int) -> Ran:
        """A run that dies at its so-and-so-many-th effect: a commit, a file operation, something sent."""
        self.oracle.noisy = True
        self.oracle.lost_appends += 1
        ran = self.world.run(kill=lambda: die_at(effect))
        self.world.clock.pass_by(60.0)  # its own waits were counted in a process that is no more
        assert ran.code in (KILLED, 0, 75, *self._refusals), ran
        return ran

    def readopt(self) -> None:
        """What the program advises when it refuses a folder; allowed at any time."""
        self.oracle.noisy = self.oracle.reset = True
        ran = self.world.run("--readopt")
        assert ran.code in (0, 75), ran
        assert not re.search(r"marked deleted (here|on the server)", ran.err), ran

    @property
    def _refusals(self) -> tuple[int, ...]:
        return (65,) if self._is_a_strangers() else ()

    def _is_a_strangers(self) -> bool:
        """The state knows the pairing, but the folder is marked as another state's: a run refuses it."""
        world = self.world
        if not world.state.exists():
            return False
        with closing(Store.open(str(world.state))) as store:
            pair = next(iter(store.pairs()), None)
            marker = Maildir(str(world.folder.path)).read_marker()
            exists = world.folder.path.exists()
            key = pair.key if pair else PairKey("", "", "", "")
            trust = judge(marker, pair, key, state_id=store.state_id, others=(), exists=exists)
            return trust is Trust.OTHER_STATE
