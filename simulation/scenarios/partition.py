"""A network that is cut in two, and healed again.

Names are published; then nothing passes between two random halves. Each half reads what is there
(the records that some storer of that half holds) and publishes names of its own. After healing,
everybody reads everything. Both a short cut, which nobody's table notices much, and a long one,
after which the halves have forgotten each other as live contacts.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

from simulation.measuring import Offer, ReadResult, milliseconds, paced, publish, read, share
from simulation.report import Cell, Report
from simulation.scenario import Options, Scenario
from simulation.world import Peer, World, WorldConfig

CUTS_S = {"short": 300.0, "long": 7_200.0}
HEALED_S = (60.0, 900.0, 5_400.0)
"""When everybody reads everything, counted from the healing; the last time, all must be found.

The absent are asked for again ever more rarely, at last once an hour, give or take a fifth."""
SMALL_CUTS_S = {"short": 300.0}
SMALL_HEALED_S = (600.0,)
NAMES = 100
READS = 300
SMALL_DIVISOR = 10
GAP_S = 0.2
SIDES = (0, 1)


@dataclass(frozen=True, slots=True)
class _Reading:
    when: str
    what: str
    reads: Sequence[ReadResult]
    must_find: bool = True

    @property
    def found(self) -> float:
        return share(sum(each.is_found for each in self.reads), len(self.reads))

    def row(self) -> tuple[Cell, ...]:
        times = milliseconds([each.took_s for each in self.reads])
        return (self.when, self.what, len(self.reads), self.found, *times)


async def run(options: Options) -> Report:
    """Cut and heal twice, each time in a fresh network."""
    report = Report()
    readings = [
        reading
        for name, cut_s in (SMALL_CUTS_S if options.is_small else CUTS_S).items()
        for reading in await _cut(options, name, cut_s)
    ]
    report.table(
        f"Reads, {options.peers:,} peers in two halves",
        ("when", "what", "reads", "found %", "p50 ms", "p90 ms", "p99 ms", "max ms"),
        [each.row() for each in readings],
    )
    for each in readings:
        if each.must_find:
            report.equal(f"found: {each.when}, {each.what}", each.found, 100, "%")
    return report


async def _cut(options: Options, name: str, cut_s: float) -> list[_Reading]:
    divisor = SMALL_DIVISOR if options.is_small else 1
    world = await World.grown(WorldConfig(options.seed), options.peers)
    rng = world.random(f"scenario/{name}")
    names, reads = NAMES // divisor, READS // divisor
    offers = await _publish(world, rng, world.peers, "early", names)
    first = set(rng.sample(range(len(world.peers)), len(world.peers) // 2))
    world.part(lambda peer: 0 if peer.number in first else 1)
    readings = []
    late: list[Offer] = []
    await asyncio.sleep(cut_s)
    for side in SIDES:
        peers = [peer for peer in world.peers if peer.side == side]
        here = [o for o in offers if any(world.holds(peer, o.key, o.holder) for peer in peers)]
        results = await _read(world, rng, peers, here, reads)
        readings.append(_Reading(f"{name} cut", f"half {side + 1}, published before", results))
        own = await _publish(world, rng, peers, f"side {side}", names)
        results = await _read(world, rng, peers, own, reads)
        readings.append(_Reading(f"{name} cut", f"half {side + 1}, published there", results))
        late += own
    world.heal()
    healed_at = world.now()
    healed_s = SMALL_HEALED_S if options.is_small else HEALED_S
    for after_s in healed_s:
        await asyncio.sleep(healed_at + after_s - world.now())
        when = f"{name} cut, healed {after_s / 60:.0f} min"
        for what, some in (("published before", offers), ("published by a half", late)):
            results = await _read(world, rng, world.peers, some, reads)
            readings.append(_Reading(when, what, results, must_find=after_s == healed_s[-1]))
    await world.close()
    return readings


async def _publish(
    world: World, rng: random.Random, peers: Sequence[Peer], name: str, count: int
) -> list[Offer]:
    results = await paced(
        GAP_S, count, lambda number: publish(world, rng.choice(peers), f"{name} {number}.dat")
    )
    return [each.offer for each in results]


async def _read(
    world: World, rng: random.Random, peers: Sequence[Peer], offers: Sequence[Offer], count: int
) -> list[ReadResult]:
    if not offers:
        return []
    return await paced(GAP_S, count, lambda _: read(world, rng.choice(peers), rng.choice(offers)))


SCENARIO = Scenario("partition", "cut in two halves, and healed", 500, 30, run)
