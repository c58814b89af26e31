"""Downloads over real mutual TLS between peers in this process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from tests.transfer.peers import (
    CHUNK,
    QUICK,
    MemoryJournal,
    each,
    get,
    poll,
    random_bytes,
    running_peer,
)
from transfer.candidates import Holder
from transfer.download import Download, DownloadConfig, Progress
from transfer.errors import (
    NoHolders,
)
from transfer.partial import part_path_for
from transfer.service import ServiceConfig
from transfer.session import (
    DESCRIBE_METHOD,
    FETCH_METHOD,
    FetchCall,
)
from transfer.wire import FetchRequest, encode_fetch_request


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
async def test_file_of_any_size_arrives_identical(tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(size))
    async with running_peer() as holder, running_peer() as reader:
        manifest = await holder.share(source)
        result = await get(reader, manifest, tmp_path / "copy", [holder.holder])
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert (result.size_bytes, result.fetched_bytes) == (size, size)
    assert result.sources == (1 if size else 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "source"]


async def test_three_holders_share_the_work(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(24 * CHUNK + 5))
    limited = ServiceConfig(upload_bytes_per_s=16_000_000)
    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(running_peer(config=limited)) for _ in range(3)]
        reader = await stack.enter_async_context(running_peer())
        manifests = [await peer.share(source) for peer in peers]
        holders = [peer.holder for peer in peers]
        result = await get(reader, manifests[0], tmp_path / "copy", holders)
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert result.sources == 3
    assert sum(result.by_holder.values()) == result.size_bytes
    assert min(result.by_holder.values()) >= result.size_bytes // 6


async def test_two_throttled_holders_each_supply_a_quarter(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(8 * CHUNK))
    limited = ServiceConfig(upload_bytes_per_s=4_000_000)
    async with (
        running_peer(config=limited) as first,
        running_peer(config=limited) as second,
        running_peer() as reader,
    ):
        manifest = await first.share(source)
        await second.share(source)
        result = await get(reader, manifest, tmp_path / "copy", [first.holder, second.holder])
    assert min(result.by_holder.values()) >= result.size_bytes // 4
    assert result.fetched_bytes <= result.size_bytes * 1.3


async def test_upload_rate_limit_holds(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(4 * CHUNK))
    limited = ServiceConfig(upload_bytes_per_s=4_000_000)
    async with running_peer(config=limited) as holder, running_peer() as reader:
        manifest = await holder.share(source)
        result = await get(reader, manifest, tmp_path / "copy", [holder.holder])
    least_s = 4 * CHUNK / 4_000_000 - 0.125
    assert least_s <= result.seconds <= least_s * 2 + 1


async def test_holder_that_dies_midway_is_replaced_by_the_other(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(16 * CHUNK))
    limited = ServiceConfig(upload_bytes_per_s=8_000_000)
    async with (
        running_peer(config=limited) as dying,
        running_peer(config=limited) as steady,
        running_peer() as reader,
    ):
        manifest = await dying.share(source)
        await steady.share(source)
        half = asyncio.Event()

        def watch(progress: Progress) -> None:
            if progress.done_bytes >= 4 * CHUNK:
                half.set()

        holders = [dying.holder, steady.holder]
        download = asyncio.create_task(
            get(reader, manifest, tmp_path / "copy", holders, on_progress=watch)
        )
        await half.wait()
        await dying.listener.stop(0)
        result = await download
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert result.by_holder[dying.peer_id] > 0


async def test_busy_holder_is_tried_again_when_it_said(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(4 * CHUNK))
    single = ServiceConfig(
        upload_slots_max=1,
        upload_slots_per_peer_max=1,
        busy_retry_ms=50,
        upload_bytes_per_s=8_000_000,
    )
    async with (
        running_peer(config=single) as holder,
        running_peer() as one,
        running_peer() as two,
    ):
        manifest = await holder.share(source)
        both = await asyncio.gather(
            get(one, manifest, tmp_path / "one", [holder.holder]),
            get(two, manifest, tmp_path / "two", [holder.holder]),
        )
    assert [result.sources for result in both] == [1, 1]
    assert (tmp_path / "two").read_bytes() == source.read_bytes()


async def test_partial_holders_with_every_chunk_between_them_suffice(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(10 * CHUNK))
    async with running_peer() as even, running_peer() as odd, running_peer() as reader:
        manifest = await even.share(source, have=0b0101010101)
        await odd.share(source, have=0b1010101010)
        result = await get(reader, manifest, tmp_path / "copy", [even.holder, odd.holder])
    assert result.by_holder == {even.peer_id: 5 * CHUNK, odd.peer_id: 5 * CHUNK}


async def test_missing_chunk_ends_without_holders_and_keeps_the_rest(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(3 * CHUNK))
    config = DownloadConfig(no_holder_timeout_s=0.4)
    journal = MemoryJournal()
    async with running_peer() as holder, running_peer() as reader:
        manifest = await holder.share(source, have=0b011)
        options = {"config": config, "journal": journal}
        with pytest.raises(NoHolders):
            await get(reader, manifest, tmp_path / "copy", [holder.holder], **options)
        part = part_path_for(tmp_path / "copy", manifest.content_id)
        assert part.read_bytes()[: 2 * CHUNK] == source.read_bytes()[: 2 * CHUNK]
        assert journal.entries[str(part)].bitmap == b"\x03"
        await holder.share(source)
        result = await get(reader, manifest, tmp_path / "copy", [holder.holder], **options)
    assert result.fetched_bytes == CHUNK
    assert journal.entries == {}
    assert not part.exists()


async def test_downloader_serves_what_it_has(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(8 * CHUNK))
    limited = ServiceConfig(upload_bytes_per_s=6_000_000)
    async with (
        running_peer(config=limited) as seed,
        running_peer() as middle,
        running_peer() as last,
    ):
        manifest = await seed.share(source)
        relay = Download(
            manifest.content_id,
            tmp_path / "middle",
            holders=each([seed.holder]),
            connect=middle.pool.connect,
            config=QUICK,
        )
        middle.shares.sources[manifest.content_id] = relay.source
        first = asyncio.create_task(relay.run())
        assert await poll(lambda: relay.source() is not None)
        result = await get(last, manifest, tmp_path / "last", [middle.holder])
        await first
    assert result.by_holder == {middle.peer_id: 8 * CHUNK}
    assert (tmp_path / "last").read_bytes() == source.read_bytes()


async def test_holder_that_appears_during_the_download_joins_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(12 * CHUNK))
    limited = ServiceConfig(upload_bytes_per_s=6_000_000)
    async with (
        running_peer(config=limited) as early,
        running_peer(config=limited) as late,
        running_peer() as reader,
    ):
        manifest = await early.share(source)
        await late.share(source)
        moving = asyncio.Event()

        async def search() -> AsyncIterator[Holder]:
            yield early.holder
            await moving.wait()
            yield late.holder

        download = Download(
            manifest.content_id,
            tmp_path / "copy",
            holders=search(),
            connect=reader.pool.connect,
            on_progress=lambda progress: moving.set() if progress.done_bytes else None,
            config=QUICK,
        )
        result = await download.run()
    assert result.sources == 2


async def test_aborted_download_resumes_with_what_is_there(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(16 * CHUNK))
    limited = ServiceConfig(upload_bytes_per_s=8_000_000)
    async with running_peer(config=limited) as holder, running_peer() as reader:
        manifest = await holder.share(source)
        half = asyncio.Event()

        def watch(progress: Progress) -> None:
            if progress.done_bytes >= 8 * CHUNK:
                half.set()

        first = asyncio.create_task(
            get(reader, manifest, tmp_path / "copy", [holder.holder], on_progress=watch)
        )
        await half.wait()
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        # No journal at all: the chunks are adopted because they verify.
        result = await get(reader, manifest, tmp_path / "copy", [holder.holder])
    assert result.fetched_bytes <= 0.6 * result.size_bytes
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


async def test_damaged_partial_file_is_not_believed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    data = random_bytes(4 * CHUNK)
    source.write_bytes(data)
    journal = MemoryJournal()
    async with running_peer() as holder, running_peer() as reader:
        manifest = await holder.share(source)
        part = part_path_for(tmp_path / "copy", manifest.content_id)
        part.write_bytes(data[:CHUNK] + bytes(CHUNK) + data[2 * CHUNK : 3 * CHUNK] + b"tail")
        await journal.save(str(part), manifest.content_id, b"\x0f")
        result = await get(reader, manifest, tmp_path / "copy", [holder.holder], journal=journal)
    assert result.fetched_bytes == 2 * CHUNK
    assert (tmp_path / "copy").read_bytes() == data


async def test_slow_tail_is_asked_elsewhere_too(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(8 * CHUNK))
    crawling = ServiceConfig(upload_bytes_per_s=100_000)
    async with (
        running_peer(config=crawling) as slow,
        running_peer() as fast,
        running_peer() as reader,
    ):
        manifest = await slow.share(source)
        await fast.share(source)
        result = await get(reader, manifest, tmp_path / "copy", [slow.holder, fast.holder])
    # The slow one alone needs 5 s for the first chunk that it was asked for.
    assert result.seconds < 4
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


async def test_stream_that_is_never_read_is_cut_and_its_slot_freed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(64 * CHUNK))
    config = ServiceConfig(idle_timeout_s=0.3)
    async with running_peer(config=config) as holder, running_peer() as reader:
        manifest = await holder.share(source)
        channel = await reader.channel_to(holder)
        call: FetchCall = channel.stream_stream(FETCH_METHOD)()
        for chunk in range(64):
            await call.write(encode_fetch_request(FetchRequest(chunk, manifest.content_id, chunk)))
        assert await poll(lambda: holder.service.uploads == 1)
        assert await poll(lambda: holder.service.uploads == 0)
        call.cancel()


async def test_malformed_requests_end_the_stream_with_a_status(tmp_path: Path) -> None:
    async with running_peer() as holder, running_peer() as reader:
        channel = await reader.channel_to(holder)
        for message in (b"\xff", b"\x12\x01x", b"\x0a" + bytes(300)):
            call: FetchCall = channel.stream_stream(FETCH_METHOD)()
            await call.write(message)
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        describe: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        describe = channel.unary_unary(DESCRIBE_METHOD)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await describe(b"\xff\xff")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
