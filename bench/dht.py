"""Shoal's DHT beside stock `kademlia` and OpenDHT, in one run on loopback: `make bench-dht`.

Owns the order of the run and what stands in its output. Each repetition takes the systems in turn,
each with fresh processes: all nodes join, items are stored, read at a steady pace, read as fast as
one process can, and read again while a part of the nodes is silent.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.host import run_loop
from bench.load import QUANTILES, Times, get_paced, lookups_hz, store_paced
from bench.machine import machine
from bench.network import BenchNetwork, Layout, network_of
from bench.report import Figure, medians, table
from bench.systems import NAMES, system_of
from bench.systems.base import Got, Item

REPETITIONS_MAX = 9
TIMES = [f"p{round(share * 100)}" for share in QUANTILES]
FIGURES = (
    Figure("join of all", "s"),
    *(Figure(f"store {name}", "ms") for name in TIMES),
    *(Figure(f"get first {name}", "ms") for name in TIMES),
    *(Figure(f"get complete {name}", "ms") for name in TIMES),
    Figure("lookups", "1/s", less_is_better=False),
    *(Figure(f"silent: first {name}", "ms") for name in TIMES),
    *(Figure(f"silent: complete {name}", "ms") for name in TIMES),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How large and how long a run is."""

    systems: tuple[str, ...] = NAMES
    repetitions: int = 3
    layout: Layout = field(default_factory=Layout)
    settle_s: float = 2.0
    """Left to every system between joining and the first store."""
    items: int = 120
    stores_hz: float = 25.0
    gets_hz: float = 40.0
    flood_s: float = 2.0
    """How long gets are made as fast as they go."""
    concurrency: int = 16
    """Gets at once in that phase."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one repetition of one system gave."""

    figures: dict[str, float]
    counts: dict[str, tuple[int, int]]
    """Per phase: how many did what they should, of how many."""


def run_all(plan: Plan) -> dict[str, list[Result]]:
    """Measure each system of the plan, alternating between them."""
    results: dict[str, list[Result]] = {name: [] for name in plan.systems}
    for repetition in range(plan.repetitions):
        for name in plan.systems:
            began = time.monotonic()
            with run_loop(name) as runner:
                result = runner.run(measure(name, plan, salt=f"{repetition}"))
            results[name].append(result)
            took_s = time.monotonic() - began
            print(f"  {name} {repetition + 1}/{plan.repetitions}: {took_s:.0f} s", file=sys.stderr)
    return results


async def measure(name: str, plan: Plan, salt: str) -> Result:
    """Measure one system once, in a network of its own."""
    items = [Item(number, salt) for number in range(plan.items)]
    async with network_of(name, plan.layout) as network:
        return await _measure(network, plan, items)


async def _measure(network: BenchNetwork, plan: Plan, items: Sequence[Item]) -> Result:
    async def store(item: Item) -> bool:
        return await network.storer_for(item).store(item)

    async def get(item: Item) -> Got:
        return await network.asker_for(item).get(item)

    await asyncio.sleep(plan.settle_s)
    stored = await store_paced(store, items, plan.stores_hz)
    got = await get_paced(get, items, plan.gets_hz)
    rate_hz, found, missed = await lookups_hz(
        get, items, concurrency=plan.concurrency, seconds=plan.flood_s
    )
    network.silence()
    silent = await get_paced(get, items, plan.gets_hz)
    figures = {"join of all": network.join_s, "lookups": rate_hz}
    for phase, times in (("store", stored), ("get", got), ("silent:", silent)):
        figures |= _figures(phase, times)
    counts = {
        "stored": (stored.done, stored.asked),
        "got": (got.done, got.asked),
        "got in the flood": (found, found + missed),
        "got with silent nodes": (silent.done, silent.asked),
    }
    return Result(figures, counts)


def _figures(phase: str, times: Times) -> dict[str, float]:
    if phase == "store":
        return {f"store {name}": ms for name, ms in zip(TIMES, times.complete_ms, strict=True)}
    named = {"first": times.first_ms, "complete": times.complete_ms}
    return {
        f"{phase} {end} {name}": ms
        for end, values in named.items()
        for name, ms in zip(TIMES, values, strict=True)
    }


# Output


