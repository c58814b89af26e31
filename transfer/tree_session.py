"""One holder's part in the download of a folder.

Owns what differs from a file's session: units instead of chunks, packs of small files, and the
manifests of large files, which are asked for before the first chunk. All sessions of a download
share that work.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import grpc
from google.protobuf.message import DecodeError

from protos import transfer_pb2
from transfer.bitmap import decode_bitmap
from transfer.candidates import Holder, SessionEnd
from transfer.errors import BadManifest, TransferError
from transfer.manifest import Manifest, decode_manifest
from transfer.session import (
    DESCRIBE_METHOD,
    HAVE_METHOD,
    Connect,
    DownloadSide,
    HolderSession,
    SessionConfig,
)
from transfer.tree_plan import Content, Plan
from transfer.wire import (
    RUN_BYTES_MAX,
    FetchFrame,
    FetchRequest,
    FrameStatus,
    encode_fetch_request,
    encode_pack_request,
)

DESCRIBES_MAX = 16
"""Manifests that a session asks its holder for at a time."""


class TreeSide(DownloadSide, Protocol):
    """What a session needs of the download of a folder."""

    undescribed: deque[int]
    """Large contents whose manifest nobody is asked for yet."""

    @property
    def plan(self) -> Plan: ...
    def wanted_of(self, unit: int) -> Sequence[Content]: ...
    def chunk_of(self, unit: int) -> tuple[Content, int] | None: ...
    async def file_described(self, place: int, manifest: Manifest) -> None: ...
    @property
    def is_described(self) -> bool: ...
    async def all_described(self, timeout_s: float) -> None: ...
    def content_gone(self, content: Content) -> None: ...


class TreeSession(HolderSession):
    """A session whose chunks are the units of a tree."""

    def __init__(
        self,
        download: TreeSide,
        holder: Holder,
        connect: Connect,
        pool: ThreadPoolExecutor,
        config: SessionConfig,
    ) -> None:
        super().__init__(download, holder, connect, pool, config)
        self._tree = download

    async def _serve(self, channel: grpc.aio.Channel, manifest: Manifest) -> SessionEnd:
        while not self._tree.is_described:
            # Not a task group: its errors would come in a group.
            works = [
                asyncio.ensure_future(self._describe_files(channel))
                for _ in range(min(DESCRIBES_MAX, len(self._tree.undescribed)))
            ]
            try:
                await asyncio.gather(*works)
            except TransferError as error:
                if isinstance(error, BadManifest):
                    raise
                self._tree.failed(error)
                return SessionEnd.CANCELLED
            finally:
                for work in works:
                    work.cancel()
                await asyncio.gather(*works, return_exceptions=True)
            # What this holder does not have, another may be asked for.
            await self._tree.all_described(self._config.have_interval_s)
        return await super()._serve(channel, manifest)

    async def _describe_files(self, channel: grpc.aio.Channel) -> None:
        """Ask for the manifests that nobody is asked for, until there are none or one fails."""
        undescribed = self._tree.undescribed
        while undescribed:
            place = undescribed.popleft()
            described = False
            try:
                described = await self._describe_file(channel, place)
            finally:
                if not described:
                    undescribed.append(place)
            if not described:
                return

    async def _describe_file(self, channel: grpc.aio.Channel, place: int) -> bool:
        content = self._tree.plan.contents[place]
        request = transfer_pb2.DescribeRequest(content_id=content.content_id)
        try:
            reply = await self._call(channel, DESCRIBE_METHOD, request.SerializeToString())
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return False
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                self._tree.content_gone(content)
            raise
        self._pace.note(len(reply))
        try:
            encoded = transfer_pb2.DescribeReply.FromString(reply).manifest
        except DecodeError as error:
            raise BadManifest from error
        await self._tree.file_described(place, decode_manifest(encoded, content.content_id))
        return True

    async def _have(self, channel: grpc.aio.Channel, manifest: Manifest) -> int | None:
        request = transfer_pb2.HaveRequest(content_id=manifest.content_id)
        message = await self._call(channel, HAVE_METHOD, request.SerializeToString())
        try:
            reply = transfer_pb2.HaveReply.FromString(message)
        except DecodeError as error:
            raise BadManifest from error
        self._run_bytes_max = min(reply.run_bytes_max, RUN_BYTES_MAX)
        if reply.complete:
            return None
        # The chunks of the listing come first.
        listing = manifest.chunk_count
        return decode_bitmap(reply.bitmap, listing + len(self._tree.plan.units)) >> listing

    def _asked(self, _: Manifest, number: int, chunks: range, /) -> tuple[int, bytes]:
        piece = self._tree.chunk_of(chunks[0])
        if piece is not None:
            content, inner = piece
            request = FetchRequest(number, content.content_id, inner, count=len(chunks))
            length = sum(self._tree.plan.units[unit].size_bytes for unit in chunks)
            return length, encode_fetch_request(request)
        wanted = self._tree.wanted_of(chunks[0])
        message = encode_pack_request(number, [content.content_id for content in wanted])
        return sum(content.size_bytes for content in wanted), message

    def _judge(self, frame: FetchFrame | None) -> SessionEnd | None:
        end = super()._judge(frame)
        if end is SessionEnd.CHANGED and frame is not None:
            self._note_changed(self._assemblies[frame.request].chunks[0], frame)
        return end

    def _note_changed(self, unit: int, frame: FetchFrame) -> None:
        assert frame.status is FrameStatus.CHANGED
        piece = self._tree.chunk_of(unit)
        if piece is not None:
            self._tree.content_gone(piece[0])
            return
        wanted = self._tree.wanted_of(unit)
        if frame.offset < len(wanted):
            self._tree.content_gone(wanted[frame.offset])
