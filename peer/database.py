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
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from identity.files import is_full
from peer.errors import DamagedDatabase, DatabaseBusy, HomeFull
from peer.failures import Failure, HomeUnusable

BUSY_TIMEOUT_S = 5.0
BUSY_PAUSE_S = 0.01
APPLICATION_ID = 0x53484F41
"""Stands in the file's header, so that another program's file is told from ours: "SHOA"."""

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
    """
    CREATE TABLE tree (
        key INTEGER PRIMARY KEY AUTOINCREMENT,
        root TEXT NOT NULL,
        content_id BLOB NOT NULL
    ) STRICT;
    CREATE TABLE tree_file (
        tree INTEGER NOT NULL,
        content_id BLOB NOT NULL,
        path TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        inode INTEGER NOT NULL,
        manifest BLOB,
        PRIMARY KEY (tree, content_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX tree_file_by_content ON tree_file (content_id);
    """,
    """
    CREATE TABLE watched (
        path TEXT PRIMARY KEY,
        folder TEXT NOT NULL,
        name TEXT NOT NULL,
        state TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        inode INTEGER NOT NULL,
        ctime_ns INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX watched_by_folder ON watched (folder, path);
    CREATE INDEX share_by_path ON share (path);
    """,
    "ALTER TABLE received ADD COLUMN files INTEGER;",
)


class Database:
    """The one connection of a process to `shoal.db`; used from the event loop's thread.

    What SQLite cannot do is raised as the Failure that a person can act on: DamagedDatabase,
    DatabaseBusy, HomeFull, HomeUnusable. A statement waits BUSY_TIMEOUT_S for another process.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, made when missing; another program's file is left as it is."""
        self.path = path
        with self._explaining():
            self._connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            self._open()
        except BaseException:
            self._connection.close()
            raise
        with contextlib.suppress(OSError):
            path.chmod(0o600)

    def close(self) -> None:
        """Checkpoint and close; safe to call twice."""
        self._connection.close()

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return all rows of a query; the bounds stand in the query or the table's owner."""
        with self._explaining():
            return self._connection.execute(query, values).fetchall()

    def run(self, statement: str, *values: object) -> int:
        """Run one statement in a transaction of its own; return how many rows it changed."""
        with self._explaining():
            return self._connection.execute(statement, values).rowcount

    def run_many(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Run one statement for each of many rows; several times faster than one by one."""
        with self._explaining():
            self._connection.executemany(statement, rows)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements inside land together or not at all."""
        self.run("BEGIN IMMEDIATE")
        try:
            yield
            self.run("COMMIT")
        except BaseException:
            # A full disk rolls back by itself; whatever else failed must not stay half done.
            if self._connection.in_transaction:
                self.run("ROLLBACK")
            raise

    @contextlib.contextmanager
    def durable(self) -> Iterator[None]:
        """A transaction that is on the disk when the block ends (synchronous=FULL)."""
        self.run("PRAGMA synchronous=FULL")
        try:
            with self.transaction():
                yield
        finally:
            self.run("PRAGMA synchronous=NORMAL")

    def _open(self) -> None:
        self._require_ours()
        self._use_write_ahead_log()
        self.run("PRAGMA synchronous=NORMAL")
        self.run("PRAGMA foreign_keys=ON")
        self._migrate()

    def _require_ours(self) -> None:
        """Look before anything is written: a file that is not ours keeps its bytes."""
        self.run("BEGIN")  # one snapshot: another process may be making the tables now
        try:
            application_id = self._number("PRAGMA application_id")
            version = self._number("PRAGMA user_version")
            tables = self._number("SELECT count(*) FROM sqlite_schema")
        except sqlite3.DatabaseError as error:  # no query of ours is wrong: the file is
            raise DamagedDatabase(f"{self.path} cannot be used: {error}") from error
        finally:
            if self._connection.in_transaction:  # a full disk ends it by itself
                self.run("ROLLBACK")
        if application_id == APPLICATION_ID and version < 1:
            raise DamagedDatabase(f"{self.path} cannot be used: it lost its version")
        if application_id != APPLICATION_ID and (application_id or version or tables):
            raise DamagedDatabase(f"{self.path} belongs to another program")
        if version > len(MIGRATIONS):
            raise DamagedDatabase(
                f"{self.path} was written by a newer shoal", hint="upgrade shoal, or use --home"
            )

    def _use_write_ahead_log(self) -> None:
        """Of two processes that open a new file at once one is refused here without waiting."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                self.run("PRAGMA journal_mode=WAL")
            except DatabaseBusy:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(BUSY_PAUSE_S)
            else:
                return

    def _migrate(self) -> None:
        if self._number("PRAGMA user_version") == len(MIGRATIONS):
            return
        with self.transaction():
            # Read again under the lock: another process may have migrated meanwhile.
            version = self._number("PRAGMA user_version")
            for script in MIGRATIONS[version:]:
                for statement in filter(str.strip, script.split(";")):
                    self.run(statement)
            self.run(f"PRAGMA application_id={APPLICATION_ID}")
            self.run(f"PRAGMA user_version={len(MIGRATIONS)}")

    def _number(self, query: str) -> int:
        ((number,),) = self.rows(query)
        return int(number)

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            failure = self._failure_of(error)
            if failure is None:
                raise
            raise failure from error

    def _failure_of(self, error: sqlite3.DatabaseError | UnicodeDecodeError) -> Failure | None:
        """Say what to do about it; None for what can only be our own mistake."""
        text = f"{self.path} cannot be used: {error}"
        # Text that is no UTF-8, in a column or in SQLite's own message, comes without a code.
        no_text = isinstance(error, sqlite3.OperationalError | UnicodeDecodeError)
        uncoded = sqlite3.SQLITE_CORRUPT if no_text else sqlite3.SQLITE_MISUSE
        match getattr(error, "sqlite_errorcode", uncoded) & 0xFF:
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                return DamagedDatabase(text)
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return DatabaseBusy(text)
            case sqlite3.SQLITE_FULL:
                return HomeFull(f"the disk is full: {text}")
            case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN if is_full(self.path.parent):
                return HomeFull(f"the disk is full: {self.path} cannot be used")
            case (
                sqlite3.SQLITE_CANTOPEN
                | sqlite3.SQLITE_READONLY
                | sqlite3.SQLITE_PERM
                | sqlite3.SQLITE_IOERR
            ):
                return HomeUnusable(text)
            case _:
                return None
