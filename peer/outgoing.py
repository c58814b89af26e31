"""What is sent to one peer: a file, or a folder as one stream.

Owns how either is hashed, pushed and opened for sealing, and what is told of it. Must not know
which way it goes.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

import grpc

from peer.views import Progress
from queueing.courier import FolderFacts
from queueing.envelope import Source
from transfer.folder_source import FolderSource
from transfer.folder_stream import stream_bytes
from transfer.hashing import (
    ChunkHasher,
    HashedFile,
    ProgressCallback,
    hash_file,
    readable_size,
)
from transfer.inbox_tree import TreeFacts
from transfer.manifest import Manifest
from transfer.push import PushConfig, PushOffer, push, push_file
from transfer.threads import run_to_end
from transfer.tree_plan import plan_of
from transfer.tree_walk import HashedTree, hash_tree

Tell = Callable[[Progress], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Outgoing:
    """A file or folder; it is read in place, and must not change while it is sent.

    A folder is hashed before anything else is done with it. A file for a recipient that is away is
    hashed while it is sealed.
    """

    path: Path
    name: str
    is_folder: bool
    sealed_bytes: int
    """How long what `source` opens is; of a folder known once it is hashed."""
    hashed: HashedFile | HashedTree | None = None
    folder: FolderFacts | None = None
    """What is told of a folder that is hashed."""

    @classmethod
    async def at(cls, path: Path, name: str) -> Outgoing:
        """Look at what lies at a path; SourceUnreadable."""
        if path.is_dir():
            return cls(path, name, is_folder=True, sealed_bytes=0)
        size_bytes = await asyncio.to_thread(readable_size, path)
        return cls(path, name, is_folder=False, sealed_bytes=size_bytes)

    async def hash(self, tell: Tell) -> Outgoing:
        """Return it hashed, once; raises what `hash_file` and `hash_tree` raise."""
        if self.hashed is not None:
            return self
        progress = self._progress("hashing", tell)
        if not self.is_folder:
            return dataclasses.replace(self, hashed=await hash_file(self.path, progress))
        # In a thread, since a folder may have very many files.
        return await asyncio.to_thread(self._of_tree, await hash_tree(self.path, progress))

    @property
    def manifest(self) -> Manifest:
        """The manifest of what is hashed: a folder's is a TreeManifest."""
        assert self.hashed is not None, "only what is hashed can be offered"
        if isinstance(self.hashed, HashedTree):
            return self.hashed.tree.manifest
        return self.hashed.manifest

    def source(self, tell: Tell) -> Source:
        """Return what is sealed for a recipient that is away."""
        hashed = self.hashed
        if isinstance(hashed, HashedTree):
            return lambda: FolderSource(self.path, hashed, self._progress("sealing", tell))
        return self.path

    def sealed_id(self, tell: Tell) -> bytes | ChunkHasher:
        """Return the content id, or what finds it while a file is sealed."""
        progress = self._progress("sealing", tell)
        progress(0, self.sealed_bytes)
        if self.hashed is not None:
            return self.manifest.content_id
        return ChunkHasher(self.sealed_bytes, progress)

    async def push(
        self, channel: grpc.aio.Channel, offer: PushOffer, tell: Tell, config: PushConfig
    ) -> bytes:
        """Send it straight to the recipient and return the receipt; raises what `push` raises."""
        if isinstance(self.hashed, HashedTree):
            return await self._push_folder(self.hashed, channel, offer, tell, config)

        def progress(done_bytes: int, size_bytes: int) -> None:
            tell(Progress(self.name, "sending", done_bytes, size_bytes, 1))

        return await push_file(channel, offer, self.path, on_progress=progress, config=config)

    async def _push_folder(
        self,
        hashed: HashedTree,
        channel: grpc.aio.Channel,
        offer: PushOffer,
        tell: Tell,
        config: PushConfig,
    ) -> bytes:
        source = await run_to_end(lambda: FolderSource(self.path, hashed), undo=FolderSource.close)
        files = 0 if self.folder is None else self.folder.files

        def progress(done_bytes: int, size_bytes: int) -> None:
            done = source.files_done
            tell(Progress(self.name, "sending", done_bytes, size_bytes, 1, done, files))

        try:
            return await push(channel, offer, source, on_progress=progress, config=config)
        finally:
            await run_to_end(source.close)

    def _of_tree(self, hashed: HashedTree) -> Outgoing:
        facts = TreeFacts.of(hashed.tree)
        return dataclasses.replace(
            self,
            hashed=hashed,
            sealed_bytes=stream_bytes(hashed.tree.manifest, plan_of(hashed.tree)),
            folder=FolderFacts(facts.files, facts.size_bytes),
        )

    def _progress(self, phase: str, tell: Tell) -> ProgressCallback:
        def progress(done_bytes: int, size_bytes: int) -> None:
            tell(Progress(self.name, phase, done_bytes, size_bytes))

        return progress
