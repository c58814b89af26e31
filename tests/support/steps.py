"""Stop a process, or fail the disk, right before its n-th step towards the disk.

A step is whatever changes what a crash leaves behind: a write, truncation, fsync, rename, link or
deletion, and each statement that writes to SQLite. `Steps` counts them in this process; at the
wanted one it kills the process (SIGKILL) or lets the step fail once, as a bad disk does.
"""

import errno
import functools
import os
import re
import signal
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

CALLS = ("open", "pwrite", "write", "ftruncate", "fsync", "rename", "replace", "link", "unlink")
_WRITES = re.compile(r"\s*(INSERT|UPDATE|DELETE|COMMIT)", re.IGNORECASE)


class Steps:
    """The counter of one process; it may be armed once."""

    def __init__(self, stop_at: int, *, kills: bool) -> None:
        self.taken: list[str] = []
        self._counts = False
        self._stop_at = stop_at
        self._kills = kills
        self._lock = threading.Lock()

    def count(self) -> None:
        """Count from now on."""
        self._counts = True

    def arm(self) -> None:
        """Get between the process and its disk, for files and databases opened from now on."""
        for name in CALLS:
            setattr(os, name, self._counted(getattr(os, name), name))
        sqlite3.connect = functools.partial(  # type: ignore[assignment]
            sqlite3.connect, factory=self._connection()
        )

    def _step(self, name: str, failure: Callable[[], Exception]) -> None:
        with self._lock:
            if not self._counts:
                return
            self.taken.append(name)
            if len(self.taken) != self._stop_at:
                return
        if self._kills:
            os.kill(os.getpid(), signal.SIGKILL)
        raise failure()

    def _counted(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            reads = name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not reads:
                self._step(name, lambda: OSError(errno.EIO, "Input/output error"))
            return call(*arguments, **options)

        return counted

    def _connection(self) -> type[sqlite3.Connection]:
        step = self._step

        class Connection(sqlite3.Connection):
            def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
                if match := _WRITES.match(statement):
                    step(match[1], lambda: sqlite3.OperationalError("disk I/O error"))
                return super().execute(statement, *values)

        return Connection
