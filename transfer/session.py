"""One holder's part in a download: its connection, its Fetch stream, its end.

Owns connecting and connecting again, the manifest and bitmap that the holder gives, frames put
together to chunks, and the judgement of what the holder does. Which chunk is asked for is decided
elsewhere; what comes in is handed to the download for verification.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from identity.address import Address
from identity.errors import ShoalError
from protos import transfer_pb2
from rpc.pace import Pace, Reading
from transfer.bitmap import decode_bitmap
from transfer.candidates import Holder, SessionEnd
from transfer.errors import BadManifest, TransferError
from transfer.manifest import Manifest, decode_manifest
from transfer.scheduler import Swarm
from transfer.wire import (
    RUN_BYTES_MAX,
    FetchFrame,
    FetchRequest,
    FrameStatus,
    decode_frame,
    encode_fetch_request,
    encode_frame_limit,
)

DESCRIBE_METHOD = "/shoal.v1.Transfer/Describe"
HAVE_METHOD = "/shoal.v1.Transfer/Have"
FETCH_METHOD = "/shoal.v1.Transfer/Fetch"
RETRY_KEY = "shoal-retry-ms"

FetchCall: TypeAlias = grpc.aio.StreamStreamCall[bytes, bytes]


class Connect(Protocol):
    """Opens or reuses a channel over which only this peer can answer; rpc's ChannelPool.connect."""

    async def __call__(
        self, peer_id: bytes, addresses: Sequence[Address], *, timeout_s: float
    ) -> grpc.aio.Channel: ...


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Bounds of a session."""

    connect_timeout_s: float = 5.0
    """For one attempt to connect."""
    call_timeout_s: float = 10.0
    """For Describe and Have."""
    idle_timeout_s: float = 20.0
    """A holder that was asked must send something within this."""
    attempts_max: int = 3
    """Attempts in a row that bring no chunk."""
    backoff_s: float = 0.5
    """Before the second attempt; doubles."""
    have_interval_s: float = 1.0
    """How often a partial holder is asked what it has; more of them are asked less often."""
    have_hungry_s: float = 0.25
    """How often one is asked that had nothing which is missing here."""
    have_share_s: float = 0.02
    """Between two such questions of one download, whomever they go to."""
    writes_max: int = 2
    """Chunks of one holder that wait to be verified and written."""
    asks_max: int = 256
    """Chunks that wait to be asked for; far above any window."""
    own_id: bytes = b""
    """This peer: what comes from there comes over no line, and no limit holds."""


class DownloadSide(Protocol):
    """What a session needs of its download."""

    content_id: bytes
    pace: Pace

    @property
    def manifest(self) -> Manifest | None: ...
    @property
    def swarm(self) -> Swarm: ...
    @property
    def may_spread(self) -> bool: ...
    @property
    def spreads(self) -> bool: ...
    async def described(self, manifest: Manifest) -> None: ...
    def length(self, chunk: int) -> int: ...
    def pump(self) -> float | None: ...
    def write_blocking(self, chunks: range, pieces: list[memoryview]) -> list[int]: ...
    def accepted(self, holder: bytes, chunks: Sequence[int]) -> None: ...
    def received(self, holder: bytes, size_bytes: int) -> None: ...
    def failed(self, error: TransferError) -> None: ...
    def session_ended(self, holder: Holder, end: SessionEnd) -> None: ...


@dataclass(slots=True)
class _Assembly:
    """The frames of a chunk or run so far."""

    chunks: range
    """Those that have not come yet, or in part."""
    length: int
    """Of the whole answer, and what has come of it;"""
    done: int = 0
    begin: int = 0
    """up to here it was handed on."""
    pieces: list[memoryview] = field(default_factory=list)


class HolderSession:
    """Runs until the holder is of no more use or the download ends."""

    def __init__(
        self,
        download: DownloadSide,
        holder: Holder,
        connect: Connect,
        pool: ThreadPoolExecutor,
        config: SessionConfig,
    ) -> None:
        self.task: asyncio.Task[None] | None = None
        self._download = download
        self._peer_id = holder.peer_id
        self._addresses = holder.addresses
        self._connect = connect
        self._pool = pool
        self._config = config
        self._asks: asyncio.Queue[range] = asyncio.Queue(config.asks_max)
        self._assemblies: dict[int, _Assembly] = {}
        self._writes: set[asyncio.Future[list[int]]] = set()
        self._requests = 0
        self._moved = False
        self._end: SessionEnd | None = None
        self._alarm: asyncio.Timeout | None = None
        self._withheld = asyncio.Event()
        self._pace = Pace() if holder.peer_id == config.own_id else download.pace
        self._reading = Reading(self._pace)
        self._serves = False
        self._run_bytes_max = 0

    def ask(self, chunks: range) -> None:
        """Ask the holder for a chunk or a run as soon as its stream is open."""
        self._asks.put_nowait(chunks)

    @property
    def serves(self) -> bool:
        """Whether the holder answered and can be asked for chunks."""
        return self._serves

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def addresses_changed(self, addresses: tuple[Address, ...]) -> None:
        """Use these addresses from the next attempt on."""
        self._addresses = addresses

    async def run(self) -> None:
        """Serve the download; never raises but for cancellation."""
        end = SessionEnd.CANCELLED
        try:
            end = await self._attempts()
        finally:
            self._download.session_ended(Holder(self._peer_id, self._addresses), end)

    async def _attempts(self) -> SessionEnd:
        failures = 0
        while failures < self._config.attempts_max:
            self._moved = False
            end = await self._attempt()
            if end is not SessionEnd.UNREACHABLE:
                return end
            failures = 1 if self._moved else failures + 1
            if failures < self._config.attempts_max:
                await asyncio.sleep(self._config.backoff_s * 2 ** (failures - 1))
        return SessionEnd.UNREACHABLE

    async def _attempt(self) -> SessionEnd:
        """Connect, learn what the holder has, and fetch until something ends it."""
        try:
            channel = await self._connect(
                self._peer_id, self._addresses, timeout_s=self._config.connect_timeout_s
            )
            if self._download.manifest is None:
                manifest = await self._describe(channel)
            else:
                manifest = self._download.manifest
            await self._download.described(manifest)
            return await self._serve(channel, manifest)
        except BadManifest:
            return SessionEnd.BAD
        except grpc.aio.AioRpcError as error:
            return _end_of(error)
        except ShoalError:
            return SessionEnd.UNREACHABLE

    async def _describe(self, channel: grpc.aio.Channel) -> Manifest:
        request = transfer_pb2.DescribeRequest(content_id=self._download.content_id)
        message = await self._call(channel, DESCRIBE_METHOD, request.SerializeToString())
        self._pace.note(len(message))
        try:
            manifest = transfer_pb2.DescribeReply.FromString(message).manifest
        except DecodeError as error:
            raise BadManifest from error
        return decode_manifest(manifest, self._download.content_id)

    async def _have(self, channel: grpc.aio.Channel, manifest: Manifest) -> int | None:
        request = transfer_pb2.HaveRequest(
            content_id=self._download.content_id, spreads=self._download.spreads
        )
        message = await self._call(channel, HAVE_METHOD, request.SerializeToString())
        try:
            reply = transfer_pb2.HaveReply.FromString(message)
        except DecodeError as error:
            raise BadManifest from error
        self._run_bytes_max = min(reply.run_bytes_max, RUN_BYTES_MAX)
        return None if reply.complete else decode_bitmap(reply.bitmap, manifest.chunk_count)

    async def _call(self, channel: grpc.aio.Channel, method: str, message: bytes) -> bytes:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        return await call(message, timeout=self._config.call_timeout_s)

    # --- fetching ---

    async def _serve(self, channel: grpc.aio.Channel, manifest: Manifest) -> SessionEnd:
        have = await self._have(channel, manifest)
        swarm, loop = self._download.swarm, asyncio.get_running_loop()
        self._forget_asks()
        self._end = None
        if not swarm.holder_added(
            self._peer_id, have, now=loop.time(), run_bytes_max=self._run_bytes_max
        ):
            return SessionEnd.BAD if self._peer_id in swarm.banned else SessionEnd.GONE
        self._serves = True
        self._download.pump()
        polling = None
        try:
            polling = asyncio.create_task(self._poll(channel, manifest, is_whole=have is None))
            while True:
                # The stream opens with the first ask: an idle one would hold an upload slot.
                error = await self._stream(channel, await self._asks.get(), manifest)
                verdict = self._verdict()
                if verdict is not None:
                    return verdict
                if error is None or not self._wait_while_busy(error):
                    return SessionEnd.UNREACHABLE if error is None else _end_of(error)
        finally:
            if polling is not None:
                polling.cancel()
            self._serves = False
            swarm.holder_failed(self._peer_id)
            self._download.pump()

    def _wait_while_busy(self, error: grpc.aio.AioRpcError) -> bool:
        """Leave a busy holder alone for as long as it asks; False when it is not busy."""
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            # A stream that the holder cut while nothing was asked is no failure.
            idle = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return idle and not self._download.swarm.asked_of(self._peer_id)
        now = asyncio.get_running_loop().time()
        self._forget_asks()
        self._download.swarm.busy(self._peer_id, _retry_after_s(error), now=now)
        self._download.pump()
        return True

    async def _poll(self, channel: grpc.aio.Channel, manifest: Manifest, *, is_whole: bool) -> None:
        """Keep asking a partial holder what it has by now, a whole one when it held back."""
        while True:
            if is_whole and not self._download.may_spread:
                return  # what it lacks all the same, it lacks for good
            if is_whole:
                await self._withheld.wait()
            pause_s = have_pause_s(self._download.swarm, self._peer_id, self._config)
            if self._withheld.is_set():
                pause_s = min(pause_s, self._config.have_hungry_s)
            self._withheld.clear()
            await asyncio.sleep(pause_s)
            try:
                have = await self._have(channel, manifest)
            except (grpc.aio.AioRpcError, BadManifest):
                # Whether the holder is still there, its stream tells.
                continue
            self._download.swarm.holder_has(self._peer_id, have)
            self._download.pump()
            # One that gives everything for now, since nobody else can be asked, is asked again.
            is_whole = have is None and self._download.spreads

    async def _stream(
        self, channel: grpc.aio.Channel, first: range, manifest: Manifest
    ) -> grpc.aio.AioRpcError | None:
        """Run one Fetch stream; returns the error that ended it, None for silence or a verdict."""
        call: FetchCall = channel.stream_stream(FETCH_METHOD)()
        self._assemblies.clear()
        writing = asyncio.create_task(self._write_asks(call, first, manifest))
        try:
            with self._pace.reading() as self._reading:
                async with asyncio.timeout(self._config.idle_timeout_s) as self._alarm:
                    await self._read_frames(call)
        except grpc.aio.AioRpcError as error:
            return error
        except TimeoutError:
            return None
        finally:
            self._alarm = None
            writing.cancel()
            call.cancel()
            if self._writes:
                # What came in may still turn out bad; the verdict must not be missed.
                await asyncio.wait(self._writes)
        return None

    async def _write_asks(self, call: FetchCall, first: range, manifest: Manifest) -> None:
        chunks, pace = first, self._pace
        while True:
            self._requests = self._requests + 1 & 0xFFFF_FFFF
            if not self._assemblies:
                self._rearm()
            length, message = self._asked(manifest, self._requests, chunks)
            message += encode_frame_limit(pace.wanted_frame_bytes(RUN_BYTES_MAX))
            self._assemblies[self._requests] = _Assembly(chunks, length)
            self._reading.expect(length)
            try:
                await call.write(message)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return  # the reading side sees why the stream ended
            chunks = await self._asks.get()

    def _asked(self, manifest: Manifest, number: int, chunks: range, /) -> tuple[int, bytes]:
        """Return how many bytes answer a request for chunks, and its message."""
        request = FetchRequest(number, manifest.content_id, chunks[0], count=len(chunks))
        return manifest.run(chunks)[1], encode_fetch_request(request)

    async def _read_frames(self, call: FetchCall) -> None:
        while self._end is None:
            message: object = await call.read()
            if not isinstance(message, bytes):
                return
            frame = decode_frame(message)
            # What was written meanwhile may have given the verdict already.
            self._end = self._end or self._judge(frame)
            if frame is None or self._end is not None:
                return
            self._rearm()
            self._download.received(self._peer_id, len(frame.data))
            await self._keep_pace(len(frame.data))
            assembly = self._assemblies[frame.request]
            if frame.status is FrameStatus.MISSING:
                del self._assemblies[frame.request]
                self._missing(assembly)
                continue
            assembly.pieces.append(frame.data)
            assembly.done += len(frame.data)
            if assembly.done == assembly.length:
                del self._assemblies[frame.request]
                self._silence_when_idle()
            await self._take_whole(assembly)

    def _missing(self, assembly: _Assembly) -> None:
        """Note that a chunk is not there; what comes after it in a run may be asked for again."""
        swarm, chunks = self._download.swarm, assembly.chunks
        self._reading.expect(assembly.done - assembly.length)
        swarm.chunk_missing(self._peer_id, chunks[0])
        swarm.unanswered(self._peer_id, chunks[1:])
        self._withheld.set()
        self._download.pump()

    async def _take_whole(self, assembly: _Assembly) -> None:
        """Hand on the chunks that are complete, once nothing of another has come."""
        count = self._whole_chunks(assembly)
        if count:
            chunks, pieces = assembly.chunks[:count], assembly.pieces
            assembly.chunks, assembly.pieces = assembly.chunks[count:], []
            assembly.begin = assembly.done
            await self._verify(chunks, pieces)

    async def _keep_pace(self, size_bytes: int) -> None:
        """Read on only when the limit allows it: gRPC then slows the holder down."""
        if self._alarm is not None and self._end is None:
            self._alarm.reschedule(None)
        await self._reading.received(size_bytes)
        self._rearm()

    def _judge(self, frame: FetchFrame | None) -> SessionEnd | None:
        """Say whether a frame ends the session."""
        if frame is None:
            return SessionEnd.BAD
        assembly = self._assemblies.get(frame.request)
        if assembly is None:
            return SessionEnd.BAD
        if frame.status is FrameStatus.CHANGED:
            return SessionEnd.CHANGED
        if frame.status is FrameStatus.DATA:
            fits = 0 < len(frame.data) <= assembly.length - assembly.done
            if frame.offset != assembly.done or not fits:
                return SessionEnd.BAD
            return None
        # Of a run that began to come the rest may be missing, from a chunk's bound on.
        is_bound = frame.offset == assembly.done and not assembly.pieces
        return SessionEnd.BAD if assembly.done and not is_bound else None

    def _whole_chunks(self, assembly: _Assembly) -> int:
        """Return how many chunks the pieces are; none where the last one came in part."""
        rest = assembly.done - assembly.begin
        for count, chunk in enumerate(assembly.chunks, start=1):
            rest -= self._download.length(chunk)
            if rest <= 0:
                return 0 if rest else count
        return 0

    async def _verify(self, chunks: range, pieces: list[memoryview]) -> None:
        """Have chunks verified and written while the next ones are read."""
        if not any(map(self._download.swarm.is_missing, chunks)):
            self._download.accepted(self._peer_id, chunks)
            return
        loop = asyncio.get_running_loop()
        write = loop.run_in_executor(self._pool, self._download.write_blocking, chunks, pieces)
        self._writes.add(write)
        write.add_done_callback(lambda done: self._written(chunks, done))
        if len(self._writes) >= self._config.writes_max:
            await asyncio.wait(self._writes, return_when=asyncio.FIRST_COMPLETED)

    def _written(self, chunks: range, write: asyncio.Future[list[int]]) -> None:
        self._writes.discard(write)
        if write.cancelled():
            return
        error = write.exception()
        match error:
            case None:
                bad = write.result()
                if len(bad) < len(chunks):
                    self._moved = True
                    good = [chunk for chunk in chunks if chunk not in bad] if bad else chunks
                    self._download.accepted(self._peer_id, good)
                if bad:
                    self._download.swarm.chunk_bad(self._peer_id, bad[0])
                    self._finish(SessionEnd.BAD)
            case TransferError():
                self._download.failed(error)
                self._finish(SessionEnd.CANCELLED)
            case _:
                self._download.failed(TransferError(f"cannot write: {type(error).__name__}"))
                raise error

    def _verdict(self) -> SessionEnd | None:
        return self._end

    def _finish(self, end: SessionEnd) -> None:
        """Set the verdict and wake the reader at once."""
        self._end = end
        if self._alarm is not None:
            self._alarm.reschedule(asyncio.get_running_loop().time())

    def _rearm(self) -> None:
        if self._alarm is not None and self._end is None and not self._alarm.expired():
            now = asyncio.get_running_loop().time()
            self._alarm.reschedule(now + self._config.idle_timeout_s)

    def _silence_when_idle(self) -> None:
        """Nothing was asked that could be late."""
        if not self._assemblies and self._alarm is not None and self._end is None:
            self._alarm.reschedule(None)

    def _forget_asks(self) -> None:
        while not self._asks.empty():
            self._asks.get_nowait()


def have_pause_s(swarm: Swarm, holder: bytes, config: SessionConfig) -> float:
    """Return after how long a holder is asked again what it has."""
    share_s = config.have_share_s * swarm.partial_holders
    if swarm.is_useful(holder):
        return max(config.have_interval_s, 2 * share_s)
    return max(min(config.have_interval_s, config.have_hungry_s), share_s)


def _end_of(error: grpc.aio.AioRpcError) -> SessionEnd:
    match error.code():
        case grpc.StatusCode.NOT_FOUND | grpc.StatusCode.UNIMPLEMENTED:
            return SessionEnd.GONE
        case grpc.StatusCode.FAILED_PRECONDITION:
            return SessionEnd.CHANGED
        case _:
            return SessionEnd.UNREACHABLE


def _retry_after_s(error: grpc.aio.AioRpcError) -> float:
    for key, value in error.trailing_metadata() or ():
        if key == RETRY_KEY and isinstance(value, str) and value.isascii() and value.isdigit():
            return min(int(value[:9]), 3_600_000) / 1000
    return 1.0
