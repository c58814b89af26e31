"""The spool: deliveries on this peer's own disk.

Owns one folder (index.db and the sealed chunks). It is the sender's outbox copy, the store behind
a mailbox, and a `PendingStore` itself. Knows no wire; it is given the wall time.

Invariant, besides those of `queueing.kept_folder`: whoever settles a delivery shows a receipt that
its recipient signed.
"""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from identity.keys import Identity
from queueing.envelope import (
    ContentHasher,
    OuterManifest,
    Source,
    decode_manifest,
    seal_file,
)
from queueing.errors import (
    MailboxFull,
    QueueError,
    UnknownDelivery,
)
from queueing.kept import KeptChunks
from queueing.kept_folder import KeptFolder, failure_of
from queueing.ledger import unusable
from queueing.receipt import check_receipt
from queueing.spool_index import Row, SpoolConfig, Stage
from queueing.store import ChunkSource, DepositReceipt, StoreKind, Usage

_WHAT = "the spool"
_PAGE_MAX = 100
_FLUSHED_BYTES = 32 * 1024 * 1024
"""Of a letter that is being sealed so much is written before the disk is told to take it."""


class Spool(KeptFolder):
    """A `PendingStore` in a folder; build it with `Spool.open`."""

    kind = StoreKind.SPOOL

    def __init__(
        self,
        folder: Path,
        network_id: bytes,
        config: SpoolConfig,
        wall_ms: Callable[[], int],
    ) -> None:
        super().__init__(folder, "index.db", network_id, config, wall_ms, what=_WHAT)
        self._index.forget_own_partial()
        _, lost = self._swept()
        for delivery_id in sorted(lost):
            self._index.forget(delivery_id)
        self.is_closed = False

    @classmethod
    async def open(
        cls,
        folder: Path,
        network_id: bytes,
        *,
        wall_ms: Callable[[], int],
        config: SpoolConfig = SpoolConfig(),  # noqa: B008 - frozen
    ) -> "Spool":
        """Open or create a spool and sweep what a crash left behind.

        StorageFailed where its index is damaged or the disk is full.
        """
        try:
            return await asyncio.to_thread(cls, folder, network_id, config, wall_ms)
        except sqlite3.Error as error:
            raise unusable(f"the spool {folder}", folder, error) from error

    async def deposit(self, manifest: OuterManifest, chunks: ChunkSource) -> DepositReceipt:
        """Keep a delivery; see `PendingStore.deposit`."""
        for index in await self.begin(manifest):
            await self.put(manifest, index, await chunks.read(index))
        await self.finish(manifest)
        return DepositReceipt(self.kind, (), manifest.expires_ms)

    async def collect(self, recipient: bytes) -> AsyncIterator["SpoolDelivery"]:
        """Yield what waits for a peer; see `PendingStore.collect`."""
        position = 0
        while page := await self.waiting(recipient, position):
            for row in page:
                position = row.position
                manifest = await self.manifest(row.delivery_id)
                if manifest is not None:
                    yield SpoolDelivery(self, manifest)

    async def receipts(self, sender: bytes, delivery_ids: Sequence[bytes]) -> list[bytes]:
        """Return the receipts kept for a sender's deliveries."""
        found = [
            await self._in_index(self._index.receipt, sender, delivery_id)
            for delivery_id in delivery_ids
        ]
        return [receipt for receipt in found if receipt is not None]

    async def cancel(self, manifest: OuterManifest) -> bool:
        """Take a delivery back."""
        return await self.drop(manifest.delivery_id)

    async def usage(self, sender: bytes | None = None) -> Usage:
        """Return how much others' mail fills of the spool, or one sender's."""
        return await self._in_index(self._index.usage, sender)

    async def close(self) -> None:
        """Close the index; a second close does nothing."""
        if self.is_closed:
            return
        await self._close()
        self.is_closed = True

    # What the mailbox service and the courier use besides.

    async def finish(self, manifest: OuterManifest) -> None:
        """Make a delivery durable: when this returns, it survives a power cut. BadEnvelope."""
        await self._hold(manifest)

    async def row(self, delivery_id: bytes) -> Row | None:
        """Return what the index knows of a delivery."""
        return await self._in_index(self._index.get, delivery_id)

    async def held_ids(self, sender: bytes) -> list[bytes]:
        """Return the deliveries of a sender that are held whole."""
        return await self._in_index(self._index.held_ids, sender)

    async def kept_for_others(self, limit: int) -> list[Row]:
        """Return whole deliveries of other senders, the smallest first."""
        return await self._in_index(self._index.kept_for_others, self._wall_ms(), limit)

    async def forget(self, delivery_id: bytes) -> None:
        """Let go of a delivery that others keep now; it may come here again."""
        await self._in_index(self._index.forget, delivery_id)
        await self._on_files(self._files.delete, delivery_id)

    def free_bytes(self) -> int:
        """Return how much of the disk is free."""
        return self._files.free_bytes()

    async def waiting(self, recipient: bytes, after: int, limit: int = _PAGE_MAX) -> list[Row]:
        """Return one page of the whole deliveries for a recipient, oldest first."""
        now_ms = self._wall_ms()
        return await self._in_index(self._index.waiting, recipient, after, limit, now_ms)

    async def recipients(self) -> dict[bytes, int]:
        """Return for whom mail waits, each with its latest expiry: what `mail` records say."""
        return await self._in_index(self._index.recipients, self._wall_ms())

    async def manifest(self, delivery_id: bytes) -> OuterManifest | None:
        """Return the outer manifest of a delivery whose chunks are here."""
        encoded = await self._in_index(self._index.manifest_bytes, delivery_id)
        return None if encoded is None else decode_manifest(encoded)

    async def read(self, manifest: OuterManifest, index: int) -> bytes:
        """Return one checked chunk; BadEnvelope when the disk lost it."""
        return await self._on_files(self._files.read, manifest, index)

    def source(self, manifest: OuterManifest, *, is_fresh: bool = False) -> ChunkSource:
        """Return the chunks of a held delivery for depositing them elsewhere.

        What is fresh, sealed here a moment ago, is not checked again.
        """
        return KeptChunks(self._read_fresh if is_fresh else self.read, manifest)

    async def _read_fresh(self, manifest: OuterManifest, index: int) -> bytes:
        return await self._on_files(self._files.read_fresh, manifest, index)

    async def settle(self, delivery_id: bytes, receipt: bytes) -> None:
        """Keep the recipient's receipt and let go of the chunks; BadReceipt, UnknownDelivery."""
        row = await self._in_index(self._index.get, delivery_id)
        if row is None:
            raise UnknownDelivery
        check_receipt(
            receipt, self._network_id, delivery_id=delivery_id, recipient_id=row.recipient
        )
        await self._in_index(self._index.settle, delivery_id, receipt)
        await self._on_files(self._files.delete, delivery_id)

    async def drop(self, delivery_id: bytes) -> bool:
        """Let go of a delivery for good; False when it was not here any more."""
        dropped = await self._in_index(self._index.drop, delivery_id)
        await self._on_files(self._files.delete, delivery_id)
        return dropped

    async def expire(self) -> int:
        """Delete what has expired; return how many."""
        expired = await self._in_index(self._index.expire, self._wall_ms())
        for delivery_id in expired:
            await self._on_files(self._files.delete, delivery_id)
        return len(expired)

    async def seal(
        self,
        identity: Identity,
        recipient_id: bytes,
        recipient_sealing_key: bytes,
        source: Source,
        name: str,
        content_id: bytes | ContentHasher,
        size: int,
        *,
        expires_ms: int,
        seal_id: bytes,
        is_folder: bool = False,
    ) -> OuterManifest:
        """Seal a content straight into this spool and hold it durably.

        The limits are not for one's own mail, the floor of free disk is. TooLarge, MailboxFull,
        StorageFailed, SourceChanged; OSError when the source cannot be read.
        """
        if self._lacks_room(size):
            raise MailboxFull("the disk is nearly full", hint="free some space in the home")
        staged = self._files.staging_path(seal_id)

        def seal() -> OuterManifest:
            with _Staged(staged) as out:
                return seal_file(
                    identity, self._network_id, recipient_id, recipient_sealing_key, source, name,
                    content_id, size, created_ms=self._wall_ms(), expires_ms=expires_ms,
                    seal_id=seal_id, sink=out.write, is_folder=is_folder,
                )  # fmt: skip

        manifest: OuterManifest | None = None
        try:
            manifest = await asyncio.to_thread(seal)
            row = await self._in_index(self._index.begin, manifest, self._wall_ms(), own=True)
            assert row.stage is Stage.PARTIAL, "a fresh content key gives a fresh delivery id"
            await self._on_files(self._files.adopt, manifest, staged)
            await self.finish(manifest)
        except QueueError:
            if manifest is not None:  # what cannot be deleted now is swept at the next start
                with contextlib.suppress(QueueError):
                    await self.forget(manifest.delivery_id)
            raise
        finally:
            with contextlib.suppress(OSError):
                staged.unlink(missing_ok=True)
        return manifest


