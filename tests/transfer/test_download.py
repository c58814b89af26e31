"""Downloads over real mutual TLS between peers in this process."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from tests.transfer.peers import (
    CHUNK,
    MemoryJournal,
    TestPeer,
    each,
    random_bytes,
    running_peer,
)
from transfer.download import Download, DownloadConfig, DownloadResult
from transfer.errors import (
    BadContent,
    NoHolders,
    SourceChanged,
    TargetBusy,
    TargetExists,
    TargetUnwritable,
    TimedOut,
)
from transfer.manifest import Manifest
from transfer.partial import part_path_for
from transfer.scheduler import SwarmConfig
from transfer.service import ServiceConfig
from transfer.session import Holder, SessionConfig

QUICK = DownloadConfig(
    no_holder_timeout_s=3.0, session=SessionConfig(backoff_s=0.05, have_interval_s=0.05)
)


async def get(
    reader: TestPeer,
    manifest: Manifest,
    target: Path,
    holders: list[Holder],
    **options: object,
) -> DownloadResult:
    options.setdefault("config", QUICK)
    download = Download(
        manifest.content_id, target, holders=each(holders), connect=reader.pool.connect, **options
    )
    return await download.run()


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
