"""How often one source may ask for what costs us work or bytes.

Owns: token buckets by source, bounded. Must not know: sockets, messages, the clock.
A source is a public address block, or else one address and port, so that many peers on one
machine or behind one private router do not starve each other.
"""

from collections import OrderedDict

from identity.address import Address

SOURCES_MAX = 4_096


class RateLimit:
    """Allow each source a burst, then a steady rate.

    Inputs: `allows(source, now=)`. Outputs: True or False.
    Invariant: at most sources_max sources are remembered; the one unheard of longest goes.
    """

    def __init__(self, *, rate_hz: float, burst_max: int, sources_max: int = SOURCES_MAX) -> None:
        self._rate_hz = rate_hz
        self._burst_max = float(burst_max)
        self._sources_max = sources_max
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, source: str, *, now: float) -> bool:
        """Take one from the source's bucket; False when it is empty."""
        level, since = self._levels.pop(source, (self._burst_max, now))
        level = min(self._burst_max, level + max(0.0, now - since) * self._rate_hz)
        allowed = level >= 1.0
        self._levels[source] = (level - 1.0 if allowed else level, now)
        while len(self._levels) > self._sources_max:
            self._levels.popitem(last=False)
        return allowed


def source_of(address: Address) -> str:
    """Name the source that an address counts for."""
    return address.block or str(address)
