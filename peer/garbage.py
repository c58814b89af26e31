"""The garbage collector's turns, kept short: they keep the event loop from everybody.

Owns the collector's settings of a running peer. Must not know what a peer does.

A full collection goes through all objects there are, which with the records of 10,000 files takes
longer than anybody may wait. So what outlives one that took long is frozen: no later one looks at
it again. It is still freed as soon as nobody holds it; only a cycle made of it would stay. Frozen
is what a growing peer holds, each time after hundreds of thousands of new objects; one that does
not grow freezes nothing.
"""

import gc
import time
from typing import Final

YOUNG_OBJECTS: Final = 5_000
"""New objects between two collections of the youngest: a read makes hundreds that end with it, and
those that a collection meets alive count towards the next full one."""
MIDDLE_COLLECTIONS: Final = 5
FULL_COLLECTIONS: Final = 4
"""So that 100,000 new objects that stay are met by a full collection, which takes 10 ms."""
LONG_S: Final = 0.008
"""A full collection that takes longer freezes what is left: of that size no other one follows."""


class ShortTurns:
    """Freezes what outlives a long full collection; a callback of the collector."""

    def __init__(self) -> None:
        self._began: float | None = None
        self.frozen = 0
        """How often."""

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        """Hear of the start and the end of a collection."""
        if info["generation"] < 2:
            return
        if phase == "start":
            self._began = time.thread_time()
        elif self._began is not None:
            took_s = time.thread_time() - self._began
            self._began = None
            if took_s > LONG_S:
                gc.freeze()
                self.frozen += 1


def keep_turns_short() -> ShortTurns:
    """Freeze what there is, and what will outlive long collections; for the rest of the process."""
    turns = ShortTurns()
    gc.callbacks[:] = [each for each in gc.callbacks if not isinstance(each, ShortTurns)]
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, MIDDLE_COLLECTIONS, FULL_COLLECTIONS)
    gc.callbacks.append(turns)
    return turns
