"""The Mailbox service: a peer keeps mail for others, and hears of its own.

Owns the handlers of `shoal.v1.Mailbox` over a `KeptMail`. Who calls is known from the certificate;
this module decides who may do what. It knows neither the DHT nor how hosts are found: it reports
what it holds through callbacks.

Only a peer that `keeps_mail` takes deposits; the others answer UNIMPLEMENTED. The rest is answered
by every peer: one that sent a letter, or kept mail until lately, hands out what lies in its spool.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message

from identity.keys import Identity
from protos import mailbox_pb2 as wire
from queueing.audit import NONCE_BYTES, proof_of
from queueing.envelope import OuterManifest, decode_manifest
from queueing.errors import (
    BadEnvelope,
    BadReceipt,
    NoMailbox,
    NotPermitted,
    Refused,
    TooLarge,
    Unavailable,
    UnknownDelivery,
)
from queueing.frames import FRAME_BYTES_MAX, Joiner, bitmap_of, split
from queueing.kept import KeptMail
from queueing.mailbox_wire import (
    CHALLENGES_MAX,
    ENDED_MAX,
    IDS_MAX,
    LISTED_MAX,
    SERVICE,
    answering,
    decoder,
    encode,
)
from queueing.receipt import make_promise
from queueing.spool_index import Row, Stage
from rpc.pace import BothWays

_Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class MailboxConfig:
    """How a peer keeps mail for others."""

    keeps_mail: bool = True
    """Whether deposits for others are taken."""
    lifetime_max_ms: int = 30 * 24 * 3600 * 1000
    """Deliveries that want to stay longer are refused."""
    streams_max: int = 32
    """Deposits and collections under way, all callers together."""
    caller_streams_max: int = 4
    """Deposits and collections under way for one caller."""
    idle_s: float = 30.0
    """A stream that stands still for so long is ended; what was deposited stays for a resume."""


async def _heeds_no_moves(_host_id: bytes, _delivery_id: bytes, _promise: bytes) -> None:
    """Stand for a peer that sends nothing."""


async def _tells_no_sender(_manifest: OuterManifest) -> None:
    """Stand for a host that leaves it to others to tell."""


@dataclass(frozen=True, slots=True)
class MailboxHooks:
    """What the peer wants to decide or hear; all are called on the event loop."""

    accepts: Callable[[bytes, bytes], bool]
    """Whether a sender may deposit for a recipient (peer ids)."""
    on_held: Callable[[bytes, int], None]
    """A delivery for this recipient is held until this time: publish a `mail` record, nudge."""
    on_nudge: Callable[[bytes], None]
    """This host says that mail waits for us."""
    on_receipt: Callable[[bytes], Awaitable[bool]]
    """A recipient hands us a receipt; whether it is for a delivery of ours and now durable."""
    on_moved: Callable[[bytes, bytes, bytes], Awaitable[None]] = _heeds_no_moves
    """This host (peer id) says who keeps a delivery now: its id, and that keeper's promise."""
    on_taken_over: Callable[[OuterManifest], Awaitable[None]] = _tells_no_sender
    """A host that leaves handed this delivery over; its sender does not know yet."""


