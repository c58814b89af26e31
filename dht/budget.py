"""How many signatures of others' records this peer checks, and for whom.

Owns the token bucket, its two lanes and each caller's share. Pure: it is given the time. It must
not know records, sockets or who waits.

A check costs far more than everything else that a store makes a peer do, and whoever asks pays
nothing for it. Datagrams cannot wait: they are the quick lane, in which a caller beyond its share,
or anybody when the bucket is empty, is refused. Long batches over gRPC can: they are the slow lane,
which leaves the last part of the bucket to the quick one.
"""

from dht.limits import Rate, RateLimit

SHARE_DIVISOR = 4
"""One caller of the quick lane has this fraction of the whole; the slow lane leaves as much."""


class VerifyBudget:
    """Signature checks a second, in two lanes.

    Inputs: `allows` (quick lane), `wait_s` and `spend` (slow lane). Invariant: over any time t, no
    more than burst_max + rate_hz·t checks are granted, one turn of the slow lane apart.
    """

    def __init__(self, *, rate_hz: float, burst_max: int) -> None:
        self._rate_hz = rate_hz
        self._burst_max = float(burst_max)
        self._level = float(burst_max)
        self._since = 0.0
        share = Rate(rate_hz / SHARE_DIVISOR, max(1.0, burst_max // SHARE_DIVISOR))
        self._callers = RateLimit(share)

    def allows(self, caller: str, *, now: float) -> bool:
        """Take one check for a datagram's record; False when it has to be refused."""
        self._fill(now)
        if self._level < 1.0 or not self._callers.allows(caller, now=now):
            return False
        self._level -= 1.0
        return True

    def wait_s(self, count: int, *, now: float) -> float:
        """Tell how long a turn of `count` checks in the slow lane has to wait; 0 when not at all.

        A turn larger than what the lane can hold goes when the bucket is full.
        """
        self._fill(now)
        wanted = min(self._burst_max / SHARE_DIVISOR + count, self._burst_max)
        return max(0.0, wanted - self._level) / self._rate_hz

    def spend(self, *, now: float) -> bool:
        """Take one check of a turn that has waited; always True, for a turn is never cut short."""
        self._fill(now)
        self._level -= 1.0
        return True

    def _fill(self, now: float) -> None:
        passed_s = max(0.0, now - self._since)
        self._since = max(self._since, now)
        self._level = min(self._burst_max, self._level + passed_s * self._rate_hz)
