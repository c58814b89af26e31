"""The Transfer service: serves manifests, bitmaps and chunks, and takes pushed files.

Owns the server side of protos/transfer.proto with its limits: upload slots, bytes a second, idle
streams. Knows neither catalog nor inbox nor certificates: Shares, Inbox and `identify` are given.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc
from google.protobuf.message import DecodeError

from identity.errors import ShoalError
from protos import transfer_pb2
from rpc.pace import Pace
from transfer.bitmap import encode_bitmap
from transfer.errors import SourceChanged, SourceUnreadable
from transfer.limits import Slots
from transfer.manifest import TreeManifest
from transfer.packs import PackRead, read_pack_blocking
from transfer.push import REASON_KEY, Caller, Inbox
from transfer.push_service import receive_push
from transfer.reading import ReadAhead
from transfer.sources import OpenSource, Shares, Source
from transfer.spreading import Spreading
from transfer.wire import (
    FRAME_DATA_MAX_BYTES,
    RUN_BYTES_MAX,
    RUN_FRAME_BYTES_MAX,
    FetchRequest,
    FrameStatus,
    decode_fetch_request,
    encode_frame,
    encode_frame_head,
)

SERVICE_NAME = "shoal.v1.Transfer"
RETRY_KEY = "shoal-retry-ms"
OPEN_SOURCES_MAX = 8
CHANGED_MAX = 1_024
MAKE_WAY_S = 0.5
"""How long a newcomer waits for the end of a stream that gives way."""

Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]
Identify = Callable[[Context], Caller]
"""Returns who calls; raises a ShoalError when the certificate proves nothing."""

UploadObserver = Callable[[bytes, bytes, int], None]
"""Called with peer id, content id and bytes just sent."""


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """Limits of the service; checked when built."""

    upload_slots_max: int = 16
    """Fetch streams that run at a time."""
    upload_slots_per_peer_max: int = 4
    """Fetch streams of one peer."""
    upload_bytes_per_s: int | None = None
    """Bytes a second over all streams; None for no limit."""
    slot_idle_s: float = 1.0
    """A stream on which nothing was asked for so long gives its slot to a newcomer,"""
    slot_stuck_s: float = 5.0
    """and one whose peer took no data for so long."""
    busy_retry_ms: int = 500
    """When a peer that found no slot shall come back."""
    idle_timeout_s: float = 30.0
    """A stream on which nothing moves is cut, whichever side is slow."""
    pushes_max: int = 8
    """Files that are received at a time."""
    pushes_per_peer_max: int = 2
    """Files that are received from one peer at a time."""
    own_id: bytes = b""
    """This peer: what it fetches from itself goes over no line, and no limit holds."""

    def __post_init__(self) -> None:
        assert 0 < self.upload_slots_per_peer_max <= self.upload_slots_max
        assert 0 < self.pushes_per_peer_max <= self.pushes_max
        assert self.upload_bytes_per_s is None or self.upload_bytes_per_s > 0


class TransferService:
    """Hand `handler()` to the listener; everything else happens in answer to calls."""

    def __init__(
        self,
        shares: Shares,
        identify: Identify,
        *,
        inbox: Inbox | None = None,
        config: ServiceConfig | None = None,
        on_upload: UploadObserver | None = None,
        up: Pace | None = None,
        down: Pace | None = None,
    ) -> None:
        """Take what is served; `up` is the pace of what is fetched, `down` of what is pushed."""
        self._shares = shares
        self._identify = identify
        self._inbox = inbox
        self._config = config or ServiceConfig()
        self._on_upload = on_upload
        self._slots = Slots(self._config.upload_slots_max, self._config.upload_slots_per_peer_max)
        self._pushes = Slots(self._config.pushes_max, self._config.pushes_per_peer_max)
        self._up = up or Pace(self._config.upload_bytes_per_s)
        self._down = down or Pace()
        self._spreading = Spreading()
        self._streams: set[_FetchStream] = set()
        # Contents that were served here until their file changed, the longest ago first.
        self._changed: OrderedDict[bytes, None] = OrderedDict()

    @property
    def uploads(self) -> int:
        """How many Fetch streams run now."""
        return self._slots.in_use

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the handlers of the service; messages are raw bytes."""
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                "Describe": grpc.unary_unary_rpc_method_handler(self._describe),
                "Have": grpc.unary_unary_rpc_method_handler(self._have),
                "Fetch": grpc.stream_stream_rpc_method_handler(self._fetch),
                "Push": grpc.stream_stream_rpc_method_handler(self._push),
            },
        )

    # --- calls ---

    async def _describe(self, message: bytes, context: Context) -> bytes:
        await self._caller(context)
        source = await self._source_asked(transfer_pb2.DescribeRequest, message, context)
        reply = transfer_pb2.DescribeReply(manifest=source.manifest.encode()).SerializeToString()
        self._up.note(len(reply))
        return reply

    async def _have(self, message: bytes, context: Context) -> bytes:
        caller = await self._caller(context)
        source = await self._source_asked(transfer_pb2.HaveRequest, message, context)
        count = source.positions or source.manifest.chunk_count
        have: int | None = None
        if source.have is not None:
            have = source.verified()
        elif not isinstance(source.manifest, TreeManifest):
            spreads = transfer_pb2.HaveRequest.FromString(message).spreads
            now = asyncio.get_running_loop().time()
            have = self._spreading.asked(
                source.manifest.content_id, count, caller.peer_id, spreads=spreads, now=now
            )
        reply = transfer_pb2.HaveReply(
            chunk_count=count,
            complete=have is None,
            bitmap=b"" if have is None else encode_bitmap(have, count),
            run_bytes_max=RUN_BYTES_MAX,
        )
        return reply.SerializeToString()

    async def _fetch(self, _requests: object, context: Context) -> None:
        caller = await self._caller(context)
        if not self._slots.enter(caller.peer_id):
            await self._make_way(caller.peer_id)
            if not self._slots.enter(caller.peer_id):
                await self._abort_busy(context)
        stream = _FetchStream(self, context, caller.peer_id)
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            stream.close()
            self._streams.discard(stream)
            self._slots.leave(caller.peer_id)
            stream.gone.set()

    async def _make_way(self, peer_id: bytes) -> None:
        """End the stream that has been idle or stuck for longest, if one has been for too long."""
        now = asyncio.get_running_loop().time()
        others = self._slots.has_room_for(peer_id)
        late = [
            (stream.overdue_s(now), id(stream), stream)
            for stream in self._streams
            if others or stream.peer_id == peer_id
        ]
        overdue_s, _, stream = max(late, default=(0.0, 0, None))
        if stream is not None and overdue_s > 0:
            stream.give_way()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MAKE_WAY_S):
                    await stream.gone.wait()

    async def _push(self, _requests: object, context: Context) -> None:
        caller = await self._caller(context)
        if self._inbox is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this peer takes no files")
        if not self._pushes.enter(caller.peer_id):
            await self._abort_busy(context)
        try:
            await receive_push(
                context, self._inbox, caller, self._config.idle_timeout_s, self._down
            )
        finally:
            self._pushes.leave(caller.peer_id)

    # --- helpers ---

    async def _caller(self, context: Context) -> Caller:
        try:
            return self._identify(context)
        except ShoalError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))

    async def _abort_busy(self, context: Context) -> None:
        metadata = ((RETRY_KEY, str(self._config.busy_retry_ms)), (REASON_KEY, "busy"))
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", metadata)

    async def _source_asked(
        self,
        kind: type[transfer_pb2.DescribeRequest] | type[transfer_pb2.HaveRequest],
        message: bytes,
        context: Context,
    ) -> Source:
        try:
            content_id = kind.FromString(message).content_id
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "malformed request")
        opened = self.open(content_id)
        if opened is FrameStatus.CHANGED:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "it changed or is gone")
        if not isinstance(opened, OpenSource):
            await context.abort(grpc.StatusCode.NOT_FOUND, "not held here")
        opened.close()
        return opened.source

    def open(self, content_id: bytes) -> "OpenSource | FrameStatus":
        """Open a source, or say why it is not served; a changed one is reported."""
        source = self._shares.open_source(content_id)
        if source is None:
            # Its records may outlive a share that was dropped: whoever follows them hears why.
            return FrameStatus.CHANGED if content_id in self._changed else FrameStatus.MISSING
        try:
            return OpenSource(source)
        except (SourceChanged, SourceUnreadable):
            if source.have is not None:
                return FrameStatus.MISSING  # a download that ended; it changes no share
            self.report_changed(source)
            return FrameStatus.CHANGED

    async def read_pack(self, content_ids: Sequence[bytes]) -> PackRead:
        """Read small files of folders that are asked for together; a changed one is reported."""
        sources = self._shares.pack_sources(content_ids)
        changed = [content_id in self._changed for content_id in content_ids]
        read = await asyncio.to_thread(read_pack_blocking, sources, changed)
        source = sources[read.failed]
        if read.status is FrameStatus.CHANGED and source is not None:
            self._note_changed(source.content_id)
            self._shares.source_changed(source.content_id, Path(source.path))
        return read

    def report_changed(self, source: Source) -> None:
        """Note that a source is no longer what was shared; a partial one is its download's."""
        if source.have is not None:
            return
        content_id = source.manifest.content_id
        self._note_changed(content_id)
        self._shares.source_changed(content_id, source.path)

    def _note_changed(self, content_id: bytes) -> None:
        self._changed[content_id] = None
        self._changed.move_to_end(content_id)
        if len(self._changed) > CHANGED_MAX:
            self._changed.popitem(last=False)

    def frame_bytes(self, request: FetchRequest, peer_id: bytes) -> int:
        """How much data a frame carries: less under a rate limit, so that it flows evenly."""
        most_bytes = RUN_FRAME_BYTES_MAX if request.count > 1 else FRAME_DATA_MAX_BYTES
        return self._pace_to(peer_id).frame_bytes(most_bytes, request.frame_bytes_max)

    async def take(self, size_bytes: int, peer_id: bytes) -> None:
        """Wait until the limit of rate allows so many bytes to be sent."""
        await self._pace_to(peer_id).take(size_bytes)

    def _pace_to(self, peer_id: bytes) -> Pace:
        return Pace() if peer_id == self._config.own_id else self._up

    def given(self, source: Source, peer_id: bytes, chunks: range, now: float) -> range:
        """Return those chunks of a run that a peer is given, up to the first that it is not."""
        count = 0
        for chunk in chunks[: max(1, RUN_BYTES_MAX // source.manifest.chunk_size_bytes)]:
            if not self._gives(source, peer_id, chunk, now):
                break
            count += 1
        return chunks[:count]

    def _gives(self, source: Source, peer_id: bytes, chunk: int, now: float) -> bool:
        """Say whether a peer is given a chunk; see transfer.spreading."""
        if not source.holds(chunk):
            return False
        if source.have is not None:
            return True
        return self._spreading.give(source.manifest.content_id, peer_id, chunk, now=now)

    def sent(self, peer_id: bytes, content_id: bytes, size_bytes: int) -> None:
        """Tell the observer of bytes sent."""
        if self._on_upload is not None:
            self._on_upload(peer_id, content_id, size_bytes)

    @property
    def slot_idle_s(self) -> float:
        return self._config.slot_idle_s

    @property
    def slot_stuck_s(self) -> float:
        return self._config.slot_stuck_s

    @property
    def idle_timeout_s(self) -> float:
        return self._config.idle_timeout_s


class _FetchStream:
    """One Fetch call: answers its requests in order, with a few files open."""

    def __init__(self, service: TransferService, context: Context, peer_id: bytes) -> None:
        self._service = service
        self._context = context
        self.peer_id = peer_id
        self.gone = asyncio.Event()
        self._reading_since: float | None = None
        self._writing_since: float | None = None
        self._idle: asyncio.Timeout | None = None
        self._open: OrderedDict[bytes, OpenSource] = OrderedDict()
        self._ahead = ReadAhead()

    async def run(self) -> None:
        """Serve until the asker is done or nothing has moved for too long."""
        context = self._context
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._service.idle_timeout_s) as idle:
                self._idle = idle
                while True:
                    self._reading_since = loop.time()
                    # At the end of the requests grpc gives its EOF instead of bytes.
                    message: object = await context.read()
                    self._reading_since = None
                    if not isinstance(message, bytes):
                        return
                    request = decode_fetch_request(message)
                    if request is None:
                        break
                    await self._answer(request, idle)
                    idle.reschedule(loop.time() + self._service.idle_timeout_s)
        except TimeoutError:
            if self._writing_since is not None:
                # A status would wait behind data that nobody reads: drop the call instead.
                raise asyncio.CancelledError from None
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "idle")
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "malformed request")

    def overdue_s(self, now: float) -> float:
        """Return for how long this stream should have moved; not above zero while it may wait."""
        if self._writing_since is not None:
            return now - self._writing_since - self._service.slot_stuck_s
        if self._reading_since is not None:
            return now - self._reading_since - self._service.slot_idle_s
        return 0.0  # it waits for the disk or for its turn under the limit of rate

    def give_way(self) -> None:
        """End as if it had been idle for long."""
        if self._idle is not None and not self._idle.expired():
            self._idle.reschedule(asyncio.get_running_loop().time())

    def close(self) -> None:
        """Close every file."""
        self._ahead.forget()
        while self._open:
            self._open.popitem()[1].close()

    async def _answer(self, request: FetchRequest, idle: asyncio.Timeout) -> None:
        if request.pack:
            await self._answer_pack(request, idle)
            return
        opened = self._opened(request.content_id)
        if not isinstance(opened, OpenSource):
            await self._write(encode_frame(request.request, opened))
            return
        now = asyncio.get_running_loop().time()
        chunks = range(request.chunk, request.chunk + request.count)
        given = self._service.given(opened.source, self.peer_id, chunks, now)
        try:
            sent_bytes = await self._send_chunks(request, given, opened, idle)
            if given != chunks:
                missing = encode_frame(request.request, FrameStatus.MISSING, sent_bytes)
                await self._write(missing)
        except SourceChanged:
            self._service.report_changed(opened.source)
            self._open.pop(request.content_id).close()
            await self._write(encode_frame(request.request, FrameStatus.CHANGED))

    async def _send_chunks(
        self, request: FetchRequest, chunks: range, opened: OpenSource, idle: asyncio.Timeout
    ) -> int:
        """Send chunks in a row; returns how many bytes they have."""
        start, length = opened.source.manifest.run(chunks)
        step = self._service.frame_bytes(request, self.peer_id)
        for offset in range(0, length, step):
            size = min(step, length - offset)
            await self._wait_for_rate(size, idle)
            head = encode_frame_head(request.request, FrameStatus.DATA, offset, size)
            await self._write(await self._ahead.message(opened, head, start + offset, size))
            self._service.sent(self.peer_id, request.content_id, size)
        return length

    async def _answer_pack(self, request: FetchRequest, idle: asyncio.Timeout) -> None:
        read = await self._service.read_pack(request.pack)
        if read.status is not FrameStatus.DATA:
            await self._write(encode_frame(request.request, read.status, read.failed))
            return
        step = self._service.frame_bytes(request, self.peer_id)
        data = memoryview(read.data)
        for offset in range(0, len(data), step):
            piece = data[offset : offset + step]
            await self._wait_for_rate(len(piece), idle)
            await self._write(encode_frame(request.request, FrameStatus.DATA, offset, piece))
            self._service.sent(self.peer_id, request.pack[0], len(piece))

    async def _wait_for_rate(self, size_bytes: int, idle: asyncio.Timeout) -> None:
        idle.reschedule(None)
        await self._service.take(size_bytes, self.peer_id)
        idle.reschedule(asyncio.get_running_loop().time() + self._service.idle_timeout_s)

    async def _write(self, frame: bytes) -> None:
        self._writing_since = asyncio.get_running_loop().time()
        await self._context.write(frame)
        self._writing_since = None

    def _opened(self, content_id: bytes) -> OpenSource | FrameStatus:
        known = self._open.get(content_id)
        if known is not None:
            self._open.move_to_end(content_id)
            return known
        opened = self._service.open(content_id)
        if isinstance(opened, OpenSource):
            self._open[content_id] = opened
            if len(self._open) > OPEN_SOURCES_MAX:
                self._open.popitem(last=False)[1].close()
        return opened
