"""Gets and publishes while a fifth of the network is silent.

The silent peers vanish at once when the measuring begins: they are still in everybody's tables,
their sockets swallow everything, and nobody says so. Names were published before, so that some of
their storers are among the silent; their holders are not.
"""

from simulation.measuring import milliseconds, paced, publish, read, share
from simulation.report import Curve, Plot, Report, percentile
from simulation.scenario import Options, Scenario
from simulation.world import World, WorldConfig

SILENT_SHARE = 0.2
NAMES = 300
READS = 1_000
PUBLISHES = 300
SMALL_DIVISOR = 10
GAP_S = 0.1
BEFORE_GAP_S = 0.25
LIMITS_FROM_PEERS = 1_000
"""Smaller networks are for the tests: a fifth of so few is chance."""


async def run(options: Options) -> Report:
    """Publish, silence, then read and publish in turn."""
    report = Report()
    divisor = SMALL_DIVISOR if options.is_small else 1
    world = await World.grown(WorldConfig(options.seed), options.peers)
    rng = world.random("scenario")
    before = await paced(
        BEFORE_GAP_S,
        NAMES // divisor,
        lambda number: publish(world, rng.choice(world.peers), f"file {number}.dat"),
    )
    silent = rng.sample(world.peers, round(SILENT_SHARE * len(world.peers)))
    world.silence(silent)
    live = world.up()
    offers = [each.offer for each in before if each.offer.holder.is_up]
    reads = await paced(
        GAP_S,
        READS // divisor,
        lambda _: read(world, rng.choice(live), rng.choice(offers)),
    )
    publishes = await paced(
        GAP_S,
        PUBLISHES // divisor,
        lambda number: publish(world, rng.choice(live), f"late {number}.dat"),
    )
    gets = [each.took_s for each in reads]
    firsts = [each.first_s for each in reads if each.first_s is not None]
    puts = [each.took_s for each in publishes]
    stored = [float(each.stored_on) for each in publishes]
    report.table(
        f"Times in ms, {options.peers:,} peers, {len(silent):,} of them silent, "
        f"{1000 * world.config.weather.mean_rtt_s:.0f} ms mean round trip",
        ("what", "count", "p50", "p90", "p99", "max"),
        [
            ("get", len(gets), *milliseconds(gets)),
            ("first record", len(firsts), *milliseconds(firsts)),
            ("publish", len(puts), *milliseconds(puts)),
            ("publish, nobody silent yet", len(before), *milliseconds([e.took_s for e in before])),
        ],
    )
    report.table(
        "Acknowledged by, when the publish ended",
        ("storers of 20", "p50", "p10", "least"),
        [("", percentile(stored, 0.5), percentile(stored, 0.1), min(stored))],
    )
    found = share(sum(each.is_found for each in reads), len(reads))
    report.equal("found", found, 100, "%")
    report.at_least("storers of each publish", min(stored), 1)
    if options.peers >= LIMITS_FROM_PEERS:
        report.at_most("get p50", 1000 * percentile(gets, 0.5), 500, "ms")
        report.at_most("get p99", 1000 * percentile(gets, 0.99), 1_500, "ms")
        report.at_most("publish p50", 1000 * percentile(puts, 0.5), 900, "ms")
        report.at_most("publish p90", 1000 * percentile(puts, 0.9), 1_900, "ms")
    report.plots.append(_plot(gets, firsts, puts))
    await world.close()
    return report


def _plot(gets: list[float], firsts: list[float], puts: list[float]) -> Plot:
    percents = range(1, 101)
    return Plot(
        "dead-times",
        "20% of the peers silent",
        "ms",
        "% done",
        [
            Curve(name, [(1000 * percentile(values, p / 100), p) for p in percents])
            for name, values in (("get", gets), ("first record", firsts), ("publish", puts))
        ],
    )


SCENARIO = Scenario("dead", "gets and publishes while 20% are silent", 10_000, 50, run)
