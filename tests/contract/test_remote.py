# SPDX-License-Identifier: MIT
"""What every `ports.Remote` does, whoever implements it.

`RemoteContract` runs against each world in WORLDS: a mailbox that others change too, and sessions to look at it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from pushpull import flags as fl
from pushpull.connect import Account, open_session
from pushpull.dates import to_epoch
from pushpull.errors import ConnectionLost, MailboxMissing
from pushpull.model import NEVER, Uid, UidSet
from pushpull.ports import Appended, Outgoing, Remote, Since, Vanished
from pushpull.transport import CHUNK
from tests.support.dovecot import Dovecot

DATE = "01-Feb-2003 04:05:06 +0000"
_USERS = itertools.count(1)


def mail(number: int, *, filler: int = 0) -> bytes:
    head = f"Received: from a by b\r\nMessage-ID: <m{number}@example.org>\r\nSubject: {number}\r\n\r\n"
    return head.encode() + b"0123456789abcdef\r\n" * filler + b"the end\r\n"


class DovecotWorld:
    """A user's INBOX on a real server."""

    mailbox = "INBOX"

    def __init__(self, server: Dovecot, disabled: frozenset[str], *, compressed: bool) -> None:
        self.server, self.compressed = server, compressed
        self.user = server.add_user(f"contract{next(_USERS)}")
        self.disabled = disabled
        self.condstore = "CONDSTORE" not in disabled
        self.qresync = self.condstore and "QRESYNC" not in disabled
        self.sessions: list[Remote] = []

    def session(self) -> Remote:
        account = Account(
            host="localhost", port=self.server.port, tls="implicit", ca_file=str(self.server.ca_file), pins=(),
            timeout=30.0, disabled=self.disabled, login=self.user, auth="password", secret=lambda: "alicepw",
        )  # fmt: skip
        session = open_session(account)
        self.sessions.append(session)
        if self.compressed:  # else it is not, within one machine
            session.client.settle()
            assert session.client.compress()
        return session

    def deliver(self, message: bytes, flags: str = "") -> Uid:
        when = datetime(2003, 2, 1, 4, 5, 6, tzinfo=UTC)
        return Uid(self.server.save(message, flags=flags, date=when, user=self.user))

    def add_flags(self, uids: list[int], flags: str) -> None:
        with self.server.client(self.user) as client:
            client.add_flags(self.mailbox, uids, flags)

    def expunge(self, uids: list[int]) -> None:
        with self.server.client(self.user) as client:
            client.expunge(self.mailbox, uids)

    def renumber(self) -> None:
        """The same UIDs mean nothing any more."""
        self.server.doveadm("mailbox", "update", "-u", self.user, "--uid-validity", "777", self.mailbox)

    def cut(self) -> None:
        """End every session."""
        self.server.kick(self.user)

    def close(self) -> None:
        for session in self.sessions:
            session.close()
        sent = self.server.commands(self.user)
        assert sent
        assert not [line for line in sent if "EXPUNGE" in line or "CLOSE" in line or ".SILENT" in line]


DISABLED = {
    "dovecot-qresync": frozenset(),
    "dovecot-condstore": frozenset({"QRESYNC", "LITERAL+", "MULTIAPPEND"}),
    "dovecot-plain": frozenset({"CONDSTORE", "ESEARCH", "MULTIAPPEND"}),
    "dovecot-poor": frozenset(
        {"CONDSTORE", "ESEARCH", "ENABLE", "LITERAL+", "MULTIAPPEND", "ID", "SASL-IR", "UIDPLUS"}
    ),
}
WORLDS = (*DISABLED, "dovecot-compressed")
COMPRESSING = "protocol imap {\n mail_plugins = $mail_plugins imap_zlib\n}\n"


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    with Dovecot(settings=COMPRESSING) as server:
        yield server


