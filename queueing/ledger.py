"""One SQLite file, used from one thread of its own; each call is durable when it returns.

Owns the connection, the thread, and columns added to tables of an older version. Must not know
what the tables are for.
"""

import asyncio
import functools
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from identity.files import is_full
from queueing.errors import StorageFailed

_R = TypeVar("_R")
Row = tuple[Any, ...]
ROOM_CODES = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
"""What SQLite also says where there is no room for the files beside a database."""


class Ledger:
    """An open file; build it in a thread, for opening reads and writes."""

    def __init__(self, path: Path, schema: str, what: str) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._what = what
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        path.chmod(0o600)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")  # durable when a call returns
        self._database.executescript(schema)
        self._closed = False

    def add_columns(self, table: str, columns: Mapping[str, str]) -> None:
        """Give a table of an older version the columns that it lacks; while opening only."""
        add_columns(self._database, table, columns)

    async def close(self) -> None:
        """Close the file; a second close does nothing."""
        if not self._closed:
            self._closed = True
            await self.in_thread(self._database.close)
            self._thread.shutdown(wait=False)

    async def execute(self, statement: str, *values: object) -> None:
        """Run one statement as a transaction of its own."""
        await self.in_thread(self._database.execute, statement, values)

    async def fetch(self, statement: str, *values: object) -> list[Row]:
        """Run one statement and return all that it yields; bound it."""
        return await self.in_thread(lambda: self._database.execute(statement, values).fetchall())

    async def execute_all(self, statements: Sequence[tuple[str, Sequence[object]]]) -> None:
        """Run statements in one transaction: all or none."""

        def run() -> None:
            with self._transaction():
                for statement, values in statements:
                    self._database.execute(statement, tuple(values))

        await self.in_thread(run)

    async def in_thread(self, function: Callable[..., _R], *arguments: object) -> _R:
        """Run a function in the file's thread; its SQLite errors become StorageFailed."""
        call = functools.partial(function, *arguments)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except sqlite3.Error as error:
            raise StorageFailed(f"{self._what}: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


def unusable(what: str, folder: Path, error: sqlite3.Error) -> StorageFailed:
    """Say why a file cannot be opened: on a full disk SQLite speaks of an I/O error."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code in ROOM_CODES and is_full(folder)):
        return StorageFailed(
            f"the disk is full: {what} cannot be used",
            hint="make room on it; nothing that was stored is lost",
        )
    return StorageFailed(f"{what} cannot be used: {error}")


def add_columns(database: sqlite3.Connection, table: str, columns: Mapping[str, str]) -> None:
    """Give a table of an older version the columns that it lacks."""
    there = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
    for name, declaration in columns.items():
        if name not in there:
            database.execute(f"ALTER TABLE {table} ADD COLUMN {name} {declaration}")
