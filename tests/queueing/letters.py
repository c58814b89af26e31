"""Identities, sealed letters and receipts for the tests of queueing."""

import random
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path

from blake3 import blake3

from identity.keys import Identity
from identity.network import Network
from queueing.envelope import OuterManifest, open_chunk, open_letter, seal_file
from queueing.errors import BadEnvelope, Unavailable
from queueing.receipt import Outcome, make_receipt
from queueing.store import Delivery, PendingStore

NETWORK = Network(name="queueing tests", key=b"k" * 32)
NETWORK_ID = NETWORK.network_id
NAME = "an unmistakable name.txt"
HOUR_MS = 3600 * 1000


def identity(seed: str) -> Identity:
    """Return the same identity for the same seed."""
    return Identity.from_seed(blake3(seed.encode()).digest())


def fresh_identity() -> Identity:
    """Return an identity that no other test uses."""
    return Identity.generate()


def content_of(size: int, seed: int = 1) -> bytes:
    """Return repeatable content."""
    return random.Random(seed).randbytes(size)


def content_id_of(content: bytes) -> bytes:
    """Stand in for transfer's content id, which is opaque here."""
    return blake3(b"content id" + content).digest()


class MemorySource:
    """Sealed chunks in memory; counts reads, and can break off."""

    def __init__(self, chunks: Sequence[bytes], break_after: int | None = None) -> None:
        self.chunks = list(chunks)
        self.break_after = break_after
        self.reads = 0
        self.checked_by: OuterManifest | None = None

    async def read(self, index: int) -> bytes:
        if self.break_after is not None and self.reads >= self.break_after:
            raise Unavailable("the sender went away")
        self.reads += 1
        sealed = self.chunks[index]
        if self.checked_by is not None and not self.checked_by.chunk_is_good(index, sealed):
            raise BadEnvelope("a chunk was damaged on disk")
        return sealed


def seal(
    sender: Identity,
    recipient: Identity,
    content: bytes,
    *,
    created_ms: int,
    expires_ms: int,
    name: str = NAME,
    seal_id: bytes | None = None,
    network_id: bytes = NETWORK_ID,
) -> tuple[OuterManifest, MemorySource]:
    """Seal content into memory."""
    chunks: list[bytes] = []
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        manifest = seal_file(
            sender, network_id, recipient.peer_id, recipient.sealing_public_key, Path(file.name),
            name, content_id_of(content), len(content), created_ms=created_ms,
            expires_ms=expires_ms, seal_id=seal_id or secrets.token_bytes(16),
            sink=lambda _index, sealed: chunks.append(sealed),
        )  # fmt: skip
    return manifest, MemorySource(chunks)


def receipt_for(
    recipient: Identity,
    manifest: OuterManifest,
    outcome: Outcome = Outcome.DELIVERED,
    reason: str = "",
    content_id: bytes = bytes(32),
) -> bytes:
    """Return the receipt that the recipient signs."""
    return make_receipt(
        recipient, NETWORK_ID, delivery_id=manifest.delivery_id, seal_id=manifest.seal_id,
        content_id=content_id, sender_id=manifest.sender, outcome=outcome,
        at_ms=manifest.created_ms + 1, reason=reason,
    )  # fmt: skip


async def collect_all(store: PendingStore, recipient: Identity) -> list[Delivery]:
    """Return what waits."""
    return [delivery async for delivery in store.collect(recipient.peer_id)]


async def read_content(delivery: Delivery, recipient: Identity) -> bytes:
    """Open a whole delivery."""
    letter = open_letter(recipient, NETWORK_ID, delivery.manifest)
    content = b""
    async for index, sealed in delivery.chunks():
        content += open_chunk(letter, index, sealed)
    return content
