"""A rejoin to many deliveries leaves room for what a person is waiting for. Real sockets and disks.

The short form of `python -m tests.torture rejoins`, all peers in one process and on one loop.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

from tests.queueing.village import Village
from tests.transfer.peers import TestPeer, get, random_bytes, running_peer
from transfer.manifest import Manifest

PENDING = 60
GETS_MAX = 6
FILE_BYTES = 3 * 1024 * 1024
SLOWER_MAX, SLACK_S = 5.0, 0.25


async def test_get_beside_many_waiting_deliveries_is_not_starved(tmp_path: Path) -> None:
    async with AsyncExitStack() as closing:
        village = Village(tmp_path, closing)
        await village.host("host")
        alice, bob = await village.settle("alice"), await village.settle("bob")
        for number in range(PENDING):
            await alice.send(bob, b"letter %d" % number)
        holder = await closing.enter_async_context(running_peer())
        reader = await closing.enter_async_context(running_peer())
        files = [await _share(holder, tmp_path / f"file {n}", n) for n in range(2 * GETS_MAX)]

        collecting = asyncio.create_task(bob.courier.receive_all())
        meanwhile: list[float] = []
        for number, manifest in enumerate(files[:GETS_MAX]):
            taken_s = await _timed(reader, holder, manifest, tmp_path / f"meanwhile {number}")
            if collecting.done():
                break
            meanwhile.append(taken_s)
        result = await collecting
        alone = [
            await _timed(reader, holder, manifest, tmp_path / f"alone {number}")
            for number, manifest in enumerate(files[GETS_MAX:])
        ]
        assert len(meanwhile) > 0, "collected before a single get had ended"
        ratio = median(meanwhile) / median(alone)
        assert median(meanwhile) <= SLOWER_MAX * median(alone) + SLACK_S, f"{ratio:.1f} times"
        assert (len(result.received), result.duplicates, result.failures) == (PENDING, 0, [])
        assert len(list(bob.inbox.folder.iterdir())) == PENDING


async def _share(holder: TestPeer, path: Path, seed: int) -> Manifest:
    path.write_bytes(random_bytes(FILE_BYTES, seed))
    return await holder.share(path)


async def _timed(reader: TestPeer, holder: TestPeer, manifest: Manifest, target: Path) -> float:
    began = time.monotonic()
    await get(reader, manifest, target, [holder.holder])
    assert target.stat().st_size == FILE_BYTES
    return time.monotonic() - began
