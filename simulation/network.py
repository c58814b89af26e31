"""A datagram network in memory: latency by place, loss, repeats, overtaking, partitions, NAT.

Owns where endpoints are, what becomes of each datagram, and the counters of both. Must not know
what the datagrams say. All chance comes from one seeded generator.

The latency model: a peer has a place in a square and an access line. The round trip of a pair is
the distance of their places and both access lines, so that it stays the same for a pair and the
triangle inequality holds; each datagram adds a little jitter. `mean_rtt_s` is the mean over pairs.
Bandwidth is not modelled: a datagram's size costs no time.
"""

import asyncio
import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dht.errors import PortInUse
from identity.address import PORT_MAX, Address
from simulation.loop import VirtualLoop

if TYPE_CHECKING:
    from typing_extensions import Buffer

MEAN_DISTANCE = (2 + math.sqrt(2) + 5 * math.log(1 + math.sqrt(2))) / 15
"""Of two random points in the unit square."""
ACCESS_SHARE = 0.3
"""Share of the mean round trip that is in the two access lines."""
FREE_PORT_MIN = 49_152
"""The first of the ports for the moment (RFC 6335)."""
NAT_MEMORY_S = 120.0
"""How long an unreachable endpoint still hears from where it sent to (RFC 4787, section 4.3)."""
NAT_ENTRIES_MAX = 4_096


@dataclass(frozen=True, slots=True)
class Weather:
    """How the network behaves; shares are chances a datagram."""

    mean_rtt_s: float = 0.1
    """Mean round trip over pairs of peers, jitter included."""
    jitter: float = 0.1
    """Each datagram takes up to this share of its delay longer."""
    loss: float = 0.0
    """Share of datagrams that vanish."""
    duplication: float = 0.0
    """Share of datagrams that arrive twice."""
    overtaking: float = 0.0
    """Share of datagrams held up, so that later ones overtake them."""
    held_up_s: float = 0.05
    """How long those are held up at most."""

    def __post_init__(self) -> None:
        assert self.mean_rtt_s > 0
        assert self.jitter >= 0
        assert self.held_up_s >= 0
        for share in (self.loss, self.duplication, self.overtaking):
            assert 0 <= share < 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer is: a point of the unit square, and the round trip of its own access line."""

    x: float
    y: float
    access_s: float


@dataclass(slots=True)
class Traffic:
    """Counters; a datagram is sent once, whatever becomes of it."""

    sent: int = 0
    sent_bytes: int = 0
    delivered: int = 0
    lost: int = 0
    repeated: int = 0
    unreachable: int = 0
    """To nobody, to the other side of a partition, or through a NAT that knows no such sender."""
    swallowed: int = 0
    """To an endpoint that is silent."""
    bulk_calls: int = 0
    bulk_bytes: int = 0

    def since(self, earlier: "Traffic") -> "Traffic":
        """Return what was counted since an earlier copy."""
        return Traffic(*(getattr(self, n) - getattr(earlier, n) for n in self.__slots__))

    def copy(self) -> "Traffic":
        """Return the counters as they are now."""
        return Traffic(*(getattr(self, name) for name in self.__slots__))


@dataclass(slots=True, eq=False)
class Endpoint:
    """One bound port, or one that was bound: what it is like and what it sent and got."""

    address: Address
    place: Place
    reachable: bool = True
    """False: behind a NAT, hears only from where it has just sent to."""
    silent: bool = False
    """Still there and still in everybody's table, but it swallows everything and says nothing."""
    side: int = 0
    """Its side of a partition; nothing passes between sides."""
    sent: int = 0
    received: int = 0
    sent_bytes: int = 0
    protocol: asyncio.DatagramProtocol | None = None
    mappings: dict[tuple[str, int], float] = field(default_factory=dict)

    def may_hear(self, sender: tuple[str, int], now: float) -> bool:
        """Tell whether a NAT before this endpoint lets a sender's datagram in."""
        return self.reachable or now - self.mappings.get(sender, -math.inf) <= NAT_MEMORY_S

    def note_sent(self, target: tuple[str, int], now: float) -> None:
        """Remember in the NAT where we sent to."""
        if not self.reachable:
            self.mappings.pop(target, None)
            self.mappings[target] = now
            if len(self.mappings) > NAT_ENTRIES_MAX:
                del self.mappings[next(iter(self.mappings))]