class SpoolDelivery:
    """One delivery out of a spool."""

    def __init__(self, spool: Spool, manifest: OuterManifest) -> None:
        self._spool = spool
        self.manifest = manifest

    async def chunks(self, start: int = 0) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (index, sealed chunk) in order."""
        for index in range(start, self.manifest.count):
            yield index, await self._spool.read(self.manifest, index)

    async def ack(self, receipt: bytes) -> None:
        """Hand in the receipt; a second ack does nothing."""
        await self._spool.settle(self.manifest.delivery_id, receipt)

    async def reject(self, reason: str, receipt: bytes | None) -> None:  # noqa: ARG002
        """Let go of it; with a receipt the sender learns why."""
        if receipt is None:
            await self._spool.drop(self.manifest.delivery_id)
        else:
            await self._spool.settle(self.manifest.delivery_id, receipt)


class _Staged:
    """The file into which a letter is sealed; its failures are not the source's.

    What is written goes to the disk while more is sealed, so that the fsync in the end is short.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._flusher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flush")
        self._flush: Future[None] | None = None
        self._unflushed_bytes = 0

    def __enter__(self) -> "_Staged":
        try:
            self._file = self._path.open("wb", buffering=0)
        except OSError as error:
            raise failure_of(error, _WHAT) from error
        return self

    def write(self, _index: int, sealed: bytes) -> None:
        view = memoryview(sealed)
        try:
            while view:
                view = view[self._file.write(view) :]
            self._flush_some(len(sealed))
        except OSError as error:
            raise failure_of(error, _WHAT) from error

    def __exit__(self, *_exception: object) -> None:
        try:
            if self._flush is not None:
                self._flush.result()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise failure_of(error, _WHAT) from error
        finally:
            self._flusher.shutdown()
            self._file.close()

    def _flush_some(self, written_bytes: int) -> None:
        self._unflushed_bytes += written_bytes
        is_idle = self._flush is None or self._flush.done()
        if self._unflushed_bytes >= _FLUSHED_BYTES and is_idle:
            if self._flush is not None:
                self._flush.result()  # a failure is told once: a later fsync may know nothing of it
            self._unflushed_bytes = 0
            self._flush = self._flusher.submit(os.fsync, self._file.fileno())
