"""Whose bytes move next under a limit of bytes a second.

Owns the pure rule of one direction. Lanes are kinds of traffic (gets, mail); each is a queue, and
those in which somebody waits share the rate equally by bytes, whatever the sizes and however many
wait (start-time fair queueing, Goyal et al. 1996). Must not know streams, peers or who waits how.

Inputs: `ask` books a piece in a lane, `cancel` takes it back (granted or not), `note` counts bytes
that have moved unasked, `grant` is called when time has passed. Outputs: the tickets whose turn it
is, and when to call again. Invariants: in any span of s seconds at most rate · s plus a burst plus
one piece are granted, and one more for each that waited while nobody called; a lane is served in
order; somebody waits only while the rate is used up; what nobody uses is not saved up beyond the
burst.
"""

from collections import deque
from dataclasses import dataclass

BURST_S = 0.05
"""What an unused moment may be worth: so that a late wake-up costs no rate."""
WAIT_MIN_S = 1e-4
"""No clock is asked for less: rounding must not have us wait for nothing."""
PIECE_S = 0.02
PIECE_MIN_BYTES = 4 * 1024
PIECE_MAX_BYTES = 64 * 1024


def piece_bytes(rate_bytes_per_s: float) -> int:
    """Return how much moves in one go, so that the flow is even and lanes change often."""
    return max(PIECE_MIN_BYTES, min(PIECE_MAX_BYTES, int(rate_bytes_per_s * PIECE_S)))


@dataclass(eq=False, slots=True)
class Ticket:
    """A piece that waits for its turn, or had it."""

    lane: int
    size_bytes: int
    is_granted: bool = False


@dataclass(slots=True)
class _Lane:
    """Those that wait, in order; the virtual time at which the first of them may start."""

    start: float
    waiting: deque[Ticket]


class Turns:
    """The rule; see the module's docstring."""

    def __init__(self, rate_bytes_per_s: float, lanes: int, *, now: float) -> None:
        assert rate_bytes_per_s > 0
        assert lanes > 0
        self._rate = rate_bytes_per_s
        self._burst = rate_bytes_per_s * BURST_S
        self._level = 0.0
        self._at = now
        self._virtual = 0.0
        self._lanes = [_Lane(0.0, deque()) for _ in range(lanes)]

    def ask(self, lane: int, size_bytes: int, *, now: float) -> Ticket:
        """Queue a piece; `grant` tells when it may move."""
        assert size_bytes >= 0
        self._advance(now)
        ticket, asked = Ticket(lane, size_bytes), self._lanes[lane]
        if not asked.waiting:
            asked.start = max(asked.start, self._virtual)
        asked.waiting.append(ticket)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Forget a piece that will not move; what it was granted is there for others."""
        lane = self._lanes[ticket.lane]
        if ticket.is_granted:
            self._level += ticket.size_bytes
            lane.start -= ticket.size_bytes
        else:
            lane.waiting.remove(ticket)

    def note(self, lane: int, size_bytes: int, *, now: float) -> None:
        """Count bytes that moved without waiting: whoever asks next waits for them too."""
        self._advance(now)
        self._level -= size_bytes
        self._lanes[lane].start = max(self._lanes[lane].start, self._virtual) + size_bytes

    def grant(self, *, now: float) -> list[Ticket]:
        """Return the tickets whose turn it is now."""
        self._advance(now)
        granted: list[Ticket] = []
        while self._level >= 0 and (lane := self._next()) is not None:
            ticket = lane.waiting.popleft()
            ticket.is_granted = True
            self._level -= ticket.size_bytes
            self._virtual = lane.start
            lane.start += ticket.size_bytes
            granted.append(ticket)
        self._cap()
        return granted

    def wait_s(self, *, now: float) -> float | None:
        """Return after how long to call `grant`; None while nobody waits."""
        if self._next() is None:
            return None
        self._advance(now)
        return max(WAIT_MIN_S, -self._level / self._rate)

    def _next(self) -> _Lane | None:
        waiting = [lane for lane in self._lanes if lane.waiting]
        return min(waiting, key=lambda lane: lane.start, default=None)

    def _advance(self, now: float) -> None:
        self._level += max(0.0, now - self._at) * self._rate
        self._at = max(now, self._at)
        self._cap()

    def _cap(self) -> None:
        # Whoever waits while nobody looked loses nothing by it.
        if self._next() is None:
            self._level = min(self._burst, self._level)
