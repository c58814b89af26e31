"""Pushes into a real inbox folder over real mutual TLS."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos import transfer_pb2
from tests.transfer.peers import CHUNK, TestPeer, poll, random_bytes, running_peer
from tests.transfer.trees import make_folder, picture
from transfer.errors import (
    DiskFull,
    PushFailed,
    ReceiverFull,
    Refused,
    SourceChanged,
    TransferError,
    UnsafeName,
)
from transfer.folder_source import FolderSource
from transfer.hashing import hash_file_blocking
from transfer.inbox import InboxFile, InboxFolder, part_name
from transfer.inbox_tree import InboxTree
from transfer.manifest import Manifest
from transfer.push import (
    PUSH_METHOD,
    Accept,
    Caller,
    PushConfig,
    PushOffer,
    push,
    push_file,
)
from transfer.service import ServiceConfig
from transfer.tree_walk import hash_tree

SEAL = b"s" * 16


class FolderSink:
    """Writes into an inbox folder; the receipt names the path."""

    def __init__(self, inbox: "FolderInbox", file: InboxFile | InboxTree) -> None:
        self._inbox = inbox
        self._file = file

    @property
    def is_whole(self) -> bool:
        return self._file.is_whole

    async def write(self, offset: int, data: bytes) -> None:
        if self._inbox.fail_at is not None and offset >= self._inbox.fail_at:
            raise self._inbox.failure
        await self._file.write(offset, data)
        self._inbox.written.append((offset, len(data)))

    async def finish(self) -> bytes:
        path = await self._file.place()
        await self._file.release()
        self._inbox.paths.append(path)
        return b"receipt of " + path.name.encode()

    async def close(self) -> None:
        try:
            await self._file.close()
        finally:  # a sender that breaks off cancels this too
            self._inbox.closed += 1


class FolderInbox:
    """Accepts everything from everybody, as far as the folder has room."""

    def __init__(self, folder: Path, quota: int = 1 << 30) -> None:
        self.folder = InboxFolder(folder, quota, free_floor_bytes=0)
        self.offers: list[tuple[bytes, PushOffer]] = []
        self.paths: list[Path] = []
        self.written: list[tuple[int, int]] = []
        self.closed = 0
        self.refusal: TransferError | None = None
        self.fail_at: int | None = None
        self.failure: Exception = ConnectionError()

    async def offer(self, caller: Caller, offer: PushOffer) -> Accept:
        self.offers.append((caller.peer_id, offer))
        if self.refusal is not None:
            raise self.refusal
        key = caller.peer_id + offer.seal_id
        size = offer.size_bytes
        if offer.is_folder:
            tree = await self.folder.open_folder(
                key, offer.name, offer.content_id, size, size_bytes_max=1 << 30
            )
            return Accept(tree.committed_bytes, FolderSink(self, tree))
        file = await self.folder.open(key, offer.name, size, offer.manifest)
        return Accept(file.committed_bytes, FolderSink(self, file))


class LossyChannel:
    """Loses the status of the first calls as grpcio does, once a chunk of theirs is written."""

    def __init__(self, channel: grpc.aio.Channel, inbox: FolderInbox, losses: int) -> None:
        self._channel = channel
        self._inbox = inbox
        self._losses = losses

    def stream_stream(self, method: str) -> Callable[[], Any]:
        def start() -> Any:
            call: Any = self._channel.stream_stream(method)()
            self._losses -= 1
            return call if self._losses < 0 else LossyCall(call, self._inbox)

        return start


class LossyCall:
    """A call whose write breaks after the first chunk, with grpcio's own made-up status."""

    def __init__(self, call: Any, inbox: FolderInbox) -> None:
        self._call = call
        self._inbox = inbox
        self._writes = 0
        self._written_before = len(inbox.written)
        self.read, self.code, self.done_writing = call.read, call.code, call.done_writing

    async def write(self, message: bytes) -> None:
        self._writes += 1
        if self._writes <= 2:  # the offer and a chunk
            await self._call.write(message)
            return
        assert await poll(lambda: len(self._inbox.written) > self._written_before)
        self._call.cancel()
        assert await poll(lambda: self._inbox.closed == len(self._inbox.offers))
        none = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, none, none, "Internal error")

    def cancel(self) -> None:
        self._call.cancel()


