"""The home's SQLite file: opening, schema and migrations.

Owns the connection and the table definitions; the modules that read and write the tables
(catalog, contacts, memory) own their queries. Must not know the network or any package but
the standard library.

Write-ahead logging lets the short-lived `shoal get` use the same file while a peer runs.
`synchronous=NORMAL` may lose the last transactions on a power cut, never consistency; what must
not be lost (a received delivery) is written inside `durable()`, which waits for the disk.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peer.errors import DamagedDatabase

BUSY_TIMEOUT_S = 5.0

# One entry a version, applied in order; never edited once released, only added to.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE share (
        name TEXT PRIMARY KEY,
        path TEXT NOT NULL,
        content_id BLOB NOT NULL,
        size_bytes INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        inode INTEGER NOT NULL,
        manifest BLOB NOT NULL,
        added_ms INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX share_by_content ON share (content_id);
    CREATE TABLE listed (
        content_id BLOB NOT NULL,
        name TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        seen_ms INTEGER NOT NULL,
        PRIMARY KEY (content_id, name)
    ) STRICT;
    CREATE TABLE part (
        part_key TEXT PRIMARY KEY,
        content_id BLOB NOT NULL,
        bitmap BLOB NOT NULL,
        updated_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE contact (
        nickname TEXT PRIMARY KEY,
        peer_id BLOB NOT NULL,
        may_send INTEGER NOT NULL,
        added_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE known_peer (
        peer_id BLOB PRIMARY KEY,
        nickname TEXT NOT NULL,
        address TEXT NOT NULL,
        last_seen_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE received (
        sender BLOB NOT NULL,
        seal_id BLOB NOT NULL,
        delivery_id BLOB NOT NULL,
        name TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        path TEXT NOT NULL,
        at_ms INTEGER NOT NULL,
        PRIMARY KEY (sender, seal_id)
    ) STRICT;
    CREATE TABLE dht_record (entry_id BLOB PRIMARY KEY, saved BLOB NOT NULL) STRICT;
    CREATE TABLE dht_contact (peer_id BLOB PRIMARY KEY, saved BLOB NOT NULL) STRICT;
    CREATE TABLE dht_schedule (draft_id BLOB PRIMARY KEY, saved BLOB NOT NULL) STRICT;
    """,
)


class Database:
    """The one connection of a process to `shoal.db`; used from the event loop's thread."""

    def __init__(self, path: Path) -> None:
        """Open the file, made when missing; raises DamagedDatabase with what to do."""
        self.path = path
        try:
            self._connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute("PRAGMA foreign_keys=ON")
            self._migrate()
        except sqlite3.DatabaseError as error:
            raise DamagedDatabase(f"{path} cannot be used: {error}") from error
        with contextlib.suppress(OSError):
            path.chmod(0o600)

    def close(self) -> None:
        """Checkpoint and close; safe to call twice."""
        self._connection.close()

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return all rows of a query; the bounds stand in the query or the table's owner."""
        return self._connection.execute(query, values).fetchall()

    def run(self, statement: str, *values: object) -> int:
        """Run one statement in a transaction of its own; return how many rows it changed."""
        return self._connection.execute(statement, values).rowcount

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements inside land together or not at all."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def durable(self) -> Iterator[None]:
        """A transaction that is on the disk when the block ends (synchronous=FULL)."""
        self._connection.execute("PRAGMA synchronous=FULL")
        try:
            with self.transaction():
                yield
        finally:
            self._connection.execute("PRAGMA synchronous=NORMAL")

    def _migrate(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise DamagedDatabase(
                f"{self.path} was written by a newer shoal", hint="upgrade shoal, or use --home"
            )
        if version == len(MIGRATIONS):
            return
        with self.transaction():
            # Read again under the lock: another process may have migrated meanwhile.
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            for script in MIGRATIONS[version:]:
                for statement in filter(str.strip, script.split(";")):
                    self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
