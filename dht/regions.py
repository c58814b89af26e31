"""Where the k closest peers of a key are known already, so that no lookup is needed.

Owns what finished lookups have taught about the id space, and the rule when that is enough. Pure:
it must not know sockets, records or the time; whoever uses it forgets it when it gets old.

A lookup of storers for a target t that ended at distance d knows every peer of the ball
{p: p XOR t <= d}: whoever is there has answered, or counts as not there (silent, or doubtful). A
ball is a union of at most 160 aligned blocks of ids, and so is all that several lookups know
together. For another key x take the k closest among the peers known: if the ball around x that
reaches to the last of them lies within what is known, nobody unknown can be closer, and a lookup
for x would find just these. Else nothing is said. Where a public address block has its share, a
lookup leaves its other peers unasked; they are noted, and nothing is said of a key to which one of
them may be closest.

The idea of walking the key space and serving whole regions from one lookup is go-libp2p's
"reprovide sweep"; the ball of a lookup instead of a common prefix is ours.
"""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dht.lookup import Candidate

ID_BITS = 160
PRECISION_BITS = 16
"""Balls are rounded to so many leading bits, to be few blocks: known ones down, needed ones up."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a finished lookup of storers knows about the surroundings of its target."""

    target: bytes
    closest: tuple[Candidate, ...]
    """The k closest that answered, spread over address blocks, closest first."""
    answered: tuple[Candidate, ...]
    """All that answered, those of `closest` too."""
    crowded: tuple[Candidate, ...]
    """Those of its ball that were heard of, but not asked: their address block had its share."""


