"""Which file holds which content of the folders that this home shares.

Owns the tables `tree` and `tree_file`, and the listings beside the database: one file a tree. Must
not know the network. One file a content is noted, with its fingerprint: so that a file that changed
is never served under its old id. Long work is cut into pieces of a few milliseconds.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

from peer.catalog import Share
from peer.database import Database
from transfer.hashing import Fingerprint
from transfer.partial import sync_folder
from transfer.sources import PackSource
from transfer.tree_walk import HashedTree, TreeFile

ROWS_MAX = 512
"""Rows that are written or read in one turn of the event loop."""
IDS_MAX = 128
"""Contents that one query asks for."""
_IS_SHARED = (
    "EXISTS (SELECT 1 FROM share WHERE share.content_id = tree.content_id"
    " AND share.path = tree.root)"
)


class TreeCatalog:
    """Queries over the tables that it owns, and the files of listings."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self._arriving: set[int] = set()

    def listing_path(self, tree_id: bytes) -> Path:
        """Return where the listing of a shared tree lies."""
        return self._folder / f"{tree_id.hex()}.listing"

    async def add(self, root: Path, hashed: HashedTree) -> int:
        """Note a tree and its files; return its key. `arrived` ends its protection from `sweep`."""
        tree = hashed.tree
        with self._database.transaction():
            self._database.run(
                "INSERT INTO tree (root, content_id) VALUES (?, ?)",
                str(root),
                tree.manifest.content_id,
            )
            ((key,),) = self._database.rows("SELECT last_insert_rowid()")
        self._arriving.add(key)
        try:
            # After the row, or a sweep would take the listing for one of a former share.
            await asyncio.to_thread(self._write_listing, tree.manifest.content_id, tree.listing)
            files = await asyncio.to_thread(_one_a_content, hashed.files)
            for at in range(0, len(files), ROWS_MAX):
                self._insert(key, files[at : at + ROWS_MAX])
                await asyncio.sleep(0)
        except BaseException:
            self._arriving.discard(key)
            raise
        return int(key)

    def arrived(self, keys: Iterable[int]) -> None:
        """These trees' shares are in the catalog now, or will never be."""
        self._arriving.difference_update(keys)

    def _insert(self, key: int, files: Sequence[TreeFile]) -> None:
        with self._database.transaction():
            self._database.run_many(
                "INSERT INTO tree_file VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        key,
                        file.content_id,
                        file.path,
                        file.fingerprint.size_bytes,
                        file.fingerprint.mtime_ns,
                        file.fingerprint.inode,
                        file.manifest,
                    )
                    for file in files
                ),
            )

    def _write_listing(self, tree_id: bytes, listing: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.listing_path(tree_id)
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            file.write(listing)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(self._folder)

    # What is served

    def pack_sources(self, content_ids: Sequence[bytes]) -> dict[bytes, PackSource]:
        """Return files of shared trees that hold these contents, by content id."""
        found: dict[bytes, PackSource] = {}
        for at in range(0, len(content_ids), IDS_MAX):
            for root, file in self._files_with(content_ids[at : at + IDS_MAX]):
                path = f"{root}/{file.path}"
                found[file.content_id] = PackSource(path, file.content_id, file.fingerprint, True)
        return found

    def file_of(self, content_id: bytes) -> tuple[Path, TreeFile] | None:
        """Return the file of a shared tree that holds a content, the latest put."""
        files = self._files_with([content_id])
        return (Path(files[-1][0], files[-1][1].path), files[-1][1]) if files else None

    def _files_with(self, content_ids: Sequence[bytes]) -> list[tuple[str, TreeFile]]:
        marks = ", ".join("?" * len(content_ids))
        rows = self._database.rows(
            "SELECT root, path, tree_file.content_id, size_bytes, mtime_ns, inode, manifest"  # noqa: S608
            " FROM tree_file JOIN tree ON tree.key = tree_file.tree"
            f" WHERE tree_file.content_id IN ({marks}) AND {_IS_SHARED} ORDER BY tree.key",
            *content_ids,
        )
        return [
            (root, TreeFile(path, content_id, Fingerprint(size, mtime, inode), manifest))
            for root, path, content_id, size, mtime, inode, manifest in rows
        ]

    def shares_with(self, content_id: bytes, path: Path) -> list[tuple[bytes, str]]:
        """Return (tree id, root) of the shared trees in which this file holds this content."""
        rows = self._database.rows(
            "SELECT tree.content_id, root, path FROM tree_file"  # noqa: S608
            " JOIN tree ON tree.key = tree_file.tree"
            f" WHERE tree_file.content_id = ? AND {_IS_SHARED}",
            content_id,
        )
        return [(tree_id, root) for tree_id, root, inner in rows if Path(root, inner) == path]

    async def files_of(self, share: Share) -> AsyncIterator[list[TreeFile]]:
        """Yield the noted files of a shared tree, some at a time."""
        rows = self._database.rows(
            "SELECT max(key) FROM tree WHERE content_id = ? AND root = ?",
            share.content_id,
            str(share.path),
        )
        key = rows[0][0]
        if key is None:
            return
        last = b""
        while True:
            found = self._database.rows(
                "SELECT path, content_id, size_bytes, mtime_ns, inode FROM tree_file"
                " WHERE tree = ? AND content_id > ? ORDER BY content_id LIMIT ?",
                key,
                last,
                ROWS_MAX,
            )
            if not found:
                return
            last = found[-1][1]
            yield [
                TreeFile(path, content_id, Fingerprint(size, mtime, inode), None)
                for path, content_id, size, mtime, inode in found
            ]

    # What is no longer shared

    async def sweep(self) -> None:
        """Forget trees that no share stands for, and those that were put again since."""
        rows = self._database.rows(
            f"SELECT key FROM tree WHERE NOT {_IS_SHARED} OR key < (SELECT max(key) FROM tree"  # noqa: S608
            " AS newer WHERE newer.content_id = tree.content_id AND newer.root = tree.root)"
        )
        for (key,) in rows:
            if key not in self._arriving:
                await self._forget(key)
        await self._remove_listings()

    async def _forget(self, key: int) -> None:
        removed = ROWS_MAX
        while removed:
            removed = self._database.run(
                "DELETE FROM tree_file WHERE tree = ? AND content_id IN"
                " (SELECT content_id FROM tree_file WHERE tree = ? LIMIT ?)",
                key,
                key,
                ROWS_MAX,
            )
            await asyncio.sleep(0)
        self._database.run("DELETE FROM tree WHERE key = ?", key)

    async def _remove_listings(self) -> None:
        known = {row[0].hex() for row in self._database.rows("SELECT content_id FROM tree")}
        try:
            listings = [path for path in self._folder.iterdir() if path.suffix == ".listing"]
        except FileNotFoundError:
            return
        for path in listings:
            if path.stem not in known:
                path.unlink(missing_ok=True)


def _one_a_content(files: Sequence[TreeFile]) -> list[TreeFile]:
    # In the order of the table's keys, which takes half as long to insert.
    first = {file.content_id: file for file in reversed(files)}
    return [first[content_id] for content_id in sorted(first)]
