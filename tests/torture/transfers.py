"""The torture of transfers: receivers killed at random moments, swarms of many processes,
the memory of both ends of a large file.

Owns which runs there are, and how large they are.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.torture.kills import kill_receivers
from tests.torture.memory import MEBIBYTE, large_file
from tests.torture.swarms import equal_holders, one_seed
from tests.torture.tally import Tally

KILLS = 100
SWARM_CHUNKS = 128
SWARM_TIMEOUT_S = 300.0
LARGE_BYTES = 2048 * MEBIBYTE


def torture(runs: int | None, seed: int) -> Iterator[Tally]:
    """Yield a tally for each torture; `runs` is that of kills."""
    suite: list[Callable[[Path], Tally]] = [
        lambda folder: asyncio.run(kill_receivers(folder, kills=runs or KILLS, seed=seed)),
        lambda folder: equal_holders(
            folder, count=8, chunks=SWARM_CHUNKS, seed=seed, timeout_s=SWARM_TIMEOUT_S
        ),
        lambda folder: one_seed(
            folder, readers=30, chunks=SWARM_CHUNKS, seed=seed, timeout_s=SWARM_TIMEOUT_S
        ),
        lambda folder: large_file(folder, size_bytes=LARGE_BYTES, seed=seed),
    ]
    for each in suite:
        with tempfile.TemporaryDirectory() as folder:
            yield each(Path(folder))