def offer_of(path: Path, name: str | None = None) -> PushOffer:
    return PushOffer(SEAL, name or path.name, hash_file_blocking(path).manifest)


def source_file(tmp_path: Path, size: int, name: str = "song.flac") -> Path:
    path = tmp_path / name
    path.write_bytes(random_bytes(size))
    return path


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
async def test_pushed_file_of_any_size_arrives_identical(tmp_path: Path, size: int) -> None:
    source = source_file(tmp_path, size)
    inbox = FolderInbox(tmp_path / "inbox")
    async with running_peer(inbox=inbox) as receiver, running_peer() as sender:
        channel = await sender.channel_to(receiver)
        receipt = await push_file(channel, offer_of(source), source)
    assert receipt == b"receipt of song.flac"
    assert (tmp_path / "inbox/song.flac").read_bytes() == source.read_bytes()
    assert inbox.offers[0][0] == sender.peer_id
    assert [path.name for path in (tmp_path / "inbox").iterdir()] == ["song.flac"]


async def test_second_file_of_a_name_never_replaces_the_first(tmp_path: Path) -> None:
    source = source_file(tmp_path, 10)
    inbox = FolderInbox(tmp_path / "inbox")
    async with running_peer(inbox=inbox) as receiver, running_peer() as sender:
        channel = await sender.channel_to(receiver)
        for _ in range(3):
            await push_file(channel, offer_of(source), source)
    names = sorted(path.name for path in (tmp_path / "inbox").iterdir())
    assert names == ["song (2).flac", "song (3).flac", "song.flac"]


async def test_broken_push_resumes_at_the_committed_chunk(tmp_path: Path) -> None:
    source = source_file(tmp_path, 6 * CHUNK + 9)
    inbox = FolderInbox(tmp_path / "inbox")
    inbox.fail_at = 4 * CHUNK
    async with running_peer(inbox=inbox) as receiver, running_peer() as sender:
        channel = await sender.channel_to(receiver)
        with pytest.raises(PushFailed):
            await push_file(channel, offer_of(source), source)
        first, inbox.written, inbox.fail_at = inbox.written, [], None
        await push_file(channel, offer_of(source), source)
    assert [offset for offset, _ in first] == [chunk * CHUNK for chunk in range(4)]
    assert [offset for offset, _ in inbox.written] == [chunk * CHUNK for chunk in range(4, 7)]
    assert inbox.paths[0].read_bytes() == source.read_bytes()
    # Two pushes, and a third offer where grpcio hid the first refusal: see _StatusLostError.
    assert len(inbox.offers) in (2, 3)
    assert inbox.closed == len(inbox.offers)


async def test_push_whose_status_was_lost_is_offered_again_once_from_what_is_committed(
    tmp_path: Path,
) -> None:
    source = source_file(tmp_path, 3 * CHUNK)
    inbox = FolderInbox(tmp_path / "inbox")
    async with running_peer(inbox=inbox) as receiver, running_peer() as sender:
        channel = LossyChannel(await sender.channel_to(receiver), inbox, losses=1)
        assert await push_file(channel, offer_of(source), source)  # type: ignore[arg-type]
        assert len(inbox.offers) == 2
        assert inbox.written == [(chunk * CHUNK, CHUNK) for chunk in range(3)]
        channel = LossyChannel(await sender.channel_to(receiver), inbox, losses=9)
        with pytest.raises(PushFailed, match="broke"):
            await push_file(channel, offer_of(source), source)  # type: ignore[arg-type]
        assert len(inbox.offers) == 4
    assert inbox.closed == len(inbox.offers)


async def test_disk_that_fills_up_at_the_receiver_is_told_as_that(tmp_path: Path) -> None:
    source = source_file(tmp_path, 40 * CHUNK)
    inbox = FolderInbox(tmp_path / "inbox")
    inbox.fail_at, inbox.failure = 4 * CHUNK, DiskFull()
    async with running_peer(inbox=inbox) as receiver, running_peer() as sender:
        channel = await sender.channel_to(receiver)
        with pytest.raises(ReceiverFull):
            await push_file(channel, offer_of(source), source)


