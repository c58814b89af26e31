"""Long sets of records between simulated peers: what gRPC does, in one process.

Owns the time and the bytes of such a call. Must not know scenarios. The records go through the
same desks, acknowledgements and checks as over gRPC; TCP, TLS and HTTP/2 are only a few round trips
and no bytes of their own.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from dht import wire
from dht.acks import Receipt
from dht.bulk import BULK_RECORDS_MAX, FIND_RECORDS_MAX
from dht.engine import Engine
from dht.errors import BadAnswer, NoAnswer
from dht.lookup import Candidate
from dht.records import Record, encode_record

if TYPE_CHECKING:
    from simulation.world import Peer, World

CONNECT_TIMEOUT_S = 5.0
CONNECT_ROUND_TRIPS = 2
"""TCP's handshake and TLS 1.3's."""


class VirtualBulk:
    """One peer's calls for long sets."""

    def __init__(self, world: "World", peer: "Peer", engine: Engine) -> None:
        self._world = world
        self._peer = peer
        self._engine = engine

    async def find(
        self, candidate: Candidate, body: wire.FindRecords, records_max: int
    ) -> AsyncIterator[bytes]:
        """Yield encoded records from a storer, unchecked; NoAnswer."""
        storer = await self._connect(candidate)
        left, cursor = min(records_max, FIND_RECORDS_MAX), body.cursor
        while left > 0:
            page = wire.FindRecords(
                body.key, body.kinds, body.words, cursor, withdrawn=body.withdrawn
            )
            records, cursor = storer.desk.bulk_page(page, min(left, BULK_RECORDS_MAX))
            self._count(records)
            for record in records:
                yield record
            left -= len(records)
            if not cursor:
                return

    async def store(self, candidate: Candidate, records: Sequence[Record]) -> Receipt:
        """Store a long batch; NoAnswer, BadAnswer when the acknowledgement proves nothing."""
        own = self._engine.own
        public_key = candidate.public_key or self._engine.caller.public_key_at(candidate)
        if public_key is None:
            raise BadAnswer("the storer's key is not known")
        encoded = [encode_record(record) for record in records]
        message_id = own.entropy(wire.MESSAGE_ID_BYTES)
        storer = await self._connect(candidate)
        self._count(encoded)
        stored = await storer.intake.store(encoded, self._peer.address.block, own.peer_id)
        answer = storer.desk.acknowledge(encoded, stored, own.peer_id, message_id)
        return self._engine.caller.check_receipt(public_key, message_id, encoded, answer)

    async def _connect(self, candidate: Candidate) -> Engine:
        """Return the storer's parts after the round trips of a fresh connection and one call."""
        world, peer = self._world, self._peer
        storer = world.at(candidate.peer_id, candidate.address)
        usable = storer is not None and storer.is_up and peer.is_up and storer.reachable
        if not usable or storer is None or storer.side != peer.side:
            await asyncio.sleep(CONNECT_TIMEOUT_S)
            raise NoAnswer(f"{candidate.address} takes no connection")
        rtt_s = world.network.rtt_s(peer.place, storer.place)
        await asyncio.sleep(rtt_s * (CONNECT_ROUND_TRIPS + 1))
        if not storer.is_up or storer.node is None:
            raise NoAnswer(f"{candidate.address} went away")
        return storer.node.engine

    def _count(self, records: Sequence[bytes]) -> None:
        traffic = self._world.network.traffic
        traffic.bulk_calls += 1
        traffic.bulk_bytes += sum(len(record) for record in records)
