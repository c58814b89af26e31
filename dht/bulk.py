"""Long sets of records over gRPC: the service, and the client beside the UDP calls.

Owns the translation between the .proto messages and the record desk. Must not know how channels
are made: `Connect` is given. It carries the same bytes as UDP does: encoded records, and
acknowledgements signed over message id, digests and verdicts.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

import grpc
import msgspec

from dht import wire
from dht.acks import Receipt
from dht.calling import Caller
from dht.desk import RecordDesk
from dht.errors import BadAnswer, BusyStorer, NoAnswer
from dht.intake import Intake
from dht.limits import RequestLimits
from dht.lookup import Candidate
from dht.records import RECORD_BYTES_MAX, Record, encode_record
from dht.words import WORD_BYTES_MAX
from identity.address import Address
from identity.errors import ShoalError
from identity.network import Network
from protos import dht_pb2
from rpc.caller import caller_of

SERVICE = "shoal.v1.Dht"
BULK_RECORDS_MAX = 1_000
"""Records in one message either way, about a megabyte at most."""
FIND_RECORDS_MAX = 10_000
"""Records that one call may ask for."""
DATAGRAM_RECORDS = 4
"""Records of the usual size that an answer over UDP has room for."""
CALL_TIMEOUT_S = 15.0
KEY_BYTES = 20


class Connect(Protocol):
    """Gives a channel to a peer; raises a ShoalError when it cannot."""

    async def __call__(self, peer_id: bytes, addresses: Sequence[Address]) -> grpc.aio.Channel: ...


class BulkService:
    """Serve finds and stores from a record desk."""

    def __init__(
        self,
        desk: RecordDesk,
        intake: Intake,
        limits: RequestLimits,
        network: Network,
        *,
        clock: Callable[[], float],
        drops: Counter[str],
    ) -> None:
        self._desk = desk
        self._intake = intake
        self._limits = limits
        self._network = network
        self._clock = clock
        self._drops = drops

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the generic handler to add to the listener."""
        find: Any = self._find
        store: Any = self._store
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "FindRecords": grpc.unary_stream_rpc_method_handler(
                    find,
                    request_deserializer=dht_pb2.FindRecordsRequest.FromString,
                    response_serializer=dht_pb2.FindRecordsReply.SerializeToString,
                ),
                "StoreRecords": grpc.unary_unary_rpc_method_handler(
                    store,
                    request_deserializer=dht_pb2.StoreRecordsRequest.FromString,
                    response_serializer=dht_pb2.StoreRecordsReply.SerializeToString,
                ),
            },
        )

    async def _find(
        self,
        request: dht_pb2.FindRecordsRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> None:
        if (
            len(request.key) != KEY_BYTES
            or len(request.kinds) > wire.KINDS_MAX
            or len(request.words) > wire.WORDS_MAX
            or len(request.cursor) > wire.CURSOR_BYTES_MAX
            or len(request.prefix) > WORD_BYTES_MAX
        ):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "malformed request")
        source = _block_of(context.peer()) or caller_of(context, self._network).peer_id
        left = min(request.records_max or FIND_RECORDS_MAX, FIND_RECORDS_MAX)
        body = wire.FindRecords(
            request.key,
            tuple(request.kinds),
            tuple(request.words),
            request.cursor,
            withdrawn=request.withdrawn,
            prefix=request.prefix,
        )
        size_bytes = request.ByteSize()
        while left > 0:
            wanted = min(left, BULK_RECORDS_MAX)
            answers, now = _datagrams(wanted), self._clock()
            if not self._limits.answers(source, answers, size_bytes, now=now):
                self._drops["bulk-rate"] += 1
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many reads; ask later")
            records, cursor = self._desk.bulk_page(body, wanted)
            self._limits.give_back(source, answers - _datagrams(len(records)))
            await context.write(dht_pb2.FindRecordsReply(records=records))
            left -= len(records)
            if not cursor:
                return
            body, size_bytes = msgspec.structs.replace(body, cursor=cursor), 0

    async def _store(
        self,
        request: dht_pb2.StoreRecordsRequest,
        context: "grpc.aio.ServicerContext[Any, Any]",
    ) -> dht_pb2.StoreRecordsReply:
        records = list(request.records)
        if (
            len(request.message_id) != wire.MESSAGE_ID_BYTES
            or not 0 < len(records) <= BULK_RECORDS_MAX
            or any(len(record) > RECORD_BYTES_MAX for record in records)
        ):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "malformed batch")
        caller = caller_of(context, self._network)
        try:
            stored = await self._intake.store(records, _block_of(context.peer()), caller.peer_id)
        except BusyStorer as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        answer = self._desk.acknowledge(records, stored, caller.peer_id, request.message_id)
        return dht_pb2.StoreRecordsReply(
            verdicts=[
                dht_pb2.StoreRecordsReply.Verdict(
                    verdict=line.verdict, sequence=line.sequence, our_ms=line.our_ms
                )
                for line in answer.verdicts
            ],
            signature=answer.signature,
        )


