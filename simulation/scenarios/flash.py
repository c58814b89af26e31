"""A flash crowd: everybody reads one name within seconds.

Some peers hold the file; then each peer of the network reads its name once, at a random moment of
a few seconds. Wanted: everybody finds it, nobody waits, and the load lies on all storers alike.
"""

import asyncio

from simulation.measuring import ReadResult, milliseconds, publish, read, share
from simulation.report import Curve, Plot, Report, mean, percentile
from simulation.scenario import Options, Scenario
from simulation.world import Peer, World, WorldConfig

HOLDERS = 3
CROWD_S = 5.0
STEP_S = 0.25
NAME = "the film that everybody wants.mkv"
GET_P99_MAX_MS = 1_500


async def run(options: Options) -> Report:
    """Publish, let the crowd come, and look at the storers."""
    world = await World.grown(WorldConfig(options.seed), options.peers)
    rng = world.random("scenario")
    holders = rng.sample(world.peers, HOLDERS)
    offers = [(await publish(world, holder, NAME)).offer for holder in holders]
    readers = [peer for peer in world.peers if peer not in holders]
    now_ms = world.wall_ms()
    storers = [p for p in world.peers if p.running.store.find(offers[0].key, now_ms=now_ms).records]
    others = [peer for peer in world.peers if peer not in storers]
    before = {peer.number: peer.port.received for peer in world.peers}
    steps: list[tuple[float, float]] = []
    watch = asyncio.create_task(_watch(storers, steps))

    async def come(reader: Peer) -> ReadResult:
        await asyncio.sleep(CROWD_S * rng.random())
        return await read(world, reader, offers[0], is_watched=False)

    reads = await asyncio.gather(*(come(reader) for reader in readers))
    watch.cancel()
    report = Report()
    _report_times(report, reads, {offer.holder.identity.peer_id for offer in offers})
    _report_load(report, _loads(storers, before), _loads(others, before), steps)
    await world.close()
    return report


def _loads(peers: list[Peer], before: dict[int, int]) -> list[float]:
    return [float(peer.port.received - before[peer.number]) for peer in peers]


def _report_times(report: Report, reads: list[ReadResult], wanted: set[bytes]) -> None:
    gets = [each.took_s for each in reads]
    report.table(
        f"Times in ms, {len(reads):,} readers within {CROWD_S:.0f} s",
        ("what", "count", "p50", "p90", "p99", "max"),
        [("get", len(gets), *milliseconds(gets))],
    )
    complete = share(sum(wanted <= each.holders for each in reads), len(reads))
    report.equal("all holders found", complete, 100, "%")
    report.at_most("get p99", 1000 * percentile(gets, 0.99), GET_P99_MAX_MS, "ms")


def _report_load(
    report: Report, storers: list[float], others: list[float], steps: list[tuple[float, float]]
) -> None:
    busiest = max(rate for _, rate in steps)
    report.table(
        "Datagrams received during the crowd",
        ("by", "peers", "mean", "p90", "most", "most a second"),
        [
            (name, len(loads), mean(loads), percentile(loads, 0.9), max(loads), most)
            for name, loads, most in (("storers", storers, busiest), ("others", others, ""))
        ],
    )
    report.at_most("busiest storer against the mean", max(storers) / mean(storers), 2.0, "×")
    report.plots.append(
        Plot(
            "flash-load",
            "A flash crowd on one name",
            "s",
            "datagrams a second received by a storer",
            [Curve("busiest storer", steps)],
        )
    )


async def _watch(storers: list[Peer], steps: list[tuple[float, float]]) -> None:
    """Note what the busiest storer gets a second, step by step."""
    while True:
        before = [peer.port.received for peer in storers]
        await asyncio.sleep(STEP_S)
        counts = [peer.port.received - old for peer, old in zip(storers, before, strict=True)]
        steps.append((STEP_S * (len(steps) + 1), max(counts) / STEP_S))


SCENARIO = Scenario("flash", "everybody reads one name within seconds", 1_000, 60, run)