class VirtualTransport(asyncio.DatagramTransport):
    """The transport that a node's protocol is given."""

    def __init__(self, network: "VirtualNetwork", endpoint: Endpoint) -> None:
        sockname = (endpoint.address.host, endpoint.address.port)
        super().__init__({"sockname": sockname})
        self._network = network
        self._endpoint = endpoint
        self._closing = False

    def sendto(self, data: "Buffer", addr: "tuple[Any, ...] | str | Buffer | None" = None) -> None:
        """Send one datagram."""
        assert isinstance(data, bytes)
        assert isinstance(addr, tuple)
        if not self._closing:
            self._network.send(self._endpoint, data, (addr[0], addr[1]))

    def is_closing(self) -> bool:
        """Tell whether the port was let go."""
        return self._closing

    def close(self) -> None:
        """Let the port go."""
        if self._closing:
            return
        self._closing = True
        self._network.unbind(self._endpoint)

    def abort(self) -> None:
        """Let the port go."""
        self.close()


class VirtualNetwork:
    """All endpoints, and the way between them."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, weather: Weather) -> None:
        self.weather = weather
        self.traffic = Traffic()
        self._loop = loop
        self._rng = rng
        self._endpoints: dict[tuple[str, int], Endpoint] = {}
        even_s = weather.mean_rtt_s / (1 + weather.jitter / 2)
        self._scale_s = even_s * (1 - ACCESS_SHARE) / MEAN_DISTANCE
        self._access_mean_s = even_s * ACCESS_SHARE / 2
        self._is_rough = max(weather.loss, weather.duplication, weather.overtaking) > 0

    def new_place(self) -> Place:
        """Draw where a peer is."""
        rng = self._rng
        return Place(rng.random(), rng.random(), rng.expovariate(1 / self._access_mean_s))

    def bind(self, endpoint: Endpoint, protocol: asyncio.DatagramProtocol) -> VirtualTransport:
        """Bind an endpoint's port for a protocol; PortInUse."""
        name = (endpoint.address.host, endpoint.address.port)
        if name in self._endpoints:
            raise PortInUse(f"UDP port {name[1]} on {name[0]} is in use")
        self._endpoints[name] = endpoint
        endpoint.protocol = protocol
        transport = VirtualTransport(self, endpoint)
        protocol.connection_made(transport)
        return transport

    def free_port(self, host: str) -> Address:
        """Return an address of a host at which nothing is bound."""
        for port in range(FREE_PORT_MIN, PORT_MAX + 1):
            if (host, port) not in self._endpoints:
                return Address(host, port)
        raise PortInUse(f"all UDP ports on {host} are in use")

    def unbind(self, endpoint: Endpoint) -> None:
        """Let an endpoint's port go; what is on its way there is lost."""
        name = (endpoint.address.host, endpoint.address.port)
        if self._endpoints.get(name) is endpoint:
            del self._endpoints[name]
        protocol, endpoint.protocol = endpoint.protocol, None
        if protocol is not None:
            self._loop.call_soon(protocol.connection_lost, None)

    def endpoint_at(self, address: Address) -> Endpoint | None:
        """Return who is bound at an address."""
        return self._endpoints.get((address.host, address.port))

    def rtt_s(self, one: Place, two: Place) -> float:
        """Return the round trip of a pair, without jitter."""
        distance = math.hypot(one.x - two.x, one.y - two.y)
        return distance * self._scale_s + one.access_s + two.access_s

    def send(self, source: Endpoint, data: bytes, target: tuple[str, int]) -> None:
        """Take one datagram: post its delivery, or count why it does not arrive."""
        traffic, rng = self.traffic, self._rng
        if source.silent:
            return
        now = self._loop.time()
        traffic.sent += 1
        traffic.sent_bytes += len(data)
        source.sent += 1
        source.sent_bytes += len(data)
        source.note_sent(target, now)
        receiver = self._endpoints.get(target)
        if receiver is None or receiver.side != source.side:
            traffic.unreachable += 1
            return
        delay_s = self.rtt_s(source.place, receiver.place) / 2
        delay_s *= 1 + self.weather.jitter * rng.random()
        if self._is_rough:
            weather = self.weather
            if rng.random() < weather.loss:
                traffic.lost += 1
                return
            if rng.random() < weather.overtaking:
                delay_s += weather.held_up_s * rng.random()
            if rng.random() < weather.duplication:
                traffic.repeated += 1
                later = now + delay_s * (1 + rng.random())
                self._loop.post_at(later, self._deliver, source, receiver, data)
        self._loop.post_at(now + delay_s, self._deliver, source, receiver, data)

    def _deliver(self, source: Endpoint, receiver: Endpoint, data: bytes) -> None:
        traffic = self.traffic
        name = (source.address.host, source.address.port)
        if receiver.silent:
            traffic.swallowed += 1
        elif (
            receiver.protocol is None
            or receiver.side != source.side
            or not receiver.may_hear(name, self._loop.time())
        ):
            traffic.unreachable += 1
        else:
            traffic.delivered += 1
            receiver.received += 1
            receiver.protocol.datagram_received(data, name)