def show(plan: Plan, results: Mapping[str, Sequence[Result]]) -> str:
    """Lay out everything that a reader needs to judge the figures."""
    columns = {name: medians([each.figures for each in all_]) for name, all_ in results.items()}
    lines = [
        *(f"{name}: {value}" for name, value in machine().items()),
        f"versions: {'; '.join(system_of(name).version() for name in _packages(plan.systems))}",
        *_conditions(plan),
        "",
        table(FIGURES, columns, ours="shoal", against=("kademlia", "opendht")),
        "",
        *_counts(results),
        "",
        LEGEND,
    ]
    return "\n".join(lines)


LEGEND = """\
A ratio says how many times better shoal is; below 1 it is worse.
first: the first right value. complete: the system's own end of a get. They are the same for
kademlia, which returns what the first round with a value brought; opendht ends when its 8 closest
have answered; shoal when all 20 closest have, and it verifies a signature where the others do not.
A miss counts with all the time that it took.
store: until all storers have answered; shoal's sign what they answer, and the asker verifies it.
join of all: until every node says that it is in, 8 at a time in each process.
silent: the process of these nodes is stopped, its sockets stay open and swallow everything."""


def _conditions(plan: Plan) -> list[str]:
    layout = plan.layout
    places = f"{layout.steady} in one, {layout.silent} that fall silent in another"
    paces = f"{plan.stores_hz:g} stores/s, then {plan.gets_hz:g} gets/s"
    flood = f"{plan.concurrency} gets at once for {plan.flood_s:g} s"
    hosts = f"{layout.nodes} nodes on 127.0.0.1 in 3 processes: {places}"
    return [
        f"network: {hosts}, {layout.askers} in the measuring one",
        f"load: {plan.settle_s:g} s after joining {plan.items} items, {paces}, then {flood}",
        f"then the paced gets again with {layout.silent} nodes silent",
        f"medians of {plan.repetitions} repetitions, systems in turn",
    ]


def _counts(results: Mapping[str, Sequence[Result]]) -> list[str]:
    """One line a system: what was stored and found, over all repetitions; misses stand out."""
    lines = []
    for name, repetitions in results.items():
        parts = []
        for phase in repetitions[0].counts:
            done = sum(each.counts[phase][0] for each in repetitions)
            asked = sum(each.counts[phase][1] for each in repetitions)
            missing = f" ({asked - done} MISSING)" if done < asked else ""
            parts.append(f"{phase} {done}/{asked}{missing}")
        lines.append(f"{name}: {', '.join(parts)}")
    return lines


def _packages(systems: Sequence[str]) -> list[str]:
    return [name for name in systems if name != "shoal-private" or "shoal" not in systems]


def _json(plan: Plan, results: Mapping[str, Sequence[Result]]) -> str:
    whole = {
        "machine": machine(),
        "versions": [system_of(name).version() for name in _packages(plan.systems)],
        "plan": asdict(plan),
        "results": {name: [asdict(each) for each in all_] for name, all_ in results.items()},
    }
    return json.dumps(whole, indent=1)


def _plan_of(arguments: argparse.Namespace) -> Plan:
    systems = tuple(arguments.systems.split(","))
    unknown = [name for name in systems if name not in NAMES]
    if unknown:
        raise SystemExit(f"no system {unknown[0]!r}; there are {', '.join(NAMES)}")
    return Plan(
        systems=systems,
        repetitions=min(max(1, arguments.repetitions), REPETITIONS_MAX),
        layout=Layout(nodes=arguments.nodes),
        items=arguments.items,
    )


def parser() -> argparse.ArgumentParser:
    """Build what reads the command line."""
    parser = argparse.ArgumentParser(prog="bench.dht", description=__doc__)
    parser.add_argument("--systems", default=",".join(NAMES), help="which, with commas between")
    parser.add_argument("--nodes", type=int, default=Layout().nodes)
    parser.add_argument("--items", type=int, default=Plan().items)
    parser.add_argument("--repetitions", type=int, default=Plan().repetitions)
    parser.add_argument("--json", type=Path, help="write all figures of all repetitions here")
    return parser


def main(given: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    arguments = parser().parse_args(given)
    plan = _plan_of(arguments)
    results = run_all(plan)
    print(show(plan, results))
    if arguments.json is not None:
        arguments.json.write_text(_json(plan, results), "utf-8")


if __name__ == "__main__":
    main()
