"""The receiving side of Push.

Owns one push from offer to receipt: order, verification before anything is written, and the status
that a sender is told. Knows no folder and no rule of who may send: the Inbox decides.
"""

import asyncio
from typing import Never, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from identity.errors import ShoalError
from protos import transfer_pb2
from rpc.pace import Pace, Reading
from transfer.errors import (
    BadContent,
    BadManifest,
    DiskFull,
    QuotaFull,
    Refused,
    TransferError,
    UnsafeName,
)
from transfer.manifest import decode_manifest
from transfer.names import check_name
from transfer.push import (
    FOLDER_SUFFIX,
    REASON_KEY,
    SEAL_ID_BYTES,
    Accept,
    Caller,
    Inbox,
    PushOffer,
)
from transfer.wire import FRAME_DATA_MAX_BYTES

Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]


class _MalformedError(TransferError):
    """the push is malformed"""


class _Watch:
    """Ends a push on which nothing moves."""

    def __init__(self, idle: asyncio.Timeout, idle_s: float) -> None:
        self._idle = idle
        self._idle_s = idle_s

    def moved(self) -> None:
        """Begin to count anew."""
        self._idle.reschedule(asyncio.get_running_loop().time() + self._idle_s)

    def pause(self) -> None:
        """Count no more while we wait ourselves."""
        self._idle.reschedule(None)


async def receive_push(
    context: Context, inbox: Inbox, caller: Caller, idle_timeout_s: float, pace: Pace
) -> None:
    """Take one push; ends the call with the status that says why when it is not taken."""
    try:
        async with asyncio.timeout(idle_timeout_s) as idle:
            offer = await _read_offer(context, pace)
            accept = await inbox.offer(caller, offer)
            take = _take_folder if offer.is_folder else _take
            try:
                await context.write(_begin_at(accept.committed_bytes, pace))
                with pace.reading(max(0, offer.size_bytes - accept.committed_bytes)) as stream:
                    await take(context, offer, accept, _Watch(idle, idle_timeout_s), stream)
            finally:
                await accept.sink.close()
    except TimeoutError:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no data came")
    except ShoalError as error:
        await _abort(context, error)


async def _take(
    context: Context, offer: PushOffer, accept: Accept, watch: _Watch, stream: Reading
) -> None:
    manifest = offer.manifest
    at = accept.committed_bytes
    assert at == manifest.size_bytes or at % manifest.chunk_size_bytes == 0
    for chunk in range(-(-at // manifest.chunk_size_bytes), manifest.chunk_count):
        offset, length = manifest.span(chunk)
        data = await _read_chunk(context, offset, length, watch, stream)
        if not manifest.verifies(chunk, data):
            raise _MalformedError("a chunk does not match the manifest")
        await accept.sink.write(offset, data)
    await _finish(context, accept, watch)


async def _take_folder(
    context: Context, _offer: PushOffer, accept: Accept, watch: _Watch, stream: Reading
) -> None:
    """Take a folder's stream frame by frame: the sink verifies it, and knows when it ends."""
    at = accept.committed_bytes
    while not accept.sink.is_whole:
        data = await _read_frame(context, at, watch, stream)
        watch.pause()  # thousands of files may have to be synced before more can be taken
        await accept.sink.write(at, data)
        watch.moved()
        at += len(data)
    await _finish(context, accept, watch)


def _begin_at(committed_bytes: int, pace: Pace) -> bytes:
    most_bytes = pace.wanted_frame_bytes(FRAME_DATA_MAX_BYTES)
    reply = transfer_pb2.PushReply(committed_bytes=committed_bytes, frame_bytes_max=most_bytes)
    return reply.SerializeToString()


async def _finish(context: Context, accept: Accept, watch: _Watch) -> None:
    # The sender waits for the receipt now: it is the sink's disk that may take its time.
    watch.pause()
    receipt = await accept.sink.finish()
    watch.moved()
    await context.write(transfer_pb2.PushReply(receipt=receipt).SerializeToString())


async def _read_chunk(
    context: Context, offset: int, length: int, watch: _Watch, stream: Reading
) -> bytes:
    parts: list[bytes] = []
    done = 0
    while done < length:
        data = await _read_frame(context, offset + done, watch, stream)
        if done + len(data) > length:
            raise _MalformedError("a frame reaches over the end of its chunk")
        parts.append(data)
        done += len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _read_frame(context: Context, offset: int, watch: _Watch, stream: Reading) -> bytes:
    request = await _read_request(context)
    size = len(request.data)
    if request.offset != offset or not 0 < size <= FRAME_DATA_MAX_BYTES:
        raise _MalformedError("data out of order")
    watch.pause()
    await stream.received(size)
    watch.moved()
    return request.data


async def _read_offer(context: Context, pace: Pace) -> PushOffer:
    offer = (await _read_request(context)).offer
    pace.note(len(offer.manifest))
    if len(offer.seal_id) != SEAL_ID_BYTES:
        raise _MalformedError("the seal id has a wrong length")
    name = check_name(offer.name.removesuffix(FOLDER_SUFFIX))
    taken = PushOffer(offer.seal_id, name, decode_manifest(offer.manifest), offer.expires_ms)
    if offer.name != taken.wire_name:
        raise _MalformedError("the name says another kind than the manifest")
    return taken


async def _read_request(context: Context) -> transfer_pb2.PushRequest:
    message: object = await context.read()
    if not isinstance(message, bytes):
        raise _MalformedError("the push ended early")
    try:
        return transfer_pb2.PushRequest.FromString(message)
    except DecodeError as error:
        raise _MalformedError from error


async def _abort(context: Context, error: ShoalError) -> Never:
    match error:
        case Refused():
            code, reason = grpc.StatusCode.PERMISSION_DENIED, "refused"
        case QuotaFull():
            code, reason = grpc.StatusCode.RESOURCE_EXHAUSTED, "quota"
        case DiskFull():
            code, reason = grpc.StatusCode.RESOURCE_EXHAUSTED, "disk"
        case UnsafeName() | BadManifest() | BadContent() | _MalformedError():
            code, reason = grpc.StatusCode.INVALID_ARGUMENT, "malformed"
        case _:
            code, reason = grpc.StatusCode.INTERNAL, "internal"
    # Other errors may name folders of this machine: the sender is told their kind only.
    told = str(error) if reason != "internal" else "the receiver could not store the file"
    await context.abort(code, told, ((REASON_KEY, reason),))
