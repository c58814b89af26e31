"""The calling side of the Mailbox service, one function a method, one host a call.

Owns deadlines, the translation of failures to our errors, and the check of all that a host says
(manifests, chunks, promises). Must not know which hosts to ask: that is the mailbox store's.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import grpc
from google.protobuf.message import Message

from identity.address import Address
from identity.errors import ShoalError
from protos import mailbox_pb2 as wire
from queueing.audit import Answer, Challenge
from queueing.envelope import OuterManifest, decode_manifest
from queueing.errors import BadEnvelope, QueueError, Unavailable
from queueing.frames import FRAME_BYTES_MAX, Joiner, indexes_of, split
from queueing.mailbox_wire import LISTED_MAX, SERVICE, Undecodable, decoder, encode, error_of
from queueing.receipt import Promise, check_promise
from queueing.store import ChunkSource, Usage
from rpc.pace import BothWays

_Reply = TypeVar("_Reply", bound=Message)
_Step = TypeVar("_Step", wire.DepositReply, wire.CollectReply)
_PAGES_MAX = 20
_CALL_TIMEOUT_S = 10.0
STEP_TIMEOUT_S = 60.0
"""A stream may take as long as it likes, but not as long as this for one message."""


@dataclass(frozen=True, slots=True)
class Host:
    """A peer that keeps mail, and where it was last seen."""

    peer_id: bytes
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """What a host says waits for us; nothing of it is signed."""

    delivery_id: bytes
    created_ms: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What a host answered to a deposit."""

    promise: Promise
    signed: bytes
    """The promise as the host signed it."""
    had_it: bool
    """All chunks were there before."""


class Connect(Protocol):
    """Opens (or finds) the pinned channel to a peer; ShoalError when it cannot."""

    async def __call__(
        self, peer_id: bytes, addresses: Sequence[Address], /
    ) -> grpc.aio.Channel: ...


