"""The torture of transfers: receivers killed at random moments. Owns which runs there are."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.torture.kills import kill_receivers
from tests.torture.tally import Tally

KILLS = 100


def torture(runs: int | None, seed: int) -> Iterator[Tally]:
    """Yield a tally for each torture."""
    with tempfile.TemporaryDirectory() as folder:
        yield asyncio.run(kill_receivers(Path(folder), kills=runs or KILLS, seed=seed))
