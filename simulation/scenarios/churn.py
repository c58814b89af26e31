"""A day and a half of peers that come and go.

Sessions and absences are exponential. Half of the sessions end by a kill (nothing is sent or
saved), half by a clean leave (records withdrawn). A peer that returns has its contacts, records and
schedule from its disk, joins, and offers its names again, as the running peer does; some killed
ones never return, so that their records expire. Bootstrap nodes stay. Meanwhile names are read.

A read is right when it finds a holder that lives and has had time to publish, and when it returns
nothing that has expired, or whose withdrawal was acknowledged before the read began.
"""

import asyncio
import dataclasses
import math
import random
from collections import Counter
from dataclasses import dataclass, field

from dht.errors import DhtError
from dht.records import Kind
from simulation.measuring import Offer, milliseconds, publish, share
from simulation.network import Weather
from simulation.report import Curve, Plot, Report, mean
from simulation.scenario import Options, Scenario
from simulation.world import ENTRIES_COUNT, NODE, Peer, World, WorldConfig

HOURS = 36.0
SMALL_HOURS = 2.0
HOUR_S = 3_600.0
SESSION_MEDIAN_S = 2 * HOUR_S
ABSENCE_MEDIAN_S = 0.5 * HOUR_S
GONE_SHARE = 0.02
"""Kills after which the peer never returns."""
NAMES_SHARE = 0.4
"""Names a peer of the network; each has one holder, so that nobody stands in for it."""
NAMES_MIN = 30
READ_GAP_S = 10.0
SMALL_READ_GAP_S = 30.0
SETTLED_S = 60.0
"""How long a holder has been up before its name must be found."""
WITHDRAWN_S = 5.0
"""How long after an acknowledged withdrawal nobody may return the record."""
FOUND_LIMIT = 99.9
WEATHER = Weather(loss=0.005, duplication=0.002, overtaking=0.01)
# A flush costs real time for each peer and says nothing to others: a kill loses a minute of it.
CHURN_NODE = dataclasses.replace(NODE, flush_s=60.0)


@dataclass(slots=True, eq=False)
class _Name:
    """One name, its only holder, and since when it is offered or withdrawn."""

    name: str
    holder: Peer
    offer: Offer | None = None
    offered_at: float = math.inf
    withdrawn_at: float = math.inf


@dataclass(slots=True)
class _Log:
    """What the reads and lives added up to."""

    counts: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    hours: dict[int, list[bool]] = field(default_factory=dict)
    sent: list[tuple[float, float]] = field(default_factory=list)
    ups: list[tuple[float, float]] = field(default_factory=list)


class _Churn:
    """One run: the world, its names, its log."""

    def __init__(self, world: World, names: list[_Name], read_gap_s: float) -> None:
        self._read_gap_s = read_gap_s
        self.world = world
        self.log = _Log()
        self.names = names
        self.rng = world.random("churn")
        self.started = world.now()
        self._of: dict[Peer, list[_Name]] = {}
        for name in names:
            self._of.setdefault(name.holder, []).append(name)

    async def offer(self, peer: Peer) -> None:
        """Let a peer publish its names, as after a start."""
        for name in self._of.get(peer, []):
            life = peer.lives
            name.withdrawn_at = math.inf
            result = await publish(self.world, peer, name.name)
            name.offer = result.offer
            if peer.lives == life and peer.is_up:
                name.offered_at = self.world.now()

    async def live(self, peer: Peer, rng: random.Random) -> None:
        """Lead one peer through its sessions and absences."""
        while True:
            await asyncio.sleep(_exponential(rng, SESSION_MEDIAN_S))
            is_kill = rng.random() < 0.5
            for name in self._of.get(peer, []):
                name.offered_at = math.inf
            if is_kill:
                self.log.counts["kills"] += 1
                await self.world.kill(peer)
                if rng.random() < GONE_SHARE:
                    self.log.counts["never back"] += 1
                    return
            else:
                self.log.counts["leaves"] += 1
                await self.world.leave(peer)
                for name in self._of.get(peer, []):
                    name.withdrawn_at = self.world.now()
            await asyncio.sleep(_exponential(rng, ABSENCE_MEDIAN_S))
            self.log.counts["returns"] += 1
            await self.world.join(peer)
            await self.offer(peer)

    async def read_on(self) -> None:
        """Read a random name by a random peer, again and again."""
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(self._read_gap_s)
                name, reader = self.rng.choice(self.names), self.rng.choice(self.world.up())
                if name.offer is not None and reader is not name.holder:
                    group.create_task(self._read(name, name.offer, reader))

    async def _read(self, name: _Name, offer: Offer, reader: Peer) -> None:
        world, counts = self.world, self.log.counts
        began, life = world.now(), reader.lives
        must_find = began - name.offered_at >= SETTLED_S
        must_miss = began - name.withdrawn_at >= WITHDRAWN_S
        try:
            hits = await reader.running.read(offer.key, (Kind.NAME,))
        except DhtError:
            hits = None
        if hits is None or reader.lives != life or not reader.is_up:
            counts["reader left meanwhile"] += 1
            return
        holder_id = offer.holder.identity.peer_id
        found = any(record.publisher == holder_id for record, _ in hits)
        counts["reads"] += 1
        expired = sum(record.expires_ms <= world.wall_ms() for record, _ in hits)
        counts["expired returned"] += expired
        if must_miss and name.withdrawn_at < began:
            counts["reads of withdrawn names"] += 1
            counts["withdrawn returned"] += found
        if must_find and name.offered_at < began:
            counts["reads of live names"] += 1
            counts["live names found"] += found
            self.log.times.append(world.now() - began)
            self.log.hours.setdefault(int((began - self.started) / HOUR_S), []).append(found)

    async def watch(self) -> None:
        """Note the traffic hour by hour."""
        while True:
            before = self.world.network.traffic.sent
            await asyncio.sleep(HOUR_S)
            up = len(self.world.up())
            hour = float(len(self.log.sent) + 1)
            sent = self.world.network.traffic.sent - before
            self.log.sent.append((hour, sent / HOUR_S / up))
            self.log.ups.append((hour, up))

    async def run(self, hours: float) -> None:
        """Publish everything, then let peers come and go."""
        world = self.world
        for peer in dict.fromkeys(name.holder for name in self.names):
            await self.offer(peer)
        self.started = world.now()
        tasks = [
            asyncio.create_task(self.live(peer, world.random(f"life/{peer.number}")))
            for peer in world.peers[ENTRIES_COUNT:]
        ]
        tasks += [asyncio.create_task(self.read_on()), asyncio.create_task(self.watch())]
        await asyncio.sleep(hours * HOUR_S)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


