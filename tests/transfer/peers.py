"""Peers for transfer tests: real listeners, real mutual TLS, real files; a catalog in memory."""

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc

from identity.address import Address
from identity.keys import Identity
from identity.network import Network
from identity.tls import make_tls
from rpc.caller import caller_of
from rpc.channels import ChannelPool
from rpc.config import RpcConfig
from rpc.listener import RpcListener
from rpc.pace import Pace
from transfer.candidates import Holder
from transfer.download import Download, DownloadConfig, DownloadResult, JournalEntry
from transfer.hashing import hash_file
from transfer.manifest import Manifest
from transfer.push import Inbox
from transfer.service import ServiceConfig, TransferService, UploadObserver
from transfer.session import SessionConfig
from transfer.sources import PackSource, Source

NETWORK = Network("transfer-tests", bytes(32))
CHUNK = 512 * 1024
QUICK = DownloadConfig(
    no_holder_timeout_s=3.0, session=SessionConfig(backoff_s=0.05, have_interval_s=0.05)
)


def random_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


class MemoryShares:
    """Shares of a test peer; sources may be functions, as those of running downloads are."""

    def __init__(self) -> None:
        self.sources: dict[bytes, Callable[[], Source | None]] = {}
        self.packs: dict[bytes, PackSource] = {}
        self.pack_source: Callable[[bytes], PackSource | None] = lambda _: None
        self.changed: list[tuple[bytes, Path]] = []

    def open_source(self, content_id: bytes) -> Source | None:
        found = self.sources.get(content_id)
        return found() if found else None

    def pack_sources(self, content_ids: Sequence[bytes]) -> list[PackSource | None]:
        return [self.packs.get(each) or self.pack_source(each) for each in content_ids]

    def source_changed(self, content_id: bytes, path: Path) -> None:
        self.changed.append((content_id, path))
        self.sources.pop(content_id, None)


class MemoryJournal:
    """A journal that a second download can be given."""

    def __init__(self) -> None:
        self.entries: dict[str, JournalEntry] = {}
        self.saves = 0

    async def load(self, part_key: str) -> JournalEntry | None:
        return self.entries.get(part_key)

    async def save(self, part_key: str, content_id: bytes, bitmap: bytes) -> None:
        self.saves += 1
        self.entries[part_key] = JournalEntry(content_id, bitmap)

    async def forget(self, part_key: str) -> None:
        self.entries.pop(part_key, None)


@dataclasses.dataclass
class TestPeer:
    """One peer with its listener and its pool of channels."""

    __test__ = False

    identity: Identity
    shares: MemoryShares
    service: TransferService
    pool: ChannelPool
    listener: RpcListener
    address: Address

    @property
    def peer_id(self) -> bytes:
        return self.identity.peer_id

    @property
    def holder(self) -> Holder:
        return Holder(self.peer_id, (self.address,))

    async def share(self, path: Path, have: int | None = None) -> Manifest:
        """Share a file, or those chunks of it."""
        hashed = await hash_file(path)
        source = Source(path, hashed.manifest, hashed.fingerprint)
        if have is not None:
            source = Source(path, hashed.manifest, None, have=lambda: have)
        self.shares.sources[hashed.manifest.content_id] = lambda: source
        return hashed.manifest

    async def share_as(self, path: Path, manifest: Manifest) -> None:
        """Lie: serve this file as another content."""
        source = Source(path, manifest, None)
        self.shares.sources[manifest.content_id] = lambda: source

    async def channel_to(self, other: "TestPeer") -> grpc.aio.Channel:
        return await self.pool.connect(other.peer_id, (other.address,))


@contextlib.asynccontextmanager
async def running_peer(
    *,
    config: ServiceConfig | None = None,
    inbox: Inbox | None = None,
    network: Network = NETWORK,
    on_upload: UploadObserver | None = None,
    down: Pace | None = None,
    identity: Identity | None = None,
) -> AsyncIterator[TestPeer]:
    """Run a peer on a free loopback port; `down` is what limits its pushes and connections."""
    identity = identity or Identity.generate()
    tls = make_tls(identity, network)
    shares = MemoryShares()
    service = TransferService(
        shares,
        lambda context: caller_of(context, network),
        inbox=inbox,
        config=config,
        on_upload=on_upload,
        down=down,
    )
    limits = RpcConfig(read_bytes_per_s=None if down is None else down.rate_bytes_per_s)
    listener, pool = RpcListener(tls, network, limits), ChannelPool(tls, network, limits)
    listener.add(service.handler())
    port = await listener.start("127.0.0.1", 0)
    try:
        yield TestPeer(identity, shares, service, pool, listener, Address("127.0.0.1", port))
    finally:
        await pool.close()
        await listener.stop(0.1)


async def each(holders: Sequence[Holder]) -> AsyncIterator[Holder]:
    """A search that finds these holders and ends."""
    for holder in holders:
        yield holder


async def poll(condition: Callable[[], bool], deadline_s: float = 10.0) -> bool:
    """Wait until a condition holds; False after the deadline."""
    end = asyncio.get_running_loop().time() + deadline_s
    while not condition():
        if asyncio.get_running_loop().time() > end:
            return False
        await asyncio.sleep(0.01)
    return True


async def get(
    reader: TestPeer,
    manifest: Manifest,
    target: Path,
    holders: list[Holder],
    **options: Any,
) -> DownloadResult:
    """Run one download from these holders."""
    options.setdefault("config", QUICK)
    download = Download(
        manifest.content_id, target, holders=each(holders), connect=reader.pool.connect, **options
    )
    return await download.run()
