"""What holders that lie, or whose files changed, do to a download: nothing but an error."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from identity.address import Address
from tests.transfer.peers import (
    CHUNK,
    TestPeer,
    get,
    random_bytes,
    running_peer,
)
from transfer.candidates import Holder
from transfer.download import Download, DownloadConfig, DownloadResult, Progress
from transfer.errors import (
    BadContent,
    SourceChanged,
    TimedOut,
)
from transfer.manifest import Manifest
from transfer.service import ServiceConfig
from transfer.session import (
    DESCRIBE_METHOD,
    HAVE_METHOD,
)


async def _get_for(
    timeout_s: float, reader: TestPeer, manifest: Manifest, target: Path, holders: list[Holder]
) -> DownloadResult:
    """Download while the search goes on, as it does when a person gave a time."""

    async def search() -> AsyncIterator[Holder]:
        for holder in holders:
            yield holder
        await asyncio.Event().wait()

    config = DownloadConfig(timeout_s=timeout_s)
    download = Download(
        manifest.content_id, target, holders=search(), connect=reader.pool.connect, config=config
    )
    return await download.run()


async def _code(
    reader: TestPeer, holder: TestPeer, method: str, manifest: Manifest
) -> grpc.StatusCode:
    """Ask for a content, and return the status that comes back."""
    channel = await reader.channel_to(holder)
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
    # Both requests carry the content id as field 1.
    return await call(b"\x0a\x20" + manifest.content_id).code()


async def test_lying_holder_is_banned_and_the_file_is_whole(tmp_path: Path) -> None:
    source, lie = tmp_path / "source", tmp_path / "lie"
    data = random_bytes(12 * CHUNK)
    source.write_bytes(data)
    lie.write_bytes(data[: 3 * CHUNK] + bytes(9 * CHUNK))
    reported: list[bytes] = []
    limited = ServiceConfig(upload_bytes_per_s=20_000_000)
    async with (
        running_peer(config=limited) as honest,
        running_peer() as liar,
        running_peer() as reader,
    ):
        manifest = await honest.share(source)
        await liar.share_as(lie, manifest)
        holders = [liar.holder, honest.holder]
        await get(reader, manifest, tmp_path / "copy", holders, on_bad_holder=reported.append)
        assert reported == [liar.peer_id]
    assert (tmp_path / "copy").read_bytes() == data


async def test_only_lying_holders_are_bad_content_and_leave_no_target(tmp_path: Path) -> None:
    source, lie = tmp_path / "source", tmp_path / "lie"
    source.write_bytes(random_bytes(2 * CHUNK))
    lie.write_bytes(bytes(2 * CHUNK))
    async with running_peer() as liar, running_peer() as reader:
        manifest = await liar.share(source)
        await liar.share_as(lie, manifest)
        with pytest.raises(BadContent):
            await get(reader, manifest, tmp_path / "copy", [liar.holder])
    assert not (tmp_path / "copy").exists()


async def test_time_that_runs_out_after_lies_alone_is_bad_content(tmp_path: Path) -> None:
    source, lie = tmp_path / "source", tmp_path / "lie"
    source.write_bytes(random_bytes(2 * CHUNK))
    lie.write_bytes(bytes(2 * CHUNK))
    async with running_peer() as liar, running_peer() as reader:
        manifest = await liar.share(source)
        await liar.share_as(lie, manifest)
        dead = Holder(bytes(20), (Address("127.0.0.1", 1),))
        result = _get_for(1.0, reader, manifest, tmp_path / "copy", [liar.holder, dead])
        with pytest.raises(BadContent):
            await result


async def test_time_that_runs_out_while_a_good_holder_sends_is_a_timeout(tmp_path: Path) -> None:
    source, lie = tmp_path / "source", tmp_path / "lie"
    source.write_bytes(random_bytes(4 * CHUNK))
    lie.write_bytes(bytes(4 * CHUNK))
    crawling = ServiceConfig(upload_bytes_per_s=100_000)
    async with (
        running_peer(config=crawling) as honest,
        running_peer() as liar,
        running_peer() as reader,
    ):
        manifest = await honest.share(source)
        await liar.share_as(lie, manifest)
        result = _get_for(1.0, reader, manifest, tmp_path / "copy", [liar.holder, honest.holder])
        with pytest.raises(TimedOut):
            await result


async def test_manifest_of_another_content_is_bad_content(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(100))
    async with running_peer() as liar, running_peer() as reader:
        manifest = await liar.share(source)
        wanted = Manifest.of(5, [bytes(32)])
        liar.shares.sources[wanted.content_id] = liar.shares.sources[manifest.content_id]
        with pytest.raises(BadContent):
            await get(reader, wanted, tmp_path / "copy", [liar.holder])


@pytest.mark.parametrize("size", [CHUNK // 2, 4 * CHUNK])
async def test_source_changed_before_the_get_is_not_served(tmp_path: Path, size: int) -> None:
    source, original = tmp_path / "source", random_bytes(4 * CHUNK)
    source.write_bytes(original)
    async with running_peer() as holder, running_peer() as reader:
        manifest = await holder.share(source)
        source.write_bytes(random_bytes(size, seed=2))
        os.utime(source, ns=(1, 1))
        for _ in range(2):  # the second time the share is dropped, and still it is told why
            with pytest.raises(SourceChanged):
                await get(reader, manifest, tmp_path / "copy", [holder.holder])
        assert holder.shares.changed == [(manifest.content_id, source)]
        assert holder.shares.open_source(manifest.content_id) is None
        source.write_bytes(original)
        await holder.share(source)
        await get(reader, manifest, tmp_path / "copy", [holder.holder])
    assert (tmp_path / "copy").read_bytes() == original


async def test_source_that_is_gone_is_told_as_changed_and_an_unknown_one_as_not_held(
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(100))
    async with running_peer() as holder, running_peer() as reader:
        manifest = await holder.share(source)
        source.unlink()
        for method in (DESCRIBE_METHOD, HAVE_METHOD):
            assert (
                await _code(reader, holder, method, manifest) is grpc.StatusCode.FAILED_PRECONDITION
            )
        unknown = Manifest.of(5, [bytes(32)])
        for method in (DESCRIBE_METHOD, HAVE_METHOD):
            assert await _code(reader, holder, method, unknown) is grpc.StatusCode.NOT_FOUND


async def test_changed_source_is_no_loss_while_another_holder_is_there(tmp_path: Path) -> None:
    source, other = tmp_path / "source", tmp_path / "other"
    for path in (source, other):
        path.write_bytes(random_bytes(2 * CHUNK))
    async with running_peer() as changed, running_peer() as good, running_peer() as reader:
        manifest = await changed.share(source)
        await good.share(other)
        source.unlink()
        holders = [changed.holder, good.holder]
        result = await get(reader, manifest, tmp_path / "copy", holders)
    assert set(result.by_holder) == {good.peer_id}


async def test_source_truncated_while_it_is_served_is_told(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(16 * CHUNK))
    limited = ServiceConfig(upload_bytes_per_s=8_000_000)
    async with running_peer(config=limited) as holder, running_peer() as reader:
        manifest = await holder.share(source)

        def cut(progress: Progress) -> None:
            if progress.done_bytes:
                os.truncate(source, 5 * CHUNK)

        with pytest.raises(SourceChanged):
            await get(reader, manifest, tmp_path / "copy", [holder.holder], on_progress=cut)
        assert holder.shares.changed
    assert not (tmp_path / "copy").exists()
