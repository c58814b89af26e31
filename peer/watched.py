"""What is remembered of the files of watched folders, so that a restart hashes nothing anew.

Owns the table `watched` and what it says beside the table `share`. Must not know how folders are
looked through.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from peer.database import Database
from peer.scanning import Seen, shared_name
from peer.settling import Known, State

PAGE_MAX = 1_000
"""Rows that are read or written in one go: some milliseconds of the event loop."""


class Watched:
    """Queries over the table; each change is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, folder: Path, after: str) -> list[tuple[str, Known]]:
        """Return the next files of a folder, by path; none at the end."""
        rows = self._database.rows(
            "SELECT path, state, size_bytes, mtime_ns, inode, ctime_ns FROM watched"
            " WHERE folder = ? AND path > ? ORDER BY path LIMIT ?",
            str(folder),
            after,
            PAGE_MAX,
        )
        return [(path, Known(Seen(*numbers), State(state))) for path, state, *numbers in rows]

    def save(self, folder: Path, files: Iterable[tuple[str, Known]]) -> None:
        """Remember what was done about files."""
        with self._database.transaction():
            self._database.run_many(
                "INSERT OR REPLACE INTO watched VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        path,
                        str(folder),
                        shared_name(path),
                        known.state.value,
                        known.seen.size_bytes,
                        known.seen.mtime_ns,
                        known.seen.inode,
                        known.seen.ctime_ns,
                    )
                    for path, known in files
                ),
            )

    def forget(self, paths: Sequence[str]) -> None:
        """Forget files that are gone."""
        with self._database.transaction():
            self._database.run_many(
                "DELETE FROM watched WHERE path = ?", ((path,) for path in paths)
            )

    def unshare(self, path: Path) -> None:
        """Remember that the person does not want a file shared, if it is a watched one."""
        self._database.run(
            "UPDATE watched SET state = ? WHERE path = ?", State.UNSHARED.value, str(path)
        )

    def is_unshared(self, path: str) -> bool:
        return bool(
            self._database.rows(
                "SELECT 1 FROM watched WHERE path = ? AND state = ?", path, State.UNSHARED.value
            )
        )

    def lost(self, folder: Path) -> list[str]:
        """Return files whose share is gone though nobody unshared them, and files whose name is
        free now (at most PAGE_MAX).
        """
        rows = self._database.rows(
            "SELECT path FROM watched WHERE folder = ?1 AND ("
            " state = ?2 AND NOT EXISTS (SELECT 1 FROM share WHERE share.path = watched.path)"
            " OR state = ?3 AND NOT EXISTS (SELECT 1 FROM share WHERE share.name = watched.name)"
            ") LIMIT ?4",
            str(folder),
            State.OFFERED.value,
            State.CLASHING.value,
            PAGE_MAX,
        )
        return [path for (path,) in rows]

    def put_again(self, folder: Path) -> list[str]:
        """Return files that were left out, and are shared under their name by hand."""
        rows = self._database.rows(
            "SELECT path FROM watched WHERE folder = ? AND state != ?"
            " AND EXISTS (SELECT 1 FROM share"
            " WHERE share.path = watched.path AND share.name = watched.name) LIMIT ?",
            str(folder),
            State.OFFERED.value,
            PAGE_MAX,
        )
        return [path for (path,) in rows]

    def count(self) -> int:
        """Return how many files of watched folders are shared."""
        ((count,),) = self._database.rows(
            "SELECT count(*) FROM watched WHERE state = ?", State.OFFERED.value
        )
        return int(count)

    def paths_in(self, folders: Collection[Path]) -> set[str]:
        """Return the files of these folders."""
        found: set[str] = set()
        for folder in folders:
            rows = self._database.rows("SELECT path FROM watched WHERE folder = ?", str(folder))
            found.update(path for (path,) in rows)
        return found
