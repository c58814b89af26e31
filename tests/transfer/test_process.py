"""A get in its own process: killed, and measured."""

import asyncio
import sys
from pathlib import Path

import pytest

from tests.torture.memory import MEBIBYTE, large_file
from tests.transfer.peers import CHUNK, TestPeer, each, poll, random_bytes, running_peer
from transfer.download import Download
from transfer.manifest import Manifest
from transfer.partial import part_path_for
from transfer.service import ServiceConfig

ROOT = Path(__file__).parents[2]


async def start_get(
    holder: TestPeer, manifest: Manifest, target: Path
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.transfer.get_process",
        holder.peer_id.hex(),
        str(holder.address.port),
        manifest.content_id.hex(),
        str(target),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )


async def test_second_run_after_sigkill_fetches_less_than_sixty_percent(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(random_bytes(24 * CHUNK))
    slow = ServiceConfig(upload_bytes_per_s=16_000_000)
    async with running_peer(config=slow) as holder, running_peer() as reader:
        manifest = await holder.share(source)
        part = part_path_for(target, manifest.content_id)
        process = await start_get(holder, manifest, target)
        try:
            assert await poll(
                lambda: part.exists() and part.stat().st_blocks * 512 >= 12 * CHUNK, 30.0
            )
        finally:
            process.kill()
            await process.wait()
        assert not target.exists()
        download = Download(
            manifest.content_id,
            target,
            holders=each([holder.holder]),
            connect=reader.pool.connect,
        )
        result = await download.run()
    assert result.fetched_bytes < 0.6 * result.size_bytes
    assert target.read_bytes() == source.read_bytes()


@pytest.mark.timeout(150)
def test_memory_of_both_ends_stays_below_200_mb_for_two_gigabytes(tmp_path: Path) -> None:
    tally = large_file(tmp_path, size_bytes=2_048 * MEBIBYTE, seed=1)
    assert tally.passed, str(tally)
    (tmp_path / "copy").unlink()
