"""One attacker against one name: many peers with ids ground towards its key, in few blocks.

Every Sybil is closer to the key than any honest peer, and proves a real key. They greet the honest
peers near the key and get into tables; one holder publishes the name, another publishes and
withdraws it; then random honest peers read. A read is right when it returns the first holder's
record and not the withdrawn one. All signatures are real.

Defences off: no limit on the contacts of an address block in tables, lookups and reads, and no
distrust of those who name peers that do not answer. How far the defences carry is shown by the
number of blocks that the attacker has.
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

from dht.config import DhtConfig
from dht.lookup import LookupConfig
from dht.records import Kind, name_key
from dht.routing import TableConfig
from identity.keys import Identity
from identity.network import Network
from simulation.adversary import Gang, SybilKind, grind
from simulation.measuring import milliseconds, paced, publish, share
from simulation.report import Cell, Curve, Plot, Report
from simulation.scenario import Options, Scenario
from simulation.world import NODE, Peer, World, WorldConfig

SYBILS = 2_000
SMALL_SYBILS = 24
BLOCKS = 8
SWEPT_BLOCKS = (12, 16, 20, 24)
"""Beside BLOCKS. There are k = 20 storers: with as many blocks the attacker has all of them."""
SMALL_SWEPT_BLOCKS = (24,)
READS = 400
SMALL_READS = 20
READ_GAP_S = 0.1
CANDIDATE_NAMES = 32
"""The attacker takes the name that costs the least to attack."""
INFILTRATED = 8
"""Honest peers closest to the key that each Sybil greets, and as many at random as OTHERS."""
OTHERS = 4
GREET_GAP_S = 0.1
RIGHT_LIMIT = 99.0
UNLIMITED = 1_000_000

DEFENDED = NODE


def undefended() -> DhtConfig:
    """Return the settings of a peer that trusts blocks and tellers without limit."""
    lookup = LookupConfig(
        block_contacts_max=UNLIMITED,
        block_failures_max=UNLIMITED,
        teller_failures_max=UNLIMITED,
    )
    table = TableConfig(block_contacts_max=UNLIMITED)
    return dataclasses.replace(NODE, table=table, lookup=lookup)


@dataclass(frozen=True, slots=True)
class _Attack:
    """What all runs of one scenario share: the name, and the identities ground towards it."""

    name: str
    key: bytes
    identities: Sequence[Identity]


@dataclass(frozen=True, slots=True)
class _Read:
    is_right: bool
    is_found: bool
    took_s: float
    withdrawn_came: bool


@dataclass(frozen=True, slots=True)
class _Result:
    kind: str
    defences: str
    blocks: int
    reads: Sequence[_Read]
    stored_honestly: int

    @property
    def right(self) -> float:
        return share(sum(each.is_right for each in self.reads), len(self.reads))

    def row(self) -> tuple[Cell, ...]:
        times = milliseconds([each.took_s for each in self.reads])
        withdrawn = sum(each.withdrawn_came for each in self.reads)
        return (
            self.kind,
            self.defences,
            self.blocks,
            self.right,
            self.stored_honestly,
            withdrawn,
            times[0],
            times[2],
        )


async def run(options: Options) -> Report:
    """Try each kind with defences on and off, then more and more blocks."""
    report = Report()
    sybils = SMALL_SYBILS if options.is_small else SYBILS
    attack = _prepare(options, sybils)
    results = [
        await _attack(options, attack, kind, BLOCKS, is_defended)
        for kind in SybilKind
        for is_defended in (True, False)
        if is_defended or not options.is_small
    ]
    columns = (
        "Sybils",
        "defences",
        "blocks",
        "reads right %",
        "honest storers",
        "withdrawn came",
        "get p50 ms",
        "get p99 ms",
    )
    title = f"{options.peers:,} honest peers, {sybils:,} Sybils"
    report.table(title, columns, [each.row() for each in results])
    blocks = SMALL_SWEPT_BLOCKS if options.is_small else SWEPT_BLOCKS
    swept = [
        await _attack(options, attack, SybilKind.POISONING, each, is_defended=True)
        for each in blocks
    ]
    swept = [*(e for e in results if e.kind == SybilKind.POISONING and e.defences == "on"), *swept]
    report.table(
        f"The same by address blocks of the attacker, {title}",
        columns,
        [each.row() for each in swept],
    )
    for each in results:
        if each.defences == "on":
            report.at_least(f"reads right, {each.kind}", each.right, RIGHT_LIMIT, "%")
        withdrawn = sum(read.withdrawn_came for read in each.reads)
        if each.defences == "on":
            report.equal(f"withdrawn records returned, {each.kind}", withdrawn, 0)
    report.plots.append(
        Plot(
            "sybil-blocks",
            f"{sybils:,} poisoning Sybils against {options.peers:,} honest peers",
            "address blocks of the attacker",
            "reads right, %",
            [Curve("defences on", [(each.blocks, each.right) for each in swept])],
        )
    )
    return report


def _prepare(options: Options, sybils: int) -> _Attack:
    """Choose the name and grind the identities."""
    world = World(_config(options, DEFENDED))
    ids = [int.from_bytes(world.add().identity.peer_id, "big") for _ in range(options.peers)]
    network_id = Network("simulation").network_id
    names = [f"wanted {number}.dat" for number in range(CANDIDATE_NAMES)]

    def closest(name: str) -> int:
        number = int.from_bytes(name_key(network_id, name), "big")
        return min(each ^ number for each in ids)

    name = max(names, key=closest)
    key = name_key(network_id, name)
    identities = tuple(grind(f"{options.seed}/sybil", key, closest(name), sybils))
    return _Attack(name, key, identities)


def _config(options: Options, node: DhtConfig) -> WorldConfig:
    return WorldConfig(options.seed, node=node, identity=Identity)


async def _attack(
    options: Options, attack: _Attack, kind: SybilKind, blocks: int, is_defended: bool
) -> _Result:
    node = DEFENDED if is_defended else undefended()
    world = await World.grown(_config(options, node), options.peers)
    rng = world.random("scenario")
    gang = Gang.gather(world, attack.key, kind, attack.identities, blocks)
    await gang.infiltrate(INFILTRATED, OTHERS, GREET_GAP_S)
    holder, leaver = rng.sample(world.peers, 2)
    gang.censored = holder.identity.public_key
    await publish(world, holder, attack.name)
    offer = (await publish(world, leaver, attack.name)).offer
    await leaver.running.withdraw([offer.payload])
    gang.begin()
    readers = [peer for peer in world.peers if peer not in (holder, leaver)]
    count = SMALL_READS if options.is_small else READS
    read = functools.partial(_read, world, attack.key, holder, leaver)
    reads = await paced(READ_GAP_S, count, lambda _: read(rng.choice(readers)))
    honest = sum(world.holds(peer, attack.key, holder) for peer in world.peers)
    await world.close()
    return _Result(kind.value, "on" if is_defended else "off", blocks, reads, honest)


async def _read(world: World, key: bytes, holder: Peer, leaver: Peer, reader: Peer) -> _Read:
    before = world.now()
    hits = await reader.running.read(key, (Kind.NAME,))
    publishers = {record.publisher for record, _ in hits}
    is_found = holder.identity.peer_id in publishers
    withdrawn = leaver.identity.peer_id in publishers
    return _Read(is_found and not withdrawn, is_found, world.now() - before, withdrawn)


SCENARIO = Scenario(
    "sybil", "2,000 Sybils against one name", 500, 30, run, has_real_signatures=True
)
