# SPDX-License-Identifier: MIT
"""What must be true of both sides when everything has come to rest, computed without the program under test.

Each message that somebody made is a `Tale`: where it is, what both sides last agreed on, and which flags somebody
touched since. In a *calm* round (edits, then undisturbed runs) the end of a message that has no copies is exact: a
three-way merge in which a side that vanished counts as marked deleted. After a fault, a kill, or an edit in the middle
of a run, a flag that was touched may come out either way, but the same on both sides; what was not touched stays.
Copies of one content cannot be told apart, so of those only the number that is alive is bounded.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from pushpull.flags import ALL, DELETED, Flags
from tests.sync.world import World
from tests.twins import MemoryFile, local_file


@dataclass
class Tale:
    body: bytes  # LF
    uid: int | None = None
    name: bytes | None = None
    base: Flags = 0  # what both sides agreed on; of a new message its flags at birth
    new: bool = True
    held: bool = False  # the program told that it leaves it alone
    renamed: bool = False
    local_touched: Flags = 0
    remote_touched: Flags = 0
    local: Flags | None = None  # as it is before the runs that bring rest; None: not there
    remote: Flags | None = None

    @property
    def touched(self) -> Flags:
        return self.local_touched | self.remote_touched


@dataclass
class Expected:
    """How many of a content are alive, and the flags of the only one (None: not to be told)."""

    low: int
    high: int
    single: Tale | None = None


@dataclass
class Oracle:
    world: World
    tales: list[Tale] = field(default_factory=list)
    noisy: bool = False
    reset: bool = False
    renumbered: bool = False
    lost_appends: int = 0

    # --- what somebody did ---------------------------------------------------------------------------------------

    def of_uid(self, uid: int) -> Tale | None:
        return next((tale for tale in self.tales if tale.uid == uid), None)

    def of_name(self, name: bytes) -> Tale | None:
        return next((tale for tale in self.tales if tale.name == name), None)

    def born_remotely(self, body: bytes, uid: int) -> None:
        self.tales.append(Tale(body, uid=uid, base=self.world.server.messages[uid].flags))

    def born_locally(self, body: bytes, name: bytes, flags: Flags) -> None:
        self.tales.append(Tale(body, name=name, base=flags))

    def touch_remote(self, uid: int, flags: Flags) -> None:
        """A UID that no tale has was just made by the program from some file: any copy of it may be meant."""
        tale = self.of_uid(uid)
        body = self.world.server.messages[uid].body.replace(b"\r\n", b"\n")
        for each in [tale] if tale else [tale for tale in self.tales if tale.body == body]:
            each.remote_touched |= flags

    def touch_local(self, name: bytes, flags: Flags, body: bytes) -> None:
        tale = self.of_name(name)
        for each in [tale] if tale else [tale for tale in self.tales if tale.body == body]:
            each.local_touched |= flags

    def renumber(self, fresh: dict[int, int], *, lose_flags: bool) -> None:
        self.noisy = self.reset = self.renumbered = True
        for tale in self.tales:
            if tale.uid is not None:
                tale.uid = fresh.get(tale.uid, -abs(tale.uid))  # it stays gone, however often
            if lose_flags:
                tale.remote_touched |= ALL if tale.base & DELETED else ALL & ~DELETED

    # --- before and after the runs that bring rest -----------------------------------------------------------------

    def files(self) -> dict[bytes, tuple[Flags, MemoryFile]]:
        found = {}
        for path, file in self.world.folder.files.items():
            if not path.startswith(b"tmp/"):
                shown = local_file(path)
                assert shown.uniquename not in found, "one name twice"
                found[bytes(shown.uniquename)] = (shown.flags, file)
        return found

    def expect(self) -> dict[bytes, Expected]:
        files, messages = self.files(), self.world.server.messages
        classes: dict[bytes, list[Tale]] = defaultdict(list)
        for tale in self.tales:
            tale.local = files[tale.name][0] if tale.name in files else None
            tale.remote = messages[tale.uid].flags if tale.uid in messages else None
            classes[tale.body].append(tale)
        return {body: self._expect(tales) for body, tales in classes.items()}

    def _expect(self, tales: list[Tale]) -> Expected:
        ends = [self._alive(tale) for tale in tales]
        low, high = sum(low for low, _ in ends), sum(high for _, high in ends)
        if len(tales) == 1:
            return Expected(low, high, tales[0])
        ambiguous = any(tale.new or tale.renamed or tale.held for tale in tales)
        if ambiguous:
            low = self._fewest(tales)
        if ambiguous or self.noisy:  # what is deleted may be taken for another copy, what comes for one that came back
            high = len(tales)
        return Expected(min(low, high), high)

    def _alive(self, tale: Tale) -> tuple[int, int]:
        """Least and most, of one message by itself."""
        if self.noisy and (tale.touched & DELETED or (self.reset and tale.base & DELETED)):
            return 0, 1
        if self.noisy:
            alive = not tale.base & DELETED
        elif tale.new or tale.held:
            shown = [flags for flags in (tale.local, tale.remote) if flags is not None]
            alive = any(not flags & DELETED for flags in shown)
        else:
            alive = not merged(tale, self.world.server.mask) & DELETED
        return int(alive), int(alive)

    def _fewest(self, tales: list[Tale]) -> int:
        """Of copies that were renamed or joined by new ones: any deletion may mean another copy than it hit, and what
        is new on both sides may be one message."""
        known = sum(not (tale.new or tale.held or tale.base & DELETED) for tale in tales)
        lost = gained_here = gained_there = 0
        for tale in tales:
            if self.noisy:  # an earlier run may have joined any two of them before one was deleted
                lost += bool(tale.local_touched & DELETED) + bool(tale.remote_touched & DELETED)
            if tale.held:  # what appears on the server may be it
                gained_here += tale.local is not None and not tale.local & DELETED
            elif tale.new and self.noisy:
                lost += bool(tale.base & DELETED)
                gained_here += tale.name is not None
                gained_there += tale.uid is not None
            elif tale.new:
                shown = [flags for flags in (tale.local, tale.remote) if flags is not None]
                lost += any(flags & DELETED for flags in shown)
                gained_here += tale.local is not None
                gained_there += tale.remote is not None
            elif not tale.base & DELETED and not self.noisy:
                here, there = sides(tale, self.world.server.mask)
                lost += bool(here & DELETED) + bool(there & DELETED)
        return max(0, known - lost + max(gained_here, gained_there))

    def verify(self, expected: dict[bytes, Expected]) -> None:
        """Everything has come to rest; afterwards a new round begins."""
        files, messages = self.files(), self.world.server.messages
        rows = self.world.rows()
        held = self._verify_rows(rows, files)
        local, remote = _by_body(files), defaultdict(list)
        for uid, message in messages.items():
            remote[message.body.replace(b"\r\n", b"\n")].append(uid)
        assert set(local) | set(remote) <= set(expected), "a message out of nothing"
        for body, want in expected.items():
            live_here = [name for name in local[body] if not files[name][0] & DELETED]
            live_there = [uid for uid in remote[body] if not messages[uid].flags & DELETED]
            alone = [name for name in live_here if name in held]
            state = (body, want, live_here, live_there, alone)
            assert len(live_here) - len(alone) == len(live_there), ("the sides differ", *state)
            assert want.low <= len(live_here) <= want.high, ("copies were lost or made", *state)
            if want.single is not None:
                assert max(len(local[body]), len(remote[body])) <= 1, ("there twice", *state)
                here = files[local[body][0]][0] if local[body] else None
                there = messages[remote[body][0]].flags if remote[body] else None
                self._verify_flags(want.single, here, there)
        self._begin(rows, files, held)

    def _verify_rows(self, rows: list[dict[str, object]], files: dict[bytes, tuple[Flags, MemoryFile]]) -> set[bytes]:
        """Each file and each UID is on one row, and what a row joins has one content. Returns the files left alone."""
        messages = self.world.server.messages
        names = [row["uniquename"] for row in rows if row["uniquename"] is not None and not row["gone"]]
        uids = [row["uid"] for row in rows if row["uid"] is not None and not row["expunged"]]
        assert sorted(names) == sorted(files), "the state knows other files"
        assert sorted(uids) == sorted(messages), "the state knows other UIDs"
        held = set()
        for row in rows:
            name, uid = row["uniquename"], row["uid"]
            if name in files and uid in messages:
                assert files[name][1].data == messages[uid].body.replace(b"\r\n", b"\n"), ("joined wrongly", row)
            elif name in files and uid is None and not (row["expunged"] and files[name][0] & DELETED):
                aside = (row["append_attempts"] >= 2 and self.lost_appends >= 2) or row["append_outcome"] == "accepted"
                assert (row["old_uidvalidity"] and self.renumbered) or aside, ("neither there nor told of", row)
                held.add(name)
        return held

    def _verify_flags(self, tale: Tale, here: Flags | None, there: Flags | None) -> None:
        mask = self.world.server.mask
        state = (tale, here, there)
        if here is not None and there is not None:
            assert here & mask == there, ("the flags differ", *state)
        if self.noisy:
            sure = ALL & ~tale.touched & (~DELETED if self.reset else ALL)
            if tale.local is None:
                sure &= mask  # it went with the file
            survivors = [flags for flags in (here, there) if flags is not None]
            if tale.base & DELETED and len(survivors) == 1:
                sure = 0  # only the mark of a message that is half gone means anything
            for shown, kept in ((here, ALL), (there, mask)):
                if shown is not None:
                    assert (shown ^ tale.base) & sure & kept == 0, ("a flag that nobody touched", *state)
        elif tale.local is not None and tale.remote is not None:
            assert here == merged(tale, self.world.server.mask), ("the merge is wrong", *state)

    def _begin(
        self, rows: list[dict[str, object]], files: dict[bytes, tuple[Flags, MemoryFile]], held: set[bytes]
    ) -> None:
        messages = self.world.server.messages
        self.tales = []
        for row in rows:
            name = row["uniquename"] if row["uniquename"] in files else None
            uid = row["uid"] if row["uid"] in messages else None
            if name is None and uid is None:
                continue
            here = files[name][0] if name is not None else None
            there = messages[uid].flags if uid is not None else None
            body = files[name][1].data if name is not None else messages[uid].body.replace(b"\r\n", b"\n")
            if here is not None and there is not None:
                base = here & (there | ~self.world.server.mask)
            elif here is not None:
                base = here
            else:
                base = there or 0
            self.tales.append(Tale(body, uid=uid, name=name, base=base, new=False, held=name in held))
        self.noisy = self.reset = False


def _by_body(files: dict[bytes, tuple[Flags, MemoryFile]]) -> dict[bytes, list[bytes]]:
    found = defaultdict(list)
    for name, (_, file) in files.items():
        found[file.data].append(name)
    return found


def sides(tale: Tale, mask: Flags) -> tuple[Flags, Flags]:
    """Flags of both sides, where a side that vanished counts as marked deleted; a flag that the server cannot hold
    never changes there."""
    here = tale.base | DELETED if tale.local is None else tale.local
    there = tale.base | DELETED if tale.remote is None else tale.remote | (tale.base & ~mask)
    return here, there


def merged(tale: Tale, mask: Flags) -> Flags:
    """Three-way, flag by flag: who moved away from what was agreed wins."""
    here, there = sides(tale, mask)
    result = 0
    for bit in (1, 2, 4, 8, 16, 32):
        result |= (there if (there ^ tale.base) & bit else here) & bit
    return result
