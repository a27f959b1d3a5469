# SPDX-License-Identifier: MIT
"""Other clients and the user at work on both sides of a `World`, and the mishaps; each tells the oracle what it did.

An action takes small numbers and chooses among what is there, so any sequence of numbers is a story; one that finds
nothing to act on does nothing. Each may happen between runs, or in the middle of one.
"""

from __future__ import annotations

from pushpull.flags import DELETED, DRAFT, Flags, to_imap, to_letters
from tests.model.folder import UserFolder
from tests.model.place import LABEL
from tests.model.world import World
from tests.support.messages import crlf, lf, mail
from tests.sync.actors import BODIES as SHARED
from tests.sync.oracle import Oracle, Tale
from tests.twins import local_file

BODIES = (
    *(body for body in SHARED if body),
    b"Subject: no end of line",
    b"Subject: \xe4\xf6\xfc\nMessage-ID: <8bit@example.org>\n\n\xff\xfe\x80\n.\n..\nFrom here on\n",
    mail("long", body="x" * 70_000),
    mail("odd", body="a\rb\n\n\n"),
)
FRESH = 6
"""So many numbers of bodies stand for one that nobody has seen before."""
CLIENT_EDITS = (
    "client_adds",
    "client_flags",
    "client_labels",
    "client_expunges",
    "client_moves_away",
    "client_moves_back",
    "client_copies",
    "client_edits_draft",
)
USER_EDITS = (
    "user_adds",
    "user_flags",
    "user_reads",
    "user_unreads",
    "user_unlinks",
    "user_renames",
    "user_moves_to_bucket",
    "user_moves_away",
    "user_moves_back",
    "user_copies",
    "user_edits_draft",
)
EDITS = (*CLIENT_EDITS, *USER_EDITS)
FLAGS = (1, 2, 4, 8, 16, DELETED)
FEW_FLAGS = (0, 0, 0, *FLAGS, 18)


