"""Who stores which key: many keys placed with few lookups.

Owns the rounds of lookups and for how long what they teach is believed. Must not know records,
batches or the schedule; what follows from a lookup is `dht.regions`'.

A few keys are looked up at once, each for itself: somebody waits for them. Many are placed by
region: a round looks up what is best known next, spread over the keys not placed yet, until the
rest follows.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from dht.config import DhtConfig
from dht.lookup import Candidate
from dht.reads import Reader
from dht.regions import Regions
from dht.routing import Table
from dht.turns import PLAN_TURN, turns

REGIONS_FRESH_S = 60.0
"""How long a region is believed to be as it was found: hand-over serves whoever came meanwhile."""

Placed = dict[bytes, list[Candidate]]
OnLate = Callable[[Candidate], Awaitable[None]]


class Placer:
    """Find the storers of keys for one node."""

    def __init__(
        self,
        reader: Reader,
        table: Table,
        config: DhtConfig,
        *,
        clock: Callable[[], float],
        drops: Counter[str],
    ) -> None:
        self._reader = reader
        self._table = table
        self._config = config
        self._clock = clock
        self._drops = drops
        self._slots = asyncio.Semaphore(config.lookups_max)
        self._regions = self._new_regions()
        self._since = clock()

    async def place(self, keys: Sequence[bytes], on_late: OnLate) -> Placed:
        """Return the closest peers of each key, closest first; keys are distinct and in order.

        `on_late` is told of a peer that answers a lookup when that has ended.
        """
        placed: Placed = {}
        if len(keys) <= self._config.lookups_max:
            await self._place_each(keys, placed, on_late)
            return placed
        if self._clock() - self._since > REGIONS_FRESH_S:
            self._regions = self._new_regions()
            self._since = self._clock()
        left = await self._place_known(keys, placed)
        by_gaps = True
        while left:
            some = _spread(left, self._config.lookups_max)
            # Every other round places its keys for certain, so that there is an end.
            targets = list(dict.fromkeys(map(self._regions.gap, some))) if by_gaps else some
            if not await self._look_up(targets, placed, on_late):
                break  # nobody answers: no more is to be learnt
            left = await self._place_known(left, placed)
            by_gaps = not by_gaps
        return placed

    def vanished(self, peer_id: bytes) -> None:
        """Note a storer that does not answer."""
        self._regions.vanished(peer_id)

    async def _place_each(self, keys: Sequence[bytes], placed: Placed, on_late: OnLate) -> None:
        """Look up each key; in a network of few peers the first answer holds for all."""
        first, *others = keys
        if others and self._has_few_contacts():
            await self._look_up([first], placed, on_late)
            if self._is_whole(placed[first]):
                placed.update((key, list(placed[first])) for key in others)
                return
            await self._look_up(others, placed, on_late)
        else:
            await self._look_up(keys, placed, on_late)

    async def _look_up(self, targets: Sequence[bytes], placed: Placed, on_late: OnLate) -> int:
        """Look these up at once, learn from it, and return how many peers answered in all."""

        async def survey(target: bytes) -> int:
            async with self._slots:
                self._drops["publish-lookups"] += 1
                found = await self._reader.survey(target, late)
            placed[target] = list(found.closest)
            self._regions.learn(found, is_whole=self._is_whole(found.closest))
            return len(found.answered)

        async def late(candidate: Candidate) -> None:
            self._regions.appeared(candidate)
            await on_late(candidate)

        tasks = []
        async with asyncio.TaskGroup() as group:
            for target in targets:
                tasks.append(group.create_task(survey(target)))
                await asyncio.sleep(0)  # each begins with alpha requests: not all in one turn
        return sum(task.result() for task in tasks)

    async def _place_known(self, keys: Sequence[bytes], placed: Placed) -> list[bytes]:
        """Place the keys whose storers follow from what is known; return the others."""
        left: list[bytes] = []
        async for some in turns(keys, PLAN_TURN):
            for key in some:
                if key in placed:
                    continue
                known = self._regions.closest(key)
                if known is None:
                    left.append(key)
                else:
                    placed[key] = known
        return left

    def _is_whole(self, found: Sequence[Candidate]) -> bool:
        """Tell whether these are all peers of the network: fewer than wanted, and none missed."""
        return len(found) < self._config.lookup.k and self._has_few_contacts()

    def _has_few_contacts(self) -> bool:
        sound = [each for each in self._table.contacts() if each.failures == 0]
        return len(sound) < self._config.lookup.k

    def _new_regions(self) -> Regions:
        lookup = self._config.lookup
        return Regions(lookup.k, block_contacts_max=lookup.block_contacts_max)


def _spread(keys: Sequence[bytes], count: int) -> list[bytes]:
    """Choose at most count of the keys, evenly."""
    if len(keys) <= count:
        return list(keys)
    return [keys[number * len(keys) // count] for number in range(count)]
