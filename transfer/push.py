"""Sending a file or folder into another peer's inbox.

Owns the offer, what a receiving peer must implement (Inbox, Sink), and the sender's side of Push.
Knows nothing of who may send and of what a receipt says: both are the peer's.
"""

import asyncio
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import grpc
from google.protobuf.message import DecodeError

from identity.files import read_exactly
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
from transfer.hashing import open_regular
from transfer.manifest import Manifest, TreeManifest
from transfer.threads import run_to_end
from transfer.wire import FRAME_DATA_MAX_BYTES

PUSH_METHOD = "/shoal.v1.Transfer/Push"
REASON_KEY = "shoal-reason"
SEAL_ID_BYTES = 16
RECEIPT_BYTES_MAX = 64 * 1024
FOLDER_SUFFIX = "/"
"""Ends the name of a folder in an offer."""
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
    """A file, or with a TreeManifest a folder, that a sender wants to deliver.

    The seal id names the delivery in every attempt.
    """

    seal_id: bytes
    name: str
    manifest: Manifest
    expires_ms: int = 0

    @property
    def is_folder(self) -> bool:
        return isinstance(self.manifest, TreeManifest)

    @property
    def wire_name(self) -> str:
        """The name as it is sent: whoever knows no folders finds that of one unsafe."""
        return self.name + FOLDER_SUFFIX if self.is_folder else self.name

    @property
    def size_bytes(self) -> int:
        """Size of the file, or of all files in the folder."""
        manifest = self.manifest
        return manifest.tree_bytes if isinstance(manifest, TreeManifest) else manifest.size_bytes

    @property
    def content_id(self) -> bytes:
        return self.manifest.content_id


class Sink(Protocol):
    """Where an accepted file or folder goes; every method may raise DiskFull or QuotaFull."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing: of a folder only its own stream tells."""

    async def write(self, offset: int, data: bytes) -> None:
        """Store bytes, verified ones of a file; the offset follows what is stored already."""

    async def finish(self) -> bytes:
        """Make the file safe and visible, and return the receipt; idempotent by seal id."""

    async def close(self) -> None:
        """End this attempt, finished or not; what is stored stays for the next one."""


@dataclass(frozen=True, slots=True)
class Accept:
    """The receiver's yes: where to begin, and where to write.

    Of a file that is a chunk's bound or the size; of a folder any place in its stream, or beyond.
    """

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


class PushSource(Protocol):
    """What is sent, read by one thread at a time."""

    @property
    def size_bytes(self) -> int:
        """How many bytes there are to send in all."""

    def read_at(self, offset: int, length_bytes: int, /) -> bytes:
        """Return a span; SourceChanged when it is not what was offered."""


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
    source = _FileSource(path, offer.manifest)
    try:
        return await push(channel, offer, source, on_progress=on_progress, config=config)
    finally:
        source.close()


async def push(
    channel: grpc.aio.Channel,
    offer: PushOffer,
    source: PushSource,
    *,
    on_progress: PushProgress | None = None,
    config: PushConfig | None = None,
) -> bytes:
    """Send what is offered, a folder's stream for one, and return the receiver's receipt."""
    config = config or PushConfig()
    try:
        return await _push_once(channel, offer, source, on_progress, config)
    except _StatusLostError:
        return await _push_once(channel, offer, source, on_progress, config, again=True)