@contextmanager
def open_world(name: str, request: pytest.FixtureRequest) -> Iterator[DovecotWorld]:
    server, disabled = request.getfixturevalue("dovecot"), DISABLED.get(name, frozenset())
    world = DovecotWorld(server, disabled, compressed=name not in DISABLED)
    yield world
    world.close()


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> Iterator[DovecotWorld]:
    with open_world(request.param, request) as made:
        yield made


def since(world, state, *, canary=()) -> Since:
    return Since(state.uidvalidity, state.uidnext, state.highestmodseq or NEVER, canary)


class TestRemoteContract:
    """Each test gets a mailbox of its own."""

    def test_what_is_offered(self, world):
        session = world.session()
        assert (session.condstore, session.qresync) == (world.condstore, world.qresync)

    def test_an_empty_mailbox(self, world):
        session = world.session()
        state = session.open(world.mailbox, None).state
        assert (state.exists, state.uidnext, state.read_only, state.any_keyword) == (0, 1, False, True)
        assert state.mask == fl.ALL
        assert list(session.views(Uid(1), None)) == []
        assert session.uids() == UidSet()
        opening = session.open(world.mailbox, since(world, state))
        assert (opening.canary(), list(opening.arrived()), list(opening.changed())) == ((), [], [])

    def test_a_missing_mailbox(self, world):
        session = world.session()
        with pytest.raises(MailboxMissing):
            session.open("no such mailbox", Since(1, Uid(5), 7, (Uid(3),)))
        assert session.open(world.mailbox, None).state.exists == 0

    def test_views(self, world):
        uids = [world.deliver(mail(1)), world.deliver(mail(2), "\\Seen $Forwarded Label"), world.deliver(mail(3))]
        session = world.session()
        state = session.open(world.mailbox, None).state
        found = {view.uid: view for view in session.views(Uid(1), None)}
        assert [(view.flags, view.keywords) for view in found.values()] == [
            (0, ()),
            (fl.SEEN | fl.FORWARDED, ("Label",)),
            (0, ()),
        ]
        assert list(found) == uids
        assert (state.highestmodseq is not None) == world.condstore
        if world.condstore:
            assert max(view.modseq for view in found.values()) == state.highestmodseq
        assert [view.uid for view in session.views(uids[1], uids[1])] == [uids[1]]
        assert [view.uid for view in session.views(Uid(uids[2] + 1), None)] == []  # n:* names the last one all the same

    def test_uids_and_status(self, world):
        uids = [world.deliver(mail(number)) for number in range(4)]
        world.expunge([uids[1]])
        session = world.session()
        state = session.open(world.mailbox, None).state
        assert session.uids() == UidSet.of([uids[0], uids[2], uids[3]])
        status = session.status(world.mailbox)
        assert (status.exists, status.uidnext, status.uidvalidity) == (3, state.uidnext, state.uidvalidity)
        assert session.status("no such mailbox") is None

    def test_opening_since(self, world):
        uids = [world.deliver(mail(number)) for number in range(5)]
        session = world.session()
        state = session.open(world.mailbox, None).state
        world.add_flags([uids[1]], "\\Flagged")
        world.expunge([uids[2], uids[4]])
        new = world.deliver(mail(9), "\\Answered")
        opening = session.open(world.mailbox, since(world, state, canary=(uids[3], uids[4])))
        assert opening.state.exists == 4
        assert [(shown.uid, shown.message_id) for shown in opening.canary()] == [(uids[3], "m3@example.org")]
        arrived = list(opening.arrived())
        assert [(arrival.view.uid, arrival.view.flags) for arrival in arrived] == [(new, fl.ANSWERED)]
        assert (arrived[0].identity.size, arrived[0].identity.message_id) == (len(mail(9)), "m9@example.org")
        assert to_epoch(arrived[0].identity.internaldate) == to_epoch(DATE)
        changes = list(opening.changed())
        known = {change.uid: change.flags for change in changes if not isinstance(change, Vanished)}
        known.pop(new, None)
        assert known == ({uids[1]: fl.FLAGGED} if world.condstore else {})
        gone = [uid for change in changes if isinstance(change, Vanished) for uid in change.uids if uid in uids]
        assert sorted(gone) == ([uids[2], uids[4]] if world.qresync else [])

    def test_the_expunge_of_the_last_message_is_in_the_delta(self, world):
        uids = [world.deliver(mail(number)) for number in range(3)]
        session = world.session()
        state = session.open(world.mailbox, None).state
        world.expunge([uids[2]])
        opening = session.open(world.mailbox, since(world, state))
        assert list(opening.arrived()) == []
        changes = list(opening.changed())
        assert (Vanished(UidSet.of([uids[2]])) in changes) == world.qresync

    def test_nothing_of_an_opening_has_to_be_taken(self, world):
        uids = [world.deliver(mail(number)) for number in range(3)]
        session = world.session()
        state = session.open(world.mailbox, None).state
        world.add_flags(uids, "\\Flagged")
        session.open(world.mailbox, since(world, state, canary=tuple(uids)))
        assert session.uids() == UidSet.of(uids)
        opening = session.open(world.mailbox, since(world, state, canary=tuple(uids)))
        assert list(opening.arrived()) == []
        assert len(list(opening.changed())) == (3 if world.condstore else 0)

    def test_another_uidvalidity(self, world):
        uid = world.deliver(mail(1))
        session = world.session()
        state = session.open(world.mailbox, None).state
        world.renumber()
        session = world.session()
        opening = session.open(world.mailbox, since(world, state, canary=(uid,)))
        assert opening.state.uidvalidity != state.uidvalidity
        assert (opening.canary(), list(opening.arrived()), list(opening.changed())) == ((), [], [])

    def test_read_only(self, world):
        uid = world.deliver(mail(1))
        session = world.session()
        state = session.open(world.mailbox, None, read_only=True).state
        assert state.read_only
        assert [view.uid for view in session.views(Uid(1), None)] == [uid]

    def test_moved(self, world):
        uids = [world.deliver(mail(number)) for number in range(3)]
        session = world.session()
        session.open(world.mailbox, None)
        assert not session.moved()
        world.deliver(mail(7))
        session.uids()
        list(session.views(Uid(1), None))
        assert session.moved()
        assert not session.moved()
        world.expunge([uids[0]])
        list(session.views(Uid(1), None))
        session.uids()
        assert session.moved()
        assert not session.moved()

    def test_identities_and_headers(self, world):
        uids = [world.deliver(mail(1)), world.deliver(b"Subject: none\r\n\r\nx\r\n"), world.deliver(mail(3))]
        session = world.session()
        session.open(world.mailbox, None)
        found = {shown.uid: shown for shown in session.identities(UidSet.of([*uids, 999]))}
        assert [shown.message_id for shown in found.values()] == ["m1@example.org", "", "m3@example.org"]
        assert [shown.size for shown in found.values()] == [len(mail(1)), 20, len(mail(3))]
        headers = dict(session.headers(UidSet.of(uids[:2])))
        assert headers == {uids[0]: mail(1)[: -len(b"the end\r\n")], uids[1]: b"Subject: none\r\n\r\n"}

    @pytest.mark.parametrize("filler", [0, CHUNK // 18 + 100])
    def test_messages_come_byte_for_byte(self, world, filler):
        bodies = [mail(number, filler=filler) for number in range(3)]
        uids = [world.deliver(body, "\\Seen") for body in bodies]
        session = world.session()
        session.open(world.mailbox, None)
        found = {}
        for message in session.messages([uids[2], Uid(999), uids[0]]):
            chunks = list(message.body)
            assert max(map(len, chunks)) <= CHUNK
            assert to_epoch(message.internaldate) == to_epoch(DATE)
            assert message.view.flags == fl.SEEN
            found[message.view.uid] = b"".join(chunks)
        assert found == {uids[0]: bodies[0], uids[2]: bodies[2]}

    def test_messages_may_be_left_half_way(self, world):
        uids = [world.deliver(mail(number, filler=CHUNK // 9)) for number in range(3)]
        session = world.session()
        session.open(world.mailbox, None)
        for message in session.messages(uids):
            next(message.body)
            break
        assert session.uids() == UidSet.of(uids)

    def test_store(self, world):
        uids = [world.deliver(mail(1), "\\Seen"), world.deliver(mail(2))]
        session = world.session()
        session.open(world.mailbox, None)
        shown = session.store(UidSet.of([*uids, 999]), add=fl.FLAGGED | fl.DELETED, remove=0)
        assert {uid: view.flags for uid, view in shown.items()} == {
            uids[0]: fl.SEEN | fl.FLAGGED | fl.DELETED,
            uids[1]: fl.FLAGGED | fl.DELETED,
        }
        shown = session.store(UidSet.of(uids), add=0, remove=fl.DELETED)
        assert [view.flags for view in shown.values()] == [fl.SEEN | fl.FLAGGED, fl.FLAGGED]
        assert [view.flags for view in session.views(Uid(1), None)] == [fl.SEEN | fl.FLAGGED, fl.FLAGGED]

    @pytest.mark.parametrize("filler", [0, CHUNK // 18 + 100])
    def test_append(self, world, filler):
        session = world.session()
        state = session.open(world.mailbox, None).state
        body = mail(1, filler=filler)
        pieces = [body[at : at + 10_000] for at in range(0, len(body), 10_000)]
        first = Outgoing(fl.SEEN | fl.DRAFT, ["Label"], DATE, len(body), pieces)
        plain = Outgoing(0, (), "", len(body), pieces)
        done, other = session.append(world.mailbox, [first, plain])
        assert done == Appended(state.uidnext, state.uidvalidity)
        (message,) = session.messages([done.uid])
        assert (message.view.flags, message.view.keywords) == (fl.SEEN | fl.DRAFT, ("Label",))
        assert to_epoch(message.internaldate) == to_epoch(DATE)
        assert message.size == len(body)
        assert [view.flags for view in session.views(other.uid, other.uid)] == [0]

    def test_append_of_many(self, world):
        """In one command, where the server takes such; the UIDs are in the order of the messages."""
        session = world.session()
        session.open(world.mailbox, None)
        bodies = [mail(number, filler=number) for number in range(5)]
        messages = [Outgoing(fl.SEEN, (), DATE, len(body), [body]) for body in bodies]
        assert not session.multiappend or all(session.unasked(message.size) for message in messages)
        append = session.append_all if session.multiappend else session.append
        uids = [done.uid for done in append(world.mailbox, messages)]
        assert {message.view.uid: b"".join(message.body) for message in session.messages(uids)} == dict(
            zip(uids, bodies, strict=True)
        )

    def test_append_to_a_missing_mailbox(self, world):
        session = world.session()
        session.open(world.mailbox, None)
        message = Outgoing(0, (), DATE, 9, [b"a: b\r\n\r\nx"])
        (answer,) = session.append("no such mailbox", [message])
        assert isinstance(answer, MailboxMissing)
        if session.multiappend:
            with pytest.raises(MailboxMissing):
                session.append_all("no such mailbox", [message, message])
        assert session.open(world.mailbox, None).state.exists == 0

    def test_an_append_of_another_size_leaves_nothing(self, world):
        session = world.session()
        with pytest.raises(ConnectionLost):
            list(session.append(world.mailbox, [Outgoing(0, (), DATE, 100, [b"a: b\r\n\r\nshort\r\n"])]))
        session.close()
        assert world.session().open(world.mailbox, None).state.exists == 0

    def test_a_cut_link(self, world):
        world.deliver(mail(1))
        session = world.session()
        session.open(world.mailbox, None)
        world.cut()
        with pytest.raises(ConnectionLost):
            session.uids()
        with pytest.raises(ConnectionLost):
            session.uids()
        session.close()
        session.close()