class MailboxClient:
    """Calls one host's Mailbox service."""

    def __init__(
        self,
        connect: Connect,
        network_id: bytes,
        pace: BothWays | None = None,
        *,
        step_timeout_s: float = STEP_TIMEOUT_S,
    ) -> None:
        """Take the way to peers; `pace` is shared with all other mail of this peer."""
        self._connect = connect
        self._network_id = network_id
        self._pace = pace or BothWays()
        self._step_timeout_s = step_timeout_s

    async def deposit(
        self, host: Host, manifest: OuterManifest, chunks: ChunkSource, *, handed_over: bool = False
    ) -> Kept:
        """Deposit what the host lacks and return its checked promise.

        `handed_over`: the delivery is another's, and we no longer keep it.
        """
        channel = await self._open(host)
        call = channel.stream_stream(_path("Deposit"), encode, decoder(wire.DepositReply))()
        steps = _Steps(call, self._step_timeout_s)
        try:
            with _failures():
                self._pace.up.note(len(manifest.encoded))
                await steps.write(
                    wire.DepositRequest(manifest=manifest.encoded, handed_over=handed_over)
                )
                reply = await steps.read(wire.DepositReply, "missing")
                missing = indexes_of(reply.missing.bitmap, manifest.count)
                most_bytes = self._pace.up.frame_bytes(
                    FRAME_BYTES_MAX, reply.missing.frame_bytes_max
                )
                for index in missing:
                    for frame in split(index, await chunks.read(index), most_bytes):
                        await self._pace.up.take(len(frame.data))
                        await steps.write(wire.DepositRequest(frame=frame))
                await call.done_writing()
                reply = await steps.read(wire.DepositReply, "promise")
        finally:
            call.cancel()
        promise = check_promise(
            reply.promise,
            self._network_id,
            delivery_id=manifest.delivery_id,
            keeper_id=host.peer_id,
        )
        if promise.until_ms < manifest.expires_ms:
            raise Unavailable("the mailbox promises to keep the delivery for too short a time")
        return Kept(promise, reply.promise, had_it=not missing)

    async def waiting(self, host: Host) -> list[Listed]:
        """Return what the host keeps for us, bounded."""
        found: list[Listed] = []
        after = 0
        for _page in range(_PAGES_MAX):
            reply = await self._call(host, "List", wire.ListRequest(after=after), wire.ListReply)
            page = reply.deliveries[:LISTED_MAX]
            found.extend(Listed(listed.delivery_id, listed.created_ms) for listed in page)
            if not reply.more or not page or page[-1].position <= after:
                break
            after = page[-1].position
        return found

    async def manifest(self, host: Host, delivery_id: bytes) -> OuterManifest:
        """Fetch a delivery's outer manifest and check that it is this delivery's."""
        request = wire.CollectRequest(delivery_id=delivery_id, manifest_only=True)
        async with self._collect(host, request) as steps:
            with _failures():
                reply = await steps.read(wire.CollectReply, "manifest")
        self._pace.down.note(len(reply.manifest))
        manifest = decode_manifest(reply.manifest)
        if manifest.delivery_id != delivery_id:
            raise BadEnvelope("the host hands out another delivery's manifest")
        return manifest

    async def chunks(
        self, host: Host, manifest: OuterManifest, start: int
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """Yield checked sealed chunks in order from `start`; QueueError when the host fails."""
        request = wire.CollectRequest(
            delivery_id=manifest.delivery_id,
            start=start,
            frame_bytes_max=self._pace.down.wanted_frame_bytes(FRAME_BYTES_MAX),
        )
        joiner = Joiner(manifest)
        wanted = start
        to_come = sum(map(manifest.sealed_size, range(start, manifest.count)))
        async with self._collect(host, request) as steps:
            with _failures():
                reply = await steps.read(wire.CollectReply, "manifest")
            self._pace.down.note(len(reply.manifest))
            with self._pace.down.reading(to_come) as stream:
                while wanted < manifest.count:
                    with _failures():
                        reply = await steps.read(wire.CollectReply, "frame")
                    # The next one is read when the limit allows it: gRPC slows the host down.
                    await stream.received(len(reply.frame.data))
                    chunk = joiner.add(reply.frame)
                    if chunk is None:
                        continue
                    if chunk[0] != wanted:
                        raise BadEnvelope("the host sends the chunks out of order")
                    yield chunk
                    wanted += 1

    async def settle(self, host: Host, delivery_id: bytes, receipt: bytes) -> None:
        """Hand in a receipt, or drop the delivery with an empty one."""
        request = wire.SettleRequest(delivery_id=delivery_id, receipt=receipt)
        await self._call(host, "Settle", request, wire.SettleReply)

    async def receipts(self, host: Host, delivery_ids: Sequence[bytes]) -> list[bytes]:
        """Ask for receipts; unchecked bytes."""
        request = wire.ReceiptsRequest(delivery_ids=delivery_ids)
        reply = await self._call(host, "Receipts", request, wire.ReceiptsReply)
        return list(reply.receipts[: len(delivery_ids)])

    async def cancel(self, host: Host, delivery_id: bytes) -> bool:
        """Take a delivery back."""
        request = wire.CancelRequest(delivery_id=delivery_id)
        return (await self._call(host, "Cancel", request, wire.CancelReply)).cancelled

    async def usage(self, host: Host) -> Usage:
        """Ask how much of the host's room we use."""
        reply = await self._call(host, "Usage", wire.UsageRequest(), wire.UsageReply)
        return Usage(reply.deliveries, reply.bytes, reply.limit_bytes)

    async def nudge(self, host: Host) -> None:
        """Tell a recipient that mail waits for it here."""
        await self._call(host, "Nudge", wire.NudgeRequest(), wire.NudgeReply)

    async def return_receipt(self, host: Host, receipt: bytes) -> bool:
        """Hand a receipt directly to the sender; whether it took it."""
        request = wire.ReturnRequest(receipt=receipt)
        return (await self._call(host, "Return", request, wire.ReturnReply)).taken

    async def audit(
        self, host: Host, nonce: bytes, challenges: Sequence[Challenge]
    ) -> list[Answer]:
        """Have a host prove that it has chunks of ours; the answers are unchecked."""
        asked = [
            wire.Challenge(delivery_id=each.delivery_id, index=each.index) for each in challenges
        ]
        request = wire.AuditRequest(nonce=nonce, challenges=asked)
        reply = await self._call(host, "Audit", request, wire.AuditReply)
        if len(reply.answers) != len(challenges):
            raise BadEnvelope("the host does not answer each challenge")
        return [Answer(answer.proof, answer.receipt) for answer in reply.answers]

    async def farewell(self, host: Host, ended: Sequence[tuple[bytes, bytes]]) -> None:
        """Tell a host what became of deliveries: pairs of id and receipt, empty when cancelled."""
        told = [wire.Ended(delivery_id=each, receipt=receipt) for each, receipt in ended]
        await self._call(host, "Farewell", wire.FarewellRequest(ended=told), wire.FarewellReply)

    async def moved(self, sender: Host, moved: Sequence[tuple[bytes, bytes]]) -> None:
        """Tell a sender who keeps its deliveries now: pairs of id and that keeper's promise."""
        told = [wire.MovedDelivery(delivery_id=each, promise=promise) for each, promise in moved]
        await self._call(sender, "Moved", wire.MovedRequest(moved=told), wire.MovedReply)

    async def _open(self, host: Host) -> grpc.aio.Channel:
        try:
            return await self._connect(host.peer_id, host.addresses)
        except QueueError:
            raise
        except ShoalError as error:
            raise Unavailable(str(error)) from error

    async def _call(self, host: Host, method: str, request: Message, kind: type[_Reply]) -> _Reply:
        channel = await self._open(host)
        with _failures():
            reply = await channel.unary_unary(_path(method), encode, decoder(kind))(
                request, timeout=_CALL_TIMEOUT_S
            )
        if isinstance(reply, Undecodable):
            raise BadEnvelope("the host's answer cannot be read")
        return cast("_Reply", reply)

    @contextlib.asynccontextmanager
    async def _collect(self, host: Host, request: wire.CollectRequest) -> AsyncIterator["_Steps"]:
        channel = await self._open(host)
        call = channel.unary_stream(_path("Collect"), encode, decoder(wire.CollectReply))(request)
        try:
            yield _Steps(call, self._step_timeout_s)
        finally:
            call.cancel()  # an abandoned call is never collected otherwise


class _Steps:
    """The messages of one stream; a host that moves none of them for long is given up."""

    def __init__(self, call: Any, timeout_s: float) -> None:
        self._call = call
        self._timeout_s = timeout_s

    async def read(self, kind: type[_Step], step: str) -> _Step:
        async with self._moving():
            reply = await self._call.read()
        if reply is grpc.aio.EOF:
            raise Unavailable("the host ended the call too early")
        if not isinstance(reply, kind) or reply.WhichOneof("step") != step:
            raise BadEnvelope("the host's answer cannot be read")
        return reply

    async def write(self, message: Message) -> None:
        call = self._call
        try:
            async with self._moving():
                await call.write(message)
        except asyncio.InvalidStateError:  # the host ended the call: its status says why
            code = await call.code()
            if code is grpc.StatusCode.OK:
                raise Unavailable("the host ended the call too early") from None
            raise grpc.aio.AioRpcError(
                code, grpc.aio.Metadata(), grpc.aio.Metadata(), await call.details()
            ) from None

    @contextlib.asynccontextmanager
    async def _moving(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError as error:
            raise Unavailable("the host stood still for too long") from error


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise error_of(error) from error
    except (grpc.aio.UsageError, asyncio.InvalidStateError) as error:
        # The pool closed the channel under the call.
        raise Unavailable("the connection to the mailbox was closed") from error


def _path(method: str) -> str:
    return f"/{SERVICE}/{method}"
