"""When which of many things is due: a queue in which times change often.

Owns the order by time. Pure; must not know what is due or what the time is.

An entry whose time has changed stays in its heap and no longer counts; it goes when it comes to
the top, or when its heap is made anew. Tens of thousands of times can change before one entry comes
to the top. So the entries are spread over many heaps, and a call takes only so many off that do not
count: none takes more than some milliseconds, and the earliest time may be told too early.
"""

import heapq
from collections.abc import Iterator
from typing import Final

HEAPS: Final = 64
SLACK: Final = 64
"""Entries that do not count which a heap may hold beside as many as there are that do."""
STALE_MAX: Final = 1_024
"""Entries that do not count taken off in one call."""


class DueTimes:
    """Keep one time for each name, and tell the earliest.

    Inputs: `set`, `drop`. Outputs: `earliest`, `over`, `len`. Names are bytes whose first byte is
    spread evenly. Invariants: each name with a time has an entry with that time; a heap holds at
    most twice as many entries as names, and SLACK more.
    """

    def __init__(self) -> None:
        self._times: list[dict[bytes, int]] = [{} for _ in range(HEAPS)]
        self._heaps: list[list[tuple[int, bytes]]] = [[] for _ in range(HEAPS)]

    def __len__(self) -> int:
        return sum(map(len, self._times))

    def set(self, name: bytes, time_ms: int) -> None:
        """Have something due at this time, and no longer at another."""
        number = name[0] % HEAPS
        times, heap = self._times[number], self._heaps[number]
        times[name] = time_ms
        heapq.heappush(heap, (time_ms, name))
        if len(heap) > 2 * len(times) + SLACK:
            heap[:] = [(due_ms, each) for each, due_ms in times.items()]
            heapq.heapify(heap)

    def drop(self, name: bytes) -> None:
        """Have something due no more."""
        self._times[name[0] % HEAPS].pop(name, None)

    def earliest(self) -> int | None:
        """Return a time before which nothing is due; None where nothing is due at all.

        That of the earliest, unless too many entries that do not count are before it.
        """
        left = STALE_MAX
        earliest: int | None = None
        for times, heap in zip(self._times, self._heaps, strict=True):
            while heap and left and times.get(heap[0][1]) != heap[0][0]:
                heapq.heappop(heap)
                left -= 1
            if heap and times and (earliest is None or heap[0][0] < earliest):
                earliest = heap[0][0]
        return earliest

    def over(self, now_ms: int, limit: int) -> Iterator[bytes]:
        """Take out at most `limit` of those whose time has come; the names left may be as due."""
        for times, heap in zip(self._times, self._heaps, strict=True):
            while heap and heap[0][0] <= now_ms and limit:
                limit -= 1
                time_ms, name = heapq.heappop(heap)
                if times.get(name) == time_ms:
                    del times[name]
                    yield name
