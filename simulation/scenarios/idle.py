"""What a network costs in which nothing happens.

All peers have joined; some published a few records that are not due again. An hour goes by. The
figure counts what a peer sends and what it gets.
"""

import asyncio

from simulation.measuring import paced, publish
from simulation.report import Report, mean
from simulation.scenario import Options, Scenario
from simulation.world import World, WorldConfig

IDLE_S = 3_600.0
SETTLE_S = 3_600.0
"""Joining is over long before; what comes of it (greetings, hand-over) is not idleness."""
DATAGRAMS_MAX_HZ = 0.1
NAMES = 50
STEP_S = 300.0


async def run(options: Options) -> Report:
    """Let an hour go by and count."""
    report = Report()
    world = await World.grown(WorldConfig(options.seed), options.peers)
    rng = world.random("scenario")
    await paced(
        1.0, NAMES, lambda number: publish(world, rng.choice(world.peers), f"file {number}.dat")
    )
    await asyncio.sleep(SETTLE_S)
    counts = [(each.port.sent, each.port.received, each.port.sent_bytes) for each in world.peers]
    steps: list[tuple[float, float]] = []
    for number in range(round(IDLE_S / STEP_S)):
        before = world.network.traffic.sent
        await asyncio.sleep(STEP_S)
        rate = (world.network.traffic.sent - before) / STEP_S / len(world.peers)
        steps.append(((number + 1) * STEP_S / 60, 2 * rate))
    sent = [
        (each.port.sent - before) / IDLE_S
        for each, (before, _, _) in zip(world.peers, counts, strict=True)
    ]
    both = [
        rate + (each.port.received - before) / IDLE_S
        for each, (_, before, _), rate in zip(world.peers, counts, sent, strict=True)
    ]
    sent_bytes = [
        (each.port.sent_bytes - before) / IDLE_S
        for each, (_, _, before) in zip(world.peers, counts, strict=True)
    ]
    contacts = [float(len(each.running.engine.table)) for each in world.peers]
    report.table(
        f"One idle hour, {options.peers:,} peers",
        ("a peer", "mean", "least", "most"),
        [
            ("datagrams sent and received a second", mean(both), min(both), max(both)),
            ("datagrams sent a second", mean(sent), min(sent), max(sent)),
            ("bytes sent a second", mean(sent_bytes), min(sent_bytes), max(sent_bytes)),
            ("contacts", mean(contacts), min(contacts), max(contacts)),
        ],
    )
    report.table("By time", ("minutes", "datagrams sent and received a second and peer"), steps)
    report.at_most("datagrams a second and peer, sent and received", mean(both), DATAGRAMS_MAX_HZ)
    await world.close()
    return report


SCENARIO = Scenario("idle", "traffic of a network in which nothing happens", 100, 30, run)
