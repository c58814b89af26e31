"""What the courier must never forget: the outbox, what was received, receipts still to return.

Owns these tables; in the same file lie the `placements` of the mailbox store. Each method is
durable when it returns. Must not know stores, wires or clocks.
"""

# ruff: noqa: S608 - statements are joined from constants of this module only

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from queueing.ledger import Ledger, unusable
from queueing.placements import SCHEMA as _PLACEMENTS_SCHEMA
from queueing.placements import PlacementBook
from queueing.states import ENDS, State
from queueing.store import StoreKind

OUTBOX_ROWS_MAX = 10_000
"""Rows that `rows` returns; ended ones are pruned by age."""
DUE_PAGE_MAX = 200
_SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    delivery_id BLOB NOT NULL UNIQUE,
    seal_id BLOB NOT NULL,
    name TEXT NOT NULL,
    recipient BLOB NOT NULL,
    content_id BLOB NOT NULL,
    size INTEGER NOT NULL,
    state TEXT NOT NULL,
    kind TEXT NOT NULL,
    held_by TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    reason TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_try_ms INTEGER NOT NULL DEFAULT 0,
    only TEXT NOT NULL DEFAULT 'null'
);
CREATE INDEX IF NOT EXISTS outbox_by_state ON outbox (state, next_try_ms);
CREATE TABLE IF NOT EXISTS received (
    sender BLOB NOT NULL,
    seal_id BLOB NOT NULL,
    delivery_id BLOB NOT NULL,
    receipt BLOB NOT NULL,
    expires_ms INTEGER NOT NULL,
    PRIMARY KEY (sender, seal_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS receipts_due (
    delivery_id BLOB PRIMARY KEY,
    sender BLOB NOT NULL,
    receipt BLOB NOT NULL,
    expires_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_try_ms INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
PRAGMA user_version = 1;
"""
_OUTBOX = (
    "delivery_id, seal_id, name, recipient, content_id, size, state, kind, held_by,"
    " created_ms, expires_ms, reason, attempts, only, files"
)


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One delivery as its sender knows it."""

    delivery_id: bytes
    seal_id: bytes
    name: str
    recipient: bytes
    content_id: bytes
    size: int
    state: State
    kind: StoreKind
    """Which backend keeps it."""
    held_by: tuple[str, ...]
    """Who keeps it, as shown; empty while only the sender does."""
    created_ms: int
    expires_ms: int
    reason: str = ""
    """Why it was refused, or why it is not stored yet; may be remote text."""
    attempts: int = 0
    only: tuple[StoreKind, ...] | None = None
    """Backends that the sender allows; None for all."""
    files: int | None = None
    """How many files a folder has; None: it is a file."""


@dataclass(frozen=True, slots=True)
class Received:
    """A letter that this peer took or refused once and for all."""

    delivery_id: bytes
    receipt: bytes


@dataclass(frozen=True, slots=True)
class DueReceipt:
    """A receipt that its sender has not confirmed yet."""

    delivery_id: bytes
    sender: bytes
    receipt: bytes
    attempts: int


class Journal:
    """The courier's memory; build it with `Journal.open`."""

    def __init__(self, path: Path) -> None:
        self._ledger = Ledger(path, _SCHEMA + _PLACEMENTS_SCHEMA, "the journal of deliveries")
        self._ledger.add_columns("outbox", {"files": "INTEGER"})
        self.placements = PlacementBook(self._ledger)
        """Which hosts keep which delivery."""

    @classmethod
    async def open(cls, path: Path) -> "Journal":
        """Open or create the journal; StorageFailed where it is damaged or the disk full."""
        try:
            return await asyncio.to_thread(cls, path)
        except sqlite3.Error as error:
            raise unusable(str(path), path.parent, error) from error

    async def close(self) -> None:
        """Close the file; a second close does nothing."""
        await self._ledger.close()

    # The outbox.

    async def add(self, row: OutboxRow) -> None:
        """Add a delivery."""
        values = (
            row.delivery_id, row.seal_id, row.name, row.recipient, row.content_id, row.size,
            row.state, row.kind, json.dumps(row.held_by), row.created_ms, row.expires_ms,
            row.reason, row.attempts, json.dumps(row.only), row.files,
        )  # fmt: skip
        marks = ", ".join("?" * len(values))
        await self._execute(f"INSERT INTO outbox ({_OUTBOX}) VALUES ({marks})", values)

    async def update(self, row: OutboxRow, next_try_ms: int = 0) -> bool:
        """Write what may change in a row: state, keepers, reason, attempts.

        An end is never left: False when the delivery has ended meanwhile, and nothing is written.
        """
        marks = ", ".join("?" * len(ENDS))
        changed = await self._fetch(
            "UPDATE outbox SET state = ?, kind = ?, held_by = ?, reason = ?, attempts = ?,"
            f" next_try_ms = ? WHERE delivery_id = ? AND state NOT IN ({marks})"
            " RETURNING delivery_id",
            (
                row.state, row.kind, json.dumps(row.held_by), row.reason, row.attempts,
                next_try_ms, row.delivery_id, *sorted(ENDS),
            ),
        )  # fmt: skip
        return bool(changed)

    async def get(self, delivery_id: bytes) -> OutboxRow | None:
        """Return one delivery."""
        found = await self._rows("WHERE delivery_id = ?", (delivery_id,))
        return found[0] if found else None

    async def rows(self, *states: State, next_try_before_ms: int | None = None) -> list[OutboxRow]:
        """Return deliveries, oldest first: all, or those in some states and due to be tried."""
        marks = ", ".join("?" * len(states or State))
        condition, values = f"WHERE state IN ({marks})", list[object](states or State)
        if next_try_before_ms is not None:
            condition += " AND next_try_ms <= ?"
            values.append(next_try_before_ms)
        return await self._rows(condition, values)

    async def expired(self, now_ms: int) -> list[OutboxRow]:
        """Return deliveries that are under way after their expiry."""
        return await self._rows(
            "WHERE state IN (?, ?) AND expires_ms <= ?", (State.SPOOLED, State.STORED, now_ms)
        )

    async def prune(self, now_ms: int, keep_ended_ms: int) -> None:
        """Forget what has expired; ended deliveries stay listed for some time more."""
        marks = ", ".join("?" * len(ENDS))
        await self._execute(
            f"DELETE FROM outbox WHERE state IN ({marks}) AND expires_ms <= ?",
            (*sorted(ENDS), now_ms - keep_ended_ms),
        )
        for statement in (
            "DELETE FROM received WHERE expires_ms <= ?",
            "DELETE FROM receipts_due WHERE expires_ms <= ?",
        ):
            await self._execute(statement, (now_ms,))
        await self.placements.prune(now_ms)

    # What was received.

    async def received(self, sender: bytes, seal_id: bytes) -> Received | None:
        """Return the letter if this peer is done with it."""
        found = await self._fetch(
            "SELECT delivery_id, receipt FROM received WHERE sender = ? AND seal_id = ?",
            (sender, seal_id),
        )
        return Received(bytes(found[0][0]), bytes(found[0][1])) if found else None

    async def take(
        self, sender: bytes, seal_id: bytes, delivery_id: bytes, receipt: bytes, expires_ms: int,
        *, due: bool,
    ) -> None:  # fmt: skip
        """Note that a letter is done with, and (when `due`) that its receipt is to be returned."""

        statements: list[tuple[str, Sequence[object]]] = [
            (
                "INSERT OR REPLACE INTO received VALUES (?, ?, ?, ?, ?)",
                (sender, seal_id, delivery_id, receipt, expires_ms),
            )
        ]
        if due:
            insert = (
                "INSERT OR REPLACE INTO receipts_due (delivery_id, sender, receipt, expires_ms)"
                " VALUES (?, ?, ?, ?)"
            )
            statements.append((insert, (delivery_id, sender, receipt, expires_ms)))
        await self._ledger.execute_all(statements)

    # Receipts to return.

    async def due(self, now_ms: int) -> list[DueReceipt]:
        """Return receipts whose next try is due, bounded."""
        found = await self._fetch(
            "SELECT delivery_id, sender, receipt, attempts FROM receipts_due"
            " WHERE next_try_ms <= ? ORDER BY next_try_ms LIMIT ?",
            (now_ms, DUE_PAGE_MAX),
        )
        return [
            DueReceipt(bytes(delivery_id), bytes(sender), bytes(receipt), attempts)
            for delivery_id, sender, receipt, attempts in found
        ]

    async def postpone(self, delivery_id: bytes, next_try_ms: int) -> None:
        """Note a failed try to return a receipt."""
        await self._execute(
            "UPDATE receipts_due SET attempts = attempts + 1, next_try_ms = ?"
            " WHERE delivery_id = ?",
            (next_try_ms, delivery_id),
        )

    async def hasten(self, sender: bytes) -> None:
        """Let receipts for a sender that shows itself be returned at the next pass."""
        await self._execute(
            "UPDATE receipts_due SET next_try_ms = 0 WHERE sender = ? AND next_try_ms > 0",
            (sender,),
        )

    async def returned(self, delivery_id: bytes) -> None:
        """Note that the sender has the receipt."""
        await self._execute("DELETE FROM receipts_due WHERE delivery_id = ?", (delivery_id,))

    async def _rows(self, condition: str, values: Sequence[object]) -> list[OutboxRow]:
        found = await self._fetch(
            f"SELECT {_OUTBOX} FROM outbox {condition} ORDER BY position LIMIT {OUTBOX_ROWS_MAX}",
            values,
        )
        return [_outbox_row(each) for each in found]

    async def _execute(self, statement: str, values: Sequence[object]) -> None:
        await self._ledger.execute(statement, *values)

    async def _fetch(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        return await self._ledger.fetch(statement, *values)


def _outbox_row(values: tuple[Any, ...]) -> OutboxRow:
    (delivery_id, seal_id, name, recipient, content_id, size, state, kind, held_by, created_ms,
     expires_ms, reason, attempts, only, files) = values  # fmt: skip
    return OutboxRow(
        bytes(delivery_id), bytes(seal_id), name, bytes(recipient), bytes(content_id), size,
        State(state), StoreKind(kind), tuple(json.loads(held_by)), created_ms, expires_ms, reason,
        attempts, None if (kinds := json.loads(only)) is None else tuple(map(StoreKind, kinds)),
        files,
    )  # fmt: skip
