"""Fetching a content from all its holders into a target.

Owns one download: its holders, its partial file, its journal and its result. Holders may come while
it runs. What to ask of whom is decided by scheduler.py, one holder's connection is in session.py.
Knows neither the DHT nor SQLite: holders, Connect and Journal are given.

A chunk is verified, then written, then counted. Whatever ends a download leaves the partial file,
and the next download of that content to that target resumes it.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, assert_never

from rpc.pace import Pace
from transfer.bitmap import chunks_in, decode_bitmap, encode_bitmap
from transfer.candidates import CandidateConfig, Candidates, Holder, SessionEnd
from transfer.errors import (
    BadContent,
    IsFolder,
    NoHolders,
    SourceChanged,
    TargetExists,
    TimedOut,
    TransferError,
)
from transfer.gathering import Gathering
from transfer.hashing import Fingerprint
from transfer.manifest import Manifest, TreeManifest, digest_of_pieces
from transfer.partial import PartFile
from transfer.scheduler import Done, Request, Stalled, Swarm, Wait
from transfer.session import Connect, HolderSession, SessionConfig
from transfer.sources import Source
from transfer.swarm_config import SwarmConfig
from transfer.threads import run_to_end
from transfer.tree_walk import HashedTree


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """What was saved of a download."""

    content_id: bytes
    bitmap: bytes


class Journal(Protocol):
    """Where running downloads are remembered; the key is the partial file's absolute path."""

    async def load(self, part_key: str) -> JournalEntry | None: ...
    async def save(self, part_key: str, content_id: bytes, bitmap: bytes) -> None: ...
    async def forget(self, part_key: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a download stands."""

    done_bytes: int
    size_bytes: int
    fetched_bytes: int
    by_holder: Mapping[bytes, int]
    """Peer id → verified bytes that it supplied."""
    files_done: int = 0
    """Of a folder: files that are here."""
    files: int = 0
    """Of a folder: its files."""


@dataclass(frozen=True, slots=True)
class DownloadResult:
    """A finished download."""

    path: Path
    size_bytes: int
    content_id: bytes
    sources: int
    """Holders that supplied verified bytes in this run."""
    fetched_bytes: int
    """Bytes that came over the network in this run, those in vain included."""
    seconds: float
    by_holder: Mapping[bytes, int]
    manifest: Manifest
    fingerprint: Fingerprint
    """The finished file, to be shared on without hashing it again."""
    tree: HashedTree | None = None
    """The finished folder, likewise."""


@dataclass(frozen=True, slots=True)
class DownloadConfig:
    """Bounds of a download; checked when built."""

    no_holder_timeout_s: float = 30.0
    """How long nothing may move before the holders count as gone."""
    timeout_s: float | None = None
    """How long the download may take in all."""
    journal_interval_s: float = 1.0
    """How often progress is saved."""
    progress_interval_s: float = 0.1
    """How often progress is told."""
    spreads: bool = False
    """Others are served what is fetched, so that whole holders may spare themselves."""
    spread_patience_s: float = 5.0
    """When nobody can be asked for so long, whole holders are to give everything; then halved."""
    spread_holders_max: int = 3
    """With more whole holders than these none need spare itself."""
    swarm: SwarmConfig = field(default_factory=SwarmConfig)
    candidates: CandidateConfig = field(default_factory=CandidateConfig)
    session: SessionConfig = field(default_factory=SessionConfig)

    def __post_init__(self) -> None:
        assert self.no_holder_timeout_s > 0
        assert self.timeout_s is None or self.timeout_s > 0


class Download:
    """One download; `run()` once, `source()` at any time to serve what is there."""

    def __init__(
        self,
        content_id: bytes,
        target: Path,
        *,
        holders: AsyncIterable[Holder],
        connect: Connect,
        journal: Journal | None = None,
        manifest: Manifest | None = None,
        overwrite: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
        on_bad_holder: Callable[[bytes], None] | None = None,
        on_described: Callable[[], None] | None = None,
        pace: Pace | None = None,
        config: DownloadConfig | None = None,
        random_source: random.Random | None = None,
        takes_folder: bool = False,
    ) -> None:
        """Take what to fetch; `takes_folder` fetches a folder's listing, else that is IsFolder."""
        assert manifest is None or manifest.content_id == content_id
        self.content_id = content_id
        self.target = target
        self._connect = connect
        self._journal = journal
        self._manifest = manifest
        self._overwrite = overwrite
        self._on_progress = on_progress
        self._on_bad_holder = on_bad_holder
        self._on_described = on_described
        self.pace = pace or Pace()
        self._config = config or DownloadConfig()
        self._random = random_source or random.Random()
        self._takes_folder = takes_folder
        self._part: PartFile | None = None
        self._swarm: Swarm | None = None
        self._finished: Fingerprint | None = None
        self._written = 0
        self._done_bytes = 0
        self._fetched_bytes = 0
        # Who sent anything, verified or not.
        self._senders: set[bytes] = set()
        self._by_holder: dict[bytes, int] = {}
        self._moved_at = 0.0
        self._patience_s = self._config.spread_patience_s
        self._asking_at = 0.0
        self._wake = asyncio.Event()
        self._candidates = Candidates(self._config.candidates, random_source=self._random)
        self._gathering = Gathering(holders, self._candidates, self._wake)
        self._described = asyncio.Event()
        self._failure: TransferError | None = None

    # --- for the peer ---

    @property
    def progress(self) -> Progress:
        """Where the download stands now."""
        size = self._size_bytes() if self._manifest else 0
        return Progress(self._done_bytes, size, self._fetched_bytes, dict(self._by_holder))

    @property
    def prefix_bytes(self) -> int:
        """How much of the partial file is verified from its beginning, without a gap."""
        if self._manifest is None:
            return 0
        missing = ~self._written
        chunks = (missing & -missing).bit_length() - 1
        return min(chunks * self._manifest.chunk_size_bytes, self._manifest.size_bytes)

    def source(self) -> Source | None:
        """Return what is fetched so far, to be served on, at last the whole file; or None."""
        if self._manifest is None or self._part is None or self._swarm is None:
            return None
        if self._finished is not None:
            return Source(self.target, self._manifest, self._finished)
        return Source(self._part.path, self._manifest, None, have=lambda: self._written)

    async def run(self) -> DownloadResult:
        """Fetch, verify and rename; raises a TransferError and keeps the partial file.

        NoHolders, BadContent, SourceChanged, TimedOut, TargetExists, TargetBusy, TargetUnwritable,
        DiskFull, and IsFolder, which leaves no partial file.
        """
        started = time.monotonic()
        self._moved_at = started
        if not self._overwrite and await asyncio.to_thread(_exists, self.target):
            raise TargetExists(f"{self.target.name!a} exists")
        self._part = part = await run_to_end(
            lambda: PartFile(self.target, self.content_id), undo=PartFile.close
        )
        pool = ThreadPoolExecutor(1, thread_name_prefix="shoal-download")
        try:
            async with asyncio.timeout(self._config.timeout_s):
                await self._fetch(pool)
            self._finished = await run_to_end(lambda: part.finish(overwrite=self._overwrite))
        except TimeoutError as error:
            # More time would not have helped when all that came was wrong.
            raise self._refusal() or TimedOut() from error
        finally:
            try:
                # No write may be under way when its file is closed.
                await run_to_end(pool.shutdown)
            finally:
                part.close()
                await self._save()
        assert self._manifest is not None
        assert self._finished is not None
        if self._journal is not None:
            await self._journal.forget(str(part.path))
        self._tell()
        return DownloadResult(
            path=self.target,
            size_bytes=self._manifest.size_bytes,
            content_id=self.content_id,
            sources=len(self._by_holder),
            fetched_bytes=self._fetched_bytes,
            seconds=time.monotonic() - started,
            by_holder=dict(self._by_holder),
            manifest=self._manifest,
            fingerprint=self._finished,
        )

    # --- phases ---

    async def _fetch(self, pool: ThreadPoolExecutor) -> None:
        failure: TransferError | None = None
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(self._gathering.feed())
            gathering = group.create_task(
                self._gathering.run(
                    group, lambda holder: self._session(holder, pool), lambda: self._swarm
                )
            )
            try:
                await self._until_described()
                await self._resume()
                await self._until_done()
            except TransferError as error:
                failure = error  # raised below, so that it does not come in a group
            finally:
                feeding.cancel()
                gathering.cancel()
                self._gathering.cancel()
        if failure is not None:
            raise failure

    async def _until_described(self) -> None:
        while self._manifest is None:
            self._check_alive(stalled=True)
            await self._sleep_until(time.monotonic() + 0.25)

    async def _resume(self) -> None:
        """Take over what an earlier download left, then let the sessions ask."""
        assert self._manifest is not None
        assert self._part is not None
        manifest, part = self._manifest, self._part
        if isinstance(manifest, TreeManifest) and not self._takes_folder:
            part.path.unlink(missing_ok=True)
            self._journal = None
            raise IsFolder(manifest)
        claimed = 0
        entry = await self._journal.load(str(part.path)) if self._journal else None
        if entry is not None and entry.content_id == self.content_id:
            claimed = decode_bitmap(entry.bitmap, manifest.chunk_count)
        self._written = await run_to_end(lambda: part.adopt(manifest, claimed))
        self._done_bytes = sum(manifest.span(chunk)[1] for chunk in chunks_in(self._written))
        part.require_room(manifest.size_bytes - self._done_bytes)
        self._moved_at = time.monotonic()
        self._swarm = Swarm(
            manifest.chunk_count,
            manifest.chunk_size_bytes,
            random_source=self._random,
            verified=self._written,
            config=self._config.swarm,
        )
        self._asking_at = time.monotonic()
        self._described.set()
        if self._on_described is not None:
            self._on_described()

    async def _until_done(self) -> None:
        assert self._manifest is not None
        saved_at = told_at = time.monotonic()
        while self._done_bytes < self._size_bytes():
            wake_at = self.pump()
            now = time.monotonic()
            if self.swarm.in_flight:
                self._asking_at = now
            self._check_alive(stalled=wake_at is None)
            if now - told_at >= self._config.progress_interval_s:
                told_at = now
                self._tell()
            if now - saved_at >= self._config.journal_interval_s:
                saved_at = now
                await self._save()
            await self._sleep_until(min(wake_at or now + 0.25, now + 0.1))

    async def _sleep_until(self, until: float) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(max(0.001, until - time.monotonic())):
                await self._wake.wait()
        except TimeoutError:
            return

    def _check_alive(self, *, stalled: bool) -> None:
        """Raise when the download failed or nobody is left to ask."""
        if self._failure is not None:
            raise self._failure
        silent_s = time.monotonic() - self._moved_at
        if self._gathering.is_over or (silent_s >= self._config.no_holder_timeout_s and stalled):
            raise self._why_nobody()

    def _why_nobody(self) -> TransferError:
        refusal = self._refusal()
        if refusal is not None:
            return refusal
        nobody = NoHolders()
        nobody.__cause__ = self._gathering.search_error
        return nobody

    def _refusal(self) -> TransferError | None:
        """Say what was wrong with the holders when no good one supplied anything; else None."""
        wrong = {SessionEnd.BAD, SessionEnd.CHANGED}
        if any(self._candidates.end_of(holder) not in wrong for holder in self._senders):
            return None
        ends = self._candidates.ends
        if SessionEnd.BAD in ends:
            return BadContent()
        if SessionEnd.CHANGED in ends:
            return SourceChanged(
                "the file changed or is gone at every holder that could be reached",
                hint="search for it again: it may have been put anew",
            )
        return None

    async def _save(self) -> None:
        if self._journal is not None and self._manifest is not None and self._part is not None:
            bitmap = encode_bitmap(self._written, self._manifest.chunk_count)
            await self._journal.save(str(self._part.path), self.content_id, bitmap)

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self.progress)

    # --- what a folder's download does otherwise ---

    def _size_bytes(self) -> int:
        assert self._manifest is not None
        return self._manifest.size_bytes

    def _session(self, holder: Holder, pool: ThreadPoolExecutor) -> HolderSession:
        return HolderSession(self, holder, self._connect, pool, self._config.session)

    # --- for the sessions ---

    @property
    def manifest(self) -> Manifest | None:
        return self._manifest

    @property
    def swarm(self) -> Swarm:
        assert self._swarm is not None
        return self._swarm

    @property
    def talks(self) -> bool:
        """Whether a holder is talked to, or tried."""
        return bool(self._gathering.sessions)

    @property
    def may_spread(self) -> bool:
        """Whether whole holders may ever spare themselves."""
        return self._config.spreads

    @property
    def spreads(self) -> bool:
        """Whether chunks can be waited for that whole holders gave to others."""
        if not self.may_spread or self.swarm.whole_holders > self._config.spread_holders_max:
            return False
        idle_s = time.monotonic() - self._asking_at
        if idle_s <= self._patience_s:
            return True
        self._patience_s /= 2
        return False

    def length(self, chunk: int) -> int:
        """Return how many bytes a chunk has."""
        assert self._manifest is not None
        return self._manifest.span(chunk)[1]

    async def described(self, manifest: Manifest) -> None:
        """Take a verified manifest and wait until the download may ask for chunks."""
        if self._manifest is None:
            self._manifest = manifest
            self._wake.set()
        await self._described.wait()

    def pump(self) -> float | None:
        """Hand out all requests that the swarm allows; return its wake time, None if stalled."""
        while True:
            match self.swarm.next(now=time.monotonic()):
                case Request() as request:
                    self._gathering.sessions[request.holder].ask(request.chunks)
                case Wait(until):
                    return until
                case Stalled():
                    return None
                case Done():
                    return time.monotonic() + 0.25
                case other:
                    assert_never(other)

    def write_blocking(self, chunks: range, pieces: list[memoryview]) -> list[int]:
        """Verify chunks in a row and write them, in the download's thread.

        Returns those that are not what they should be; of these nothing is written.
        """
        manifest, part = self._manifest, self._part
        assert manifest is not None
        assert part is not None
        if len(chunks) == 1:
            each = {chunks[0]: pieces}
        else:
            pieces = [pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))]
            step = manifest.chunk_size_bytes
            each = {chunk: [pieces[0][at * step :][:step]] for at, chunk in enumerate(chunks)}
        bad = [chunk for chunk in chunks if digest_of_pieces(each[chunk]) != manifest.digest(chunk)]
        if not bad:
            part.write(manifest.span(chunks[0])[0], pieces)
            return bad
        for chunk in chunks:
            if chunk not in bad:
                part.write(manifest.span(chunk)[0], each[chunk])
        return bad

    def accepted(self, holder: bytes, chunks: Sequence[int]) -> None:
        """Count chunks that are verified and written."""
        now = time.monotonic()
        self._moved_at = now
        for chunk in self.swarm.chunks_verified(holder, chunks, now=now):
            length = self.length(chunk)
            self._written |= 1 << chunk
            self._done_bytes += length
            self._by_holder[holder] = self._by_holder.get(holder, 0) + length
            if self._done_bytes == self._size_bytes():
                self._wake.set()
        self.pump()

    def received(self, holder: bytes, size_bytes: int) -> None:
        """Count bytes that came over the network."""
        self._senders.add(holder)
        self._fetched_bytes += size_bytes

    def failed(self, error: TransferError) -> None:
        """End the download with an error of our own side."""
        self._failure = self._failure or error
        self._wake.set()

    def session_ended(self, holder: Holder, end: SessionEnd) -> None:
        """Forget a session; a holder that lied is banned and reported."""
        peer_id = holder.peer_id
        self._gathering.ended(holder, end)
        if self._swarm is not None:
            if end is SessionEnd.BAD:
                self._swarm.ban(peer_id)
            else:
                self._swarm.holder_failed(peer_id)
        if end is SessionEnd.BAD and self._on_bad_holder is not None:
            self._on_bad_holder(peer_id)
        self._wake.set()


def _exists(path: Path) -> bool:
    return path.exists() or path.is_symlink()