class Edits:
    """What somebody else does. `which` chooses a message, `what` and `on` how."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.oracle = Oracle(world)  # type: ignore[arg-type]
        self._serial = 0
        self._away = f"{world.server.mailbox}-away"
        world.place.other.create(self._away)
        self._other_folder = UserFolder(world.directory / "mail" / "away")
        self._names_away: list[bytes] = []

    def edit(self, name: str, which: int = 0, what: int = 0, on: bool = True) -> None:
        assert name in EDITS, name
        getattr(self, name)(which, what, on)
        self.world.server.changed()

    def _next(self) -> int:
        self._serial += 1
        return self._serial

    def _body(self, which: int) -> bytes:
        if which < FRESH:
            return mail(f"fresh{self._next()}", received=which > 1)
        return BODIES[which % len(BODIES)]

    # --- other clients -----------------------------------------------------------------------------------------------

    def _uid(self, which: int) -> int | None:
        uids = sorted(self.world.server.messages)
        return uids[which % len(uids)] if uids else None

    def client_adds(self, which: int, what: int, _on: bool) -> None:
        self._append(self._body(which), FEW_FLAGS[what % len(FEW_FLAGS)])

    def _append(self, body: bytes, flags: Flags) -> None:
        server = self.world.server
        uid = self.world.place.other.append(server.mailbox, crlf(body), " ".join(to_imap(flags)))
        server.changed()
        self.oracle.born_remotely(body, uid)

    def client_flags(self, which: int, what: int, on: bool) -> None:
        uid = self._uid(which)
        if uid is not None:
            flag = FLAGS[what % len(FLAGS)]
            self.oracle.touch_remote(uid, flag)
            self._store(uid, " ".join(to_imap(flag)), on=on)

    def client_labels(self, which: int, _what: int, on: bool) -> None:
        """A keyword, which is the server's alone."""
        uid = self._uid(which)
        if uid is not None:
            self._store(uid, LABEL, on=on)

    def _store(self, uid: int, flags: str, *, on: bool) -> None:
        other = self.world.place.other
        (other.add_flags if on else other.remove_flags)(self.world.server.mailbox, [uid], flags)

    def client_expunges(self, which: int, _what: int, _on: bool) -> None:
        uid = self._uid(which)
        if uid is not None:
            self._expunged(uid)
            self.world.place.other.expunge(self.world.server.mailbox, [uid])

    def _expunged(self, uid: int) -> None:
        self.oracle.touch_remote(uid, DELETED)
        self.world.expunged.add(uid)

    def client_moves_away(self, which: int, _what: int, _on: bool) -> None:
        uid = self._uid(which)
        if uid is not None:
            self._expunged(uid)
            self.world.place.other.move(self.world.server.mailbox, uid, self._away)

    def client_moves_back(self, which: int, _what: int, _on: bool) -> None:
        other, server = self.world.place.other, self.world.server
        away = other.messages(self._away)
        if not away:
            return
        uid = sorted(away)[which % len(away)]
        before = set(server.messages)
        other.move(self._away, uid, server.mailbox)
        self._born(before)

    def client_copies(self, which: int, _what: int, _on: bool) -> None:
        """Within the mailbox: the same message twice."""
        uid, server = self._uid(which), self.world.server
        if uid is not None:
            before = set(server.messages)
            self.world.place.other.copy(server.mailbox, str(uid), server.mailbox)
            self._born(before)

    def _born(self, before: set[int]) -> None:
        server = self.world.server
        server.changed()
        for uid in server.messages.keys() - before:
            self.oracle.born_remotely(lf(server.messages[uid].body), uid)

    def client_edits_draft(self, which: int, _what: int, _on: bool) -> None:
        """As mail programs do it: a new message, then the old one is expunged."""
        server = self.world.server
        drafts = sorted(uid for uid, shown in server.messages.items() if shown.flags & DRAFT)
        if drafts:
            old = drafts[which % len(drafts)]
            self._append(mail(f"edited{self._next()}", received=False), server.messages[old].flags)
            self._expunged(old)
            self.world.place.other.expunge(server.mailbox, [old])

    # --- the user ----------------------------------------------------------------------------------------------------

    def _file(self, which: int) -> bytes | None:
        paths = sorted(self.world.folder.files)
        return paths[which % len(paths)] if paths else None

    def user_adds(self, which: int, what: int, young: bool) -> None:
        self._deliver(self._body(which), FEW_FLAGS[what % len(FEW_FLAGS)], b"user%d" % self._next(), young=young)

    def _deliver(self, body: bytes, flags: Flags, name: bytes, *, young: bool) -> None:
        folder, now = self.world.folder, self.world.clock.time()
        folder.make()
        path = b"cur/" + name + b":2," + to_letters(flags).encode() if flags else b"new/" + name
        folder.deliver(path, body, now if young else now - 1000)
        self.oracle.born_locally(body, name, flags)

    def user_flags(self, which: int, what: int, on: bool) -> None:
        path = self._file(which)
        if path is not None:
            file, flag = local_file(path), FLAGS[what % len(FLAGS)]
            flags = file.flags | flag if on else file.flags & ~flag
            self.oracle.touch_local(file.uniquename, flag, self.world.folder.files[path].data)
            self._rename(path, _cur(file.directory), file.uniquename + b":2," + to_letters(flags).encode())

    def _rename(self, path: bytes, directory: str, name: bytes) -> None:
        self.world.folder.rename(path, directory.encode() + b"/" + name)

    def user_reads(self, which: int, _what: int, _on: bool) -> None:
        """From new/ to cur/, no flag."""
        path = self._file(which)
        if path is not None:
            file = local_file(path)
            self._rename(path, _cur(file.directory), file.uniquename + (file.info or b":2,"))

    def user_unreads(self, which: int, _what: int, _on: bool) -> None:
        """Back to new/, without flags, as some mail programs do."""
        path = self._file(which)
        if path is not None:
            file = local_file(path)
            self.oracle.touch_local(file.uniquename, file.flags, self.world.folder.files[path].data)
            self._rename(path, _cur(file.directory).removesuffix("cur") + "new", file.uniquename)

    def user_unlinks(self, which: int, _what: int, _on: bool) -> None:
        path = self._file(which)
        if path is not None:
            self._gone(path)
            self.world.folder.remove(path)

    def _gone(self, path: bytes) -> None:
        found = self.world.folder.files[path]
        self.oracle.touch_local(local_file(path).uniquename, DELETED, found.data)
        self.world.removed.add(found.inode)

    def user_renames(self, which: int, _what: int, _on: bool) -> None:
        """Another uniquename, the same content."""
        path = self._file(which)
        if path is not None:
            file, name = local_file(path), b"user%d" % self._next()
            self._rename(path, file.directory, name + file.info)
            self._renamed(self.oracle.of_name(file.uniquename), name)

    @staticmethod
    def _renamed(tale: Tale | None, name: bytes) -> None:
        if tale is not None:
            tale.name, tale.renamed = name, True

    def user_moves_to_bucket(self, which: int, what: int, _on: bool) -> None:
        path = self._file(which)
        if path is not None:
            file = local_file(path)
            bucket = ("", "0a/", "f3/")[what % 3]
            self.world.folder.make(*(bucket + leaf for leaf in ("cur", "new", "tmp")))
            self._rename(path, bucket + file.directory[-3:], file.uniquename + file.info)

    def user_moves_away(self, which: int, _what: int, _on: bool) -> None:
        path = self._file(which)
        if path is not None:
            self._gone(path)
            self.world.folder.move_out(path, self._other_folder)

    def user_moves_back(self, which: int, _what: int, renamed: bool) -> None:
        """Under the name that it had, or, as mutt does it, under a new one."""
        paths = sorted(self._other_folder.files)
        if not paths:
            return
        path = paths[which % len(paths)]
        file, data = local_file(path), self._other_folder.files[path].data
        taken = {local_file(other).uniquename for other in self.world.folder.files}
        name = b"user%d" % self._next() if renamed or file.uniquename in taken else bytes(file.uniquename)
        self._other_folder.rename(path, b"cur/" + name + file.info)
        tale = self.oracle.of_name(name)
        if tale is not None and self.oracle.noisy:
            tale.name = None  # a run may have seen that it was gone
        if tale is None or self.oracle.noisy:
            self.oracle.born_locally(data, name, file.flags)
        self._other_folder.move_out(b"cur/" + name + file.info, self.world.folder)

    def user_copies(self, which: int, _what: int, _on: bool) -> None:
        path = self._file(which)
        if path is not None:
            file, data = local_file(path), self.world.folder.files[path].data
            self._deliver(data, file.flags, b"user%d" % self._next(), young=False)

    def user_edits_draft(self, which: int, _what: int, in_place: bool) -> None:
        """Another content under the same name, written into the file or renamed over it."""
        drafts = sorted(path for path in self.world.folder.files if local_file(path).flags & DRAFT)
        if not drafts:
            return
        path = drafts[which % len(drafts)]
        file, old = local_file(path), self.world.folder.files[path]
        data = mail(f"edited{self._next()}", received=False)
        self.oracle.touch_local(file.uniquename, DELETED, old.data)
        tale = self.oracle.of_name(file.uniquename)
        if tale is not None:
            tale.name = None
            if tale.new and tale.uid is None and not self.oracle.noisy:
                self.oracle.tales.remove(tale)  # nobody ever saw it
        self.world.removed.add(old.inode)
        self.oracle.born_locally(data, file.uniquename, file.flags)
        if in_place:
            self.world.folder.write_into(path, data)
        else:
            self.world.folder.deliver(path, data, self.world.clock.time())


def _cur(directory: str) -> str:
    return directory.removesuffix("new").removesuffix("cur") + "cur"
