"""Fetching a folder from all its holders into a target.

Owns one download of a tree: first its listing, as if that were a file, then its units (see
tree_plan.py) from everybody who has some. What is there already, in a partial folder or in the
target that is updated, is not fetched again. Holders, requests and their scheduling are those of a
file's download, of which this is a kind; files are written by tree_part.py.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from transfer.bitmap import full_bitmap
from transfer.candidates import Holder
from transfer.download import Download, DownloadResult, Progress
from transfer.errors import BadManifest, SourceChanged, TimedOut, TransferError
from transfer.hashing import Fingerprint
from transfer.manifest import (
    Manifest,
    TreeManifest,
    content_id_of_chunk,
    digest_of,
)
from transfer.scheduler import Swarm
from transfer.session import HolderSession
from transfer.sources import PackSource, Source
from transfer.threads import run_to_end
from transfer.tree import Tree, decode_tree
from transfer.tree_finish import check_target, check_update, finish
from transfer.tree_part import TreePart
from transfer.tree_paths import shown_path
from transfer.tree_plan import Content, Pack, Plan, plan_of
from transfer.tree_session import TreeSession
from transfer.tree_walk import HashedTree, TreeFile

ADOPT_FILES_MAX = 256
"""Contents that are looked for in one go, before a cancellation is heard."""


class TreeDownload(Download):
    """One download of a folder; its `holders` are iterated twice."""

    undescribed: deque[int]

    def __init__(self, content_id: bytes, target: Path, **options: Any) -> None:
        """Take the arguments of Download."""
        super().__init__(content_id, target, **options)
        self._options = options
        self._tree_part: TreePart | None = None
        self._tree: Tree | None = None
        self._plan: Plan | None = None
        self._wanted: dict[int, tuple[int, ...]] = {}
        self._by_id: dict[bytes, int] = {}
        self._gone: Content | None = None
        self._files = self._files_done = 0
        self.undescribed = deque()
        self._files_described = asyncio.Event()
        self._undescribed_left = 0

    # --- for the peer ---

    @property
    def progress(self) -> Progress:
        size = self._tree.manifest.tree_bytes if self._tree else 0
        return Progress(
            min(self._done_bytes + self._copied_bytes(), size),
            size,
            self._fetched_bytes,
            dict(self._by_holder),
            files_done=self._files_done,
            files=self._files,
        )

    @property
    def may_spread(self) -> bool:
        """Units are asked of all holders alike."""
        return False

    def source(self) -> Source | None:
        """Return the listing with what of the units is fetched; None before the first."""
        if self._tree is None or self._tree_part is None or not self._written:
            return None
        listing = self._tree.manifest.chunk_count
        return Source(
            self._tree_part.listing_path,
            self._tree.manifest,
            None,
            have=lambda: full_bitmap(listing) | self._written << listing,
            positions=listing + len(self.plan.units),
        )

    def inner_source(self, content_id: bytes) -> Source | None:
        """Return a large file of the folder with what of it is fetched, or None."""
        place = self._by_id.get(content_id)
        part = self._tree_part
        if place is None or part is None or self.plan.contents[place].is_small:
            return None
        holding, manifest = part.state.holdings.get(place), part.state.manifests.get(place)
        if holding is None or manifest is None or holding.in_target:
            return None
        return Source(
            part.path / "tree" / holding.path, manifest, None, have=lambda: holding.chunks
        )

    def inner_pack_source(self, content_id: bytes) -> PackSource | None:
        """Return a small file of the folder that is fetched already, or None."""
        place = self._by_id.get(content_id)
        part = self._tree_part
        if place is None or part is None or not part.is_whole(place):
            return None
        content, holding = self.plan.contents[place], part.state.holdings[place]
        if holding.in_target or not content.is_small:
            return None
        done = [part.state.done[n] for n in content.entries if n in part.state.done]
        if not done:
            return None
        return PackSource(part.path / "tree" / holding.path, content.content_id, done[0], False)

    async def run(self) -> DownloadResult:
        """Fetch, verify, and rename or update; keeps the partial folder when it fails.

        Raises what a file's download raises, UnsafeTree and BadManifest.
        """
        started = time.monotonic()
        updates = await asyncio.to_thread(check_target, self.target, overwrite=self._overwrite)
        part = await run_to_end(
            lambda: TreePart(self.target, self.content_id, updates=updates), undo=TreePart.close
        )
        pool = ThreadPoolExecutor(1, thread_name_prefix="shoal-download")
        files: list[TreeFile] = []
        try:
            async with asyncio.timeout(self._config.timeout_s):
                await self._begin(part)
                self._moved_at = time.monotonic()
                await self._fetch(pool)
            files = await run_to_end(lambda: finish(part))
        except TimeoutError as error:
            raise self._refusal() or TimedOut() from error
        finally:
            self._tree_part = None
            try:
                await run_to_end(pool.shutdown)
                if not files:
                    await run_to_end(lambda: _flush(part))
            finally:
                await run_to_end(part.close)
        assert self._tree is not None
        self._tell()
        return DownloadResult(
            path=self.target,
            size_bytes=self._tree.manifest.tree_bytes,
            content_id=self.content_id,
            sources=len(self._by_holder),
            fetched_bytes=self._fetched_bytes,
            seconds=time.monotonic() - started,
            by_holder=dict(self._by_holder),
            manifest=self._tree.manifest,
            fingerprint=Fingerprint.of(self.target.stat()),
            tree=HashedTree(self._tree, tuple(files)),
        )

    # --- phases ---

    async def _begin(self, part: TreePart) -> None:
        """Fetch the listing, and look which contents are here."""
        manifest = await self._fetch_listing(part)
        tree = await asyncio.to_thread(_read_tree, part.listing_path, manifest)
        plan = await asyncio.to_thread(plan_of, tree)
        if part.base is not None:
            base = part.base
            await run_to_end(lambda: check_update(base, tree))
        await run_to_end(lambda: part.begin(tree, plan))
        self._tree, self._plan, self._manifest = tree, plan, manifest
        count = len(plan.contents) if await run_to_end(part.has_files) else 0
        for at in range(0, count, ADOPT_FILES_MAX):
            some = range(at, min(count, at + ADOPT_FILES_MAX))
            await run_to_end(lambda some=some: part.adopt(some))  # type: ignore[misc]
        await run_to_end(part.adopted)
        await run_to_end(lambda: self._take_stock(part))
        self._tree_part = part
        part.require_room(plan.size_bytes - self._done_bytes)

    async def _fetch_listing(self, part: TreePart) -> TreeManifest:
        kept = await asyncio.to_thread(part.kept_manifest, self.content_id)
        if kept is not None:
            return kept
        options = {**self._options, "overwrite": True, "journal": None, "on_progress": None}
        listing = Download(self.content_id, part.listing_path, **options, takes_folder=True)
        result = await listing.run()
        manifest = result.manifest
        if not isinstance(manifest, TreeManifest):
            raise BadManifest("this content is a file and no folder")
        await run_to_end(lambda: part.keep_tree_manifest(manifest))
        return manifest

    def _take_stock(self, part: TreePart) -> None:
        """Say which units are here, what of the others is wanted, and what is to be described.

        In a thread, since a folder may have very many files; nobody else looks meanwhile.
        """
        assert self._tree is not None
        plan = self.plan
        self._by_id = {content.content_id: at for at, content in enumerate(plan.contents)}
        self._files = sum(entry.is_file for entry in self._tree.entries)
        for number, unit in enumerate(plan.units):
            if isinstance(unit, Pack):
                wanted = tuple(each for each in unit.contents if not part.is_whole(each))
                self._wanted[number] = wanted
                have = not wanted
                left = sum(plan.contents[each].size_bytes for each in wanted)
                self._done_bytes += unit.size_bytes - left
            else:
                holding = part.state.holdings.get(unit.content)
                have = holding is not None and bool(holding.chunks >> unit.chunk & 1)
                self._done_bytes += unit.size_bytes if have else 0
            if have:
                self._written |= 1 << number
        for place, content in enumerate(plan.contents):
            if part.is_whole(place):
                self._files_done += len(content.entries)
            elif not content.is_small and part.manifest_of(place) is None:
                self.undescribed.append(place)
        self._undescribed_left = len(self.undescribed)

    async def _resume(self) -> None:
        self._moved_at = time.monotonic()
        if not self.undescribed:
            self._files_described.set()
        self._swarm = Swarm(
            len(self.plan.units),
            self.plan.unit_bytes_max,
            random_source=self._random,
            verified=self._written,
            breaks=self.plan.breaks,
            config=self._config.swarm,
        )
        self._described.set()

    async def _save(self) -> None:
        """Nothing: finished files are journaled as they are synced."""

    # --- hooks of Download ---

    def _size_bytes(self) -> int:
        return self.plan.size_bytes

    def length(self, chunk: int) -> int:
        unit = self.plan.units[chunk]
        if isinstance(unit, Pack):
            return sum(self.plan.contents[each].size_bytes for each in self._wanted[chunk])
        return unit.size_bytes

    def _session(self, holder: Holder, pool: ThreadPoolExecutor) -> HolderSession:
        return TreeSession(self, holder, self._connect, pool, self._config.session)

    def _refusal(self) -> TransferError | None:
        refusal = super()._refusal()
        if isinstance(refusal, SourceChanged) and self._gone is not None and self._tree is not None:
            path = self._tree.entries[self._gone.entries[0]].path
            return SourceChanged(
                f"{shown_path(path)} in {self.target.name!a} changed or is gone at every holder"
                " that could be reached",
                hint="whoever shares the folder can put it anew; what was fetched is kept",
            )
        return refusal

    def write_blocking(self, chunks: range, pieces: list[memoryview]) -> list[int]:
        """Verify units and write them, in the download's thread; returns those that are wrong."""
        data = pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
        bad, at = [], 0
        for unit in chunks:
            length = self.length(unit)
            if not self._write_unit(unit, data[at : at + length]):
                bad.append(unit)
            at += length
        return bad

    def _write_unit(self, chunk: int, data: memoryview) -> bool:
        part, unit = self._tree_part, self.plan.units[chunk]
        assert part is not None
        if not isinstance(unit, Pack):
            manifest = part.state.manifests[unit.content]
            if digest_of(data) != manifest.digest(unit.chunk):
                return False
            part.write_piece(unit.content, unit.chunk, [data])
            if part.is_whole(unit.content):
                self._files_done += len(self.plan.contents[unit.content].entries)
            return True
        parts: list[tuple[int, memoryview]] = []
        at = 0
        for place in self._wanted[chunk]:
            content = self.plan.contents[place]
            small = data[at : at + content.size_bytes]
            at += content.size_bytes
            if content_id_of_chunk(small) != content.content_id:
                return False
            parts.append((place, small))
        for place, small in parts:
            part.write_small(place, small)
            self._files_done += len(self.plan.contents[place].entries)
        return True

    # --- for the sessions ---

    @property
    def plan(self) -> Plan:
        assert self._plan is not None
        return self._plan

    def wanted_of(self, unit: int) -> Sequence[Content]:
        """Return the contents of a pack that are not here yet."""
        return [self.plan.contents[place] for place in self._wanted[unit]]

    def chunk_of(self, unit: int) -> tuple[Content, int] | None:
        """Return which chunk of which large content a unit is; None for a pack."""
        found = self.plan.units[unit]
        return None if isinstance(found, Pack) else (self.plan.contents[found.content], found.chunk)

    async def file_described(self, place: int, manifest: Manifest) -> None:
        """Keep the verified manifest of a large file."""
        part = self._tree_part
        assert part is not None
        if manifest.size_bytes != self.plan.contents[place].size_bytes:
            raise BadManifest("a file has another size than the folder says")
        await run_to_end(lambda: part.keep_manifest(place, manifest))
        self._moved_at = time.monotonic()
        self._undescribed_left -= 1
        if not self._undescribed_left:
            self._files_described.set()

    @property
    def is_described(self) -> bool:
        """Tell whether every large file's manifest is here."""
        return self._files_described.is_set()

    async def all_described(self, timeout_s: float) -> None:
        """Wait until every large file's manifest is here, or so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._files_described.wait()

    def content_gone(self, content: Content) -> None:
        """Note which file a holder has no longer, to name it should nobody have it."""
        self._gone = content

    def _copied_bytes(self) -> int:
        """What the same contents at other paths weigh, once all is there."""
        if self._tree is None or self._plan is None or not self._plan.size_bytes:
            return 0
        more = self._tree.manifest.tree_bytes - self._plan.size_bytes
        return more * self._done_bytes // self._plan.size_bytes


def _read_tree(path: Path, manifest: TreeManifest) -> Tree:
    return decode_tree(path.read_bytes(), manifest)


def _flush(part: TreePart) -> None:
    """Journal what was written so far, for the next get."""
    if part.has_begun:
        part.flush(wait=True)
