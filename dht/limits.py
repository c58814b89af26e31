"""How often one source may ask for what costs us work or bytes, and how much all may together.

Owns: the rates of a node, and allowances (token buckets) by source, bounded. Must not know:
sockets, messages, the clock. A source without a proof is a public address block, or else one
address and port; one with a proof is a public block, or else its peer id: many peers on one machine
or behind one private router do not starve each other. The rates are far above what real use needs;
a flood meets them.
"""

from collections import OrderedDict
from dataclasses import dataclass

from identity.address import Address

SOURCES_MAX = 4_096


@dataclass(frozen=True, slots=True)
class Rate:
    """A steady rate and a burst on top, both in the same unit."""

    rate_hz: float
    burst_max: float

    def __post_init__(self) -> None:
        assert self.rate_hz > 0
        assert self.burst_max >= 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What others may have from one node."""

    hellos: Rate = Rate(20.0, 200.0)
    """Hellos of one source whose signature is checked; a check and an answer cost 0.2 ms."""
    hellos_all: Rate = Rate(1_000.0, 4_000.0)
    """The same of all sources."""
    unproven_all: Rate = Rate(4_000.0, 16_000.0)
    """Requests without a valid token that are looked at at all; their source may be forged."""
    requests: Rate = Rate(4_000.0, 20_000.0)
    """Requests of one proven source. The fastest publisher sends under 2,000 to one storer."""
    requests_all: Rate = Rate(12_000.0, 60_000.0)
    """The same of all sources: more than one core answers."""
    request_bytes: Rate = Rate(6e6, 30e6)
    """Bytes of the requests of one proven source."""
    request_bytes_all: Rate = Rate(15e6, 75e6)
    """The same of all sources."""
    stock: Rate = Rate(20.0, 200.0)
    """Stock calls of one source that are answered."""
    stock_bytes: Rate = Rate(30_000.0, 300_000.0)
    """Bytes that go to one source for its stock calls; nothing proves that it asked."""
    stock_bytes_all: Rate = Rate(250_000.0, 1_000_000.0)
    """The same to all sources: the most that this node can be made to send to strangers."""
    dial_backs: Rate = Rate(1 / 30, 4.0)
    """Times that one peer is dialled back."""
    dial_backs_all: Rate = Rate(1.0, 30.0)
    """The same of all peers."""


@dataclass(frozen=True, slots=True)
class DialConfig:
    """How often strangers are dialled; who answers has cost nothing."""

    public_host: Rate = Rate(0.2, 24.0)
    """Dials of one public host that stay without an answer; a dial is two datagrams at most."""
    private_host: Rate = Rate(1.0, 256.0)
    """The same of a private host: many peers may be behind it. Our own machine has no limit."""
    strangers: Rate = Rate(50.0, 1_000.0)
    """The same of all strangers together."""
    again_min_s: float = 5.0
    """A stranger that did not answer is left alone for this long; it doubles each time."""
    again_max_s: float = 300.0
    """Longest such pause."""
    silent_max: int = 4_096
    """Silent strangers remembered."""

    def __post_init__(self) -> None:
        assert 0 < self.again_min_s <= self.again_max_s
        assert self.silent_max >= 1


class Allowance:
    """One level that fills at a rate up to its burst."""

    __slots__ = ("_level", "_since")

    def __init__(self, rate: Rate, now: float) -> None:
        self._level = rate.burst_max
        self._since = now

    def takes(self, rate: Rate, amount: float, now: float) -> bool:
        """Take an amount where the level has it."""
        gained = (now - self._since) * rate.rate_hz
        level = self._level + gained if gained > 0 else self._level
        level = min(rate.burst_max, level)
        self._since = now
        if level < amount:
            self._level = level
            return False
        self._level = level - amount
        return True

    def give_back(self, rate: Rate, amount: float = 1.0) -> None:
        """Undo a taking."""
        self._level = min(rate.burst_max, self._level + amount)


class RateLimit:
    """Allow each source a burst, then a steady rate.

    Inputs: `allows`. Outputs: True or False. Invariant: at most sources_max sources are remembered;
    the one unheard of longest goes, and counts as new when it comes back.
    """

    def __init__(self, rate: Rate, *, sources_max: int = SOURCES_MAX) -> None:
        self._rate = rate
        self._sources_max = sources_max
        self._allowances: OrderedDict[str | bytes, Allowance] = OrderedDict()

    def __len__(self) -> int:
        return len(self._allowances)

    def allows(self, source: str | bytes, *, now: float, amount: float = 1.0) -> bool:
        """Take an amount from the source's allowance; False when it has not so much."""
        allowance = self._allowances.get(source)
        if allowance is None:
            allowance = self._allowances[source] = Allowance(self._rate, now)
            if len(self._allowances) > self._sources_max:
                self._allowances.popitem(last=False)
        else:
            self._allowances.move_to_end(source)
        return allowance.takes(self._rate, amount, now)

    def give_back(self, source: str | bytes, amount: float = 1.0) -> None:
        """Undo a taking, where the source is still remembered."""
        allowance = self._allowances.get(source)
        if allowance is not None:
            allowance.give_back(self._rate, amount)


