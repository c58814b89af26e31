"""Sending a file into another peer's inbox.

Owns the offer, what a receiving peer must implement (Inbox, Sink), and the sender's side of Push.
Knows nothing of who may send and of what a receipt says: both are the peer's.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import grpc
from google.protobuf.message import DecodeError

from protos import transfer_pb2
from rpc.pace import Pace
from transfer.errors import (
    PushFailed,
    ReceiverFull,
    Refused,
    SourceChanged,
    TransferError,
    UnsafeName,
)
from transfer.hashing import open_regular, read_exactly
from transfer.manifest import Manifest
from transfer.wire import FRAME_DATA_MAX_BYTES

PUSH_METHOD = "/shoal.v1.Transfer/Push"
REASON_KEY = "shoal-reason"
SEAL_ID_BYTES = 16
RECEIPT_BYTES_MAX = 64 * 1024
REASON_CHARS_MAX = 200

PushProgress = Callable[[int, int], None]
"""Called with bytes committed or sent, and bytes in all."""


class Caller(Protocol):
    """The peer at the other end, proven by its certificate."""

    @property
    def peer_id(self) -> bytes: ...
    @property
    def public_key(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class PushOffer:
    """A file that a sender wants to deliver; the seal id names the delivery in every attempt."""

    seal_id: bytes
    name: str
    manifest: Manifest
    expires_ms: int = 0

    @property
    def size_bytes(self) -> int:
        return self.manifest.size_bytes

    @property
    def content_id(self) -> bytes:
        return self.manifest.content_id


class Sink(Protocol):
    """Where an accepted file goes; every method may raise DiskFull or QuotaFull."""

    async def write(self, offset: int, data: bytes) -> None:
        """Store verified bytes; the offset follows what is stored already."""

    async def finish(self) -> bytes:
        """Make the file safe and visible, and return the receipt; idempotent by seal id."""

    async def close(self) -> None:
        """End this attempt, finished or not; what is stored stays for the next one."""


@dataclass(frozen=True, slots=True)
class Accept:
    """The receiver's yes: where to begin, a chunk's bound or the size, and where to write."""

    committed_bytes: int
    sink: Sink


class Inbox(Protocol):
    """Who may send here and where it goes; implemented by the peer."""

    async def offer(self, caller: Caller, offer: PushOffer) -> Accept:
        """Accept an offer, or raise Refused, UnsafeName, QuotaFull or DiskFull."""


class _StatusLostError(PushFailed):
    """the connection to the receiver broke while data was sent

    When the receiver ends the call during a write, grpcio now and then makes up an INTERNAL status
    that hides the receiver's own. What it would not take is then offered again, and after the
    first chunk the sender stands still for a moment, so that the status is not run over.
    """


@dataclass(frozen=True, slots=True)
class PushConfig:
    """Bounds of a push, as the sender keeps them."""

    idle_timeout_s: float = 30.0
    """The receiver must take data or answer within this."""
    finish_timeout_s: float = 120.0
    """The receiver must have made a finished file safe within this."""
    status_wait_s: float = 0.5
    """How long a second attempt waits after its first chunk for the receiver to object."""
    pace: Pace = field(default_factory=Pace)
    """The limit of bytes a second, shared with whatever else is sent."""


async def push_file(
    channel: grpc.aio.Channel,
    offer: PushOffer,
    path: Path,
    *,
    on_progress: PushProgress | None = None,
    config: PushConfig | None = None,
) -> bytes:
    """Send a file and return the receiver's receipt.

    Raises Refused, ReceiverFull, UnsafeName, PushFailed, SourceChanged, SourceUnreadable.
    """
    descriptor = open_regular(path)
    config = config or PushConfig()
    try:
        try:
            return await _push_once(channel, offer, descriptor, on_progress, config)
        except _StatusLostError:
            return await _push_once(channel, offer, descriptor, on_progress, config, again=True)
    finally:
        os.close(descriptor)


async def _push_once(
    channel: grpc.aio.Channel,
    offer: PushOffer,
    descriptor: int,
    on_progress: PushProgress | None,
    config: PushConfig,
    *,
    again: bool = False,
) -> bytes:
    call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(PUSH_METHOD)()
    try:
        return await _push(call, offer, descriptor, on_progress, config, again=again)
    except grpc.aio.AioRpcError as error:
        raise _typed(error) from error
    except TimeoutError as error:
        raise PushFailed("the receiver stopped answering") from error
    finally:
        call.cancel()


async def _push(
    call: grpc.aio.StreamStreamCall[bytes, bytes],
    offer: PushOffer,
    descriptor: int,
    on_progress: PushProgress | None,
    config: PushConfig,
    *,
    again: bool,
) -> bytes:
    opening = transfer_pb2.PushOffer(
        seal_id=offer.seal_id,
        name=offer.name,
        manifest=offer.manifest.encode(),
        expires_ms=offer.expires_ms,
    )
    config.pace.note(len(opening.manifest))
    async with asyncio.timeout(config.idle_timeout_s):
        await call.write(transfer_pb2.PushRequest(offer=opening).SerializeToString())
        committed = (await _read_reply(call)).committed_bytes
    at_bound = committed % offer.manifest.chunk_size_bytes == 0
    if committed > offer.size_bytes or not (at_bound or committed == offer.size_bytes):
        raise PushFailed("the receiver asked for an impossible offset")
    reply = asyncio.create_task(_read_reply(call))
    try:
        await _send(call, offer, descriptor, committed, on_progress, config, reply, again=again)
        async with asyncio.timeout(config.finish_timeout_s):
            receipt = (await reply).receipt
    finally:
        reply.cancel()
        await asyncio.gather(reply, return_exceptions=True)
    if not receipt or len(receipt) > RECEIPT_BYTES_MAX:
        raise PushFailed("the receiver sent no receipt")
    return receipt


async def _send(
    call: grpc.aio.StreamStreamCall[bytes, bytes],
    offer: PushOffer,
    descriptor: int,
    committed: int,
    on_progress: PushProgress | None,
    config: PushConfig,
    reply: asyncio.Task[transfer_pb2.PushReply],
    *,
    again: bool,
) -> None:
    """Send all chunks from the committed size on; ends early when the receiver ended the call."""
    first = -(-committed // offer.manifest.chunk_size_bytes)
    for chunk in range(first, offer.manifest.chunk_count):
        offset, length = offer.manifest.span(chunk)
        data = await asyncio.to_thread(read_exactly, descriptor, offset, length)
        if not offer.manifest.verifies(chunk, data):
            raise SourceChanged
        view = memoryview(data)
        step = config.pace.piece_bytes(FRAME_DATA_MAX_BYTES)
        for start in range(0, length, step):
            if reply.done():
                return
            piece = bytes(view[start : start + step])
            request = transfer_pb2.PushRequest(offset=offset + start, data=piece)
            await config.pace.take(len(piece))
            async with asyncio.timeout(config.idle_timeout_s):
                await _write(call, request.SerializeToString(), reply)
        if again and chunk == first:
            await asyncio.wait([reply], timeout=config.status_wait_s)
        if on_progress is not None:
            on_progress(offset + length, offer.size_bytes)
    await call.done_writing()


async def _write(
    call: grpc.aio.StreamStreamCall[bytes, bytes],
    message: bytes,
    reply: asyncio.Task[transfer_pb2.PushReply],
) -> None:
    try:
        await call.write(message)
    except asyncio.InvalidStateError:
        # The receiver has ended the call; its status says why and is what the caller shall see.
        await reply
        raise PushFailed from None
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.INTERNAL and not _reason(error):
            raise _StatusLostError from error
        raise


async def _read_reply(call: grpc.aio.StreamStreamCall[bytes, bytes]) -> transfer_pb2.PushReply:
    message: object = await call.read()
    if not isinstance(message, bytes):
        code = await call.code()
        raise PushFailed(f"the receiver ended the push early ({code.name.lower()})")
    try:
        return transfer_pb2.PushReply.FromString(message)
    except DecodeError as error:
        raise PushFailed("the receiver sent a malformed reply") from error


def _typed(error: grpc.aio.AioRpcError) -> TransferError:
    """Turn the receiver's status into our error; remote text is bounded and made plain."""
    reason = (error.details() or "")[:REASON_CHARS_MAX]
    plain = "".join(letter if letter.isprintable() else "?" for letter in reason)
    match error.code():
        case grpc.StatusCode.PERMISSION_DENIED:
            return Refused(f"the receiver refused the file: {plain}")
        case grpc.StatusCode.INVALID_ARGUMENT:
            return UnsafeName(f"the receiver refused the offer: {plain}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED if _reason(error) == "busy":
            return PushFailed("the receiver is busy", hint="send it again in a moment")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return ReceiverFull(f"the receiver has no room for the file: {plain}")
        case grpc.StatusCode.UNIMPLEMENTED:
            return Refused("the receiver takes no files")
        case code:
            return PushFailed(f"the connection to the receiver broke ({code.name.lower()})")


def _reason(error: grpc.aio.AioRpcError) -> str:
    for key, value in error.trailing_metadata() or ():
        if key == REASON_KEY:
            return value if isinstance(value, str) else value.decode("ascii", "replace")
    return ""
