# SPDX-License-Identifier: MIT
"""The in-memory twins keep the same contracts as the real folder and the real session."""

from __future__ import annotations

import pytest

from pushpull.flags import from_imap
from pushpull.message import fingerprint
from pushpull.model import Uid
from pushpull.ports import Local
from tests.contract import test_local, test_remote
from tests.twins import MemoryFolder, MemoryLocal, MemoryRemote, MemoryServer


class FolderTwin:
    """A folder in memory as others see and change it (`test_local.Harness`)."""

    def __init__(self) -> None:
        self._folder = MemoryFolder()
        self.local: Local = self.reopened()

    def reopened(self) -> MemoryLocal:
        return MemoryLocal(self._folder)

    def put(self, path: bytes, data: bytes = test_local.FILE) -> None:
        self._folder.put(path, data)

    def remove(self, path: bytes) -> None:
        self._folder.remove(path)

    def rename(self, old: bytes, new: bytes) -> None:
        self._folder.rename(old, new)

    def remove_directory(self, path: bytes) -> None:
        self._folder.directories.remove(path)

    def files(self) -> dict[bytes, bytes]:
        return {path: file.data for path, file in self._folder.files.items()}


@pytest.fixture
def harness() -> FolderTwin:
    return FolderTwin()


class TestFolder(test_local.TestFolder):
    pass


class TestMarker(test_local.TestMarker):
    pass


class TestScan(test_local.TestScan):
    pass


class TestReading(test_local.TestReading):
    pass


class TestDelivery(test_local.TestDelivery):
    pass


class TestFlags(test_local.TestFlags):
    pass


def test_staged_bytes_can_be_read_back():
    twin = FolderTwin()
    twin.local.create()
    staged = twin.local.stage([test_local.WIRE], 0.0)
    assert fingerprint(staged.chunks()) == staged.fingerprint


class ServerTwin:
    """A mailbox in memory that others change too, and sessions to look at it (as `test_remote.DovecotWorld`)."""

    mailbox = "INBOX"

    def __init__(self, *, condstore: bool, qresync: bool) -> None:
        self.condstore, self.qresync = condstore, qresync
        self._server = MemoryServer(condstore=condstore, qresync=qresync)
        self._sessions: list[MemoryRemote] = []

    def session(self) -> MemoryRemote:
        self._sessions.append(MemoryRemote(self._server))
        return self._sessions[-1]

    def deliver(self, message: bytes, flags: str = "") -> Uid:
        return Uid(self._server.add(message, *from_imap(flags.split()), test_remote.DATE))

    def add_flags(self, uids: list[int], flags: str) -> None:
        for uid in uids:
            self._server.change(uid, from_imap(flags.split())[0])

    def expunge(self, uids: list[int]) -> None:
        for uid in uids:
            self._server.expunge(uid)

    def renumber(self) -> None:
        self._server.renumber()

    def cut(self) -> None:
        for session in self._sessions:
            session.cut()


@pytest.fixture(params=[(True, True), (True, False), (False, False)], ids=["qresync", "condstore", "plain"])
def world(request: pytest.FixtureRequest) -> ServerTwin:
    condstore, qresync = request.param
    return ServerTwin(condstore=condstore, qresync=qresync)


class TestRemoteContract(test_remote.TestRemoteContract):
    pass
