# SPDX-License-Identifier: MIT
"""A state file that a disk, a crash or a bad copy changed: it opens and can be read, or it is told to be corrupt.

Nothing else: no traceback, no index that hides rows, which would make every file a new one.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushpull.errors import PushpullError, StateUnusable
from pushpull.model import Identity, Uid
from pushpull.store import Store
from tests.support.rows import KEY, put

ROWS = 150
PAGE = 4096


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A state file with rows on several pages, and a canary."""
    path = tmp_path_factory.mktemp("sound") / "state"
    store = Store.open(str(path))
    pair = store.add_pair(KEY)
    store.update_pair(pair, canary=(Identity(Uid(7), 100, "1-Jan-2026 00:00:00 +0000", "<seven@example.org>"),))
    with store.transaction():
        for uid in range(1, ROWS + 1):
            put(store, pair=pair.id, uid=uid, uniquename=b"%d.M1.host" % uid, message_id=f"message-{uid}@example.org")
    store.close()
    return path.read_bytes()


def opened(path: Path, data: bytes) -> str:
    """How an open ends: "sound", or what it says of the file. Every row can be reached by each index then."""
    path.write_bytes(data)
    try:
        store = Store.open(str(path))
    except StateUnusable as error:
        assert path.read_bytes() == data
        return "corrupt" if error.corrupt else "refused"
    try:
        assert len(store.state_id) == 16
        store.pairs()
        for column in ("uid", "uniquename"):
            query = f"SELECT count(*) FROM pairing INDEXED BY pairing_{column} WHERE {column} IS NOT NULL"
            assert store.db.execute(query).fetchone() == (ROWS,)
        list(store.db.execute("SELECT * FROM pairing"))
    except PushpullError as error:
        raise AssertionError("damage that shows only later") from error
    finally:
        store.close()
    return "sound"


def flips(data: bytes, count: int) -> Iterator[tuple[int, bytes]]:
    """One bit of a byte that is in use, at each of so many places; the same each time."""
    chance = random.Random(20261127)
    for at in chance.sample([at for at, byte in enumerate(data) if byte], count):
        changed = bytearray(data)
        changed[at] ^= 1 << chance.randrange(8)
        yield at, bytes(changed)


def test_one_bit_is_another(tmp_path: Path, sound: bytes) -> None:
    ends = {at: opened(tmp_path / str(at), data) for at, data in flips(sound, 120)}
    assert {"sound", "corrupt"} <= set(ends.values())


def test_one_bit_of_the_schema_is_another(tmp_path: Path, sound: bytes) -> None:
    """The header, and the pages with the statements: SQLite quotes what it cannot read of them, whatever the bytes."""
    pages = [sound[at : at + PAGE] for at in range(0, len(sound), PAGE)]
    schema = [number for number, page in enumerate(pages) if number == 0 or b"CREATE " in page]
    for at, data in flips(b"".join(pages[number] for number in schema), 100):
        changed = pages.copy()
        for place, number in enumerate(schema):
            changed[number] = data[place * PAGE : (place + 1) * PAGE]
        assert opened(tmp_path / str(at), b"".join(changed)) in ("sound", "corrupt", "refused")


def test_cut_at_each_page(tmp_path: Path, sound: bytes) -> None:
    for end in range(PAGE, len(sound), PAGE):
        assert opened(tmp_path / str(end), sound[:end]) == "corrupt"


def test_a_page_in_the_place_of_another(tmp_path: Path, sound: bytes) -> None:
    """Each page is sound in itself, also where it does not belong."""
    pages = [sound[at : at + PAGE] for at in range(0, len(sound), PAGE)]
    for number, page in enumerate(pages):
        other = pages[(number + 7) % len(pages)]
        if page != other:
            changed = [*pages[:number], other, *pages[number + 1 :]]
            assert opened(tmp_path / str(number), b"".join(changed)) in ("corrupt", "refused")


def test_an_index_that_lacks_its_rows(tmp_path: Path, sound: bytes) -> None:
    path = tmp_path / "state"
    path.write_bytes(sound)
    connection = sqlite3.connect(path, isolation_level=None)
    roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_master WHERE type = 'index'"))
    connection.close()
    empty, full = roots["pairing_drafts"] - 1, roots["pairing_uniquename"] - 1
    changed = bytearray(sound)
    changed[full * PAGE : (full + 1) * PAGE] = sound[empty * PAGE : (empty + 1) * PAGE]
    assert opened(path, bytes(changed)) == "corrupt"


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE pair SET canary = 'what?'",
        "UPDATE pair SET canary = '[[1, 2]]'",
        "DELETE FROM meta",
        "UPDATE meta SET value = 'a name: that no marker holds'",
        "DROP INDEX pairing_uid",
        "ALTER TABLE pair DROP COLUMN hook_due",
    ],
)
def test_sound_to_sqlite_and_not_to_us(tmp_path: Path, sound: bytes, damage: str) -> None:
    path = tmp_path / "state"
    path.write_bytes(sound)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute(damage)
    connection.close()
    assert opened(path, path.read_bytes()) == "corrupt"


def test_a_text_that_is_no_utf_8_is_another_text(tmp_path: Path, sound: bytes) -> None:
    at = sound.index(b"message-9@")
    changed = bytearray(sound)
    changed[at] = 0xFF
    assert opened(tmp_path / "state", bytes(changed)) == "sound"
