"""What goes wrong around a download: a real full disk, other file systems, holders that stop."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from identity.address import Address
from tests.support.disks import small_disk
from tests.transfer.peers import CHUNK, MemoryJournal, get, poll, random_bytes, running_peer
from transfer.candidates import Holder
from transfer.errors import DiskFull, TargetUnwritable
from transfer.partial import part_path_for
from transfer.service import ServiceConfig

ROOT = Path(__file__).parents[2]


async def test_disk_that_fills_up_is_told_and_the_get_resumed_once_there_is_room(
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(12 * CHUNK))
    limited = ServiceConfig(upload_bytes_per_s=12_000_000)
    with small_disk(tmp_path / "disk", 14 * CHUNK) as disk:
        target, ballast = disk / "copy", disk / "ballast"
        async with running_peer(config=limited) as holder, running_peer() as reader:
            manifest = await holder.share(source)
            journal = MemoryJournal()
            getting = asyncio.create_task(
                get(reader, manifest, target, [holder.holder], journal=journal)
            )
            part = part_path_for(target, manifest.content_id)
            # There was room when it began; somebody else takes it meanwhile.
            assert await poll(lambda: part.exists() and part.stat().st_blocks * 512 >= 2 * CHUNK)
            with contextlib.suppress(OSError), ballast.open("wb") as file:
                file.write(bytes(8 * CHUNK))
            with pytest.raises(DiskFull):
                await getting
            assert not target.exists()
            kept = part.stat().st_blocks * 512
            assert kept >= CHUNK
            ballast.unlink()
            result = await get(reader, manifest, target, [holder.holder], journal=journal)
        assert target.read_bytes() == source.read_bytes()
        assert result.fetched_bytes <= 12 * CHUNK - kept // CHUNK * CHUNK + CHUNK


async def test_disk_without_room_is_told_before_a_byte_is_fetched(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(8 * CHUNK))
    with small_disk(tmp_path / "disk", 4 * CHUNK) as disk:
        async with running_peer() as holder, running_peer() as reader:
            manifest = await holder.share(source)
            with pytest.raises(DiskFull):
                await get(reader, manifest, disk / "copy", [holder.holder])
        assert not (disk / "copy").exists()


async def test_target_on_another_file_system_is_written_there_from_the_start(
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(4 * CHUNK))
    with small_disk(tmp_path / "disk", 16 * CHUNK) as disk:
        async with running_peer() as holder, running_peer() as reader:
            manifest = await holder.share(source)
            await get(reader, manifest, disk / "copy", [holder.holder])
        assert (disk / "copy").read_bytes() == source.read_bytes()
        assert [path.name for path in disk.iterdir()] == ["copy"]


async def test_folder_that_became_read_only_in_all_but_name_is_told(tmp_path: Path) -> None:
    source, plain = tmp_path / "source", tmp_path / "plain"
    source.write_bytes(random_bytes(CHUNK))
    plain.write_bytes(b"a file where a folder should be")
    async with running_peer() as holder, running_peer() as reader:
        manifest = await holder.share(source)
        with pytest.raises(TargetUnwritable):
            await get(reader, manifest, plain / "copy", [holder.holder])
    assert plain.read_bytes() == b"a file where a folder should be"


@contextlib.asynccontextmanager
async def holder_process(source: Path) -> AsyncIterator[tuple[int, Holder]]:
    """A holder in a process of its own, which can be stopped."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.transfer.holder_process",
        str(source),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        peer_id, port = (await process.stdout.readline()).split()
        address = Address("127.0.0.1", int(port))
        yield process.pid, Holder(bytes.fromhex(peer_id.decode()), (address,))
    finally:
        process.kill()
        await process.wait()


async def test_stopped_holder_costs_seconds_and_no_chunk(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(24 * CHUNK))
    limited = ServiceConfig(upload_bytes_per_s=8_000_000)
    async with (
        holder_process(source) as (pid, stopping),
        running_peer(config=limited) as steady,
        running_peer() as reader,
    ):
        manifest = await steady.share(source)
        senders: dict[bytes, int] = {}
        getting = asyncio.create_task(
            get(
                reader,
                manifest,
                tmp_path / "copy",
                [stopping, steady.holder],
                on_progress=lambda progress: senders.update(progress.by_holder),
            )
        )
        assert await poll(lambda: senders.get(stopping.peer_id, 0) > 0)
        os.kill(pid, signal.SIGSTOP)
        result = await getting
        os.kill(pid, signal.SIGCONT)
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert result.seconds < 15, "the session's patience of 20 s was waited for"
