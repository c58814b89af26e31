"""What a peer allows: slots, and bytes a second up and down.

Owns two pure state machines that are given the time, and Pace, by which all that moves in one
direction waits for its turn. Knows no stream and no peer but by id.

Slots: `enter(peer)` is true when a stream may run and must be paired with `leave(peer)`; at most
`slots_max` run in all and `slots_per_peer_max` for one peer. TokenBucket: `reserve(bytes, now)`
books the bytes and returns how long to wait before sending them; booked bytes never exceed
rate · time + burst.
"""

import asyncio

from transfer.manifest import CHUNK_SIZE_MIN_BYTES


class Slots:
    """Count running streams, in all and by peer."""

    def __init__(self, slots_max: int, slots_per_peer_max: int) -> None:
        self._slots_max = slots_max
        self._per_peer_max = slots_per_peer_max
        self._by_peer: dict[bytes, int] = {}
        self._in_use = 0

    @property
    def in_use(self) -> int:
        return self._in_use

    def has_room_for(self, peer: bytes) -> bool:
        """Whether this peer has fewer than its most, so that only the total may be in the way."""
        return self._by_peer.get(peer, 0) < self._per_peer_max

    def enter(self, peer: bytes) -> bool:
        """Take a slot, or return False when none is free for this peer."""
        held = self._by_peer.get(peer, 0)
        if self._in_use >= self._slots_max or held >= self._per_peer_max:
            return False
        self._by_peer[peer] = held + 1
        self._in_use += 1
        return True

    def leave(self, peer: bytes) -> None:
        """Give a slot back."""
        held = self._by_peer[peer]
        self._in_use -= 1
        if held == 1:
            del self._by_peer[peer]
        else:
            self._by_peer[peer] = held - 1


class TokenBucket:
    """A rate limit that books ahead, so that waiting senders keep their order."""

    BURST_S = 0.125

    def __init__(self, rate_bytes_per_s: float, *, now: float) -> None:
        assert rate_bytes_per_s > 0
        self._rate = rate_bytes_per_s
        self._burst = min(rate_bytes_per_s * self.BURST_S, 4.0 * CHUNK_SIZE_MIN_BYTES)
        self._level = self._burst
        self._at = now

    def reserve(self, size_bytes: int, *, now: float) -> float:
        """Book bytes and return the seconds to wait before sending them."""
        self._level = min(self._burst, self._level + max(0.0, now - self._at) * self._rate)
        self._at = max(now, self._at)
        self._level -= size_bytes
        return max(0.0, -self._level / self._rate)


class Pace:
    """Bytes a second of one direction, over all streams of a peer together."""

    def __init__(self, rate_bytes_per_s: int | None = None) -> None:
        assert rate_bytes_per_s is None or rate_bytes_per_s > 0
        self.rate_bytes_per_s = rate_bytes_per_s
        self._bucket: TokenBucket | None = None

    def wait_before(self, size_bytes: int, *, now: float) -> float:
        """Book bytes and return the seconds to wait before they move on."""
        if self.rate_bytes_per_s is None:
            return 0.0
        if self._bucket is None:
            self._bucket = TokenBucket(self.rate_bytes_per_s, now=now)
        return self._bucket.reserve(size_bytes, now=now)

    async def take(self, size_bytes: int) -> None:
        """Wait until so many bytes may move on."""
        wait_s = self.wait_before(size_bytes, now=asyncio.get_running_loop().time())
        if wait_s:
            await asyncio.sleep(wait_s)
