# SPDX-License-Identifier: MIT
"""One logged-in IMAP session (`ports.Remote`), on `transport.Client`.

Commands that it sends: SELECT, EXAMINE, UID FETCH, UID SEARCH, STATUS, UID STORE, APPEND, COMPRESS, LOGOUT. Never
EXPUNGE, never CLOSE, never .SILENT, and FETCH only with .PEEK.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from pushpull import flags as flag_names
from pushpull import refusal, wire, wire_fetch
from pushpull.errors import ConnectionLost, DeltaLost, MailboxMissing, ServerUnsupported
from pushpull.flags import ALL, Flags
from pushpull.framing import Command, Response
from pushpull.message import HEADER_LIMIT
from pushpull.model import Identity, MailboxState, ModSeq, RemoteView, Uid, UidSet
from pushpull.ports import Answer, Appended, Message, Outgoing, Since
from pushpull.remote_append import Appender
from pushpull.remote_fetch import IDENTITY_ITEMS, OpenedMailbox, fetches, identity, messages
from pushpull.transport import Client
from pushpull.values import field, struct, value

_WINDOW = 4  # commands of at most 8 kB under way: both sides' buffers hold them
ENABLED = frozenset({"CONDSTORE", "QRESYNC"})
"""The extensions that are to be enabled where they are offered."""
_TELLING = frozenset({"UIDNOTSTICKY", "NOMODSEQ", "READ-ONLY"})
COMPRESS = "COMPRESS=DEFLATE"
_WORTH = 1 << 20  # octets that a round trip, and the work of both sides, is well spent for


@value
class Extensions:
    """What the session may use: offered by the server after login, not disabled, and enabled where it must be."""

    offered: frozenset[str]
    condstore: bool = False
    qresync: bool = False
    select_condstore: bool = False  # CONDSTORE is to be asked for with each SELECT


def extensions(offered: frozenset[str], enabled: frozenset[str]) -> Extensions:
    """What may be used when so much was enabled (RFC 5161)."""
    condstore = "CONDSTORE" in offered or "QRESYNC" in enabled & offered
    return Extensions(
        offered,
        condstore=condstore,
        qresync="QRESYNC" in enabled & offered,
        select_condstore=condstore and not enabled & offered & ENABLED,
    )


@struct
class Compression:
    """Whether an account's links are to be compressed: not after one that was lost before the server had said anything
    compressed, for some offer what they cannot do."""

    works: bool = True


@struct
class _Selection:
    """What the answers to one SELECT say."""

    exists: int | None = None
    uidvalidity: int | None = None
    uidnext: Uid | None = None
    highestmodseq: ModSeq | None = None
    permanent: list[str] | None = None
    codes: set[str] = field(default_factory=set)  # those of _TELLING


class Session:
    """Implements `ports.Remote`; made by `connect.open_session`."""

    def __init__(
        self,
        client: Client,
        presumed: Extensions,
        greeting: Command | None = None,
        compression: Compression | None = None,
    ) -> None:
        """`greeting` is the last command that was sent and is not answered; `presumed`, that it enables all it asks."""
        self.client = client
        self.extensions = presumed
        self._greeting = greeting
        self._enabled: frozenset[str] = frozenset()
        self._exists: int | None = None
        self._moved = False
        self._with_modseq = False
        self._appender = Appender(client, presumed.offered)
        self._compressible = COMPRESS in presumed.offered
        self._compression = compression or Compression()
        client.on_untagged = self._observe

    @property
    def condstore(self) -> bool:
        return self.extensions.condstore

    @property
    def qresync(self) -> bool:
        return self.extensions.qresync

    # --- opening -----------------------------------------------------------------------------------------------

    @property
    def exists(self) -> int:
        """How many messages the open mailbox holds, by all that the server said so far."""
        return self._exists or 0

    @property
    def gmail(self) -> bool:
        """X-GM-EXT-1 is offered: by default such a server expunges what is marked deleted."""
        return "X-GM-EXT-1" in self.extensions.offered

    def open(self, mailbox: str, since: Since | None, *, read_only: bool = False) -> OpenedMailbox:
        """As ports.Remote; all commands leave in one go, so it costs one round trip."""
        name = mailbox_name(mailbox)
        if self._greeting is None:
            self.client.settle()
        self._exists = None
        verb = b"EXAMINE " if read_only else b"SELECT "
        select = self.client.start(verb + name + (b" (CONDSTORE)" if self.extensions.select_condstore else b""))
        canary, arrivals, delta = self._ask(since) if since is not None else (None, None, None)
        try:
            if not self._enabled_as_presumed():
                return self.open(mailbox, since, read_only=read_only)
            state = self._selected(select, mailbox)
        except ConnectionLost as error:
            if delta is None:
                raise
            raise DeltaLost(str(error), remedy=error.remedy) from error
        self._exists, self._moved = state.exists, False
        self._with_modseq = self.condstore and state.highestmodseq is not None
        if since is None or since.uidvalidity != state.uidvalidity:
            self.client.settle()
            self._moved = False
            return OpenedMailbox(self.client, state, Uid(1))
        canary_uids = UidSet.of(since.canary)
        return OpenedMailbox(self.client, state, since.uidnext, canary_uids, canary, arrivals, delta)

    def _enabled_as_presumed(self) -> bool:
        """Take the answers to what was said after the login. False: the server did not enable what the commands behind
        it rely on."""
        greeting, self._greeting = self._greeting, None
        if greeting is None:
            return True
        self.client.finish(greeting)
        presumed, self.extensions = self.extensions, extensions(self.extensions.offered, self._enabled)
        return self.extensions == presumed

    def _ask(self, since: Since) -> tuple[Command | None, Command, Command | None]:
        start = self.client.start
        canary = delta = None
        if since.canary:
            canary = start(_uid_fetch(UidSet.of(since.canary), b"(UID " + IDENTITY_ITEMS + b")")[0])
        # No MODSEQ item: a mailbox without mod-sequences must refuse it (RFC 7162 section 3.1.2.2).
        arrivals = start(b"UID FETCH %d:* (UID FLAGS %b)" % (since.uidnext, IDENTITY_ITEMS))
        if since.modseq and self.condstore:
            # Not 1:*, which ends at the highest UID that is left: the expunge of the last message is beyond it.
            span, vanished = (wire.MAX_UID, b" VANISHED") if self.qresync else (since.uidnext - 1, b"")
            if span:
                words = (span, since.modseq, vanished)
                delta = start(b"UID FETCH 1:%d (UID FLAGS) (CHANGEDSINCE %d%b)" % words)
        return canary, arrivals, delta

    def _selected(self, select: Command, mailbox: str) -> MailboxState:
        seen = _Selection()
        for response in self.client.responses(select):
            if response.kind == "EXISTS":
                seen.exists = response.number
            elif response.kind in ("OK", "NO"):  # [UIDNOTSTICKY] comes with NO
                code, arguments, _ = wire.code(response.rest)
                seen = _Selection() if code == "CLOSED" else seen  # what came before was of the mailbox left
                _note_code(seen, code, arguments)
        if select.status != "OK":
            self.client.settle()
            raise refusal.of_select(select, self.client.peer, mailbox)
        if seen.exists is None:
            self.client.fail(f"{self.client.peer}: SELECT was answered without EXISTS")
        if not seen.uidvalidity or "UIDNOTSTICKY" in seen.codes:
            raise ServerUnsupported(f"mailbox {mailbox!r} has no lasting UIDs; it cannot be synchronised")
        permanent = seen.permanent
        return MailboxState(
            uidvalidity=seen.uidvalidity,
            uidnext=seen.uidnext,
            exists=seen.exists,
            highestmodseq=seen.highestmodseq if self.condstore and "NOMODSEQ" not in seen.codes else None,
            mask=ALL if permanent is None else flag_names.permanent_mask(permanent),
            keywords=frozenset(word.lower() for word in flag_names.from_imap(permanent or ())[1]),
            any_keyword=permanent is None or "\\*" in permanent,
            read_only=select.code == "READ-ONLY" or "READ-ONLY" in seen.codes,
        )

    def expect(self, octets: int) -> None:
        if not self._compressible or not self._compression.works or octets < _WORTH:
            return
        self._compressible = False  # asked once, whatever the answer
        self.client.settle()
        self._compression.works = False
        if self.client.compress():
            self.client.run(b"NOOP")  # before anything that does not repeat harmlessly
        self._compression.works = True

    # --- looking -----------------------------------------------------------------------------------------------

    def views(self, lo: Uid, hi: Uid | None) -> Iterator[RemoteView]:
        self.client.settle()
        items = b"(UID FLAGS MODSEQ)" if self._with_modseq else b"(UID FLAGS)"
        top = b"*" if hi is None else b"%d" % hi
        command = self.client.start(b"UID FETCH %d:%b %b" % (lo, top, items))
        highest = 0
        for found in fetches(self.client, command):
            view = found.view
            if view is not None and lo <= view.uid and (hi is None or view.uid <= hi):
                if view.uid > highest:  # the same ones for ever are no answer
                    highest = view.uid
                    self.client.useful()
                yield view
        if self._exists:  # some servers find a UID set wrong when the mailbox is empty
            refusal.demand_ok(command, self.client.peer)

    def uids(self) -> UidSet | None:
        self.client.settle()
        extended = "ESEARCH" in self.extensions.offered
        command = self.client.start(b"UID SEARCH RETURN (ALL) ALL" if extended else b"UID SEARCH ALL")
        known: UidSet | None = None
        ranges: list[tuple[int, int]] | None = None
        try:
            for response in self.client.responses(command):
                if extended and response.kind == "ESEARCH":
                    listed = wire.esearch(response.parts, response.rest, command.tag)
                    known = known if listed is None else listed
                elif not extended and response.kind == "SEARCH":
                    ranges = [*(ranges or ()), *wire.search(response.rest)]
                    if len(ranges) > wire.MAX_RANGES:
                        raise wire.malformed("UID list")
        except ConnectionLost as error:
            self.client.fail(str(error), error)
        if command.status != "OK":
            if later := refusal.busy(command, self.client.peer):
                raise later
            return None
        return UidSet(ranges) if ranges is not None else known

    def status(self, mailbox: str) -> MailboxState | None:
        self.client.settle()
        command = self.client.start(b"STATUS " + mailbox_name(mailbox) + b" (MESSAGES UIDNEXT UIDVALIDITY)")
        found: dict[str, int] = {}
        for response in self.client.responses(command):
            if response.kind == "STATUS":
                try:
                    found = wire.status(response.parts, response.rest)
                except ConnectionLost as error:
                    self.client.fail(f"{self.client.peer}: {error}", error)
        if later := refusal.busy(command, self.client.peer):
            raise later
        if command.status != "OK" or "MESSAGES" not in found or not 0 < found.get("UIDVALIDITY", 0) <= wire.MAX_UID:
            return None
        uidnext = found.get("UIDNEXT", 0)
        return MailboxState(
            found["UIDVALIDITY"], Uid(uidnext) if 0 < uidnext <= wire.MAX_UID else None, found["MESSAGES"]
        )

    def moved(self) -> bool:
        moved, self._moved = self._moved, False
        return moved

    def catch_up(self) -> None:
        self.client.settle()
        self.client.run(b"NOOP")

    def _observe(self, response: Response) -> None:
        if response.kind == "EXISTS":
            if self._exists is not None and (response.number or 0) > self._exists:
                self._moved = True
            self._exists = response.number
        elif response.kind == "EXPUNGE":
            self._moved = True
            self._exists = max(0, (self._exists or 0) - 1)
        elif response.kind == "ENABLED":
            self._enabled |= ENABLED.intersection(wire.printable(response.rest).upper().split())
        elif response.kind == "VANISHED":
            try:
                earlier, uids = wire.vanished(response.rest)
            except ConnectionLost as error:
                self.client.fail(f"{self.client.peer}: {error}", error)
            if not earlier:
                self._moved = True
                self._exists = max(0, (self._exists or 0) - len(uids))

    # --- messages ----------------------------------------------------------------------------------------------

    def identities(self, uids: UidSet) -> Iterator[Identity]:
        for command in self._each(_uid_fetch(uids, b"(UID " + IDENTITY_ITEMS + b")")):
            for found in fetches(self.client, command):
                shown = identity(found)
                if shown is not None and shown.uid in uids:
                    yield shown
            refusal.demand_ok(command, self.client.peer)

    def headers(self, uids: UidSet) -> Iterator[tuple[Uid, bytes]]:
        for command in self._each(_uid_fetch(uids, b"(UID BODY.PEEK[HEADER])")):
            for found in fetches(self.client, command, HEADER_LIMIT):
                if found.uid in uids and found.uid is not None and found.header is not None:
                    yield found.uid, found.header
            refusal.demand_ok(command, self.client.peer)

    def messages(self, uids: Sequence[Uid], more: Callable[[], Sequence[Uid]] | None = None) -> Iterator[Message]:
        self.client.settle()
        few = len(uids) // 2  # still to come when more are asked for: the server never waits
        wanted: set[Uid] = set()
        views: dict[Uid, RemoteView] = {}
        commands: deque[Command] = deque()

        def ask(further: Sequence[Uid]) -> bool:
            wanted.update(further)
            commands.extend(map(self.client.start, _uid_fetch(UidSet.of(further), wire_fetch.MESSAGE_ITEMS)))
            return bool(further)

        ask(uids)
        while commands or (more is not None and ask(more())):
            for message in messages(self.client, commands.popleft(), wanted, views):
                wanted.discard(message.view.uid)  # what comes a second time is not asked for any more
                self.client.useful()
                yield message
                if more is not None and len(wanted) <= few and not ask(more()):
                    more = None

    def store(self, uids: UidSet, *, add: Flags, remove: Flags) -> dict[Uid, RemoteView]:
        if bool(add) == bool(remove):
            raise ValueError("one of add and remove")
        names = " ".join(flag_names.to_imap(add or remove)).encode("ascii")
        sign = b"+" if add else b"-"
        shown: dict[Uid, RemoteView] = {}
        refused: Command | None = None
        payloads = [b"UID STORE %b %bFLAGS (%b)" % (piece, sign, names) for piece in wire.uid_sets(uids)]
        for command in self._each(payloads):
            for found in fetches(self.client, command):
                if found.view is not None and found.view.uid in uids:
                    shown[found.view.uid] = found.view
            refused = command if command.status != "OK" else refused
        if refused is not None:
            raise refusal.of_store(refused, self.client.peer)
        return shown

    def _each(self, payloads: Sequence[bytes]) -> Iterator[Command]:
        """Send commands some ahead, and give them one after another for their answers to be taken."""
        self.client.settle()
        ahead: deque[Command] = deque()
        waiting = deque(payloads)
        while waiting or ahead:
            while waiting and len(ahead) < _WINDOW:
                ahead.append(self.client.start(waiting.popleft()))
            yield ahead.popleft()

    # --- upload ------------------------------------------------------------------------------------------------

    @property
    def multiappend(self) -> bool:
        return self._appender.multiappend

    def unasked(self, size: int) -> bool:
        return self._appender.unasked(size)

    def append(
        self, mailbox: str, messages: Sequence[Outgoing], meanwhile: Callable[[], None] | None = None
    ) -> Iterator[Answer]:
        return self._appender.each(mailbox, mailbox_name(mailbox), messages, meanwhile)

    def append_all(
        self, mailbox: str, messages: Sequence[Outgoing], meanwhile: Callable[[], None] | None = None
    ) -> Sequence[Appended]:
        return self._appender.all(mailbox, mailbox_name(mailbox), messages, meanwhile)

    # --- the end -----------------------------------------------------------------------------------------------

    def interrupt(self) -> None:
        """End the link from another thread; what is under way raises ConnectionLost."""
        self.client.interrupt()

    def close(self) -> None:
        if self._greeting is not None:  # no mailbox was opened
            with suppress(ConnectionLost):
                self._enabled_as_presumed()
        self.client.logout()


def mailbox_name(mailbox: str) -> bytes:
    """A mailbox name for the wire: modified UTF-7 (RFC 3501 section 5.1.3), quoted."""
    if any(char in mailbox for char in "\0\r\n"):
        raise MailboxMissing(f"mailbox {mailbox!r}: no mailbox has a name with such characters")
    if mailbox.isascii() and mailbox.isprintable() and "&" not in mailbox:
        return wire.quoted(mailbox.encode("ascii"))
    from pushpull import helpers

    try:
        return helpers.mailbox_name(mailbox)
    except UnicodeError as error:
        raise MailboxMissing(f"mailbox {mailbox!r}: the name is not Unicode text") from error


def _uid_fetch(uids: UidSet, items: bytes) -> list[bytes]:
    return [b"UID FETCH %b %b" % (piece, items) for piece in wire.uid_sets(uids)]


def _note_code(seen: _Selection, code: str, arguments: bytes) -> None:
    count = wire.number(arguments.strip())
    if code in _TELLING:
        seen.codes.add(code)
    if code == "UIDVALIDITY":
        seen.uidvalidity = count if count is not None and count <= wire.MAX_UID else None
    elif code == "UIDNEXT":
        seen.uidnext = Uid(count) if count is not None and 0 < count <= wire.MAX_UID + 1 else None
    elif code == "HIGHESTMODSEQ":
        seen.highestmodseq = wire.modseq_of(arguments.strip()) or None
    elif code == "PERMANENTFLAGS":
        seen.permanent = wire.flag_names(arguments.strip().removeprefix(b"(").removesuffix(b")"))