def _exponential(rng: random.Random, median_s: float) -> float:
    return rng.expovariate(math.log(2) / median_s)


async def run(options: Options) -> Report:
    """Let peers come and go, read meanwhile, and count."""
    hours = options.hours or (SMALL_HOURS if options.is_small else HOURS)
    config = WorldConfig(options.seed, WEATHER, CHURN_NODE, is_persistent=True)
    world = await World.grown(config, options.peers)
    rng = world.random("scenario")
    count = max(NAMES_MIN, round(NAMES_SHARE * options.peers))
    holders = rng.choices(world.peers[ENTRIES_COUNT:], k=count)
    names = [_Name(f"file {number}.dat", holder) for number, holder in enumerate(holders)]
    churn = _Churn(world, names, SMALL_READ_GAP_S if options.is_small else READ_GAP_S)
    await churn.run(hours)
    report = _report(options, hours, churn)
    await world.close()
    return report


def _report(options: Options, hours: float, churn: _Churn) -> Report:
    report, log = Report(), churn.log
    counts, traffic = log.counts, churn.world.network.traffic
    found = share(counts["live names found"], counts["reads of live names"])
    report.table(
        f"{hours:g} hours, {options.peers:,} peers, {len(churn.names):,} names",
        ("what", "count"),
        [
            ("sessions ended by a kill", counts["kills"]),
            ("sessions ended by a clean leave", counts["leaves"]),
            ("returns", counts["returns"]),
            ("killed peers that never came back", counts["never back"]),
            ("reads of names with a live holder", counts["reads of live names"]),
            ("of these, found", counts["live names found"]),
            ("reads of withdrawn names", counts["reads of withdrawn names"]),
            ("of these, a withdrawn record came", counts["withdrawn returned"]),
            ("reads that an expired record came from", counts["expired returned"]),
            ("reads in all", counts["reads"]),
            ("readers that left meanwhile", counts["reader left meanwhile"]),
            ("datagrams sent", traffic.sent),
            ("peers up, mean", mean([up for _, up in log.ups])),
            ("datagrams sent a second and peer, mean", mean([rate for _, rate in log.sent])),
        ],
    )
    report.table(
        "Times of reads of live names in ms",
        ("p50", "p90", "p99", "max"),
        [milliseconds(log.times)],
    )
    report.at_least("names with a live holder found", found, FOUND_LIMIT, "%")
    report.equal("expired records returned", counts["expired returned"], 0)
    report.equal("withdrawn records returned", counts["withdrawn returned"], 0)
    report.at_least("reads of withdrawn names", counts["reads of withdrawn names"], 1)
    by_hour = [(hour, share(sum(each), len(each))) for hour, each in sorted(log.hours.items())]
    report.plots.append(
        Plot(
            "churn-found",
            f"{options.peers:,} peers, median session 2 h",
            "hour",
            "% of names with a live holder that were found",
            [Curve("found", by_hour)],
        )
    )
    report.plots.append(
        Plot(
            "churn-traffic",
            f"{options.peers:,} peers, median session 2 h",
            "hour",
            "datagrams sent a second and peer",
            [Curve("sent", log.sent)],
        )
    )
    return report


SCENARIO = Scenario("churn", "peers come and go for 36 hours", 1_000, 26, run)
