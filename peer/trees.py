"""Sharing folders: from a folder on disk to a share, and what of it other peers may take.

Owns the rule that a folder is one share: its listing and the contents of its files are served while
every noted file is still what it was. Must not know how records travel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from peer.catalog import Catalog, Share
from peer.tree_catalog import TreeCatalog
from transfer.errors import SourceChanged, SourceUnreadable
from transfer.hashing import Fingerprint, hash_file_blocking
from transfer.manifest import decode_manifest
from transfer.sources import PackSource, Source
from transfer.tree import SMALL_BYTES_MAX
from transfer.tree_paths import shown_path
from transfer.tree_walk import HashedTree, TreeFile, hash_tree


class Trees:
    """The shared folders of one home."""

    def __init__(self, catalog: Catalog, trees: TreeCatalog) -> None:
        self._catalog = catalog
        self._trees = trees
        self._keys: dict[tuple[bytes, Path], int] = {}

    async def hash(
        self, root: Path, name: str, on_progress: Callable[[int, int], None] | None
    ) -> Share:
        """Walk and hash a folder, to be offered; raises what `hash_tree` raises."""
        return await self.share_of(root, name, await hash_tree(root, on_progress))

    async def share_of(self, root: Path, name: str, hashed: HashedTree) -> Share:
        """The share of a folder whose files are hashed; `offered` must follow."""
        status = await asyncio.to_thread(root.stat)
        manifest = hashed.tree.manifest
        self._keys[manifest.content_id, root] = await self._trees.add(root, hashed)
        return Share(
            name=name,
            path=root,
            content_id=manifest.content_id,
            size_bytes=manifest.tree_bytes,
            mtime_ns=status.st_mtime_ns,
            inode=status.st_ino,
            manifest=manifest.encode(),
        )

    def offered(self, shares: Sequence[Share]) -> None:
        """These shares are in the catalog now, or will never be."""
        keys = [self._keys.pop((share.content_id, share.path), None) for share in shares]
        self._trees.arrived(key for key in keys if key is not None)

    async def sweep(self) -> None:
        """Forget folders that are no longer shared."""
        await self._trees.sweep()

    async def why_changed(self, share: Share) -> str | None:
        """Tell which file of a folder is not what was shared; None when all still are."""
        if not self._trees.listing_path(share.content_id).is_file():
            return f"{share.path}: its listing is gone"
        async for files in self._trees.files_of(share):
            changed = await asyncio.to_thread(_first_changed, share.path, files)
            if changed is not None:
                return f"{share.path / changed} changed or is gone"
        return None

    # What other peers may take

    def source_of(self, share: Share) -> Source:
        """Return the listing of a shared folder, which everybody who fetches it begins with."""
        path = self._trees.listing_path(share.content_id)
        return Source(path, decode_manifest(share.manifest), None)

    def inner_source(self, content_id: bytes) -> Source | None:
        """Return a file of a shared folder by its own content id, or None."""
        found = self._trees.file_of(content_id)
        if found is None:
            return None
        path, file = found
        if file.manifest is not None:
            return Source(path, decode_manifest(file.manifest), file.fingerprint)
        if file.fingerprint.size_bytes > SMALL_BYTES_MAX:
            return None
        try:
            hashed = hash_file_blocking(path)
        except (SourceUnreadable, SourceChanged):
            return None
        if hashed.manifest.content_id != content_id:
            return None
        return Source(path, hashed.manifest, file.fingerprint)

    def pack_sources(self, content_ids: Sequence[bytes]) -> dict[bytes, PackSource]:
        """Return small files of shared folders by content id."""
        return self._trees.pack_sources(content_ids)

    def shares_with(self, content_id: bytes, path: Path) -> list[tuple[Share, str]]:
        """Return the shared folders that a file changed in, and its path shown."""
        return [
            (share, shown_path(str(path.relative_to(root))))
            for tree_id, root in self._trees.shares_with(content_id, path)
            for share in self._catalog.shares_of(tree_id)
            if share.path == Path(root)
        ]


def _first_changed(root: Path, files: Sequence[TreeFile]) -> str | None:
    for file in files:
        try:
            now = Fingerprint.of((root / file.path).stat(follow_symlinks=False))
        except OSError:
            return file.path
        if now != file.fingerprint:
            return file.path
    return None
