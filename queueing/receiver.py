"""The receiving half of the courier: takes letters out of stores into the inbox, once each.

Owns the ack rule: verify -> the inbox writes, fsyncs and renames -> journal (with the receipt) ->
ack. Must not know where the inbox lies or how a store works.

A letter is named by (sender, seal id) for ever: whatever delivery or push brings it again is only
acknowledged. Letters that cannot be opened are refused, counted and journaled: none comes twice.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from blake3 import blake3

from identity.encoding import length_prefixed
from identity.errors import ShoalError
from identity.keys import Identity
from queueing.envelope import LIFETIME_MAX_MS, Letter, OuterManifest, open_chunk, open_letter
from queueing.errors import BadEnvelope, QueueError, Refused, Unavailable
from queueing.journal import Journal
from queueing.receipt import Outcome, decode_receipt, make_receipt
from queueing.shared_chunks import one_ahead
from queueing.store import Delivery, PendingStore

_Item = TypeVar("_Item")
_NO_CONTENT_ID = bytes(32)


class InboxFile(Protocol):
    """A file on its way into the inbox."""

    @property
    def committed_bytes(self) -> int:
        """How much of the content is there already, from an earlier try."""
        ...

    async def write(self, offset: int, data: bytes) -> None:
        """Write verified content; a QueueError leaves the letter for later, Refused ends it."""
        ...

    async def finish(self) -> str:
        """Check, fsync, rename; return where it lies. Doing it again after a crash finds it."""
        ...

    async def abort(self) -> None:
        """Stop; what was written may stay for the next try."""
        ...


class InboxSink(Protocol):
    """Takes letters; the peer implements it over its inbox folder."""

    async def begin(self, letter: Letter) -> InboxFile:
        """Make room for a letter.

        Refused for what this peer never takes (sender, unsafe name); another QueueError (no room
        at present) leaves the letter where it is. It must know (sender id, seal id) of files that
        it finished: after a crash a finished letter comes again, with all its bytes committed.
        """
        ...


class ReturnReceipt(Protocol):
    """Hands a receipt to its sender; ShoalError when the sender cannot be reached."""

    async def __call__(self, sender: bytes, receipt: bytes, /) -> bool: ...


@dataclass(slots=True)
class ReceiveResult:
    """What one collection brought."""

    received: list[tuple[Letter, str]] = field(default_factory=list)
    """Letters and where their files lie."""
    duplicates: int = 0
    refused: int = 0
    bad: int = 0
    failures: list[QueueError] = field(default_factory=list)
    """Stores and letters that must be tried again."""


class Receiver:
    """Receives letters; one collection at a time."""

    def __init__(
        self,
        identity: Identity,
        network_id: bytes,
        journal: Journal,
        inbox: InboxSink,
        return_receipt: ReturnReceipt,
        *,
        wall_ms: Callable[[], int],
    ) -> None:
        self._identity = identity
        self._network_id = network_id
        self._journal = journal
        self._inbox = inbox
        self._return_receipt = return_receipt
        self._wall_ms = wall_ms
        self._collecting = asyncio.Lock()

    async def receive_all(self, stores: Sequence[PendingStore]) -> ReceiveResult:
        """Collect from every store; what fails is noted and stays for the next time."""
        result = ReceiveResult()
        async with self._collecting:
            for store in stores:
                try:
                    async with _closing(store.collect(self._identity.peer_id)) as deliveries:
                        async for delivery in deliveries:
                            await self._receive_or_note(delivery, result)
                except QueueError as error:
                    result.failures.append(error)
        return result

    async def return_receipts(self, pause_ms: Callable[[int], int]) -> None:
        """Hand due receipts to their senders; failures are tried again after `pause_ms`."""
        away: set[bytes] = set()
        for due in await self._journal.due(self._wall_ms()):
            try:
                if due.sender in away:  # it is sought once a round, however much it is owed
                    raise Unavailable
                await self._return_receipt(due.sender, due.receipt)
            except ShoalError:
                away.add(due.sender)
                next_try_ms = self._wall_ms() + pause_ms(due.attempts)
                await self._journal.postpone(due.delivery_id, next_try_ms)
            else:  # taken, or the sender does not know the delivery any more
                await self._journal.returned(due.delivery_id)

    async def take_push(
        self, sender: bytes, seal_id: bytes, content_id: bytes, delivery_id: bytes
    ) -> bytes:
        """Journal a file that was pushed and is durable in the inbox; return the receipt."""
        receipt = self._receipt(delivery_id, seal_id, content_id, sender, Outcome.DELIVERED)
        expires_ms = self._wall_ms() + LIFETIME_MAX_MS
        await self._journal.take(sender, seal_id, delivery_id, receipt, expires_ms, due=False)
        return receipt

    async def _receive_or_note(self, delivery: Delivery, result: ReceiveResult) -> None:
        try:
            await self._receive(delivery, result)
        except QueueError as error:
            result.failures.append(error)

    async def _receive(self, delivery: Delivery, result: ReceiveResult) -> None:
        manifest = delivery.manifest
        known = await self._journal.received(manifest.sender, manifest.seal_id)
        if known is not None:
            result.duplicates += 1
            if known.delivery_id == manifest.delivery_id:
                await delivery.ack(known.receipt)
            else:  # the same letter in another envelope, or after a push that broke off
                first = decode_receipt(known.receipt)
                receipt = self._receipt_for(manifest, first.content_id, first.outcome, first.reason)
                await self._take(manifest, receipt)
                await delivery.ack(receipt)
            return
        letter: Letter | None = None
        try:
            letter = open_letter(self._identity, self._network_id, manifest)
            path = await self._write(letter, delivery)
        except BadEnvelope as error:
            result.bad += 1
            await self._refuse(delivery, letter, str(error))
        except Refused as error:
            result.refused += 1
            await self._refuse(delivery, letter, str(error))
        else:
            receipt = self._receipt_for(manifest, letter.content_id, Outcome.DELIVERED, "")
            await self._take(manifest, receipt)
            result.received.append((letter, path))
            await delivery.ack(receipt)

    async def _write(self, letter: Letter, delivery: Delivery) -> str:
        file = await self._inbox.begin(letter)
        done = False
        try:
            chunk_bytes = letter.manifest.chunk_bytes
            start = file.committed_bytes // chunk_bytes
            if file.committed_bytes < letter.size:
                await self._write_chunks(letter, delivery, file, start)
            path = await file.finish()
            done = True
            return path
        finally:
            if not done:
                await file.abort()

    async def _write_chunks(
        self, letter: Letter, delivery: Delivery, file: InboxFile, start: int
    ) -> None:
        chunk_bytes = letter.manifest.chunk_bytes
        digest = blake3()
        async with (
            _closing(_checked_chunks(delivery, start)) as checked,
            _closing(one_ahead(checked)) as chunks,
        ):
            async for index, sealed in chunks:
                content = await asyncio.to_thread(open_chunk, letter, index, sealed)
                digest.update(content)
                if content:
                    await file.write(index * chunk_bytes, content)
        if start == 0 and digest.digest() != letter.content_digest:
            raise BadEnvelope("the content is not what the sender signed for")

    async def _refuse(self, delivery: Delivery, letter: Letter | None, reason: str) -> None:
        content_id = _NO_CONTENT_ID if letter is None else letter.content_id
        receipt = self._receipt_for(delivery.manifest, content_id, Outcome.REFUSED, reason)
        await self._take(delivery.manifest, receipt)
        await delivery.reject(reason, receipt)

    async def _take(self, manifest: OuterManifest, receipt: bytes) -> None:
        await self._journal.take(
            manifest.sender, manifest.seal_id, manifest.delivery_id, receipt,
            manifest.expires_ms, due=True,
        )  # fmt: skip

    def _receipt_for(
        self, manifest: OuterManifest, content_id: bytes, outcome: Outcome, reason: str
    ) -> bytes:
        return self._receipt(
            manifest.delivery_id, manifest.seal_id, content_id, manifest.sender, outcome, reason
        )

    def _receipt(
        self, delivery_id: bytes, seal_id: bytes, content_id: bytes, sender: bytes,
        outcome: Outcome, reason: str = "",
    ) -> bytes:  # fmt: skip
        return make_receipt(
            self._identity, self._network_id, delivery_id=delivery_id, seal_id=seal_id,
            content_id=content_id, sender_id=sender, outcome=outcome, at_ms=self._wall_ms(),
            reason=reason,
        )  # fmt: skip


async def _checked_chunks(
    delivery: Delivery, start: int
) -> AsyncGenerator[tuple[int, bytes], None]:
    """Yield the chunks; what damages them on the way is no fault of the sender's."""
    try:
        async with _closing(delivery.chunks(start)) as chunks:
            async for chunk in chunks:
                yield chunk
    except BadEnvelope as error:
        raise Unavailable(f"the store lost a part of the delivery: {error}") from error


@asynccontextmanager
async def _closing(stream: AsyncIterator[_Item]) -> AsyncIterator[AsyncIterator[_Item]]:
    """Close a stream that is a generator when its reader is done with it, early or not."""
    try:
        yield stream
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


def push_delivery_id(sender: bytes, recipient: bytes, seal_id: bytes, content_id: bytes) -> bytes:
    """Return the delivery id of a push, which has no envelope: both sides compute it alike."""
    parts = length_prefixed(b"shoal/push/1", sender, recipient, seal_id, content_id)
    return blake3(parts).digest()
