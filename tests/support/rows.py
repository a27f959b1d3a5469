# SPDX-License-Identifier: MIT
"""A state in memory, and rows put there and read back without the program's own queries."""

from __future__ import annotations

from typing import Any

from pushpull.model import PairKey
from pushpull.store import Store

KEY = PairKey("mail.example.org", "me", "INBOX", "INBOX")


def memory_store() -> Store:
    """A store with one pair, number 1."""
    store = Store.snapshot("/nonexistent/state")
    store.add_pair(KEY)
    return store


def put(store: Store, *, pair: int = 1, **columns: Any) -> int:
    """Insert a row as it is; returns its number."""
    values = {"pair": pair, **columns}
    names = ", ".join(values)
    marks = ", ".join("?" * len(values))
    added = store.db.execute(f"INSERT INTO pairing ({names}) VALUES ({marks})", tuple(values.values()))
    assert added.lastrowid is not None
    return added.lastrowid


def row(store: Store, number: int) -> dict[str, Any]:
    """All columns of a row; empty when it does not exist."""
    cursor = store.db.execute("SELECT * FROM pairing WHERE id = ?", (number,))
    found = cursor.fetchone()
    return dict(zip((name for name, *_ in cursor.description), found, strict=True)) if found else {}


def columns(store: Store, number: int, *names: str) -> tuple[Any, ...]:
    """Some columns of a row that must exist."""
    found = row(store, number)
    return tuple(found[name] for name in names)


def rows(store: Store, pair: int = 1) -> list[dict[str, Any]]:
    """All rows of a pair, by number."""
    numbers = store.db.execute("SELECT id FROM pairing WHERE pair = ? ORDER BY id", (pair,)).fetchall()
    return [row(store, number) for (number,) in numbers]


def plans_of(store: Store, action: Any) -> list[str]:
    """EXPLAIN QUERY PLAN of each statement that `action()` runs, one text each (SQLite's words)."""
    statements: list[str] = []
    store.db.set_trace_callback(statements.append)
    try:
        action()
    finally:
        store.db.set_trace_callback(None)
    wanted = [text for text in statements if text.startswith(("SELECT", "WITH", "UPDATE", "DELETE"))]
    return ["\n".join(str(detail) for *_, detail in store.db.execute(f"EXPLAIN QUERY PLAN {text}")) for text in wanted]