class Regions:
    """What is known of the id space; see the module for the rule.

    Inputs: `learn`, `appeared`, `vanished`. Output: `closest`. Invariant: an answer of `closest` is
    what a lookup for the key would choose among the peers that were there when `learn` was told.
    """

    def __init__(self, k: int, *, block_contacts_max: int = 1) -> None:
        self._k = k
        self._block_contacts_max = block_contacts_max
        self._peers: dict[int, Candidate] = {}
        self._ids: list[int] = []
        self._crowded: dict[int, str] = {}
        self._crowded_ids: list[int] = []
        # The known intervals [start, end) in order; they neither overlap nor touch.
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._bits = ID_BITS

    def learn(self, survey: Survey, *, is_whole: bool = False) -> None:
        """Take what a lookup found; `is_whole`: fewer than k, and they are all there are."""
        for candidate in survey.answered:
            self.appeared(candidate)
        target = _number(survey.target)
        for candidate in survey.crowded:
            self._note_crowded(candidate)
        if is_whole:
            self._know(0, 1 << ID_BITS)
        elif len(survey.closest) >= self._k and self._is_spread(survey.closest):
            size = (_number(survey.closest[self._k - 1].peer_id) ^ target) + 1
            excess = max(0, size.bit_length() - PRECISION_BITS)
            for start, end in _ball(target, size >> excess << excess):
                self._know(start, end)

    def appeared(self, candidate: Candidate) -> None:
        """Note a peer that proved itself: it counts from now on."""
        number = _number(candidate.peer_id)
        if number not in self._peers:
            bisect.insort(self._ids, number)
        self._peers[number] = candidate
        if self._crowded.pop(number, None) is not None:
            del self._crowded_ids[bisect.bisect_left(self._crowded_ids, number)]

    def vanished(self, peer_id: bytes) -> None:
        """Forget a peer that does not answer any more; what else is known there stays known."""
        number = _number(peer_id)
        if self._peers.pop(number, None) is not None:
            del self._ids[bisect.bisect_left(self._ids, number)]

    def closest(self, key: bytes) -> list[Candidate] | None:
        """Return the k peers that a lookup for this key would choose, closest first, or None.

        They are fewer than k only where the whole network is known and has no more.
        """
        target = _number(key)
        chosen = self._choose(target)
        size = self._needed(target, chosen)
        if self._unknown(target, size) or self._may_be_crowded_in(target, size, chosen):
            return None
        return [self._peers[number] for number in chosen]

    def gap(self, key: bytes) -> bytes:
        """Return what is best looked up for the sake of this key and its neighbours.

        A lookup for the key itself teaches little beside one for its neighbour: two balls that
        are nearly the same. One amid what is unknown teaches most.
        """
        target = _number(key)
        unknown = self._unknown(target, self._needed(target, self._choose(target)))
        if unknown is None or unknown[0] <= target < unknown[1]:
            return key
        return (sum(unknown) // 2).to_bytes(ID_BITS // 8, "big")

    def _needed(self, target: int, chosen: Sequence[int]) -> int:
        """Tell up to which distance nobody unknown may be, so that the choice is right."""
        return (chosen[-1] ^ target) + 1 if self._is_full(chosen) else 1 << ID_BITS

    def _is_full(self, chosen: Sequence[int]) -> bool:
        """Tell whether all k places went to peers within their block's share."""
        return len(chosen) >= self._k and self._is_spread([self._peers[each] for each in chosen])

    # Choosing

    def _choose(self, target: int) -> list[int]:
        """Choose among the peers known, from ever larger blocks around the target."""
        bits = self._bits
        while bits < ID_BITS and len(_within(self._ids, target, bits)) < self._k:
            bits += 1
        while bits > 0 and len(_within(self._ids, target, bits - 1)) >= self._k:
            bits -= 1
        self._bits = bits  # neighbouring keys begin there
        while True:
            near = [self._ids[place] for place in _within(self._ids, target, bits)]
            near.sort(key=target.__xor__)
            chosen, others = self._spread(near)
            if len(chosen) >= self._k or bits >= ID_BITS:
                break
            bits += 1
        if len(chosen) < self._k:
            chosen += others[: self._k - len(chosen)]
            chosen.sort(key=target.__xor__)
        return chosen

    def _spread(self, near: Sequence[int]) -> tuple[list[int], list[int]]:
        """Choose k in order, not more of an address block than its share; the others, too."""
        shares: dict[str, int] = {}
        chosen: list[int] = []
        others: list[int] = []
        for number in near:
            block = self._peers[number].address.block
            if block and shares.get(block, 0) >= self._block_contacts_max:
                others.append(number)
                continue
            shares[block] = shares.get(block, 0) + 1
            chosen.append(number)
            if len(chosen) == self._k:
                break
        return chosen, others

    def _is_spread(self, chosen: Sequence[Candidate]) -> bool:
        """Tell whether none is chosen beyond its block's share: else others went unasked."""
        shares: dict[str, int] = {}
        for candidate in chosen:
            block = candidate.address.block
            shares[block] = shares.get(block, 0) + bool(block)
        return max(shares.values(), default=0) <= self._block_contacts_max

    def _note_crowded(self, candidate: Candidate) -> None:
        number = _number(candidate.peer_id)
        if number in self._peers:
            return
        if number not in self._crowded:
            bisect.insort(self._crowded_ids, number)
        self._crowded[number] = candidate.address.block

    def _may_be_crowded_in(self, target: int, size: int, chosen: Sequence[int]) -> bool:
        """Tell whether an unasked peer could be chosen in place of one farther off."""
        if not self._crowded_ids:
            return False
        if not self._is_full(chosen):
            return True  # the places that are left are theirs, whatever their block
        bits = (size - 1).bit_length()
        blocks = [(number ^ target, self._peers[number].address.block) for number in chosen]
        for place in _within(self._crowded_ids, target, bits):
            number = self._crowded_ids[place]
            distance, block = number ^ target, self._crowded[number]
            closer = sum(near < distance and other == block for near, other in blocks)
            if distance < size and closer < self._block_contacts_max:
                return True
        return False

    # What is known

    def _know(self, start: int, end: int) -> None:
        """Join an interval to those known."""
        first = bisect.bisect_left(self._ends, start)
        last = bisect.bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def _unknown(self, target: int, size: int) -> tuple[int, int] | None:
        """Find the first interval at a distance below size of which nothing is known, if any."""
        excess = max(0, size.bit_length() - PRECISION_BITS)
        rounded = min(-(-size >> excess) << excess, 1 << ID_BITS)
        for start, end in _ball(target, rounded):
            place = bisect.bisect_right(self._starts, start) - 1
            if place >= 0:
                start = max(start, self._ends[place])
            if start < end:
                beyond = self._starts[place + 1] if place + 1 < len(self._starts) else end
                return start, min(end, beyond)
        return None


def _ball(target: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut {p: p XOR target < size} into its aligned blocks, one for each bit set in size."""
    for bit in range(size.bit_length() - 1, -1, -1):
        if size >> bit & 1:
            start = (target >> bit ^ size >> bit ^ 1) << bit
            yield start, start + (1 << bit)


def _within(ids: Sequence[int], target: int, bits: int) -> range:
    """The places of those ids that share all but their last bits with the target."""
    start = target >> bits << bits
    return range(bisect.bisect_left(ids, start), bisect.bisect_left(ids, start + (1 << bits)))


def _number(peer_id: bytes) -> int:
    return int.from_bytes(peer_id, "big")
