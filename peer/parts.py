"""Which chunks of begun downloads are there: the Journal that transfer asks for.

Owns the table `part`. Its rows are hints: a resumed download verifies what they claim.
"""

from __future__ import annotations

import time

from peer.database import Database
from transfer.download import JournalEntry

PARTS_MAX = 10_000


class PartJournal:
    """The journal of one home, for a running peer and for short-lived clients alike."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, part_key: str) -> JournalEntry | None:
        """Return what was saved of a begun download."""
        rows = self._database.rows(
            "SELECT content_id, bitmap FROM part WHERE part_key = ?", part_key
        )
        return JournalEntry(rows[0][0], rows[0][1]) if rows else None

    async def save(self, part_key: str, content_id: bytes, bitmap: bytes) -> None:
        """Note which chunks of a download are verified and written."""
        with self._database.transaction():
            self._database.run(
                "INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?)",
                part_key,
                content_id,
                bitmap,
                time.time_ns() // 1_000_000,
            )
            self._database.run(
                "DELETE FROM part WHERE part_key IN"
                " (SELECT part_key FROM part ORDER BY updated_ms DESC LIMIT -1 OFFSET ?)",
                PARTS_MAX,
            )

    async def forget(self, part_key: str) -> None:
        """Drop the note of a download that is finished."""
        self._database.run("DELETE FROM part WHERE part_key = ?", part_key)
