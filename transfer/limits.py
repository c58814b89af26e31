"""How many streams a peer serves at a time.

Owns one pure rule: `enter(peer)` is true when a stream may run and must be paired with
`leave(peer)`; at most `slots_max` run in all and `slots_per_peer_max` for one peer. Knows no stream
and no peer but by id. Bytes a second are rpc.pace's.
"""


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
