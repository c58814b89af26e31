"""The journal of files received: what makes a redelivered letter have no second effect.

Owns the table `received`, keyed by (sender, seal id): both are chosen by the sender and signed,
so that a push, a mailbox copy and a broker's redelivery of one letter meet in one row.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from peer.database import Database

RECEIVED_MAX = 100_000
"""The oldest beyond it go; a letter lives 30 days at most, so none of these comes again."""


@dataclasses.dataclass(frozen=True, slots=True)
class Received:
    """One delivery whose file or folder is complete in the inbox."""

    sender: bytes
    seal_id: bytes
    delivery_id: bytes
    name: str
    size_bytes: int
    path: str
    at_ms: int
    files: int | None = None
    """How many files a folder has; None: it is a file."""

    @property
    def described(self) -> str:
        """What came, for a log: its name, and of a folder how many files it has."""
        if self.files is None:
            return repr(self.name)
        return f"the folder {self.name!r} ({self.files} file{'s' * (self.files != 1)})"


class ReceivedJournal:
    """Queries over the table that it owns; a row is on the disk before `add` returns."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        *,
        sender: bytes,
        seal_id: bytes,
        delivery_id: bytes,
        name: str,
        size_bytes: int,
        path: Path,
        files: int | None = None,
    ) -> None:
        """Journal a delivery durably; the same one again changes nothing."""
        with self._database.durable():
            self._database.run(
                "INSERT OR IGNORE INTO received VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                sender,
                seal_id,
                delivery_id,
                name,
                size_bytes,
                str(path),
                time.time_ns() // 1_000_000,
                files,
            )
            self._database.run(
                "DELETE FROM received WHERE rowid IN"
                " (SELECT rowid FROM received ORDER BY at_ms DESC LIMIT -1 OFFSET ?)",
                RECEIVED_MAX,
            )

    def find(self, sender: bytes, seal_id: bytes) -> Received | None:
        """Return the journaled delivery of this sender and seal."""
        rows = self._select("WHERE sender = ? AND seal_id = ?", sender, seal_id)
        return rows[0] if rows else None

    def all(self) -> list[Received]:
        """Return what was received, the latest last."""
        return self._select("ORDER BY at_ms")

    def _select(self, where: str, *values: object) -> list[Received]:
        rows = self._database.rows(
            "SELECT sender, seal_id, delivery_id, name, size_bytes, path, at_ms, files"  # noqa: S608
            f" FROM received {where}",
            *values,
        )
        return [Received(*row) for row in rows]
