"""`get -o -` on the peer's side: telling how far a download is whole from its beginning.

Owns the pace of these events and where such a download lies. Must not know who reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from peer.home import STDOUT_PREFIX, Home
from peer.reporting import Reporter
from transfer.download import Download
from transfer.partial import part_path_for

READY_INTERVAL_S = 0.02


def temporary_target(home: Home) -> Path:
    """Make the file that a get for stdout writes to; whoever reads it deletes it."""
    folder = home.path / "run"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=STDOUT_PREFIX, delete=False) as file:
        return Path(file.name)


def discard(target: Path, content_id: bytes) -> None:
    """Delete what a failed get for stdout left: nobody could find its way back to it."""
    for path in (target, part_path_for(target, content_id)):
        path.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def telling_ready(reporter: Reporter) -> AsyncIterator[Callable[[Download], None]]:
    """Give a function that takes the download as it begins; its prefix is told as it grows."""
    telling: list[asyncio.Task[None]] = []
    try:
        yield lambda download: telling.append(asyncio.create_task(_tell(download, reporter)))
    finally:
        for task in telling:
            task.cancel()
        await asyncio.gather(*telling, return_exceptions=True)


async def _tell(download: Download, reporter: Reporter) -> None:
    path = part_path_for(download.target, download.content_id)
    told = 0
    while True:
        await asyncio.sleep(READY_INTERVAL_S)
        ready = download.prefix_bytes
        if ready > told:
            told = ready
            await reporter.ready(str(path), ready)