class _FileSource:
    """A file whose chunks are checked as they are read."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._manifest = manifest
        self._descriptor = open_regular(path)

    @property
    def size_bytes(self) -> int:
        return self._manifest.size_bytes

    def read_at(self, offset: int, length_bytes: int, /) -> bytes:
        data = read_exactly(self._descriptor, offset, length_bytes)
        if not self._manifest.verifies(offset // self._manifest.chunk_size_bytes, data):
            raise SourceChanged
        return data

    def close(self) -> None:
        os.close(self._descriptor)


async def _push_once(
    channel: grpc.aio.Channel,
    offer: PushOffer,
    source: PushSource,
    on_progress: PushProgress | None,
    config: PushConfig,
    *,
    again: bool = False,
) -> bytes:
    call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(PUSH_METHOD)()
    try:
        return await _push(call, offer, source, on_progress, config, again=again)
    except grpc.aio.AioRpcError as error:
        raise _typed(error, "folder" if offer.is_folder else "file") from error
    except TimeoutError as error:
        raise PushFailed("the receiver stopped answering") from error
    finally:
        call.cancel()


async def _push(
    call: grpc.aio.StreamStreamCall[bytes, bytes],
    offer: PushOffer,
    source: PushSource,
    on_progress: PushProgress | None,
    config: PushConfig,
    *,
    again: bool,
) -> bytes:
    opening = transfer_pb2.PushOffer(
        seal_id=offer.seal_id,
        name=offer.wire_name,
        manifest=offer.manifest.encode(),
        expires_ms=offer.expires_ms,
    )
    config.pace.note(len(opening.manifest))
    async with asyncio.timeout(config.idle_timeout_s):
        await call.write(transfer_pb2.PushRequest(offer=opening).SerializeToString())
        begin = await _read_reply(call)
    committed = begin.committed_bytes
    at_bound = committed % offer.manifest.chunk_size_bytes == 0
    is_possible = committed == source.size_bytes or (at_bound and committed < source.size_bytes)
    if not (is_possible or offer.is_folder):
        raise PushFailed("the receiver asked for an impossible offset")
    reply = asyncio.create_task(_read_reply(call))
    try:
        spans = _spans(offer, source, committed)
        step = config.pace.frame_bytes(FRAME_DATA_MAX_BYTES, begin.frame_bytes_max)
        await _send(call, spans, source, on_progress, config, reply, step, again=again)
        async with asyncio.timeout(config.finish_timeout_s):
            receipt = (await reply).receipt
    finally:
        reply.cancel()
        await asyncio.gather(reply, return_exceptions=True)
    if not receipt or len(receipt) > RECEIPT_BYTES_MAX:
        raise PushFailed("the receiver sent no receipt")
    return receipt


def _spans(offer: PushOffer, source: PushSource, committed: int) -> Iterator[tuple[int, int]]:
    """Return what is read at a time: chunks of a file, and of a folder's stream a frame's worth."""
    if not offer.is_folder:
        chunks = range(-(-committed // offer.manifest.chunk_size_bytes), offer.manifest.chunk_count)
        return map(offer.manifest.span, chunks)
    size_bytes = source.size_bytes
    starts = range(committed, size_bytes, FRAME_DATA_MAX_BYTES)
    return ((at, min(FRAME_DATA_MAX_BYTES, size_bytes - at)) for at in starts)


async def _send(
    call: grpc.aio.StreamStreamCall[bytes, bytes],
    spans: Iterator[tuple[int, int]],
    source: PushSource,
    on_progress: PushProgress | None,
    config: PushConfig,
    reply: asyncio.Task[transfer_pb2.PushReply],
    step: int,
    *,
    again: bool,
) -> None:
    """Send these spans in frames of a length; ends early when the receiver ended the call."""
    for number, (offset, length) in enumerate(spans):
        data = await run_to_end(functools.partial(source.read_at, offset, length))
        view = memoryview(data)
        for start in range(0, length, step):
            if reply.done():
                return
            piece = bytes(view[start : start + step])
            request = transfer_pb2.PushRequest(offset=offset + start, data=piece)
            await config.pace.take(len(piece))
            async with asyncio.timeout(config.idle_timeout_s):
                await _write(call, request.SerializeToString(), reply)
        if again and number == 0:
            await asyncio.wait([reply], timeout=config.status_wait_s)
        if on_progress is not None:
            on_progress(offset + length, source.size_bytes)
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


def _typed(error: grpc.aio.AioRpcError, what: str) -> TransferError:
    """Turn the receiver's status into our error; remote text is bounded and made plain."""
    reason = (error.details() or "")[:REASON_CHARS_MAX]
    plain = "".join(letter if letter.isprintable() else "?" for letter in reason)
    match error.code():
        case grpc.StatusCode.PERMISSION_DENIED:
            return Refused(f"the receiver refused the {what}: {plain}")
        case grpc.StatusCode.INVALID_ARGUMENT:
            return UnsafeName(f"the receiver refused the offer: {plain}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED if _reason(error) == "busy":
            return PushFailed("the receiver is busy", hint="send it again in a moment")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return ReceiverFull(f"the receiver has no room for the {what}: {plain}")
        case grpc.StatusCode.UNIMPLEMENTED:
            return Refused("the receiver takes no files")
        case code:
            return PushFailed(f"the connection to the receiver broke ({code.name.lower()})")


def _reason(error: grpc.aio.AioRpcError) -> str:
    for key, value in error.trailing_metadata() or ():
        if key == REASON_KEY:
            return value if isinstance(value, str) else value.decode("ascii", "replace")
    return ""
