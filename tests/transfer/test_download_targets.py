"""Where a download goes: targets, full disks, and what is left when it fails."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.transfer.peers import (
    CHUNK,
    MemoryJournal,
    get,
    random_bytes,
    running_peer,
)
from transfer.download import DownloadConfig, Progress
from transfer.errors import (
    DiskFull,
    NoHolders,
    TargetBusy,
    TargetExists,
    TargetUnwritable,
    TimedOut,
)
from transfer.manifest import Manifest
from transfer.partial import PartFile, part_path_for
from transfer.service import ServiceConfig


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "shoal-test", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a tmpfs, and not on every machine")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


async def test_existing_target_is_untouched_unless_overwritten(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(random_bytes(10))
    target.write_text("mine")
    async with running_peer() as holder, running_peer() as reader:
        manifest = await holder.share(source)
        with pytest.raises(TargetExists):
            await get(reader, manifest, target, [holder.holder])
        assert target.read_text() == "mine"
        await get(reader, manifest, target, [holder.holder], overwrite=True)
    assert target.read_bytes() == source.read_bytes()


async def test_target_that_appears_during_the_get_is_not_replaced(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(random_bytes(4 * CHUNK))
    limited = ServiceConfig(upload_bytes_per_s=8_000_000)
    async with running_peer(config=limited) as holder, running_peer() as reader:
        manifest = await holder.share(source)

        def intrude(progress: Progress) -> None:
            target.write_text("mine")

        with pytest.raises(TargetExists):
            await get(reader, manifest, target, [holder.holder], on_progress=intrude)
    assert target.read_text() == "mine"


async def test_second_get_of_one_target_is_told_that_it_is_busy(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(4 * CHUNK))
    limited = ServiceConfig(upload_bytes_per_s=4_000_000)
    async with running_peer(config=limited) as holder, running_peer() as reader:
        manifest = await holder.share(source)
        results = await asyncio.gather(
            get(reader, manifest, tmp_path / "copy", [holder.holder]),
            get(reader, manifest, tmp_path / "copy", [holder.holder]),
            return_exceptions=True,
        )
    failures = [type(result) for result in results if isinstance(result, BaseException)]
    assert failures == [TargetBusy]
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


async def test_target_in_no_folder_is_unwritable(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    async with running_peer() as holder, running_peer() as reader:
        manifest = await holder.share(source)
        with pytest.raises(TargetUnwritable):
            await get(reader, manifest, tmp_path / "none" / "copy", [holder.holder])


async def test_no_holder_at_all_fails_at_once(tmp_path: Path) -> None:
    async with running_peer() as reader:
        with pytest.raises(NoHolders):
            await get(reader, Manifest.of(1, [bytes(32)]), tmp_path / "copy", [])


async def test_peer_without_the_content_is_no_holder(tmp_path: Path) -> None:
    async with running_peer() as other, running_peer() as reader:
        with pytest.raises(NoHolders):
            await get(reader, Manifest.of(1, [bytes(32)]), tmp_path / "copy", [other.holder])


async def test_timeout_is_told_and_keeps_the_partial_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(8 * CHUNK))
    limited = ServiceConfig(upload_bytes_per_s=2_000_000)
    async with running_peer(config=limited) as holder, running_peer() as reader:
        manifest = await holder.share(source)
        with pytest.raises(TimedOut):
            await get(
                reader,
                manifest,
                tmp_path / "copy",
                [holder.holder],
                config=DownloadConfig(timeout_s=0.6),
            )
    assert part_path_for(tmp_path / "copy", manifest.content_id).exists()


@pytest.mark.parametrize("fills_up_later", [False, True])
async def test_full_disk_is_told_and_the_partial_file_kept(
    tmp_path: Path, tiny_disk: Path, fills_up_later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(6 * CHUNK))
    if fills_up_later:
        monkeypatch.setattr(PartFile, "require_room", lambda self, missing_bytes: None)
    async with running_peer() as holder, running_peer() as reader:
        manifest = await holder.share(source)
        with pytest.raises(DiskFull):
            await get(reader, manifest, tiny_disk / "copy", [holder.holder])
    part = part_path_for(tiny_disk / "copy", manifest.content_id)
    assert list(tiny_disk.iterdir()) == [part]


async def test_two_downloads_of_one_content_to_two_targets_run_side_by_side(
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    source.write_bytes(random_bytes(8 * CHUNK + 3))
    limited = ServiceConfig(upload_bytes_per_s=16_000_000)
    journal = MemoryJournal()
    async with running_peer(config=limited) as holder, running_peer() as reader:
        manifest = await holder.share(source)
        both = await asyncio.gather(
            *(
                get(reader, manifest, tmp_path / name, [holder.holder], journal=journal)
                for name in ("one", "two")
            )
        )
    assert [result.fetched_bytes for result in both] == [manifest.size_bytes] * 2
    for name in ("one", "two"):
        assert (tmp_path / name).read_bytes() == source.read_bytes()
    assert journal.entries == {}
