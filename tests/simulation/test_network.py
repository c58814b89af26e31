import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.errors import PortInUse
from identity.address import Address
from simulation import loop
from simulation.network import NAT_MEMORY_S, Endpoint, Place, VirtualNetwork, Weather
from simulation.report import mean

CALM = Weather(jitter=0.0)
HERE, THERE = Place(0.0, 0.0, 0.01), Place(0.3, 0.4, 0.02)


class Ears(asyncio.DatagramProtocol):
    """Keeps what it hears, and when."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, bytes, tuple[str, int]]] = []
        self.is_lost = False

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.heard.append((loop.running_loop().time() - loop.BEGIN_S, data, addr))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True

    @property
    def said(self) -> list[bytes]:
        return [data for _, data, _ in self.heard]


class Pair:
    """Two endpoints and the network between them."""

    def __init__(self, weather: Weather, seed: int = 1, **of_second: Any) -> None:
        self.network = VirtualNetwork(loop.running_loop(), random.Random(seed), weather)
        self.one = Endpoint(Address("20.0.0.1", 4100), HERE)
        self.two = Endpoint(Address("20.0.1.1", 4100), THERE, **of_second)
        self.ears_one, self.ears_two = Ears(), Ears()
        self.port_one = self.network.bind(self.one, self.ears_one)
        self.port_two = self.network.bind(self.two, self.ears_two)

    def say(self, data: bytes) -> None:
        self.port_one.sendto(data, ("20.0.1.1", 4100))

    def say_back(self, data: bytes) -> None:
        self.port_two.sendto(data, ("20.0.0.1", 4100))


def on_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        loop.run(test())

    run.__name__ = test.__name__
    return run


@on_loop
async def test_a_datagram_arrives_after_half_the_round_trip_of_its_pair() -> None:
    pair = Pair(CALM)
    pair.say(b"hello")
    await asyncio.sleep(10)
    [(at_s, data, source)] = pair.ears_two.heard
    assert (data, source) == (b"hello", ("20.0.0.1", 4100))
    assert at_s == pytest.approx(pair.network.rtt_s(HERE, THERE) / 2)


def test_mean_round_trip_over_pairs_is_the_one_wanted() -> None:
    async def main() -> float:
        weather = Weather(mean_rtt_s=0.1, jitter=0.0)
        network = VirtualNetwork(loop.running_loop(), random.Random(1), weather)
        places = [network.new_place() for _ in range(4_000)]
        return mean([network.rtt_s(*pair) for pair in zip(places[::2], places[1::2], strict=True)])

    assert loop.run(main()) == pytest.approx(0.1, rel=0.05)


@on_loop
async def test_a_bound_port_is_taken_until_it_is_let_go() -> None:
    pair = Pair(CALM)
    again = Endpoint(Address("20.0.1.1", 4100), HERE)
    with pytest.raises(PortInUse):
        pair.network.bind(again, Ears())
    pair.port_two.close()
    await asyncio.sleep(0)
    assert pair.ears_two.is_lost
    pair.network.bind(again, Ears())


@on_loop
async def test_what_is_on_its_way_to_a_closed_port_is_lost() -> None:
    pair = Pair(CALM)
    pair.say(b"too late")
    pair.port_two.close()
    await asyncio.sleep(10)
    assert pair.ears_two.said == []
    assert pair.network.traffic.unreachable == 1


@on_loop
async def test_a_silent_endpoint_swallows_and_says_nothing() -> None:
    pair = Pair(CALM)
    pair.two.silent = True
    pair.say(b"anybody?")
    pair.say_back(b"no")
    await asyncio.sleep(10)
    assert pair.ears_two.said == pair.ears_one.said == []
    assert pair.network.traffic.swallowed == 1


@on_loop
async def test_nothing_passes_between_the_sides_of_a_partition() -> None:
    pair = Pair(CALM, side=1)
    pair.say(b"cut")
    await asyncio.sleep(10)
    pair.two.side = 0
    pair.say(b"healed")
    pair.two.side = 1
    await asyncio.sleep(10)
    assert pair.ears_two.said == []
    pair.two.side = 0
    pair.say(b"whole")
    await asyncio.sleep(10)
    assert pair.ears_two.said == [b"whole"]


@on_loop
async def test_an_unreachable_endpoint_hears_only_from_where_it_has_just_sent_to() -> None:
    pair = Pair(CALM, reachable=False)
    pair.say(b"unasked")
    await asyncio.sleep(1)
    pair.say_back(b"question")
    await asyncio.sleep(1)
    pair.say(b"answer")
    await asyncio.sleep(NAT_MEMORY_S + 1)
    pair.say(b"much later")
    await asyncio.sleep(1)
    assert pair.ears_two.said == [b"answer"]
    assert pair.ears_one.said == [b"question"]


@given(st.integers(0, 1_000), st.floats(0.05, 0.5), st.floats(0.05, 0.5))
def test_shares_of_lost_and_repeated_datagrams_are_those_wanted(
    seed: int, loss: float, duplication: float
) -> None:
    count = 2_000

    async def main() -> tuple[int, VirtualNetwork]:
        pair = Pair(Weather(loss=loss, duplication=duplication), seed)
        for _ in range(count):
            pair.say(b"x")
        await asyncio.sleep(10)
        return len(pair.ears_two.heard), pair.network

    heard, network = loop.run(main())
    traffic = network.traffic
    assert heard == traffic.delivered == traffic.sent - traffic.lost + traffic.repeated
    assert traffic.lost == pytest.approx(count * loss, abs=150)
    assert traffic.repeated == pytest.approx(count * (1 - loss) * duplication, abs=150)


@on_loop
async def test_some_datagrams_overtake_others() -> None:
    pair = Pair(Weather(jitter=0.0, overtaking=0.5, held_up_s=1.0))
    for number in range(20):
        pair.say(bytes([number]))
    await asyncio.sleep(10)
    assert sorted(pair.ears_two.said) == [bytes([number]) for number in range(20)]
    assert pair.ears_two.said != sorted(pair.ears_two.said)
