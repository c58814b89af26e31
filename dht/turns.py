"""Long work in short turns, so that the event loop serves others in between.

Owns the cutting of a sequence, and the pause between the pieces. Must not know what is done with
them. A piece should take a few milliseconds: nobody may wait for more than 50.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

SIGN_TURN = 24
"""Records signed or verified in one turn, at 0.1 to 0.2 ms each."""
PLAN_TURN = 64
"""Drafts planned in one turn, at 0.05 ms each."""
NOTE_TURN = 512
"""Reports noted, or storers chosen, in one turn."""
LOAD_TURN = 100
"""Rows taken back from the disk in one turn, at 0.05 ms each."""
SAVE_TURN = 200
"""Rows given to the disk in one turn, at 0.05 ms each and what the database's log takes."""


async def turns(items: Sequence[Item], size: int) -> AsyncIterator[Sequence[Item]]:
    """Yield pieces of at most `size` items; between two of them all other tasks have a turn."""
    for start in range(0, len(items), size):
        if start:
            await asyncio.sleep(0)
        yield items[start : start + size]