class DoubleLimit:
    """One rate for each source and another for all together.

    What the source's own rate refuses takes nothing from the others.
    """

    def __init__(self, each: Rate, all_: Rate) -> None:
        self._each = RateLimit(each)
        self._rate = all_
        self._all = Allowance(all_, 0.0)

    def __len__(self) -> int:
        return len(self._each)

    def allows(self, source: str | bytes, *, now: float, amount: float = 1.0) -> bool:
        """Take an amount from the source's and from the common allowance."""
        return self._each.allows(source, now=now, amount=amount) and self._all.takes(
            self._rate, amount, now
        )


class RequestLimits:
    """What requests of our own calls may cost.

    Inputs: `unproven`, `hello`, `request`, `answers`, `give_back`. Outputs: True, or False for a
    flood. What goes over gRPC counts as the datagrams that would carry it.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._unproven = Allowance(limits.unproven_all, 0.0)
        self._hellos = DoubleLimit(limits.hellos, limits.hellos_all)
        self._requests_all = Allowance(limits.requests_all, 0.0)
        self._bytes_all = Allowance(limits.request_bytes_all, 0.0)
        self._sources: OrderedDict[str | bytes, tuple[Allowance, Allowance]] = OrderedDict()
        """Of each proven source the requests and their bytes; at most SOURCES_MAX."""

    def __len__(self) -> int:
        return len(self._hellos) + len(self._sources)

    def unproven(self, *, now: float) -> bool:
        """Tell whether to look at a request that came without a valid token."""
        return self._unproven.takes(self._limits.unproven_all, 1.0, now)

    def hello(self, address: Address, *, now: float) -> bool:
        """Tell whether to check a hello from an address."""
        return self._hellos.allows(source_of(address), now=now)

    def request(self, address: Address, peer_id: bytes, size_bytes: int, *, now: float) -> bool:
        """Tell whether to answer a request with a valid token."""
        return self.answers(address.block or peer_id, 1, size_bytes, now=now)

    def answers(self, source: str | bytes, count: int, size_bytes: int, *, now: float) -> bool:
        """Tell whether to give a proven source so many datagrams' worth for its request."""
        limits = self._limits
        requests, taken_bytes = self._allowances(source, now)
        return (
            requests.takes(limits.requests, count, now)
            and self._requests_all.takes(limits.requests_all, count, now)
            and taken_bytes.takes(limits.request_bytes, size_bytes, now)
            and self._bytes_all.takes(limits.request_bytes_all, size_bytes, now)
        )

    def give_back(self, source: str | bytes, count: int) -> None:
        """Take back what was allowed and not sent."""
        known = self._sources.get(source)
        if known is not None:
            known[0].give_back(self._limits.requests, count)
            self._requests_all.give_back(self._limits.requests_all, count)

    def _allowances(self, source: str | bytes, now: float) -> tuple[Allowance, Allowance]:
        known = self._sources.get(source)
        if known is not None:
            self._sources.move_to_end(source)
            return known
        limits = self._limits
        new = (Allowance(limits.requests, now), Allowance(limits.request_bytes, now))
        self._sources[source] = new
        if len(self._sources) > SOURCES_MAX:
            self._sources.popitem(last=False)
        return new


def source_of(address: Address) -> str:
    """Name the source that an address counts for."""
    return address.block or str(address)