class BulkClient:
    """Ask other peers' bulk service."""

    def __init__(self, connect: Connect, caller: Caller, entropy: Callable[[int], bytes]) -> None:
        self._connect = connect
        self._caller = caller
        self._entropy = entropy
        self._turn = asyncio.Lock()
        """Batches are packed, and receipts checked, one a turn of the loop: many end at once."""

    async def find(
        self, candidate: Candidate, body: wire.FindRecords, records_max: int
    ) -> AsyncIterator[bytes]:
        """Yield encoded records from a storer, unchecked; NoAnswer."""
        channel = await self._channel(candidate)
        ask: Any = channel.unary_stream(
            f"/{SERVICE}/FindRecords",
            request_serializer=dht_pb2.FindRecordsRequest.SerializeToString,
            response_deserializer=dht_pb2.FindRecordsReply.FromString,
        )
        request = dht_pb2.FindRecordsRequest(
            key=body.key,
            kinds=body.kinds,
            words=body.words,
            cursor=body.cursor,
            withdrawn=body.withdrawn,
            prefix=body.prefix,
            records_max=records_max,
        )
        call = ask(request, timeout=CALL_TIMEOUT_S)
        count = 0
        try:
            async for reply in call:
                for record in reply.records:
                    count += 1
                    if count > records_max:
                        return
                    yield record
        except grpc.aio.AioRpcError as error:
            raise NoAnswer(f"the bulk read failed: {error.code().name}") from error
        finally:
            call.cancel()

    async def store(self, candidate: Candidate, records: Sequence[Record]) -> Receipt:
        """Store a long batch; NoAnswer, BadAnswer when the acknowledgement proves nothing."""
        public_key = candidate.public_key or self._caller.public_key_at(candidate)
        if public_key is None:
            raise BadAnswer("the storer's key is not known")
        message_id = self._entropy(wire.MESSAGE_ID_BYTES)
        channel = await self._channel(candidate)
        ask: Callable[..., Awaitable[dht_pb2.StoreRecordsReply]] = channel.unary_unary(
            f"/{SERVICE}/StoreRecords",
            request_serializer=dht_pb2.StoreRecordsRequest.SerializeToString,
            response_deserializer=dht_pb2.StoreRecordsReply.FromString,
        )
        async with self._turn:
            await asyncio.sleep(0)
            encoded = [encode_record(record) for record in records]
            request = dht_pb2.StoreRecordsRequest(message_id=message_id, records=encoded)
            call = ask(request, timeout=CALL_TIMEOUT_S)
        try:
            reply = await call
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise BusyStorer from error
            raise NoAnswer(f"the bulk store failed: {error.code().name}") from error
        async with self._turn:
            await asyncio.sleep(0)
            stored = wire.StoredRecords(_lines(reply), reply.signature)
            return self._caller.check_receipt(public_key, message_id, encoded, stored)

    async def _channel(self, candidate: Candidate) -> grpc.aio.Channel:
        try:
            return await self._connect(candidate.peer_id, [candidate.address])
        except ShoalError as error:
            raise NoAnswer(str(error)) from error


def _datagrams(records: int) -> int:
    """Tell how many answers over UDP would carry so many records, one at least."""
    return 1 + records // DATAGRAM_RECORDS


def _lines(reply: dht_pb2.StoreRecordsReply) -> tuple[wire.VerdictLine, ...]:
    return tuple(
        wire.VerdictLine(
            line.verdict,
            line.sequence if line.HasField("sequence") else None,
            line.our_ms if line.HasField("our_ms") else None,
        )
        for line in reply.verdicts
    )


def _block_of(peer: str) -> str:
    """The public address block of a gRPC peer such as `ipv4:192.0.2.1:4100`; else empty."""
    _, _, text = peer.partition(":")
    try:
        return Address.parse(text.replace("%5B", "[").replace("%5D", "]")).block
    except ShoalError:
        return ""
