"""How hops, messages and times of a lookup grow with the network.

Networks of 100, 1,000, 10,000 ... peers up to the size wanted, nobody dead: names are published
by some peers and read by others. A hop is a referral: 1 means that the closest storer was a
contact of the reader itself.
"""

import math
from collections.abc import Awaitable

from simulation.measuring import (
    PublishResult,
    ReadResult,
    mean,
    milliseconds,
    paced,
    publish,
    read,
    share,
)
from simulation.report import Curve, Plot, Report, percentile
from simulation.scenario import Options, Scenario
from simulation.world import World, WorldConfig

NAMES = 200
READS = 1_000
SMALL_DIVISOR = 10
GAP_S = 0.25
FIRST_PEERS = 100
STEP = 10


async def run(options: Options) -> Report:
    """Grow each network, publish, read, and compare."""
    report = Report()
    measured = [(peers, *await _measure(options, peers)) for peers in _sizes(options.peers)]
    report.table(
        "Lookups",
        ("peers", "log2 n", "hops mean", "hops max", "requests mean", "datagrams mean", "found %"),
        [
            (
                peers,
                math.log2(peers),
                mean([each.hops for each in reads]),
                max(each.hops for each in reads),
                mean([each.requests for each in reads]),
                mean([each.sent for each in reads]),
                share(sum(each.is_found for each in reads), len(reads)),
            )
            for peers, _, reads in measured
        ],
    )
    report.table(
        "Times in ms",
        ("peers", "what", "p50", "p90", "p99", "max"),
        [
            (peers, what, *milliseconds(values))
            for peers, publishes, reads in measured
            for what, values in (
                ("get", [each.took_s for each in reads]),
                ("first record", [each.first_s for each in reads if each.first_s is not None]),
                ("publish", [each.took_s for each in publishes]),
            )
        ],
    )
    for peers, _, reads in measured:
        found = share(sum(each.is_found for each in reads), len(reads))
        report.equal(f"found, {peers:,} peers", found, 100, "%")
    _check_growth(report, measured)
    return report


def _check_growth(
    report: Report, measured: list[tuple[int, list[PublishResult], list[ReadResult]]]
) -> None:
    """Hops are bounded by log2 n, requests by the k closest and a logarithm of referrals."""
    for peers, _, reads in measured:
        hops = mean([each.hops for each in reads])
        report.at_most(f"hops mean, {peers:,} peers", hops, math.log2(peers))
    report.plots.append(
        Plot(
            "scale-lookups",
            "Lookups by size of the network",
            "peers",
            "mean of a lookup",
            [
                Curve("log2 n", [(peers, math.log2(peers)) for peers, _, _ in measured]),
                Curve(
                    "hops",
                    [(peers, mean([each.hops for each in reads])) for peers, _, reads in measured],
                ),
                Curve(
                    "requests",
                    [(n, mean([each.requests for each in reads])) for n, _, reads in measured],
                ),
            ],
            is_log_x=True,
        )
    )
    report.plots.append(
        Plot(
            "scale-times",
            "Times of gets and publishes by size of the network",
            "peers",
            "ms",
            [
                Curve(f"{what} p{percent}", points)
                for what in ("get", "publish")
                for percent in (50, 99)
                for points in [
                    [
                        (n, 1000 * percentile(_times(what, publishes, reads), percent / 100))
                        for n, publishes, reads in measured
                    ]
                ]
            ],
            is_log_x=True,
        )
    )


def _times(what: str, publishes: list[PublishResult], reads: list[ReadResult]) -> list[float]:
    results = publishes if what == "publish" else reads
    return [each.took_s for each in results]


def _sizes(peers: int) -> list[int]:
    sizes = []
    size = FIRST_PEERS
    while size < peers:
        sizes.append(size)
        size *= STEP
    return [*sizes, peers]


async def _measure(options: Options, peers: int) -> tuple[list[PublishResult], list[ReadResult]]:
    divisor = SMALL_DIVISOR if options.is_small else 1
    world = await World.grown(WorldConfig(options.seed), peers)
    rng = world.random("scenario")

    def publishing(number: int) -> Awaitable[PublishResult]:
        return publish(world, rng.choice(world.peers), f"file {number}.dat")

    publishes = await paced(GAP_S, NAMES // divisor, publishing)
    offers = [each.offer for each in publishes]

    def reading(_: int) -> Awaitable[ReadResult]:
        offer = rng.choice(offers)
        return read(world, rng.choice([p for p in world.peers if p is not offer.holder]), offer)

    reads = await paced(GAP_S, READS // divisor, reading)
    await world.close()
    return publishes, reads


SCENARIO = Scenario(
    "scale", "hops, messages and times of lookups by size of the network", 10_000, 50, run
)
