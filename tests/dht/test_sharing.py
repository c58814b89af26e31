"""Equal work is done once, whoever waits, leaves or is cancelled."""

import asyncio
from collections.abc import Coroutine

import pytest

from dht.errors import NoAnswer, NotListening
from dht.lookup import Goal
from dht.records import Kind, name_key
from dht.sharing import Flights
from tests.dht.nodes import NAME, OPEN, file_payloads, nodes_of, until


class Errand:
    """Work that ends when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.error: Exception | None = None
        self.runs = 0
        self.was_cancelled = False

    async def run(self) -> None:
        self.runs += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        if self.error is not None:
            raise self.error


def spawn(work: Coroutine[None, None, None]) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work)


async def visit(flights: Flights[Errand], key: str, errand: Errand) -> Errand:
    async with flights.join(key, lambda: errand) as flight:
        await flight.wait()
        return flight.work


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_equal_work_runs_once_and_other_work_beside_it() -> None:
    flights: Flights[Errand] = Flights(spawn)
    first, second, other = Errand(), Errand(), Errand()
    waiting = [
        asyncio.create_task(visit(flights, key, errand))
        for key, errand in (("a", first), ("a", second), ("b", other))
    ]
    await turns()
    assert len(flights) == 2
    first.go.set()
    other.go.set()
    assert await asyncio.gather(*waiting) == [first, first, other]
    assert (first.runs, second.runs, other.runs) == (1, 0, 1)
    assert len(flights) == 0


async def test_cancelled_waiter_takes_nothing_from_the_others() -> None:
    flights: Flights[Errand] = Flights(spawn)
    errand = Errand()
    one = asyncio.create_task(visit(flights, "a", errand))
    two = asyncio.create_task(visit(flights, "a", Errand()))
    await turns()
    one.cancel()
    await turns()
    assert not errand.was_cancelled
    errand.go.set()
    assert await two is errand


async def test_work_ends_when_nobody_waits_any_more() -> None:
    flights: Flights[Errand] = Flights(spawn)
    errand, later = Errand(), Errand()
    one = asyncio.create_task(visit(flights, "a", errand))
    await turns()
    one.cancel()
    await turns()
    assert errand.was_cancelled
    assert len(flights) == 0
    later.go.set()
    assert await visit(flights, "a", later) is later, "a later one begins anew"


async def test_each_waiter_hears_what_went_wrong() -> None:
    flights: Flights[Errand] = Flights(spawn)
    errand = Errand()
    errand.error = NoAnswer("nobody")
    waiting = [asyncio.create_task(visit(flights, "a", errand)) for _ in range(3)]
    await turns()
    errand.go.set()
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, NoAnswer)


async def test_waiters_are_told_when_the_node_closes_even_before_it_began() -> None:
    tasks: list[asyncio.Task[None]] = []

    def spawn_and_keep(work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        tasks.append(spawn(work))
        return tasks[-1]

    flights: Flights[Errand] = Flights(spawn_and_keep)

    async def close_at_once() -> None:
        tasks[0].cancel()

    one = asyncio.create_task(visit(flights, "a", Errand()))
    await asyncio.sleep(0)
    await close_at_once()
    with pytest.raises(NotListening):
        await one


async def test_retired_work_is_nobody_elses_but_goes_on() -> None:
    flights: Flights[Errand] = Flights(spawn)
    old, new = Errand(), Errand()
    one = asyncio.create_task(visit(flights, "a", old))
    await turns()
    flights.retire(lambda work: work is old)
    two = asyncio.create_task(visit(flights, "a", new))
    await turns()
    old.go.set()
    new.go.set()
    assert await asyncio.gather(one, two) == [old, new]


async def test_flights_are_bounded_and_beyond_each_works_alone() -> None:
    flights: Flights[Errand] = Flights(spawn, flights_max=1)
    errands = [Errand() for _ in range(3)]
    keys = ("a", "b", "b")
    waiting = [
        asyncio.create_task(visit(flights, key, errand))
        for key, errand in zip(keys, errands, strict=True)
    ]
    await turns()
    assert len(flights) == 1
    for errand in errands:
        errand.go.set()
    assert await asyncio.gather(*waiting) == errands


async def test_equal_reads_and_lookups_at_once_cost_one() -> None:
    async with nodes_of(6) as nodes:
        await until(lambda: all(len(node.engine.table) == 5 for node in nodes))
        await nodes[0].publish(file_payloads())
        reader = nodes[1]
        key = name_key(OPEN.network_id, NAME)

        async def cost(count: int) -> int:
            before = reader.counters()["datagrams-sent"]
            found = await asyncio.gather(*(reader.find_name(NAME) for _ in range(count)))
            assert all(len(hits) == 1 for hits in found)
            closest = await asyncio.gather(
                *(reader.engine.reader.closest(key, Goal.WRITE) for _ in range(count))
            )
            assert all(each == closest[0] for each in closest)
            return reader.counters()["datagrams-sent"] - before

        await cost(1)
        assert await cost(8) == await cost(1)


async def test_stream_that_joins_a_read_hears_what_was_found_before() -> None:
    async with nodes_of(3) as nodes:
        await until(lambda: all(len(node.engine.table) == 2 for node in nodes))
        await nodes[0].publish(file_payloads())
        key = name_key(OPEN.network_id, NAME)

        async def first_of(stream: object) -> bytes:
            async for record, _ in stream:  # type: ignore[attr-defined]
                return record.publisher
            raise AssertionError("nothing found")

        streams = [nodes[1].read_stream(key, (Kind.NAME,)) for _ in range(3)]
        found = await asyncio.gather(*(first_of(stream) for stream in streams))
        assert set(found) == {nodes[0].peer_id}


async def test_read_after_our_own_publish_does_not_join_an_older_read() -> None:
    async with nodes_of(3) as nodes:
        await until(lambda: all(len(node.engine.table) == 2 for node in nodes))
        older = asyncio.create_task(nodes[1].find_name(NAME))
        await asyncio.sleep(0)
        await nodes[1].publish(file_payloads())
        assert len(await nodes[1].find_name(NAME)) == 1
        await older
