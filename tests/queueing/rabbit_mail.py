"""Sealed mail for the tests of the RabbitMQ backend."""

import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

from identity.keys import Identity
from queueing.envelope import OuterManifest, seal_file
from queueing.receipt import Outcome, make_receipt
from queueing.store import Delivery

HOUR_MS = 3_600_000
NAME = "very-secret-name.txt"
CONTENT = b"the content that no keeper may read "


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class SealedChunks:
    """A ChunkSource in memory."""

    chunks: dict[int, bytes] = field(default_factory=dict)

    async def read(self, index: int) -> bytes:
        return self.chunks[index]


@dataclass(frozen=True)
class Parties:
    """A sender and a recipient in a network of their own, so that tests can share a broker."""

    network_id: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    sender: Identity = field(default_factory=Identity.generate)
    recipient: Identity = field(default_factory=Identity.generate)

    def seal(
        self, folder: Path, *, size: int = 1_200_000, lives_ms: int = HOUR_MS
    ) -> tuple[OuterManifest, SealedChunks]:
        path = folder / NAME
        path.write_bytes((CONTENT * (size // len(CONTENT) + 1))[:size])
        chunks = SealedChunks()
        created_ms = now_ms()
        manifest = seal_file(
            self.sender,
            self.network_id,
            self.recipient.peer_id,
            self.recipient.sealing_public_key,
            path,
            NAME,
            b"\1" * 32,
            size,
            created_ms=created_ms,
            expires_ms=created_ms + lives_ms,
            seal_id=secrets.token_bytes(16),
            sink=chunks.chunks.__setitem__,
        )
        return manifest, chunks

    def receipt(self, manifest: OuterManifest, outcome: Outcome = Outcome.DELIVERED) -> bytes:
        return make_receipt(
            self.recipient,
            self.network_id,
            delivery_id=manifest.delivery_id,
            seal_id=manifest.seal_id,
            content_id=b"\1" * 32,
            sender_id=manifest.sender,
            outcome=outcome,
            at_ms=now_ms(),
        )


async def sealed_chunks_of(delivery: Delivery) -> dict[int, bytes]:
    return {index: sealed async for index, sealed in delivery.chunks()}