class MailboxService:
    """Handlers of the Mailbox service; hand `handler()` to the listener."""

    def __init__(
        self,
        spool: KeptMail,
        identity: Identity,
        network_id: bytes,
        caller_id: Callable[[_Context], bytes],
        hooks: MailboxHooks,
        *,
        wall_ms: Callable[[], int],
        config: MailboxConfig = MailboxConfig(),
        pace: BothWays | None = None,
    ) -> None:
        """Take what is kept; `pace` is shared with all other mail of this peer."""
        self._pace = pace or BothWays()
        self._spool = spool
        self._identity = identity
        self._network_id = network_id
        self._caller_id = caller_id
        self._hooks = hooks
        self._wall_ms = wall_ms
        self._config = config
        self._streams: Counter[bytes] = Counter()

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what the listener serves."""
        unary = grpc.unary_unary_rpc_method_handler

        def method(kind: type[Message], call: Callable[[Any, Any], Awaitable[Message]]) -> Any:
            return unary(answering(call), decoder(kind), encode)

        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Deposit": grpc.stream_stream_rpc_method_handler(
                    answering(self._deposit), decoder(wire.DepositRequest), encode
                ),
                "Collect": grpc.unary_stream_rpc_method_handler(
                    answering(self._collect), decoder(wire.CollectRequest), encode
                ),
                "List": method(wire.ListRequest, self._list),
                "Settle": method(wire.SettleRequest, self._settle),
                "Receipts": method(wire.ReceiptsRequest, self._receipts),
                "Cancel": method(wire.CancelRequest, self._cancel),
                "Usage": method(wire.UsageRequest, self._usage),
                "Nudge": method(wire.NudgeRequest, self._nudge),
                "Return": method(wire.ReturnRequest, self._return),
                "Audit": method(wire.AuditRequest, self._audit),
                "Farewell": method(wire.FarewellRequest, self._farewell),
                "Moved": method(wire.MovedRequest, self._moved),
            },
        )

    async def _deposit(self, _requests: object, context: _Context) -> None:
        caller = self._caller_of_mail(context)
        async with self._stream_slot(caller):
            manifest, handed_over = await self._read_manifest(context)
            self._check_deposit(caller, manifest, handed_over=handed_over)
            missing = await self._spool.begin(manifest)
            wanted = wire.Missing(
                bitmap=bitmap_of(missing, manifest.count),
                frame_bytes_max=self._pace.down.wanted_frame_bytes(FRAME_BYTES_MAX),
            )
            await context.write(wire.DepositReply(missing=wanted))
            await self._read_chunks(context, manifest, set(missing))
            await self._spool.finish(manifest)
            promise = make_promise(
                self._identity,
                self._network_id,
                delivery_id=manifest.delivery_id,
                made_ms=self._wall_ms(),
                until_ms=manifest.expires_ms,
            )
            if handed_over and missing:
                await self._hooks.on_taken_over(manifest)
            self._hooks.on_held(manifest.recipient, manifest.expires_ms)
            await context.write(wire.DepositReply(promise=promise))

    async def _read_manifest(self, context: _Context) -> tuple[OuterManifest, bool]:
        request = await self._read(context)
        if not isinstance(request, wire.DepositRequest) or not request.manifest:
            raise BadEnvelope("a deposit begins with the outer manifest")
        self._pace.down.note(len(request.manifest))
        return decode_manifest(request.manifest), request.handed_over

    def _check_deposit(self, caller: bytes, manifest: OuterManifest, *, handed_over: bool) -> None:
        # What is handed over is as good as what the sender brings: it signed the manifest, and its
        # quota is what fills. That it was really the caller's to keep makes no difference.
        if manifest.sender != caller and not handed_over:
            raise NotPermitted("only the sender deposits a delivery")
        if not self._hooks.accepts(manifest.sender, manifest.recipient):
            raise Refused("this mailbox takes no mail from this sender")
        if manifest.expires_ms - self._wall_ms() > self._config.lifetime_max_ms:
            raise TooLarge("this mailbox does not keep mail for so long")

    async def _read_chunks(
        self, context: _Context, manifest: OuterManifest, missing: set[int]
    ) -> None:
        joiner = Joiner(manifest)
        with self._pace.down.reading(sum(map(manifest.sealed_size, missing))) as stream:
            while missing:
                request = await self._read(context)
                if request is grpc.aio.EOF:
                    return  # `finish` tells that the deposit is not whole
                if not isinstance(request, wire.DepositRequest) or not request.HasField("frame"):
                    raise BadEnvelope("a frame was expected")
                # The next one is read when the limit allows it: gRPC then slows the sender down.
                await stream.received(len(request.frame.data))
                chunk = joiner.add(request.frame)
                if chunk is not None:
                    index, sealed = chunk
                    if index not in missing:
                        raise BadEnvelope("a chunk came that was not asked for")
                    await self._spool.put(manifest, index, sealed)
                    missing.discard(index)

    async def _read(self, context: _Context) -> object:
        try:
            async with asyncio.timeout(self._config.idle_s):  # the call ends with it
                return await context.read()
        except TimeoutError as error:
            raise Unavailable("the deposit stood still for too long") from error

    async def _write(self, context: _Context, reply: wire.CollectReply) -> None:
        try:
            async with asyncio.timeout(self._config.idle_s):  # the call ends with it
                await context.write(reply)
        except TimeoutError as error:
            raise Unavailable("the collection stood still for too long") from error

    async def _list(self, request: wire.ListRequest, context: _Context) -> wire.ListReply:
        caller = self._caller_id(context)
        after = min(request.after, 2**63 - 1)
        rows = await self._spool.waiting(caller, after, LISTED_MAX + 1)
        return wire.ListReply(
            deliveries=[
                wire.Listed(
                    delivery_id=row.delivery_id,
                    sealed_bytes=row.sealed_bytes,
                    expires_ms=row.expires_ms,
                    position=row.position,
                    created_ms=row.created_ms,
                )
                for row in rows[:LISTED_MAX]
            ],
            more=len(rows) > LISTED_MAX,
        )

    async def _collect(self, request: wire.CollectRequest, context: _Context) -> None:
        caller = self._caller_id(context)
        await self._row_of_recipient(request.delivery_id, caller)
        manifest = await self._spool.manifest(request.delivery_id)
        if manifest is None:
            raise UnknownDelivery
        async with self._stream_slot(caller):
            self._pace.up.note(len(manifest.encoded))
            await self._write(context, wire.CollectReply(manifest=manifest.encoded))
            if request.manifest_only:
                return
            most_bytes = self._pace.up.frame_bytes(FRAME_BYTES_MAX, request.frame_bytes_max)
            for index in range(request.start, manifest.count):
                sealed = await self._spool.read(manifest, index)
                for frame in split(index, sealed, most_bytes):
                    await self._pace.up.take(len(frame.data))
                    await self._write(context, wire.CollectReply(frame=frame))

    async def _settle(self, request: wire.SettleRequest, context: _Context) -> wire.SettleReply:
        caller = self._caller_id(context)
        await self._row_of_recipient(request.delivery_id, caller)
        if request.receipt:
            await self._spool.settle(request.delivery_id, request.receipt)
        else:
            await self._spool.drop(request.delivery_id)
        return wire.SettleReply()

    async def _receipts(
        self, request: wire.ReceiptsRequest, context: _Context
    ) -> wire.ReceiptsReply:
        caller = self._caller_id(context)
        if len(request.delivery_ids) > IDS_MAX:
            raise TooLarge("too many delivery ids in one call")
        return wire.ReceiptsReply(receipts=await self._spool.receipts(caller, request.delivery_ids))

    async def _cancel(self, request: wire.CancelRequest, context: _Context) -> wire.CancelReply:
        caller = self._caller_id(context)
        row = await self._spool.row(request.delivery_id)
        if row is None or row.sender != caller:  # others are not told whether it is here
            raise UnknownDelivery
        return wire.CancelReply(cancelled=await self._spool.drop(request.delivery_id))

    async def _usage(self, _request: wire.UsageRequest, context: _Context) -> wire.UsageReply:
        usage = await self._spool.usage(self._caller_id(context))
        return wire.UsageReply(
            deliveries=usage.deliveries, bytes=usage.bytes, limit_bytes=usage.limit_bytes
        )

    async def _nudge(self, _request: wire.NudgeRequest, context: _Context) -> wire.NudgeReply:
        self._hooks.on_nudge(self._caller_id(context))
        return wire.NudgeReply()

    async def _return(self, request: wire.ReturnRequest, context: _Context) -> wire.ReturnReply:
        self._caller_id(context)
        return wire.ReturnReply(taken=await self._hooks.on_receipt(request.receipt))

    async def _audit(self, request: wire.AuditRequest, context: _Context) -> wire.AuditReply:
        """Prove to a sender what is kept for it; others hear that nothing is here."""
        caller = self._caller_id(context)
        if len(request.challenges) > CHALLENGES_MAX:
            raise TooLarge("too many challenges in one call")
        if len(request.nonce) != NONCE_BYTES:
            raise BadEnvelope("the nonce has a wrong length")
        async with self._stream_slot(caller):
            return wire.AuditReply(
                answers=[
                    await self._prove(caller, request.nonce, each) for each in request.challenges
                ]
            )

    async def _prove(
        self, caller: bytes, nonce: bytes, challenge: wire.Challenge
    ) -> wire.AuditAnswer:
        delivery_id = challenge.delivery_id
        row = await self._spool.row(delivery_id)
        if row is None or row.sender != caller:
            return wire.AuditAnswer(gone=True)
        manifest = await self._spool.manifest(delivery_id) if row.stage is Stage.HELD else None
        if manifest is not None and challenge.index < manifest.count:
            with suppress(BadEnvelope):  # lost here; or the recipient fetched it another way
                sealed = await self._spool.read(manifest, challenge.index)
                host_id = self._identity.peer_id
                proof = proof_of(nonce, host_id, delivery_id, challenge.index, sealed)
                return wire.AuditAnswer(proof=proof)
        for receipt in await self._spool.receipts(caller, [delivery_id]):
            return wire.AuditAnswer(receipt=receipt)
        return wire.AuditAnswer(gone=True)

    async def _farewell(
        self, request: wire.FarewellRequest, context: _Context
    ) -> wire.FarewellReply:
        """Let go of what has ended; what is not the caller's, or not here, is passed over."""
        caller = self._caller_id(context)
        if len(request.ended) > ENDED_MAX:
            raise TooLarge("too many deliveries in one call")
        for ended in request.ended:
            row = await self._spool.row(ended.delivery_id)
            if row is None or row.sender != caller:
                continue
            try:
                if ended.receipt:
                    await self._spool.settle(ended.delivery_id, ended.receipt)
                else:
                    await self._spool.drop(ended.delivery_id)
            except (BadReceipt, UnknownDelivery):
                continue
        return wire.FarewellReply()

    async def _moved(self, request: wire.MovedRequest, context: _Context) -> wire.MovedReply:
        caller = self._caller_id(context)
        if len(request.moved) > ENDED_MAX:
            raise TooLarge("too many deliveries in one call")
        for moved in request.moved:
            await self._hooks.on_moved(caller, moved.delivery_id, moved.promise)
        return wire.MovedReply()

    def _caller_of_mail(self, context: _Context) -> bytes:
        caller = self._caller_id(context)
        if not self._config.keeps_mail:
            raise NoMailbox("this peer keeps no mail for others")
        return caller

    async def _row_of_recipient(self, delivery_id: bytes, caller: bytes) -> Row:
        row = await self._spool.row(delivery_id)
        if row is None or row.recipient != caller:  # others are not told whether it is here
            raise UnknownDelivery
        return row

    @asynccontextmanager
    async def _stream_slot(self, caller: bytes) -> AsyncIterator[None]:
        busy = self._streams.total() >= self._config.streams_max
        if busy or self._streams[caller] >= self._config.caller_streams_max:
            raise Unavailable("the mailbox is busy")
        self._streams[caller] += 1
        try:
            yield
        finally:
            self._streams[caller] -= 1
            if not self._streams[caller]:
                del self._streams[caller]