@pytest.mark.parametrize(
    ("refusal", "expected", "told"),
    [
        (Refused("not a contact"), Refused, "not a contact"),
        (UnsafeName("unsafe"), UnsafeName, "unsafe"),
    ],
)
async def test_sender_is_told_why_its_file_was_refused(
    tmp_path: Path, refusal: TransferError, expected: type[TransferError], told: str
) -> None:
    source = source_file(tmp_path, 3 * CHUNK)
    inbox = FolderInbox(tmp_path / "inbox")
    inbox.refusal = refusal
    async with running_peer(inbox=inbox) as receiver, running_peer() as sender:
        channel = await sender.channel_to(receiver)
        with pytest.raises(expected, match=told):
            await push_file(channel, offer_of(source), source)
    assert not (tmp_path / "inbox").exists()


async def test_full_quota_is_told_before_a_byte_is_sent(tmp_path: Path) -> None:
    source = source_file(tmp_path, 3 * CHUNK)
    inbox = FolderInbox(tmp_path / "inbox", quota=3 * CHUNK - 1)
    async with running_peer(inbox=inbox) as receiver, running_peer() as sender:
        channel = await sender.channel_to(receiver)
        with pytest.raises(ReceiverFull):
            await push_file(channel, offer_of(source), source)
    assert inbox.written == []


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a\0b", ".", "CON", "x\ny", ""])
async def test_unsafe_name_reaches_no_inbox(tmp_path: Path, name: str) -> None:
    source = source_file(tmp_path, 10)
    inbox = FolderInbox(tmp_path / "inbox")
    offer = PushOffer(SEAL, name, hash_file_blocking(source).manifest)
    async with running_peer(inbox=inbox) as receiver, running_peer() as sender:
        channel = await sender.channel_to(receiver)
        with pytest.raises(UnsafeName):
            await push_file(channel, offer, source)
    assert inbox.offers == []


async def test_source_that_changed_since_the_offer_is_not_sent(tmp_path: Path) -> None:
    source = source_file(tmp_path, 3 * CHUNK)
    offer = offer_of(source)
    source.write_bytes(random_bytes(3 * CHUNK, seed=2))
    inbox = FolderInbox(tmp_path / "inbox")
    async with running_peer(inbox=inbox) as receiver, running_peer() as sender:
        with pytest.raises(SourceChanged):
            await push_file(await sender.channel_to(receiver), offer, source)
    assert inbox.written == []


async def test_lying_sender_gets_nothing_written(tmp_path: Path) -> None:
    inbox = FolderInbox(tmp_path / "inbox")
    manifest = Manifest.of(CHUNK, [bytes(32)])
    async with running_peer(inbox=inbox) as receiver, running_peer() as sender:
        code = await _push_raw(sender, receiver, manifest, [(0, bytes(CHUNK))])
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert inbox.written == []


@pytest.mark.parametrize("offset", [1, CHUNK, 1 << 40])
async def test_data_out_of_order_ends_the_push(tmp_path: Path, offset: int) -> None:
    inbox = FolderInbox(tmp_path / "inbox")
    manifest = hash_file_blocking(source_file(tmp_path, CHUNK)).manifest
    async with running_peer(inbox=inbox) as receiver, running_peer() as sender:
        code = await _push_raw(sender, receiver, manifest, [(offset, b"x")])
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_silent_sender_is_cut_off_and_its_slot_freed(tmp_path: Path) -> None:
    inbox = FolderInbox(tmp_path / "inbox")
    source = source_file(tmp_path, CHUNK)
    config = ServiceConfig(idle_timeout_s=0.2, pushes_max=1, pushes_per_peer_max=1)
    async with running_peer(inbox=inbox, config=config) as receiver, running_peer() as sender:
        manifest = hash_file_blocking(source).manifest
        code = await _push_raw(sender, receiver, manifest, [], close=False)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        receipt = await push_file(await sender.channel_to(receiver), offer_of(source), source)
    assert receipt


