"""What this home shares and has seen: shares, and contents that a short id may mean.

Owns the tables `share` and `listed`. Must not know the network. A share is served in
place: the row keeps the file's fingerprint (size, mtime, inode), so that a file that changed is
never served under its old content id.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from peer.database import Database
from transfer.manifest import is_tree_manifest

LISTED_MAX = 20_000


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """One file, or one folder, that this peer offers under one name."""

    name: str
    path: Path
    content_id: bytes
    size_bytes: int
    mtime_ns: int
    inode: int
    manifest: bytes

    @property
    def is_folder(self) -> bool:
        """Tell a folder by its manifest; its size is the sum of its files."""
        return is_tree_manifest(self.manifest)


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """A content that this home has listed, shared or fetched, and the name it went by."""

    content_id: bytes
    name: str
    size_bytes: int


class Catalog:
    """Queries over the tables that it owns; each change is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Shares

    def add_share(self, share: Share) -> None:
        """Offer a file under a name; another file under that name is replaced."""
        self.add_shares([share])

    def add_shares(self, shares: Sequence[Share]) -> None:
        """Offer files under their names, all in one transaction."""
        now_ms = _now_ms()
        with self._database.transaction():
            self._database.run_many(
                "INSERT OR REPLACE INTO share VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        share.name,
                        str(share.path),
                        share.content_id,
                        share.size_bytes,
                        share.mtime_ns,
                        share.inode,
                        share.manifest,
                        now_ms,
                    )
                    for share in shares
                ),
            )
        self.remember([Listed(each.content_id, each.name, each.size_bytes) for each in shares])

    def remove_share(self, share: Share) -> bool:
        """Stop offering a share; False when its name means another one by now, or none."""
        removed = self._database.run(
            "DELETE FROM share WHERE name = ?"
            " AND path = ? AND content_id = ? AND mtime_ns = ? AND inode = ?",
            share.name,
            str(share.path),
            share.content_id,
            share.mtime_ns,
            share.inode,
        )
        return removed > 0

    def share(self, name: str) -> Share | None:
        """Return what is offered under a name."""
        return next(iter(self._shares("WHERE name = ?", name)), None)

    def shares_at(self, paths: Sequence[str]) -> list[Share]:
        """Return what is offered of these files, under whatever names."""
        found: list[Share] = []
        for path in paths:
            found += self._shares("WHERE path = ?", path)
        return found

    def shares(self) -> list[Share]:
        """Return all that is offered, by name."""
        return self._shares("ORDER BY name")

    def is_shared(self, path: Path) -> bool:
        """Tell whether a file is offered under any name."""
        return bool(self._database.rows("SELECT 1 FROM share WHERE path = ? LIMIT 1", str(path)))

    def share_count(self) -> int:
        """Return how many names are offered."""
        ((count,),) = self._database.rows("SELECT count(*) FROM share")
        return int(count)

    def shares_of(self, content_id: bytes) -> list[Share]:
        """Return the files that hold one content; there may be several copies."""
        return self._shares("WHERE content_id = ? ORDER BY name", content_id)

    def _shares(self, where: str, *values: object) -> list[Share]:
        rows = self._database.rows(
            "SELECT name, path, content_id, size_bytes, mtime_ns, inode, manifest FROM share "  # noqa: S608
            + where,
            *values,
        )
        return [
            Share(name, Path(path), content_id, size_bytes, mtime_ns, inode, manifest)
            for name, path, content_id, size_bytes, mtime_ns, inode, manifest in rows
        ]

    # Contents that a short `b3:` id may mean

    def remember(self, listed: Sequence[Listed]) -> None:
        """Note contents, so that their short ids work; the oldest beyond the bound go."""
        now_ms = _now_ms()
        with self._database.transaction():
            self._database.run_many(
                "INSERT OR REPLACE INTO listed VALUES (?, ?, ?, ?)",
                ((entry.content_id, entry.name, entry.size_bytes, now_ms) for entry in listed),
            )
            self._database.run(
                "DELETE FROM listed WHERE rowid IN"
                " (SELECT rowid FROM listed ORDER BY seen_ms DESC LIMIT -1 OFFSET ?)",
                LISTED_MAX,
            )

    def listed_with_prefix(self, prefix_hex: str) -> list[Listed]:
        """Return the contents whose hex id begins with these lower-case digits (at most 50)."""
        rows = self._database.rows(
            "SELECT content_id, name, size_bytes FROM listed"
            " WHERE substr(lower(hex(content_id)), 1, ?) = ? ORDER BY seen_ms DESC LIMIT 50",
            len(prefix_hex),
            prefix_hex,
        )
        return [Listed(*row) for row in rows]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