async def test_peer_without_an_inbox_refuses(tmp_path: Path) -> None:
    source = source_file(tmp_path, 10)
    async with running_peer() as receiver, running_peer() as sender:
        with pytest.raises(Refused):
            await push_file(await sender.channel_to(receiver), offer_of(source), source)


async def test_receiver_that_falls_silent_is_a_failed_push(tmp_path: Path) -> None:
    source = source_file(tmp_path, 10)
    never = asyncio.Event()

    class SilentInbox(FolderInbox):
        async def offer(self, caller: Caller, offer: PushOffer) -> Accept:
            await never.wait()
            raise AssertionError

    inbox = SilentInbox(tmp_path / "inbox")
    async with running_peer(inbox=inbox) as receiver, running_peer() as sender:
        with pytest.raises(PushFailed):
            await push_file(
                await sender.channel_to(receiver),
                offer_of(source),
                source,
                config=PushConfig(idle_timeout_s=0.2),
            )


async def test_folder_is_pushed_and_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "photos", small=30)
    hashed = await hash_tree(source)
    offer = PushOffer(SEAL, "photos", hashed.tree.manifest)
    stream = FolderSource(source, hashed)
    inbox = FolderInbox(tmp_path / "inbox")
    inbox.fail_at = 4 * CHUNK
    async with running_peer(inbox=inbox) as receiver, running_peer() as sender:
        channel = await sender.channel_to(receiver)
        with pytest.raises(PushFailed):
            await push(channel, offer, stream)
        inbox.written, inbox.fail_at = [], None
        assert await push(channel, offer, stream) == b"receipt of photos"
        # In a large file, of which the chunks that were there were not sent again.
        assert 3 * CHUNK < inbox.written[0][0] < 4 * CHUNK
        assert sum(size for _, size in inbox.written) == stream.size_bytes - inbox.written[0][0]
        arrived = picture(inbox.paths[0])
        assert arrived == picture(source)
        (source / "part0" / "0.bin").write_bytes(b"other")
        with pytest.raises(SourceChanged, match=r"part0/0\.bin"):
            await push(channel, PushOffer(bytes(16), "again", hashed.tree.manifest), stream)
        unsafe = PushOffer(SEAL, "../photos", hashed.tree.manifest)
        with pytest.raises(UnsafeName, match="path separator"):
            await push(channel, unsafe, stream)
    stream.close()
    assert not (tmp_path / "inbox" / "again").exists()


async def test_name_and_manifest_of_an_offer_are_of_one_kind(tmp_path: Path) -> None:
    inbox = FolderInbox(tmp_path / "inbox")
    hashed = await hash_tree(make_folder(tmp_path / "photos", small=1, large=0))
    of_file = hash_file_blocking(source_file(tmp_path, 10)).manifest
    async with running_peer(inbox=inbox) as receiver, running_peer() as sender:
        channel = await sender.channel_to(receiver)
        for name, manifest in (("x", hashed.tree.manifest), ("x/", of_file)):
            call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(PUSH_METHOD)()
            offer = transfer_pb2.PushOffer(seal_id=SEAL, name=name, manifest=manifest.encode())
            await call.write(transfer_pb2.PushRequest(offer=offer).SerializeToString())
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert inbox.offers == []


async def _push_raw(
    sender: TestPeer,
    receiver: TestPeer,
    manifest: Manifest,
    frames: list[tuple[int, bytes]],
    *,
    close: bool = True,
) -> grpc.StatusCode:
    """Push what no honest sender would, and return the status that comes back."""
    channel = await sender.channel_to(receiver)
    call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(PUSH_METHOD)()
    offer = transfer_pb2.PushOffer(seal_id=SEAL, name="x", manifest=manifest.encode())
    await call.write(transfer_pb2.PushRequest(offer=offer).SerializeToString())
    assert isinstance(await call.read(), bytes)
    for offset, data in frames:
        request = transfer_pb2.PushRequest(offset=offset, data=data)
        await call.write(request.SerializeToString())
    if close:
        await call.done_writing()
    return await call.code()


def test_partial_files_of_two_deliveries_differ() -> None:
    assert part_name(b"a" * 36) != part_name(b"b" * 36)
